"""Blocks of tokens, as transformers have them: passes, plan and kernels together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from cases import SETTINGS
from hypothesis import given
from hypothesis import strategies as st
from unplanned import unplanned

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.errors import BackendError
from tinyface.graph import Graph
from tinyface.networks.random import random_state
from tinyface.passes import fold_affine, fold_constants, optimise

ISAS = [isa.name for isa in engine.isas()] if engine.available() else []


def linear(b: Builder, x: str, out: int, key: str) -> str:
    """As exporters write it: a product, then the bias, whichever operand it is."""
    y = b.apply(ops.Linear(), x, b.param(f"{key}.w", (out, b.shape(x)[-1])))
    return b.apply(ops.Add(), b.param(f"{key}.b", (out,)), y)


def norm(b: Builder, x: str, key: str) -> str:
    c = b.shape(x)[-1]
    y = b.apply(ops.Mul(), b.apply(ops.LayerNorm(), x), b.param(f"{key}.w", (c,)))
    return b.apply(ops.Add(), y, b.param(f"{key}.b", (c,)))


def attention(b: Builder, x: str, heads: int, *, cross: bool) -> str:
    """Of tokens, softmax(q k') v; or of channels, as XCiT and EdgeNeXt have it."""
    _, t, c = b.shape(x)
    each = c // heads
    y = b.apply(ops.Reshape((0, t, 3, heads, each)), linear(b, x, 3 * c, "qkv"))
    perm, sides = ((2, 0, 3, 4, 1), (each, t)) if cross else ((2, 0, 3, 1, 4), (t, each))
    parts = b.apply_many(ops.Split(0, (1, 1, 1)), b.apply(ops.Transpose(perm), y))
    n = b.shape(x)[0]
    q, k, v = (b.apply(ops.Reshape((n, heads, *sides)), part) for part in parts)
    if cross:
        q, k = (b.apply(ops.L2Normalize(axis=3), part) for part in (q, k))
    scores = b.apply(ops.MatMul(), q, b.apply(ops.Transpose((0, 1, 3, 2)), k))
    scores = b.apply(ops.Mul(), scores, b.param("temperature", (heads, 1, 1)))
    y = b.apply(ops.MatMul(), b.apply(ops.Softmax(axis=3), scores), v)
    y = b.apply(ops.Transpose((0, 3, 1, 2) if cross else (0, 2, 1, 3)), y)
    return linear(b, b.apply(ops.Reshape((0, t, c)), y), c, "out")


def block(
    c: int = 12, heads: int = 3, sides: tuple[int, int] = (3, 5), n: int = 1, *, cross: bool = False
) -> Graph:
    """A map as tokens with a position, attention and a small network on each token, and back."""
    b = Builder("block")
    h, w = sides
    x = b.conv(b.input("x", (n, 3, h, w)), c, 1, key="patch")
    x = b.apply(ops.Transpose((0, 2, 1)), b.apply(ops.Reshape((0, c, h * w)), x))
    place = b.apply(ops.Reshape((1, h * w, c)), b.param("place", (h * w, c)))
    x = b.apply(ops.Add(), x, place)
    y = attention(b, norm(b, x, "n1"), heads, cross=cross)
    x = b.apply(ops.Add(), x, b.apply(ops.Mul(), b.param("gamma", (c,)), y))
    y = b.apply(ops.GELU(), linear(b, norm(b, x, "n2"), 2 * c, "fc1"))
    x = b.apply(ops.Add(), linear(b, y, c, "fc2"), x)
    whole = b.apply(ops.Reshape((0, c, h, w)), b.apply(ops.Transpose((0, 2, 1)), x))
    mean = b.apply(ops.Reduce("mean", (1,), False), x)
    graph = b.build(whole, mean)
    rng = np.random.default_rng(0)
    scale = {"w": 0.5, "weight": 0.5}
    state = {
        name: (rng.standard_normal(t.shape) * scale.get(name.rsplit(".")[-1], 1)).astype("f4")
        for name, t in graph.params.items()
    }
    return graph.bind(state)


def inputs_of(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {k: rng.standard_normal(t.shape).astype(np.float32) for k, t in graph.inputs.items()}


def assert_close(graph: Graph, got: dict[str, np.ndarray]) -> None:
    """To 1e-4 of the largest value of the definition in float64: some 100 sums of 50 terms."""
    wide = {name: x.astype(np.float64) for name, x in inputs_of(graph).items()}
    for name, y in run_graph(graph.astype("float64"), wide).items():
        assert np.abs(got[name] - y).max() <= 1e-4 * np.abs(y).max()


@pytest.mark.parametrize("cross", [False, True])
def test_what_stands_around_products_goes_into_them(cross: bool) -> None:
    """Bias, scale of the branch, scale and shift of norms, GELU, shortcuts, the position."""
    graph = block(cross=cross)
    done = optimise(graph)
    kinds = [node.op.kind for node in done.nodes]
    assert kinds.count("linear") == 4 and kinds.count("layer_norm") == 2
    assert (kinds.count("mul"), kinds.count("add"), kinds.count("gelu")) == (1, 1, 0)
    assert_close(graph, run_graph(done, inputs_of(graph)))


CASES = st.tuples(
    st.integers(1, 3).flatmap(lambda h: st.integers(1, 9).map(lambda e: (h * e, h))),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.integers(1, 2),
    st.booleans(),
)


@pytest.mark.needs_c
@SETTINGS
@given(CASES, st.sampled_from(ISAS or [""]), st.integers(2, 5))
def test_a_block_is_one_call(case: tuple[object, ...], isa: str, threads: int) -> None:
    """In C as in NumPy; the same bits for any number of threads, and with every buffer apart."""
    (c, heads), sides, n, cross = case  # type: ignore[misc]
    graph = block(c, heads, sides, n, cross=cross)
    done, inputs = optimise(graph), inputs_of(graph)
    alone = engine.CExecutable(done, 1, isa).run(inputs)
    assert_close(graph, alone)
    with unplanned():
        executable = engine.CExecutable(done, threads, isa)
    for name, y in executable.run(inputs).items():
        assert np.array_equal(y, alone[name])


def radix(c: int = 64, side: int = 31) -> Graph:
    """ResNeSt's sum of two halves, as exporters write it: five axes, of which one goes."""
    b = Builder("radix")
    x = b.conv(b.input("x", (1, 3, side, side)), 2 * c, 1, key="halves")
    halves = b.apply(ops.Reshape((0, 2, c, side, side)), x)
    graph = b.build(b.conv(b.apply(ops.Reduce("sum", (1,), False), halves), 8, 1, key="y"))
    return graph.bind({name: np.ones(t.shape, np.float32) for name, t in graph.params.items()})


@pytest.mark.needs_c
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("graph", [block(48, 3, (13, 15)), radix()], ids=["tokens", "radix"])
def test_no_large_step_is_left_to_one_thread(graph: Graph, isa: str) -> None:
    """195 tokens, 3 heads: neither is a multiple of 4; 31 rows."""
    executable = engine.CExecutable(optimise(graph), 2, isa)
    steps = [s for s in executable.plan.steps if math.prod(s.output_shape) > 50_000]
    assert len(steps) >= 3 and all(step.fields["tasks"] > 1 for step in steps)
    assert_close(graph, executable.run(inputs_of(graph)))


@pytest.mark.needs_c
@pytest.mark.parametrize("kernel", ["matmul", "layer_norm"])
@pytest.mark.parametrize("operand", ["x", "y", "z"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("off", 1 << 33), ("row", -1), ("img", 1 << 35), ("buf", 7), ("off", -5), ("ld", 1 << 30)],
)
def test_check_refuses_views_beyond_their_buffer(
    kernel: str, operand: str, field: str, value: int
) -> None:
    executable = engine.CExecutable(optimise(block()), 1)
    number = next(i for i, s in enumerate(executable.plan.steps) if s.kernel.startswith(kernel))
    if operand == "z" and kernel != "matmul":
        return
    if field == "ld" and executable.plan.steps[number].x.shape[3] == 1:
        field = "row"  # a column, where 12 channels fill a vector: no pixel lies beside another
    setattr(getattr(executable._steps[number], operand), field, value)
    with pytest.raises(BackendError, match="step"):
        executable._check()


@pytest.mark.needs_c
@pytest.mark.parametrize(
    ("kernel", "field", "value"),
    [("matmul", "oc", 1 << 20), ("matmul", "c", 1 << 20), ("matmul", "ow", 99),
     ("matmul", "h", 99), ("matmul", "zero", -1), ("matmul", "zero", 1 << 40),
     ("layer_norm", "w", 1 << 40), ("layer_norm", "bias", 1 << 40), ("layer_norm", "oc", 99)],
)  # fmt: skip
def test_check_refuses_what_run_could_not_survive(kernel: str, field: str, value: int) -> None:
    executable = engine.CExecutable(optimise(block()), 1)
    number = next(i for i, s in enumerate(executable.plan.steps) if s.kernel.startswith(kernel))
    setattr(executable._steps[number], field, value)
    with pytest.raises(BackendError, match="step"):
        executable._check()


@pytest.mark.needs_c
def test_a_product_without_its_second_operand_is_refused() -> None:
    executable = engine.CExecutable(optimise(block()), 1)
    steps = executable.plan.steps
    number = next(i for i, s in enumerate(steps) if s.kernel.startswith("matmul"))
    executable._steps[number].z.buf = -1
    with pytest.raises(BackendError, match="step"):
        executable._check()


# ---------------------------------------------------------------- what stays as it is


def folded(make: object, shape: tuple[int, ...] = (1, 4, 6)) -> list[str]:
    b = Builder("case")
    y = make(b, b.input("x", shape))  # type: ignore[operator]
    graph = b.build(y)
    rng = np.random.default_rng(0)
    state = {k: rng.standard_normal(t.shape).astype("f4") for k, t in graph.params.items()}
    graph = graph.bind(state)
    done = fold_affine(graph)
    assert_close(graph, run_graph(done, inputs_of(graph)))
    return [node.op.kind for node in done.nodes]


def rows(b: Builder, x: str) -> str:
    return b.apply(ops.Linear(), x, b.param("w", (4, b.shape(x)[-1])))


def test_terms_of_other_shapes_stay() -> None:
    for shape in ((4, 1), (4, 4), (1, 4, 1)):
        found = folded(lambda b, x, s=shape: b.apply(ops.Add(), rows(b, x), b.param("a", s)))
        assert found == ["linear", "add"]
    for shape in ((4,), (1,), (1, 4), (1, 1, 1)):
        found = folded(lambda b, x, s=shape: b.apply(ops.Mul(), rows(b, x), b.param("a", s)))
        assert found == ["linear"]


def test_pixels_are_scaled_in_the_convolution() -> None:
    def scaled(b: Builder, x: str) -> str:
        return b.apply(ops.Mul(), b.param("g", (5, 1, 1)), b.conv(x, 5, 3, key="k", bias=True))

    assert folded(scaled, (1, 2, 7, 7)) == ["conv2d"]


@pytest.mark.parametrize("which", ["first", "second", "both", "result", "divided"])
def test_a_number_is_the_scale_of_a_product(which: str) -> None:
    def product(b: Builder, x: str) -> str:
        a, z, factor = x, b.apply(ops.Transpose((0, 2, 1)), x), b.param("factor", (1,))
        a = b.apply(ops.Mul(), factor, a) if which in ("first", "both") else a
        z = b.apply(ops.Mul(), z, factor) if which in ("second", "both") else z
        y = b.apply(ops.MatMul(), a, z)
        y = b.apply(ops.Mul(), y, factor) if which == "result" else y
        return b.apply(ops.Div(), y, factor) if which == "divided" else y

    kinds = folded(product)
    assert kinds.count("matmul") == 1 and not {"mul", "div"} & {*kinds}


def test_what_others_read_is_not_changed() -> None:
    def twice(b: Builder, x: str) -> str:
        y = rows(b, x)
        return b.apply(ops.Add(), y, b.apply(ops.Mul(), y, b.param("a", (4,))))

    assert folded(twice) == ["linear", "mul", "add"]


def test_a_slope_of_another_axis_is_no_epilogue() -> None:
    b = Builder("case")
    y = b.apply(ops.PReLU(), rows(b, b.input("x", (1, 4, 6))), b.param("slope", (4,)))
    graph = b.build(y)
    rng = np.random.default_rng(0)
    graph = graph.bind(
        {k: rng.standard_normal(t.shape).astype("f4") for k, t in graph.params.items()}
    )
    done = optimise(graph)
    assert [node.op.kind for node in done.nodes] == ["linear", "prelu"]
    assert_close(graph, run_graph(done, inputs_of(graph)))


def test_constants_are_computed_once() -> None:
    graph = block()
    done = fold_constants(graph)
    assert len(done.nodes) == len(graph.nodes) - 1  # the position's reshape
    assert fold_constants(done) is done
    large = replace(graph, outputs=(*graph.outputs, graph.nodes[3].outputs[0]))
    assert len(fold_constants(large).outputs) == 3


@pytest.mark.needs_c
def test_heads_are_scaled_and_rotated_as_they_lie() -> None:
    """Swin V2's scale of every head and the halves that rotary positions turn: four axes that are
    no map, so nothing is turned channels-last and back."""
    b = Builder("heads")
    x = b.apply(ops.Reshape((0, 6, 3, 8)), b.input("x", (1, 6, 24)))
    q = b.apply(ops.Transpose((0, 2, 1, 3)), x)  # (1, heads, tokens, 8)
    low, high = (b.apply(ops.Slice((3,), (i,), (i + 4,), (1,)), q) for i in (0, 4))
    turned = b.apply(ops.Concat(3), b.apply(ops.Mul(), high, b.param("minus", (1,))), low)
    cos, sin = (b.param(name, (6, 8)) for name in ("cos", "sin"))
    q = b.apply(ops.Add(), b.apply(ops.Mul(), q, cos), b.apply(ops.Mul(), turned, sin))
    y = b.apply(ops.MatMul(), q, b.apply(ops.Transpose((0, 1, 3, 2)), q))
    y = b.apply(ops.Tanh(), b.apply(ops.Mul(), y, b.param("scale", (3, 1, 1))))
    graph = b.build(b.apply(ops.Softmax(-1), y))
    graph = graph.bind(random_state(graph))
    executable = engine.CExecutable(optimise(graph), 2)
    assert_close(graph, executable.run(inputs_of(graph)))
    assert not [step for step in executable.plan.steps if "nchw" in step.kernel]
