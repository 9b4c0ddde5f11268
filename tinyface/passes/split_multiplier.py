"""A depthwise convolution with several filters for each channel, as several with one filter."""

from __future__ import annotations

from dataclasses import replace

from tinyface.graph import Graph, Node
from tinyface.ops import ChannelShuffle, Concat, Conv2d
from tinyface.passes.rewrite import Params, finish, fresh

MOST = 6  # filters of a channel: the input is read once for each
LEAST = 16  # channels


def split_multiplier(graph: Graph) -> Graph:
    """Where ``groups`` is the number of channels c, and there are m c outputs (FastViT's and
    MobileCLIP's reductions), output ``g m + j`` is filter j of channel g. A product of matrices
    for each group would have m columns of the 4 to 16 that a vector has; m depthwise convolutions
    fill theirs. Their maps lie side by side, (j, g), and a shuffle of m groups puts the channels in
    order, which a pointwise convolution behind it does by itself.
    """
    params, nodes = dict(graph.params), []
    for node in graph.nodes:
        filters = _filters(graph, node)
        nodes += _split(graph, node, filters, params) if filters > 1 else [node]
    return finish(graph, nodes, params)


def _filters(graph: Graph, node: Node) -> int:
    """Of each channel, where they can be parted; else 1."""
    if not isinstance(node.op, Conv2d) or len(node.inputs) == 5:  # that of a depthwise adds no map
        return 1
    if any(name and name not in graph.params for name in node.inputs[1:]):
        return 1
    outputs, per_group, *_ = graph.params[node.inputs[1]].shape
    filters = outputs // node.op.groups
    return filters if per_group == 1 and node.op.groups >= LEAST and filters <= MOST else 1


def _split(graph: Graph, node: Node, filters: int, params: Params) -> list[Node]:
    """The convolutions, their maps side by side, and the shuffle. Adds their constants."""
    x, *constants = node.inputs
    nodes, parts = [], []
    for j in range(filters):
        inputs = [x]
        for name in constants:
            value = graph.params[name] if name else None
            if value is None or value.size == 1:  # a slope of all channels
                inputs.append(name)
                continue
            inputs.append(fresh(f"{name}:{j}", params, graph.types))
            params[inputs[-1]] = value[j::filters]
        parts.append(fresh(f"{node.outputs[0]}:{j}", graph.types))
        nodes.append(Node(parts[-1], node.op, tuple(inputs), (parts[-1],)))
    joined = fresh(f"{node.outputs[0]}:all", graph.types)
    shuffle = ChannelShuffle(groups=filters)
    return [
        *nodes,
        Node(joined, Concat(axis=1), tuple(parts), (joined,)),
        replace(node, op=shuffle, inputs=(joined,)),
    ]
