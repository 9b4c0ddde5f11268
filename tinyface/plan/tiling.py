"""Block sizes and task counts: what stays in which cache, and what the threads share.

Nothing here changes a result: each output is computed by one task, in one order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyface.plan.model import FLOAT, HALF, Isa

CACHE = 256 << 10  # bytes: half of the smallest L2 in use (Raspberry Pi 5: 512 KiB a core)
L2 = 4 * CACHE  # of a board: Raspberry Pi 4
MAX_TASKS = 16  # a few per thread even out threads of unequal speed
TRANSFORM, GATHER = 8, 13  # MACs that Winograd's transforms cost per value of V, of M: measured
BYTE = 3  # MACs in the time that a byte of weights takes, of 4 or 8 lanes; 16 do twice as many
OVERLAP = 0.1  # how much of the shorter of the two, products and weights, is waited for, too, where
# weights are fetched ahead: fitted to 56 layers on a Xeon, whose choices take 0.2 % too long
UNPACKED = 1.35  # cost of a MAC of Winograd's products over one of the direct kernel that packs its
# inputs: FDFaceNet on a Pi 4 took 36.0 M instructions without Winograd and 36.4 M with it
BANDED = 20_000  # elements of a map from which a mean of all of them is taken by bands
LEAST_WORK = 5_000  # MACs or elements below which handing a task over costs more than it saves:
# little, because threads that share every step find their part of a map in their own cache

LITTLE, LARGE, LEAST_TILES = 25, 96, 4  # tiles of a block; 25 are half of a map of 28 x 28
AGAIN = 6  # so many weights may be read again for a number of transformed input from another core
MAX_TABLE = 2 << 20  # pointers to the rows of a block: more than any usual window needs
EVEN_WINDOW = 50  # products of an output up to which it pays that tiles go row by row
PACK_PANELS = 5  # panels of a task from which on packing its inputs pays


@dataclass(frozen=True)
class Blocks:
    """Pixels and panels of one convolution task, how many tasks there are, and why."""

    pixels: int
    panels: int
    tasks: int
    reason: str


def conv_blocks(
    isa: Isa, pixels: int, k: int, outputs: int, groups: int, fresh: int, threads: int,
    taps: int = 1, row: int = 1,
) -> Blocks:  # fmt: skip
    """Blocks for ``pixels`` outputs of ``outputs`` channels, a reduction of ``k`` in each group.

    fresh: input floats that one more output pixel brings in. taps: of the window; each is a pointer
    in the table of a block's rows. row: pixels of a row, where tiles go row by row
    (:func:`even_tiles`). One thread has nothing to share, and
    short blocks begin every panel anew: GhostFaceNet-v2 takes 0.97 of the time (Zen 3) in long
    ones. But packed inputs of short ones stay in L1 (MobileFaceNet on a Pi 4: 2.18 M misses, in
    long ones 2.42 M).
    """
    wide = 2 * isa.lanes
    panels = -(-(outputs // groups) // wide) * groups
    if packs(isa, outputs, groups) and k * outputs * FLOAT > CACHE:
        return packed_blocks(isa, pixels, k, panels)
    weights = k * outputs // groups * groups * FLOAT
    work = pixels * k * outputs
    most = MAX_TASKS if threads > 1 or isa.rows_pack else 1
    tasks = max(1, min(most, work // (16 * LEAST_WORK)))
    per_pixel = (fresh + outputs) * FLOAT
    fits = max(isa.rows_wide, min(CACHE // max(per_pixel, 1), MAX_TABLE // (taps + 2)))
    if weights > CACHE and fits >= pixels:
        # Weights dominate: read each once, all pixels at hand; threads share the panels.
        per_task = -(-panels // tasks)
        count = -(-panels // per_task)
        return Blocks(pixels, per_task, count, "all pixels a panel: each weight is read once")
    if weights > CACHE:
        blocks = -(-pixels // fits)
        block = -(-pixels // blocks)
        share = max(1, tasks // blocks)
        per_task = -(-panels // share)
        count = blocks * -(-panels // per_task)
        return Blocks(block, per_task, count, f"{block} pixels a block: it stays in L2")
    beside = (5 * CACHE // 4 - weights) // max(per_pixel, 1)  # what the weights leave of L2
    block = max(isa.rows_wide, min(fits, beside, -(-pixels // tasks)))
    rows = isa.rows_pack if packs(isa, outputs, groups) else isa.rows_wide if row == 1 else row
    block = min(pixels, -(-block // rows) * rows)
    count = -(-pixels // block)
    return Blocks(block, panels, count, f"{block} pixels a block: the weights stay in L2")


def even_tiles(isa: Isa, fields: Mapping[str, Any], channels: int, width: int) -> bool:
    """Do the tiles of a convolution with these fields go row by row, as ``conv_cut_of``
    (csrc/conv.h) has it, where blocks are whole rows? channels: of the input; width: of a row of
    outputs."""
    f, outputs, taps = fields, fields["oc"] // fields["groups"], fields["kh"] * fields["kw"]
    most = isa.rows(outputs)
    filled = 13 * width >= 12 * most * -(-width // most)
    small = taps > 2 and taps * channels // f["groups"] <= EVEN_WINDOW
    inside = not any(f.get(side) for side in ("pt", "pl", "pb", "pr"))
    return filled and small and inside and not f["flags"] & HALF and not packs(isa, outputs, 1)


def packs(isa: Isa, outputs: int, groups: int) -> bool:
    """Are inputs packed? As ``tf_packs`` (csrc/engine.h) decides, for tasks as made here."""
    return bool(isa.rows_pack) and groups == 1 and -(-outputs // (2 * isa.lanes)) >= PACK_PANELS


def packed_blocks(isa: Isa, pixels: int, k: int, panels: int) -> Blocks:
    """Blocks where inputs are packed and the weights outgrow the cache: a task's weights stay in
    it while all pixels pass, and it has enough panels to be worth the packing: 3 % of the
    instructions with twelve, 6 % with six. Of up to 64 pixels all are packed at once, and weights
    pass but once."""
    panel = k * 2 * isa.lanes * FLOAT
    enough = 12 if pixels <= 64 else min(12, max(6, L2 // 2 // panel))
    most = max(enough, CACHE // panel)
    groups = -(-panels // most)
    per_task = -(-panels // groups)
    groups = -(-panels // per_task)
    blocks = max(1, min(-(-4 // groups), pixels // (4 * isa.rows_pack)))
    block = -(-pixels // blocks // isa.rows_pack) * isa.rows_pack
    count = groups * -(-pixels // block)
    return Blocks(block, per_task, count, f"{per_task} panels a task: their weights stay in L2")


def row_tasks(rows: int, work: int) -> int:
    """Tasks for an operator whose unit is a row; ``work``: MACs or elements altogether."""
    return max(1, min(MAX_TASKS, rows, work // LEAST_WORK))


def equal_bands(rows: int) -> int:
    """How many bands of as many rows each, at most ``MAX_TASKS``, a map of ``rows`` makes."""
    return max(bands for bands in range(1, MAX_TASKS + 1) if rows % bands == 0)


def odd_lines(floats: int) -> int:
    """Floats of the next odd number of cache lines, as ``tf_odd_lines`` (csrc/engine.h)."""
    return (-(-floats // 16) | 1) * 16


@dataclass(frozen=True)
class Tiles:
    """How a 3x3 convolution is cut for Winograd: outputs on a side of a tile, inputs on a side,
    tiles; tiles and panels per task; is the input transformed by a step of its own?"""

    tile: int
    side: int
    count: int
    block: int
    panels: int
    tasks: int
    apart: bool


def winograd_tiles(
    isa: Isa,
    shape: tuple[int, int, int, int],
    channels: int,
    stride: int,
    threads: int = 1,
    stored: int = FLOAT,
) -> Tiles | None:
    """The best way to cut a 3x3 convolution with this output shape (n, o, h, w); None where the
    direct one costs least. threads: they change how it is cut, never how it is computed. stored:
    bytes of a weight as the direct one reads it."""
    n, o, h, w = shape
    mac = UNPACKED if packs(isa, o, 1) else 1.0
    best, least = None, _time(isa, 9 * n * h * w * channels * o, 9 * stored * channels * o)
    for tile in (4, 2):
        count, side = n * -(-h // tile) * -(-w // tile), (tile - 1) * stride + 3
        each = channels * o + TRANSFORM * channels + GATHER * o
        rows = max(count, isa.rows_wide)  # fewer do not take less time
        cut = _cut(isa, tile, side, count, channels, o, threads)
        nbytes = (tile + 2) ** 2 * FLOAT * channels * o
        if isa.board:
            nbytes = _passed(isa, cut, channels, nbytes)
        cost = _time(isa, mac * side**2 * rows * each, nbytes)
        if cost < least:
            best, least = cut, cost
    return best


def _passed(isa: Isa, cut: Tiles, channels: int, weights: int) -> int:
    """Bytes that go through a board's cache: all of U for each block of tiles, and for each of its
    panels V, where both do not fit."""
    if cut.apart:
        return weights
    panel = (cut.tile + 2) ** 2 * channels * 2 * isa.lanes * FLOAT
    v = cut.side**2 * cut.block * channels * FLOAT
    again = -(-weights // panel) * v if v + panel > L2 else 0
    return -(-cut.count // cut.block) * (weights + again)


def _time(isa: Isa, macs: float, nbytes: float) -> float:
    """What so many products and bytes of weights take, in the time of a product. Boards wait for
    their weights; wide vectors come with cores that fetch them meanwhile."""
    if isa.lanes < 8:
        return macs + BYTE * nbytes
    arrive = BYTE * isa.lanes / 8 * nbytes
    return max(macs, arrive) + OVERLAP * min(macs, arrive)


def _cut(
    isa: Isa, tile: int, side: int, count: int, channels: int, outputs: int, threads: int
) -> Tiles:
    """Tiles and panels per task: for all panels of a task its tiles are transformed once; or all
    tiles are, by a step of its own, and tasks share tiles and panels."""
    wide = 2 * isa.lanes
    panels = -(-outputs // wide)
    inputs, weights = side**2 * count * channels, (tile + 2) ** 2 * channels * outputs
    if isa.lanes >= 8:
        most = max(1, count // LEAST_TILES)
        blocks = _blocks(count, weights, min(threads, most))
        apart = (blocks - 1) * weights > AGAIN * inputs
        if apart:  # as large as one matrix of V may be, but something to share for all
            shared = min(-(-threads // panels), most)
            blocks = max(-(-count * channels * FLOAT // CACHE), shared)
        ranges = -(-threads // blocks)
    else:
        apart = inputs <= weights and inputs * FLOAT <= 5 * CACHE // 2
        fits = 3 * CACHE // (side**2 * (channels + wide) * FLOAT)  # with their sums for one panel
        blocks = -(-count // max(2 * isa.rows_wide, min(fits, 8 * isa.rows_wide)))
        # to have something to share: to transform twice costs less than to read weights twice
        ranges = 2 if blocks < 4 and count >= 4 * isa.rows_wide else 1
    per_task = 1 if apart else -(-panels // ranges)
    block = -(-count // blocks)
    tasks = -(-count // block) * -(-panels // per_task)
    return Tiles(tile, side, count, block, per_task, tasks, apart)


def _blocks(count: int, weights: int, parts: int) -> int:
    """Blocks of tiles for wide vectors: a part of the map for every thread, so that it transforms
    what it multiplies and writes what it will read. What goes from core to core costs more than to
    read the weights again, unless they are many times the input (AGAIN): with two threads of a Xeon
    96 channels on 28x28 take 116 us, and 244 where a step of its own transforms the input. Large
    maps have blocks whose V stays in L2, or larger ones where weights are many, because all pass
    once for each. On a Zen 3 core 512 channels on 28x28 took 25.7 ms in blocks of 10 tiles, 15.7 ms
    in one."""
    few = LITTLE if weights * FLOAT <= 4 * CACHE else LARGE
    return -(-count // (parts * few)) * parts
