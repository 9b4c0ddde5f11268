"""ONNX export: what onnxruntime computes from our file is what the NumPy definition computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tinyface import ops
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.errors import UsageError
from tinyface.graph import Graph
from tinyface.networks import random_state
from tinyface.passes import optimise

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")
pytest.importorskip("onnxruntime", reason="compares with onnxruntime")

from onnx_models import assert_close, model, node, onnxruntime_outputs, read  # noqa: E402

from tinyface.formats import onnx_export  # noqa: E402
from tinyface.formats.onnx import read_onnx  # noqa: E402


def single(op: ops.Op, *shapes: tuple[int, ...], params: tuple[tuple[int, ...], ...] = ()) -> Graph:
    """A graph of one operator: ``shapes`` are inputs, ``params`` weights with random values."""
    b = Builder(op.kind)
    names = [b.input(f"x{i}", shape) for i, shape in enumerate(shapes)]
    names += [b.param(f"w{i}", shape) for i, shape in enumerate(params)]
    outputs = b.apply_many(op, *names)
    rng = np.random.default_rng(0)
    graph = b.build(*outputs)
    return graph.bind(
        {k: rng.uniform(0.1, 1.0, v.shape).astype(np.float32) for k, v in graph.params.items()}
    )


MAP = (2, 4, 7, 5)
CASES = {
    "conv": single(
        ops.Conv2d(stride=(2, 1), pad=(0, 1, 2, 1), dilation=(2, 1), groups=2), MAP,
        params=((6, 2, 2, 3), (6,)),
    ),
    "linear": single(ops.Linear(), (3, 8), params=((5, 8), (5,))),
    "linear on rows": single(ops.Linear(), (2, 3, 8), params=((5, 8), (5,))),
    "linear without bias": single(ops.Linear(), (2, 3, 8), params=((5, 8),)),
    "scaled product": single(ops.MatMul(scale=0.25), (2, 4, 5), (5, 7)),
    "product": single(ops.MatMul(), (2, 3, 4, 5), (1, 5, 7)),
    "layer norm": single(ops.LayerNorm(eps=1e-3), (2, 3, 8), params=((8,), (8,))),
    "layer norm of pixels": single(ops.LayerNorm(axis=1), MAP, params=((4,),)),
    "layer norm alone": single(ops.LayerNorm(axis=2), MAP),
    "batch_norm": single(ops.BatchNorm(eps=1e-3), MAP, params=((4,),) * 4),
    "l2": single(ops.L2Normalize(), (3, 8)),
    "relu": single(ops.ReLU(), MAP),
    "clip": single(ops.Clip(-0.5, 0.5), MAP),
    "leaky": single(ops.LeakyReLU(0.1), MAP),
    "prelu": single(ops.PReLU(), MAP, params=((4,),)),
    "prelu one slope": single(ops.PReLU(), MAP, params=((1,),)),
    "prelu on vectors": single(ops.PReLU(), (3, 4), params=((4,),)),
    "sigmoid": single(ops.Sigmoid(), MAP),
    "hard sigmoid": single(ops.HardSigmoid(0.2, 0.5), MAP),
    "hard swish": single(ops.HardSwish(), MAP),
    "silu": single(ops.SiLU(), MAP),
    "gelu": single(ops.GELU(), MAP),
    "gelu by tanh": single(ops.GELU(tanh=True), MAP),
    "tanh": single(ops.Tanh(), MAP),
    "erf": single(ops.Erf(), MAP),
    "exp": single(ops.Exp(), MAP),
    "sqrt": single(ops.Sqrt(), MAP),
    "log": single(ops.Log(), MAP),
    "softplus": single(ops.Softplus(), MAP),
    "compare": single(ops.Compare("greater_equal"), MAP, (2, 4, 1, 1)),
    "compare less": single(ops.Compare("less"), MAP, MAP),
    "where": single(ops.Where(), MAP, (2, 4, 1, 1), (1,)),
    "softmax": single(ops.Softmax(1), MAP),
    "max pool": single(ops.MaxPool(kernel=(3, 2), stride=(2, 2), pad=(1, 0, 1, 1)), MAP),
    "max pool ceil": single(ops.MaxPool(kernel=(2, 2), stride=(2, 2), ceil=True), MAP),
    "average pool": single(ops.AveragePool(kernel=(3, 3), stride=(2, 2), pad=(1,) * 4), MAP),
    "average of all": single(ops.GlobalAveragePool(), MAP),
    "maximum of all": single(ops.GlobalMaxPool(), MAP),
    "add": single(ops.Add(), MAP, (2, 4, 1, 1)),
    "sub": single(ops.Sub(), MAP, MAP),
    "mul": single(ops.Mul(), MAP, (2, 4, 1, 1)),
    "div": single(ops.Div(), MAP, MAP),
    "maximum": single(ops.Maximum(), MAP, MAP),
    "max feature map": single(ops.MaxFeatureMap(), MAP),
    "mean": single(ops.Reduce(mode="mean", axes=(2, 3)), MAP),
    "sum": single(ops.Reduce(mode="sum", axes=(1,), keepdims=False), MAP),
    "norm": single(ops.Reduce(mode="l2", axes=(1,)), MAP),
    "nearest": single(ops.Resize(scale=(2.0, 3.0)), MAP),
    "nearest like": single(ops.Resize(), MAP, (1, 1, 9, 11)),
    "bilinear": single(ops.Resize(mode="bilinear", size=(13, 4)), MAP),
    "concat": single(ops.Concat(1), MAP, (2, 3, 7, 5)),
    "split": single(ops.Split(1, (1, 3)), MAP),
    "slice": single(ops.Slice((2, 3), (1, 0), (7, 5), (2, 1)), MAP),
    "pad": single(ops.Pad((0, 0, 1, 0), (0, 0, 2, 3), 0.5), MAP),
    "reshape": single(ops.Reshape((0, -1, 2)), MAP),
    "flatten": single(ops.Flatten(), MAP),
    "transpose": single(ops.Transpose((0, 2, 3, 1)), MAP),
    "shuffle": single(ops.ChannelShuffle(2), MAP),
    "interleave": single(ops.Interleave((2, 2)), *(MAP,) * 4),
    "interleave oblong": single(ops.Interleave((2, 3)), *(MAP,) * 6),
    "identity": single(ops.Identity(), MAP),
}  # fmt: skip


def compare(graph: Graph, path: Path) -> None:
    """Export, run in onnxruntime, compare with the definition within 1e-5 of the largest value."""
    rng = np.random.default_rng(1)
    low = 0 if any(node.op.kind in ("sqrt", "log") for node in graph.nodes) else -1
    inputs = {
        name: rng.uniform(low, 1, t.shape).astype(np.float32) for name, t in graph.inputs.items()
    }
    onnx_export.export_onnx(graph, path)
    assert_close(
        onnxruntime_outputs(path, inputs, graph.outputs), run_graph(graph, inputs).values()
    )


@pytest.mark.parametrize("name", CASES)
def test_an_operator_keeps_its_meaning(name: str, tmp_path: Path) -> None:
    compare(CASES[name], tmp_path / "x.onnx")


def test_every_operator_can_be_exported() -> None:
    assert set(onnx_export.EMIT) == set(ops.OPS)
    exported = {node.op.kind for graph in CASES.values() for node in graph.nodes}
    assert exported == set(ops.OPS)


def test_what_was_fused_is_taken_apart_again(tmp_path: Path) -> None:
    b = Builder("block")
    x = b.input("x", (1, 4, 6, 6))
    y = b.prelu(b.batch_norm(b.conv(x, 4, 3, pad=1, key="c"), key="bn"), key="act")
    y = b.apply(ops.ReLU(), b.apply(ops.Add(), b.conv(y, 4, 1, key="p", bias=True), x))
    graph = b.build(y)
    rng = np.random.default_rng(0)
    graph = graph.bind(
        {k: rng.uniform(0.1, 1.0, v.shape).astype(np.float32) for k, v in graph.params.items()}
    )
    fused = optimise(graph)
    assert [node.op.kind for node in fused.nodes] == ["conv2d", "conv2d"]
    compare(fused, tmp_path / "x.onnx")


def test_image_size_and_batch_stay_free(tmp_path: Path) -> None:
    b = Builder("free")
    x = b.input("x", (1, 4, 6, 6))
    y = b.apply(ops.ChannelShuffle(2), b.conv(x, 4, 3, stride=2, pad=1, key="c"))
    graph = b.build(b.apply(ops.Resize(), y, x))
    rng = np.random.default_rng(0)
    graph = graph.bind({"c.weight": rng.standard_normal((4, 4, 3, 3)).astype(np.float32)})
    path = tmp_path / "x.onnx"
    onnx_export.export_onnx(graph, path)
    x3 = rng.standard_normal((3, 4, 9, 12)).astype(np.float32)
    wanted = run_graph(graph.with_inputs({"x": x3.shape}), {"x": x3})
    assert_close(onnxruntime_outputs(path, x3), wanted.values())


def test_pads_for_one_size_keep_that_size() -> None:
    pool = ops.MaxPool((3, 3), (2, 2), (0, 0, 1, 1), made_for=(8, 8))
    shape = onnx_export.to_onnx(single(pool, (1, 4, 8, 8))).graph.input[0].type.tensor_type.shape
    assert [side.dim_value for side in shape.dim[2:]] == [8, 8]


@pytest.mark.parametrize("axis", [1, 3])
def test_a_norm_of_rows_keeps_their_length(tmp_path: Path, axis: int) -> None:
    b = Builder("norm")
    graph = b.build(b.apply(ops.LayerNorm(axis), b.input("x", (1, 4, 6, 5)))).bind({})
    shape = onnx_export.to_onnx(graph).graph.input[0].type.tensor_type.shape
    free = [bool(side.dim_param) for side in shape.dim]
    assert free == [True, False, axis == 1, axis == 1]
    compare(graph, tmp_path / "x.onnx")


def test_names_of_its_own_keep_clear_of_those_in_the_graph(tmp_path: Path) -> None:
    """An imported layer's weight may be called as the exporter would call its transpose."""
    b = Builder("names")
    x = b.input("x", (1, 4, 6))
    y = b.apply(ops.Linear(), x, b.param("fc:weight", (5, 6)), name="fc")
    graph = b.build(b.apply(ops.Linear(), y, b.param("fc:weight.2", (3, 5)), name="fc:rows"))
    graph = graph.bind(random_state(graph))
    compare(graph, tmp_path / "x.onnx")
    again = read_onnx(tmp_path / "x.onnx")
    compare(again, tmp_path / "y.onnx")


def test_our_pixel_shuffle_is_read_again(tmp_path: Path) -> None:
    """Its parts are called after the result, as those that the import makes are."""
    nodes = [node("DepthToSpace", blocksize=2, mode="CRD")]
    graph = read(tmp_path, model(nodes, [1, 8, 3, 3]))
    onnx_export.export_onnx(graph, tmp_path / "ours.onnx")
    again = read_onnx(tmp_path / "ours.onnx", (3, 3))
    x = np.random.default_rng(0).standard_normal((1, 8, 3, 3)).astype(np.float32)
    for name, wanted in run_graph(graph, {"x": x}).items():
        assert np.array_equal(run_graph(again, {"x": x})[name], wanted)


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        onnx_export.export_onnx(CASES["relu"], tmp_path / "missing" / "x.onnx")
    assert list(tmp_path.iterdir()) == []
