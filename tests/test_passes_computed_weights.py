"""Convolutions whose weights are computed become products of matrices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_graphs import assert_same_outputs, inputs_for, kinds

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.networks import random_state
from tinyface.passes import computed_weights, optimise


def styled(kernel: int, op: ops.Conv2d, bias: bool = False, constant: bool = False) -> Graph:
    """A weight times a style of each input channel, as StyleGAN2 has it; of a learnt constant, too,
    as its first layer."""
    b = Builder("styled")
    image, style = b.input("image", (1, 3, 9, 11)), b.input("style", (1, 6))
    x = b.param("learnt", (1, 6, 5, 7)) if constant else b.conv(image, 6, 3, pad=1, key="body")
    scale = b.apply(ops.Reshape((1, 6, 1, 1)), style)
    weight = b.apply(ops.Mul(), b.param("weight", (4, 6, kernel, kernel)), scale)
    more = [b.param("bias", (4,))] if bias else []
    y = b.apply(ops.LeakyReLU(0.2), b.apply(op, x, weight, *more))
    graph = b.build(y, b.apply(ops.GlobalAveragePool(), image))
    return graph.bind(random_state(graph))


CASES = [
    (1, ops.Conv2d()),
    (3, ops.Conv2d(pad=(1, 1, 1, 1))),
    (3, ops.Conv2d(stride=(2, 3), pad=(2, 0, 1, 3))),
    (2, ops.Conv2d(dilation=(3, 2), pad=(0, 1, 2, 0))),
]


@pytest.mark.parametrize(("kernel", "op"), CASES)
@pytest.mark.parametrize("bias", [False, True])
def test_nothing_is_left_of_them_and_nothing_is_changed(
    kernel: int, op: ops.Conv2d, bias: bool
) -> None:
    graph = styled(kernel, op, bias)
    done = computed_weights(graph)
    assert kinds(done).count("conv2d") == 1 and kinds(done).count("matmul") == 1
    assert_same_outputs(graph, done, "float64")
    larger = {"image": (1, 3, 14, 8), "style": (1, 6)}
    assert_same_outputs(graph.with_inputs(larger), done.with_inputs(larger), "float64")
    assert computed_weights(done) is done


def mixed(kernel: int, op: ops.Conv2d, bias: bool = False) -> Graph:
    """Filters of single channels, mixed for each picture: CondConv."""
    b = Builder("mixed")
    image, share = b.input("image", (1, 6, 9, 11)), b.input("share", (1, 3))
    filters = b.apply(ops.Linear(), share, b.param("filters", (6 * kernel**2, 3)))
    weight = b.apply(ops.Reshape((6, 1, kernel, kernel)), filters)
    more = [b.param("bias", (6,))] if bias else []
    graph = b.build(b.apply(ops.ReLU(), b.apply(op, image, weight, *more)))
    return graph.bind(random_state(graph))


@pytest.mark.parametrize(("kernel", "op"), CASES)
@pytest.mark.parametrize("bias", [False, True])
def test_filters_of_single_channels_are_sums_over_taps(
    kernel: int, op: ops.Conv2d, bias: bool
) -> None:
    graph = mixed(kernel, replace(op, groups=6), bias)
    done = computed_weights(graph)
    assert "conv2d" not in kinds(done) and kinds(done).count("add") == kernel**2 - 1 + bias
    assert_same_outputs(graph, done, "float64")
    if engine.available():
        inputs = inputs_for(graph, "float32")
        (wanted,) = run_graph(graph, inputs).values()
        (y,) = engine.CExecutable(optimise(graph), 2).run(inputs).values()
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)


def test_too_many_taps_stay() -> None:
    graph = mixed(16, ops.Conv2d(groups=6, pad=(8, 8, 8, 8)))
    assert computed_weights(graph) is graph
    graph = mixed(15, ops.Conv2d(groups=6, pad=(8, 8, 8, 8)))
    assert "conv2d" not in kinds(computed_weights(graph))


@pytest.mark.needs_c
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("kernel", "op"), CASES)
def test_they_run_in_c(kernel: int, op: ops.Conv2d, constant: bool) -> None:
    graph = styled(kernel, op, bias=True, constant=constant)
    inputs = inputs_for(graph, "float32")
    wanted = run_graph(graph, inputs)
    for isa in engine.isas():
        found = engine.CExecutable(optimise(graph), 2, isa.name).run(inputs)
        for name, y in found.items():
            np.testing.assert_allclose(y, wanted[name], rtol=1e-4, atol=1e-5)


def test_others_stay_as_they_are() -> None:
    """Groups, an activation within, and weights that are constants."""
    graph = styled(3, ops.Conv2d(act=ops.ReLU()))
    assert computed_weights(graph) is graph
    b = Builder("grouped")
    weight = b.apply(ops.Tanh(), b.input("weight", (4, 3, 3, 3)))
    y = b.apply(ops.Conv2d(groups=2), b.input("x", (1, 6, 5, 5)), weight)
    two = b.apply(ops.Tanh(), b.input("two", (12, 1, 3, 3)))  # filters of each channel
    z = b.apply(ops.Conv2d(groups=6), b.input("z", (1, 6, 5, 5)), two)
    graph = b.build(b.conv(y, 2, 1, key="plain"), z)
    assert computed_weights(graph) is graph
