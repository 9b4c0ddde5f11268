"""Several filters for each channel become as many depthwise convolutions."""

from __future__ import annotations

import numpy as np
import pytest
from random_graphs import assert_same_outputs, kinds

from tinyface import ops
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.passes import optimise, split_multiplier
from tinyface.runtime import Session


def multiplied(filters: int = 2, channels: int = 16, *, kernel: int = 3, stride: int = 1,
               bias: bool = True, slopes: int = 0, shortcut: bool = False) -> Graph:  # fmt: skip
    """``slopes``: of a PReLU behind, 1 or one for each channel."""
    b = Builder("multiplied")
    x = b.input("input", (2, channels, 9, 8))
    beside = b.conv(x, filters * channels, 1, key="beside") if shortcut else ""
    more = {"kernel": kernel, "stride": stride, "pad": kernel // 2, "bias": bias}
    y = b.conv(x, filters * channels, key="conv", groups=channels, **more)  # type: ignore[arg-type]
    y = b.apply(ops.Add(), y, beside) if shortcut else y
    if slopes:
        y = b.apply(ops.PReLU(), y, b.param("slope", (slopes,)))
    graph = b.build(b.conv(y, 5, 1, key="behind"), y)
    rng = np.random.default_rng(0)
    return graph.bind({k: rng.standard_normal(v.shape) for k, v in graph.params.items()})


SPLIT = [
    {},
    {"filters": 3, "bias": False},
    {"filters": 6, "channels": 17, "stride": 2},
    {"kernel": 7, "stride": 2, "slopes": 32},
    {"kernel": 5, "slopes": 1},
]
KEPT = [{"filters": 1}, {"filters": 7}, {"channels": 15}, {"shortcut": True}]


@pytest.mark.parametrize("options", SPLIT, ids=str)
def test_splits(options: dict[str, int]) -> None:
    graph = multiplied(**options)  # type: ignore[arg-type]
    after = optimise(graph)
    filters = options.get("filters", 2)
    parts = [node.op for node in after.nodes[:filters]]
    assert kinds(after) == ["conv2d"] * filters + ["concat", "channel_shuffle", "conv2d"]
    assert {op.groups for op in parts} == {options.get("channels", 16)}  # type: ignore[attr-defined]
    assert_same_outputs(graph.astype("float64"), optimise(graph.astype("float64")), "float64")
    assert_same_outputs(graph.astype("float32"), optimise(graph.astype("float32")), "float32")


@pytest.mark.parametrize("options", KEPT, ids=str)
def test_stays(options: dict[str, int]) -> None:
    graph = optimise(multiplied(**options))  # type: ignore[arg-type]
    assert split_multiplier(graph).nodes == graph.nodes
    assert kinds(graph).count("channel_shuffle") == 0


def test_computed_weights_stay() -> None:
    b = Builder("computed")
    x, weight = b.input("input", (1, 16, 5, 5)), b.input("weight", (32, 1, 3, 3))
    graph = b.build(b.apply(ops.Conv2d(groups=16), x, weight))
    assert split_multiplier(graph).nodes == graph.nodes


@pytest.mark.parametrize("options", SPLIT, ids=str)
def test_the_engine_agrees(options: dict[str, int]) -> None:
    graph = multiplied(**options).astype("float32")  # type: ignore[arg-type]
    x = np.random.default_rng(1).standard_normal(graph.inputs["input"].shape).astype(np.float32)
    wanted = run_graph(graph, {"input": x})
    for name, y in Session(graph, threads=2).run(x).items():
        assert np.abs(y - wanted[name]).max() < 1e-4 * np.abs(wanted[name]).max()
