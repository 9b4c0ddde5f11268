"""Graphs that a pass, or the planner, must leave alone or treat apart: one for each condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from random_graphs import assert_same_outputs

from tinyface import limits, ops
from tinyface.backends.c import CExecutable
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.networks import random_state
from tinyface.passes import (
    drop_noops,
    fold_affine,
    fold_constants,
    fold_scale,
    name_patterns,
    optimise,
    reparameterize,
)
from tinyface.runtime import Session

Make = Callable[[Builder, str], Any]


def graph_of(make: Make, *shape: int, **values: float) -> Graph:
    """What ``make`` builds on an input of this shape, with random weights and the given ones."""
    b = Builder("rare")
    made = make(b, b.input("x", shape))
    graph = b.build(*(made if isinstance(made, tuple) else (made,)))
    state = random_state(graph)
    for name, value in values.items():
        state[name] = np.full_like(state[name], value)
    return graph.bind(state)


def sigmoid(b: Builder, x: str) -> str:
    """A map of its own, which no later operator writes into."""
    return b.apply(ops.Sigmoid(), x)


def halves(b: Builder, x: str) -> tuple[str, ...]:
    half = b.shape(x)[1] // 2
    return tuple(b.apply_many(ops.Split(axis=1, sizes=(half, half)), x))


# ------------------------------------------------------------------------------ passes


def quotient(b: Builder, x: str) -> str:
    """c / (x x) is not (x x) / c."""
    return b.apply(ops.Div(), b.param("c", (1,)), b.apply(ops.MatMul(), x, x))


def wider(b: Builder, x: str) -> str:
    """The constant has an axis more than the product."""
    return b.apply(ops.Mul(), b.apply(ops.MatMul(), x, x), b.param("c", (1, 1, 1)))


def padded_scale(b: Builder, x: str) -> str:
    """A depthwise 1x1 that pads is more than a scale."""
    x = b.conv(x, 6, 1, key="s", groups=6, pad=1, bias=True)
    return b.conv(x, 8, 1, key="c")


def context(b: Builder, x: str) -> str:
    """The convolution leaves one pixel, which the sum spreads over the map."""
    return b.apply(ops.Add(), x, b.conv(x, 4, 3, key="c"))


def named_twice(b: Builder, x: str) -> tuple[str, ...]:
    x = b.apply(ops.ReLU(), x)
    return tuple(b.apply(ops.Identity(), x, name=name) for name in "ab")


def another_is_centred(b: Builder, x: str) -> str:
    return almost_layer_norm(b, x, b.apply(ops.ReLU(), x), "")


def another_is_squared(b: Builder, x: str) -> str:
    return almost_layer_norm(b, x, x, b.apply(ops.ReLU(), x))


def almost_layer_norm(b: Builder, x: str, first: str, squared: str) -> str:
    def mean(tensor: str) -> str:
        return b.apply(ops.Reduce("mean", (3,)), tensor)

    centred = b.apply(ops.Sub(), first, mean(x))
    root = squared or centred
    var = b.apply(ops.Add(), mean(b.apply(ops.Mul(), root, root)), b.param("eps", (1,)))
    return b.apply(ops.Div(), centred, b.apply(ops.Sqrt(), var))


def across_the_batch(b: Builder, x: str) -> str:
    """Shaped as a channel shuffle, but the first reshape takes pictures apart."""
    x = b.apply(ops.Transpose((0, 2, 1, 3)), b.apply(ops.Reshape((4, 2, 2, 6)), x))
    return b.apply(ops.Reshape((2, 4, 3, 4)), x)


def kept_and_gone(b: Builder, x: str) -> str:
    """Two means, of which one leaves its axis and one does not."""
    x = b.apply(ops.Reduce("mean", (3,), True), x)
    return b.apply(ops.Reduce("mean", (2,), False), x)


@pytest.mark.parametrize(
    "rewrite, make, shape, values",
    [
        (fold_affine, quotient, (1, 2, 3, 3), {"c": 3.0}),
        (fold_affine, wider, (3, 3), {"c": 3.0}),
        (fold_scale, padded_scale, (1, 6, 4, 4), {}),
        (drop_noops, named_twice, (1, 4), {}),
        (reparameterize, context, (1, 4, 3, 3), {}),
        (name_patterns, another_is_centred, (1, 6, 5, 4), {"eps": 1e-3}),
        (name_patterns, another_is_squared, (1, 6, 5, 4), {"eps": 1e-3}),
        (name_patterns, across_the_batch, (2, 4, 3, 4), {}),
        (name_patterns, kept_and_gone, (1, 6, 5, 4), {}),
    ],
)  # fmt: skip
def test_a_pass_keeps_what_it_computes(
    rewrite: Callable[[Graph], Graph], make: Make, shape: tuple[int, ...], values: dict[str, float]
) -> None:
    graph = graph_of(make, *shape, **values)
    after = rewrite(graph)
    assert [after.types[o].shape for o in after.outputs] == [
        graph.types[o].shape for o in graph.outputs
    ]
    assert_same_outputs(graph, after, "float32")


def overflowing(b: Builder, x: str) -> str:
    """1e30 times 1e20 is no float32."""
    return b.apply(ops.Mul(), b.apply(ops.MatMul(scale=1e30), x, x), b.param("c", (1,)))


def widest_pad(b: Builder, x: str) -> str:
    """As many pads as a convolution may have, and one more of its own."""
    most = limits.MAX_PAD
    x = b.apply(ops.Pad((0, 0, most, most), (0, 0, most, most)), x)
    return b.conv(x, 1, 3, key="c", pad=1)


def test_what_would_leave_the_bounds_is_left_alone() -> None:
    graph = graph_of(overflowing, 1, 2, 3, 3, c=1e20)
    assert fold_affine(graph).nodes == graph.nodes
    graph = graph_of(widest_pad, 1, 1, 4, 4)
    assert name_patterns(graph).nodes == graph.nodes


def for_each_picture(b: Builder, x: str) -> tuple[str, ...]:
    """Neutral, and one for each of four pictures: one picture becomes four."""
    y = b.apply(ops.Mul(), b.apply(ops.ReLU(), x), b.param("ones", (4, 1, 1, 1)))
    row = b.apply(ops.GlobalAveragePool(), b.apply(ops.Add(), y, b.param("zeros", (4, 3, 1, 1))))
    return b.apply(ops.ReLU(), row), b.apply(ops.Sub(), x, b.param("none", (3, 1, 1)))


def test_neutral_constants_of_a_batch_stay() -> None:
    graph = graph_of(for_each_picture, 4, 3, 5, 5, ones=1.0, zeros=0.0, none=0.0)
    after = drop_noops(graph)
    assert {"mul", "add"} <= {node.op.kind for node in after.nodes}
    one = {"x": (1, 3, 5, 5)}
    assert_same_outputs(graph.with_inputs(one), after.with_inputs(one), "float32")


@pytest.mark.filterwarnings("ignore:.*no C kernel")
@pytest.mark.parametrize(
    "op",
    [ops.Exp(), ops.Transpose(()), ops.Slice(), ops.Identity(), ops.Reshape(())],
    ids=lambda op: op.kind,
)
def test_a_single_number_keeps_its_shape(op: ops.Op) -> None:
    """Of rank 0, among the weights and among the inputs."""
    b = Builder("number")
    number = b.apply(op, b.param("s", ()))
    given = b.apply(op, b.input("x", ()))
    graph = b.build(b.apply(ops.Mul(), given, number))
    graph = graph.bind({"s": np.float32(0.5).reshape(())})
    after = fold_constants(graph)
    assert all(value.shape == () for value in after.params.values())
    wanted = run_graph(graph, {"x": np.float32(2).reshape(())})
    (got,) = Session(graph, "auto", 1).run(np.float32(2)).values()
    assert got.shape == () and got == next(iter(wanted.values()))


def absent_bias(b: Builder, x: str) -> str:
    y = b.apply(ops.Conv2d(), x, b.param("w", (4, 3, 3, 3)), "")
    return b.batch_norm(y, key="n")


def absent_bias_and_factor(b: Builder, x: str) -> str:
    y = b.apply(ops.Conv2d(groups=3), x, b.param("s", (3, 1, 1, 1)), "", "", "")
    y = b.apply(ops.Conv2d(), y, b.param("w", (4, 3, 3, 3)), "")
    return b.apply(ops.Mul(), y, b.param("k", (4, 1, 1)))


def absent_like(b: Builder, x: str) -> str:
    return b.apply(ops.Resize("nearest", scale=(2.0, 2.0)), x, "")


@pytest.mark.parametrize("make", [absent_bias, absent_bias_and_factor, absent_like])
@pytest.mark.parametrize("backend", ["numpy", "auto"])
def test_inputs_that_are_absent_at_the_end(make: Make, backend: str) -> None:
    graph = graph_of(make, 1, 3, 6, 6)
    after = optimise(graph)
    assert all(node.inputs[-1] for node in after.nodes) and len(after.nodes) == 1
    assert_same_outputs(graph, after, "float32")
    x = np.random.default_rng(0).standard_normal((1, 3, 6, 6)).astype(np.float32)
    (wanted,) = run_graph(graph, {"x": x}).values()
    (got,) = Session(graph, backend, 1).run(x).values()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------- planner


def pooled_halves(b: Builder, x: str) -> tuple[str, ...]:
    """Parts of a map, whose pixels lie apart, pooled along a column."""
    column = ops.MaxPool(kernel=(3, 1), stride=(2, 1))
    parts = halves(b, sigmoid(b, b.conv(x, 6, 1, key="k")))
    return tuple(sigmoid(b, b.apply(column, part)) for part in parts)


def padded_shuffle(b: Builder, x: str) -> str:
    return b.conv(b.apply(ops.ChannelShuffle(groups=2), sigmoid(b, x)), 8, 1, key="c", pad=1)


def shuffled_half(b: Builder, x: str) -> tuple[str, ...]:
    first, second = halves(b, sigmoid(b, x))
    y = b.conv(b.apply(ops.ChannelShuffle(groups=2), first), 8, 1, key="c")
    return y, sigmoid(b, second)


def turned_left(b: Builder, x: str) -> str:
    y = b.apply(ops.Transpose((0, 2, 1)), sigmoid(b, x))
    return b.apply(ops.MatMul(), y, x)


def flat_half(b: Builder, x: str) -> tuple[str, ...]:
    first, second = halves(b, sigmoid(b, x))
    return b.linear(b.apply(ops.Flatten(), first), 4, key="f"), sigmoid(b, second)


def slopes_of_rows(b: Builder, x: str) -> str:
    """PReLU behind a linear layer of a map: slopes are of axis 1, not of what it gives."""
    return b.prelu(b.apply(ops.Linear(), x, b.param("w", (4, 4))), key="p")


def dilated_down(b: Builder, x: str) -> str:
    """Whole vectors of channels, as the loops of ARM's boards take them, but for the dilation."""
    return b.conv(sigmoid(b, x), 16, 3, key="c", pad=1, dilation=(2, 1), groups=16)


