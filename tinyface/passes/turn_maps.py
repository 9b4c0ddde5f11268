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
    seen: Typings = ()
    made: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        source = made.get(node.inputs[0])
        made[node.outputs[0]] = node
        ops = _swapped(graph, source, node) if source else ()
        if source and ops:
            x, y = source.inputs[0], node.outputs[0]
            seen = seen or typings(graph)  # takes its time, and most networks have no tokens
            if all(_same(ops, x, source, y, types) for types in seen):
                name = fresh(f"{node.name}.map", graph.types)
                nodes.append(Node(name, ops[0], (x,), (name,)))
                node = Node(node.name, ops[1], (name,), node.outputs)
        nodes.append(node)
    return finish(graph, nodes, graph.params)


def _swapped(graph: Graph, source: Node, node: Node) -> tuple[Op, ...]:
    """The two operators in the opposite order; () where they are something else."""
    first, second, x = source.op, node.op, source.inputs[0]
    rank = graph.types[x].rank
    if isinstance(first, Reshape) and isinstance(second, Transpose) and second.perm == ROWS:
        tokens = Reshape((0, -1, graph.types[node.outputs[0]].shape[-1]))
        return (Transpose(TO_LAST), tokens) if rank == 4 else ()
    if isinstance(first, Transpose) and first.perm == ROWS and isinstance(second, Reshape):
        sides = [side or -1 for side in second.shape[2:]]
        if rank == 3 and len(sides) == 2 and sides.count(-1) < 2:
            return Reshape((0, *sides, graph.types[x].shape[-1])), Transpose(TO_FIRST)
    return ()


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
