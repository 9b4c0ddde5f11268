"""Every pass computes the same with less, changes nothing it was given, and ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cases import SETTINGS
from hypothesis import given
from random_graphs import assert_same_outputs, graphs, inputs_for, kinds

from tinyface import ops
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.graph import Graph, Node
from tinyface.networks import find, random_state
from tinyface.passes import PASSES, drop_noops, fold_batchnorm, fuse_activation, optimise
from tinyface.types import TensorType

Pass = Callable[[Graph], Graph]
ALL = pytest.mark.parametrize("rewrite", [*PASSES, optimise], ids=lambda p: p.__name__)


# -------------------------------------------------------------- on random networks


@ALL
def test_outputs_stay_the_same(rewrite: Pass) -> None:
    """In float32, and in float64 where a wrong equation cannot hide behind rounding."""

    @SETTINGS
    @given(graphs())
    def check(graph: Graph) -> None:
        assert_same_outputs(graph, rewrite(graph), "float32")
        wide = graph.astype("float64")
        assert_same_outputs(wide, rewrite(wide), "float64")

    check()


@ALL
def test_a_pass_changes_nothing_it_was_given_and_adds_no_work(rewrite: Pass) -> None:
    """Weights of the random graphs are read-only, so that writing to one raises."""

    @SETTINGS
    @given(graphs())
    def check(graph: Graph) -> None:
        nodes, params = graph.nodes, dict(graph.params)
        after = rewrite(graph)
        assert graph.nodes == nodes
        assert all(graph.params[name] is value for name, value in params.items())
        assert graph.params.keys() == params.keys()
        assert after.inputs == graph.inputs
        assert after.outputs == graph.outputs
        assert len(after.nodes) <= len(graph.nodes)
        assert after.cost.macs <= graph.cost.macs
        assert after.cost.bytes <= graph.cost.bytes

    check()


@ALL
def test_a_second_time_changes_nothing(rewrite: Pass) -> None:
    @SETTINGS
    @given(graphs())
    def check(graph: Graph) -> None:
        once = rewrite(graph)
        assert rewrite(once) is once  # the very graph: making and checking one takes its time

    check()


def test_a_reader_that_no_output_needs_does_not_decide() -> None:
    b = Builder("dead")
    y = b.conv(b.input("x", (1, 2, 4, 4)), 2, 1, key="conv")
    b.apply(ops.ReLU(), y, name="unused")
    graph = b.build(y=b.apply(ops.ReLU(), y, name="act"))
    assert [node.op.kind for node in fuse_activation(graph).nodes] == ["conv2d"]


@ALL
def test_the_result_is_right_for_other_input_sizes(rewrite: Pass) -> None:
    """A session re-infers the optimised graph for every batch and image size."""

    @SETTINGS
    @given(graphs())
    def check(graph: Graph) -> None:
        n, c, h, w = graph.inputs["input"].shape
        bigger = {"input": (n + 1, c, h, w)}
        assert_same_outputs(
            graph.with_inputs(bigger), rewrite(graph).with_inputs(bigger), "float32"
        )

    check()


# ------------------------------------------------------------------- fold_batchnorm


def conv_bn(bias: bool = True, eps: float = 1e-5) -> Graph:
    b = Builder("conv_bn")
    x = b.input("input", (1, 3, 5, 5))
    x = b.conv(x, 4, 3, key="conv", bias=bias)
    graph = b.build(b.batch_norm(x, key="bn", eps=eps))
    return graph.bind(random_state(graph))


@pytest.mark.parametrize("bias", [False, True])
def test_folding_follows_the_equations(bias: bool) -> None:
    """FDFaceNet, eq. 10 and 11, with sigma the standard deviation, and the bias it leaves out."""
    graph = conv_bn(bias, eps=1e-3)
    p = {name: value.astype(np.float64) for name, value in graph.params.items()}
    sigma = np.sqrt(p["bn.running_var"] + 1e-3)
    weight = p["conv.weight"] * (p["bn.weight"] / sigma)[:, None, None, None]
    mean = p["bn.running_mean"] - (p["conv.bias"] if bias else 0)
    folded = fold_batchnorm(graph)
    (node,) = folded.nodes
    assert node.outputs == graph.outputs
    new_weight, new_bias = (folded.params[name] for name in node.inputs[1:])
    np.testing.assert_array_equal(new_weight, weight.astype(np.float32))
    np.testing.assert_allclose(new_bias, p["bn.bias"] - mean * p["bn.weight"] / sigma, rtol=1e-6)
    assert len(folded.params) == 2


def test_two_batch_norms_in_a_row_are_folded() -> None:
    b = Builder("twice")
    x = b.conv(b.input("input", (1, 2, 4, 4)), 2, 1, key="conv")
    graph = b.build(b.batch_norm(b.batch_norm(x, key="bn1"), key="bn2"))
    graph = graph.bind(random_state(graph))
    folded = fold_batchnorm(graph)
    assert kinds(folded) == ["conv2d"]
    assert_same_outputs(graph, folded, "float32")


def test_shared_weights_are_folded_for_each_user() -> None:
    """Two convolutions with one weight and different batch norms."""
    b = Builder("shared")
    x = b.input("input", (1, 2, 4, 4))
    ys = []
    for i in range(2):
        y = b.apply(ops.Conv2d(), x, b.param("shared.weight", (2, 2, 1, 1)), name=f"conv{i}")
        ys.append(b.batch_norm(y, key=f"bn{i}"))
    graph = b.build(*ys)
    graph = graph.bind(random_state(graph))
    folded = fold_batchnorm(graph)
    assert kinds(folded) == ["conv2d", "conv2d"]
    assert_same_outputs(graph, folded, "float32")


def test_batch_norm_stays_where_nothing_can_take_it_up() -> None:
    def batch_norm_of(make: Callable[[Builder, str], str], also: bool = False) -> list[str]:
        b = Builder("stays")
        y = make(b, b.input("input", (1, 2, 4, 4)))
        z = b.batch_norm(y, key="bn")
        graph = b.build(z, y) if also else b.build(z)
        return kinds(fold_batchnorm(graph.bind(random_state(graph))))

    assert batch_norm_of(lambda b, x: x) == ["batch_norm"]
    assert batch_norm_of(lambda b, x: b.apply(ops.MaxPool(), x))[-1] == "batch_norm"
    # the map in between is an output, or another operator reads it, or an activation follows
    assert batch_norm_of(lambda b, x: b.conv(x, 2, 1, key="c"), also=True)[-1] == "batch_norm"
    act = ops.Conv2d(act=ops.ReLU())
    assert batch_norm_of(lambda b, x: b.apply(act, x, b.param("w", (2, 2, 1, 1)))) == [
        "conv2d",
        "batch_norm",
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"running_var": np.float32([1, 1, -1, 1])},  # weights that are none
        {"running_mean": np.full(4, 3e38, np.float32), "weight": np.full(4, 9, np.float32)},
    ],
)
def test_numbers_that_cannot_be_folded_stay_a_batch_norm(given: dict[str, np.ndarray]) -> None:
    graph = conv_bn()
    state = {**graph.params, **{f"bn.{key}": value for key, value in given.items()}}
    assert kinds(fold_batchnorm(graph.bind(state))) == ["conv2d", "batch_norm"]


# ------------------------------------------------------------------ fuse_activation


def residual_net(order: int) -> Graph:
    b = Builder("residual")
    x = b.input("input", (1, 4, 6, 6))
    y = b.conv(x, 4, 3, pad=1, key="conv", bias=True)
    y = b.apply(ops.Add(), *((x, y) if order else (y, x)))
    graph = b.build(b.prelu(y, key="act"))
    return graph.bind(random_state(graph))


@pytest.mark.parametrize("order", [0, 1])
def test_shortcut_and_activation_become_one_operator(order: int) -> None:
    graph = residual_net(order)
    fused = fuse_activation(graph)
    (node,) = fused.nodes
    assert node.op == ops.Conv2d(pad=(1, 1, 1, 1), act=ops.PReLU())
    assert node.inputs == ("input", "conv.weight", "conv.bias", "act.weight", "input")
    assert_same_outputs(graph, fused, "float32")
    map_bytes = graph.types["input"].nbytes
    before, after = graph.cost, fused.cost
    assert before.feature_write == 3 * map_bytes
    assert after.feature_write == map_bytes
    assert after.macs == before.macs


def test_a_depthwise_convolution_takes_the_activation_and_no_sum() -> None:
    """The sum would leave it without a kernel, and the whole of it to NumPy."""
    b = Builder("depthwise")
    x = b.input("input", (1, 4, 6, 6))
    y = b.apply(ops.Add(), b.conv(x, 4, 3, pad=1, groups=4, key="dw"), x)
    graph = b.build(b.apply(ops.ReLU(), b.conv(y, 4, 3, pad=1, groups=4, key="dw2")))
    assert kinds(fuse_activation(graph)) == ["conv2d", "add", "conv2d"]


def test_a_convolution_takes_up_no_constant() -> None:
    """A position embedding, in a network for one picture at a time: no kernel reads it so."""
    b = Builder("positions")
    x = b.input("input", (1, 2, 4, 4))
    y = b.apply(ops.Add(), b.conv(x, 2, 1, key="conv"), b.param("w", (1, 2, 4, 4)))
    graph = b.build(b.apply(ops.Reshape(shape=(1, 2, 16)), y))
    assert kinds(fuse_activation(graph)) == ["conv2d", "add", "reshape"]


def test_of_two_convolutions_the_later_takes_the_sum() -> None:
    b = Builder("two")
    x = b.input("input", (1, 2, 4, 4))
    y, z = b.conv(x, 2, 1, key="first"), b.conv(x, 2, 1, stride=1, key="second")
    graph = b.build(b.apply(ops.ReLU(), b.apply(ops.Add(), y, z)))
    fused = fuse_activation(graph)
    assert [node.name for node in fused.nodes] == ["first", "second"]
    assert fused.nodes[1].inputs[-1] == "first"


def test_what_cannot_be_fused_stays() -> None:
    def fused(make: Callable[[Builder, str, str], tuple[str, ...]]) -> list[str]:
        b = Builder("stays")
        x = b.input("input", (1, 2, 1, 1))
        return kinds(fuse_activation(b.build(*make(b, x, b.conv(x, 2, 1, key="conv")))))

    def relu(b: Builder, x: str) -> str:
        return b.apply(ops.ReLU(), x)

    assert fused(lambda b, x, y: (relu(b, y), y)) == ["conv2d", "relu"]  # an output
    assert fused(lambda b, x, y: (relu(b, y), b.apply(ops.Sigmoid(), y)))[0] == "conv2d"
    assert fused(lambda b, x, y: (b.apply(ops.Softmax(1), y),)) == ["conv2d", "softmax"]
    assert fused(lambda b, x, y: (b.apply(ops.Add(), y, y),)) == ["conv2d", "add"]
    # of one shape today, of two when the image grows: the mean of the map
    pooled = fused(lambda b, x, y: (b.apply(ops.Add(), y, b.apply(ops.GlobalAveragePool(), x)),))
    assert pooled == ["conv2d", "global_average_pool", "add"]
    # of one shape today, of two when the batch grows: a weight
    weight = fused(lambda b, x, y: (b.apply(ops.Add(), y, b.param("w", (1, 2, 1, 1))),))
    assert weight == ["conv2d", "add"]


# ----------------------------------------------------------------------- drop_noops


def test_resize_to_todays_size_is_kept_for_tomorrow() -> None:
    b = Builder("resize")
    x = b.apply(ops.Resize(size=(8, 8)), b.input("input", (1, 1, 8, 8)))
    graph = b.build(b.apply(ops.ReLU(), x))
    dropped = drop_noops(graph)
    assert kinds(dropped) == ["resize", "relu"]
    assert dropped.with_inputs({"input": (1, 1, 16, 16)}).types[graph.outputs[0]].shape[2] == 8


def test_a_slice_of_todays_batch_is_kept_for_larger_ones() -> None:
    b = Builder("first")
    first = ops.Slice(axes=(0,), starts=(0,), ends=(1,), steps=(1,))
    graph = b.build(b.apply(ops.ReLU(), b.apply(first, b.input("input", (1, 2, 4, 4)))))
    assert kinds(drop_noops(graph)) == ["slice", "relu"]


def test_sums_with_zeros_and_products_with_ones_go() -> None:
    b = Builder("neutral")
    x, zero, ones = (
        b.input("input", (1, 2, 3, 3)),
        b.param("zero", (1,)),
        b.param("ones", (2, 1, 1)),
    )
    y = b.apply(ops.Mul(), ones, b.apply(ops.Add(), zero, x))
    y = b.apply(ops.ReLU(), b.apply(ops.Div(), b.apply(ops.Sub(), y, zero), ones))
    opposite, wide = (
        b.apply(ops.Sub(), zero, x),
        b.apply(ops.Add(), x, b.param("wide", (4, 2, 3, 3))),
    )
    state = {"zero": np.zeros(1), "ones": np.ones((2, 1, 1)), "wide": np.zeros((4, 2, 3, 3))}
    graph = b.build(y, opposite, wide).bind({k: v.astype(np.float32) for k, v in state.items()})
    assert kinds(drop_noops(graph)) == ["relu", "sub", "add"]


def test_of_reshapes_in_a_row_the_last_decides() -> None:
    b = Builder("reshapes")
    x = b.apply(ops.ReLU(), b.input("input", (2, 6, 2, 2)))
    row = b.apply(ops.Reshape(shape=(-1,)), x)
    same = b.apply(ops.Sigmoid(), b.apply(ops.Reshape(shape=(2, 6, 2, 2)), row))
    flat = b.apply(ops.Flatten(), b.apply(ops.Reshape(shape=(0, 3, 8)), x))
    graph = b.build(same, flat)
    dropped = drop_noops(graph)
    assert kinds(dropped) == ["relu", "sigmoid", "flatten"]
    assert {node.inputs for node in dropped.nodes[1:]} == {(x,)}
    feed = {"input": np.arange(-24, 24, dtype=np.float32).reshape(2, 6, 2, 2)}
    before, after = run_graph(graph, feed).values(), run_graph(dropped, feed).values()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_reshape_that_keeps_a_side_of_another_stays() -> None:
    b = Builder("reshapes")
    row = b.apply(ops.Reshape(shape=(4, 6)), b.input("input", (2, 3, 4)))
    graph = b.build(b.apply(ops.ReLU(), b.apply(ops.Reshape(shape=(0, 2, 3)), row)))
    assert kinds(drop_noops(graph)) == ["reshape", "reshape", "relu"]


def test_names_of_outputs_stay() -> None:
    """An identity that is an output gives its name to what it copied."""
    b = Builder("names")
    x = b.apply(ops.ReLU(), b.input("input", (1, 2)), name="hidden")
    y = b.apply(ops.Identity(), b.apply(ops.Identity(), x), name="embedding")
    z = b.apply(ops.Sigmoid(), x)
    graph = drop_noops(b.build(y, z))
    assert kinds(graph) == ["relu", "sigmoid"]
    assert graph.outputs[0] == "embedding"
    assert graph.nodes[1].inputs == ("embedding",)


def test_an_output_that_copies_an_input_or_another_output_stays() -> None:
    b = Builder("copies")
    x = b.input("input", (1, 2))
    y = b.apply(ops.ReLU(), x)
    outs = [b.apply(ops.Identity(), name) for name in (x, y, y)]
    graph = b.build(*outs, y)
    assert kinds(drop_noops(graph)) == ["relu", "identity", "identity", "identity"]
    x_, y1, y2, y_ = run_graph(drop_noops(graph), {"input": np.float32([[-1, 2]])}).values()
    assert x_.tolist() == [[-1, 2]]
    assert y1.tolist() == y2.tolist() == y_.tolist() == [[0, 2]]


def test_what_nobody_reads_goes() -> None:
    b = Builder("dead")
    x = b.input("input", (1, 2, 4, 4))
    b.conv(x, 4, 1, key="dead")
    graph = drop_noops(b.build(b.conv(x, 1, 1, key="alive")))
    assert list(graph.params) == ["alive.weight"]
    assert kinds(graph) == ["conv2d"]


# ---------------------------------------------------------------------- whole networks


@pytest.mark.parametrize("name", ["mobilefacenet", "shufflefacenet-x0.5", "ghostfacenet-v2-1.0-s2"])
def test_real_networks_keep_their_embedding(name: str) -> None:
    """In float64: random weights magnify rounding, up to 10^7 times in GhostFaceNet."""
    graph = find(name).build()
    graph = graph.bind(random_state(graph)).astype("float64")
    optimised = optimise(graph)
    inputs = inputs_for(graph, "float64")
    (expected,) = run_graph(graph, inputs).values()
    (result,) = run_graph(optimised, inputs).values()
    assert np.abs(result - expected).max() <= 1e-7 * np.abs(expected).max()
    assert len(optimised.nodes) < 0.6 * len(graph.nodes)


def test_what_is_fused_stands_next_to_what_it_reads() -> None:
    """Not where the activation stood: in a chain only neighbours run together."""
    b = Builder("early")
    x = b.input("input", (1, 2, 4, 4))
    y = b.conv(b.apply(ops.PReLU(), x, b.param("slope", (2,))), 2, 1, key="first")
    z = b.apply(ops.Sigmoid(), x)
    graph = b.build(b.apply(ops.Mul(), b.apply(ops.ReLU(), y), z))
    assert kinds(graph) == ["prelu", "conv2d", "sigmoid", "relu", "mul"]
    assert kinds(fuse_activation(graph)) == ["prelu", "conv2d", "sigmoid", "mul"]


def test_fusing_orders_nodes_so_that_they_can_run() -> None:
    """The shortcut is computed after the convolution that takes it up."""
    graph = Graph(
        "late",
        {"x": TensorType((1, 1, 2, 2))},
        ("sum",),
        (
            Node("conv", ops.Conv2d(), ("x", "w"), ("y",)),
            Node("late", ops.Sigmoid(), ("x",), ("z",)),
            Node("sum", ops.Add(), ("y", "z"), ("sum",)),
        ),
        {"w": np.ones((1, 1, 1, 1), np.float32)},
    )
    assert [node.name for node in fuse_activation(graph).nodes] == ["late", "conv"]
