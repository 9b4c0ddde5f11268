"""What lies around a map that has become part of a larger one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinyface.graph import Node
from tinyface.plan.model import View
from tinyface.plan.planner import Planner
from tinyface.plan.tiling import row_tasks
from tinyface.plan.views import fresh_map


def surround(
    p: Planner, node: Node, name: str, x: View, y: View, first: Sequence[int], value: float
) -> None:
    """y <- x from channel, row and column ``first`` on, the value everywhere else. What lies in
    the middle is copied, if it was not written there."""
    (n, c, h, w), (front, top, left) = y.shape, first
    offset = p.packer.add((node.name, "value", c), lambda: np.full(c, value, np.float32))
    fill = View(p.constants, (n, c, h, w), offset, 0)
    inner = replace(y, shape=x.shape, offset=y.offset + front + top * y.row + left * y.ld)
    if (x.buffer, x.offset, x.ld) != (inner.buffer, inner.offset, inner.ld):
        tasks = row_tasks(n * x.shape[2], math.prod(x.shape))
        p.emit(name, node.op.kind, "copy", x, inner, node=node, op="TF_AFFINE", tasks=tasks)
    for at, shape in borders(y, (front, top, left), (x.shape[1], x.shape[2], x.shape[3])):
        to = replace(y, shape=shape, offset=at)
        p.emit(
            f"{name}.border", node.op.kind, "fill", replace(fill, shape=shape), to, op="TF_AFFINE",
            tasks=row_tasks(n * shape[2], math.prod(shape)),
        )  # fmt: skip


def with_margins(p: Planner, node: Node, x: View, pads: tuple[int, int, int, int]) -> View:
    """The map with zeros around it, ``pads`` (top, left, bottom, right) wide, and no gaps between
    its pixels; itself if it is that already. As ``Planner.from_planes`` for what is no map yet."""
    n, c, h, w = x.shape
    top, left, bottom, right = pads
    if not max(pads) and x.ld == c:
        return x
    name = f"{node.outputs[0]}.around"
    y = fresh_map(name, (n, c, h + top + bottom, w + left + right))
    surround(p, node, name, x, y, (0, top, left), 0.0)
    return y


def borders(
    y: View, first: tuple[int, int, int], size: tuple[int, int, int]
) -> list[tuple[int, tuple[int, int, int, int]]]:
    """(first float, shape) of the parts of a map that lie around the middle: rows above and below;
    beside it, columns; on its pixels, channels. first, size: of the middle, (c, h, w)."""
    n, c, h, w = y.shape
    (front, top, left), (mc, mh, mw) = first, size
    middle = y.offset + top * y.row
    pixels = middle + left * y.ld
    parts = [
        (y.offset, (n, c, top, w)),
        (y.offset + (top + mh) * y.row, (n, c, h - top - mh, w)),
        (middle, (n, c, mh, left)),
        (middle + (left + mw) * y.ld, (n, c, mh, w - left - mw)),
        (pixels, (n, front, mh, mw)),
        (pixels + front + mc, (n, c - front - mc, mh, mw)),
    ]
    return [(at, shape) for at, shape in parts if min(shape) > 0]
