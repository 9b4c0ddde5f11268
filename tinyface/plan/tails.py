"""Activations, and maxima of halves, that the step before them applies."""

from __future__ import annotations

import math

from tinyface.graph import Graph, Node
from tinyface.ops import Conv2d, MaxFeatureMap
from tinyface.ops.epilogue import may_end
from tinyface.plan.homes import single_reader
from tinyface.plan.model import Isa

TAKES_ACT = ("conv2d", "linear", "add", "mul", "maximum", "max_feature_map", "batch_norm")


def find_tails(graph: Graph, isa: Isa) -> dict[str, Node]:
    """Name of a node -> the activation that its step ends with, or the maximum of its halves."""
    tails: dict[str, Node] = {}
    rivals: set[str] = set()  # maxima of halves that a convolution makes
    for node in graph.nodes:
        if node.op.kind not in TAKES_ACT or getattr(node.op, "act", None) is not None:
            continue
        made = node.outputs[0]
        reader = single_reader(graph, made)
        if reader is None:
            continue
        if isinstance(reader.op, MaxFeatureMap):
            if compares(graph, isa, node):
                tails[node.name] = reader
                rivals.add(reader.name)
            continue
        if node.name in rivals or not may_end(node.op, reader.op, graph.types[made].rank):
            continue
        slopes = {*reader.inputs[1:]} - {""}
        if reader.inputs[0] == made and slopes <= graph.params.keys():
            tails[node.name] = reader
    return tails


def compares(graph: Graph, isa: Isa, node: Node) -> bool:
    """Can the node, a convolution, make the maximum of its halves while it has both? Where they
    are whole vectors of channels, of more than one pixel."""
    op, shape = node.op, graph.types[node.outputs[0]].shape
    if not isinstance(op, Conv2d) or node.inputs[1] not in graph.params:
        return False
    plain = op.groups == 1 and not any(node.inputs[3:])
    return plain and shape[1] % (2 * isa.lanes) == 0 and math.prod(shape) > shape[1]
