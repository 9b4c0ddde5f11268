"""Store the weights of matrix products as fp16: half the bytes to keep and to fetch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyface.graph import Graph, Node
from tinyface.ops import Conv2d, Linear
from tinyface.ops.spec import Array

LEAST_NORMAL, LARGEST = 2.0**-14, 65504.0  # of fp16


def half_weights(graph: Graph) -> Graph:
    """The same network with fp16 weights in its convolutions and fully connected layers.

    Every weight is rounded to the nearest fp16: by at most 2**-11 of itself, or by 2**-25 where
    it is below 2**-14. The arithmetic stays float32: an engine widens a weight when it reads it.
    Biases, slopes and the filters of depthwise convolutions stay as they are (they are few), and
    so does a layer that does not :func:`fit`. Not one of the passes of ``optimise``: unlike
    theirs, its result is another one, so somebody has to ask for it.
    """
    places: dict[str, list[bool]] = {}  # tensor -> for every reader: a weight of a product?
    for node in graph.nodes:
        for i, name in enumerate(node.inputs):
            places.setdefault(name, []).append(i == 1 and is_product(node, graph))
    params = {
        name: value.astype(np.float16) if all(places.get(name, [False])) and fits(value) else value
        for name, value in graph.params.items()
    }
    return replace(graph, params=params)


def is_product(node: Node, graph: Graph) -> bool:
    """A convolution that adds over channels, or a fully connected layer."""
    if isinstance(node.op, Conv2d):
        o, per_group = graph.types[node.inputs[1]].shape[:2]
        return per_group > 1 or node.op.groups < o or o == 1
    return isinstance(node.op, Linear)


def fits(weight: Array) -> bool:
    """Is the layer's largest weight a normal number of fp16? If it is larger, rounding makes it
    infinite; if it is smaller, rounding leaves little of the whole layer."""
    most = float(np.abs(weight).max(initial=0.0))
    return most == 0.0 or LEAST_NORMAL <= most <= LARGEST
