"""ONNX import: networks that prepare their picture themselves: bytes, colours turned round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface.errors import FormatError
from tinyface.formats.importer import import_file
from tinyface.graph import Graph
from tinyface.runtime import Session

pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx import TensorProto, helper
from onnx_models import model, node, onnxruntime_outputs, save

RNG = np.random.default_rng(0)
MEANS = np.float32([[[[104]], [[117]], [[123]]]])
EMBED = [
    node("Sub", "rgb", "means", outputs="centred"),
    node("Conv", "centred", "w", outputs="map"),
    node("Flatten", "map"),
]
TURNS: dict[str, list[Any]] = {  # "planes" (n, 3, h, w) -> "rgb", the other way round
    "slice": [node("Slice", "planes", "last", "end", "axis", "back", outputs="rgb")],
    "index": [node("Gather", "planes", "order", outputs="rgb", axis=1)],
    "stack": [
        *(node("Gather", "planes", f"c{i}", outputs=f"p{i}", axis=1) for i in range(3)),
        *(node("Unsqueeze", f"p{i}", "axis", outputs=f"q{i}") for i in range(3)),
        node("Concat", "q2", "q1", "q0", outputs="rgb", axis=1),
    ],
}
CONSTANTS = {
    "means": MEANS, "w": RNG.standard_normal((8, 3, 4, 4)).astype(np.float32),
    "last": np.array([2]), "end": np.array([-9]), "axis": np.array([1]), "back": np.array([-1]),
    "order": np.array([2, 1, 0]), **{f"c{i}": np.array(i) for i in range(3)},
}  # fmt: skip


def bytes_in(nodes: list[Any], shape: tuple[Any, ...]) -> Any:
    proto = model(nodes, shape, CONSTANTS)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    return proto


def pixels_as_they_are(path: Path) -> Graph:
    card = (found := import_file(path)).card
    assert (card.task, card.preprocess.mean, card.preprocess.scale) == ("embed", (0,) * 3, (1,) * 3)
    return found.graph


@pytest.mark.parametrize("turn", TURNS)
def test_bytes_in_rows_of_colours(tmp_path: Path, turn: str) -> None:
    """uint8 (n, h, w, 3): turned, cast, colours exchanged; the same in C as in onnxruntime."""
    nodes = [
        node("Transpose", "x", outputs="turned", perm=[0, 3, 1, 2]),
        node("Cast", "turned", outputs="planes", to=TensorProto.FLOAT),
        *TURNS[turn], *EMBED,
    ]  # fmt: skip
    path = save(tmp_path / "x.onnx", bytes_in(nodes, ("n", 4, 4, 3)))
    graph = pixels_as_they_are(path)
    x = RNG.integers(0, 256, (2, 4, 4, 3), np.uint8)
    (wanted,) = onnxruntime_outputs(path, x)
    planes = np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)
    (y,) = Session(graph, "c").run(planes).values()
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-3)  # 48 products of up to 255 x 4


@pytest.mark.parametrize("turn", TURNS)
def test_means_behind_exchanged_colours_say_that_pixels_go_in(tmp_path: Path, turn: str) -> None:
    nodes = [node("Identity", "x", outputs="planes"), *TURNS[turn], *EMBED]
    pixels_as_they_are(save(tmp_path / "x.onnx", model(nodes, ("n", 3, 4, 4), CONSTANTS)))


def test_sums_of_bytes_are_refused(tmp_path: Path) -> None:
    """They would wrap around at 256."""
    nodes = [node("Add", "x", "x", outputs="z"), node("Cast", "z", to=TensorProto.FLOAT)]
    path = save(tmp_path / "x.onnx", bytes_in(nodes, ("n", 3, 4, 4)))
    with pytest.raises(FormatError, match="'Add'.*computes with bytes"):
        import_file(path)


def test_bytes_through_a_branch_are_bytes(tmp_path: Path) -> None:
    def branch(name: str) -> Any:
        out = helper.make_tensor_value_info(f"{name}y", TensorProto.UINT8, None)
        return helper.make_graph([node("Identity", "x", outputs=f"{name}y")], name, [], [out])

    nodes = [
        node("Shape", "x", outputs="s"), node("Gather", "s", "c0", outputs="b"),
        node("Equal", "b", "b", outputs="t"),
        helper.make_node("If", ["t"], ["z"], then_branch=branch("a"), else_branch=branch("b")),
        node("Mul", "z", "z"),
    ]  # fmt: skip
    path = save(tmp_path / "x.onnx", bytes_in(nodes, (1, 3, 4, 4)))
    with pytest.raises(FormatError, match="'Mul'.*computes with bytes"):
        import_file(path)


@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 3, 1)])
def test_a_row_is_repeated_any_number_of_times(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A sum over all places, beside each of them (SwiftFormer's attention), as Tile writes it."""
    long = (2, 300, 5) if shape[0] == 1 else (2, 3, 400)
    repeats = np.array([b // a for a, b in zip(shape, long, strict=True)])
    nodes = [
        node("Gemm", "a", "b", outputs="product"),
        node("Reshape", "product", "sides", outputs="row"),
        node("Tile", "row", "repeats"),
    ]
    b = np.eye(5 if shape[0] == 1 else 6, dtype=np.float32)
    constants = {"b": b, "repeats": repeats, "sides": np.array(shape)}
    proto = model([node("Flatten", "x", outputs="a"), *nodes], (1, 1, 1, len(b)), constants)
    path = save(tmp_path / "x.onnx", proto)
    x = RNG.standard_normal((1, 1, 1, len(b))).astype(np.float32)
    (y,) = Session(import_file(path).graph).run(x).values()
    assert y.shape == long
    assert (y == np.broadcast_to(x.reshape(shape), long)).all()


@pytest.mark.needs_c
@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceMax", "ReduceL2", "ReduceMean"])
def test_one_number_a_picture_runs_in_c(tmp_path: Path, kind: str) -> None:
    """Expectations over bins (HopeNet, SSR-Net) and lengths are vectors without a second axis."""
    axes: Any = {"axes": [1]} if kind != "ReduceSum" else {}
    reduced = ["a", "axis"] if kind == "ReduceSum" else ["a"]
    nodes = [
        node("Flatten", "x", outputs="a"), node(kind, *reduced, outputs="s", keepdims=0, **axes),
        node("Mul", "s", "three", outputs="m"), node("Sub", "m", "most", outputs="r"),
        node("Unsqueeze", "r", "axis", outputs="u"), node("Div", "a", "u"),
    ]  # fmt: skip
    numbers = {"axis": np.array([1]), "three": np.float32(3), "most": np.float32([99])}
    proto = model(nodes, ("n", 3, 4, 4), numbers, outputs=("r", "y"))
    path = save(tmp_path / "x.onnx", proto)
    x = RNG.standard_normal((5, 3, 4, 4)).astype(np.float32)
    for n in (1, 5):
        ours = Session(import_file(path).graph, "c").run(x[:n]).values()
        for y, wanted in zip(ours, onnxruntime_outputs(path, x[:n]), strict=True):
            assert y.shape == wanted.shape
            np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
