"""What the machine's own counters say a run moved, where the system lets us ask.

Linux counts hardware events for a process and the threads that it starts later
(perf_event_open(2)). In most containers and virtual machines that is not permitted or there is
nothing to count; then :class:`Counters` has a reason and no counts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

CALLS = {"x86_64": 298, "aarch64": 241, "armv7l": 364, "armv6l": 364, "riscv64": 241}
HARDWARE, RAW = 0, 4  # types of events
LINE = 64  # bytes that a miss fetches
EVENTS = {"instructions": (HARDWARE, 1), "cache_references": (HARDWARE, 2),
          "cache_misses": (HARDWARE, 3)}  # fmt: skip
ARM_EVENTS = {"bus_accesses": (RAW, 0x19)}  # Arm Architecture Reference Manual, PMU events
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")

# perf_event_attr, the 64 bytes of its first version: type, size, config, period, what a sample
# holds, how it is read, flags, wake-ups, breakpoint
ATTRIBUTES = "=IIQQQQQIIQ"
TIMES = 1 | 2  # read: also how long it was wanted, and how long it was counted
DISABLED, INHERIT, NO_KERNEL, NO_HYPERVISOR = 1 << 0, 1 << 1, 1 << 5, 1 << 6
ENABLE, DISABLE, RESET = 0x2400, 0x2401, 0x2403  # ioctl
COUNT = "=QQQ"


@dataclass(frozen=True)
class Measured:
    """Counts of one run, on average: user code of all threads.

    counts: by name of the event; cache references and misses are those that the CPU's maker
    counts under this name, the last cache as a rule. runs: how many were counted.
    """

    counts: Mapping[str, float]
    runs: int

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: round(count) for name, count in self.counts.items()}
        if "cache_misses" in self.counts:
            found["miss_bytes"] = round(self.counts["cache_misses"] * LINE)
        return found | {"runs": self.runs}


class Counters:
    """Opened before the threads that are to be counted start; a context manager.

    reason: why nothing can be counted; "" where something can.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.files: dict[str, int] = {}
        wanted = EVENTS | (ARM_EVENTS if platform.machine().startswith(("aarch", "arm")) else {})
        for name, (kind, config) in wanted.items():
            try:
                self.files[name] = open_event(kind, config)
            except OSError as error:
                self.reason = self.reason or why(error)
        if self.files:
            self.reason = ""

    def __enter__(self) -> Counters:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self.files.values():
            os.close(file)
        self.files = {}

    def count(self, work: Callable[[], object], runs: int) -> Measured | None:
        """Counts of ``work()``, called ``runs`` times; None where nothing can be counted."""
        if not self.files:
            return None
        for order in (RESET, ENABLE):
            self._all(order)
        for _ in range(runs):
            work()
        self._all(DISABLE)
        found = {name: _read(file) for name, file in self.files.items()}
        return Measured({k: v / runs for k, v in found.items() if v is not None}, runs)

    def _all(self, order: int) -> None:
        import fcntl  # not on Windows, where no file is open

        for file in self.files.values():
            fcntl.ioctl(file, order, 0)


def open_event(kind: int, config: int) -> int:
    """A file that counts one event of this thread and of those that it starts from now on.

    Raises:
        OSError: not permitted, or no such counter.
    """
    number = CALLS.get(platform.machine()) if platform.system() == "Linux" else None
    if number is None:
        raise OSError(errno.ENOSYS, "no such system call")
    flags = DISABLED | INHERIT | NO_KERNEL | NO_HYPERVISOR
    size = struct.calcsize(ATTRIBUTES)
    attributes = struct.pack(ATTRIBUTES, kind, size, config, 0, 0, TIMES, flags, 0, 0, 0)
    file = _system_call(number, attributes)
    if file < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return file


def _system_call(number: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    this, any_cpu, no_group, close_on_exec = (ctypes.c_long(v) for v in (0, -1, -1, 8))
    result = libc.syscall(
        ctypes.c_long(number), ctypes.create_string_buffer(attributes), this, any_cpu, no_group,
        close_on_exec,
    )  # fmt: skip
    return int(result)


def why(error: OSError) -> str:
    """The reason for people, with what to do."""
    if error.errno in (errno.EACCES, errno.EPERM):
        level = PARANOID.read_text().strip() if PARANOID.exists() else "unknown"
        return (
            f"the system does not permit it (perf_event_paranoid is {level}): "
            "sudo sysctl kernel.perf_event_paranoid=1; in a container it takes CAP_PERFMON"
        )
    if error.errno == errno.ENOSYS:
        return (
            "this system has no perf_event_open, or forbids it; use a Linux outside of containers"
        )
    return (
        "the CPU has no counters here, as in most virtual machines; measure on the machine itself"
    )


def _read(file: int) -> float | None:
    """The count, scaled where several events took turns; None where none had one."""
    value, wanted, counted = struct.unpack(COUNT, os.read(file, struct.calcsize(COUNT)))
    return float(value * wanted / counted) if counted else None
