"""The threads of the C engine: signals, how many there may be, how many there are."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.test_fork import picture
from tests.test_runtime import bound
from tinyface import limits
from tinyface.backends import c
from tinyface.errors import BackendError
from tinyface.runtime import Session

pytestmark = pytest.mark.needs_c
THREADS = Path("/proc/self/task")


def blocked_by(thread: str) -> set[signal.Signals]:
    status = (THREADS / thread / "status").read_text().split()
    mask = int(status[status.index("SigBlk:") + 1], 16)
    return {s for s in signal.Signals if mask >> (s - 1) & 1}


@pytest.mark.skipif(not THREADS.is_dir(), reason="no /proc here")
def test_signals_are_left_to_the_programs_own_threads() -> None:
    """A thread of a pool blocks them all, but for what its own fault would send."""
    before = set(os.listdir(THREADS))
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    session = Session(bound(), "c", threads=4)
    session.run(picture(8))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == masked
    own = set(os.listdir(THREADS)) - before
    assert len(own) == 3
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
    wanted = set(signal.Signals) - faults - {signal.SIGKILL, signal.SIGSTOP}
    for thread in own:
        for _ in range(1000):  # the C library lets a thread begin with everything blocked
            if (blocked := blocked_by(thread)) == wanted:
                break
            threading.Event().wait(0.01)
        assert blocked == wanted


def test_as_many_threads_as_one_may_ask_for() -> None:
    assert c._engine.lib.TF_MAX_THREADS == limits.MAX_THREADS
    with pytest.raises(BackendError, match=f"from 1 to {limits.MAX_THREADS}"):
        Session(bound(), "c", limits.MAX_THREADS + 1)
    expected = Session(bound(), "c", 1).run(picture(8))["act"]
    session = Session(bound(), "c", 100)
    assert np.array_equal(session.run(picture(8))["act"], expected)
    executable = session.executable({"input": (1, 3, 8, 8)})
    assert isinstance(executable, c.CExecutable) and executable.threads == 100


class _Fewer:
    """The C library on a system that grants two threads."""

    def __init__(self, lib: Any) -> None:
        self.lib = lib

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lib, name)

    def tf_pool_start(self, pool: Any, threads: int) -> int:
        return int(self.lib.tf_pool_start(pool, min(threads, 2)))


def test_threads_that_could_not_be_started_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimpleNamespace(ffi=c._engine.ffi, lib=_Fewer(c._engine.lib))
    expected = Session(bound(), "c", 1).run(picture(8))["act"]
    monkeypatch.setattr(c, "_engine", engine)
    executable = Session(bound(), "c", 5).executable({"input": (1, 3, 8, 8)})
    with pytest.warns(RuntimeWarning, match="only 2 of 5 threads could be started"):
        (got,) = executable.run({"input": picture(8)}).values()
    assert np.array_equal(got, expected)
    assert isinstance(executable, c.CExecutable) and executable.threads == 2


class _Interrupted(_Fewer):
    """The C library while somebody presses Ctrl-C, once."""

    pressed = False

    def tf_pool_start(self, pool: Any, threads: int) -> int:
        started = int(self.lib.tf_pool_start(pool, threads))
        if not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        return started


@pytest.mark.skipif(not THREADS.is_dir(), reason="no /proc here")
def test_ctrl_c_while_threads_start_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would wake up in the memory of the next pool."""
    expected = Session(bound(), "c", 1).run(picture(8))["act"]
    monkeypatch.setattr(
        c, "_engine", SimpleNamespace(ffi=c._engine.ffi, lib=_Interrupted(c._engine.lib))
    )
    session = Session(bound(), "c", 3)
    before = set(os.listdir(THREADS))
    with pytest.raises(KeyboardInterrupt):
        session.run(picture(8))
    gc.collect()
    assert set(os.listdir(THREADS)) <= before
    for _ in range(20):
        assert np.array_equal(session.run(picture(8))["act"], expected)


def test_no_more_threads_than_there_is_room_for() -> None:
    ffi, lib = c._engine.ffi, c._engine.lib
    memory = c._aligned(lib.tf_pool_bytes() + 4096)
    memory[:] = 0
    pool = ffi.cast("tf_pool *", ffi.from_buffer(memory))
    started = lib.tf_pool_start(pool, limits.MAX_THREADS + 9)
    lib.tf_pool_stop(pool)
    assert started <= limits.MAX_THREADS and not memory[lib.tf_pool_bytes() :].any()


def sleeps(threads: set[str]) -> list[int]:
    """How often each has gone to sleep."""
    status = [(THREADS / thread / "status").read_text().split() for thread in sorted(threads)]
    return [int(words[words.index("voluntary_ctxt_switches:") + 1]) for words in status]


@pytest.mark.skipif(not THREADS.is_dir(), reason="no /proc here")
def test_threads_wake_up_for_a_run() -> None:
    before = set(os.listdir(THREADS))
    session = Session(bound(), "c", threads=3)
    session.run(picture(99))
    own = set(os.listdir(THREADS)) - before
    threading.Event().wait(0.1)
    asleep = sleeps(own)
    for _ in range(200):  # a busy machine takes its time
        session.run(picture(99))
        threading.Event().wait(0.05)
        if all(now > then for now, then in zip(sleeps(own), asleep, strict=True)):
            return
    pytest.fail("a thread sleeps through all runs")
