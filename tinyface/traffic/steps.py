"""What the models of time see of a step: its kind, its kernel, and its figures.

The figures are compulsory ones (docs/definitions.md), the same for every engine: MACs, bytes of
feature maps read and written (F), bytes of weights. The kernel is the engine's, and so are the
products, the multiply-adds that the kernel carries out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tinyface.errors import NoKernelError
from tinyface.graph import Graph, Node
from tinyface.ops import Conv2d, Flatten, Linear, Reshape
from tinyface.ops.spec import Array
from tinyface.plan import Isa, make_plan
from tinyface.types import Cost, Shape

KINDS = ("standard", "pointwise", "depthwise", "grouped", "linear", "other")
COLUMNS = ("macs", "feature", "weight", "steps")


class Costed(Protocol):
    """A step of a plan, or a record of a run."""

    @property
    def name(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def kernel(self) -> str: ...
    @property
    def output_shape(self) -> Shape: ...
    @property
    def compulsory(self) -> Cost: ...
    @property
    def algorithmic(self) -> Cost: ...


@dataclass(frozen=True)
class StepFigures:
    """One step of one network. macs: multiply-accumulates; feature, weight: bytes; products:
    multiply-adds that its kernel carries out."""

    network: str
    name: str
    kind: str
    kernel: str
    macs: int
    feature: int
    weight: int
    products: int


@dataclass(frozen=True)
class _NodeStep:
    """A node of a graph as an engine without a plan runs it."""

    name: str
    op: str
    kernel: str
    output_shape: Shape
    compulsory: Cost

    @property
    def algorithmic(self) -> Cost:
        return self.compulsory


def figures(graph: Graph, steps: Iterable[Costed]) -> tuple[StepFigures, ...]:
    """The figures of the steps of an optimised graph.

    A step that only moves a map into another layout has no compulsory cost; it reads and writes
    the map once, so that is its F.
    """
    kinds = _Kinds(graph)
    result = []
    for step in steps:
        cost = step.compulsory
        feature = cost.feature_read + cost.feature_write
        if step.op == "layout":
            feature = feature or 8 * math.prod(step.output_shape)
        kind, products = kinds.of(step), step.algorithmic.macs
        result.append(
            StepFigures(
                graph.name, step.name, kind, step.kernel, cost.macs, feature, cost.weight, products
            )
        )
    return tuple(result)


def expected(graph: Graph, isa: Isa | None) -> tuple[StepFigures, ...]:
    """The steps that an engine will run, without running any.

    Args:
        graph: optimised.
        isa: of the C engine, whose plan is made, every step by itself (no chains), as ``claim``
            measures; None for an engine that runs the graph's own operators (all but those that
            only rename).

    Raises:
        BackendError: the C engine has no kernel for an operator.
    """
    if isa is not None:
        try:
            return figures(graph, make_plan(graph, isa, chains=False).steps)
        except NoKernelError as error:
            raise NoKernelError(
                f"{graph.name}: {error.node} has no C kernel, and how long NumPy takes for it "
                "there is not known; take a device that knows no kernels (--device pi4)",
                error.node,
            ) from None
    steps = [
        _NodeStep(
            node.name, node.op.kind, "", graph.types[node.outputs[0]].shape, graph.node_cost(node)
        )
        for node in graph.nodes
        if not isinstance(node.op, (Flatten, Reshape))
    ]
    return figures(graph, steps)


def columns(steps: Sequence[StepFigures]) -> dict[str, Array]:
    """The four columns of the models, each (steps,) float64; "steps" is all ones."""
    table = np.array([[s.macs, s.feature, s.weight, 1] for s in steps], np.float64)
    return {name: table[:, i] for i, name in enumerate(COLUMNS)}


def totals(steps: Iterable[StepFigures]) -> Mapping[str, int]:
    """The four columns summed over a network."""
    listed = list(steps)
    return {
        "macs": sum(s.macs for s in listed),
        "feature": sum(s.feature for s in listed),
        "weight": sum(s.weight for s in listed),
        "steps": len(listed),
    }


class _Kinds:
    """Finds the kind of a step. A step is named after the first node that it computes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = {node.name: node for node in graph.nodes}

    def of(self, step: Costed) -> str:
        node = self.nodes.get(step.name)
        return "other" if node is None or node.op.kind != step.op else self.kind(node)

    def kind(self, node: Node) -> str:
        op, types = node.op, self.graph.types
        if isinstance(op, Linear):
            return "linear"
        if not isinstance(op, Conv2d):
            return "other"
        (_, c, h, w), (out, _, kh, kw) = (types[name].shape for name in node.inputs[:2])
        if op.groups > 1:
            return "depthwise" if op.groups == c == out else "grouped"
        if h * w == 1:
            return "linear"  # on one pixel a convolution is a fully connected layer
        return "pointwise" if kh * kw == 1 else "standard"
