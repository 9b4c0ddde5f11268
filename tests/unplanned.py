"""Plans without overlaps: what differs from them was read after another step wrote over it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tinyface.plan import arena


@contextmanager
def unplanned() -> Iterator[None]:
    """Within it, every buffer of a plan that is made has a place of its own."""
    place, arena.place = arena.place, _apart
    try:
        yield
    finally:
        arena.place = place


def _apart(life: dict[arena.Buffer, arena.Life], steps: int) -> tuple[int, int]:
    size = 0
    for buffer in life:
        buffer.offset = size
        size += arena.padded(buffer)
    return size, size
