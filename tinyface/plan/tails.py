"""Activations that the step before them applies."""

from __future__ import annotations

from tinyface.graph import Graph, Node
from tinyface.ops.epilogue import may_end
from tinyface.plan.homes import single_reader

TAKES_ACT = ("conv2d", "linear", "add", "mul", "maximum", "max_feature_map", "batch_norm")


def find_tails(graph: Graph) -> dict[str, Node]:
    """Name of a node -> the activation that its step ends with."""
    tails = {}
    for node in graph.nodes:
        if node.op.kind not in TAKES_ACT or getattr(node.op, "act", None) is not None:
            continue
        made = node.outputs[0]
        reader = single_reader(graph, made)
        if reader is None or not may_end(node.op, reader.op, graph.types[made].rank):
            continue
        slopes = {*reader.inputs[1:]} - {""}
        if reader.inputs[0] == made and slopes <= graph.params.keys():
            tails[node.name] = reader
    return tails
