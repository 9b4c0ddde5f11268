"""ONNX files that are refused: each rule, and mutations of a good file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyface import limits
from tinyface.errors import FormatError, TinyfaceError
from tinyface.formats import onnx_constants

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx import helper  # noqa: E402
from onnx_models import model, node, read  # noqa: E402

from tinyface.formats.onnx import read_onnx  # noqa: E402


def relu(**changes: Any) -> Any:
    return model([helper.make_node("Relu", ["x"], ["y"])], **changes)


def with_tensor(**fields: Any) -> Any:
    """A constant whose shape and data do not agree."""
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], None, {"w": np.ones(4, np.float32)})
    tensor = proto.graph.initializer[0]
    for name, value in fields.items():
        if name == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)
        else:
            setattr(tensor, name, value)
    return proto


def with_a_name_of(raw: bytes) -> Any:
    """A file with these bytes where an operator's name belongs."""

    class Damaged:
        @staticmethod
        def SerializeToString() -> bytes:
            good: bytes = model([node("Re")]).SerializeToString()
            return good.replace(b"Re", raw, 1)

    return Damaged()


def pooled(divisor: str, **attributes: Any) -> Any:
    """An average pooling as PyTorch's exporter writes it, which loses the divisor."""
    pool = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], **attributes)
    call = "%p : [num_users=1] = call_function[target=torch.ops.aten.avg_pool2d.default]"
    pool.metadata_props.add(key="namespace", value="p")
    where = f"(args = (%x, [2, 2], [2, 2], [0, 0], False, True{divisor}), kwargs = {{}})"
    pool.metadata_props.add(key="pkg.torch.onnx.fx_node", value=call + where)
    return model([pool])


