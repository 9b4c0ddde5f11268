"""What an ONNX export collects: nodes, constants, and names for what stands between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyface.graph import Graph, Node
from tinyface.passes.rewrite import fresh


class Writer:
    """Collects ONNX nodes and constants for one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}

    def emit(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attrs: Any) -> None:
        from onnx import helper

        given = {key: value for key, value in attrs.items() if value is not None}
        inputs = [self.param(name) for name in inputs]
        self.nodes.append(helper.make_node(kind, inputs, outputs, outputs[0] + ":" + kind, **given))

    def part(self, name: str, part: str) -> str:
        """A tensor on the way to ``name``; an imported network may have one of that name."""
        return fresh(f"{name}:{part}", self.graph.types)

    def constant(self, near: str, value: Any, dtype: type = np.int64) -> str:
        name = self.part(near, f"const{len(self.constants)}")
        self.constants[name] = np.asarray(value, dtype)
        return name

    def param(self, name: str) -> str:
        """A weight of the graph, written when first used."""
        if name in self.graph.params:
            self.constants[name] = np.asarray(self.graph.params[name], order="C")
        return name

    def rank(self, name: str) -> int:
        return self.graph.types[name].rank


Emit = Callable[[Writer, Node, Any], None]


def simple(kind: str, *attrs: str) -> Emit:
    """An operator that maps one to one; ``attrs`` are taken over under the same name."""

    def emit(w: Writer, node: Node, op: Any) -> None:
        values = {name: getattr(op, name) for name in attrs}
        w.emit(kind, [w.param(n) for n in node.inputs], node.outputs, **values)

    return emit
