"""Hardware counters: what the kernel is asked, what its answers mean, and if it declines."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

import pytest

from tinyface.traffic import counters
from tinyface.traffic.counters import COUNT, Counters, Measured, open_event, why


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A kernel that counts 3000 of everything, half of the time; keeps what it was asked."""
    asked: list[bytes] = []
    orders: list[int] = []

    def call(number: int, attributes: bytes) -> int:
        asked.append(attributes)
        path = tmp_path / str(len(asked))
        path.write_bytes(struct.pack(COUNT, 3000, 100, 50))
        return os.open(path, os.O_RDONLY)

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(counters, "_system_call", call)
    monkeypatch.setattr(fcntl, "ioctl", lambda file, order, arg: orders.append(order))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    return asked


def test_counts_are_per_run_and_scaled(kernel: list[bytes]) -> None:
    runs: list[int] = []
    with Counters() as found:
        measured = found.count(lambda: runs.append(1), 4)
    assert len(runs) == 4 and not found.files and found.reason == ""
    assert measured is not None
    # 3000 in half of the time are 6000; in four runs 1500 each
    names = {"instructions", "cache_references", "cache_misses", "bus_accesses"}
    assert measured.counts == dict.fromkeys(names, 1500.0)
    assert measured.to_json()["miss_bytes"] == 1500 * 64 and measured.to_json()["runs"] == 4


def test_what_the_kernel_is_asked(kernel: list[bytes]) -> None:
    with Counters():
        pass
    kinds = []
    for attributes in kernel:
        assert len(attributes) == 64
        kind, size, config, period, sample, read, flags = struct.unpack("=IIQQQQQ", attributes[:48])
        assert (size, period, sample, read) == (64, 0, 0, 3)
        assert flags == 1 | 2 | 32 | 64  # disabled, inherited, neither kernel nor hypervisor
        kinds.append((kind, config))
    assert kinds == [(0, 1), (0, 2), (0, 3), (4, 0x19)]


def test_an_event_that_was_never_counted_is_left_out(kernel: list[bytes], tmp_path: Path) -> None:
    with Counters() as found:
        (tmp_path / "1").write_bytes(struct.pack(COUNT, 0, 100, 0))
        measured = found.count(lambda: None, 1)
    assert measured is not None and "instructions" not in measured.counts


def test_counters_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def open_file(*event: int) -> int:
        opened.append(os.open(os.devnull, os.O_RDONLY))
        return opened[-1]

    monkeypatch.setattr(counters, "open_event", open_file)
    with Counters():
        assert opened
    for file in opened:
        with pytest.raises(OSError):
            os.fstat(file)


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.EACCES, "perf_event_paranoid"), (errno.EPERM, "CAP_PERFMON"),
     (errno.ENOSYS, "perf_event_open"), (errno.ENOENT, "virtual machines")],
)  # fmt: skip
def test_where_nothing_can_be_counted_there_is_a_reason(
    number: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(_: int, attributes: bytes) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(counters, "_system_call", call)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with Counters() as found:
        assert found.count(lambda: pytest.fail("run for nothing"), 1) is None
    assert says in found.reason and says in why(OSError(number, ""))


def test_elsewhere_than_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(OSError, match="no such system call"):
        open_event(0, 1)


def test_this_machine_counts_or_says_why_not() -> None:
    with Counters() as found:
        measured = found.count(lambda: sum(range(100_000)), 2)
    if measured is None:
        assert found.reason
    else:
        assert isinstance(measured, Measured) and measured.counts.get("instructions", 1e6) > 1e5
