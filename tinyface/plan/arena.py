"""Where each buffer lies: as little memory as the buffers alive at one time need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tinyface.plan.model import ALIGN, Buffer, Step

Life = tuple[int, int]  # first and last step that touch a buffer


def lives(steps: Sequence[Step]) -> dict[Buffer, Life]:
    """First and last use of every arena buffer; the members of a chain run at the same time."""
    found: dict[Buffer, Life] = {}
    begin, end = 0, -1
    for i, step in enumerate(steps):
        if i > end:
            begin, end = i, i + step.chain - 1
        for buffer in step.buffers:
            if buffer.kind == "arena":
                found[buffer] = (found.get(buffer, (begin, end))[0], end)
    return found


def padded(buffer: Buffer) -> int:
    """Size in floats, rounded up to whole cache lines."""
    return -(-buffer.size // ALIGN) * ALIGN


def lower_bound(life: dict[Buffer, Life], steps: int) -> int:
    """The largest sum of buffers alive at one step, in floats."""
    load = [0] * (steps + 1)
    for buffer, (first, last) in life.items():
        load[first] += padded(buffer)
        load[last + 1] -= padded(buffer)
    most = now = 0
    for change in load:
        now += change
        most = max(most, now)
    return most


def place(life: dict[Buffer, Life], steps: int) -> tuple[int, int]:
    """Set every buffer's offset; (floats needed, lower bound).

    First fit: buffers are placed one by one at the lowest offset that is free during their
    whole life. The order matters, so a few are tried: largest first, longest life first, and
    those around the busiest step first. The best is kept.
    """
    orders: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
        lambda b: (-padded(b), life[b][0]),
        lambda b: (life[b][0] - life[b][1], -padded(b)),
        lambda b: (life[b][0], -padded(b)),
        lambda b: (-life[b][1], -padded(b)),
        lambda b: (-padded(b) * (life[b][1] - life[b][0] + 1),),
    )
    bound = lower_bound(life, steps)
    best: dict[Buffer, int] = {}
    least = -1
    for order in orders:
        offsets, size = _first_fit(sorted(life, key=order), life)
        if least < 0 or size < least:
            best, least = offsets, size
        if least == bound:
            break
    for buffer, offset in best.items():
        buffer.offset = offset
    return max(least, 0), bound


def _first_fit(order: Sequence[Buffer], life: dict[Buffer, Life]) -> tuple[dict[Buffer, int], int]:
    offsets: dict[Buffer, int] = {}
    size = 0
    for buffer in order:
        first, last = life[buffer]
        busy = sorted(
            (offset, offset + padded(other))
            for other, offset in offsets.items()
            if life[other][0] <= last and first <= life[other][1]
        )
        at = 0
        for begin, end in busy:
            if at + padded(buffer) <= begin:
                break
            at = max(at, end)
        offsets[buffer] = at
        size = max(size, at + padded(buffer))
    return offsets, size
