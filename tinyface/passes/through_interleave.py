"""Let what follows a transposed convolution be taken up by the convolutions that it is made of."""

from __future__ import annotations

from dataclasses import replace

from tinyface.graph import Graph, Node
from tinyface.ops import FUSABLE, BatchNorm, Conv2d, Interleave
from tinyface.passes.rewrite import alive, finish, fresh, private


def through_interleave(graph: Graph) -> Graph:
    """Batch norms and activations behind an ``Interleave`` of convolutions go in front of it.

    They treat every pixel alike, so it makes no difference to the result; but each convolution can
    then fold or fuse its own, and the large map is written once.
    """
    graph = alive(graph)
    nodes: list[Node] = []
    joined: dict[str, Node] = {}  # result of an interleave that may be moved behind its reader
    convs = {
        name
        for name, maker in graph.producers.items()
        if isinstance(maker.op, Conv2d) and private(graph, name)
    }
    names = {node.name for node in graph.nodes}
    for node in graph.nodes:
        join = joined.pop(node.inputs[0], None) if node.inputs else None
        if join is not None and isinstance(node.op, (BatchNorm, *FUSABLE)):
            nodes.remove(join)
            parts = []
            for i, part in enumerate(join.inputs):
                name = fresh(f"{node.outputs[0]}:{i}", graph.types, names)
                nodes.append(Node(name, node.op, (part, *node.inputs[1:]), (name,)))
                parts.append(name)
            node = replace(join, inputs=tuple(parts), outputs=node.outputs)
            joined[node.outputs[0]] = node
        elif isinstance(node.op, Interleave) and convs.issuperset(node.inputs):
            joined[node.outputs[0]] = node
        if node.outputs[0] in joined and not private(graph, node.outputs[0]):
            joined.pop(node.outputs[0])
        nodes.append(node)
    return finish(graph, nodes, graph.params)
