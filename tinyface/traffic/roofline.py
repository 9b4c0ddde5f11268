"""Measures the machine's roofs, and keeps them for ``profile`` and ``predict``.

For every instruction set and for one and all threads: the peak of multiply-adds, and the rate at
which each level of memory can be read. A level is read in a run of half its size (shared among
its threads), so that what else is in it does not matter; main memory in one of four times the
last cache.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from tinyface import machine, modelstore
from tinyface.backends import c
from tinyface.errors import TinyfaceError
from tinyface.files import atomic_write
from tinyface.ops.spec import Array
from tinyface.plan import Isa
from tinyface.runtime import default_threads
from tinyface.traffic.roofs import Level, Roofs

SCHEMA = "tinyface.roofs/1"
FILE = "roofs.json"
TARGET_NS = 3_000_000  # of one timed step, six of which are run
MAX_ROUNDS = 1 << 30
LEAST_DRAM, MOST_DRAM = 32 << 20, 512 << 20  # bytes read of main memory
UNKNOWN = {"L1d": 32 << 10, "L2": 512 << 10}  # where the system does not say


@dataclass(frozen=True)
class Entry:
    """Roofs of one instruction set with a number of threads."""

    isa: str
    threads: int
    roofs: Roofs

    def to_json(self) -> dict[str, Any]:
        return {"isa": self.isa, "threads": self.threads, **self.roofs.to_json()}


def regions(caches: dict[str, int], shared: dict[str, int], threads: int) -> dict[str, int]:
    """Level -> bytes that each thread reads to measure it; "DRAM" last.

    caches: bytes by level, smallest first; shared: how many CPUs use one of them. A level
    whose share for one thread is no larger than what lies before it is left out.
    """
    found: dict[str, int] = {}
    before = last = 0
    for name, size in caches.items():
        region = size // 2 // max(1, min(threads, shared.get(name, 1)))
        last = max(last, size)
        if region > before:
            found[name] = region
            before = size
    whole = min(MOST_DRAM, max(LEAST_DRAM, 4 * last))
    return found | {"DRAM": whole // threads}


def measure(
    isas: Sequence[Isa],
    counts: Sequence[int],
    *,
    progress: Callable[[], object] = lambda: None,
) -> list[Entry]:
    """The roofs for all instruction sets and numbers of threads.

    progress: is called after each of :func:`measurements`.
    """
    from tinyface.backends import roof

    caches = machine.caches() or UNKNOWN
    entries = []
    for isa in isas:
        for threads in counts:
            macs, ns = _long_enough(partial(roof.peak, isa, threads))
            progress()
            levels = []
            for name, nbytes in regions(caches, machine.cache_sharing(), threads).items():
                # written, because untouched pages of zeros are all one page of memory
                x = np.full((threads, roof.whole(isa, nbytes // 4)), 0.5, np.float32)
                read, read_ns = _long_enough(partial(roof.stream, isa, x))
                levels.append(Level(name, read / read_ns, caches.get(name)))
                progress()
            entries.append(Entry(isa.name, threads, Roofs(macs / ns, tuple(levels))))
    return entries


def measurements(isas: Sequence[Isa], counts: Sequence[int]) -> int:
    """How many times :func:`measure` will call ``progress``."""
    caches, shared = machine.caches() or UNKNOWN, machine.cache_sharing()
    return len(isas) * sum(1 + len(regions(caches, shared, threads)) for threads in counts)


def thread_counts() -> list[int]:
    """One, and all that this process may use."""
    return sorted({1, default_threads()})


def _long_enough(run: Callable[[int], tuple[int, int, Array]]) -> tuple[int, int]:
    """(work, ns) of ``run(rounds)`` with enough rounds for the clock not to matter."""
    rounds = 1
    while True:
        work, ns, _ = run(rounds)
        if ns >= TARGET_NS // 2 or rounds >= MAX_ROUNDS:
            return work, ns
        rounds = min(MAX_ROUNDS, rounds * max(2, min(1000, round(TARGET_NS / ns))))


# ------------------------------------------------------------------------------- keeping


_UNREADABLE: Final = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, TinyfaceError,
)  # fmt: skip


def path() -> Path:
    """Where the roofs of this machine are kept: in the user's folder of models."""
    return modelstore.user_folder() / FILE


def document(entries: Sequence[Entry], disturbance: str = "") -> dict[str, Any]:
    """The form in which they are kept."""
    return {
        "schema": SCHEMA,
        "machine": machine.describe(),
        "disturbance": disturbance,
        "engines": [entry.to_json() for entry in entries],
    }


def save(found: dict[str, Any]) -> Path:
    """Write a document to :func:`path`.

    Raises:
        UsageError: it cannot be written.
    """
    target = modelstore.made_user_folder() / FILE
    with atomic_write(target, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    return target


def kept(isa: str, threads: int) -> Roofs | None:
    """The roofs kept for this machine; None where there are none, or they are another's, or other
    work was running while they were measured."""
    with contextlib.suppress(*_UNREADABLE):
        found = json.loads(path().read_text(encoding="utf-8"))
        if found["machine"]["cpu"] == machine.cpu_name() and not found["disturbance"]:
            return Roofs.from_json(found, isa, threads)
    return None


def of_this_machine(threads: int) -> Roofs | None:
    """Kept roofs, else measured ones (about a second); None without the C engine."""
    if not c.available():
        return None
    isa = c.choose_isa()
    known = kept(isa.name, threads)
    if known is None:
        (entry,) = measure([isa], [threads])
        known = entry.roofs
    return known


def rows(entries: Sequence[Entry]) -> Iterator[list[str]]:
    """For a table: instruction set, threads, GMAC/s, GB/s of each level."""
    for entry in entries:
        rates = (f"{level.gb_per_s:.1f}" for level in entry.roofs.levels)
        yield [entry.isa, str(entry.threads), f"{entry.roofs.gmac_per_s:.1f}", *rates]
