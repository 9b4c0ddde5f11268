"""Fold a factor or a term per channel into the product or the norm in front of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyface.graph import Graph, Node
from tinyface.ops import Add, Conv2d, Div, LayerNorm, Linear, MatMul, Mul
from tinyface.ops.spec import Array
from tinyface.passes.rewrite import Params, folded, merge_pairs, private, scaled_rows


def fold_affine(graph: Graph) -> Graph:
    """y = (W x + b) m + a becomes W' = m W and b' = m b + a, for constants m and a. A number that
    the result or an operand of another product is multiplied by becomes the product's scale.

    Exporters write the bias of a layer on tokens, the scale of its branch and the scale and shift
    of a norm as operators of their own. Computed in float64 and rounded once.
    """
    return merge_pairs(graph, _merge, either=(MatMul,))


def _merge(graph: Graph, source: Node, node: Node, params: Params) -> Node | None:
    if isinstance(node.op, MatMul) and isinstance(source.op, Mul):
        return _scaled(graph, node, source, node, params)
    if isinstance(source.op, MatMul) and isinstance(node.op, (Mul, Div)):
        return _scaled(graph, source, node, node, params)
    return _fold(graph, source, node, params) if isinstance(node.op, (Add, Mul)) else None


def _scaled(graph: Graph, product: Node, factor: Node, last: Node, params: Params) -> Node | None:
    """A product and a factor before or behind it; the node that does both stands for ``last``."""
    constant = next((name for name in factor.inputs if name in params), "")
    first = product if last is factor else factor
    if not constant or params[constant].size != 1 or not private(graph, first.outputs[0]):
        return None
    if isinstance(factor.op, Div) and constant == factor.inputs[0]:
        return None
    number = float(params[constant].reshape(()))
    op = product.op
    assert isinstance(op, MatMul)
    with np.errstate(all="ignore"):
        by = np.float64(op.scale) / number if isinstance(factor.op, Div) else op.scale * number
        fits = bool(np.isfinite(np.float32(by)))
    kept = next(name for name in factor.inputs if name != constant)
    same = graph.types[kept].shape == graph.types[factor.outputs[0]].shape
    if not same or not fits:
        return None
    inputs = tuple(kept if name == factor.outputs[0] else name for name in product.inputs)
    return replace(last, op=replace(op, scale=float(by)), inputs=inputs)


def _fold(graph: Graph, source: Node, node: Node, params: Params) -> Node | None:
    op, made = source.op, source.outputs[0]
    if not isinstance(op, (Conv2d, Linear, LayerNorm)) or getattr(op, "act", None) is not None:
        return None
    fixed = {*source.inputs[1:]} - {""}
    if len(source.inputs) > 3 or not fixed <= params.keys() or not private(graph, made):
        return None
    shape = graph.types[made].shape
    axis = {Conv2d: 1, Linear: len(shape) - 1}.get(type(op), getattr(op, "axis", 0) % len(shape))
    (other,) = (name for name in node.inputs if name != made)
    value = per_channel(params[other], shape, axis) if other in params else None
    if value is None:
        return None
    given = [params[name] for name in source.inputs[1:]]
    if isinstance(op, LayerNorm) and not given and params[other].size == 1:
        return None  # its axis may have any length, a scale only one
    weight = given[0] if given else np.ones(shape[axis], np.float32)
    bias = given[1].astype(np.float64) if len(given) > 1 else np.zeros(shape[axis])
    factor, term = (value, 0.0) if isinstance(node.op, Mul) else (np.ones(1), value)
    with np.errstate(all="ignore"):
        new_weight = scaled_rows(weight, factor)
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
