"""What the passes share: asking whether a rewrite is safe, and putting the result together."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from itertools import product

import numpy as np

from tinyface.errors import GraphError
from tinyface.graph import Graph, Node
from tinyface.ops.spec import Array, Op
from tinyface.types import TensorType

AXES = ((0,), (1,), (2, 3), (2,), (3,))  # batch, channels or tokens, the image, its sides
Typings = tuple[Mapping[str, TensorType], ...]
Params = dict[str, Array]
Merge = Callable[[Graph, Node, Node, Params], "Node | None"]


def typings(graph: Graph) -> Typings:
    """Types of all tensors for the graph's inputs, and for larger ones: all of them together and
    each alone, along ``AXES``, twice as long and by one longer.

    A rewrite that looks at shapes must be right for every input that the graph can be given
    later, not just for today's: a resize to 112x112 does nothing to an image of that size, and
    does something to the next one. So it has to hold in all of these (as far as the graph takes
    such inputs at all). One more, since what is halved and doubled again is even.
    """
    found = [graph.types]
    tried = {tuple(t.shape for t in graph.inputs.values())}
    together = tuple(graph.inputs)
    for names, axes, (times, more) in product(
        (together, *((name,) for name in together)), AXES, ((2, 0), (1, 1))
    ):
        shapes = {
            name: tuple(
                side * times + more if i in axes and name in names else side
                for i, side in enumerate(t.shape)
            )
            for name, t in graph.inputs.items()
        }
        if (key := tuple(shapes.values())) in tried:
            continue
        tried.add(key)
        try:
            found.append(graph.with_inputs(shapes).types)
        except GraphError:  # fixed to one size, or too large
            continue
    return tuple(found)


def same_shape(typings: Typings, *names: str) -> bool:
    """Whether the tensors have one shape, whatever the input."""
    return all(len({types[name].shape for name in names}) == 1 for types in typings)


def private(graph: Graph, tensor: str) -> bool:
    """Whether exactly one operator sees the tensor, so that it may vanish."""
    return len(graph.readers[tensor]) == 1 and tensor not in graph.outputs


def fresh(name: str, *taken: Container[str]) -> str:
    """``name``, or ``name.2``, ``name.3`` … if it is taken."""
    candidate, count = name, 1
    while any(candidate in names for names in taken):
        count += 1
        candidate = f"{name}.{count}"
    return candidate


def merge_pairs(graph: Graph, merge: Merge, either: tuple[type[Op], ...] = ()) -> Graph:
    """Let ``merge`` make one node of each node and the one that makes its first input that is no
    constant.

    merge: (graph, source, node, params) -> the node that does both, which stands where ``node``
    did, or None; it may add to ``params``. either: operators of which any such input counts.
    """
    graph = alive(graph)
    nodes: list[Node | None] = []
    made: dict[str, int] = {}  # tensor -> place of its producer in nodes
    params = dict(graph.params)
    for node in graph.nodes:
        read = [name for name in node.inputs if name not in params]
        for name in read if isinstance(node.op, either) else read[:1]:
            place = made.get(name, -1)
            source = nodes[place] if place >= 0 else None
            merged = merge(graph, source, node, params) if source else None
            if merged is not None:
                nodes[place] = None
                node = merged
        made.update(dict.fromkeys(node.outputs, len(nodes)))
        nodes.append(node)
    return finish(graph, filter(None, nodes), params)


def scaled_rows(weight: Array, factors: Array) -> Array:
    """weight (o, ...) times factors (o,) or (1,): in float64, rounded once; no copy in float64."""
    per_row = factors.reshape((-1,) + (1,) * (weight.ndim - 1))
    scaled = np.empty_like(weight)
    np.multiply(weight, per_row, out=scaled, dtype=np.float64, casting="same_kind")
    return scaled


def folded(
    graph: Graph, name: str, weight: Array, bias: Array, params: Params
) -> tuple[str, str] | None:
    """Names of the folded weight and bias of node ``name``, added to ``params``; None where they
    cannot be stored: a number too large, or none at all."""
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return None
    names = []
    for part, value in (("weight", weight), ("bias", bias)):
        names.append(fresh(f"{name}.{part}.folded", params, graph.types))
        params[names[-1]] = value
    return names[0], names[1]


def alive(graph: Graph) -> Graph:
    """The graph without what no output needs. A pass that asks whether a tensor is private begins
    with it: a reader that will vanish must not decide."""
    return finish(graph, graph.nodes, graph.params)


def trimmed(graph: Graph) -> Graph:
    """The graph without absent inputs at the end of a node's, so that passes may count them."""
    return finish(graph, map(trimmed_node, graph.nodes), graph.params)


def trimmed_node(node: Node) -> Node:
    if node.inputs[-1:] != ("",):
        return node
    count = max((i + 1 for i, name in enumerate(node.inputs) if name), default=0)
    return replace(node, inputs=node.inputs[:count])


def finish(graph: Graph, nodes: Iterable[Node], params: Mapping[str, Array]) -> Graph:
    """The graph with these nodes and parameters, without those that no output needs; the very
    graph that was given where nothing changes: to make and check another takes its time."""
    needed, kept = set(graph.outputs), []
    for node in reversed(list(nodes)):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    left = tuple(reversed(kept))
    used = {name: value for name, value in params.items() if name in needed}
    same = used.keys() == graph.params.keys() and left == graph.nodes
    if same and all(value is graph.params[name] for name, value in used.items()):
        return graph
    return replace(graph, nodes=left, params=used)
