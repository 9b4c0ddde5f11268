"""What is found out about the machine, and how many threads it gets, on systems that are none of
this one's."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tinyface import cpus, machine, runtime

MAC = {
    "machdep.cpu.brand_string": "Apple M2",
    "hw.perflevel0.l1dcachesize": "131072",
    "hw.perflevel0.l2cachesize": "16777216",
    "hw.perflevel0.cpusperl2": "4",
}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """A Mac, as far as files and sysctl go; what is deleted from it, its sysctl does not know."""
    known = dict(MAC)

    def sysctl(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[-1] not in known:
            raise subprocess.CalledProcessError(1, command)
        return subprocess.CompletedProcess(command, 0, known[command[-1]] + "\n")

    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(machine, "read", lambda path: None)
    monkeypatch.setattr(machine, "CACHES", tmp_path)
    monkeypatch.setattr("subprocess.run", sysctl)
    return known


def test_a_mac(mac: dict[str, str]) -> None:
    assert machine.cpu_name() == "Apple M2"
    assert machine.caches() == {"L1d": 128 << 10, "L2": 16 << 20}
    assert machine.cache_sharing() == {"L1d": 1, "L2": 4}


def test_a_mac_that_says_nothing(mac: dict[str, str]) -> None:
    mac.clear()
    assert machine.cpu_name() and machine.caches() == {}


# -------------------------------------------------------------------------------- threads


class Linux:
    """A machine in files: CPUs and control groups, which a test writes down."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        names = (
            ("SYSTEM", "cpu"),
            ("INTEL_FAST", "fast"),
            ("CGROUPS", "group"),
            ("OWN_GROUPS", "own"),
        )
        for name, file in names:
            monkeypatch.setattr(cpus, name, root / file)
        monkeypatch.setattr("platform.system", lambda: "Linux")
        monkeypatch.delenv("TINYFACE_THREADS", raising=False)
        self.patch = monkeypatch

    def has(self, count: int, files: dict[str, Any]) -> None:
        """CPUs that may be used, and texts by path; ``{}`` in a path is each of the CPUs."""
        self.patch.setattr("os.sched_getaffinity", lambda _: set(range(count)), raising=False)
        for path, text in files.items():
            for cpu in range(count) if "{}" in path else [0]:
                file = self.root / path.format(cpu)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{text(cpu) if callable(text) else text}\n")


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Linux:
    return Linux(tmp_path, monkeypatch)


CAPACITY, SIBLINGS = "cpu/cpu{}/cpu_capacity", "cpu/cpu{}/topology/core_cpus_list"
OLD_SIBLINGS = "cpu/cpu{}/topology/thread_siblings_list"
PAIRS = {SIBLINGS: lambda cpu: f"{cpu % 4},{cpu % 4 + 4}"}


@pytest.mark.parametrize(
    ("count", "files", "threads", "why"),
    [
        (4, {}, 4, ""),
        (4, {CAPACITY: 1024}, 4, ""),
        (4, {CAPACITY: "what?"}, 4, ""),
        (8, {CAPACITY: lambda cpu: 414 if cpu < 4 else 1024}, 4, "4 are slower"),  # RK3588
        (6, {CAPACITY: lambda cpu: 485 if cpu < 4 else 1024}, 2, "4 are slower"),  # RK3399
        (8, {CAPACITY: lambda cpu: (330, 780, 1024)[(cpu > 3) + (cpu > 6)]}, 4, "4 are slower"),
        (8, PAIRS, 4, "4 share a core with another"),
        (8, {OLD_SIBLINGS: PAIRS[SIBLINGS]}, 4, "4 share a core with another"),
        (2, {SIBLINGS: lambda cpu: f"{cpu},{cpu + 8}"}, 2, ""),  # the halves that may be used
        (
            12,  # Intel: 4 P cores of two halves, 4 E cores
            {
                "fast": "0-7",
                SIBLINGS: lambda cpu: f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}" if cpu < 8 else cpu,
            },
            4,
            "4 are slower and 4 share a core with another",
        ),
        (64, {}, runtime.MAX_TASKS, ""),
        (8, {"own": "0::/", "group/cpu.max": "max 100000"}, 8, ""),
        (8, {"own": "0::/", "group/cpu.max": "200000 100000"}, 2, "beyond a quota of 2"),
        (8, {"own": "0::/", "group/cpu.max": "50000 100000"}, 1, "beyond a quota of 0.5"),
        (8, {"own": "0::/", "group/cpu.max": "340000 100000"}, 3, "beyond a quota of 3.4"),
        (8, {"own": "0::/", "group/cpu.max": "350000 100000"}, 4, "beyond a quota of 3.5"),
        (2, {"own": "0::/", "group/cpu.max": "350000 100000"}, 2, ""),
        (8, {"own": "0::/", "group/cpu.max": "100000 0"}, 8, ""),
        (8, {"own": "0::/", "group/cpu.max": "much"}, 8, ""),
        (  # the least of what is around it
            8,
            {
                "own": "0::/pod/one",
                "group/pod/one/cpu.max": "max 100000",
                "group/pod/cpu.max": "300000 100000",
            },
            3,
            "beyond a quota of 3",
        ),
        (
            8,
            {"own": "0::/../elsewhere", "group/cpu.max": "200000 100000"},
            2,
            "beyond a quota of 2",
        ),
        (  # version 1, whose path is the host's, in a container
            8,
            {
                "own": "3:cpuset:/\n2:cpu,cpuacct:/docker/f00",
                "group/cpu/cpu.cfs_quota_us": 200000,
                "group/cpu/cpu.cfs_period_us": 100000,
            },
            2,
            "beyond a quota of 2",
        ),
        (
            8,
            {
                "own": "2:cpu:/",
                "group/cpu/cpu.cfs_quota_us": -1,
                "group/cpu/cpu.cfs_period_us": 100000,
            },
            8,
            "",
        ),
        (8, {"own": "nonsense\n0"}, 8, ""),
    ],
)
def test_threads_worth_starting(
    linux: Linux, count: int, files: dict[str, Any], threads: int, why: str
) -> None:
    linux.has(count, files)
    found, reason = cpus.worthwhile()
    assert (min(found, runtime.MAX_TASKS), reason) == (threads, why)
    assert runtime.default_threads() == threads


def test_a_mac_keeps_its_slow_cores(mac: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(cpus, "SYSTEM", Path("nowhere"))
    mac["hw.perflevel0.logicalcpu"] = "4"
    assert cpus.worthwhile() == (4, "4 are slower")
    mac.clear()
    assert cpus.worthwhile() == (8, "")


@pytest.mark.parametrize(("ranges", "members"), [("0-3,8", 5), ("7", 1), ("", 1), ("a-b", 1)])
def test_lists_of_cpus(ranges: str, members: int) -> None:
    assert cpus.count(ranges) == members
