"""Which sides of its inputs a graph leaves free, for whoever writes it down."""

from __future__ import annotations

from tinyface.errors import GraphError
from tinyface.graph import Graph
from tinyface.ops import Interleave, LayerNorm


def batch_of(graph: Graph) -> str | int:
    """Free, or 1 where the network holds for one picture (a session runs several one by one)."""
    if any(kind.shape[:1] != (1,) for kind in graph.inputs.values()):
        return "N"
    try:
        shapes = {name: (2, *kind.shape[1:]) for name, kind in graph.inputs.items()}
        two = graph.with_inputs(shapes)
    except GraphError:
        return 1
    ends = ((graph.types[name].shape[:1], two.types[name].shape[:1]) for name in graph.outputs)
    return "N" if all(b == tuple(2 * side for side in a) for a, b in ends) else 1


def larger(graph: Graph) -> Graph:
    """The same network for larger images; the network itself where it allows none.

    One with an embedding was made for one size of crop, even if its layers would take others:
    whoever reads the file must learn that size from it. So must they where pads were made for one
    size: ONNX's explicit ones do not say so.
    """
    if any(getattr(node.op, "made_for", (0, 0)) != (0, 0) for node in graph.nodes):
        return graph
    shapes = {
        name: (*t.shape[:2], t.shape[2] + 32, t.shape[3] + 64)
        for name, t in graph.inputs.items()
        if t.rank == 4
    }
    if any(graph.types[name].rank < 3 for name in graph.outputs):
        return graph
    try:
        wide = graph.with_inputs(shapes)
    except GraphError:
        return graph
    if any(wide.types[name].shape[0] != graph.types[name].shape[0] for name in graph.outputs):
        return graph  # a reshape takes the larger picture for several
    if any(isinstance(node.op, Interleave) and len({*node.op.block}) > 1 for node in graph.nodes):
        return graph  # the export writes the sides into its reshapes
    for node in graph.nodes:  # ONNX's layer norm has a weight, which has one length
        x = node.inputs[0]
        if isinstance(node.op, LayerNorm) and (
            graph.types[x].shape[node.op.axis] != wide.types[x].shape[node.op.axis]
        ):
            return graph
    return wide
