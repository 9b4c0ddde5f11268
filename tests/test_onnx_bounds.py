"""ONNX files that are small and would take much memory or time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface import limits
from tinyface.errors import FormatError

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx_models import graph, model, node, read, save  # noqa: E402

from tinyface.formats import onnx as importer  # noqa: E402
from tinyface.formats import transposed  # noqa: E402
from tinyface.formats.onnx_file import OnnxNode, open_onnx  # noqa: E402

F32 = np.float32


@contextmanager
def least_memory() -> Iterator[None]:
    """Less than 4 MiB."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def times(count: int, kind: str, *inputs: str, **attributes: Any) -> list[Any]:
    """The same node again and again, each of another output."""
    outputs = ["y", *(f"y{i}" for i in range(1, count))]
    return [node(kind, *inputs, outputs=name, **attributes) for name in outputs]


@pytest.mark.parametrize(
    "nodes, constants",
    [
        (times(9, "Attention", "x", "x", "x", is_causal=1), {}),
        (times(9, "Resize", "x", "", "", "s", mode="cubic"), {"s": np.array([1, 256, 256, 255])}),
        (times(9, "LRN", "x", size=3), {}),
        ([node("Transpose", "w", outputs="t"), *times(9, "Reshape", "t", "s")],
         {"w": np.ones((256, 256), F32), "s": np.array([-1])}),
        (times(9, "Tile", "one", "s"), {"one": np.ones(1, F32), "s": np.array([1 << 16])}),
    ],
    ids=["masks", "matrices", "bands", "turned", "tiles"],
)  # fmt: skip
def test_what_is_computed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: Any, constants: Any
) -> None:
    """Each node makes 256 KiB: of those that fill 1 MiB, the one behind is refused."""
    opset = 23 if nodes[0].op_type == "Attention" else 18
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"this onnx package does not know opset {opset}")
    monkeypatch.setattr(limits, "MAX_PARAM_BYTES", 1 << 20)
    with pytest.raises(FormatError, match=r"makes 'y[34]'.*too much memory"):
        read(tmp_path, model(nodes, (1, 256, 256, 256), constants, opset))


@pytest.mark.parametrize(
    "attributes",
    [{"group": 0}, {"strides": [1 << 31, 1]}, {"pads": [0, 1 << 31, 0, 0]},
     {"output_padding": [1 << 31, 0]}, {"dilations": [1, 1 << 31]}, {"strides": [33, 33]},
     {"pads": [4096] * 4}, {"output_shape": [1 << 31, 1 << 31]}],
    ids=str,
)  # fmt: skip
def test_a_transposed_convolution_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attributes: dict[str, Any]
) -> None:
    """Each of these wants a kernel, or as many of them, as no memory holds."""
    monkeypatch.setattr(transposed, "MAX_TENSOR_BYTES", 1 << 20)
    nodes = [node("ConvTranspose", "x", "w", **attributes)]
    path = save(tmp_path / "x.onnx", model(nodes, (1, 2, 8, 8), {"w": np.ones((2, 2, 3, 3), F32)}))
    with least_memory(), pytest.raises(FormatError, match="node 0, 'ConvTranspose'"):
        importer.read_onnx(path)


def test_parts_that_nobody_reads_are_not_counted_out(tmp_path: Path) -> None:
    """num_outputs would make a list of as many sizes."""
    nodes = [node("Split", "x", axis=1, num_outputs=1 << 62)]
    with pytest.raises(FormatError, match=f"{1 << 62} sizes for 1 outputs"):
        read(tmp_path, model(nodes, (1, 2, 8, 8), {}, 18))


def test_products_of_constants_count_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4 x 5 x 6 multiplications each, and 50 numbers read."""
    monkeypatch.setattr(importer, "MAX_ALL_PRODUCTS", 800)
    constants = {"a": np.ones((5, 4), F32), "b": np.ones((5, 6), F32)}
    with pytest.raises(FormatError, match="makes 'y4'.*too long"):
        read(tmp_path, model(times(9, "Gemm", "a", "b", transA=1), None, constants))


def test_operators_are_counted_as_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_NODES", 50)
    nodes = times(9, "Gather", "x", "i", axis=2)  # slices, joined, and a reshape
    i = np.array([0, 0, 1, 1, 2, 2, 3, 3, 0])
    with pytest.raises(FormatError, match="makes 'y6'.*more than 50 operators"):
        read(tmp_path, model(nodes, None, {"i": i}))


@pytest.mark.parametrize(
    "nodes, constants, says",
    [
        ([node("Gemm", "a", "b", "c", outputs="z")],
         {"a": np.ones((1 << 11, 1), F32), "b": np.ones((1, 1 << 11), F32),
          "c": np.ones((2, 1, 1), F32)}, "too large"),
        ([node("BatchNormalization", "a", *"bbbb", outputs="z")],
         {"a": np.ones((1 << 13, 1), F32), "b": np.ones(1 << 10, F32)}, "too large"),
        ([node("Expand", "a", "s", outputs="z")],
         {"a": np.ones((1 << 13, 1), F32), "s": np.array([1, 1 << 10])}, "a constant of shape"),
    ],
    ids=["gemm", "norm", "expand"],
)  # fmt: skip
def test_constants_that_broadcast_each_other(
    tmp_path: Path, nodes: Any, constants: Any, says: str
) -> None:
    with pytest.raises(FormatError, match=f"node 0, .*{says}"):
        read(tmp_path, model([*nodes, node("Add", "x", "z")], None, constants))


def test_constants_that_are_read_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views take no memory; going over them takes time."""
    monkeypatch.setattr(importer, "MAX_ALL_PRODUCTS", 500)
    constants = {"a": np.ones((10, 12), F32)}
    with pytest.raises(FormatError, match="makes 'y4'.*too long"):
        read(tmp_path, model(times(9, "ReduceSum", "a"), None, constants))


