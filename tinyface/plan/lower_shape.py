"""Operators that rename or move values: views where addressing can do it, else copies."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tinyface.graph import Node
from tinyface.plan import lower_flat as flat
from tinyface.plan.homes import NHWC, joins_channels
from tinyface.plan.model import MIRRORED, Shuffle, View
from tinyface.plan.planner import Planner
from tinyface.plan.tiling import row_tasks
from tinyface.plan.views import one_pixel

HWNC = (2, 3, 0, 1)


def tasks(view: View, work: int = 1) -> int:
    """Tasks for an operator that is shared by rows; ``work`` per output element."""
    n, c, h, w = view.shape
    return row_tasks(n * h, n * c * h * w * work)


def reshape(p: Planner, node: Node) -> None:
    """The same floats under another shape, wherever the layout allows."""
    if flat.reshape(p, node):
        return
    name, result = node.inputs[0], node.outputs[0]
    old, new = p.shape(name), p.shape(result)
    view = p.as_map(name) if p.at(name).shuffled else p.at(name)
    flattened = view.is_map and len(old) == 4 and len(new) == 2 and new[0] == old[0]
    if flattened and math.prod(old[2:]) > 1 < old[1] and view.dense:
        p.bind(result, replace(view, planar=(old[1], old[2], old[3])))
        return
    rows = p.as_flat(name)
    img = rows.img
    if new[0] != old[0]:  # images are cut anew: there must be no gaps between them
        rows = rows if img == math.prod(old[1:]) else compact(p, name, rows)
        img = math.prod(new[1:])
    p.bind(result, View(rows.buffer, new, rows.offset, img))


def compact(p: Planner, name: str, rows: View) -> View:
    """A copy without gaps between the images."""
    out = p.new(p.spare(f"{name}.dense"), rows.shape, as_map=False)
    x, y = one_pixel(rows), one_pixel(out)
    p.emit(f"{name}.dense", "copy", "copy", x, y, op="TF_AFFINE")
    return out


def transpose(p: Planner, node: Node) -> None:
    """NCHW to NHWC is a change of name here, and back; of one picture, to HWNC as well."""
    name, result = node.inputs[0], node.outputs[0]
    perm: tuple[int, ...] = node.op.perm  # type: ignore[attr-defined]
    shape = p.shape(name)
    if result in p.views:  # a product was written there
        return
    if p.unmoved(name) is not None:
        flat.transpose(p, node)
    elif perm == NHWC or (perm == HWNC and shape[0] == 1):
        x = p.as_map(name)
        if not x.dense:
            out = p.new(result, as_map=False)
            n, c, h, w = x.shape
            y = View(out.buffer, x.shape, out.offset, out.img, w * c, c)
            p.emit(node.name, "transpose", "copy", x, y, op="TF_AFFINE", node=node, tasks=tasks(x))
            return
        img = x.img if perm == NHWC else math.prod(p.shape(result)[1:])
        p.bind(result, View(x.buffer, p.shape(result), x.offset, img))
    elif perm == (0, 3, 1, 2):
        rows = p.as_flat(name)
        n, h, w, c = shape
        p.bind(result, View(rows.buffer, (n, c, h, w), rows.offset, rows.img, w * c, c))
    elif perm == tuple(range(len(perm))):
        p.bind(result, p.at(name))
    else:
        flat.transpose(p, node)


def concat(p: Planner, node: Node) -> None:
    """Nothing to do for parts that were written in place; the others are copied."""
    whole = node.outputs[0]
    if not joins_channels(p.graph, node):
        return flat.concat(p, node)
    host = p.joint(whole)
    offset = 0
    for i, part in enumerate(node.inputs):
        size = p.shape(part)[1] * (1 if host.is_map else math.prod(p.shape(part)[2:]))
        there = p.at(part)
        if there.buffer is not host.buffer or there.offset != host.offset + offset:
            if host.is_map and there.shuffled:
                p.shuffle_into(part, host.part(there.shape, host.offset + offset))
                offset += size
                continue
            if host.is_map:
                x = p.as_map(part)
                y = host.part(x.shape, host.offset + offset)
            else:
                x = one_pixel(p.as_flat(part))
                y = replace(x, buffer=host.buffer, offset=host.offset + offset, img=host.img)
            copy_part(p, node, i, x, y)
        offset += size


def interleave(p: Planner, node: Node) -> None:
    """Nothing to do for parts whose pixels were written in place; the others are copied."""
    whole = node.outputs[0]
    host = p.joint(whole)
    block: tuple[int, int] = node.op.block  # type: ignore[attr-defined]
    for i, part in enumerate(node.inputs):
        x = p.as_map(part)
        y = host.part(x.shape, host.offset, divmod(i, block[1]), block)
        if (x.buffer, x.offset, x.ld) != (y.buffer, y.offset, y.ld):
            copy_part(p, node, i, x, y)


def copy_part(p: Planner, node: Node, i: int, x: View, y: View) -> None:
    """Part ``i`` of what a node joins."""
    p.emit(
        f"{node.outputs[0]}.{i}", node.op.kind, "copy", x, y, op="TF_AFFINE", tasks=tasks(x),
        reason="a part that could not be written in place",
    )  # fmt: skip


def split(p: Planner, node: Node) -> None:
    """Views of the whole."""
    if len(node.outputs) == 1:  # it only lets no other size pass
        return identity(p, node)
    rank = len(p.shape(node.inputs[0]))
    if node.inputs[0] in p.strided or rank not in (2, 4) or node.op.axis % rank != 1:  # type: ignore[attr-defined]
        return flat.split(p, node)
    x = p.at(node.inputs[0])
    x = x if x.shuffled else p.as_map(node.inputs[0])
    first = 0
    for name in node.outputs:
        n, c, *rest = p.shape(name)
        part = replace(x, shape=(n, c, *(rest or (1, 1))))
        if x.shuffled:
            order = replace(x.shuffled, first=x.shuffled.first + first)
            p.bind(name, replace(part, shuffled=order))
        else:
            p.bind(name, replace(part, offset=x.offset + first))
        first += c


def slices(p: Planner, node: Node) -> None:
    """A view with larger strides."""
    shape = p.shape(node.inputs[0])
    name = node.inputs[0]
    if name in p.strided or len(shape) not in (2, 4):
        return flat.slices(p, node)
    if name not in p.graph.inputs and flat.lies_flat(p, name, node.outputs[0]):
        return flat.slices(p, node)
    op: Any = node.op
    x = p.as_map(node.inputs[0])
    index = (*op.index(len(shape)), *[slice(None)] * (4 - len(shape)))
    ranges = [range(*s.indices(side)) for s, side in zip(index, x.shape, strict=True)]
    if ranges == [*map(range, x.shape[:3]), range(x.shape[3])[::-1]]:
        return mirror(p, node, x)
    if any(r.step < 1 for r in ranges) or ranges[1].step != 1:
        return flat.slices(p, node)
    strides = (x.img, 1, x.row, x.ld)
    offset = x.offset + sum(r.start * s for r, s in zip(ranges, strides, strict=True))
    n, c, h, w = (len(r) for r in ranges)
    images, _, rows, pixels = (r.step if len(r) > 1 else 1 for r in ranges)
    p.bind(
        node.outputs[0],
        View(x.buffer, (n, c, h, w), offset, x.img * images, x.row * rows, x.ld * pixels),
    )


def mirror(p: Planner, node: Node, x: View) -> None:
    """The picture as a mirror shows it: a copy, since no view goes backwards."""
    p.emit(
        node.name, node.op.kind, "mirror", x, p.new(node.outputs[0]), node=node,
        op="TF_NEAREST", alpha=1.0, beta=1.0, flags=MIRRORED, tasks=tasks(x),
    )  # fmt: skip


def shuffle(p: Planner, node: Node) -> None:
    """Channel shuffle: the same floats in another order, for readers that can address them so; for
    others, as for the caller, a copy."""
    x, result = p.as_map(node.inputs[0]), node.outputs[0]
    groups: int = node.op.groups  # type: ignore[attr-defined]
    lazy = replace(x, shuffled=Shuffle(groups, x.shape[1] // groups))
    if result in p.homes or result in p.direct:
        y = p.new(result)
        p.emit(
            node.name, node.op.kind, "shuffle", x, y, node=node,
            op="TF_SHUFFLE", groups=groups, tasks=tasks(x),
        )  # fmt: skip
        return
    p.bind(result, lazy)


def identity(p: Planner, node: Node) -> None:
    p.bind(node.outputs[0], p.at(node.inputs[0]))
