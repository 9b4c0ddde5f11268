"""Convolutions that make the larger of their halves (LightCNN's Max-Feature-Map) while they have
both: which do, that they compute what the two operators do, and what they count as."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from random_graphs import drift

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.networks import find, random_state
from tinyface.passes import optimise
from tinyface.plan import Isa, Plan, make_plan
from tinyface.plan.pack import rivals

Make = Callable[[Builder, str], str]
ISAS = [isa.name for isa in engine.isas()] if engine.available() else [""]
AVX2 = Isa("avx2", 8, 6, 12)
NEON = Isa("neon", 4, 8, 12, 12)


def near(graph: Graph, x: np.ndarray, got: np.ndarray) -> None:
    """As the operators define it, to what rounding allows for."""
    wanted = run_graph(graph, {"x": x.astype(np.float64)})["y"]
    assert (np.abs(got - wanted) <= drift(graph, {"x": x}, "float32")["y"]).all()


def larger(b: Builder, x: str) -> str:
    return b.apply(ops.MaxFeatureMap(), x)


def conv(o: int, kernel: int = 3, **options: int) -> Make:
    return lambda b, x: larger(b, b.conv(x, o, kernel, key="c", bias=True, **options))


def built(make: Make, shape: tuple[int, ...] = (2, 10, 13, 11)) -> Graph:
    b = Builder("rivals")
    graph = b.build(b.apply(ops.Identity(), make(b, b.input("x", shape)), name="y"))
    return optimise(graph.bind(random_state(graph)))


def plan(make: Make, isa: Isa = AVX2, shape: tuple[int, ...] = (2, 10, 13, 11)) -> Plan:
    return make_plan(built(make, shape), isa, chains=False)


def has_maximum(found: Plan) -> bool:
    return any(step.fields["op"] == "TF_MAXIMUM" for step in found.steps)


MAKES: dict[str, Make] = {
    "1x1": conv(32, 1),
    "1x1, stride 2": conv(64, 1, stride=2),
    "3x3": conv(96, pad=1),
    "3x3, stride 2": conv(32, stride=2),
    "5x5, dilated": conv(64, 5, pad=2, dilation=2),
    "two in a row": lambda b, x: larger(
        b, b.conv(conv(128, 1)(b, x), 64, 3, pad=1, key="next", bias=True)
    ),
    "an activation behind": lambda b, x: b.apply(ops.ReLU(), conv(64)(b, x)),
    "a sum behind": lambda b, x: b.apply(ops.Add(), *[conv(64, 1)(b, x)] * 2),
    "before a depthwise one": lambda b, x: b.conv(conv(64)(b, x), 32, 3, key="d", groups=32),
}


@pytest.mark.needs_c
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", MAKES)
def test_they_compute_what_both_operators_do(case: str, isa: str) -> None:
    graph = built(MAKES[case])
    x = np.random.default_rng(1).standard_normal((2, 10, 13, 11)).astype(np.float32)
    runs = [
        engine.CExecutable(graph, threads, isa, chains=chains).run({"x": x})["y"]
        for threads in (1, 2, 3)
        for chains in (False, True)
    ]
    near(graph, x, runs[0])
    assert all(np.array_equal(runs[0], run) for run in runs)


@pytest.mark.needs_c
def test_no_number_stays_none() -> None:
    """Whichever half it is in."""
    graph = built(conv(32, 1), (1, 2, 3, 3))
    weights = dict(graph.params)
    bias = next(name for name, value in weights.items() if value.shape == (32,))
    for channel in (3, 16 + 5):
        weights[bias] = np.where(np.arange(32) == channel, np.nan, 0).astype(np.float32)
        x = np.ones((1, 2, 3, 3), np.float32)
        y = engine.CExecutable(graph.bind(weights), 1).run({"x": x})["y"]
        assert np.isnan(y[:, channel % 16]).all() and np.isnan(y).sum() == 9


@pytest.mark.parametrize("case", MAKES)
def test_nobody_writes_both_halves(case: str) -> None:
    found = plan(MAKES[case])
    assert not has_maximum(found)
    assert any("of its halves the larger" in step.reason for step in found.steps)


def conv_alone(b: Builder, x: str) -> str:
    return b.conv(x, 32, 3, pad=1, key="c")


def shortcut(b: Builder, x: str) -> str:
    """No pass takes a pool up into the convolution beside it."""
    pooled = b.apply(ops.MaxPool((3, 3), (1, 1), (1, 1, 1, 1)), x)
    return b.apply(ops.Add(), b.conv(x, 32, 3, pad=1, key="d"), pooled)


OTHERS: dict[str, Make] = {
    "no whole vectors": conv(40),
    "groups": conv(32, groups=2),
    "a shortcut in front": lambda b, x: larger(b, shortcut(b, conv_alone(b, x))),
    "something else between": lambda b, x: larger(b, b.apply(ops.ReLU(), conv_alone(b, x))),
    "another reader": lambda b, x: b.apply(
        ops.Concat(1), y := conv_alone(b, x), larger(b, y)
    ),
    "one pixel": lambda b, x: larger(
        b, b.conv(b.apply(ops.GlobalAveragePool(), x), 32, 1, key="c")
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_what_needs_both_halves_has_them(case: str) -> None:
    shape = (1, 10, 13, 11)
    assert has_maximum(plan(OTHERS[case], shape=shape))
    if not engine.available():
        return
    graph = built(OTHERS[case], shape)
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    near(graph, x, engine.CExecutable(graph, 1).run({"x": x})["y"])


@pytest.mark.parametrize("case", MAKES)
def test_boards_which_pack_inputs_do_as_well(case: str) -> None:
    assert not has_maximum(plan(MAKES[case], NEON))


def test_panels_hold_as_many_of_each_half() -> None:
    filters = np.arange(16 * 3).reshape(16, 3)
    order = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]
    assert np.array_equal(rivals(filters, 2), filters[order])


def test_half_the_output_is_written() -> None:
    found = plan(conv(64, 1), shape=(1, 10, 12, 12)).steps
    step = next(step for step in found if step.op == "conv2d")
    assert step.compulsory.macs == step.algorithmic.macs == 64 * 144 * 10
    assert step.compulsory.feature_write == step.algorithmic.feature_write == 4 * 32 * 144
    assert step.algorithmic.weight == 4 * (64 * 10 + 64)


def test_lightcnn_moves_a_third_of_its_maps() -> None:
    plan = make_plan(optimise(find("lightcnn9").build()), AVX2)
    halves = [s for s in plan.steps if s.op == "conv2d"]
    assert len(halves) == 9 and [s.op for s in plan.steps].count("max_feature_map") == 1  # fc1's
    moved = sum(s.compulsory.feature_read + s.compulsory.feature_write for s in plan.steps)
    assert moved < 18e6  # 46.6 MB as operators
