"""Where results can be written straight into the tensor that joins them, or to the caller."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
            same = same and types[source].shape[:1] == types[name].shape[:1]
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


def joins_channels(graph: Graph, node: Node) -> bool:
    """Is it a concatenation whose parts may be written in place? They are row-major along any
    other axis, and beside constants, which are."""
    op, rank = node.op, graph.types[node.outputs[0]].rank
    constants = any(part in graph.params for part in node.inputs)
    return isinstance(op, Concat) and rank >= 2 and op.axis % rank == 1 and not constants


def find_homes(graph: Graph) -> dict[str, Home]:
    """Parts of concatenations and interleaves, and what is padded, by name."""
    homes: dict[str, Home] = {}
    for node in reversed(graph.nodes):
        for part, home in _parts(graph, node):
            source = writer(graph, part)
            fits = source == part or graph.types[home.whole].rank != 4
            if source and fits and source not in graph.outputs:
                homes.setdefault(source, home)
    return homes


def find_direct(graph: Graph, homes: Mapping[str, Home]) -> dict[str, str]:
    """Tensor -> the output of the graph in whose array, the caller's, it is computed: where the
    layout is the caller's, too."""
    direct: dict[str, str] = {}
    for name in graph.outputs:
        source, shape = writer(graph, name), graph.types[name].shape
        same = source == _original(graph, name)
        planes = len(shape) == 4 and same and math.prod(shape[2:]) > 1
        taken = {*homes, *direct, *direct.values()}
        if source and not planes and source not in taken:
            direct[source] = name
    return direct


def _original(graph: Graph, name: str) -> str:
    """The tensor that ``name`` is under another name, in the same shape and order."""
    while (node := graph.producers.get(name)) and isinstance(node.op, Identity):
        name = node.inputs[0]
    return name


def _parts(graph: Graph, node: Node) -> Iterator[tuple[str, Home]]:
    """What an operator joins, and where it goes."""
    op, whole = node.op, node.outputs[0]
    rank = graph.types[whole].rank
    if isinstance(op, Interleave):
        for i, part in enumerate(node.inputs):
            yield part, Home(whole, 0, divmod(i, op.block[1]), op.block)
    elif isinstance(op, Pad) and rank == 4 and op.before[0] == op.after[0] == 0:
        _, front, top, left = op.before
        yield node.inputs[0], Home(whole, front, (top, left))
    elif joins_channels(graph, node):
        offset = 0
        for part in node.inputs:
            yield part, Home(whole, offset)
            size = 1 if rank == 4 else math.prod(graph.types[part].shape[2:])
            offset += graph.types[part].shape[1] * size
