"""Undo what an exporter fixed to one size of the picture, in detectors.

Exporters that are not told to leave the picture's size free write the sizes of all maps into the
graph as constants. Of a detector, which is fully convolutional, two kinds of these matter: the
coarse map of a feature pyramid is enlarged to a constant size before it is added to a finer one,
and rows of predictions are reshaped to a constant number. Written relative to the other map, and
to "as many as there are", they mean the same at the exported size and stay right at others.
"""

from __future__ import annotations

from dataclasses import replace

from tinyface.errors import GraphError
from tinyface.graph import Graph, Node
from tinyface.ops import Add, Reshape, Resize

FIELDS = (4, 2, 10, 1)  # numbers in a row of predictions


def size_hint(height: int, width: int) -> str:
    """What to do about maps that do not fit each other, where the size was our choice."""
    return (
        f" (the file leaves the picture's size free; tried was {height}x{width}, "
        "see  tinyface import --size)"
    )


def free_size(graph: Graph) -> Graph:
    """The same network with those constants taken out; what computes at its own size is equal."""
    return replace(graph, nodes=tuple(_freed(graph, node) for node in graph.nodes))


def is_free(graph: Graph) -> bool:
    """Whether the network takes a picture of another size."""
    (name, kind), *_ = graph.inputs.items()
    n, c, h, w = kind.shape
    try:
        graph.with_inputs({name: (n, c, h + 64, w + 32)})
    except GraphError:
        return False
    return True


def _freed(graph: Graph, node: Node) -> Node:
    op = node.op
    if isinstance(op, Resize) and len(node.inputs) == 1 and op.size != (0, 0):
        like = _partner(graph, node.outputs[0])
        if like:
            return replace(node, op=Resize(mode=op.mode), inputs=(*node.inputs, like))
    if isinstance(op, Reshape) and op.shape and op.shape[-1] in FIELDS:
        side = graph.types[node.inputs[0]]
        if side.rank != 4:
            return node
        if len(op.shape) == 3 and op.shape[0] in (0, side.shape[0]):
            return replace(node, op=Reshape(shape=(op.shape[0], -1, op.shape[-1])))
        if len(op.shape) == 2 and side.shape[2] == 1:  # (h, w, 1, c), as SCRFD has its rows
            return replace(node, op=Reshape(shape=(-1, op.shape[-1])))
    return node


def _partner(graph: Graph, name: str) -> str:
    """What this tensor alone is added to, if that is a map computed before it; else ""."""
    readers = graph.readers[name]
    if len(readers) != 1 or not isinstance(readers[0].op, Add):
        return ""
    other = next((i for i in readers[0].inputs if i != name), "")
    order = [output for node in graph.nodes for output in node.outputs]
    if other not in order or order.index(other) > order.index(name):
        return ""
    return other if graph.types[other].shape == graph.types[name].shape else ""
