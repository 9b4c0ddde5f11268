"""Convolution and fully connected layers: the kernel, its weights, its epilogue."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tinyface import ops
from tinyface.graph import Node
from tinyface.ops.spec import Array, Op
from tinyface.plan.depthwise import has_strips, may_roll, shares_vectors
from tinyface.plan.lower_winograd import winograd, winograd_cut
from tinyface.plan.margins import with_margins
from tinyface.plan.model import HALF, RESIDUAL, RIVALS, View
from tinyface.plan.pack import Pieces, conv_panels, padded_vector, panels, rivals
from tinyface.plan.planner import Planner
from tinyface.plan.tiling import conv_blocks, even_tiles, packs, row_tasks
from tinyface.plan.views import innermost

FEW_CHANNELS = 4  # up to here a kernel row is one tap
INF = math.inf
PLAIN_ACTS: dict[type[Op], dict[str, Any]] = {  # without attributes or parameters
    ops.ReLU: {"act": "TF_CLIP", "alpha": 0.0, "hi": INF},
    ops.Sigmoid: {"act": "TF_SIGMOID"},
    ops.HardSwish: {"act": "TF_HSWISH"},
    ops.SiLU: {"act": "TF_SILU"},
    ops.Tanh: {"act": "TF_TANH"},
    ops.Erf: {"act": "TF_ERF"},
    ops.Exp: {"act": "TF_EXP"},
    ops.Sqrt: {"act": "TF_SQRT"},
}


def tail_act(p: Planner, node: Node) -> tuple[Op | None, Array | None]:
    """The activation that a step applies at its end, with its slopes."""
    tail = p.tails.get(node.name)
    if tail is not None:
        return tail.op, p.param(tail.inputs[1], tail) if len(tail.inputs) == 2 else None
    return None, None


def act_fields(
    p: Planner, node: Node, channels: int, act: Op | None, slope: Array | None, groups: int = 1
) -> tuple[dict[str, Any], dict[str, int]]:
    """(fields, parameter offsets) of an activation."""
    if act is None:
        return {}, {}
    if type(act) in PLAIN_ACTS:
        return dict(PLAIN_ACTS[type(act)]), {}
    if isinstance(act, ops.GELU):
        return {"act": "TF_GELU_TANH" if act.tanh else "TF_GELU"}, {}
    if isinstance(act, ops.Clip):
        return {"act": "TF_CLIP", "alpha": act.low, "hi": act.high}, {}
    if isinstance(act, ops.HardSigmoid):
        return {"act": "TF_HSIGMOID", "alpha": act.alpha, "beta": act.beta}, {}
    if isinstance(act, ops.LeakyReLU):
        slope = np.array([act.alpha], np.float32)
    elif not isinstance(act, ops.PReLU) or slope is None:
        raise p.unsupported(node, f"activation {act.kind}")
    values = np.broadcast_to(slope, (channels,))
    key = (node.name, "slope", groups, channels)
    offset = p.packer.add(key, lambda: padded_vector(values, groups, p.isa.lanes))
    return {"act": "TF_PRELU"}, {"slope": offset}


def halves(p: Planner, weight: Array) -> tuple[int, str, str]:
    """(flag, end of the kernel's name, what to say of it) for weights that are read as stored."""
    if weight.dtype == np.float16:
        return HALF, "_fp16", ""
    asked = any(value.dtype == np.float16 for value in p.graph.params.values())
    return 0, "", "; out of fp16's range: weights stay fp32" if asked else ""


def conv2d(p: Planner, node: Node) -> None:
    """Depthwise, one pixel (GEMV), or implicit GEMM."""
    op: Any = node.op
    name, weight_name, bias_name, slope_name, residual = (*node.inputs, "", "", "")[:5]
    weight = p.param(weight_name, node)
    o, per_group, kh, kw = weight.shape
    act, slope = (op.act, p.param(slope_name, node) if slope_name else None)
    if act is None:
        act, slope = tail_act(p, node)
    flags = 0
    if isinstance(act, ops.MaxFeatureMap):
        act, flags = None, RIVALS
    width = p.shape(node.outputs[0])[3]
    depthwise = per_group == 1 and op.groups == o and o > 1
    depthwise |= not residual and shares_vectors(p.isa, weight.shape, op, width)
    groups = 1 if depthwise else op.groups
    fields, params = act_fields(p, node, o, act, slope, groups)
    bias = p.param(bias_name, node) if bias_name else np.zeros(o, np.float32)
    if flags:
        weight, bias = rivals(weight, p.isa.lanes), rivals(bias, p.isa.lanes)
    params["bias"] = p.packer.add(
        (node.name, "bias", groups, flags), lambda: padded_vector(bias, groups, p.isa.lanes)
    )
    top, left, bottom, right = op.pad
    fields |= {
        "kh": kh, "kw": kw, "sh": op.stride[0], "sw": op.stride[1], "dh": op.dilation[0],
        "dw": op.dilation[1], "pt": top, "pl": left, "pb": bottom, "pr": right, "zero": 0,
    }  # fmt: skip
    if depthwise:
        return depthwise_step(p, node, weight, residual, fields, params)
    x, fields, weight = conv_input(p, node, weight, fields)
    z = p.as_map(residual) if residual else None
    result = p.result(node)
    # 1: where the residual is the input, too, windows have yet to read what would be written over
    y = p.new(result) if z is None else p.take_over(result, z, node, 1)
    fields |= {"flags": flags | (RESIDUAL if z is not None else 0), "oc": o}
    tiles = winograd_cut(p, op, weight, y)
    if tiles is not None:
        winograd(p, node, tiles, x, y, z, weight, fields, params)
    else:
        params["w"] = p.packer.add(
            (weight_name, "panels", op.groups, weight.shape, flags),
            lambda: conv_panels(weight, op.groups, p.isa.lanes),
        )
        n, _, oh, ow = y.shape
        whole = x.dense and (kh, kw) == x.shape[2:] and max(op.pad) == 0 and max(op.dilation) == 1
        one = n * oh * ow == 1 and op.groups == 1 and whole
        (gemv if one else direct)(p, node, x, y, z, weight, fields, params)
    if flags:
        p.steps[-1].reason += "; of its halves the larger"


def direct(
    p: Planner,
    node: Node,
    x: View,
    y: View,
    z: View | None,
    weight: Array,
    fields: dict[str, Any],
    params: dict[str, int],
) -> None:
    """Implicit GEMM, its tiles cut from all pixels or row by row."""
    op: Any = node.op
    (n, _, oh, ow), o, own = y.shape, fields["oc"], fields["oc"] // op.groups
    flag, stored, kept = halves(p, weight)
    fields |= {"flags": fields["flags"] | flag, "groups": op.groups}
    taps = fields["kh"] * fields["kw"]
    k = taps * x.shape[1] // op.groups
    fresh = x.shape[1] * min(fields["kh"], fields["sh"]) * min(fields["kw"], fields["sw"])
    row = ow if even_tiles(p.isa, fields, x.shape[1], ow) else 1
    blocks = conv_blocks(p.isa, n * oh * ow, k, o, op.groups, fresh, p.threads, taps, row)
    rows, width = p.isa.rows(own), 2 if own > p.isa.lanes else 1
    p.packer.need_zeros(max(x.shape[1], 2 * p.isa.lanes))
    packed = packs(p.isa, o, op.groups)
    shape = f"{p.isa.rows_pack if packed else rows}x{width * p.isa.lanes}"
    p.emit(
        node.name, op.kind, f"{'packed' if packed else 'gemm'}_{p.isa.name}_{shape}{stored}",
        x, y, z, node=node, params=params, reason=blocks.reason + kept,
        **fields | {"op": "TF_CONV", "block": blocks.pixels, "panels": blocks.panels,
                    "tasks": blocks.tasks},
    )  # fmt: skip


def conv_input(
    p: Planner, node: Node, weight: Array, fields: dict[str, Any]
) -> tuple[View, dict[str, Any], Array]:
    """The input map, and what is different because of how it is read.

    Where there are few channels, a map gets its padding, so that a whole kernel row is contiguous:
    kh taps of kw c inputs; an NCHW image while it is turned channels-last. Shuffled channels are
    not moved.
    """
    name = node.inputs[0]
    view = p.at(name)
    _, c, kh, kw = weight.shape
    if view.shuffled and (kh, kw) == (1, 1) and max(fields[f"p{side}"] for side in "tlbr") == 0:
        return shuffled_input(p, node, weight, fields)
    shape = p.shape(name)
    few = shape[1] == c and c * kw > 1 and c <= FEW_CHANNELS and kw > 1
    if not few or fields["dw"] != 1 or math.prod(shape[2:]) == 1:
        return p.as_map(name), fields, weight
    pads = (fields["pt"], fields["pl"], fields["pb"], fields["pr"])
    if view.is_map:
        x = with_margins(p, node, p.as_map(name), pads)
    else:
        x = p.from_planes(name, view, pads)
    n, _, h, w = x.shape
    x = replace(x, shape=(n, kw * c, h, w - kw + 1))
    return x, fields | {"kw": 1, "pt": 0, "pl": 0, "pb": 0, "pr": 0}, weight


def shuffled_input(
    p: Planner, node: Node, weight: Array, fields: dict[str, Any]
) -> tuple[View, dict[str, Any], Array]:
    """1x1 over channels in shuffled order: each group of the shuffle is a tap of its own.

    Channel k stands at ``i each + j`` with k = j groups + i. Seen as ``groups`` times as many
    pixels, ``each`` floats apart, the pixel becomes a window of ``groups`` taps of its j's.
    """
    view = p.at(node.inputs[0])
    order, (n, c, h, w) = view.shuffled, view.shape
    assert order is not None
    g, o, per_group = order.groups, weight.shape[0], weight.shape[1]
    if order.first % g or per_group % g or view.ld != g * order.each:
        return p.as_map(node.inputs[0]), fields, weight
    x = View(
        view.buffer, (n, c // g, h, w * g), view.offset + order.first // g,
        view.img, view.row, order.each,
    )  # fmt: skip
    taps = weight.reshape(o, per_group // g, 1, g)
    return x, fields | {"kw": g, "sw": fields["sw"] * g, "dw": 1}, taps


def depthwise_step(
    p: Planner,
    node: Node,
    weight: Array,
    residual: str,
    fields: dict[str, Any],
    params: dict[str, int],
) -> None:
    """One filter per channel: weights as (ky, kx, c); with several inputs, which groups of so many
    channels share, as (d, ky, kx, c), and fp32 even where others are kept as fp16 (few, too)."""
    if residual:
        raise p.unsupported(node, "a residual in a depthwise convolution")
    c, depth, kh, kw = weight.shape
    x = p.as_map(node.inputs[0])
    result = p.result(node)
    y = p.new(result)
    params["w"] = p.packer.add(
        (node.inputs[1], "depthwise"), lambda: weight.transpose(1, 2, 3, 0).astype(np.float32)
    )
    p.packer.need_zeros(max(c, 2 * p.isa.lanes))
    n, _, oh, ow = y.shape
    whole = (oh, ow) == (1, 1)
    shape = "4x2" if has_strips(ow) else "1x4"
    name, op, reason = "depthwise", "TF_DEPTHWISE", "one filter per channel"
    if depth > 1:
        name, op = "grouped", "TF_GROUPED"
        reason = f"{p.isa.lanes // depth} groups of {depth} channels to a vector"
        reason += "; its weights are fp32" if weight.dtype == np.float16 else ""
        fields |= {"groups": c // depth}
    elif whole:
        reason = "global: one output a channel"
    elif may_roll(p.isa, fields, c, x.shape[3], ow):
        shape = "roll"
    p.emit(
        node.name, node.op.kind, f"{name}_{p.isa.name}_{shape}", x, y, node=node, params=params,
        reason=reason, op=op, tasks=row_tasks(n * oh, n * oh * ow * weight.size), **fields,
    )  # fmt: skip


def gemv(
    p: Planner,
    node: Node,
    x: View,
    y: View,
    z: View | None,
    weight: Array,
    fields: dict[str, Any],
    params: dict[str, int],
) -> None:
    """One output pixel: a matrix times a vector."""
    k, o = math.prod(x.shape[1:]), y.shape[1]
    flag, stored, kept = halves(p, weight)
    x = View(x.buffer, (1, k, 1, 1), x.offset, x.img, k, k)
    keep = {key: v for key, v in fields.items() if key in ("act", "alpha", "beta", "hi")}
    keep["flags"] = fields["flags"] | flag
    p.emit(
        node.name, node.op.kind, f"gemv_{p.isa.name}_{2 * p.isa.lanes}{stored}", x, y, z,
        node=node, params=params, reason=f"one pixel: as fast as the weights arrive{kept}",
        op="TF_GEMV", tasks=max(1, min(8, -(-o // (2 * p.isa.lanes)), k * o // 60_000)), **keep,
    )  # fmt: skip


def linear(p: Planner, node: Node) -> None:
    """y = x W^T: GEMV for one row, else GEMM, the rows of all axes as the pixels of a map. Behind a
    flattened map the columns of W are put into its channels-last order instead of moving it."""
    op: Any = node.op
    name, weight_name, bias_name, slope_name, residual = (*node.inputs, "", "", "")[:5]
    weight = p.param(weight_name, node)
    o, k = weight.shape
    view = p.at(name)
    planar = view.planar
    if planar:
        c, h, w = planar
        x = View(view.buffer, (view.shape[0], k, 1, 1), view.offset, view.img, k, k)
    else:
        x = as_rows(p, name)
    act, slope = (op.act, p.param(slope_name, node) if slope_name else None)
    if act is None:
        act, slope = tail_act(p, node)
    fields, params = act_fields(p, node, o, act, slope)
    bias = p.param(bias_name, node) if bias_name else np.zeros(o, np.float32)
    params["bias"] = p.packer.add((node.name, "bias"), lambda: padded_vector(bias, 1, p.isa.lanes))

    def packed() -> Pieces:
        columns = weight.reshape(o, *planar).transpose(2, 3, 1, 0) if planar else weight.T
        return panels(columns, p.isa.lanes)

    params["w"] = p.packer.add((weight_name, "panels", planar), packed)
    z = as_rows(p, residual) if residual else None
    fields = fields | {"flags": RESIDUAL if z is not None else 0}
    result = p.result(node)
    shape = p.shape(result)
    y = p.new(result) if len(shape) == 2 else innermost(p.new(result, as_map=False), shape)
    rows = math.prod(shape[:-1])
    if rows == 1:
        return gemv(p, node, x, y, z, weight, fields, params)
    flag, stored, kept = halves(p, weight)
    fields["flags"] |= flag
    blocks = conv_blocks(p.isa, rows, k, o, 1, k, p.threads)
    p.packer.need_zeros(max(k, 2 * p.isa.lanes))
    p.emit(
        node.name, op.kind, f"gemm_{p.isa.name}_{p.isa.rows_wide}x{2 * p.isa.lanes}{stored}",
        x, y, z, node=node, params=params, reason=blocks.reason + kept, op="TF_CONV", zero=0,
        block=blocks.pixels, panels=blocks.panels, tasks=blocks.tasks, **fields,
    )  # fmt: skip


def as_rows(p: Planner, name: str) -> View:
    """A tensor as a map whose pixels are the rows of its last axis."""
    shape = p.shape(name)
    return p.as_map(name) if len(shape) == 2 else innermost(p.as_flat(name), shape)
