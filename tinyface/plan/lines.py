"""Lines of a cache, and what passes over them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyface.ops.spec import Array
from tinyface.plan.model import ALIGN

Pass = tuple[Array, bool]  # lines, and whether they are written
Walk = Iterator[Pass]


def lines(first: Array, count: int) -> Array:
    """Lines of runs of ``count`` floats that begin at the floats ``first``, in that order."""
    low, high = first // ALIGN, (first + count - 1) // ALIGN
    widths = high - low + 1
    if first.size and (widths == widths[0]).all():
        return (low[:, None] + np.arange(widths[0])).ravel()
    ends = np.cumsum(widths)
    return np.repeat(low - ends + widths, widths) + np.arange(ends[-1] if ends.size else 0)


def run(first: int, count: int) -> Array:
    """Lines of one run of floats."""
    return np.arange(first // ALIGN, (first + max(count, 1) - 1) // ALIGN + 1)
