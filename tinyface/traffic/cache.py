"""A model of the bytes that pass the last cache: which lines a plan touches, in order, through one
cache that throws out what was used longest ago.

The model knows the plan and nothing else: no program runs. It leaves out prefetching, code, the
stack, and L1 (lines that L1 delivers do not look used to a cache behind it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tinyface.errors import UsageError
from tinyface.plan import Plan
from tinyface.plan.walk import Walker

LINE = 64  # bytes
MOST = 1 << 30  # bytes of a cache
UNITS = {"K": 1 << 10, "M": 1 << 20}


@dataclass(frozen=True)
class Cache:
    """A cache: bytes, and lines of a set."""

    nbytes: int
    ways: int = 16

    @staticmethod
    def parse(text: str) -> Cache:
        """From "512K", "1M" or, with the lines of a set, "1M:16".

        Raises:
            UsageError: it is no size of a cache.
        """
        found = re.fullmatch(r"([0-9]{1,6})([KM])(?::([0-9]{1,3}))?", text.strip().upper())
        size = int(found[1]) * UNITS[found[2]] if found else 0
        ways = int(found[3] or 16) if found else 0
        if not (0 < size <= MOST and 0 < ways * LINE <= size):
            raise UsageError(
                f"{text!r} is no size of a cache: give it as 512K, 1M or, with the number of lines "
                "in a set, 1M:16"
            )
        return Cache(size, ways)

    def __str__(self) -> str:
        whole = self.nbytes % UNITS["M"] == 0
        size = f"{self.nbytes >> 20} MiB" if whole else f"{self.nbytes >> 10} KiB"
        return f"{size}, {self.ways} ways"


@dataclass(frozen=True)
class Past:
    """Bytes that a step moves between the last cache and memory: lines filled (reads, and writes
    to lines that are not there), and lines written back."""

    filled: int
    written: int

    @property
    def bytes(self) -> int:
        return self.filled + self.written

    def to_json(self) -> dict[str, int]:
        return {"filled_bytes": self.filled, "written_back_bytes": self.written}


def past_cache(plan: Plan, nbytes: int, ways: int = 16, runs: int = 2) -> list[Past]:
    """For every step of a plan, the bytes past a cache, in the last of several runs.

    The cache is as the run before left it. One thread; of the lines that share a set the one that
    was not used for the longest time goes.

    Args:
        nbytes: size of the cache. ways: lines of a set. runs: at least 1.
    """
    walker = Walker(plan)
    cache = _Lru(max(1, nbytes // LINE // ways), ways)
    filled: list[int] = []
    written: list[int] = []
    for _ in range(runs):
        filled, written = [0] * len(plan.steps), [0] * len(plan.steps)
        for step, lines, write in walker.steps():
            cache.filled = cache.written = 0
            cache.touch(lines.tolist(), write)
            filled[step] += cache.filled
            written[step] += cache.written
    return [Past(a * LINE, b * LINE) for a, b in zip(filled, written, strict=True)]


class _Lru:
    """Sets of lines in the order of their last use: a dict keeps that order. Values: dirty."""

    def __init__(self, sets: int, ways: int) -> None:
        self.ways = ways
        self.sets: list[dict[int, bool]] = [{} for _ in range(sets)]
        self.filled = self.written = 0

    def touch(self, lines: Sequence[int], write: bool) -> None:
        sets, count, ways = self.sets, len(self.sets), self.ways
        for line in lines:
            held = sets[line % count]
            dirty = held.pop(line, None)
            if dirty is None:
                self.filled += 1
                if len(held) >= ways:
                    self.written += held.pop(next(iter(held)))
                held[line] = write
            else:
                held[line] = dirty or write
