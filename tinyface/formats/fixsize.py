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
from tinyface.ops import Split

MORE = (64, 128)  # pixels of the second size, height and width: multiples of any usual stride


def hold_size(
    graph: Graph, read: Callable[[tuple[int, int]], Graph], size: tuple[int, int]
) -> Graph:
    """The graph; if other sizes would go wrong, behind what refuses them: see :func:`_held`.

    Args:
        graph: as it was read for ``size``, (height, width).
        read: the same for one picture of another size.
    """
    free = free_size(graph)
    for larger in ((size[0] + MORE[0], size[1] + MORE[1]), (2 * size[0], 2 * size[1])):
        try:
            other = read(larger)
        except (FormatError, GraphError):
            continue
        alike = _alike(free, free_size(other))
        if alike is not None:
            return graph if alike else _held(graph)
    return _held(graph)  # no larger size goes through it: this one then


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
    """Pads that were made for one size refuse others. Reshapes do not: a size with as many pixels
    goes through them."""
    return a.op == b.op or getattr(a.op, "made_for", (0, 0)) != (0, 0)


def _held(graph: Graph) -> Graph:
    """The pictures go through splits into one part of the very size, which let no other pass
    (``drop_noops`` keeps them)."""
    held: dict[str, str] = {}
    first: list[Node] = []
    for name, t in graph.inputs.items():
        for axis in (2, 3) if t.rank == 4 else ():
            x, y = held.get(name, name), f"{name}:one size{axis}"
            first.append(Node(y, Split(axis, (t.shape[axis],)), (x,), (y,)))
            held[name] = y
    nodes = (
        replace(node, inputs=tuple(held.get(name, name) for name in node.inputs))
        for node in graph.nodes
    )
    return replace(graph, nodes=(*first, *nodes))
