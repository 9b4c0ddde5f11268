"""The machine a measurement was made on: what it is, and how it was doing.

A figure without its machine is worth little, and a Pi that throttles or a laptop on its
battery makes figures of no worth at all: :func:`state` is read before and after every
measurement, and :func:`disturbance` says when something interfered.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tinyface.cpus import count, read, sysctl, usable

CPU_FOLDER = Path("/sys/devices/system/cpu/cpu0/cpufreq")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
MEMORY = Path("/proc/meminfo")
THERMAL = Path("/sys/class/thermal")
VCGENCMD_BITS = {  # of `vcgencmd get_throttled`, Raspberry Pi documentation
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}


def describe() -> dict[str, Any]:
    """What does not change: CPU, architecture, kernel, number of CPUs, caches."""
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": os.cpu_count() or 1,
        "usable_cpus": len(usable()),
        "governor": read(CPU_FOLDER / "scaling_governor"),
        "caches": caches(),
    }


def state() -> dict[str, Any]:
    """What changes: frequency (MHz), temperature (deg C), load, throttling; None if unknown."""
    frequency = read(CPU_FOLDER / "scaling_cur_freq")
    return {
        "mhz": int(frequency) // 1000 if frequency and frequency.isdecimal() else None,
        "celsius": temperature(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "throttled": throttled(),
    }


def disturbance(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Why times measured between two states are doubtful; "" if nothing speaks against them."""
    reasons = []
    if after["throttled"]:
        reasons.append(f"the machine reports: {', '.join(after['throttled'])}")
    if before["mhz"] and after["mhz"] and after["mhz"] < 0.9 * before["mhz"]:
        reasons.append(f"the clock fell from {before['mhz']} to {after['mhz']} MHz")
    if before["load"] is not None and before["load"] > 0.5 * len(usable()):
        reasons.append(f"other work was running (load {before['load']:.1f} at the start)")
    return "; ".join(reasons)


def headline(described: dict[str, Any]) -> str:
    """One line for people. ``described``: from describe(), with "before" and "after" if known."""
    parts = [described["cpu"], f"{described['usable_cpus']} CPUs", described["architecture"]]
    if described["governor"]:
        parts.append(f"governor {described['governor']}")
    after = described.get("after") or {}
    if after.get("mhz"):
        parts.append(f"{after['mhz']} MHz")
    if after.get("celsius") is not None:
        parts.append(f"{after['celsius']:.0f} °C")
    if after.get("throttled") == []:
        parts.append("not throttled")
    return ", ".join(parts)


def cpu_name() -> str:
    """As /proc/cpuinfo has it on x86 and on a Raspberry Pi, or macOS; else what Python knows."""
    fields: dict[str, str] = {}
    for line in (read(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    board = (read(Path("/proc/device-tree/model")) or "").rstrip("\0")
    name = board or fields.get("model name") or fields.get("Model") or fields.get("Hardware")
    return name or sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()


def caches() -> dict[str, int]:
    """Bytes of each cache that CPU 0 sees: {"L1d": 32768, "L2": …}; empty if unknown."""
    return {name: size for name, size, _ in _caches()}


def cache_sharing() -> dict[str, int]:
    """How many CPUs use the same cache: {"L1d": 1, "L2": 4}; empty if unknown."""
    return {name: users for name, _, users in _caches()}


def _caches() -> list[tuple[str, int, int]]:
    """Name, bytes and users of the data caches of CPU 0 (macOS: of a fast core), the first level
    first."""
    found = []
    for name, key, together in (("L1d", "l1dcachesize", ""), ("L2", "l2cachesize", "cpusperl2")):
        total, cpus = sysctl(f"hw.perflevel0.{key}"), sysctl(f"hw.perflevel0.{together}")
        if total:
            found.append((name, int(total), int(cpus or 1)))
    for folder in sorted(CACHES.glob("index*")):
        level, kind, size = (read(folder / part) for part in ("level", "type", "size"))
        if level and kind and size and kind != "Instruction" and size[:-1].isdecimal():
            factor = {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)
            name = f"L{level}{'d' if kind == 'Data' else ''}"
            users = count(read(folder / "shared_cpu_list") or "0")
            found.append((name, int(size[:-1]) * factor, users))
    return found


def temperature() -> float | None:
    """Degrees Celsius of the hottest zone; None where there is no sensor."""
    values = (read(zone / "temp") for zone in THERMAL.glob("thermal_zone*"))
    degrees = [int(v) / 1000 for v in values if v and v.lstrip("-").isdecimal()]
    return max(degrees, default=None)


def throttled() -> list[str] | None:
    """What a Raspberry Pi's firmware says holds it back now; None on other machines."""
    tool = shutil.which("vcgencmd")
    if tool is None:
        return None
    try:
        answer = subprocess.run(
            [tool, "get_throttled"], capture_output=True, text=True, timeout=2, check=True
        ).stdout
        bits = int(answer.strip().partition("=")[2], 16)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return [meaning for bit, meaning in VCGENCMD_BITS.items() if bits >> bit & 1]


def available_memory() -> int | None:
    """Bytes that programs can still have without swapping; None where that is not known."""
    for line in (read(MEMORY) or "").splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) << 10  # of kB
    return None
