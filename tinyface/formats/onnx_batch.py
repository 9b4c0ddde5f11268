"""Keep the batch of an ONNX file free.

A file whose batch has no size is read with a batch of 1, in which nothing tells the sides that
follow the batch from others: attention merges it with its heads, or puts it behind the tokens. So
the file is read a second time with a batch of 2. A reshape whose output differs by more than its
own shape says is written anew: sides that differ are "kept" (0) or "what is left over" (-1). Where
that cannot be said, the shape stays that of one picture: then the network refuses larger batches,
and a session runs one picture after another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tinyface.errors import FormatError, GraphError
from tinyface.graph import Graph, Node
from tinyface.ops import Reshape
from tinyface.types import Shape


def free_batch(read: Callable[[int], Graph]) -> Graph:
    """The network that ``read(1)`` gives, with reshapes that hold for any batch.

    Args:
        read: batch -> the file, read for this batch.

    Raises:
        FormatError: as ``read(1)`` does.
    """
    one = read(1)
    if not any(isinstance(node.op, Reshape) for node in one.nodes):
        return one
    try:
        two = read(2)
    except (FormatError, GraphError):  # it holds for one picture only
        return one
    return replace(one, nodes=tuple(_freed(node, one, two) for node in one.nodes))


def _freed(node: Node, one: Graph, two: Graph) -> Node:
    """The node with a shape that gives in both graphs what each has; else that of one picture."""
    x, y = node.inputs[0], node.outputs[0]
    if not isinstance(node.op, Reshape) or x not in two.types or y not in two.types:
        return node
    olds, news = ([graph.types[name].shape for graph in (one, two)] for name in (x, y))
    if _gives(node.op, olds, news):
        return node
    freed = Reshape(shape=news[0])
    if len(news[0]) == len(news[1]):
        shape = [_side(i, olds, news) for i in range(len(news[0]))]
        if shape.count(-1) <= 1 and _gives(Reshape(shape=tuple(shape)), olds, news):
            freed = Reshape(shape=tuple(shape))
    return replace(node, op=freed)


def _side(i: int, olds: list[Shape], news: list[Shape]) -> int:
    """What a reshape must say about side i of its output."""
    sides = [new[i] for new in news]
    if sides[0] == sides[1]:
        return sides[0]
    return 0 if sides == [old[i] if i < len(old) else 0 for old in olds] else -1


def _gives(op: Reshape, olds: list[Shape], news: list[Shape]) -> bool:
    try:
        return [op.resolve(old) for old in olds] == news
    except GraphError:
        return False
