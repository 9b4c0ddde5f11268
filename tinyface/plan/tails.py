"""Activations, and maxima of halves, that the step before them applies."""

from __future__ import annotations

import math

from tinyface.graph import Graph, Node
from tinyface.ops import Conv2d, MaxFeatureMap
from tinyface.ops.epilogue import may_end
from tinyface.plan.homes import single_reader
from tinyface.plan.model import Isa
from tinyface.plan.tiling import packs, winograd_cut

TAKES_ACT = ("conv2d", "linear", "add", "mul", "maximum", "max_feature_map", "batch_norm")


def find_tails(graph: Graph, isa: Isa, threads: int) -> dict[str, Node]:
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
            if compares(graph, isa, threads, node):
                tails[node.name] = reader
                rivals.add(reader.name)
            continue
        if node.name in rivals or not may_end(node.op, reader.op, graph.types[made].rank):
            continue
        slopes = {*reader.inputs[1:]} - {""}
        if reader.inputs[0] == made and slopes <= graph.params.keys():
            tails[node.name] = reader
    return tails


def compares(graph: Graph, isa: Isa, threads: int, node: Node) -> bool:
    """Can the node, a convolution, make the maximum of its halves while it has both? Where they
    are whole vectors of channels, and no kernel that packs its inputs is better."""
    op, shape = node.op, graph.types[node.outputs[0]].shape
    weight = graph.params.get(node.inputs[1]) if isinstance(op, Conv2d) else None
    if not isinstance(op, Conv2d) or weight is None or op.groups > 1 or any(node.inputs[3:]):
        return False
    whole = shape[1] % (2 * isa.lanes) == 0 and math.prod(shape) > shape[1]
    better = packs(isa, shape[1], 1) and winograd_cut(isa, op, weight, shape, threads) is None
    return whole and not better
