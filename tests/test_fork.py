"""A process forks: the child can run networks, whatever other threads of its parent were doing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.test_runtime import bound
from tinyface.graph import Graph
from tinyface.ops.spec import Array
from tinyface.plan import Packer
from tinyface.runtime import Session

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
quiet = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later


def picture(side: int) -> Array:
    return np.random.default_rng(side).standard_normal((1, 3, side, side)).astype(np.float32)


def in_a_child(session: Session, expected: dict[int, Array]) -> int:
    """Status of a child that runs pictures of these sides; one that hangs is ended by a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            assert session.graph.with_inputs({"input": (1, 3, 17, 17)}).cost.macs
            same = [np.array_equal(session.run(picture(s))["act"], expected[s]) for s in expected]
            status = 0 if all(same) else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_a_child_beside(
    work: Callable[[], Any],
    begun: threading.Event,
    go_on: threading.Event,
    session: Session,
    expected: dict[int, Array],
) -> int:
    """Status of a child that is forked while a thread waits in the middle of its work."""
    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    try:
        return in_a_child(session, expected)
    finally:
        go_on.set()
        thread.join()


@forks
@quiet
@pytest.mark.parametrize("backend", ["numpy", pytest.param("c", marks=pytest.mark.needs_c)])
def test_a_child_forked_while_another_thread_plans(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has neither the lock that the thread holds nor what the thread had half made."""
    session = Session(bound(), backend, threads=2)
    expected = {side: Session(bound(), backend, 1).run(picture(side))["act"] for side in (8, 9, 11)}
    session.run(picture(8))
    planning, go_on, plan = threading.Event(), threading.Event(), session._plan

    def half(*given: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            packer = session._packers.setdefault((), Packer())
            kept = packer._size
            packer._size = 1 << 40  # as if growing
            planning.set()
            go_on.wait(60)
            packer._size = kept
        return plan(*given)

    monkeypatch.setattr(session, "_plan", half)
    work = partial(session.run, picture(9))
    assert in_a_child_beside(work, planning, go_on, session, expected) == 0
    assert np.array_equal(session.run(picture(9))["act"], expected[9])


@forks
@quiet
def test_a_child_forked_while_another_thread_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed once is computed without a lock (functools.cached_property had one)."""
    graph, inside, go_on = bound(), threading.Event(), threading.Event()
    expected = {8: Session(graph, "numpy").run(picture(8))["act"]}
    session = Session(graph, "numpy")
    count = Graph.node_cost

    def slow(self: Graph, node: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            go_on.wait(60)
        return count(self, node)

    monkeypatch.setattr(Graph, "node_cost", slow)

    def work() -> Any:
        return graph.with_inputs({"input": (1, 3, 9, 9)}).cost

    assert in_a_child_beside(work, inside, go_on, session, expected) == 0
