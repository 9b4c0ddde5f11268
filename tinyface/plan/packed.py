"""What a convolution that packs its inputs keeps in scratch, as csrc/packed.h lays it out.

Pixels are taken in chunks. A chunk has the pointers of its tiles (csrc/conv.h), jobs (up to 12
pixels on some taps of the window), sums of one panel, and the packed inputs. On small maps with
much padding a tap takes only the pixels whose input exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tinyface.plan.model import FLOAT, POINTER, Step

JOB = 80  # bytes of packed_job
ROWS = 12  # TF_PACK_ROWS
CHUNK = 192 << 10  # TF_PACK_BYTES
LONG = 384  # products of a job, unless it is one tap


@dataclass(frozen=True)
class Chunk:
    """Bytes in scratch of one chunk of pixels. table: of pointers; sums: of one panel; inputs:
    packed."""

    table: int
    jobs: int
    sums: int
    inputs: int


def packs(step: Step) -> bool:
    """Does this step pack its inputs?"""
    return step.kernel.startswith("packed_")


def chunks(step: Step, tasks: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The chunks, first and last output (excluded), of tasks' outputs."""
    for m0, m1 in tasks:
        size = chunk_size(step, min(m1 - m0, int(step.fields["block"])))
        for first in range(m0, m1, size):
            yield first, min(first + size, m1)


def chunk_size(step: Step, pixels: int) -> int:
    """Pixels of a chunk, where a task has so many."""
    tile = ROWS * _taps(step) * step.x.shape[1] * FLOAT
    fits = pixels if chooses(step) else max(1, CHUNK // tile) * ROWS
    return -(-min(fits, pixels) // ROWS) * ROWS


def chunk(step: Step, first: int, end: int) -> Chunk:
    """The chunk of outputs first … end - 1, numbered row by row over all images."""
    count, taps, kc = end - first, _taps(step), step.x.shape[1]
    if chooses(step):
        on = [sum(_exists(step, tap, i) for i in range(first, end)) for tap in range(taps)]
        jobs, rows = sum(-(-n // ROWS) for n in on), sum(map(_padded, on))
    else:
        kw = int(step.fields["kw"])
        span = taps if taps * kc <= LONG else kw if kw * kc <= LONG else 1
        jobs, rows = -(-count // ROWS) * (taps // span), _padded(count) * taps
    sums = (chunk_size(step, count) + ROWS) * 2 * step.isa.lanes * FLOAT
    return Chunk(count * (taps + 2) * POINTER, jobs * JOB, sums, rows * kc * FLOAT)


def chooses(step: Step) -> bool:
    """Does a tap take only pixels whose input exists? (tf_pack_chooses in csrc/engine.h)"""
    n, _, oh, ow = step.y.shape
    taps = _taps(step)
    if step.bands or n * oh * ow > 64 or taps > 64 or taps == 1 or step.x.shape[1] < 32:
        return False
    there = sum(_exists(step, tap, i) for tap in range(taps) for i in range(oh * ow))
    return 8 * there < 7 * oh * ow * taps


def _exists(step: Step, tap: int, output: int) -> bool:
    """Is the input of this tap for this output within the map?"""
    _, _, h, w = step.x.shape
    f, (_, _, oh, ow) = step.fields, step.y.shape
    tops = divmod(tap, int(f["kw"]))
    places = divmod(output % (oh * ow), ow)
    for side, place, top, axis, pad in zip((h, w), places, tops, "hw", ("pt", "pl"), strict=True):
        at = place * int(f[f"s{axis}"]) + top * int(f[f"d{axis}"]) - int(f.get(pad, 0))
        if not 0 <= at < side:
            return False
    return True


def _padded(rows: int) -> int:
    """Rows of all jobs, those of the last rounded up to four."""
    return -(-rows // 4) * 4


def _taps(step: Step) -> int:
    return int(step.fields["kh"]) * int(step.fields["kw"])
