"""Ctrl-C behind any instruction of what writes files: nothing is left, or the message says what."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import leftovers

from tinyface import files
from tinyface.cli import journal
from tinyface.cli.writers import Row
from tinyface.files import atomic_write

MODEL: Any = SimpleNamespace(card=SimpleNamespace(embedding_size=2))
RECIPE = '{"schema": "tinyface.embed-part/1"}'
VECTOR = np.array([0.6, 0.8], np.float32)


@contextmanager
def ctrl_c(module: Any, after: int) -> Iterator[None]:
    """Raise KeyboardInterrupt in front of this instruction of a module, as a signal would."""
    left = after

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    usual = sys.gettrace()  # that of a measurement of coverage
    sys._getframe().f_trace_opcodes = True  # CPython 3.12 wants it in front of settrace
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(usual)


def everywhere(module: Any, work: Callable[[], None]) -> Iterator[str]:
    """Stop ``work`` in front of each of its instructions; what was said, until it goes through."""
    for after in range(1, 20_000):
        try:
            with ctrl_c(module, after):
                work()
        except KeyboardInterrupt as stopped:
            yield str(stopped)
        else:
            return
    raise AssertionError("it never goes through")


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        Path(name).write_text(name)
    return list("abc")


def embed(pictures: list[str], ended: list[bool]) -> None:
    with journal.journal(MODEL, RECIPE, "out.csv", 3) as kept:
        kept.begin(update=False)
        for name in pictures:
            when = journal.stamp(name)
            kept.keep(journal.Done(name, when, [Row(name, 0, None, VECTOR, stamp=when)]))
        ended.append(True)


def test_a_journal_is_left_where_it_is_spoken_of(pictures: list[str]) -> None:
    stops = 0
    for said in everywhere(journal, lambda: embed(pictures, [])):
        stops += 1
        assert leftovers(Path.cwd()) == ["out.csv.part"] * ("keeps what is done" in said)
        Path("out.csv.part").unlink(missing_ok=True)
    assert stops > 300 and not leftovers(Path.cwd())


def test_what_earlier_runs_did_is_never_lost(pictures: list[str]) -> None:
    class Power(BaseException):
        """It fails."""

    with pytest.raises(Power), journal.journal(MODEL, RECIPE, "out.csv", 3) as kept:
        kept.begin(update=False)
        kept.keep(journal.Done("a", journal.stamp("a"), [Row("a", 0, None, VECTOR)]))
        raise Power
    whole = Path("out.csv.part").read_bytes()
    ended: list[bool] = []
    for _ in everywhere(journal, lambda: embed(pictures, ended)):
        part = Path("out.csv.part")
        assert part.read_bytes().startswith(whole) if part.exists() else ended
        part.write_bytes(whole)
        ended.clear()


@pytest.mark.parametrize("there", [True, False])
def test_a_file_is_whole_or_not_there(there: bool) -> None:
    def write() -> None:
        with atomic_write("file") as stream:
            stream.write(b"new")

    stops, umask = 0, os.umask(0o027)
    for _ in everywhere(files, write):
        stops += 1
        assert not leftovers(Path.cwd())
        assert not Path("file").exists() or Path("file").read_bytes() in (b"old", b"new")
        Path("file").write_bytes(b"old") if there else Path("file").unlink(missing_ok=True)
    assert stops > 100 and Path("file").read_bytes() == b"new"
    assert os.umask(umask) == 0o027
    assert there or Path("file").stat().st_mode & 0o777 == 0o640


def test_a_file_is_on_the_disk_before_it_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*args: Any, name: str = name, real: Callable[..., None] = real) -> None:
            order.append(name)
            real(*args)

        monkeypatch.setattr(os, name, noted)
    with atomic_write("file") as stream:
        stream.write(b"new")
    assert order == ["fsync", "replace"]


def test_what_a_refused_command_does_not_need_is_kept(pictures: list[str]) -> None:
    Path("out.csv.part").write_text(RECIPE)
    with pytest.raises(journal.UsageError), journal.journal(MODEL, RECIPE, "out.csv", 3) as kept:
        kept.begin(update=True)  # .csv
    assert leftovers(Path.cwd()) == ["out.csv.part"]


def test_two_runs_do_not_write_one_journal(pictures: list[str]) -> None:
    with journal.journal(MODEL, RECIPE, "out.csv", 3) as kept:
        kept.begin(update=False)
        with pytest.raises(journal.UsageError, match="another run is writing now"):
            embed(pictures, [])
        assert leftovers(Path.cwd()) == ["out.csv.part"]
    assert not leftovers(Path.cwd())


def test_the_journal_of_another_user_stays(
    pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out.csv.part").write_text(RECIPE)
    monkeypatch.setattr(journal.os, "geteuid", lambda: -2)
    with pytest.raises(journal.UsageError, match="another user's"):
        embed(pictures, [])
    assert leftovers(Path.cwd()) == ["out.csv.part"]
