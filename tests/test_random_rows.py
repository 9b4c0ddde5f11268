"""Tensors of any rank through passes, plan and kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from cases import SETTINGS
from hypothesis import given
from hypothesis import strategies as st
from random_graphs import assert_same_outputs, drift, inputs_for
from random_rows import row_graphs
from unplanned import unplanned

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.errors import NoKernelError
from tinyface.graph import Graph
from tinyface.passes import optimise
from tinyface.runtime import Session

ISAS = [isa.name for isa in engine.isas()] if engine.available() else []


def product(b: Builder, x: str) -> str:
    """x x', of a stack of matrices."""
    return b.apply(ops.MatMul(), x, b.apply(ops.Transpose((0, 1, 3, 2)), x))


def parts_of_a_map(b: Builder, x: str) -> tuple[str, ...]:
    """Row-major parts of what is channels-last."""
    y = product(b, x)
    return (b.apply(ops.Concat(1), y, b.apply(ops.Softmax(3), y), y),)


def channels_last_result(b: Builder, x: str) -> tuple[str, ...]:
    return (b.apply(ops.Transpose((0, 2, 3, 1)), product(b, x)),)


def a_copy_that_others_read(b: Builder, x: str) -> tuple[str, ...]:
    """The map made of a row-major tensor is cut, and its whole read by an element-wise step."""
    y = product(b, x)
    _, rest = b.apply_many(ops.Split(1, (1, 2)), y)
    return rest, b.apply(ops.Sigmoid(), y)


def a_copy_read_twice(b: Builder, x: str) -> tuple[str, ...]:
    """Only the last element-wise step may write over the map made of a row-major tensor."""
    y = product(b, x)
    return (b.apply(ops.Add(), b.apply(ops.ReLU(), y), b.apply(ops.Sigmoid(), y)),)


def constant_channels(b: Builder, x: str) -> tuple[str, ...]:
    """Coordinates beside a map, as CoordConv has them."""
    y = b.conv(x, 4, 1, key="conv")
    y = b.apply(ops.Concat(1), y, b.param("coordinates", (1, 2, 5, 7)))
    return (b.conv(y, 3, 1, key="after"),)


def slopes_behind_a_repeated_row(b: Builder, x: str) -> tuple[str, ...]:
    """The sum is row-major, the slopes are per channel; and one slope for all."""
    y = b.apply(ops.Add(), x, b.param("row", (1, 1, 5, 1)))
    z = b.apply(ops.Mul(), x, b.param("column", (7,)))
    return b.prelu(y, key="act"), b.apply(ops.LeakyReLU(0.25), z)


LAYOUTS = (
    parts_of_a_map, channels_last_result, a_copy_that_others_read, a_copy_read_twice,
    constant_channels, slopes_behind_a_repeated_row,
)  # fmt: skip


@pytest.mark.needs_c
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("build", LAYOUTS)
def test_layouts_meet(build: Callable[[Builder, str], tuple[str, ...]], isa: str) -> None:
    """Operators that work row-major beside those that work channels-last."""
    b = Builder(build.__name__)
    graph = b.build(*build(b, b.input("x", (1, 3, 5, 7))))
    rng = np.random.default_rng(0)
    graph = graph.bind(
        {name: rng.integers(-4, 5, t.shape).astype(np.float32) for name, t in graph.params.items()}
    )
    inputs = inputs_for(graph, "float32")
    got = engine.CExecutable(optimise(graph), 1, isa).run(inputs)
    for name, y in run_graph(graph, inputs).items():
        np.testing.assert_allclose(got[name], y, rtol=1e-5, atol=1e-5)


@pytest.mark.needs_c
@pytest.mark.parametrize("shape", [(2, 6, 9), (2, 6, 1), (2, 6, 4, 3)])
def test_slopes_of_sequences(shape: tuple[int, ...]) -> None:
    """PReLU behind the sum of a residual: of channels that are no map's, no step's epilogue."""
    b = Builder("sequence")
    x = b.input("x", shape)
    y = b.apply(ops.Add(), x, b.apply(ops.Sigmoid(), x))
    graph = b.build(b.apply(ops.PReLU(), y, b.param("slope", (6,))))
    graph = graph.bind({"slope": np.linspace(-1, 1, 6, dtype=np.float32)})
    inputs = inputs_for(graph, "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it may run in NumPy
        got = Session(graph, threads=1).run(inputs)
    for name, y in run_graph(graph, inputs).items():
        np.testing.assert_allclose(got[name], y, rtol=1e-6, atol=1e-6)


@SETTINGS
@given(row_graphs())
def test_passes_keep_the_values(graph: Graph) -> None:
    assert_same_outputs(graph, optimise(graph), "float32")


@pytest.mark.needs_c
@SETTINGS
@given(row_graphs(), st.sampled_from(ISAS or [""]), st.integers(2, 4))
def test_in_c_as_in_numpy(graph: Graph, isa: str, threads: int) -> None:
    """The same bits for any number of threads, and with every buffer at a place of its own."""
    done, inputs = optimise(graph), inputs_for(graph, "float32")
    try:
        alone = engine.CExecutable(done, 1, isa).run(inputs)
    except NoKernelError:
        return
    wide = {name: x.astype(np.float64) for name, x in inputs.items()}
    expected = run_graph(graph.astype("float64"), wide)
    allowed = drift(graph, inputs, "float32")
    with unplanned():
        others = engine.CExecutable(done, threads, isa).run(inputs)
    for name, y in expected.items():
        assert alone[name].shape == y.shape
        assert (np.abs(alone[name] - y) <= allowed[name]).all()
        assert np.array_equal(alone[name], others[name])
