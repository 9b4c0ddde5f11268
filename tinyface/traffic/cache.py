"""A model of the bytes that pass the last cache: which lines a plan touches, in order, through one
cache that throws out what was used longest ago.

The model knows the plan and nothing else: no program runs. It leaves out prefetching, code, the
stack, and L1 (lines that L1 delivers do not look used to a cache behind it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyface.plan import Plan
from tinyface.plan.walk import Walker

LINE = 64  # bytes


@dataclass(frozen=True)
class Past:
    """Bytes that a step moves between the last cache and memory: lines filled (reads, and writes
    to lines that are not there), and lines written back."""

    filled: int
    written: int

    @property
    def bytes(self) -> int:
        return self.filled + self.written


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