def dilated_across(b: Builder, x: str) -> str:
    return b.conv(sigmoid(b, x), 16, 3, key="c", pad=1, dilation=(1, 2), groups=16)


def sum_with_a_half(b: Builder, x: str) -> tuple[str, ...]:
    """What is added has its pixels farther apart than the result has."""
    first, second = halves(b, sigmoid(b, b.conv(x, 128, 1, key="k")))
    y = b.conv(first, 64, 1, key="c")
    return b.apply(ops.Add(), y, second), sigmoid(b, second)


def mirror(b: Builder, x: str) -> str:
    op = ops.Slice(axes=(3,), starts=(-1,), ends=(-limits.MAX_INDEX,), steps=(-1,))
    return b.apply(op, x)


def with_its_mirror_image(b: Builder, x: str) -> tuple[str, ...]:
    """What recognisers do that add the mirrored picture's embedding; and joined, in place."""
    both = b.apply(ops.Concat(axis=1), x, mirror(b, x))
    y = b.conv(sigmoid(b, both), 8, 3, key="c", pad=1)
    return mirror(b, y), b.apply(ops.Add(), y, mirror(b, sigmoid(b, y)))


def same_under_other_names(b: Builder, x: str) -> str:
    """Nobody took out what does nothing; the caller's array is in another order than the map's."""
    x = b.apply(ops.ReLU(), b.apply(ops.MaxPool((1, 1), (1, 1)), x))
    return b.apply(ops.Identity(), b.apply(ops.Identity(), x))


