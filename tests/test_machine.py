"""What is said of the machine, on systems other than this one."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tinyface import machine

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
    monkeypatch.setattr(machine, "_read", lambda path: None)
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
