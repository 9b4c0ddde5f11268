"""3x3 convolutions through Winograd's minimal filtering (csrc/winograd.h)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyface.graph import Node
from tinyface.ops.spec import Array
from tinyface.plan.model import RIVALS, TRANSFORMED, Buffer, View
from tinyface.plan.pack import winograd_panels
from tinyface.plan.planner import Planner
from tinyface.plan.tiling import Tiles, odd_lines, row_tasks, winograd_tiles

FEWEST = 8  # channels on either side: with less, transforms cost more than they save


def winograd_cut(p: Planner, op: Any, weight: Array, y: View) -> Tiles | None:
    """How to cut this convolution, if Winograd can compute it and costs less.

    What becomes of weights stored as fp16 is fp32 (U would lose more by rounding than w), which
    its cost counts. It still wins on large maps: there direct kernels take half as long again.
    """
    plain = weight.shape[2:] == (3, 3) and op.dilation == (1, 1) and op.groups == 1
    if not plain or op.stride not in ((1, 1), (2, 2)) or min(weight.shape[:2]) < FEWEST:
        return None
    (n, _, h, w), (o, c) = y.shape, weight.shape[:2]
    return winograd_tiles(p.isa, (n, o, h, w), c, op.stride[0], p.threads, weight.dtype.itemsize)


def winograd(
    p: Planner,
    node: Node,
    tiles: Tiles,
    x: View,
    y: View,
    z: View | None,
    weight: Array,
    fields: dict[str, Any],
    params: dict[str, int],
) -> None:
    """One step, or two: the input transformed for the whole map, and the rest."""
    o, c = weight.shape[:2]
    stride, pixels = fields["sh"], y.shape[0] * y.shape[2] * y.shape[3]
    params["w"] = p.packer.add(
        (node.inputs[1], "winograd", tiles.tile, stride, fields["flags"] & RIVALS),
        lambda: winograd_panels(weight, p.isa.lanes, tiles.tile, stride),
    )
    p.packer.need_zeros(max(c, 2 * p.isa.lanes))
    fields = fields | {"tile": tiles.tile}
    kernel = f"winograd_{p.isa.name}_{tiles.tile}x{tiles.tile}"
    if tiles.apart:
        x = transformed(p, node, tiles, x, fields)
        pads = {"pt": 0, "pl": 0, "pb": 0, "pr": 0}
        fields |= pads | {"flags": fields["flags"] | TRANSFORMED}
    stored = "; transformed weights are fp32" if weight.dtype == np.float16 else ""
    products = f"{tiles.side**2 * tiles.count * c * o / 1e6:.0f} M products"
    p.emit(
        node.name, node.op.kind, kernel, x, y, z, node=node, params=params,
        reason=f"{products}, not {9 * pixels * c * o / 1e6:.0f} M{stored}",
        **fields | {"op": "TF_WINOGRAD", "block": tiles.block, "panels": tiles.panels,
                    "tasks": tiles.tasks},
    )  # fmt: skip


def transformed(p: Planner, node: Node, tiles: Tiles, x: View, fields: dict[str, Any]) -> View:
    """V as a map: a row for each of the side^2 matrices, a pixel for each tile."""
    n, c, _, _ = x.shape
    squares, name = tiles.side**2, f"{node.name}.tiles"
    row = odd_lines(tiles.count * c)
    buffer = Buffer("arena", name, squares * row)
    v = View(buffer, (n, c, squares, tiles.count), 0, 0, row, c)
    geometry = ("kh", "kw", "sh", "sw", "pt", "pl", "pb", "pr", "zero", "tile")
    p.emit(
        name, "layout", f"winograd_{p.isa.name}_input", x, v,
        reason="the weights outweigh it: panels share it", op="TF_WINO_IN",
        tasks=row_tasks(tiles.count, 4 * squares * tiles.count * c),
        **{key: fields[key] for key in geometry},
    )  # fmt: skip
    return v
