"""Random weights for tests and benchmarks. They make no sense of any face."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from tinyface.graph import Graph, Node
from tinyface.ops import Add, BatchNorm, Conv2d, L2Normalize, Linear, Mul, PReLU, Softmax
from tinyface.ops.spec import Array

_INPUT: Final = 1 / 3  # mean square of pixels that are spread evenly over -1 ... 1
_KEPT: Final = {  # share of the mean square that an activation lets through
    "relu": 0.5, "clip": 0.5, "prelu": 0.53, "leaky_relu": 0.51, "hard_swish": 0.4,
    "silu": 0.36, "gelu": 0.43, "tanh": 0.39, "erf": 0.44,
}  # fmt: skip
_GATES: Final = ("sigmoid", "hard_sigmoid")
_GATE: Final = 0.3  # mean square of a gate, whatever it is given


def random_state(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Weights for every parameter of a graph: float32, the same for the same name and seed.

    Convolutions and linear maps get normal values of variance 1 / (fan-in times the mean square
    of their input), which is followed through the graph by estimates: so maps neither vanish nor
    grow, however deep the network and however many branches it adds (after He et al. 2015, who
    have one chain of layers). Where they grew, gates would be fully open or shut by chance, and
    the engines' last bits would decide about the output. Batch norms get variances near 1.
    """
    state: dict[str, Array] = {}
    squares: dict[str, float] = dict.fromkeys(graph.inputs, _INPUT)  # of every tensor, the mean
    for node in graph.nodes:
        given = squares.get(node.inputs[0], 1.0)
        for key, role in _roles(node):
            if key in graph.params and key not in state:
                state[key] = _draw(role, graph.types[key].shape, key, seed, given)
                squares[key] = float(np.mean(np.square(state[key])))
        squares.update(dict.fromkeys(node.outputs, _mean_square(graph, node, squares)))
    unread = {key: graph.types[key].shape for key in graph.params if key not in state}
    return state | {key: _draw("weight", shape, key, seed, 1.0) for key, shape in unread.items()}


def _roles(node: Node) -> Iterator[tuple[str, str]]:
    """What each input but the first is, if it is a parameter."""
    roles: tuple[str, ...] = ("weight", "bias", "slope")
    if isinstance(node.op, BatchNorm):
        roles = ("gamma", "beta", "mean", "var")
    elif isinstance(node.op, PReLU):
        roles = ("slope",)
    yield from zip(node.inputs[1:], roles, strict=False)


def _draw(role: str, shape: tuple[int, ...], key: str, seed: int, given: float) -> Array:
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    if role in ("gamma", "var"):
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    if role == "slope":
        return rng.uniform(0.05, 0.45, shape).astype(np.float32)
    if role in ("beta", "bias", "mean"):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    deviation = 1 / math.sqrt(math.prod(shape[1:]) * max(given, 1e-6))
    weight: Array = (rng.standard_normal(shape) * deviation).astype(np.float32)
    return weight


def _mean_square(graph: Graph, node: Node, squares: Mapping[str, float]) -> float:
    """About the mean square of what the operator makes."""
    op: Any = node.op
    given = [squares.get(name, 1.0) for name in node.inputs if name]  # 1: a constant in front
    if isinstance(op, (Conv2d, Linear)):
        residual = squares[node.inputs[4]] if any(node.inputs[4:]) else 0.0
        return _activated(op.act, 1.0 + residual)
    if isinstance(op, Add):
        return sum(given)
    if isinstance(op, Mul):
        return math.prod(given)
    if isinstance(op, Softmax):
        return 1 / graph.types[node.inputs[0]].shape[op.axis] ** 2
    if isinstance(op, L2Normalize):
        return 1 / graph.types[node.inputs[0]].shape[op.axis]
    if op.kind == "concat":
        sizes = [graph.types[name].size for name in node.inputs]
        return sum(g * s for g, s in zip(given, sizes, strict=True)) / sum(sizes)
    return _activated(op, given[0])  # batch norms, pools and moves leave it about as it is


def _activated(act: Any, square: float) -> float:
    kind = "" if act is None else act.kind
    return _GATE if kind in _GATES else _KEPT.get(kind, 1.0) * square
