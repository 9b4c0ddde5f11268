"""What holds at the size that a graph was built at must hold at others, or be refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tinyface import ops
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.errors import GraphError
from tinyface.formats import fixsize
from tinyface.formats.onnx_axes import batch_of
from tinyface.graph import Graph
from tinyface.networks import random_state
from tinyface.ops.spec import Array
from tinyface.passes import optimise
from tinyface.runtime import Session

Make = Callable[[Builder, str], str]


def build(make: Make, *shape: int, **more: tuple[int, ...]) -> Graph:
    b = Builder("sizes")
    outputs = [make(b, b.input("x", shape))]
    for name, other in more.items():  # of its own, and of one size
        weight = b.param(f"{name}.fc.weight", (5, other[-1]))
        outputs.append(b.apply(ops.Linear(), b.input(name, other), weight))
    graph = b.build(*outputs)
    return graph.bind(random_state(graph))


def fpn(b: Builder, x: str) -> str:
    """Halved, doubled, and of the size of x again: nothing to do, where that is even."""
    half = b.conv(x, 2, 3, stride=2, pad=1, key="c")
    up = b.apply(ops.Resize(scale=(2.0, 2.0)), half)
    return b.apply(ops.Sigmoid(), b.apply(ops.Resize(), up, x))


def tokens(b: Builder, x: str) -> str:
    return b.apply(ops.ReLU(), b.apply(ops.Slice((1,), (0,), (16,), (1,)), x))


def rows(b: Builder, x: str) -> str:
    return b.apply(ops.ReLU(), b.apply(ops.Slice((2,), (0,), (16,), (1,)), x))


def resized(b: Builder, x: str) -> str:
    return b.apply(ops.ReLU(), b.apply(ops.Resize(mode="bilinear", size=(8, 8)), x))


def turned(b: Builder, x: str) -> str:
    return b.apply(ops.ChannelShuffle(8), b.apply(ops.Transpose((0, 2, 1, 3)), x))


@pytest.mark.parametrize(
    ("make", "built", "other", "more"),
    [
        (fpn, (1, 2, 8, 8), (1, 2, 9, 9), {}),
        (tokens, (1, 10, 8), (1, 20, 8), {}),
        (rows, (1, 2, 8, 8), (1, 2, 24, 8), {}),
        (resized, (1, 2, 8, 8), (1, 2, 16, 16), {"z": (1, 4, 6)}),
        (turned, (1, 2, 8, 4), (1, 2, 16, 4), {"z": (1, 4, 6)}),
    ],
)
def test_what_does_nothing_at_one_size(
    make: Make, built: tuple[int, ...], other: tuple[int, ...], more: dict[str, tuple[int, ...]]
) -> None:
    graph = build(make, *built, **more)
    rng = np.random.default_rng(1)
    for shape in (built, other):
        shapes = {"x": shape, **more}
        inputs = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        wanted = run_graph(graph.with_inputs(shapes), inputs)
        for name, got in Session(graph, "numpy").run(inputs).items():
            assert got.shape == wanted[name].shape
            assert np.allclose(got, wanted[name], atol=1e-4)


def mirrored(b: Builder, x: str) -> str:
    """As people write it: the picture and its mirror image as a batch of two, then added."""
    flipped = b.apply(ops.Slice((3,), (-1,), (-(2**31) + 1,), (-1,)), x)
    both = b.apply(ops.Concat(0), x, flipped)
    both = b.conv(both, 4, 3, key="c")
    one, two = (b.apply(ops.Slice((0,), (i,), (i + 1,), (1,)), both) for i in (0, 1))
    return b.apply(ops.Flatten(), b.apply(ops.Add(), one, two))


def test_several_pictures_of_a_network_that_counts_on_one() -> None:
    graph = build(mirrored, 1, 3, 6, 6)
    session = Session(graph, "numpy")
    x = np.random.default_rng(0).standard_normal((3, 3, 6, 6)).astype(np.float32)
    (together,) = session.run(x).values()
    alone = [next(iter(session.run(x[i : i + 1]).values())) for i in range(3)]
    assert together.shape == (3, 64) and np.array_equal(together, np.concatenate(alone))
    assert batch_of(graph) == 1
    assert batch_of(build(fpn, 1, 2, 8, 8)) == "N"


def test_a_larger_picture_is_not_taken_for_several() -> None:
    graph = build(lambda b, x: b.apply(ops.Reshape((-1, 3, 16)), x), 1, 3, 4, 4)
    session = Session(graph, "numpy")
    assert session.run(np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(GraphError, match="takes a picture of this size for several"):
        session.run(np.zeros((1, 3, 8, 4), np.float32))


def test_strides_and_pads_beyond_the_limits_stay_apart() -> None:
    def strides(b: Builder, x: str) -> str:
        return b.conv(b.conv(x, 2, 1, stride=1024, groups=2, key="a"), 2, 1, stride=2, key="b")

    def pads(b: Builder, x: str) -> str:
        wide = b.apply(ops.Pad((0, 0, 4096, 0), (0, 0, 0, 0)), x)
        return b.conv(wide, 1, 3, pad=1, stride=512, key="c")

    for make in (strides, pads):
        graph = build(make, 1, 2, 4, 4)
        x: dict[str, Array] = {"x": np.ones((1, 2, 4, 4), np.float32)}
        got, wanted = (next(iter(run_graph(g, x).values())) for g in (optimise(graph), graph))
        assert np.allclose(got, wanted, atol=1e-5)


def test_what_a_file_computes_of_the_size_holds_for_no_other(tmp_path: Path) -> None:
    """x minus its mean by its height, which the file takes from the shape of x."""
    pytest.importorskip("onnx", reason="needs the extra onnx")
    from onnx_models import model, node, read

    number = [
        node("Shape", outputs="shape"),
        node("Gather", "shape", "side", outputs="height"),
        node("Cast", "height", outputs="count", to=1),
        node("ReduceMean", "x", outputs="mean", axes=[2, 3], keepdims=1),
        node("Div", "mean", "count", outputs="share"),
        node("Sub", "x", "share"),
    ]
    counts = read(tmp_path, model(number, (1, 3, "h", "w"), {"side": np.array(2)}))
    plain = read(tmp_path, model([node("Relu")], (1, 3, "h", "w")))
    own, other = np.zeros((1, 3, 112, 112), np.float32), np.zeros((1, 3, 96, 96), np.float32)
    for backend in ("numpy", "auto"):
        assert Session(counts, backend).run(own) and Session(plain, backend).run(other)
        with pytest.raises(GraphError, match="one size"):
            Session(counts, backend).run(other)


@pytest.mark.needs_c
@pytest.mark.filterwarnings("ignore:.*no C kernel")
def test_results_of_both_engines_are_the_callers_own() -> None:
    b = Builder("mixed")
    x = b.input("x", (1, 2, 4, 4))
    graph = b.build(b.apply(ops.Softplus(), b.conv(x, 2, 1, key="c")), "c.weight", x)
    graph = graph.bind({"c.weight": np.ones((2, 2, 1, 1), np.float32)})
    given = np.ones((1, 2, 4, 4), np.float32)
    results = Session(graph).run(given)
    for name in ("x", "c.weight"):
        results[name][:] = 7
    assert (given == 1).all() and (graph.params["c.weight"] == 1).all()


@pytest.mark.needs_c
@pytest.mark.parametrize("backend", ["numpy", "c"])
def test_a_result_is_no_view_of_another(backend: str) -> None:
    b = Builder("twice")
    x = b.conv(b.input("x", (1, 2, 4, 4)), 2, 1, key="c")
    graph = b.build(x, b.apply(ops.Flatten(), x), b.apply(ops.Transpose((0, 2, 3, 1)), x))
    graph = graph.bind({"c.weight": np.ones((2, 2, 1, 1), np.float32)})
    first, *others = Session(graph, backend).run(np.ones((1, 2, 4, 4), np.float32)).values()
    first[:] = 7
    assert all((other == 2).all() for other in others)


@pytest.mark.needs_c
def test_what_holds_a_network_to_its_size_takes_no_step() -> None:
    b = Builder("held")
    graph = b.build(b.conv(b.input("x", (1, 3, 6, 8)), 4, 3, key="c"))
    graph = graph.bind(random_state(graph))
    held = Session(fixsize._held(graph), "c", 1)
    x = np.random.default_rng(0).standard_normal((1, 3, 6, 8)).astype(np.float32)
    free = Session(graph, "c", 1)
    assert np.array_equal(*(next(iter(s.run(x).values())) for s in (free, held)))
    plans = [s.executable({"x": x.shape}).plan for s in (free, held)]  # type: ignore[attr-defined]
    assert len(plans[0].steps) == len(plans[1].steps)
    with pytest.raises(GraphError, match="made for 6x8"):
        held.run(np.zeros((1, 3, 8, 6), np.float32))


def test_a_constant_that_is_resized_is_exported(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    from tinyface.formats.onnx_export import to_onnx

    def positions(b: Builder, x: str) -> str:
        return b.apply(ops.Add(), x, b.apply(ops.Resize(size=(8, 8)), b.param("p", (1, 3, 4, 4))))

    onnx.checker.check_model(to_onnx(build(positions, 1, 3, 8, 8)))
