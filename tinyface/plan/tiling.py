"""Block sizes and task counts: what stays in which cache, and what the threads share.

Nothing here changes a result: each output is computed by one task, in one order.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyface.plan.model import FLOAT, Isa

CACHE = 256 << 10  # bytes: half of the smallest L2 in use (Raspberry Pi 5: 512 KiB a core)
MAX_TASKS = 16  # a few per thread even out threads of unequal speed
LEAST_WORK = 20_000  # MACs or elements below which handing a task over costs more than it saves


@dataclass(frozen=True)
class Blocks:
    """Pixels and panels of one convolution task, how many tasks there are, and why."""

    pixels: int
    panels: int
    tasks: int
    reason: str


def conv_blocks(isa: Isa, pixels: int, k: int, outputs: int, groups: int, fresh: int) -> Blocks:
    """Blocks for ``pixels`` outputs of ``outputs`` channels, a reduction of ``k`` in each group.

    fresh: input floats that one more output pixel brings in.
    """
    wide = 2 * isa.lanes
    panels = -(-(outputs // groups) // wide) * groups
    weights = k * outputs // groups * groups * FLOAT
    work = pixels * k * outputs
    tasks = max(1, min(MAX_TASKS, work // (4 * LEAST_WORK)))
    per_pixel = (fresh + outputs) * FLOAT
    fits = max(isa.rows_wide, CACHE // max(per_pixel, 1))
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
    block = min(fits, -(-pixels // tasks))
    block = min(pixels, -(-block // isa.rows_wide) * isa.rows_wide)
    count = -(-pixels // block)
    return Blocks(block, panels, count, f"{block} pixels a block: the weights stay in L2")


def row_tasks(rows: int, work: int) -> int:
    """Tasks for an operator whose unit is a row; ``work``: MACs or elements altogether."""
    return max(1, min(MAX_TASKS, rows, work // LEAST_WORK))


def winograd_block(isa: Isa, tiles: int, channels: int, outputs: int) -> int:
    """Tiles per task: the transformed inputs (36 floats a channel and tile) stay in L2, and the
    weights, read once per block, are used by as many rows as that allows."""
    fits = 2 * CACHE // (36 * channels * FLOAT)
    block = max(2 * isa.rows_wide, min(fits, 8 * isa.rows_wide))
    count = -(-tiles // block)
    if count < 4 and tiles >= 4 * isa.rows_wide:
        count = 4  # something to share
    return -(-tiles // count)
