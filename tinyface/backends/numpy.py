"""The reference engine: run every node's NumPy definition, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tinyface.graph import Graph, Node
from tinyface.ops.spec import Array

Hook = Callable[[Node, tuple[Array, ...]], None]


def run_graph(
    graph: Graph, inputs: Mapping[str, Array], *, hook: Hook | None = None
) -> dict[str, Array]:
    """Outputs of the graph by name.

    Works in the dtype of its inputs and weights (float32, or float64 for a check to 1e-9).
    A tensor is let go as soon as its last reader has run. ``hook(node, outputs)`` is called
    after every node, in order (traces, feature-map pictures).
    """
    values: dict[str, Any] = {"": None, **graph.params, **inputs}
    last_reader = {name: node.name for node in graph.nodes for name in node.inputs}
    kept = {"", *graph.params, *graph.outputs}
    for node in graph.nodes:
        result = node.op.run(*(values[name] for name in node.inputs))
        outputs = result if isinstance(result, tuple) else (result,)
        values.update(zip(node.outputs, outputs, strict=True))
        if hook is not None:
            hook(node, outputs)
        for name in {*node.inputs, *node.outputs} - kept:
            if last_reader.get(name, node.name) == node.name:
                values.pop(name, None)
    return {name: values[name] for name in graph.outputs}