def functions(*bodies: list[Any]) -> Any:
    """A model that calls the first of these local functions; f1 is that of the second body."""
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
    proto = model([node("f0", "x", domain="own")])
    proto.opset_import.append(opsets[1])
    for i, body in enumerate(bodies):
        function = onnx.helper.make_function("own", f"f{i}", ["x"], ["y"], body, opsets)
        proto.functions.append(function)
    return proto


def twice(name: str) -> list[Any]:
    return [
        node(name, "x", outputs="z", domain="own"),
        node(name, "z", domain="own"),
    ]


def test_functions_that_double(tmp_path: Path) -> None:
    """A thousand bytes, a billion nodes."""
    bodies = [*(twice(f"f{i}") for i in range(1, 30)), [node("Relu", "x")]]
    path = save(tmp_path / "x.onnx", functions(*bodies))
    with least_memory(), pytest.raises(FormatError, match="over 10000 nodes"):
        importer.read_onnx(path)


def test_functions_that_call_themselves(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="call themselves"):
        read(tmp_path, functions(twice("f1"), twice("f0")))
    chain = [*([node(f"f{i}", "x", domain="own")] for i in range(1, 99)), [node("Relu", "x")]]
    with pytest.raises(FormatError, match="within over 64 others"):
        read(tmp_path, functions(*chain))


def test_functions_that_are_called_twice(tmp_path: Path) -> None:
    graph = read(tmp_path, functions(twice("f1"), twice("f2"), [node("Relu", "x")]))
    assert [type(n.op).__name__ for n in graph.nodes] == ["ReLU"] * 4


def test_a_mask_that_grows(tmp_path: Path) -> None:
    """By heads and pictures that the scores do not have."""
    mask = np.ones((65, 64, 1, 1), bool)
    proto = model([node("Attention", "x", "x", "x", "m")], (1, 1, 64, 1), {"m": mask}, 23)
    with pytest.raises(FormatError, match="a mask of .65, 64, 64, 64"):
        read(tmp_path, proto)


def test_one_number_of_a_long_axis(tmp_path: Path) -> None:
    proto = model([node("Gather", "x", "i", axis=3)], (1, 1, 1, 1 << 22), {"i": np.array([1])})
    path = save(tmp_path / "x.onnx", proto)
    with least_memory():
        importer.read_onnx(path)


class Walked(list[OnnxNode]):
    """Nodes that count how often someone goes through all of them."""

    walks = 0

    def __iter__(self) -> Iterator[OnnxNode]:
        self.walks += 1
        return super().__iter__()


PATTERNS: dict[str, tuple[Any, ...]] = {
    "where": (node("IsNaN", outputs="b"), node("Where", "b", "x", "x")),
    "mask": (node("Add", "x", "m", outputs="s"), node("Softmax", "s", axis=-1)),
    "root": (node("ReduceSum", "x", outputs="s"), node("Sqrt", "s")),
    "mish": (node("Softplus", outputs="s"), node("Tanh", "s")),
    "expand": (node("Expand", "x", "shape", outputs="e"), node("Relu", "e")),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_nodes_are_looked_through_once(tmp_path: Path, name: str) -> None:
    """However many nodes ask for what makes their inputs, or reads their outputs."""
    nodes = []
    for i in range(20):
        for old in PATTERNS[name]:
            new = type(old)()
            new.CopyFrom(old)
            new.output[0] += str(i) * (new.output[0] != "y" or i > 0)
            new.input[:] = [n + str(i) if n in ("b", "e", "s") else n for n in new.input]
            nodes.append(new)
    m = np.where(np.eye(4), 0, -np.inf).astype(F32)
    proto = model(nodes, (1, 3, 4, 4), {"m": m, "shape": np.array([2, 3, 4, 4])}, 17)
    file = open_onnx(save(tmp_path / "x.onnx", proto))
    walked = Walked(file.nodes)
    importer.to_graph(replace(file, nodes=walked))
    assert 1 <= walked.walks <= 3


def test_a_circle_that_a_branch_leads_into(tmp_path: Path) -> None:
    """The branch makes ``a``, too, from which the nodes outside lead back to it."""
    inner = [node("Greater", "x", "x", outputs="a"), node("Attention", "x", "x", "x", "a")]
    branch = graph(inner, None)
    nodes = [
        node("If", "true", outputs="z", then_branch=branch, else_branch=branch),
        node("Identity", "b", outputs="a"),
        node("Identity", "a", outputs="b"),
        node("Relu", "z"),
    ]
    with pytest.raises(FormatError, match="its mask is neither"):
        read(tmp_path, model(nodes, (1, 3, 4, 4), {"true": np.array(True)}, 23))
