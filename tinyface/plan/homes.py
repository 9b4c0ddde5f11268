"""Where results can be written straight into the tensor that joins them."""

from __future__ import annotations

import math

from tinyface.graph import Graph, Node
from tinyface.ops import Concat, Flatten, Identity, Reshape, Slice, Split, Transpose

NHWC = (0, 2, 3, 1)
RENAMES = (Reshape, Flatten, Split, Slice, Transpose)  # make no new values


def single_reader(graph: Graph, name: str) -> Node | None:
    """The one node that reads a tensor, if there is just one and the caller does not."""
    readers = graph.readers[name]
    return readers[0] if len(readers) == 1 and name not in graph.outputs else None


def writer(graph: Graph, name: str) -> str | None:
    """The tensor whose bytes ``name`` is under another shape; None where there is a reason
    not to write those straight to another place."""
    types = graph.types
    while True:
        node = graph.producers.get(name)
        if node is None:
            return None
        op, source = node.op, node.inputs[0] if node.inputs else ""
        same = isinstance(op, Identity)
        if isinstance(op, (Reshape, Flatten)):
            maker = graph.producers.get(source)
            rows = maker is not None and isinstance(maker.op, Transpose)  # row-major already
            same = rows or types[source].rank != 4 or math.prod(types[source].shape[2:]) == 1
            same = same and types[source].shape[0] == types[name].shape[0]
        if isinstance(op, Transpose):
            same = op.perm == NHWC
        if not same:
            return None if isinstance(op, RENAMES) else name
        if single_reader(graph, source) is None:
            return None
        name = source


def find_homes(graph: Graph) -> dict[str, tuple[str, int]]:
    """Parts of concatenations: (the joint tensor, floats into it)."""
    types = graph.types
    homes: dict[str, tuple[str, int]] = {}
    for node in reversed(graph.nodes):
        if not isinstance(node.op, Concat):
            continue
        whole = node.outputs[0]
        rank = types[whole].rank
        if rank < 2 or node.op.axis % rank != 1:
            continue
        offset = 0
        for part in node.inputs:
            source = writer(graph, part)
            fits = source == part or rank != 4
            if source and fits and source not in homes and source not in graph.outputs:
                homes[source] = (whole, offset)
            size = 1 if rank == 4 else math.prod(types[part].shape[2:])
            offset += types[part].shape[1] * size
    return homes
