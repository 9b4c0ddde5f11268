"""Let a convolution or linear operator add the shortcut and apply the activation itself."""

from __future__ import annotations

from dataclasses import replace

from tinyface.graph import Graph, Node
from tinyface.ops import Add, Conv2d, Linear
from tinyface.ops.epilogue import may_end
from tinyface.passes.rewrite import (
    Typings,
    alive,
    finish,
    private,
    same_shape,
    trimmed_node,
    typings,
)


def fuse_activation(graph: Graph) -> Graph:
    """Make y = act(product + bias + residual) one operator: the map is written once, not thrice.

    An activation, or an addition of a map of the same shape, is taken up where it is the only
    reader of what the convolution makes and that is no output of the graph. The fused
    operator stands where the convolution stood, next to what it reads, unless the residual is
    computed later.
    A depthwise convolution takes up no addition: no kernel of it reads a second map. Nor does any
    take up a constant (a position embedding): that is for the batch of the file alone.
    """
    graph = alive(graph)
    seen = typings(graph)
    nodes: list[Node | None] = []
    made: dict[str, int] = {}  # tensor -> place of its producer in nodes
    for node in graph.nodes:
        place = len(nodes)
        # Of an addition's two operands, the one made last: its input lives on anyway.
        for tensor in sorted(set(node.inputs), key=lambda name: made.get(name, -1), reverse=True):
            at = made.get(tensor, -1)
            source = nodes[at] if at >= 0 else None
            fused = _fuse(graph, source, node, tensor, seen) if source else None
            if fused is not None:
                nodes[at], node = None, fused
                if all(made.get(name, -1) < at for name in fused.inputs):
                    place = at
                break
        made.update(dict.fromkeys(node.outputs, place))
        nodes[place : place + 1] = [node]
    return finish(graph, filter(None, nodes), graph.params)


def _fuse(graph: Graph, source: Node, node: Node, tensor: str, seen: Typings) -> Node | None:
    """``source``, which makes ``tensor``, having taken up ``node``; None if it cannot."""
    op = source.op
    if not isinstance(op, (Conv2d, Linear)) or op.act is not None or not private(graph, tensor):
        return None
    product = (*source.inputs, "", "", "")[:5]  # x, weight, bias, slope, residual
    if may_end(op, node.op, graph.types[tensor].rank) and node.inputs[0] == tensor:
        slope = node.inputs[1] if len(node.inputs) == 2 else ""
        inputs = (*product[:3], slope, product[4])
        fused = Node(source.name, replace(op, act=node.op), inputs, node.outputs)
        return trimmed_node(fused)
    if isinstance(node.op, Add) and not product[4] and not _depthwise(graph, source):
        (residual,) = (name for name in node.inputs if name != tensor)
        if same_shape(seen, tensor, residual) and residual not in graph.params:
            return Node(source.name, op, (*product[:4], residual), node.outputs)
    return None


def _depthwise(graph: Graph, node: Node) -> bool:
    """Whether every channel is convolved by itself."""
    shape = graph.types[node.inputs[1]].shape
    return isinstance(node.op, Conv2d) and node.op.groups == shape[0] > 1
