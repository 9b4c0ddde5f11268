"""Turn a map where its rows would be turned: (n, c, h, w) -> (n, h w, c) and back.

Transformers see a map as h w tokens: they reshape it to (n, c, h w) and turn that. The C engine
keeps maps channels-last, where turning the map first, (0, 2, 3, 1), is another name for the same
floats, and so is the reshape behind it; turning the rows moves every float, twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinyface.errors import GraphError
from tinyface.graph import Graph, Node
from tinyface.ops import Op, Reshape, Transpose
from tinyface.passes.rewrite import Typings, finish, fresh, typings
from tinyface.types import TensorType

ROWS, TO_LAST, TO_FIRST = (0, 2, 1), (0, 2, 3, 1), (0, 3, 1, 2)


def turn_maps(graph: Graph) -> Graph:
    """Let reshapes and transpositions between maps and tokens change places."""
    seen = typings(graph)
    made: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        source = made.get(node.inputs[0])
        pair = _pair(graph, source, node, seen) if source else ()
        nodes += pair or (node,)
        made[node.outputs[0]] = node
    return finish(graph, nodes, graph.params)


def _pair(graph: Graph, source: Node, node: Node, seen: Typings) -> tuple[Node, ...]:
    """The two operators in the opposite order; () where they are something else."""
    first, second, x, y = source.op, node.op, source.inputs[0], node.outputs[0]
    rank, ops = graph.types[x].rank, tuple[Op, ...]()
    if isinstance(first, Reshape) and isinstance(second, Transpose) and second.perm == ROWS:
        if rank == 4:
            ops = Transpose(TO_LAST), Reshape((0, -1, graph.types[y].shape[-1]))
    elif isinstance(first, Transpose) and first.perm == ROWS and isinstance(second, Reshape):
        sides = [side or -1 for side in second.shape[2:]]
        if rank == 3 and len(sides) == 2 and sides.count(-1) < 2:
            ops = Reshape((0, *sides, graph.types[x].shape[-1])), Transpose(TO_FIRST)
    if not ops or not all(_same(ops, x, source, y, types) for types in seen):
        return ()
    name = fresh(f"{node.name}.map", graph.types)
    return Node(name, ops[0], (x,), (name,)), Node(node.name, ops[1], (name,), node.outputs)


def _same(ops: Sequence[Op], x: str, source: Node, y: str, types: Mapping[str, TensorType]) -> bool:
    """Whether tokens and channels of x stay what they are, and y gets its shape."""
    between, end = types[source.outputs[0]].shape, types[y].shape
    whole = types[x].shape if len(types[x].shape) == 4 else end  # (n, c, h, w)
    if len(between) != 3 or len(whole) != 4 or between[:2] != whole[:2]:
        return False
    try:
        (middle,) = ops[0].infer(types[x])
        return ops[1].infer(middle) == (types[y],)
    except GraphError:
        return False
