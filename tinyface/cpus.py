"""How many threads are worth starting on this machine.

One for each fast core that this process may keep busy. What counts against a CPU:

- **The process may not use it** (taskset, a container's cpuset).
- **It is the second half of a core** (SMT). Both halves share the units that multiply.
- **It is slow** (big.LITTLE, Intel's E cores, Apple's). A step ends with its slowest task. With
  every task of the second thread carried out twice, five networks took 0.78 to 1.06 of the time of
  one thread; three times, 0.95 to 1.58.
- **A quota** (a container's ``--cpus``). Threads beyond it run until it is used up, and all wait
  for the next period: with a quota of one CPU, two threads took 1.3 times as long for a picture as
  one, some of them 50 ms.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu")
INTEL_FAST = Path("/sys/devices/cpu_core/cpus")  # there where other cores are E cores
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
SLOW = 0.6  # of the fastest core's capacity: what is below gets no thread


def usable() -> set[int]:
    """Numbers of the CPUs that the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def worthwhile() -> tuple[int, str]:
    """Threads worth starting, at least 1, and why they are fewer than the CPUs; "" if not."""
    cpus = usable()
    fast = _fast(cpus)
    cores = len({_core(cpu) for cpu in fast})
    allowed = quota()
    if allowed is not None and int(allowed + 0.5) < cores:
        return max(1, int(allowed + 0.5)), f"beyond a quota of {allowed:g}"
    reasons = []
    if len(fast) < len(cpus):
        reasons.append(f"{len(cpus) - len(fast)} are slower")
    if cores < len(fast):
        reasons.append(f"{len(fast) - cores} share a core with another")
    return cores, " and ".join(reasons)


def quota() -> float | None:
    """CPUs' worth of time that the process's control groups leave it; None where all is its own."""
    return min(_quotas(), default=None)


def sysctl(name: str) -> str | None:
    """What macOS says of this; None elsewhere, and where it knows nothing."""
    if platform.system() != "Darwin":
        return None
    import subprocess  # which no other system has to load for this

    try:
        return subprocess.run(
            ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=2, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def count(ranges: str) -> int:
    """ "0-3,8" -> 5; 1 where it cannot be read."""
    return max(1, len(_members(ranges)))


def read(path: Path) -> str | None:
    """The text of a small file of the system's; None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _fast(cpus: set[int]) -> set[int]:
    """Those that are not slower than others of them."""
    mac = sysctl("hw.perflevel0.logicalcpu")
    if mac and mac.isdecimal():  # which numbers they have does not matter
        return set(sorted(cpus)[: int(mac)])
    intel = _members(read(INTEL_FAST) or "") & cpus
    if intel:
        return intel
    said = {cpu: _about(cpu, "cpu_capacity", "") for cpu in cpus}
    capacity = {cpu: int(text) if text.isdecimal() else 0 for cpu, text in said.items()}
    return {cpu for cpu in cpus if capacity[cpu] >= SLOW * max(capacity.values())}


def _core(cpu: int) -> str:
    """The core that the CPU is one half of, or all."""
    own = str(cpu)
    return _about(cpu, "topology/core_cpus_list", _about(cpu, "topology/thread_siblings_list", own))


def _about(cpu: int, name: str, otherwise: str) -> str:
    return read(SYSTEM / f"cpu{cpu}" / name) or otherwise


def _members(ranges: str) -> set[int]:
    """ "0-3,8" -> {0, 1, 2, 3, 8}; nothing where it cannot be read."""
    ends = [part.split("-") for part in ranges.split(",")]
    if not all(end.isdecimal() for pair in ends for end in pair):
        return set()
    return {cpu for pair in ends for cpu in range(int(pair[0]), int(pair[-1]) + 1)}


def _quotas() -> Iterator[float]:
    """Of the process's groups and all around them, of both versions of control groups. Within a
    container the path may be the host's, which is not there, but the root is the container's."""
    for line in (read(OWN_GROUPS) or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            root, of = CGROUPS, _of_version_2
        elif "cpu" in controllers.split(","):
            root, of = CGROUPS / "cpu", _of_version_1
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                yield from of(folder)


def _of_version_2(group: Path) -> Iterator[float]:
    yield from _ratio((read(group / "cpu.max") or "").split())


def _of_version_1(group: Path) -> Iterator[float]:
    parts = (read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    yield from _ratio([part or "" for part in parts])


def _ratio(parts: list[str]) -> Iterator[float]:
    """Microseconds in a period, and the period; "max" and -1 are no quota."""
    with contextlib.suppress(ValueError, ZeroDivisionError):
        used, period = (int(part) for part in parts)
        if used > 0:
            yield used / period
