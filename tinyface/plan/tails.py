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
    taken: set[str] = set()  # a maximum at the end of another step ends with nothing more
    for node in graph.nodes:
        if node.op.kind not in TAKES_ACT or getattr(node.op, "act", None) is not None:
            continue
        made = node.outputs[0]
        reader = single_reader(graph, made)
        if reader is None or node.name in taken:
            continue
        rank, slopes = graph.types[made].rank, {*reader.inputs[1:]} - {""}
        fits = may_end(node.op, reader.op, rank) or compares(graph, isa, node, reader)
        if fits and reader.inputs[0] == made and slopes <= graph.params.keys():
            tails[node.name] = reader
            taken.add(reader.name)
    return tails


def compares(graph: Graph, isa: Isa, node: Node, reader: Node) -> bool:
    """Can the node, a convolution, make the maximum of its halves while it has both? Where they
    are whole vectors of channels, of more than one pixel."""
    op, shape = node.op, graph.types[node.outputs[0]].shape
    if not isinstance(reader.op, MaxFeatureMap) or not isinstance(op, Conv2d):
        return False
    if node.inputs[1] not in graph.params:
        return False
    plain = op.groups == 1 and not any(node.inputs[3:])
    return plain and shape[1] % (2 * isa.lanes) == 0 and math.prod(shape) > shape[1]
