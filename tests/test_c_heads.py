"""Heads of detectors and attention in the C engine: rows, columns and shares beside NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.networks.random import random_state
from tinyface.ops.spec import Array

pytestmark = pytest.mark.skipif(not engine.available(), reason="the C engine was not built")

ISAS = [isa.name for isa in engine.isas()] if engine.available() else []


def random_inputs(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {n: rng.standard_normal(t.shape, dtype=np.float32) for n, t in graph.inputs.items()}


def outputs(graph: Graph, inputs: dict[str, Array], isa: str) -> dict[str, Array]:
    return engine.CExecutable(graph, 1, isa).run(inputs)


@pytest.mark.parametrize("batch", [1, 3])
def test_maps_joined_as_rows_of_a_matrix(batch: int) -> None:
    """SSD's heads: every level's map channels last, as one row, and the rows joined. A map written
    into such a row is a run of it, whatever its own height and width."""
    b = Builder("heads")
    rows = []
    for i, (h, w) in enumerate([(6, 5), (3, 3), (1, 1)]):
        y = b.conv(b.input(f"x{i}", (1, 8, h, w)), 12, 3, pad=1, key=f"conv{i}")
        rows.append(b.apply(ops.Flatten(), b.apply(ops.Transpose((0, 2, 3, 1)), y)))
    joined = b.apply(ops.Concat(axis=1), *rows)
    boxes = b.apply(ops.Reshape((0, -1, 4)), joined)
    graph = b.build(boxes, b.apply(ops.Softmax(axis=1), b.apply(ops.Reshape((-1, 2)), joined)))
    graph = graph.bind(random_state(graph, seed=0))
    graph = graph.with_inputs({n: (batch, *t.shape[1:]) for n, t in graph.inputs.items()})
    inputs = random_inputs(graph)
    wanted = run_graph(graph, inputs)
    for isa in ISAS:
        for name, value in outputs(graph, inputs, isa).items():
            np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(5, 3), (2, 6, 49), (1, 8, 5, 7)])
def test_what_a_mask_hides_has_no_share(shape: tuple[int, ...], isa: str) -> None:
    """-100, as Swin's windows have it: a subnormal share would make products slow."""
    b = Builder("masked")
    graph = b.build(b.apply(ops.Softmax(axis=1), b.input("x", shape)))
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    x[:, 1] -= 100
    (y,) = outputs(graph, {"x": x}, isa).values()
    assert (y[:, 1] == 0).all()
    (wanted,) = run_graph(graph, {"x": x}).values()
    np.testing.assert_allclose(y, wanted, rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("op", [ops.Softmax(axis=1), ops.L2Normalize(axis=1)])
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_columns_of_a_matrix(op: ops.Op, batch: int) -> None:
    """Rows that do not follow each other without gaps (6DRepNet's vectors)."""
    b = Builder("columns")
    x = b.input("x", (batch, 6))
    cuts = [
        b.apply(ops.Slice(axes=(1,), starts=(i,), ends=(i + 3,), steps=(1,)), x) for i in (0, 3)
    ]
    graph = b.build(*(b.apply(op, cut) for cut in cuts))
    inputs = random_inputs(graph)
    wanted = run_graph(graph, inputs)
    for isa in ISAS:
        for name, y in outputs(graph, inputs, isa).items():
            np.testing.assert_allclose(y, wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [2, 3])
def test_means_along_one_side_of_a_map_stay_maps(axis: int) -> None:
    """Coordinate attention as means: no map is turned to planes for them."""
    b = Builder("means")
    x = b.conv(b.input("x", (1, 3, 6, 5)), 20, 3, pad=1, key="a")
    y = b.conv(b.apply(ops.Reduce(mode="mean", axes=(axis,)), x), 9, 1, key="b")
    graph = b.build(b.apply(ops.GlobalAveragePool(), y))
    graph = graph.bind(random_state(graph, seed=0))
    inputs = random_inputs(graph)
    (wanted,) = run_graph(graph, inputs).values()
    for isa in ISAS:
        (got,) = outputs(graph, inputs, isa).values()
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert "to_nchw" not in {step.kernel for step in engine.CExecutable(graph, 1).plan.steps}
