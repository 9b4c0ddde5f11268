"""Transposed convolutions: phases of convolutions, interleaved; from the file to the C engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.formats.transposed import Axis, transposed
from tinyface.graph import Graph
from tinyface.networks import random_state
from tinyface.passes import optimise

torch = pytest.importorskip("torch", reason="the oracle")


def network(weight: Any, axes: tuple[Axis, Axis], groups: int, side: tuple[int, int]) -> Graph:
    """One transposed convolution of a map."""
    b = Builder("up")
    state = {}

    def param(name: str, value: Any) -> str:
        state[name] = value.astype(np.float32)
        return b.param(name, value.shape)

    x = b.input("x", (2, weight.shape[0], *side))
    counter = iter(range(99))
    y = transposed(
        x, weight, "", axes, groups,
        lambda op, *inputs, part: b.apply(op, *inputs, name=f"n{next(counter)}"), param,
    )  # fmt: skip
    return b.build(y).bind(state)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_equals_pytorch(kernel: int, stride: int, groups: int) -> None:
    """All pads that leave something, all outputs beyond, another kernel in width."""
    rng = np.random.default_rng(kernel + 10 * stride)
    weight = rng.standard_normal((6, 6 // groups, kernel, 3)).astype(np.float32)
    x = rng.standard_normal((2, 6, 4, 5)).astype(np.float32)
    for pad in range(kernel + 1):
        for more in range(stride):
            axis = Axis(kernel, stride, pad, pad, more)
            if 4 * stride + axis.beyond < 1:
                continue
            wide = Axis(3, stride, 1, 1, more)
            graph = network(weight, (axis, wide), groups, (4, 5))
            (ours,) = run_graph(graph, {"x": x}).values()
            theirs = torch.nn.functional.conv_transpose2d(
                torch.from_numpy(x), torch.from_numpy(weight), None, stride, (pad, 1), more, groups
            )
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-4)


def upsampler(act: Any = ops.ReLU, twice: bool = False) -> Graph:
    """Four convolutions interleaved, a batch norm, an activation; a skip that is joined."""
    b = Builder("up")
    x = b.input("x", (1, 5, 6, 7))
    parts = [b.conv(x, 8, 3, pad=1, key=f"conv{i}") for i in range(4)]
    y = b.apply(ops.Interleave(), *parts, name="whole")
    z = b.batch_norm(y, key="bn")
    z = b.apply(act(), z, name="act")
    outputs = [b.apply(ops.Concat(), z, b.conv(z, 3, 1, key="head"), name="joined")]
    graph = b.build(*outputs, *([y] if twice else []))
    return graph.bind(random_state(graph))


def test_what_follows_is_taken_up_by_the_convolutions() -> None:
    graph = upsampler()
    kinds = [node.op.kind for node in optimise(graph).nodes]
    assert kinds == ["conv2d"] * 4 + ["interleave", "conv2d", "concat"]
    assert [n.op.kind for n in optimise(upsampler(twice=True)).nodes].count("batch_norm") == 1


ISAS = [isa.name for isa in engine.isas()] if engine.available() else []


@pytest.mark.parametrize("isa", ISAS)
def test_c_writes_the_pixels_in_place(isa: str) -> None:
    graph = optimise(upsampler())
    x = {"x": np.random.default_rng(1).standard_normal((1, 5, 6, 7)).astype(np.float32)}
    executable = engine.CExecutable(graph, 2, isa)
    assert not [step for step in executable.plan.steps if step.op == "interleave"]
    (ours,), (theirs,) = executable.run(x).values(), run_graph(graph, x).values()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_export_and_import_again(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tinyface.formats.onnx import read_onnx
    from tinyface.formats.onnx_export import export_onnx

    graph = upsampler()
    export_onnx(graph, tmp_path / "up.onnx")
    again = read_onnx(tmp_path / "up.onnx")
    x = {"x": np.random.default_rng(1).standard_normal((1, 5, 6, 7)).astype(np.float32)}
    (ours,), (theirs,) = run_graph(again, x).values(), run_graph(graph, x).values()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
