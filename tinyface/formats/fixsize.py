"""Hold a network to the size of the picture that it was read for, where it counts on that.

A file whose picture has no size, or that computes with its size, is read for one, and what it
computes of it (the end of a slice, a number of pixels to divide by) are constants then. So it is
read a second time, for a larger picture. Where both have the same operators and numbers they hold
for any size; else other sizes would give something wrong, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinyface.errors import FormatError, GraphError
from tinyface.formats.freesize import free_size
from tinyface.graph import Graph, Node
from tinyface.ops import Reshape

MORE = (64, 128)  # pixels of the second size, height and width: multiples of any usual stride


def hold_size(
    graph: Graph, read: Callable[[tuple[int, int]], Graph], size: tuple[int, int]
) -> Graph:
    """The graph, behind a reshape of its picture to the very size if others would go wrong.

    Args:
        graph: as it was read for ``size``, (height, width).
        read: the same for one picture of another size.
    """
    free = free_size(graph)
    for larger in ((size[0] + MORE[0], size[1] + MORE[1]), (2 * size[0], 2 * size[1])):
        try:
            other = read(larger)
        except (FormatError, GraphError):  # it holds for this size only, and says so itself
            return graph
        alike = _alike(free, free_size(other))
        if alike is not None:
            return graph if alike else _held(graph)
    return graph


def _alike(one: Graph, other: Graph) -> bool | None:
    """Does what was read for one size compute at the other what was read for that? None: it does
    not fit there at all, and where it fits, twice the size will tell."""
    try:
        types = one.with_inputs({name: t.shape for name, t in other.inputs.items()}).types
    except GraphError:
        return None
    outputs = zip(one.outputs, other.outputs, strict=True)
    return (
        all(types[a] == other.types[b] for a, b in outputs)
        and len(one.nodes) == len(other.nodes)
        and all(map(_same, one.nodes, other.nodes))
        and one.params.keys() == other.params.keys()
        and all(np.array_equal(value, other.params[name]) for name, value in one.params.items())
    )


def _same(a: Node, b: Node) -> bool:
    """Reshapes refuse what does not fit, and so do pads that were made for one size."""
    refuses = isinstance(a.op, Reshape) and isinstance(b.op, Reshape)
    return refuses or a.op == b.op or getattr(a.op, "made_for", (0, 0)) != (0, 0)


def _held(graph: Graph) -> Graph:
    """The pictures go through a reshape that lets no other size pass (``drop_noops`` keeps it)."""
    held = {
        name: Node(f"{name}:one size", Reshape((0, *t.shape[1:])), (name,), (f"{name}:one size",))
        for name, t in graph.inputs.items()
        if t.rank == 4
    }
    nodes = (
        replace(
            node,
            inputs=tuple(held[name].outputs[0] if name in held else name for name in node.inputs),
        )
        for node in graph.nodes
    )
    return replace(graph, nodes=(*held.values(), *nodes))
