"""Run a tinyface Graph in PyTorch: a peer for benchmarks, an oracle for whole networks."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.torch_ops import oracle
from tinyface.graph import Graph


class TorchGraph(torch.nn.Module):
    """The network as a module: arrays of the graph's input shape in, a tuple of outputs out."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.weights = {k: torch.from_numpy(v.copy()) for k, v in graph.params.items()}
        for i, weight in enumerate(self.weights.values()):  # so that tracing sees constants
            self.register_buffer(f"w{i}", weight)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        names = list(self.graph.params)
        values: dict[str, Any] = {name: getattr(self, f"w{i}") for i, name in enumerate(names)}
        values |= dict(zip(self.graph.inputs, inputs, strict=True)) | {"": None}
        for node in self.graph.nodes:
            outputs = oracle(node.op, tuple(values[name] for name in node.inputs))
            values.update(zip(node.outputs, outputs, strict=True))
        return tuple(values[name] for name in self.graph.outputs)
