"""Take out what does nothing, and what nobody reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tinyface.errors import GraphError
from tinyface.graph import Graph, Node
from tinyface.limits import MAX_DIM
from tinyface.ops import (
    Add,
    ChannelShuffle,
    Concat,
    Div,
    Flatten,
    Identity,
    Mul,
    Op,
    Pad,
    Reshape,
    Resize,
    Slice,
    Split,
    Sub,
    Transpose,
)
from tinyface.ops.pool import Pool
from tinyface.ops.spec import Array
from tinyface.passes.rewrite import Typings, finish, typings
from tinyface.types import TensorType

# What leaves the other operand as it is. MobileOne's blocks begin their sums with 0.
NEUTRAL: dict[type[Op], float] = {Add: 0.0, Sub: 0.0, Mul: 1.0, Div: 1.0}


def drop_noops(graph: Graph) -> Graph:
    """Remove operators that return their input unchanged, dead operators, unused weights.

    Such are: identity, reshape and flatten to the same shape, concat of one, split into one,
    resize by 1, pad by 0, slice of everything, transpose and shuffle that move nothing,
    pooling of single elements, sums with zeros and products with ones. Of reshapes in a row the
    last decides alone. The graph's inputs and outputs keep their names.
    """
    seen = typings(graph)
    same_as: dict[str, str] = {}  # output of a removed operator -> the tensor it equals
    called: dict[str, str] = {}  # tensor -> the output name it takes over
    nodes: list[Node] = []
    made: dict[str, Node] = {}
    for node in graph.nodes:
        node = _past_reshape(_renamed(node, same_as), made, graph, seen)
        made |= dict.fromkeys(node.outputs, node)
        x, y = _kept(node, graph), node.outputs[0]
        needed = _cuts(node, seen) or _holds(node, graph)
        if needed or not all(is_noop(node, x, types) for types in seen):
            nodes.append(node)
            continue
        if y not in graph.outputs:
            same_as[y] = x
        elif x in graph.producers and x not in graph.outputs and x not in called:
            called[x] = y
        else:  # an output that equals an input, a weight or another output: it must be copied
            nodes.append(node)
    return finish(graph, (_renamed(node, called) for node in nodes), graph.params)


def _past_reshape(node: Node, made: Mapping[str, Node], graph: Graph, seen: Typings) -> Node:
    """A reshape of a reshape as one of what the first one reads, where that gives the same."""
    source = made.get(node.inputs[0])
    if source is None or not all(isinstance(n.op, (Reshape, Flatten)) for n in (source, node)):
        return node
    if _holds(source, graph):
        return node
    try:
        same = all(
            node.op.infer(types[source.inputs[0]]) == (types[node.outputs[0]],) for types in seen
        )
    except GraphError:  # it keeps a side that only the first one's output has
        return node
    return replace(node, inputs=source.inputs) if same else node


def _kept(node: Node, graph: Graph) -> str:
    """The input that the output may equal; "" where an operand changes it."""
    number = NEUTRAL.get(type(node.op))
    if number is None:
        return node.inputs[0]
    constants, rank = graph.params, graph.types[node.outputs[0]].rank
    pairs = (node.inputs, node.inputs[::-1]) if isinstance(node.op, (Add, Mul)) else (node.inputs,)
    return next(
        (x for x, c in pairs if c in constants and _is_neutral(constants[c], number, rank)), ""
    )


def _is_neutral(value: Array, number: float, rank: int) -> bool:
    """Whether it is that number throughout; and not one for each picture of a batch, which a
    smaller batch is repeated for."""
    aligned = (1,) * (rank - value.ndim) + value.shape
    return max(aligned[:1], default=1) == 1 and bool(np.all(value == number))


def is_noop(node: Node, x: str, types: Mapping[str, TensorType]) -> bool:
    """Whether the operator's one output equals its input ``x``, for inputs of these types."""
    op, y = node.op, types[node.outputs[0]]
    if len(node.outputs) > 1 or not x or types[x].shape != y.shape:
        return False
    if isinstance(op, Concat):
        return len(node.inputs) == 1
    if isinstance(op, Slice):
        return not any(op.starts) and set(op.steps) == {1}
    if isinstance(op, Resize):
        return len(node.inputs) == 2 or op.size != (0, 0) or op.scale == (1.0, 1.0)
    if isinstance(op, Transpose):
        return op.perm == tuple(range(y.rank))
    if isinstance(op, ChannelShuffle):
        return op.groups in (1, y.shape[1])
    if isinstance(op, Pool):
        return op.kernel == op.stride == (1, 1) and not any(op.pad)
    return isinstance(op, (Identity, Reshape, Flatten, Split, Pad, *NEUTRAL))


def _cuts(node: Node, seen: Typings) -> bool:
    """Has a slice an end that a larger input would reach, along an axis that may be larger?"""
    op, shapes = node.op, [types[node.inputs[0]].shape for types in seen]
    return isinstance(op, Slice) and any(
        end < MAX_DIM and len({shape[axis] for shape in shapes}) > 1
        for axis, end in zip(op.axes, op.ends, strict=True)
    )


def _holds(node: Node, graph: Graph) -> bool:
    """Does it let pass one size only: a split into one part (``formats.fixsize``, ``formulas``), or
    a reshape of the picture that names all of it?"""
    if isinstance(node.op, Split):
        return len(node.op.sizes) == 1
    sides = node.op.shape if isinstance(node.op, Reshape) else ()
    return len(sides) == 4 and min(sides[2:]) > 0 and node.inputs[0] in graph.inputs


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    return replace(
        node,
        inputs=tuple(names.get(name, name) for name in node.inputs),
        outputs=tuple(names.get(name, name) for name in node.outputs),
    )
