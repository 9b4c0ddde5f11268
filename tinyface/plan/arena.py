"""Where each buffer lies: as little memory as the buffers alive at one time need."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tinyface.plan.model import ALIGN, Buffer, Step

Life = tuple[int, int]  # first and last step that touch a buffer
TRIES = 10  # orders more, where a few well-known ones are not the best possible


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
    those around the busiest step first. Where the best is above the lower bound, the buffer that
    ends on top is placed before all others, as often as ``TRIES`` allows.
    """
    orders: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
        lambda b: (-padded(b), life[b][0]),
        lambda b: (life[b][0] - life[b][1], -padded(b)),
        lambda b: (life[b][0], -padded(b)),
        lambda b: (-life[b][1], -padded(b)),
        lambda b: (-padded(b) * (life[b][1] - life[b][0] + 1),),
    )
    if not life:
        return 0, 0
    bound = lower_bound(life, steps)
    best = _first_fit(sorted(life, key=orders[0]), life)
    for order in orders[1:]:
        if best.size > bound:
            best = min(best, _first_fit(sorted(life, key=order), life), key=lambda fit: fit.size)
    fit = best
    for _ in range(TRIES):
        if best.size > bound:
            fit = _first_fit([fit.top, *(b for b in fit.offsets if b is not fit.top)], life)
            best = min(best, fit, key=lambda fit: fit.size)
    for buffer, offset in best.offsets.items():
        buffer.offset = offset
    return best.size, bound


class _Fit(NamedTuple):
    """Where buffers lie, in the order in which they were placed; floats needed; who ends on top."""

    offsets: dict[Buffer, int]
    size: int
    top: Buffer


def _first_fit(order: Sequence[Buffer], life: dict[Buffer, Life]) -> _Fit:
    offsets: dict[Buffer, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # begin, end, first and last step; ascending
    size, top = 0, order[0]
    for buffer in order:
        need = padded(buffer)
        first, last = life[buffer]
        at = 0
        for begin, end, born, dead in placed:
            if born <= last and first <= dead:
                if at + need <= begin:
                    break
                at = max(at, end)
        insort(placed, (at, at + need, first, last))
        offsets[buffer] = at
        if at + need > size:
            size, top = at + need, buffer
    return _Fit(offsets, size, top)
