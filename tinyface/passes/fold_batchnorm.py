"""Fold batch norm into the convolution or linear operator in front of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyface.graph import Graph, Node
from tinyface.ops import BatchNorm, Conv2d, Linear
from tinyface.passes.rewrite import Params, folded, merge_pairs, private, scaled_rows


def fold_batchnorm(graph: Graph) -> Graph:
    """W' = gamma/sigma W and b' = beta + (b - mean) gamma/sigma, for each output channel.

    sigma is a standard deviation, sqrt(var + eps) (FDFaceNet, eq. 8 to 11). Computed in
    float64 and rounded once. A batch norm stays where nothing can take it up: behind anything
    else, behind a map that another operator reads, too, or with weights that are computed.
    """
    return merge_pairs(graph, _merge)


def _merge(graph: Graph, source: Node, node: Node, params: Params) -> Node | None:
    foldable = isinstance(node.op, BatchNorm) and _foldable(graph, source, node, params)
    return _fold(graph, source, node, params) if foldable else None


def _foldable(graph: Graph, source: Node, norm: Node, params: Params) -> bool:
    op = source.op
    weights = {*source.inputs[1:], *norm.inputs[1:]} - {""}
    return (
        isinstance(op, (Conv2d, Linear))
        and op.act is None
        and (isinstance(op, Conv2d) or graph.types[source.outputs[0]].rank == 2)
        and len(source.inputs) <= 3  # nothing is added between the bias and the batch norm
        and private(graph, source.outputs[0])
        and weights <= params.keys()
    )


def _fold(graph: Graph, source: Node, norm: Node, params: Params) -> Node | None:
    """The operator that does both; its new weights are added to ``params``.

    None where they cannot be stored: a variance of -eps or less, or a number too large.
    """
    assert isinstance(norm.op, BatchNorm)
    weight = params[source.inputs[1]]
    gamma, beta, mean, var = (params[name].astype(np.float64) for name in norm.inputs[1:])
    bias = params[source.inputs[2]].astype(np.float64) if len(source.inputs) == 3 else 0.0
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + norm.op.eps)  # (o,)
        new_bias = (beta + (bias - mean) * scale).astype(weight.dtype)
        new_weight = scaled_rows(weight, scale)  # (o, c/g, kh, kw) or (o, k)
    names = folded(graph, source.name, new_weight, new_bias, params)
    if names is None:
        return None
    return replace(source, inputs=(source.inputs[0], *names), outputs=norm.outputs)
