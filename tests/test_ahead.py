"""Pictures side by side: the same results, in the same order, as one after another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import samples
from command_line import Outcome

from tinyface import ahead, machine
from tinyface.errors import ImageError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("pictures", "threads", "free", "wanted"),
    [
        (100, 4, 4 * GIB, (4, 1)),
        (100, 4, GIB // 2, (2, 2)),  # memory for two
        (100, 4, 0, (1, 4)),
        (1, 4, 4 * GIB, (1, 4)),
        (3, 8, 4 * GIB, (3, 2)),
        (0, 4, 4 * GIB, (1, 4)),
        (100, 4, None, (4, 1)),
    ],
)
def test_shares(
    pictures: int, threads: int, free: int | None, wanted: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(machine, "available_memory", lambda: free)
    assert ahead.shares(pictures, threads) == wanted


def test_memory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "meminfo"
    monkeypatch.setattr(machine, "MEMORY", file)
    assert machine.available_memory() is None
    file.write_text("MemTotal:  3884000 kB\nMemAvailable:    2048 kB\n")
    assert machine.available_memory() == 2048 * 1024


def test_order_and_errors_are_those_of_one_thread() -> None:
    def work(item: int) -> int:
        time.sleep(0.01 if item % 3 == 0 else 0)
        if item % 7 == 5:
            raise ImageError(f"number {item}")
        return item * item

    def everything(at_once: int) -> list[object]:
        found: list[object] = []
        with closing(ahead.in_order(range(30), work, at_once)) as results:
            for item, answer in results:
                try:
                    found.append((item, answer()))
                except ImageError as error:
                    found.append((item, str(error)))
        return found

    assert everything(1) == everything(4) and everything(1)[5] == (5, "number 5")


def test_some_at_once_and_not_far_ahead() -> None:
    """Two that wait for each other come to an end; of a thousand no more than a few are begun. The
    first is done where imports cannot meet those of another thread."""
    meeting, begun = threading.Barrier(2, timeout=20), []
    own = threading.current_thread()

    def work(item: int) -> None:
        begun.append(item)
        assert (threading.current_thread() is own) == (item == 0)
        if item in (1, 2):
            meeting.wait()

    with closing(ahead.in_order(range(1000), work, 2)) as results:
        for item, answer in results:
            answer()
            if item == 4:
                break
    assert len(begun) <= 4 + 1 + 2 * 2 + 1


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize(
    "line",
    ["embed folder broken.png -o -", "embed folder --all-faces --json", "search one.png folder",
     "detect folder broken.png --json", "align folder broken.png -o crops"],
)  # fmt: skip
def test_commands_print_the_same(
    line: str, tinyface: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of nine pictures, one without a face, and a broken one."""
    monkeypatch.setattr(machine, "available_memory", lambda: 4 * GIB)
    Path("folder").mkdir()
    for i in range(9):
        faces = [(i % 4, 1), (2, i % 3)] if i != 4 else []
        samples.save_png(Path(f"folder/{i}.png"), samples.picture(*faces))
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    one, three = (tinyface(*line.split(), "-t", threads) for threads in "13")
    assert (one.status, one.out, one.err) == (three.status, three.out, three.err)
    assert one.status == (not line.startswith("search")) and len(one.out) > 100
