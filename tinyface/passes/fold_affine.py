"""Fold a factor or a term per channel into the product or the norm in front of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyface.graph import Graph, Node
from tinyface.ops import Add, Conv2d, LayerNorm, Linear, Mul
from tinyface.ops.spec import Array
from tinyface.passes.rewrite import Params, folded, merge_pairs, private


def fold_affine(graph: Graph) -> Graph:
    """y = (W x + b) m + a becomes W' = m W and b' = m b + a, for constants m and a.

    Exporters write the bias of a layer on tokens, the scale of its branch and the scale and shift
    of a norm as operators of their own. Computed in float64 and rounded once.
    """
    return merge_pairs(graph, _merge)


def _merge(graph: Graph, source: Node, node: Node, params: Params) -> Node | None:
    return _fold(graph, source, node, params) if isinstance(node.op, (Add, Mul)) else None


def _fold(graph: Graph, source: Node, node: Node, params: Params) -> Node | None:
    op, made, most = source.op, source.outputs[0], 3
    if not isinstance(op, (Conv2d, Linear, LayerNorm)) or getattr(op, "act", None) is not None:
        return None
    fixed = {*source.inputs[1:]} - {""}
    if len(source.inputs) > most or not fixed <= params.keys() or not private(graph, made):
        return None
    shape = graph.types[made].shape
    axis = {Conv2d: 1, Linear: len(shape) - 1}.get(type(op), getattr(op, "axis", 0) % len(shape))
    (other,) = (name for name in node.inputs if name != made)
    value = per_channel(params[other], shape, axis) if other in params else None
    if value is None:
        return None
    given = [params[name] for name in source.inputs[1:]]
    weight = given[0] if given else np.ones(shape[axis], np.float32)
    bias = given[1].astype(np.float64) if len(given) > 1 else np.zeros(shape[axis])
    factor, term = (value, 0.0) if isinstance(node.op, Mul) else (np.ones(1), value)
    per_row = factor.reshape(-1, *[1] * (weight.ndim - 1))
    with np.errstate(all="ignore"):
        new_weight = (weight.astype(np.float64) * per_row).astype(weight.dtype)
        new_bias = (bias * factor + term).astype(weight.dtype)
    names = folded(graph, source.name, new_weight, new_bias, params)
    if names is None:
        return None
    return replace(source, inputs=(source.inputs[0], *names), outputs=node.outputs)


def per_channel(value: Array, shape: tuple[int, ...], axis: int) -> Array | None:
    """The constant as one float64 for each channel; None where it is none of that."""
    side = shape[axis]
    if value.ndim > len(shape) or value.size not in (1, side):
        return None
    aligned = (1,) * (len(shape) - value.ndim) + value.shape
    if value.size > 1 and aligned[axis] != side:
        return None
    return np.broadcast_to(value.ravel().astype(np.float64), (side,))
