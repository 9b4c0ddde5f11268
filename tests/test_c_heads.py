"""Heads of detectors and attention in the C engine: rows, columns and shares beside NumPy's."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.networks.random import random_state
from tinyface.ops.spec import Array
from tinyface.plan.pack import TINY, Packer

pytestmark = pytest.mark.needs_c

ISAS = [isa.name for isa in engine.isas()] if engine.available() else []


def random_inputs(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {n: rng.standard_normal(t.shape, dtype=np.float32) for n, t in graph.inputs.items()}


def outputs(graph: Graph, inputs: dict[str, Array], isa: str, threads: int = 1) -> dict[str, Array]:
    return engine.CExecutable(graph, threads, isa).run(inputs)


def assert_as_numpy(graph: Graph, threads: int = 1, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """All outputs are NumPy's, with every instruction set."""
    inputs = random_inputs(graph)
    wanted = run_graph(graph, inputs)
    for isa in ISAS:
        found = outputs(graph, inputs, isa, threads)
        assert found.keys() == wanted.keys()
        for name, y in found.items():
            np.testing.assert_allclose(y, wanted[name], rtol=rtol, atol=atol, err_msg=isa)


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
    assert_as_numpy(graph, rtol=1e-4, atol=1e-5)


def test_maps_cut_into_other_rows() -> None:
    """A batch of maps as a matrix with a row for each map, or two, or for all."""
    b = Builder("maps")
    y = b.conv(b.input("x", (2, 3, 4, 5)), 6, 1, key="conv")
    shapes = (12, 20), (6, 40), (1, 240), (2, 120)
    rows = [b.apply(ops.Tanh(), b.apply(ops.Reshape(shape), y)) for shape in shapes]
    graph = b.build(*rows)
    assert_as_numpy(graph.bind(random_state(graph)))


@pytest.mark.parametrize("axes", [(0,), (0, 1), (0, 2)])
def test_a_batch_with_gaps(axes: tuple[int, ...]) -> None:
    """A tensor that was written into a larger one: its pictures do not follow each other."""
    b = Builder("gaps")
    x = b.input("x", (3, 4, 5))
    y = b.apply(ops.Tanh(), x)
    whole = b.apply(ops.Concat(axis=1), y, b.apply(ops.Sigmoid(), x))
    small = b.apply(ops.Reduce("mean", axes, True), y)
    anew = b.apply(ops.Sqrt(), b.apply(ops.Reshape((6, 10)), y))
    assert_as_numpy(b.build(b.apply(ops.Identity(), whole), small, anew))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", [ops.SiLU(), ops.Exp(), ops.GELU()], ids=lambda op: op.kind)
def test_results_below_the_least_normal_number_are_zero(op: ops.Op, isa: str) -> None:
    """On a core that takes a hundred cycles for each; the caller's own arithmetic keeps them."""
    b = Builder("steps")
    graph = b.build(b.apply(op, b.input("x", (1, 5, 7, 3))))
    x = np.random.default_rng(0).uniform(-110, -80, (1, 5, 7, 3)).astype(np.float32)
    for threads in (1, 2):
        (y,) = outputs(graph, {"x": x}, isa, threads=threads).values()
        (wanted,) = run_graph(graph, {"x": x}).values()
        np.testing.assert_allclose(y, wanted, rtol=2e-5, atol=110 * TINY)  # x times a share of 0
        if platform.machine() in ("x86_64", "AMD64"):
            assert not ((y != 0) & (np.abs(y) < TINY)).any()
        small = np.full(3, TINY)
        assert (small * np.float32(0.5) != 0).all()


def test_weights_of_dead_channels_are_packed_as_zeros() -> None:
    packer = Packer()
    tiny = np.array([1e-39, -1e-45, TINY, -1, 0], np.float32)
    at = packer.add("w", lambda: tiny)
    np.testing.assert_array_equal(packer.finish()[at : at + 5], [0, 0, TINY, -1, 0])
    half = np.array([6e-8, 1], np.float16)  # below the least normal half, and no trouble
    at = packer.add("h", lambda: half)
    np.testing.assert_array_equal(packer.finish()[at : at + 1].view(np.float16), half)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7, 15])
def test_pixels_of_less_than_a_vector(channels: int) -> None:
    """Images: several pixels go into a vector, with what belongs to their channels as often."""
    b = Builder("narrow")
    shape = (2, channels, 3, 67)
    x, z = b.input("x", shape), b.input("z", shape)
    scaled = b.batch_norm(b.apply(ops.Add(), x, z), key="norm")
    graph = b.build(b.prelu(b.apply(ops.Mul(), scaled, z), key="act"), b.prelu(x, key="alone"))
    graph = graph.bind(random_state(graph, seed=0))
    assert_as_numpy(graph)


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
    assert_as_numpy(graph)


