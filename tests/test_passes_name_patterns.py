"""What exporters write out in small operators is called by its name, and nothing else is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tinyface import ops
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.networks.random import random_state
from tinyface.ops.shape import LOWEST
from tinyface.passes import name_patterns

Make = Callable[[Builder, str], str]


def built(make: Make, shape: tuple[int, ...] = (1, 6, 5, 4), **constants: float) -> Graph:
    """``make`` on an input of this shape; ``constants`` are parameters of one element."""
    b = Builder("pattern")
    y = make(b, b.input("x", shape))
    graph = b.build(b.apply(ops.Identity(), y, name="end"))
    state = random_state(graph)
    values = {name: np.float32([constants[name]]) for name in state.keys() & constants}
    return graph.bind({**state, **values})


def norm(b: Builder, x: str, axes: tuple[int, ...] = (1,), keepdims: bool = True) -> str:
    return b.apply(ops.Reduce("l2", axes, keepdims), x, name="norm")


def least(b: Builder, x: str) -> str:
    return b.apply(ops.Maximum(), norm(b, x), b.param("eps", (1,)), name="safe")


def inverse(b: Builder, x: str) -> str:
    return b.apply(ops.Div(), b.param("one", (1,)), x, name="inverse")


def shuffled(b: Builder, x: str, perm: tuple[int, ...] = (0, 2, 1, 3, 4)) -> str:
    n, c, h, w = b.shape(x)
    y = b.apply(ops.Transpose(perm), b.apply(ops.Reshape((0, 2, c // 2, h, w)), x))
    return b.apply(ops.Reshape((0, c, h, w)), y)


def means(b: Builder, x: str, first: int = 3, keepdims: bool = False) -> str:
    y = b.apply(ops.Reduce("mean", (first,), keepdims), x)
    return b.apply(ops.Reduce("mean", (2,), keepdims), y)


def gated(b: Builder, x: str, alpha: float = 1 / 6) -> str:
    return b.apply(ops.Mul(), b.apply(ops.HardSigmoid(alpha), x), x)


def centred(b: Builder, x: str, axis: int = 3, other: int = 3, mode: str = "mean") -> str:
    y = b.apply(ops.Sub(), x, b.apply(ops.Reduce(mode, (axis,)), x), name="centred")
    var = b.apply(ops.Reduce(mode, (other,)), b.apply(ops.Mul(), y, y))
    root = b.apply(ops.Sqrt(), b.apply(ops.Add(), var, b.param("eps", (1,))))
    return b.apply(ops.Div(), y, root)


GELU = {"root": 2**0.5, "inverse": 0.5**0.5, "unit": 1.0, "half": 0.5}


def times(b: Builder, *factors: str) -> str:
    """The product of tensors and of the constants that ``GELU`` names."""
    named = (b.param(name, (1,)) if name in GELU else name for name in factors)
    return b.apply(ops.Mul(), *named)


def share(b: Builder, x: str, inside: str = "", one: str = "unit") -> str:
    """erf(x / root) + one."""
    inside = inside or b.apply(ops.Div(), x, b.param("root", (1,)))
    return b.apply(ops.Add(), b.apply(ops.Erf(), inside), b.param(one, (1,)))


BENT = {"steep": (2 / math.pi) ** 0.5, "cubic": 0.044715}


def by_tanh(b: Builder, x: str, of: str = "") -> str:
    """As PyTorch writes it; of: what the cube is of."""
    of = of or x
    cube = b.apply(ops.Mul(), of, b.apply(ops.Mul(), of, of))
    bent = b.apply(ops.Add(), x, b.apply(ops.Mul(), b.param("cubic", (1,)), cube))
    z = b.apply(ops.Mul(), b.param("steep", (1,)), bent)
    plus = b.apply(ops.Add(), b.param("unit", (1,)), b.apply(ops.Tanh(), z))
    return b.apply(ops.Mul(), times(b, "half", x), plus)


def framed(b: Builder, x: str, value: float = 0.0, channels: int = 0) -> str:
    y = b.apply(ops.Pad((0, 0, 1, 2), (0, channels, 0, 1), value), x)
    return b.conv(y, 3, 3, key="conv", stride=2, pad=(1, 0, 0, 0))


def pooled(b: Builder, x: str, op: ops.Op, value: float = LOWEST, more: int = 1) -> str:
    return b.apply(op, b.apply(ops.Pad((0, 0, 1, 0), (0, 0, more, 1), value), x))


def larger(b: Builder, x: str, *sizes: int, axis: int = 1, swapped: bool = False) -> str:
    """Of the first two parts of a split."""
    parts = b.apply_many(ops.Split(axis, sizes), x)[:2]
    return b.apply(ops.Maximum(), *parts[:: -1 if swapped else 1])


def cut(b: Builder, x: str, *runs: tuple[int, int, int]) -> str:
    """The larger of two slices of the six channels, whatever x has, of a convolution."""
    y = b.conv(x, 6, 1, key="conv")
    parts = [b.apply(ops.Slice((1,), (i,), (j,), (k,)), y) for i, j, k in runs]
    return b.apply(ops.Maximum(), *parts)


MEAN = ops.AveragePool((3, 3), (2, 2), (1, 0, 0, 0), count_include_pad=True)
NAMED: dict[str, tuple[Graph, list[str]]] = {
    "norm": (built(lambda b, x: b.apply(ops.Div(), x, norm(b, x))), ["l2_normalize"]),
    "norm with a least": (
        built(lambda b, x: b.apply(ops.Div(), x, least(b, x)), (2, 7), eps=1e-6),
        ["l2_normalize"],
    ),
    "norm clipped": (
        built(lambda b, x: b.apply(ops.Div(), x, b.apply(ops.Clip(1e-12, 3.4028234663852886e38),
                                                         norm(b, x)))),
        ["l2_normalize"],
    ),
    "times the inverse": (
        built(lambda b, x: b.apply(ops.Mul(), inverse(b, least(b, x)), x), eps=1e-6, one=1),
        ["l2_normalize"],
    ),
    "layer norm": (built(centred, eps=1e-5), ["layer_norm"]),
    "layer norm of pixels": (built(lambda b, x: centred(b, x, 1, 1), eps=1e-3), ["layer_norm"]),
    "shuffle": (built(shuffled), ["channel_shuffle"]),
    "mean of means": (built(means), ["reduce"]),
    "mean of means, kept": (built(lambda b, x: means(b, x, keepdims=True)), ["reduce"]),
    "hard swish": (built(gated), ["hard_swish"]),
    "silu": (built(lambda b, x: b.apply(ops.Mul(), x, b.apply(ops.Sigmoid(), x))), ["silu"]),
    "silu, the gate first": (
        built(lambda b, x: b.apply(ops.Mul(), b.apply(ops.Sigmoid(), x), x)), ["silu"]
    ),
    "gelu of PyTorch": (
        built(lambda b, x: times(b, times(b, x, share(b, x)), "half"), **GELU), ["gelu"]
    ),
    "gelu, half of x first": (
        built(lambda b, x: times(b, share(b, x), times(b, "half", x)), **GELU), ["gelu"]
    ),
    "gelu of TensorFlow": (
        built(lambda b, x: times(b, x, times(b, "half", share(b, x, times(b, x, "inverse")))),
              **GELU),
        ["gelu"],
    ),
    "gelu by tanh": (built(by_tanh, **GELU | BENT), ["gelu"]),
    "pad and convolution": (built(framed), ["conv2d"]),
    "two pads and convolution": (
        built(lambda b, x: framed(b, b.apply(ops.Pad((0, 0, 2, 0), (0, 0, 0, 1)), x))), ["conv2d"]
    ),
    "pad and maximum": (
        built(lambda b, x: pooled(b, x, ops.MaxPool((3, 3), (2, 2)))), ["max_pool"]
    ),
    "pad and mean": (built(lambda b, x: pooled(b, x, MEAN, 0.0)), ["average_pool"]),
    "the larger half": (built(lambda b, x: larger(b, x, 3, 3)), ["max_feature_map"]),
    "the larger half of a vector": (
        built(lambda b, x: larger(b, x, 4, 4, swapped=True), (1, 8)), ["max_feature_map"]
    ),
    "the larger of two slices": (
        built(lambda b, x: cut(b, x, (-3, 99, 1), (0, 3, 1))), ["conv2d", "max_feature_map"]
    ),
    "pad and a mean without a pad of its own": (
        built(lambda b, x: pooled(b, x, ops.AveragePool((3, 3)), 0.0)), ["average_pool"]
    ),
}  # fmt: skip
OTHERS: dict[str, Graph] = {
    "the norm of something else": built(
        lambda b, x: b.apply(ops.Div(), x, norm(b, b.apply(ops.ReLU(), x)))
    ),
    "a norm along two axes": built(lambda b, x: b.apply(ops.Div(), x, norm(b, x, (1, 2)))),
    "a norm without its axis": built(
        lambda b, x: b.apply(ops.Div(), x, norm(b, x, keepdims=False)), (5, 5)
    ),
    "a least above 1": built(lambda b, x: b.apply(ops.Div(), x, least(b, x)), eps=2),
    "a norm that is bounded": built(
        lambda b, x: b.apply(ops.Div(), x, b.apply(ops.Clip(0, 3), norm(b, x)))
    ),
    "twice the inverse": built(lambda b, x: b.apply(ops.Mul(), x, inverse(b, norm(b, x))), one=2),
    "a variance along another axis": built(lambda b, x: centred(b, x, 3, 2), eps=1e-5),
    "a sum in the place of a mean": built(lambda b, x: centred(b, x, mode="sum"), eps=1e-5),
    "a variance with 2 added": built(centred, eps=2),
    "other axes exchanged": built(lambda b, x: shuffled(b, x, (0, 1, 2, 4, 3))),
    "means over other axes": built(lambda b, x: means(b, x, first=1)),
    "another gate": built(lambda b, x: gated(b, x, 0.2)),
    "the gate of something else": built(
        lambda b, x: times(b, x, b.apply(ops.Sigmoid(), b.apply(ops.ReLU(), x)))
    ),
    "erf of something else": built(
        lambda b, x: times(b, "half", times(b, b.apply(ops.ReLU(), x), share(b, x))), **GELU
    ),
    "twice a gelu": built(lambda b, x: times(b, x, share(b, x)), **GELU),
    "erf of twice as much": built(
        lambda b, x: times(b, "half", times(b, x, share(b, x))), **GELU | {"root": 0.5**0.5}
    ),
    "half plus erf": built(
        lambda b, x: times(b, "half", times(b, x, share(b, x, one="half"))), **GELU
    ),
    "a cube of something else": built(
        lambda b, x: by_tanh(b, x, b.apply(ops.ReLU(), x)), **GELU | BENT
    ),
    "a steeper tanh": built(by_tanh, **GELU | BENT | {"steep": 0.8}),
    "another cube": built(by_tanh, **GELU | BENT | {"cubic": 0.045}),
    "ones around": built(lambda b, x: framed(b, x, value=1.0)),
    "zeros and a maximum": built(lambda b, x: pooled(b, x, ops.MaxPool((3, 3)), 0.0)),
    "a window beside the map": built(lambda b, x: pooled(b, x, ops.MaxPool((2, 2)), more=2)),
    "a window over the end": built(
        lambda b, x: pooled(b, x, ops.MaxPool((3, 3), (2, 2), ceil=True))
    ),
    "a window made for one size": built(
        lambda b, x: pooled(b, x, ops.MaxPool((3, 3), (2, 2), made_for=(7, 5)))
    ),
    "a mean that counts the zeros of one frame alone": built(
        lambda b, x: pooled(b, x, replace(MEAN, count_include_pad=False), 0.0)
    ),
    "the larger third": built(lambda b, x: larger(b, x, 2, 2, 2)),
    "the larger of unlike parts": built(lambda b, x: cut(b, x, (0, 3, 1), (2, 5, 1))),
    "the same half twice": built(lambda b, x: cut(b, x, (0, 3, 1), (0, 3, 1))),
    "every second channel": built(lambda b, x: cut(b, x, (0, 6, 2), (1, 6, 2))),
    "the larger half of the rows": built(lambda b, x: larger(b, x, 2, 2, axis=2), (1, 6, 4, 4)),
    "halves of five axes": built(lambda b, x: larger(b, x, 3, 3), (1, 6, 2, 2, 2)),
    "halves of two tensors": built(
        lambda b, x: b.apply(
            ops.Maximum(),
            b.apply(ops.Slice((1,), (0,), (3,), (1,)), b.conv(x, 6, 1, key="one")),
            b.apply(ops.Slice((1,), (3,), (6,), (1,)), b.conv(x, 6, 1, key="other")),
        )
    ),
    "halves at one size alone": built(
        lambda b, x: b.apply(
            ops.Maximum(),
            b.apply(ops.Slice((1,), (0,), (3,), (1,)), x),
            b.apply(ops.Slice((1,), (3,), (6,), (1,)), x),
        )
    ),
    "more channels": built(lambda b, x: framed(b, x, channels=1)),
}


def outputs(graph: Graph, batch: int, seed: int = 0) -> np.ndarray:
    ((name, kind),) = graph.inputs.items()
    x = np.random.default_rng(seed).standard_normal((batch, *kind.shape[1:]))
    return run_graph(graph.with_inputs({name: x.shape}), {name: x})["end"]


@pytest.mark.parametrize("case", NAMED)
def test_a_pattern_is_one_operator_and_computes_the_same(case: str) -> None:
    graph, kinds = NAMED[case]
    named = name_patterns(graph)
    assert [node.op.kind for node in named.nodes] == [*kinds, "identity"]
    close = 1e-7 if kinds == ["gelu"] else 1e-12  # the root of 2 is written out in float32
    for batch in (1, 2):
        assert np.abs(outputs(named, batch) - outputs(graph, batch)).max() < close


@pytest.mark.parametrize("case", OTHERS)
def test_what_only_looks_like_one_is_left_alone(case: str) -> None:
    graph = OTHERS[case]
    assert name_patterns(graph).nodes == graph.nodes


def test_parts_that_others_read_stay() -> None:
    b = Builder("read twice")
    x = b.input("x", (1, 6, 5, 4))
    y = b.apply(ops.Div(), x, norm(b, x), name="unit")
    graph = name_patterns(b.build(y, "norm"))
    assert {node.op.kind for node in graph.nodes} == {"reduce", "l2_normalize"}


def test_a_vector_of_zeros_has_no_direction() -> None:
    named = name_patterns(NAMED["norm with a least"][0])
    assert not run_graph(named, {"x": np.zeros((2, 7), np.float32)})["end"].any()
