"""Graphs in C beside their NumPy definition: random ones, and what those rarely meet."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import drift, graphs, inputs_for

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.errors import BackendError, NoKernelError
from tinyface.graph import Graph
from tinyface.networks import random_state
from tinyface.passes import optimise
from tinyface.runtime import Session

pytestmark = pytest.mark.needs_c
ISAS = [isa.name for isa in engine.isas()] if engine.available() else [""]


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.integers(1, 2))
def test_random_networks(isa: str, graph: Graph, threads: int) -> None:
    inputs = inputs_for(graph, "float32")
    try:
        executable = engine.CExecutable(optimise(graph), threads, isa)
    except NoKernelError:
        return
    allowed = drift(graph, inputs, "float32")
    for got, (name, wanted) in zip(
        executable.run(inputs).values(), run_graph(graph, inputs).items(), strict=True
    ):
        assert (np.abs(got - wanted) <= allowed[name]).all()


# -------------------------------------------------------------------------- rare encounters

Make = Callable[[Builder, str], str]


def dilated(b: Builder, x: str) -> str:
    """The residual is the input of a convolution that no pass merges with it."""
    x = b.conv(x, 16, 3, pad=1, key="stem")
    return b.apply(ops.Add(), x, b.conv(x, 16, 3, pad=2, dilation=2, key="c"))


def fused(b: Builder, x: str) -> str:
    weight = b.param("w", (16, 16, 1, 1))
    x = b.conv(x, 16, 3, pad=1, key="stem")
    return b.apply(ops.Conv2d(act=ops.ReLU()), x, weight, "", "", x)


def shuffled(b: Builder, x: str) -> str:
    """A 1 x 1 may have a dilation; the shuffle's groups become taps of it."""
    x = b.apply(ops.ChannelShuffle(2), b.conv(x, 16, 3, pad=1, key="stem"))
    return b.conv(x, 16, 1, dilation=2, key="c")


def long_step(b: Builder, x: str) -> str:
    """Of one pixel; its stride would be more than a view has."""
    column = b.apply(ops.Slice((3,), (0,), (2**31 - 1,), (1 << 30,)), x)
    return b.conv(column, 16, 1, key="c")


def along_the_batch(b: Builder, x: str) -> str:
    """The result lies with gaps, as a part of a joint tensor."""
    rows = b.apply(ops.Reshape((4, 12, 12)), x)
    total = b.apply(ops.Reduce("sum", (0,), False), rows)
    largest = b.apply(ops.Reduce("max", (0,), False), rows)
    return b.apply(ops.Concat(1), total, largest, total)


def rows_with_constants(b: Builder, x: str) -> str:
    """Steps over rows of a matrix are no band of a map, however large."""
    rows = b.apply(ops.MatMul(), b.apply(ops.Reshape((1, 2, 288, 1)), x), b.param("k", (1, 500)))
    rows = b.apply(ops.Mul(), rows, b.param("scale", (288, 1)))
    return b.apply(ops.Softmax(-1), b.apply(ops.Add(), rows, b.param("shift", (288, 1))))


def squares_of_that_name(b: Builder, x: str) -> str:
    y = b.apply(ops.Reduce("l2", (3,)), x, name="y")
    return b.apply(ops.Mul(), b.apply(ops.Softmax(3), x, name="y.square"), y)


def turned_of_that_name(b: Builder, x: str) -> str:
    y = b.apply(ops.L2Normalize(2, 1.0), x, name="y")
    return b.apply(ops.Mul(), b.apply(ops.Softmax(3), y, name="y.turned"), y)


def parts_of_that_name(b: Builder, x: str) -> str:
    four = [b.conv(x, 4, 1, key=f"p{i}") for i in range(4)]
    y = b.apply(ops.ReLU(), b.apply(ops.Interleave(), *four), name="y")
    return b.apply(ops.Mul(), y, b.apply(ops.Sigmoid(), y, name="y:0"))


ENCOUNTERS: list[Make] = [
    *(dilated, fused, shuffled, long_step, along_the_batch, rows_with_constants),
    *(squares_of_that_name, turned_of_that_name, parts_of_that_name),
]


def build(make: Make, *shape: int) -> Graph:
    b = Builder("rare")
    graph = b.build(make(b, b.input("x", shape)))
    return graph.bind(random_state(graph))


