"""Cache lines of a convolution whose panels go on to a depthwise step at once (csrc/chain.c)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinyface.ops.spec import Array
from tinyface.plan.lines import Pass, Walk, run
from tinyface.plan.model import Step
from tinyface.plan.touched import Range

if TYPE_CHECKING:
    from tinyface.plan.walk import Walker


def row_floats(a: Step, b: Step) -> int:
    """Floats of a row of one vector, with its zeros."""
    f = b.fields
    under = (int(f["ow"]) - 1) * int(f["sw"]) + int(f["kw"])
    return a.isa.lanes * max(int(f["pl"]) + int(a.fields["ow"]), under)


def kept_floats(a: Step, b: Step) -> int:
    """Floats of the rows of one vector that the next band needs, too."""
    return (int(b.fields["kh"]) - int(b.fields["sh"])) * row_floats(a, b)


def vectors(a: Step) -> int:
    """Of the channels that a convolution makes; two are a panel."""
    return -(-a.y.shape[1] // a.isa.lanes)


def held_floats(a: Step, b: Step, rows: int) -> int:
    """Floats between the two: up to ``rows`` rows of a panel, and what is kept of every one."""
    some = (int(b.fields["pt"]) + rows + int(b.fields["kh"])) * row_floats(a, b)
    return 2 * some + vectors(a) * kept_floats(a, b)


def handed(
    walker: Walker, pair: tuple[Step, Step], own: Range, later: Range, places: Sequence[int]
) -> Iterator[tuple[int, Pass]]:
    """(0 or 1, pass) of both steps: ``own`` outputs of the first, ``later`` ones of the second.
    places: beginning and end of what lies between them; where the kernels' scratch begins."""
    a, b = pair
    start, end, scratch = places
    rows = (own[1] - own[0]) // int(a.fields["ow"])
    panel = -1  # the first thing written is the table
    for lines_of_pass, write in walker.walk(a, [own], scratch) if own[0] < own[1] else ():
        if write and panel >= 0:
            new, halo = _panel(pair, panel, rows, start, end)
            yield 0, (new, True)
            yield from ((1, p) for p in _read(walker, b, panel, later, new, halo))
        else:
            yield 0, (lines_of_pass, write)
        panel += write
    if panel < 0 and later[0] < later[1]:  # rows that are kept are enough
        for p in range(-(-vectors(a) // 2)):
            new, halo = _panel(pair, p, 0, start, end)
            yield from ((1, q) for q in _read(walker, b, p, later, new[:0], halo))


def _panel(
    pair: tuple[Step, Step], panel: int, rows: int, start: int, end: int
) -> tuple[Array, Array]:
    """Lines of the new rows of a panel, and of its rows that are kept: of two vectors, or one."""
    a, b = pair
    left, kept = vectors(a) - 2 * panel, kept_floats(a, b)
    wide = min(left, 2)
    return run(start, wide * rows * row_floats(a, b)), run(end - left * kept, wide * kept)


def _read(walker: Walker, b: Step, panel: int, later: Range, new: Array, halo: Array) -> Walk:
    """What the second step does with a panel of the first."""
    (_, c, oh, ow), wide = b.y.shape, 2 * b.isa.lanes
    first = panel * wide
    count = min(wide, c - first)
    yield new, False
    yield halo, False
    for tap in range(int(b.fields["kh"]) * int(b.fields["kw"])):
        yield walker.params(b, "w", tap * c + first, count), False
    yield from walker.vectors(b, first, count)
    yield walker.some_channels(b.y, np.arange(*later), (oh, ow), first, count), True
    yield halo, True