@pytest.mark.parametrize("axis", [2, 3])
def test_means_along_one_side_of_a_map_stay_maps(axis: int) -> None:
    """Coordinate attention as means: no map is turned to planes for them."""
    b = Builder("means")
    x = b.conv(b.input("x", (1, 3, 6, 5)), 20, 3, pad=1, key="a")
    y = b.conv(b.apply(ops.Reduce(mode="mean", axes=(axis,)), x), 9, 1, key="b")
    graph = b.build(b.apply(ops.GlobalAveragePool(), y))
    graph = graph.bind(random_state(graph, seed=0))
    assert_as_numpy(graph, rtol=1e-4, atol=1e-5)
    assert "to_nchw" not in {step.kernel for step in engine.CExecutable(graph, 1).plan.steps}


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("op", [ops.AveragePool((5, 1), (1, 1), (2, 0, 1, 0)),
                                ops.AveragePool((2, 1), (2, 1), count_include_pad=True),
                                ops.MaxPool((3, 1), (1, 1), (1, 0, 1, 0), (2, 1))],
                         ids=lambda op: op.kind)  # fmt: skip
def test_windows_down_a_column_of_narrow_pixels(op: ops.Op, joined: bool) -> None:
    """PyTorch's local response normalisation is a mean down a map of one channel: a row's pixels
    are a vector there, unless others come between them."""
    for channels in (1, 3):
        b = Builder("columns")
        x = b.input("x", (2, channels, 9, 37))
        y = b.apply(op, x)
        y = b.apply(ops.Concat(), y, b.apply(ops.Sigmoid(), y)) if joined else y
        graph = b.build(b.apply(ops.ReLU(), y))
        assert_as_numpy(graph, threads=2)
        steps = engine.CExecutable(graph, 1).plan.steps
        (step,) = (s for s in steps if s.kernel in ("average_pool", "max_pool"))
        assert step.x.shape[3] == (37 if joined else 1)


@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (3, 3, 3, 3), (2, 0, 1, 4)])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_convolution_over_few_channels_within_a_network(
    channels: int, pad: tuple[int, int, int, int]
) -> None:
    """CBAM's spatial attention: the map gets its padding, so that a row of the window is a run."""
    b = Builder("spatial")
    x = b.apply(ops.ReLU(), b.input("x", (2, channels, 9, 11)))
    y = b.conv(x, 1, (5, 7), stride=(1, 2), pad=pad, key="conv")
    graph = b.build(b.apply(ops.Sigmoid(), y), b.apply(ops.GlobalAveragePool(), x))
    graph = graph.bind(random_state(graph, seed=0))
    assert_as_numpy(graph, threads=2, rtol=1e-4, atol=1e-5)
    (conv,) = (s for s in engine.CExecutable(graph, 1).plan.steps if s.kernel.startswith("gemm"))
    assert conv.x.shape[1] == 7 * channels


@pytest.mark.parametrize("columns", [1, 3, 20])
def test_matrices_of_few_columns(columns: int) -> None:
    """SCRFD's scores, one a row: their rows are pixels, so that a vector takes several."""
    b = Builder("scores")
    x, z = b.input("x", (320, columns)), b.input("z", (320, columns))
    scaled = b.batch_norm(b.apply(ops.Sub(), x, z), key="norm")
    half = b.apply(ops.Slice(axes=(1,), starts=(0,), ends=((columns + 1) // 2,), steps=(1,)), z)
    graph = b.build(
        b.apply(ops.Sigmoid(), x), b.prelu(scaled, key="act"), b.apply(ops.Tanh(), half), half
    )
    graph = graph.bind(random_state(graph, seed=0))
    assert_as_numpy(graph, threads=2)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="of x86 cores")
def test_every_thread_takes_what_is_below_the_least_normal_number_for_zero() -> None:
    """The workers, too, whichever rows they get."""
    b = Builder("steps")
    shape = (1, 16, 256, 256)
    graph = b.build(b.apply(ops.Exp(), b.input("x", shape)))
    x = np.random.default_rng(0).uniform(-110, -80, shape).astype(np.float32)
    executable = engine.CExecutable(graph, 4)
    for _ in range(100):
        (y,) = executable.run({"x": x}).values()
        assert not ((y != 0) & (np.abs(y) < TINY)).any()