@pytest.mark.parametrize("make", ENCOUNTERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("isa", ISAS)
def test_rare_encounters(make: Make, isa: str) -> None:
    graph = build(make, 1, 4, 12, 12)
    inputs = inputs_for(graph, "float32")
    (got,) = engine.CExecutable(optimise(graph), 2, isa).run(inputs).values()
    ((name, wanted),) = run_graph(graph, inputs).items()
    assert (np.abs(got - wanted) <= drift(graph, inputs, "float32")[name] + 1e-5).all()


def test_sizes_of_one_session_that_take_different_kernels() -> None:
    """Grouped convolutions of narrow maps are products; the bias is padded in another way."""
    graph = build(lambda b, x: b.conv(x, 8, 3, pad=1, groups=4, bias=True, key="c"), 1, 8, 8, 8)
    session, definition = Session(graph, "c", 1), Session(graph, "numpy")
    for side in (8, 3, 8):
        x = inputs_for(graph.with_inputs({"x": (1, 8, side, side)}), "float32")["x"]
        for name, wanted in definition.run(x).items():
            assert np.abs(session.run(x)[name] - wanted).max() < 1e-5


def test_what_a_step_is_too_large_for_runs_in_numpy() -> None:
    graph = build(lambda b, x: b.apply(ops.GlobalAveragePool(), x), 1, 3, 1, 9000)
    x = inputs_for(graph, "float32")["x"]
    with pytest.warns(RuntimeWarning, match="no C kernel"):
        (got,) = Session(graph).run(x).values()
    assert np.allclose(got, x.mean(axis=(2, 3), keepdims=True), atol=1e-6)


def test_scratch_has_a_limit_and_large_windows_little() -> None:
    small = build(lambda b, x: b.conv(x, 1, 64, pad=100, dilation=2, key="c"), 1, 1, 200, 200)
    assert engine.CExecutable(optimise(small), 1).memory["scratch"] < 64 << 20
    large = build(lambda b, x: b.conv(x, 1, 1024, pad=1024, dilation=2, key="c"), 1, 1, 100, 100)
    with pytest.raises(BackendError, match="MiB beside its maps"):
        engine.CExecutable(optimise(large), 256)


def test_a_layer_norm_keeps_to_no_length() -> None:
    """What is behind one without a scale is no scale of it: that would have a length."""
    layers = build(
        lambda b, x: b.apply(ops.Mul(), b.apply(ops.LayerNorm(-1), x), b.param("k", ())), 1, 4, 10
    )
    for backend in ("c", "numpy"):
        assert Session(layers, backend, 1).run(np.ones((1, 4, 12), np.float32))


def test_nan_stays_nan() -> None:
    graph = build(lambda b, x: b.apply(ops.L2Normalize(), x), 1, 4)
    (got,) = Session(graph, "c", 1).run(np.array([[np.nan, 1, 2, 3]], np.float32)).values()
    assert np.isnan(got).all()


@pytest.mark.parametrize("backend", ["c", "numpy"])
def test_long_chains(backend: str) -> None:
    def additions(b: Builder, x: str) -> str:
        y = x
        for _ in range(2000):
            y = b.apply(ops.Add(), y, x)
        return y

    def turns(b: Builder, x: str) -> str:
        for _ in range(501):
            x = b.apply(ops.Transpose((2, 0, 3, 1)), x)
        return b.apply(ops.ReLU(), x)

    def squares(b: Builder, x: str) -> str:
        for _ in range(40):
            x = b.apply(ops.Mul(), x, x)
        return x

    for make in (additions, turns, squares):
        graph = build(make, 1, 2, 3, 4)
        x = np.ones((1, 2, 3, 4), np.float32)
        (got,) = Session(graph, backend, 1).run(x).values()
        ((_, wanted),) = run_graph(graph, {"x": x}).items()
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize("backend", ["c", "numpy"])
def test_results_are_the_callers_own(backend: str) -> None:
    graph = build(lambda b, x: b.apply(ops.Reshape((0, -1)), x), 1, 4, 2, 2)
    x = np.ones((1, 4, 2, 2), np.float32)
    (got,) = Session(graph, backend, 1).run(x).values()
    x[:] = 7
    assert (got == 1).all()


DAEMONS = """
import threading, time
import numpy as np
from tinyface.networks import find, random_state
from tinyface.runtime import Session

graph = find("cnn-8-ds-cifar").build()
session = Session(graph.bind(random_state(graph)), "c", 2)
shape = next(iter(graph.inputs.values())).shape

def work():
    while True:
        session.run(np.zeros(shape, np.float32))

for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
"""


def test_the_end_of_python_while_daemon_threads_run() -> None:
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", DAEMONS], env={**os.environ, "MALLOC_PERTURB_": "85"},
            check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0


@pytest.mark.parametrize("mode", ["bilinear", "corners"])
@pytest.mark.parametrize("side, out", [(333, 1280), (1280, 4000), (4000, 1281)])
def test_long_rows_are_resized_without_drift(mode: str, side: int, out: int) -> None:
    """A step in float32 is off by 1e-4 after a thousand of them."""
    b = Builder("row")
    graph = b.build(b.apply(ops.Resize(mode, size=(2, out)), b.input("x", (1, 2, 3, side))))
    x = np.random.default_rng(0).standard_normal((1, 2, 3, side)).astype(np.float32)
    (wanted,), (got,) = (Session(graph, kind).run(x).values() for kind in ("numpy", "c"))
    np.testing.assert_allclose(got, wanted, atol=4e-6)


# ---------------------------------------------------------------------- unusual numbers


def rectified(b: Builder, x: str) -> str:
    return b.apply(ops.ReLU(), x)


def clipped(b: Builder, x: str) -> str:
    return b.apply(ops.Clip(low=-0.5, high=0.5), x)


def rectified_sum(b: Builder, x: str) -> str:
    return b.apply(ops.ReLU(), b.conv(x, 19, 1, key="a"))


def sloped_sum(b: Builder, x: str) -> str:
    return b.prelu(b.conv(x, 19, 1, key="a"), key="p")


def largest(b: Builder, x: str) -> str:
    return b.apply(ops.GlobalMaxPool(), x)


def larger(b: Builder, x: str) -> str:
    return b.apply(ops.Maximum(), x, b.apply(ops.Sigmoid(), x))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("make", [rectified, clipped, rectified_sum, sloped_sum, largest, larger])
def test_nan_comes_out_where_it_goes_in(make: Make, isa: str) -> None:
    b = Builder("nan")
    graph = b.build(make(b, b.input("x", (1, 19, 3, 5))))
    graph = optimise(graph.bind(random_state(graph)))
    x = np.ones((1, 19, 3, 5), np.float32)
    x[:, ::2, 1:] = np.nan
    (wanted,) = run_graph(graph, {"x": x}).values()
    (got,) = engine.CExecutable(graph, 1, isa).run({"x": x}).values()
    assert np.isnan(wanted).any() and np.array_equal(np.isnan(got), np.isnan(wanted))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "op, rows",
    [(ops.Softmax(), [[0] * 18 + [200]] * 3), (ops.Exp(), [[89, 100, -100, 88.5]])],
    ids=["softmax whose maximum comes last", "exp at the end of float32"],
)
def test_large_values(op: ops.Op, rows: list[list[float]], isa: str) -> None:
    x = np.array(rows, np.float32)
    b = Builder("large")
    graph = b.build(b.apply(op, b.input("x", x.shape)))
    (wanted,) = run_graph(graph, {"x": x}).values()
    (got,) = engine.CExecutable(graph, 1, isa).run({"x": x}).values()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stride, behind", [(1, 1), (2, 3)])
