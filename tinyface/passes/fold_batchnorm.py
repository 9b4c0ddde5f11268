"""Fold batch norm into the convolution or linear operator in front of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyface.graph import Graph, Node
from tinyface.ops import BatchNorm, Conv2d, Linear
from tinyface.ops.spec import Array
from tinyface.passes.rewrite import alive, finish, fresh, private


def fold_batchnorm(graph: Graph) -> Graph:
    """W' = gamma/sigma W and b' = beta + (b - mean) gamma/sigma, for each output channel.

    sigma is a standard deviation, sqrt(var + eps) (FDFaceNet, eq. 8 to 11). Computed in
    float64 and rounded once. A batch norm stays where nothing can take it up: behind anything
    else, behind a map that another operator reads, too, or with weights that are computed.
    """
    graph = alive(graph)
    nodes: list[Node | None] = []
    made: dict[str, int] = {}  # tensor -> place of its producer in nodes
    params = dict(graph.params)
    for node in graph.nodes:
        place = made.get(node.inputs[0], -1)
        source = nodes[place] if place >= 0 else None
        if isinstance(node.op, BatchNorm) and source and _foldable(graph, source, node, params):
            folded = _fold(graph, source, node, params)
            if folded is not None:
                nodes[place] = None
                node = folded
        made.update(dict.fromkeys(node.outputs, len(nodes)))
        nodes.append(node)
    return finish(graph, filter(None, nodes), params)


def _foldable(graph: Graph, source: Node, norm: Node, params: dict[str, Array]) -> bool:
    op = source.op
    weights = {*source.inputs[1:], *norm.inputs[1:]} - {""}
    return (
        isinstance(op, (Conv2d, Linear))
        and op.act is None
        and len(source.inputs) <= 3  # nothing is added between the bias and the batch norm
        and private(graph, source.outputs[0])
        and weights <= params.keys()
    )


def _fold(graph: Graph, source: Node, norm: Node, params: dict[str, Array]) -> Node | None:
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
        per_row = scale.reshape((-1,) + (1,) * (weight.ndim - 1))
        new_weight = np.empty_like(weight)  # (o, c/g, kh, kw) or (o, k); no copy in float64
        np.multiply(weight, per_row, out=new_weight, dtype=np.float64, casting="same_kind")
    if not (np.isfinite(new_weight).all() and np.isfinite(new_bias).all()):
        return None
    names = []
    for part, value in (("weight", new_weight), ("bias", new_bias)):
        names.append(fresh(f"{source.name}.{part}.folded", params, graph.types))
        params[names[-1]] = value
    return replace(source, inputs=(source.inputs[0], *names), outputs=norm.outputs)
