"""The reference engine: run every node's NumPy definition, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter_ns
from typing import Any

import numpy as np

from tinyface.errors import BackendError
from tinyface.graph import Graph, Node
from tinyface.limits import MAX_ARENA_BYTES
from tinyface.ops.spec import Array
from tinyface.tracing import Record

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
    return results(graph, inputs, values)


def results(
    graph: Graph, inputs: Mapping[str, Array], values: Mapping[str, Array]
) -> dict[str, Array]:
    """The graph's outputs, copied where they are views of what others may change, of each other
    too: whoever writes into one result means that one."""
    others = [*inputs.values(), *graph.params.values()]
    found: dict[str, Array] = {}
    for name in graph.outputs:
        value = values[name]
        if any(np.may_share_memory(value, other) for other in others):
            value = value.copy()
        others.append(value)
        found[name] = value
    return found


class NumpyExecutable:
    """The reference engine behind the interface of the fast one.

    Raises:
        BackendError: an operator's temporaries (im2col columns) would take more than
            ``limits.MAX_ARENA_BYTES``.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        for node in graph.nodes:
            # scratch counts each byte written and read: half of it is what is alive at most
            if self._scratch(node) // 2 > MAX_ARENA_BYTES:
                raise BackendError(
                    f"{graph.name}: {node.name} ({node.op.kind}) would need "
                    f"{self._scratch(node) >> 21} MiB of temporaries in NumPy, more than the limit "
                    f"of {MAX_ARENA_BYTES >> 20}: use a smaller image or batch, or --backend c"
                )

    @property
    def memory(self) -> dict[str, int]:
        """Nothing is kept: NumPy allocates every map when it is made."""
        return {}

    def run(
        self, inputs: Mapping[str, Array], records: list[Record] | None = None
    ) -> dict[str, Array]:
        if records is None:
            return run_graph(self.graph, inputs)
        begin = before = perf_counter_ns()

        def note(node: Node, outputs: tuple[Array, ...]) -> None:
            nonlocal before
            now = perf_counter_ns()
            cost = self.graph.node_cost(node)
            touched = replace(cost, scratch=self._scratch(node))
            shape = outputs[0].shape
            kind = node.op.kind
            kernel = "im2col" if kind == "conv2d" else "numpy"
            records.append(
                Record(node.name, kind, kernel, shape, cost, touched, before - begin, now - before)
            )
            before = perf_counter_ns()

        return run_graph(self.graph, inputs, hook=note)

    def _scratch(self, node: Node) -> int:
        types = self.graph.types
        ins = tuple(types[name] if name else None for name in node.inputs)
        return node.op.scratch(ins, tuple(types[name] for name in node.outputs))