def test_a_pointwise_convolution_that_pads_behind(stride: int, behind: int, isa: str) -> None:
    b = Builder("behind")
    x = b.input("x", (1, 8, 4, 4))
    op = ops.Conv2d(stride=(stride, stride), pad=(0, 0, behind, behind))
    graph = b.build(b.apply(op, x, b.param("w", (7, 8, 1, 1)), b.param("b", (7,))))
    graph = graph.bind(random_state(graph))
    values = np.random.default_rng(0).standard_normal((1, 8, 4, 4)).astype(np.float32)
    (wanted,) = run_graph(graph, {"x": values}).values()
    (got,) = engine.CExecutable(graph, 1, isa).run({"x": values}).values()
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_a_long_row_keeps_its_last_bits(isa: str) -> None:
    """A million squares, summed in float32 one after another, would lose them."""
    b = Builder("row")
    graph = b.build(b.apply(ops.L2Normalize(-1), b.input("x", (1, 1 << 20))))
    x = np.random.default_rng(0).uniform(0.1, 0.101, (1, 1 << 20)).astype(np.float32)
    (wanted,) = run_graph(graph, {"x": x}).values()
    (got,) = engine.CExecutable(graph, 1, isa).run({"x": x}).values()
    np.testing.assert_allclose(got, wanted, rtol=2e-6)