I = {"i": np.array([1], np.int64), "w": np.ones((2, 3, 1, 1), np.float32)}  # noqa: E741
REFUSED: dict[str, tuple[Any, str]] = {
    "lost divisor": (pooled(", 3"), r"divides by 3 \(divisor_override\)"),
    "lost divisor beside a pad": (pooled(", 4", pads=[1, 0, 0, 0]), "divides by 4"),
    "lost divisor at a rim": (pooled(", 4", ceil_mode=1), "divides by 4"),
    "opset 6": (relu(opset=6), "opset 6; 7 to"),
    "opset 999": (relu(opset=999), "opset 999; 7 to"),
    "quantised": (
        model([node("QuantizeLinear", "x", "s"), ], None, {"s": np.float32([1])}),
        "node 0, 'QuantizeLinear'.*quantised",
    ),
    "quantised as it runs": (model([node("DynamicQuantizeLinear", "x")]), "quantised"),
    "rewritten by onnxruntime": (
        model([node("FusedConv", "x", domain="com.microsoft")]), "the one that it was made from",
    ),
    "quantised convolution": (model([node("QLinearConv", "x")]), "quantised"),
    "statistics per pixel": (
        model([node("BatchNormalization", "x", *"wwww", spatial=0)], None, I, opset=7),
        "for every pixel",
    ),
    "power": (model([node("Pow", "x", "e")], None, {"e": np.float32([5])}), "a power of 5; known"),
    "name that is no text": (with_a_name_of(b"\xff\xfe"), "a name is not text"),
    "custom domain": (model([node("Relu", "x", domain="com.example")]), "com.example"),
    "unknown operator": (model([node("LSTM", "x")]), r"node 0, 'LSTM' \(makes 'y'\).*write it in"),
    "choosing operator": (model([node("TopK", "x", "k")]), "with --until x"),
    "unknown tensor": (model([node("Relu", "q")]), "reads 'q'"),
    "cycle": (model([node("Relu", "y")]), "reads 'y'"),
    "made twice": (model([node("Relu"), node("Relu")]), "a second time"),
    "made over the input": (model([helper.make_node("Relu", ["x"], ["x"])]), "a second time"),
    "output missing": (model([node("Relu")], outputs=("z",)), "made by no node"),
    "output constant": (model([node("Relu")], None, I, outputs=("i",)), "is a constant"),
    "input missing": (model([node("Conv", "x")]), "input 1 is missing"),
    "input integers": (model([node("Add", "x", "i")], None, I), "only float32"),
    "attribute type": (model([node("LeakyRelu", "x", alpha=3)]), "attribute alpha"),
    "attribute missing": (model([node("MaxPool", "x")]), "kernel_shape"),
    "strides": (model([node("Conv", "x", "w", strides=[0, 1])], None, I), "stride"),
    "strides of three": (model([node("Conv", "x", "w", strides=[1, 1, 1])], None, I), "length"),
    "pads": (model([node("Conv", "x", "w", pads=[-1, 0, 0, 0])], None, I), "pad"),
    "same with stride 0": (
        model([node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[0, 1])], None, I),
        "below 1",
    ),
    "groups": (model([node("Conv", "x", "w", group=2)], None, I), "groups"),
    "auto pad": (model([node("Conv", "x", "w", auto_pad="MAYBE")], None, I), "MAYBE"),
    "axis": (model([node("Concat", "x", axis=9)]), "axis"),
    "resize to far": (
        model([node("Resize", "x", "", "s")], None, {"s": np.float32([1, 1, 1, 1 << 20])}),
        "known here are height and width",
    ),
    "first input missing": (model([node("Clip", "", "i")], None, I), "input 0 is missing"),
    "axis of a norm": (model([node("LpNormalization", "x", axis=9, p=1)]), "axis 9"),
    "reshape": (model([node("Reshape", "x", "i")], None, I), "does not fit"),
    "shape from a tensor": (model([node("Reshape", "x", "x")]), "must be a constant"),
    "gather": (model([node("Gather", "x", "i", axis=0)], None, I), "indices"),
    "gather by halves": (
        model([node("Gather", "x", "i", axis=2)], None, {"i": np.float32([0.5])}), "indices",
    ),
    "rank": (relu(shape=[1] * 9), "no shape"),
    "input huge": (relu(shape=[1, 3, 1 << 40, 4]), "side of"),
    "constant bomb": (
        model(
            [helper.make_node("ConstantOfShape", ["s"], ["z"]), node("Add", "x", "z")],
            None,
            {"s": np.array([1 << 30, 1 << 30], np.int64)},
        ),
        "a constant of shape",
    ),
    "range bomb": (
        model(
            [helper.make_node("Range", ["a", "b", "c"], ["z"]), node("Reshape", "x", "z")],
            None,
            {"a": np.array(0), "b": np.array(1 << 60), "c": np.array(1)},
        ),
        "a constant of shape",
    ),
    "gather bomb": (
        model(
            [helper.make_node("Gather", ["a", "b"], ["z"]), node("Add", "x", "z")],
            None,
            {"a": np.ones((2, 1 << 15), np.float32), "b": np.zeros(1 << 10, np.int64)},
        ),
        "a constant of shape",
    ),
    "gather along no axis": (
        model(
            [helper.make_node("Gather", ["a", "b"], ["z"], axis=3), node("Add", "x", "z")],
            None,
            {"a": np.ones((2, 2), np.float32), "b": np.zeros(1, np.int64)},
        ),
        "do not fit",
    ),
    "too many products": (
        model(
            [helper.make_node("MatMul", ["a", "a"], ["z"]), node("Add", "x", "z")],
            None,
            {"a": np.ones((1 << 11, 1 << 11), np.float32)},
        ),
        "too large",
    ),
    "too many pieces": (
        model([node("Gather", "x", "i", axis=3)], (1, 1, 1, 9), {"i": np.tile([1, 5, 2], 700)}),
        "2100 indices are",
    ),
    "half of a vector": (
        model(
            [helper.make_node("Trilu", ["a"], ["z"]), node("Add", "x", "z")],
            None,
            {"a": np.ones(1 << 18, np.float32)},
        ),
        "half of a vector",
    ),
    "range of step 0": (
        model(
            [helper.make_node("Range", ["a", "b", "c"], ["z"]), node("Reshape", "x", "z")],
            None,
            {"a": np.array(0), "b": np.array(9), "c": np.array(0)},
        ),
        "do not fit",
    ),
    **{
        f"outer {kind} bomb": (
            model(
                [helper.make_node(kind, ["a", "b"], ["z"]), node("Add", "x", "z")],
                None,
                {"a": np.ones((1 << 17, 1), np.float32), "b": np.ones((1, 1 << 17), np.float32)},
            ),
            "too large",
        )
        for kind in ("Mul", "Clip")
    },
    "matrix products": (model([node("MatMul", "x", "x")], [1, 100, 4, 5]), "matmul: .* multiplied"),
    "tensor dims": (with_tensor(dims=[5]), "tensor 'w': damaged"),
    "tensor dims negative": (with_tensor(dims=[-4]), r"tensor 'w': shape \[-4\]"),
    "tensor dims overflow": (with_tensor(dims=[1 << 40, 1 << 40]), "elements"),
    "tensor rank": (with_tensor(dims=[1] * 9), "tensor 'w': shape"),
    "tensor type": (with_tensor(data_type=99), "tensor 'w': damaged"),
    "tensor name": (
        model([node("Add", "x", "\x1b[2J")], None, {"\x1b[2J": np.ones(3, np.float32)}),
        "named",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    proto, says = REFUSED[case]
    with pytest.raises(FormatError, match=says) as caught:
        read(tmp_path, proto)
    assert "x.onnx" in str(caught.value) and str(caught.value).isprintable()


def test_constants_that_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node doubles what there is, or makes as much again: stopped long before memory is."""
    monkeypatch.setattr(onnx_constants, "MAX_TENSOR_BYTES", 1 << 20)
    doubling = [
        helper.make_node("Concat", [f"a{i}", f"a{i}"], [f"a{i + 1}"], axis=0) for i in range(40)
    ]
    proto = model([*doubling, node("Add", "x", "a40")], None, {"a0": np.ones(4, np.float32)})
    with pytest.raises(FormatError, match=r"a1[0-9].*too large"):
        read(tmp_path, proto)
    monkeypatch.setattr(limits, "MAX_PARAM_BYTES", 1 << 20)
    many = [helper.make_node("Add", ["a", "a"], [f"z{i}"]) for i in range(40)]
    proto = model([*many, node("Add", "x", "z39")], None, {"a": np.ones(1 << 14, np.float32)})
    with pytest.raises(FormatError, match=r"z1[56].*too much memory"):
        read(tmp_path, proto)


GOOD = model(
    [
        helper.make_node("Reshape", ["x", "s"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ],
    None,
    {"w": np.ones((48, 5), np.float32), "s": np.array([-1, 48], np.int64)},
).SerializeToString()


@settings(max_examples=300)
@given(data=st.data())
def test_mutations(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any changed bytes, any truncation: refused with our own error, or a graph."""
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(
            st.integers(0, 150) | st.integers(len(content) - 150, len(content) - 1)
        )
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.onnx"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        read_onnx(path)
    except TinyfaceError as error:
        assert "mutated" in str(error)


def test_a_divisor_that_the_exporter_could_leave_out(tmp_path: Path) -> None:
    """Where it is the window's own size, and where there is none."""
    for proto in (pooled(""), pooled(", 4"), pooled(", 4", pads=[1, 0, 0, 0], count_include_pad=1)):
        assert [n.op.kind for n in read(tmp_path, proto).nodes] == ["average_pool"]
