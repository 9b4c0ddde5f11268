"""Sessions: which engine runs, when plans are made, what they share."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.test_graph import small_graph, state_of
from tinyface import ops, runtime
from tinyface.backends import c
from tinyface.builder import Builder
from tinyface.errors import BackendError, GraphError, NoKernelError
from tinyface.graph import Graph
from tinyface.runtime import MAX_PLANS, NumpyExecutable, Session, choose_backend, default_threads

needs_c = pytest.mark.skipif(not c.available(), reason="the C engine is not built here")


def bound() -> Graph:
    graph = small_graph()
    return graph.bind(state_of(graph))


def lone_pad() -> Graph:
    """A graph that the C engine has no kernel for."""
    b = Builder("padded")
    x = b.input("x", (1, 2, 3, 3))
    return b.build(b.apply(ops.Pad((0, 0, 1, 1), (0, 0, 2, 0), 0.5), x))


def test_unknown_backends_and_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="'cuda' is not one of auto, c, numpy"):
        Session(bound(), "cuda")
    with pytest.raises(BackendError, match="0 threads"):
        Session(bound(), threads=0)
    monkeypatch.setenv("TINYFACE_THREADS", "many")
    with pytest.raises(BackendError, match="TINYFACE_THREADS='many'"):
        default_threads()
    monkeypatch.setenv("TINYFACE_THREADS", "3")
    assert default_threads() == 3


def test_without_the_extension_numpy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "_engine", None)
    assert choose_backend("auto") == "numpy"
    with pytest.raises(BackendError, match="install a C compiler"):
        choose_backend("c")


@needs_c
def test_auto_falls_back_where_there_is_no_kernel_and_says_so() -> None:
    x = np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3)
    session = Session(lone_pad())
    with pytest.warns(RuntimeWarning, match="the NumPy engine runs.*pad"):
        (y,) = session.run(x).values()
    assert session.backend == "numpy"
    assert np.array_equal(y, np.pad(x, ((0, 0), (0, 0), (1, 2), (1, 0)), constant_values=0.5))
    with pytest.raises(NoKernelError, match="cannot run .*pad"):
        Session(lone_pad(), "c").run(x)


@needs_c
def test_plans_for_several_sizes_share_the_packed_weights() -> None:
    session = Session(bound(), "c", threads=1)
    one = session.executable({"input": (1, 3, 8, 8)})
    two = session.executable({"input": (2, 3, 17, 9)})
    assert isinstance(one, c.CExecutable) and isinstance(two, c.CExecutable)
    assert one.plan.weights is two.plan.weights
    for shape in ((1, 3, 8, 8), (2, 3, 17, 9)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        wanted = NumpyExecutable(session.graph.with_inputs({"input": shape})).run({"input": x})
        got = session.run(x)
        assert np.abs(got["act"] - wanted["act"]).max() < 1e-5


def test_only_so_many_plans_are_kept() -> None:
    session = Session(bound(), "numpy")
    first = session.executable({"input": (1, 3, 8, 8)})
    assert session.executable({"input": (1, 3, 8, 8)}) is first
    for side in range(9, 9 + MAX_PLANS):
        session.executable({"input": (1, 3, side, side)})
    assert session.executable({"input": (1, 3, 8, 8)}) is not first


def test_several_threads_may_plan_at_once() -> None:
    session = Session(bound(), "auto", threads=1)
    results: list[float] = []

    def work(side: int) -> None:
        x = np.ones((1, 3, side, side), np.float32)
        results.append(float(session.run(x)["act"].sum()))

    threads = [threading.Thread(target=work, args=(8 + i % 3,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12 and len(set(results)) == 3


def test_inputs_are_checked() -> None:
    session = Session(bound(), "numpy")
    with pytest.raises(GraphError, match="takes the inputs input"):
        session.run({"image": np.ones((1, 3, 8, 8), np.float32)})
    with pytest.raises(GraphError, match="does not fit 2 channels"):
        session.run(np.ones((1, 2, 8, 8), np.float32))
    assert runtime.BACKENDS == ("auto", "c", "numpy")
