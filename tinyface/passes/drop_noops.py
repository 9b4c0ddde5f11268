"""Take out what does nothing, and what nobody reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tinyface.graph import Graph, Node
from tinyface.ops import (
    ChannelShuffle,
    Concat,
    Flatten,
    Identity,
    Pad,
    Reshape,
    Resize,
    Slice,
    Split,
    Transpose,
)
from tinyface.ops.pool import Pool
from tinyface.passes.rewrite import finish, typings
from tinyface.types import TensorType


def drop_noops(graph: Graph) -> Graph:
    """Remove operators that return their input unchanged, dead operators, unused weights.

    Such are: identity, reshape and flatten to the same shape, concat of one, split into one,
    resize by 1, pad by 0, slice of everything, transpose and shuffle that move nothing,
    pooling of single elements. The graph's inputs and outputs keep their names.
    """
    seen = typings(graph)
    same_as: dict[str, str] = {}  # output of a removed operator -> the tensor it equals
    called: dict[str, str] = {}  # tensor -> the output name it takes over
    nodes: list[Node] = []
    for node in graph.nodes:
        node = _renamed(node, same_as)
        if not all(is_noop(node, types) for types in seen):
            nodes.append(node)
            continue
        x, y = node.inputs[0], node.outputs[0]
        if y not in graph.outputs:
            same_as[y] = x
        elif x in graph.producers and x not in graph.outputs and x not in called:
            called[x] = y
        else:  # an output that equals an input, a weight or another output: it must be copied
            nodes.append(node)
    return finish(graph, (_renamed(node, called) for node in nodes), graph.params)


def is_noop(node: Node, types: Mapping[str, TensorType]) -> bool:
    """Whether the operator's one output equals its first input, for inputs of these types."""
    op, x, y = node.op, types[node.inputs[0]], types[node.outputs[0]]
    if len(node.outputs) > 1 or x.shape != y.shape:
        return False
    if isinstance(op, Concat):
        return len(node.inputs) == 1
    if isinstance(op, Slice):
        return all(step > 0 for step in op.steps)
    if isinstance(op, Resize):
        return len(node.inputs) == 2 or op.size != (0, 0) or op.scale == (1.0, 1.0)
    if isinstance(op, Transpose):
        return op.perm == tuple(range(x.rank))
    if isinstance(op, ChannelShuffle):
        return op.groups in (1, x.shape[1])
    if isinstance(op, Pool):
        return op.kernel == op.stride == (1, 1) and not any(op.pad)
    return isinstance(op, (Identity, Reshape, Flatten, Split, Pad))


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    return replace(
        node,
        inputs=tuple(names.get(name, name) for name in node.inputs),
        outputs=tuple(names.get(name, name) for name in node.outputs),
    )
