"""ONNX import, by hand: what exporters write in several nodes, old opsets, free sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface.backends.numpy import run_graph
from tinyface.errors import FormatError, MissingExtraError
from tinyface.formats.importer import import_file
from tinyface.runtime import Session

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx import TensorProto, helper  # noqa: E402
from onnx_models import assert_close, model, node, onnxruntime_outputs, read, save  # noqa: E402

from tinyface.formats.onnx import read_onnx  # noqa: E402
from tinyface.formats.onnx_file import open_onnx  # noqa: E402

RNG = np.random.default_rng(0)


def test_keras_sandwich(tmp_path: Path) -> None:
    """NHWC in, Transpose before and behind a convolution, TensorFlow's norm at the end."""
    weight = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
    shape = np.array([-1, 64], np.int64)
    dense = RNG.standard_normal((64, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["a", "w"], ["b"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["c", "s"], ["d"]),
        helper.make_node("MatMul", ["d", "m"], ["e"]),
        helper.make_node("Mul", ["e", "e"], ["f"]),
        helper.make_node("ReduceSum", ["f", "axes"], ["g"], keepdims=1),
        helper.make_node("Max", ["g", "eps"], ["h"]),
        helper.make_node("Sqrt", ["h"], ["i"]),
        helper.make_node("Reciprocal", ["i"], ["j"]),
        helper.make_node("Mul", ["e", "j"], ["y"]),
    ]
    constants = {
        "w": weight, "s": shape, "m": dense, "axes": np.array([1], np.int64),
        "eps": np.float32(1e-12).reshape(()),
    }  # fmt: skip
    path = tmp_path / "x.onnx"
    save(path, model(nodes, ["n", 8, 8, 3], constants))
    imported = import_file(path)
    assert imported.graph.inputs["x:nchw"].shape == (1, 3, 8, 8)
    x = RNG.standard_normal((2, 8, 8, 3)).astype(np.float32)
    graph = imported.graph.with_inputs({"x:nchw": (2, 3, 8, 8)})
    ours = run_graph(graph, {"x:nchw": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    assert_close(ours.values(), onnxruntime_outputs(path, x))


def gate_as_exporters_write_it(expand: bool) -> Any:
    """x * gate.expand_as(x): the shape is computed, too."""
    nodes = [
        node("GlobalAveragePool", outputs="g"),
        node("Shape", outputs="s"),
        node("Expand", "g", "s", outputs="wide"),
        helper.make_node("Mul", ["x", "wide"], ["y"]),
    ]
    return model(nodes, None, None, outputs=("y", "wide") if expand else ("y",))


def test_a_position_embedding_is_computed_on_import(tmp_path: Path) -> None:
    """As EdgeNeXt writes it: sines and cosines of running sums, whose shape is asked for."""
    constants: dict[str, np.ndarray[Any, Any]] = {
        "ones": np.ones((4, 5), np.float32), "axis": np.array(1), "first": np.array([0]),
        "more": np.array([1, 2]), "table": np.arange(1 << 16, dtype=np.float32).reshape(2, -1),
        "where": np.arange(5),
    }  # fmt: skip
    nodes = [
        helper.make_node("CumSum", ["ones", "axis"], ["places"]),
        helper.make_node("Sin", ["places"], ["sin"]),
        helper.make_node("Cos", ["places"], ["cos"]),
        helper.make_node("Mul", ["sin", "cos"], ["waves"]),
        helper.make_node("Shape", ["waves"], ["sides"]),
        helper.make_node("Concat", ["more", "sides"], ["shape"], axis=0),
        helper.make_node("Gather", ["table", "where"], ["columns"], axis=1),
        helper.make_node("Gather", ["columns", "first"], ["row"], axis=0),
        helper.make_node("Add", ["x", "waves"], ["sum"]),
        helper.make_node("Add", ["sum", "row"], ["moved"]),
        helper.make_node("Reshape", ["moved", "shape"], ["y"]),
    ]
    graph = read(tmp_path, model(nodes, [1, 2, 4, 5], constants))
    x = RNG.standard_normal((1, 2, 4, 5)).astype(np.float32)
    assert_close(run_graph(graph, {"x": x}).values(), onnxruntime_outputs(tmp_path / "x.onnx", x))


def test_padding_is_computed_from_the_picture(tmp_path: Path) -> None:
    """max((ceil(side / stride) - 1) stride + kernel - side, 0), as TensorFlow pads; and a tile."""
    constants = {
        "axis": np.array([2]), "stride": np.float32([2]), "one": np.float32([1]),
        "kernel": np.float32([3]), "none": np.float32(0), "most": np.float32(9),
        "before": np.array([0, 0, 0, 0, 0, 0]), "flat": np.array([0]),
        "twice": np.array([1, 2, 1, 3]), "again": np.array([1, 1, 2, 5]),
        "row": np.float32(RNG.standard_normal((1, 3, 2, 1))),
    }  # fmt: skip
    make = helper.make_node
    nodes = [
        make("Shape", ["x"], ["shape"]),
        make("Gather", ["shape", "axis"], ["side"], axis=0),
        make("Cast", ["side"], ["height"], to=TensorProto.FLOAT),
        make("Div", ["height", "stride"], ["steps"]),
        make("Ceil", ["steps"], ["count"]),
        make("Sub", ["count", "one"], ["gaps"]),
        make("Mul", ["gaps", "stride"], ["long"]),
        make("Add", ["long", "kernel"], ["needed"]),
        make("Sub", ["needed", "height"], ["rest"]),
        make("Clip", ["rest", "none"], ["more"]),
        make("Clip", ["more", "", "most"], ["bounded"]),
        make("Cast", ["bounded"], ["whole"], to=TensorProto.INT64),
        make("Concat", ["before", "whole", "flat"], ["pads"], axis=0),
        make("Pad", ["x", "pads"], ["padded"]),
        make("Tile", ["padded", "twice"], ["tiled"]),
        make("Tile", ["row", "again"], ["rows"]),
        make("Slice", ["tiled", "from", "to"], ["part"]),
        make("Concat", ["part", "rows"], ["y"], axis=1),
    ]
    constants |= {"from": np.array([0, 0, 0, 0]), "to": np.array([1, 6, 4, 5])}
    graph = read(tmp_path, model(nodes, [1, 3, 5, 4], constants))
    x = RNG.standard_normal((1, 3, 5, 4)).astype(np.float32)
    assert_close(run_graph(graph, {"x": x}).values(), onnxruntime_outputs(tmp_path / "x.onnx", x))


def test_expanding_is_left_to_what_broadcasts(tmp_path: Path) -> None:
    graph = read(tmp_path, gate_as_exporters_write_it(expand=False))
    assert [n.op.kind for n in graph.nodes] == ["global_average_pool", "mul"]
    graph = read(tmp_path, gate_as_exporters_write_it(expand=True))
    assert [n.op.kind for n in graph.nodes] == ["global_average_pool", "add", "mul"]
    x = RNG.standard_normal((1, 3, 4, 4)).astype(np.float32)
    assert_close(run_graph(graph, {"x": x}).values(), onnxruntime_outputs(tmp_path / "x.onnx", x))


@pytest.mark.parametrize(
    "kind, attributes, vectors",
    [
        ("InstanceNormalization", {"epsilon": 1e-3}, 2),
        ("LayerNormalization", {"axis": -1}, 2),
        ("LayerNormalization", {"axis": 3}, 1),
        ("Elu", {"alpha": 0.5}, 0),
        ("Tanh", {}, 0),
        ("Erf", {}, 0),
        ("Gelu", {}, 0),
        ("Gelu", {"approximate": "tanh"}, 0),
        ("Exp", {}, 0),
        ("GroupNormalization", {"num_groups": 3}, 2),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no C kernel")
def test_formulas(tmp_path: Path, kind: str, attributes: dict[str, Any], vectors: int) -> None:
    """Operators that are written out agree in both engines with onnxruntime, for a batch, too."""
    side = 5 if kind == "LayerNormalization" else 6
    constants = {f"v{i}": RNG.uniform(0.5, 2, side).astype(np.float32) for i in range(vectors)}
    weight = {"w": RNG.standard_normal((6, 3, 1, 1)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node(kind, ["c", *constants], ["y"], **attributes),
    ]
    graph = read(tmp_path, model(nodes, ["n", 3, 4, 5], {**weight, **constants}, opset=21))
    x = 3 * RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
    wanted = onnxruntime_outputs(tmp_path / "x.onnx", x)
    for backend in ("numpy", "auto"):
        assert_close(Session(graph, backend, 1).run(x).values(), wanted)


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_upsample(tmp_path: Path, opset: int) -> None:
    """Upsample of opset 7 and 9 and the first Resize: floor(i / scale)."""
    kind = "Upsample" if opset < 10 else "Resize"
    scales = np.array([1, 1, 2, 3], np.float32)
    attributes = {"scales": scales.tolist()} if opset == 7 else {}
    inputs = ["x"] if opset == 7 else ["x", "s"]
    proto = model(
        [helper.make_node(kind, inputs, ["y"], mode="nearest", **attributes)],
        None, {"s": scales}, opset,
    )  # fmt: skip
    x = RNG.standard_normal((1, 3, 4, 4)).astype(np.float32)
    (got,) = run_graph(read(tmp_path, proto), {"x": x}).values()
    np.testing.assert_array_equal(got, x.repeat(2, 2).repeat(3, 3))


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """As the converter to float16 leaves them: what it inserts at the front stands at the end."""
    nodes = [
        node("Relu", "b", outputs="c"),
        helper.make_node("Add", ["c", "a"], ["y"]),
        node("Neg", "a", outputs="b"),
        node("Cast", "x", outputs="a", to=TensorProto.FLOAT),
    ]
    graph = read(tmp_path, model(nodes))
    x = RNG.standard_normal((1, 3, 4, 4)).astype(np.float32)
    (got,) = run_graph(graph, {"x": x}).values()
    np.testing.assert_array_equal(got, np.maximum(-x, 0) + x)
    straight = [node("Relu", outputs="a"), node("Neg", outputs="b"), node("Neg", "a")]
    proto = model(straight)
    save(tmp_path / "x.onnx", proto)
    assert [n.outputs[0] for n in open_onnx(tmp_path / "x.onnx").nodes] == ["a", "b", "y"]


def test_free_sides(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], ["n", 3, "h", "w"])
    path = tmp_path / "x.onnx"
    save(path, proto)
    assert read_onnx(path).inputs["x"].shape == (1, 3, 112, 112)
    assert read_onnx(path, (64, 48)).inputs["x"].shape == (1, 3, 64, 48)


def test_a_size_that_does_not_fit_is_named(tmp_path: Path) -> None:
    """Half of 7 rows, enlarged, are not 7 again: the file needs a picture of another size."""
    nodes = [
        node("MaxPool", "x", outputs="half", kernel_shape=[2, 2], strides=[2, 2]),
        node("ConvTranspose", "half", "w", outputs="up", strides=[2, 2]),
        node("Add", "x", "up"),
    ]
    proto = model(nodes, ["n", 3, "h", "w"], {"w": np.ones((3, 3, 2, 2), np.float32)})
    path = tmp_path / "free.onnx"
    onnx.save(proto, str(path))
    assert read_onnx(path, (8, 8)).outputs
    with pytest.raises(FormatError, match=r"size free; tried was 7x8, see  tinyface import --size"):
        read_onnx(path, (7, 8))


def test_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.onnx"
    save(path, model([helper.make_node("Relu", ["x"], ["y"])]))
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"extra 'onnx'.*pip install 'onnx>="):
        read_onnx(path)


def test_what_stands_for_rows_that_see_nothing_widens_the_others(tmp_path: Path) -> None:
    """PyTorch's Where(IsNaN(y), 0, y) is y, but not where the 0 are more than y."""
    nodes = [
        node("Add", "x", "m", outputs="scores"),
        node("Softmax", "scores", outputs="y0", axis=-1),
        node("IsNaN", "y0", outputs="none"),
        node("Where", "none", "zeros", "y0"),
    ]
    mask = np.where(np.eye(4), 0, -np.inf).astype(np.float32)
    constants = {"m": mask, "zeros": np.zeros((2, 1, 1, 1), np.float32)}
    graph = read(tmp_path, model(nodes, (1, 3, 4, 4), constants))
    (y,) = run_graph(graph, {"x": np.ones((1, 3, 4, 4), np.float32)}).values()
    assert np.array_equal(y, np.broadcast_to(np.eye(4), (2, 3, 4, 4)))


def test_a_sum_of_three_in_front_of_a_softmax(tmp_path: Path) -> None:
    """Add has two operands, but nothing keeps a file from more: all of them count."""
    nodes = [node("Add", "x", "x", "m", outputs="s"), node("Softmax", "s", axis=-1)]
    mask = np.where(np.eye(4), 0, np.finfo(np.float32).min).astype(np.float32)
    graph = read(tmp_path, model(nodes, (1, 3, 4, 4), {"m": mask.T[:, [1, 2, 3, 0]]}))
    (y,) = run_graph(graph, {"x": np.zeros((1, 3, 4, 4), np.float32)}).values()
    assert np.array_equal(y[0, 0], np.eye(4)[:, [1, 2, 3, 0]])


@pytest.mark.filterwarnings("ignore:.*no C kernel")
def test_a_product_of_vectors_is_one_number(tmp_path: Path) -> None:
    nodes = [node("Reshape", "x", "flat", outputs="v"), node("MatMul", "v", "v")]
    graph = read(tmp_path, model(nodes, (1, 3, 4, 4), {"flat": np.array([-1])}))
    (y,) = Session(graph, threads=1).run(np.ones((1, 3, 4, 4), np.float32)).values()
    assert y.shape == () and y == 48
