"""One function per operator: which C step computes it, on which views, with which numbers.

``LOWER`` maps an operator's kind to its function (planner, node) -> None. Convolution and
fully connected layers, which pack weights, are in ``lower_conv.py``; what only renames or moves
values is in ``lower_shape.py``.
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
from tinyface.plan import lower_flat as flat
from tinyface.plan.lower_conv import act_fields, conv2d, linear, tail_act
from tinyface.plan.lower_rows import matmul, reduce, turn_back, turned
from tinyface.plan.lower_shape import (
    concat,
    identity,
    interleave,
    reshape,
    shuffle,
    slices,
    split,
    tasks,
    transpose,
)
from tinyface.plan.model import CORNERS, COUNT_PAD, View
from tinyface.plan.planner import Planner
from tinyface.plan.tiling import BANDED, equal_bands
from tinyface.plan.views import (
    as_column,
    innermost,
    one_pixel,
    pixels_of_rows,
    run_length,
    runs,
)

Lower = Callable[[Planner, Node], None]


# ------------------------------------------------------------------- element-wise


def operand(p: Planner, node: Node, name: str, like: str) -> View | None:
    """A second operand as a map that broadcasts against tensor ``like``; None if it cannot.

    Shapes are aligned at their last axis, as NumPy does: (2, 2, 1) beside (2, 2, 2, 1) is
    (1, 2, 2, 1) and no gate.
    """
    goal, shape = p.shape(like), p.shape(name)
    aligned = (1,) * (len(goal) - len(shape)) + shape
    x = generic_map(p, like)
    if shape == goal:
        return generic_map(p, name)
    if len(goal) == 4 and aligned == (*goal[:2], 1, 1):  # a gate: one value per channel
        view = p.as_map(name) if len(shape) == 4 else one_pixel(p.as_flat(name))
        return replace(view, shape=x.shape, row=0, ld=0)
    return None


def generic_map(p: Planner, name: str) -> View:
    """A tensor of any rank as a map, for operators that do not care which axis is which."""
    return p.as_map(name) if len(p.shape(name)) in (2, 4) else runs(p.as_flat(name))


def result_like(p: Planner, name: str, view: View) -> View:
    """A place for a tensor of any rank, seen as the map that its operand is seen as."""
    out = p.new(name)
    return out if out.is_map else runs(out)


def binary(p: Planner, node: Node) -> None:
    """Sum, difference, product … of two maps; with a constant operand: y = x w + b."""
    a, b = node.inputs
    if a in p.graph.params or b in p.graph.params:
        return with_constant(p, node)
    if math.prod(p.shape(a)) < math.prod(p.shape(b)) and node.op.kind not in ("sub", "div"):
        a, b = b, a
    result, out_shape = p.result(node), p.shape(node.outputs[0])
    if p.shape(a) != out_shape or (flat.lies_flat(p, a, result) and flat.lies_flat(p, b, result)):
        return flat.binary(p, node)
    x, z = generic_map(p, a), operand(p, node, b, a)
    if z is None:
        return flat.binary(p, node)
    y = elementwise_place(p, node, result, a, x)
    fields, params = act_fields(p, node, x.shape[1], *tail_act(p, node))
    p.emit(
        node.name, node.op.kind, node.op.kind, x, y, z, node=node, params=params,
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
    values = constant_per_channel(p, node, name, constant)
    if values is None or flat.lies_flat(p, name, p.result(node)):
        return flat.binary(p, node)
    x = generic_map(p, name)
    one, zero = np.ones_like(values), np.zeros_like(values)
    reverse = name == b
    scale_shift = {
        "add": (one, values),
        "sub": (-one, values) if reverse else (one, -values),
        "mul": (values, zero),
    }
    if node.op.kind == "div" and not reverse:
        with np.errstate(all="ignore"):
            inverse = one / values
        # a product with one that lost bits, or is none, is no quotient
        if np.all(np.isfinite(inverse) & (np.abs(inverse) >= np.finfo(np.float32).tiny)):
            scale_shift["div"] = (inverse, zero)
    if node.op.kind not in scale_shift:
        return flat.binary(p, node)
    affine(p, node, name, x, *scale_shift[node.op.kind])


def constant_per_channel(p: Planner, node: Node, name: str, constant: str) -> Array | None:
    """One value for each channel of tensor ``name``; None where the constant is none of that."""
    value = p.graph.params[constant].astype(np.float32)
    shape = p.shape(name)
    if p.shape(node.outputs[0]) != shape:
        return None
    channels = shape[1] if len(shape) in (2, 4) else run_length(shape)
    if value.size == 1:
        return np.full(channels, value.reshape(()), np.float32)
    aligned = (1,) * (len(shape) - value.ndim) + value.shape
    if len(shape) in (2, 4) and aligned == (1, channels, *[1] * (len(shape) - 2)):
        return value.ravel()
    return None


def affine(p: Planner, node: Node, name: str, x: View, scale: Array, shift: Array) -> None:
    """y = act(x scale[c] + shift[c])."""
    result = p.result(node)
    y = elementwise_place(p, node, result, name, x)
    fields, params = act_fields(p, node, x.shape[1], *tail_act(p, node))
    params["w"] = p.packer.add((node.name, "scale", len(scale)), lambda: scale)
    params["bias"] = p.packer.add((node.name, "shift", len(shift)), lambda: shift)
    p.emit(
        node.name, node.op.kind, "affine", x, y, node=node, params=params,
        op="TF_AFFINE", tasks=tasks(x), **fields,
    )  # fmt: skip


def batch_norm(p: Planner, node: Node) -> None:
    """y = x w + b with w = gamma / sqrt(var + eps) and b = beta - mean w."""
    gamma, beta, mean, var = (p.param(n, node).astype(np.float64) for n in node.inputs[1:])
    scale = gamma / np.sqrt(var + node.op.eps)  # type: ignore[attr-defined]
    name, shift = node.inputs[0], beta - mean * scale
    if len(p.shape(name)) == 3:
        return flat.scale_shift(p, node, scale, shift)
    affine(p, node, name, p.as_map(name), scale, shift)


def activation(p: Planner, node: Node) -> None:
    """An activation that stands alone."""
    name, result = node.inputs[0], node.outputs[0]
    slope = p.param(node.inputs[1], node) if len(node.inputs) == 2 else None
    per_channel = slope is not None and slope.size > 1
    if not per_channel and flat.lies_flat(p, name, result):
        x, y = runs(p.as_flat(name)), runs(p.new(result, as_map=False))
    else:
        x = p.as_map(name) if per_channel else generic_map(p, name)
        y = elementwise_place(p, node, result, name, x)
    fields, params = act_fields(p, node, x.shape[1], node.op, slope)
    p.emit(
        node.name, node.op.kind, "activation", x, y, node=node, params=params,
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
        node.name, node.op.kind, "maximum", x, y, z, node=node, params=params,
        op="TF_MAXIMUM", tasks=tasks(y), **fields,
    )  # fmt: skip


# ------------------------------------------------------------------- windows, rows


def pool(p: Planner, node: Node) -> None:
    """Max and average pooling."""
    op: Any = node.op
    x, y = p.as_map(node.inputs[0]), p.new(node.outputs[0])
    top, left, bottom, right = op.pad
    narrow = x.shape[1] % p.isa.lanes and x.ld == x.shape[1] and y.ld == y.shape[1]
    if narrow and (op.kernel[1], op.stride[1], left, right) == (1, 1, 0, 0):
        x, y = x.tall, y.tall
    maximum = op.kind == "max_pool"
    p.emit(
        node.name, op.kind, op.kind, x, y, node=node,
        op="TF_MAXPOOL" if maximum else "TF_AVGPOOL",
        kh=op.kernel[0], kw=op.kernel[1], sh=op.stride[0], sw=op.stride[1],
        dh=op.dilation[0], dw=op.dilation[1], pt=top, pl=left, pb=bottom, pr=right,
        flags=0 if maximum or not op.count_include_pad else COUNT_PAD,
        tasks=tasks(y, op.kernel[0] * op.kernel[1]),
    )  # fmt: skip


def global_pool(p: Planner, node: Node) -> None:
    """The whole map as one window. A large one is taken band by band of its rows, then the bands
    together: each thread reads what it has just written."""
    if isinstance(node.op, ops.Reduce) and not reduces_map(p, node):
        return reduce(p, node)
    x, y = p.as_map(node.inputs[0]), p.new(node.outputs[0], as_map=True)
    n, c, h, w = x.shape
    if isinstance(node.op, ops.Reduce) and len(node.op.axes) == 1:
        h, w = (h, 1) if node.op.axes[0] % 4 == 2 else (1, w)
    maximum = node.op.kind == "global_max_pool" or getattr(node.op, "mode", "") == "max"
    kernel, op = ("max_pool", "TF_MAXPOOL") if maximum else ("average_pool", "TF_AVGPOOL")
    bands = equal_bands(h) if n == 1 and math.prod(x.shape) > BANDED else 1
    if bands > 1:
        part = p.new(
            p.spare(f"{node.outputs[0]}.bands"), (n, c, bands, x.shape[3] // w), as_map=True
        )
        p.emit(
            f"{node.name}.bands", node.op.kind, kernel, x, part, node=node,
            op=op, kh=h // bands, sh=h // bands, kw=w, tasks=tasks(part, h * w // bands),
            reason="bands of rows: each is in the cache of the thread that made it",
        )  # fmt: skip
        x, h, w = part, bands, 1
    p.emit(
        node.name, node.op.kind, kernel, x, y, node=node, op=op, kh=h, kw=w,
        tasks=tasks(y, h * w), reason="the window is as long as the map",
    )  # fmt: skip


def reduces_map(p: Planner, node: Node) -> bool:
    """Along its height, its width, or both; of one of them where its side stays, since without
    it the result is no map."""
    op: Any = node.op
    rank = len(p.shape(node.inputs[0]))
    axes = sorted(a % 4 for a in op.axes)
    sides = axes == [2, 3] or (op.keepdims and axes in ([2], [3]))
    return rank == 4 and op.mode in ("mean", "max") and sides


def resize(p: Planner, node: Node) -> None:
    """Nearest, or bilinear with centres at halves or on the corners."""
    op: Any = node.op
    x, y = p.as_map(node.inputs[0]), p.new(node.outputs[0])
    like = p.shape(node.inputs[1])[2:] if len(node.inputs) == 2 else None
    down, right = op.steps(x.shape[2:], y.shape[2:], like)
    p.emit(
        node.name, op.kind, op.mode, x, y, node=node,
        op="TF_NEAREST" if op.mode == "nearest" else "TF_BILINEAR",
        alpha=down, beta=right, flags=CORNERS if op.mode == "corners" else 0, tasks=tasks(y),
    )  # fmt: skip


def along_channels(p: Planner, node: Node) -> None:
    """Softmax and the two norms: along the channels or the innermost axis; along another one by
    making it the innermost and moving the result back."""
    op: Any = node.op
    (name, *vectors), result = node.inputs, node.outputs[0]
    params = {
        key: p.packer.add((node.name, key), lambda v=vector: p.param(v, node))  # type: ignore[misc]
        for key, vector in zip(("w", "bias"), vectors, strict=False)
    }
    shape = p.shape(name)
    axis = op.axis % len(shape)
    if len(shape) == 1:
        raise p.unsupported(node, "along the batch")
    if len(shape) in (2, 4) and axis == 1:
        x, y = p.as_map(name), p.new(result)
    elif axis == len(shape) - 1:
        x, y = innermost(p.as_flat(name), shape), innermost(p.new(result, as_map=False), shape)
    else:
        x = y = turned(p, node, axis)
    step = {"softmax": "TF_SOFTMAX", "l2_normalize": "TF_L2NORM", "layer_norm": "TF_LAYERNORM"}
    shared = [as_column(pixels_of_rows(view), p.isa.lanes) for view in (x, y)]
    p.emit(
        node.name, op.kind, op.kind, *shared, node=node, params=params,
        op=step[op.kind], alpha=getattr(op, "eps", 0.0), tasks=tasks(shared[0], 8),
    )  # fmt: skip
    if x is y:
        turn_back(p, node, axis, y)


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
    "layer_norm": along_channels,
    "matmul": matmul,
    "reshape": reshape,
    "flatten": reshape,
    "transpose": transpose,
    "concat": concat,
    "split": split,
    "interleave": interleave,
    "slice": slices,
    "channel_shuffle": shuffle,
    "identity": identity,
    "pad": flat.pad,
    "exp": activation,
    "sqrt": activation,
    **dict.fromkeys(_kinds(ops.Add, ops.Sub, ops.Mul, ops.Div, ops.Maximum), binary),
    **dict.fromkeys(_kinds(*ops.FUSABLE), activation),
}
