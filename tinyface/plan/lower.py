"""One function per operator: which C step computes it, on which views, with which numbers.

``LOWER`` maps an operator's kind to its function (planner, node) -> None. Convolution and
fully connected layers, which pack weights, are in ``lower_conv.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinyface import ops
from tinyface.graph import Node
from tinyface.ops.spec import Array, Op
from tinyface.plan.lower_conv import act_fields, conv2d, linear, tail_act
from tinyface.plan.model import View
from tinyface.plan.planner import NHWC, Planner
from tinyface.plan.tiling import row_tasks

Lower = Callable[[Planner, Node], None]


def tasks(view: View, work: int = 1) -> int:
    """Tasks for an operator that is shared by rows; ``work`` per output element."""
    n, c, h, w = view.shape
    return row_tasks(n * h, n * c * h * w * work)


# ------------------------------------------------------------------- element-wise


def operand(p: Planner, node: Node, name: str, like: View) -> View | None:
    """A second operand as a map that broadcasts against ``like``; None if it cannot."""
    view = p.as_map(name) if len(p.shape(name)) in (2, 4) else p.as_map_of_flat(p.as_flat(name))
    if view.shape == like.shape:
        return view
    if view.shape == (*like.shape[:2], 1, 1):  # a gate: one value per channel
        return replace(view, shape=like.shape, row=0, ld=0)
    return None


def generic_map(p: Planner, name: str) -> View:
    """A tensor of any rank as a map, for operators that do not care which axis is which."""
    return p.as_map(name) if len(p.shape(name)) in (2, 4) else p.as_map_of_flat(p.as_flat(name))


def result_like(p: Planner, name: str, view: View) -> View:
    """A place for a tensor of any rank, seen as the map that its operand is seen as."""
    out = p.new(name)
    return out if out.is_map else p.as_map_of_flat(out)


def binary(p: Planner, node: Node) -> None:
    """add, mul, maximum of two maps; with a constant operand: y = x w + b."""
    a, b = node.inputs
    if a in p.graph.params or b in p.graph.params:
        return with_constant(p, node)
    if math.prod(p.shape(a)) < math.prod(p.shape(b)):
        a, b = b, a
    result, out_shape = p.result(node), p.shape(node.outputs[0])
    if p.shape(a) != out_shape or node.op.kind in ("sub", "div"):
        raise p.unsupported(node, "operands of these shapes")
    x = generic_map(p, a)
    z = operand(p, node, b, x)
    if z is None:
        raise p.unsupported(node, "operands of these shapes")
    y = elementwise_place(p, node, result, a, x)
    fields, params = act_fields(p, node, x.shape[1], *tail_act(p, node))
    p.emit(
        result, node.op.kind, node.op.kind, x, y, z, node=node, params=params,
        op=f"TF_{node.op.kind.upper()}", tasks=tasks(x), **fields,
    )  # fmt: skip


def elementwise_place(p: Planner, node: Node, result: str, source: str, x: View) -> View:
    """Where an element-wise result goes: over its operand if that is not read again."""
    if len(p.shape(result)) not in (2, 4):
        return result_like(p, result, x)
    if len(p.shape(result)) == 2:
        return p.new(result)
    return p.take_over(result, x, node, node.inputs.count(source))


def with_constant(p: Planner, node: Node) -> None:
    """x op c for a constant c: a scalar, or one value per channel."""
    a, b = node.inputs
    name, constant = (a, b) if b in p.graph.params else (b, a)
    x = generic_map(p, name)
    values = constant_per_channel(p, node, name, constant)
    one, zero = np.ones_like(values), np.zeros_like(values)
    reverse = name == b
    scale_shift = {
        "add": (one, values),
        "sub": (-one, values) if reverse else (one, -values),
        "mul": (values, zero),
    }
    if node.op.kind == "div" and not reverse:
        with np.errstate(divide="ignore"):
            scale_shift["div"] = (one / values, zero)
    if node.op.kind not in scale_shift:
        raise p.unsupported(node, "a constant operand here")
    affine(p, node, name, x, *scale_shift[node.op.kind])


def constant_per_channel(p: Planner, node: Node, name: str, constant: str) -> Array:
    value = p.graph.params[constant].astype(np.float32)
    shape = p.shape(name)
    if p.shape(node.outputs[0]) != shape:
        raise p.unsupported(node, "a constant larger than the map")
    channels = shape[1] if len(shape) in (2, 4) else math.prod(shape[1:])
    if value.size == 1:
        return np.full(channels, value.reshape(()), np.float32)
    aligned = (1,) * (len(shape) - value.ndim) + value.shape
    if len(shape) in (2, 4) and aligned == (1, channels, *[1] * (len(shape) - 2)):
        return value.ravel()
    raise p.unsupported(node, "a constant that is no scalar and not one value per channel")


def affine(p: Planner, node: Node, name: str, x: View, scale: Array, shift: Array) -> None:
    """y = act(x scale[c] + shift[c])."""
    result = p.result(node)
    y = elementwise_place(p, node, result, name, x)
    fields, params = act_fields(p, node, x.shape[1], *tail_act(p, node))
    params["w"] = p.packer.add((node.name, "scale"), lambda: scale)
    params["bias"] = p.packer.add((node.name, "shift"), lambda: shift)
    p.emit(
        result, node.op.kind, "affine", x, y, node=node, params=params,
        op="TF_AFFINE", tasks=tasks(x), **fields,
    )  # fmt: skip


def batch_norm(p: Planner, node: Node) -> None:
    """y = x w + b with w = gamma / sqrt(var + eps) and b = beta - mean w."""
    gamma, beta, mean, var = (p.param(n, node).astype(np.float64) for n in node.inputs[1:])
    scale = gamma / np.sqrt(var + node.op.eps)  # type: ignore[attr-defined]
    affine(p, node, node.inputs[0], p.as_map(node.inputs[0]), scale, beta - mean * scale)


def activation(p: Planner, node: Node) -> None:
    """An activation that stands alone."""
    name, result = node.inputs[0], node.outputs[0]
    slope = p.param(node.inputs[1], node) if len(node.inputs) == 2 else None
    per_channel = slope is not None and slope.size > 1
    x = p.as_map(name) if per_channel else generic_map(p, name)
    y = elementwise_place(p, node, result, name, x)
    fields, params = act_fields(p, node, x.shape[1], node.op, slope)
    p.emit(
        result, node.op.kind, "activation", x, y, node=node, params=params,
        op="TF_AFFINE", tasks=tasks(x), **fields,
    )  # fmt: skip


def max_feature_map(p: Planner, node: Node) -> None:
    """The maximum of the two halves of the channels."""
    whole = p.as_map(node.inputs[0])
    n, c, h, w = whole.shape
    half = (n, c // 2, h, w)
    result = p.result(node)
    y = p.new(result)
    x = replace(whole, shape=half)
    z = replace(whole, shape=half, offset=whole.offset + c // 2)
    fields, params = act_fields(p, node, c // 2, *tail_act(p, node))
    p.emit(
        result, node.op.kind, "maximum", x, y, z, node=node, params=params,
        op="TF_MAXIMUM", tasks=tasks(y), **fields,
    )  # fmt: skip


# ------------------------------------------------------------------- windows, rows


def pool(p: Planner, node: Node) -> None:
    """Max and average pooling."""
    op: Any = node.op
    x, y = p.as_map(node.inputs[0]), p.new(node.outputs[0])
    top, left, bottom, right = op.pad
    maximum = op.kind == "max_pool"
    p.emit(
        node.name, op.kind, op.kind, x, y, node=node,
        op="TF_MAXPOOL" if maximum else "TF_AVGPOOL",
        kh=op.kernel[0], kw=op.kernel[1], sh=op.stride[0], sw=op.stride[1],
        dh=op.dilation[0], dw=op.dilation[1], pt=top, pl=left, pb=bottom, pr=right,
        flags=0 if maximum or not op.count_include_pad else 8,
        tasks=tasks(y, op.kernel[0] * op.kernel[1]),
    )  # fmt: skip


def global_pool(p: Planner, node: Node) -> None:
    """The whole map as one window; threads share the channels."""
    reduce = isinstance(node.op, ops.Reduce)
    if reduce and not reduces_map(p, node):
        raise p.unsupported(node, "only the mean or maximum over height and width")
    x, y = p.as_map(node.inputs[0]), p.new(node.outputs[0], as_map=True)
    n, c, h, w = x.shape
    maximum = node.op.kind == "global_max_pool" or getattr(node.op, "mode", "") == "max"
    p.emit(
        node.name, node.op.kind, "max_pool" if maximum else "average_pool", x, y, node=node,
        op="TF_MAXPOOL" if maximum else "TF_AVGPOOL", kh=h, kw=w,
        tasks=max(1, min(8, c // p.isa.lanes, x.shape[1] * h * w // 20_000)) if n == 1 else 1,
        reason="the window is the whole map",
    )  # fmt: skip


def reduces_map(p: Planner, node: Node) -> bool:
    op: Any = node.op
    rank = len(p.shape(node.inputs[0]))
    return rank == 4 and op.mode in ("mean", "max") and sorted(a % 4 for a in op.axes) == [2, 3]


def resize(p: Planner, node: Node) -> None:
    """Nearest or bilinear."""
    op: Any = node.op
    x, y = p.as_map(node.inputs[0]), p.new(node.outputs[0])
    like = p.shape(node.inputs[1])[2:] if len(node.inputs) == 2 else None
    down, right = op.steps(x.shape[2:], y.shape[2:], like)
    p.emit(
        node.name, op.kind, op.mode, x, y, node=node,
        op="TF_NEAREST" if op.mode == "nearest" else "TF_BILINEAR",
        alpha=down, beta=right, tasks=tasks(y),
    )  # fmt: skip


def along_channels(p: Planner, node: Node) -> None:
    """Softmax and L2 normalisation, along the channels or the innermost axis."""
    op: Any = node.op
    name, result = node.inputs[0], node.outputs[0]
    shape = p.shape(name)
    axis = op.axis % len(shape)
    if len(shape) in (2, 4) and axis == 1:
        x, y = p.as_map(name), p.new(result)
    elif axis == len(shape) - 1:
        x, y = innermost(p.as_flat(name), shape), innermost(p.new(result, as_map=False), shape)
    else:
        raise p.unsupported(node, "only along the channels or the last axis")
    softmax = op.kind == "softmax"
    p.emit(
        node.name, op.kind, op.kind, x, y, node=node,
        op="TF_SOFTMAX" if softmax else "TF_L2NORM", alpha=0.0 if softmax else op.eps,
        tasks=tasks(x, 8),
    )  # fmt: skip


def innermost(view: View, shape: tuple[int, ...]) -> View:
    """A flat tensor as a map whose channels are its last axis."""
    n, c, rows = shape[0], shape[-1], math.prod(shape[1:-1])
    return View(view.buffer, (n, c, rows, 1), view.offset, view.img, c, c)


# ------------------------------------------------------------------- renaming, moving


def reshape(p: Planner, node: Node) -> None:
    """The same floats under another shape, wherever the layout allows."""
    name, result = node.inputs[0], node.outputs[0]
    old, new = p.shape(name), p.shape(result)
    view = p.views[name]
    if view.is_map and len(old) == 4 and len(new) == 2 and math.prod(old[2:]) > 1 < old[1]:
        if new[0] == old[0] and view.dense and result not in p.graph.outputs:
            p.bind(result, replace(view, planar=old[1:]))
            return
    flat = p.as_flat(name)
    if new[0] != old[0] and flat.img != math.prod(old[1:]):
        flat = compact(p, name, flat)
    p.bind(result, View(flat.buffer, new, flat.offset, math.prod(new[1:]) if new[0] != old[0] else flat.img))


def compact(p: Planner, name: str, flat: View) -> View:
    """A copy without gaps between the images."""
    out = p.new(f"{name}.dense", flat.shape, as_map=False)
    p.emit(f"{name}.dense", "copy", "copy", p.as_map_of_flat(flat), p.as_map_of_flat(out), op="TF_AFFINE")
    return out


def transpose(p: Planner, node: Node) -> None:
    """NCHW to NHWC is a change of name here, and back."""
    name, result = node.inputs[0], node.outputs[0]
    perm: tuple[int, ...] = node.op.perm  # type: ignore[attr-defined]
    shape = p.shape(name)
    if perm == NHWC:
        x = p.as_map(name)
        if not x.dense:
            y = View(p.new(result, as_map=False).buffer, x.shape, 0, 0)
            out = p.views[result]
            n, c, h, w = x.shape
            y = View(out.buffer, x.shape, out.offset, out.img, w * c, c)
            p.emit(result, "transpose", "copy", x, y, op="TF_AFFINE", node=node, tasks=tasks(x))
            return
        p.bind(result, View(x.buffer, p.shape(result), x.offset, x.img))
    elif perm == (0, 3, 1, 2):
        flat = p.as_flat(name)
        n, h, w, c = shape
        p.bind(result, View(flat.buffer, (n, c, h, w), flat.offset, flat.img, w * c, c))
    elif perm == tuple(range(len(perm))):
        p.bind(result, p.views[name])
    else:
        raise p.unsupported(node, "only NCHW to NHWC and back")


def concat(p: Planner, node: Node) -> None:
    """Nothing to do for parts that were written in place; the others are copied."""
    whole = node.outputs[0]
    rank = len(p.shape(whole))
    if rank < 2 or node.op.axis % rank != 1:  # type: ignore[attr-defined]
        raise p.unsupported(node, "only along axis 1")
    host = p.views.get(whole) or p.new(whole)
    host.buffer.shared = True
    offset = 0
    for i, part in enumerate(node.inputs):
        size = p.shape(part)[1] * (1 if host.is_map else math.prod(p.shape(part)[2:]))
        there = p.views[part]
        if there.buffer is not host.buffer or there.offset != host.offset + offset:
            if host.is_map:
                x = p.as_map(part)
                y = View(host.buffer, x.shape, host.offset + offset, host.img, host.row, host.ld)
            else:
                x = p.as_map_of_flat(p.as_flat(part))
                y = replace(x, buffer=host.buffer, offset=host.offset + offset, img=host.img)
            p.emit(
                f"{whole}.{i}", "concat", "copy", x, y, op="TF_AFFINE", tasks=tasks(x),
                reason="a part that could not be written in place",
            )  # fmt: skip
        offset += size


def split(p: Planner, node: Node) -> None:
    """Views of the whole."""
    rank = len(p.shape(node.inputs[0]))
    if rank not in (2, 4) or node.op.axis % rank != 1:  # type: ignore[attr-defined]
        raise p.unsupported(node, "only along the channels of a map")
    x = p.as_map(node.inputs[0])
    offset = x.offset
    for name in node.outputs:
        n, c, *rest = p.shape(name)
        p.bind(name, replace(x, shape=(n, c, *(rest or (1, 1))), offset=offset))
        offset += c


def slices(p: Planner, node: Node) -> None:
    """A view with larger strides."""
    shape = p.shape(node.inputs[0])
    if len(shape) not in (2, 4):
        raise p.unsupported(node, "only maps and matrices")
    op: Any = node.op
    x = p.as_map(node.inputs[0])
    index = (*op.index(len(shape)), *[slice(None)] * (4 - len(shape)))
    ranges = [range(*s.indices(side)) for s, side in zip(index, x.shape, strict=True)]
    if any(r.step < 1 for r in ranges) or ranges[1].step != 1:
        raise p.unsupported(node, "channels with a step, or backwards")
    strides = (x.img, 1, x.row, x.ld)
    offset = x.offset + sum(r.start * s for r, s in zip(ranges, strides, strict=True))
    n, c, h, w = (len(r) for r in ranges)
    p.bind(
        node.outputs[0],
        View(x.buffer, (n, c, h, w), offset, x.img * ranges[0].step,
             x.row * ranges[2].step, x.ld * ranges[3].step),
    )  # fmt: skip


def shuffle(p: Planner, node: Node) -> None:
    """Channel shuffle: a copy."""
    x, y = p.as_map(node.inputs[0]), p.new(node.outputs[0])
    p.emit(
        node.name, node.op.kind, "shuffle", x, y, node=node,
        op="TF_SHUFFLE", groups=node.op.groups, tasks=tasks(x),  # type: ignore[attr-defined]
    )  # fmt: skip


def identity(p: Planner, node: Node) -> None:
    p.bind(node.outputs[0], p.views[node.inputs[0]])


def _kinds(*classes: type[Op]) -> tuple[str, ...]:
    return tuple(c.kind for c in classes)


LOWER: dict[str, Lower] = {
    "conv2d": conv2d,
    "linear": linear,
    "batch_norm": batch_norm,
    "max_feature_map": max_feature_map,
    "max_pool": pool,
    "average_pool": pool,
    "global_average_pool": global_pool,
    "global_max_pool": global_pool,
    "reduce": global_pool,
    "resize": resize,
    "softmax": along_channels,
    "l2_normalize": along_channels,
    "reshape": reshape,
    "flatten": reshape,
    "transpose": transpose,
    "concat": concat,
    "split": split,
    "slice": slices,
    "channel_shuffle": shuffle,
    "identity": identity,
    **dict.fromkeys(_kinds(ops.Add, ops.Sub, ops.Mul, ops.Div, ops.Maximum), binary),
    **dict.fromkeys(_kinds(*ops.FUSABLE), activation),
}