def turned_under_another_name(b: Builder, x: str) -> str:
    x = b.apply(ops.Transpose((0, 2, 3, 1)), b.apply(ops.Identity(), sigmoid(b, x)))
    return b.apply(ops.Identity(), x)


@pytest.mark.needs_c
@pytest.mark.parametrize("make", [same_under_other_names, turned_under_another_name])
def test_c_runs_what_no_pass_has_seen(make: Make) -> None:
    graph = graph_of(make, 2, 3, 4, 5)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    (wanted,) = run_graph(graph, {"x": x}).values()
    (got,) = CExecutable(graph, 1).run({"x": x}).values()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.needs_c
@pytest.mark.parametrize("shape", [(1, 16), (1, 4, 2, 2), (4, 4)])
@pytest.mark.parametrize("divisor", [1e38, 3e38, 1e-39, -1e-39, 0.0, np.inf, np.nan, 3.0])
def test_quotients_whose_reciprocals_are_no_floats(divisor: float, shape: tuple[int, ...]) -> None:
    """x / 1e38 is more than nothing, and x / 1e-39 is no infinity where x is as small."""
    values = [1e38, -1e38, 0, 1e-38, -1e-39, 1, -3, np.inf, -np.inf, np.nan, 3e38, 7, 1e20, 2, 5, 9]
    x = np.float32(values).reshape(shape)
    graph = graph_of(lambda b, x: b.apply(ops.Div(), x, b.param("c", ())), *shape, c=divisor)
    with np.errstate(all="ignore"):
        (wanted,) = run_graph(graph, {"x": x}).values()
    (got,) = Session(graph, "c", 1).run(x).values()
    least = np.finfo(np.float32).tiny  # the engine writes 0 for what is below it
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=least)


@pytest.mark.needs_c
@pytest.mark.parametrize(
    "make, shape",
    [
        (pooled_halves, (1, 6, 9, 7)),
        (padded_shuffle, (1, 8, 4, 4)),
        (shuffled_half, (1, 16, 4, 4)),
        (turned_left, (1, 3, 5)),
        (flat_half, (2, 8, 3, 3)),
        (slopes_of_rows, (1, 4, 4, 4)),
        (with_its_mirror_image, (2, 3, 5, 7)),
        (mirror, (1, 3, 6, 40)),
        (dilated_down, (1, 16, 9, 40)),
        (dilated_across, (1, 16, 9, 40)),
        (sum_with_a_half, (1, 16, 40, 40)),
    ],
)
def test_c_computes_the_definition(make: Make, shape: tuple[int, ...]) -> None:
    graph = graph_of(make, *shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    wanted, got = run_graph(graph, {"x": x}), Session(graph, "c", 1).run(x)
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)
