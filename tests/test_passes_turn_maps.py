"""Reshapes and transpositions between maps and tokens change places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from random_graphs import assert_same_outputs, inputs_for, kinds

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.networks import random_state
from tinyface.ops import Reshape, Transpose
from tinyface.passes import optimise, turn_maps

ROWS = Transpose((0, 2, 1))


def graph_of(build: Callable[[Builder, str], str], shape: tuple[int, ...]) -> Graph:
    b = Builder("tokens")
    graph = b.build(build(b, b.input("x", shape)))
    return graph.bind(random_state(graph))


def mixer(spec: tuple[int, ...], back: tuple[int, ...]) -> Graph:
    """A convolution, a linear layer on its tokens, and a depthwise convolution on their map, as
    PVT and SegFormer have it."""

    def build(b: Builder, x: str) -> str:
        x = b.conv(x, 6, 3, key="patch", pad=1)
        x = b.apply(ROWS, b.apply(Reshape(spec), x))
        x = b.apply(ops.LayerNorm(eps=1.0), x)
        x = b.apply(ops.Linear(), x, b.param("fc.weight", (10, 6)))
        x = b.apply(Reshape(back), b.apply(ROWS, x))
        return b.conv(x, 10, 3, key="depth", pad=1, groups=10)

    return graph_of(build, (2, 3, 4, 5))


SPECS = [((0, 6, 20), (0, 10, 4, 5)), ((2, 6, -1), (2, -1, 4, 5)), ((0, 6, -1), (0, 0, -1, 5))]


@pytest.mark.parametrize(("spec", "back"), SPECS)
def test_maps_are_turned_in_place_of_tokens(spec: tuple[int, ...], back: tuple[int, ...]) -> None:
    graph = mixer(spec, back)
    done = turn_maps(graph)
    assert [n.op.perm for n in done.nodes if isinstance(n.op, Transpose)] == [
        (0, 2, 3, 1), (0, 3, 1, 2),
    ]  # fmt: skip
    assert_same_outputs(graph, done, "float32")
    assert turn_maps(done) is done


@pytest.mark.needs_c
def test_nothing_is_moved_between_maps_and_tokens() -> None:
    graph = optimise(mixer((0, 6, 20), (0, 10, 4, 5)))
    executable = engine.CExecutable(graph, 1)
    moves = [step.name for step in executable.plan.steps if "nchw" in step.kernel]
    assert len(moves) == 2  # the picture and the result
    inputs = inputs_for(graph, "float32")
    for name, y in run_graph(graph, inputs).items():
        np.testing.assert_allclose(executable.run(inputs)[name], y, rtol=1e-5, atol=1e-6)


def test_a_reshape_that_others_read_stays_for_them() -> None:
    def build(b: Builder, x: str) -> str:
        rows = b.apply(Reshape((0, 3, 20)), x)
        return b.apply(ops.MatMul(), rows, b.apply(ROWS, rows))

    graph = graph_of(build, (1, 3, 4, 5))
    done = turn_maps(graph)
    assert sorted(kinds(done)) == ["matmul", "reshape", "reshape", "transpose"]
    assert_same_outputs(graph, done, "float32")


def reads(*steps: ops.Op) -> Callable[[Builder, str], str]:
    def build(b: Builder, x: str) -> str:
        for step in steps:
            x = b.apply(step, x)
        return x

    return build


OTHERS = {
    "channels are split": (reads(Reshape((0, 6, 10)), ROWS), (1, 3, 4, 5)),
    "of five axes": (reads(Reshape((0, 3, 20)), ROWS), (1, 3, 2, 2, 5)),
    "channels are cut": (reads(ROWS, Reshape((0, 6, 2, 5))), (1, 20, 3)),
    "another order": (reads(Reshape((0, 3, 20)), Transpose((0, 1, 2))), (1, 3, 4, 5)),
    "batch and rows": (reads(ROWS, Reshape((4, 3, 2, 5))), (2, 20, 3)),
    "five axes": (reads(ROWS, Reshape((0, 3, 2, 2, 5))), (1, 20, 3)),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_shapes_are_left_alone(case: str) -> None:
    graph = graph_of(*OTHERS[case])
    assert turn_maps(graph) is graph
