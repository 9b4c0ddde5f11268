"""Where results can be written straight into the tensor that joins them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tinyface.graph import Graph, Node
from tinyface.ops import (
    Concat,
    Flatten,
    Identity,
    Interleave,
    Pad,
    Reshape,
    Slice,
    Split,
    Transpose,
)

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


@dataclass(frozen=True)
class Home:
    """A place in the tensor ``whole``: ``offset`` floats into it; of an interleave, from pixel
    ``cell`` on every ``block``-th row and column."""

    whole: str
    offset: int = 0
    cell: tuple[int, int] = (0, 0)
    block: tuple[int, int] = (1, 1)


def find_homes(graph: Graph) -> dict[str, Home]:
    """Parts of concatenations and interleaves, and what is padded, by name."""
    types = graph.types
    homes: dict[str, Home] = {}
    for node in reversed(graph.nodes):
        whole = node.outputs[0]
        rank = types[whole].rank
        if isinstance(node.op, Interleave):
            for i, part in enumerate(node.inputs):
                if writer(graph, part) == part and part not in graph.outputs:
                    cell = divmod(i, node.op.block[1])
                    homes.setdefault(part, Home(whole, 0, cell, node.op.block))
        if isinstance(node.op, Pad) and rank == 4 and node.op.before[0] == node.op.after[0] == 0:
            part, (_, front, top, left) = node.inputs[0], node.op.before
            if writer(graph, part) == part and part not in graph.outputs:
                homes.setdefault(part, Home(whole, front, (top, left)))
        if not isinstance(node.op, Concat) or rank < 2 or node.op.axis % rank != 1:
            continue
        offset = 0
        for part in node.inputs:
            source = writer(graph, part)
            fits = source == part or rank != 4
            if source and fits and source not in homes and source not in graph.outputs:
                homes[source] = Home(whole, offset)
            size = 1 if rank == 4 else math.prod(types[part].shape[2:])
            offset += types[part].shape[1] * size
    return homes
