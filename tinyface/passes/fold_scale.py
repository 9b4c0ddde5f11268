"""Fold a 1x1 depthwise convolution, one factor per channel, into the convolution behind it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyface.graph import Graph, Node
from tinyface.limits import MAX_STRIDE
from tinyface.ops import Conv2d
from tinyface.ops.spec import Array
from tinyface.passes.rewrite import Params, folded, merge_pairs, private


def fold_scale(graph: Graph) -> Graph:
    """W' = W s and b' = b + W t for y = W (s x + t) + b, for each input channel.

    PocketNet's separable convolutions of size 1 are such pairs. Computed in float64 and rounded
    once. The pair stays where the map between has another reader, or an activation, or a shift
    that zero padding would not get.
    """
    return merge_pairs(graph, _merge)


def _merge(graph: Graph, scale: Node, node: Node, params: Params) -> Node | None:
    return _fold(graph, scale, node, params) if _foldable(graph, scale, node, params) else None


def _foldable(graph: Graph, scale: Node, node: Node, params: Params) -> bool:
    op, after = scale.op, node.op
    if not isinstance(op, Conv2d) or not isinstance(after, Conv2d) or op.act is not None:
        return False
    weights = {*scale.inputs[1:], *node.inputs[1:3]} - {""}
    if (
        len(scale.inputs) > 3
        or not weights <= params.keys()
        or node.inputs.count(node.inputs[0]) > 1
    ):
        return False
    factors = params[scale.inputs[1]]
    plain = factors.shape == (op.groups, 1, 1, 1) and max(op.pad) == 0
    pointwise = params[node.inputs[1]].shape[2:] == (1, 1) and max(after.pad) == 0
    unmoved = op.stride == (1, 1) and (len(scale.inputs) == 2 or max(after.pad) == 0)
    return plain and private(graph, scale.outputs[0]) and (pointwise or unmoved)


def _fold(graph: Graph, scale: Node, node: Node, params: Params) -> Node | None:
    """The convolution that does both; its new weights are added to ``params``. None where they
    cannot be stored: a number too large."""
    assert isinstance(scale.op, Conv2d) and isinstance(node.op, Conv2d)
    (down, right), (again_down, again_right) = scale.op.stride, node.op.stride
    stride = (down * again_down, right * again_right)
    if max(stride) > MAX_STRIDE:
        return None
    weight, groups = params[node.inputs[1]], node.op.groups
    per_group, wide = weight.shape[1], weight.astype(np.float64)

    def of_group(values: Array) -> Array:  # (c,) -> (o, c/g, 1, 1)
        rows = values.astype(np.float64).reshape(groups, per_group)
        return np.repeat(rows, weight.shape[0] // groups, axis=0)[:, :, None, None]

    shift = of_group(params[scale.inputs[2]]) if len(scale.inputs) == 3 else np.float64(0)
    old = params[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else 0.0
    with np.errstate(all="ignore"):
        new_weight = (wide * of_group(params[scale.inputs[1]].ravel())).astype(weight.dtype)
        new_bias = (old + (wide * shift).sum(axis=(1, 2, 3))).astype(weight.dtype)
    names = folded(graph, node.name, new_weight, new_bias, params)
    if names is None:
        return None
    op = replace(node.op, stride=stride)
    if (down, right) != (1, 1):  # a 1x1 without pads, then: it holds for maps of any size
        op = replace(op, made_for=(0, 0))
    return replace(
        node,
        op=op,
        inputs=(scale.inputs[0], *names, *node.inputs[3:]),
    )
