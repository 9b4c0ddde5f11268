"""What files rarely hold: ONNX nodes beside onnxruntime, and what importers refuse, one for each
condition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.errors import CheckpointError, FormatError, GraphError
from tinyface.formats.described import usual_preprocess
from tinyface.formats.pickle_reader import PickleReader
from tinyface.formats.safetensors import open_file
from tinyface.formats.state_dict import strip_majority
from tinyface.formats.torch_objects import REBUILD, Name, StorageRef
from tinyface.limits import MAX_DIM
from tinyface.networks import random_state
from tinyface.runtime import Session

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")

from onnx_models import model, node, onnxruntime_outputs, read, save  # noqa: E402

from tinyface.formats.onnx import read_onnx  # noqa: E402
from tinyface.formats.onnx_export import export_onnx  # noqa: E402

X = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
WIDE = np.random.default_rng(1).standard_normal((2, 4, 5, 4)).astype(np.float32)
K = np.arange(8, dtype=np.float32).reshape(2, 4, 1, 1)
FOUR = np.arange(4, dtype=np.float32) - 1.5


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def added(*nodes: Any) -> list[Any]:
    """What is computed of constants alone, added to the picture."""
    return [*nodes, node("Add", "x", "r")]


CASES: dict[str, tuple[list[Any], dict[str, np.ndarray], int, np.ndarray]] = {
    "celu": ([node("Celu")], {}, 17, X),
    "pad by attributes": (
        [node("Pad", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=2.5)], {}, 9, X,
    ),
    "a column added to a product": (
        [node("Gemm", "x", "b", "c")],
        {"b": np.ones((4, 3), np.float32), "c": np.arange(3, dtype=np.float32).reshape(3, 1)},
        17, X[0, :, :, 0].copy(),
    ),
    "slopes along the width": ([node("PRelu", "x", "s")], {"s": FOUR}, 17, WIDE),
    "spread for a reader": (
        [node("ReduceMean", "x", outputs="m", axes=[2, 3]), node("Expand", "m", "s", outputs="e"),
         node("Add", "e", "m")],
        {"s": ints(*X.shape)}, 17, X,
    ),
    "clip of constants by attributes": (
        added(node("Clip", "k", outputs="r", min=1.0, max=2.0)), {"k": FOUR}, 9, X,
    ),
    "remainder of the divisor's sign": (
        added(node("Mod", "k", "m", outputs="q"), node("Cast", "q", outputs="r", to=1)),
        {"k": ints(-7, 7, -5, 5), "m": ints(3)}, 17, X,
    ),
    "remainder of the dividend's sign": (
        added(node("Mod", "k", "m", outputs="r", fmod=1)),
        {"k": np.float32([-5.5, 5.5, -1, 1]), "m": np.float32([2])}, 17, X,
    ),
    "mean of whole numbers": (
        added(node("ReduceMean", "k", outputs="q", axes=[0]), node("Cast", "q", outputs="r", to=1)),
        {"k": ints(-3, -2, 0, 0)}, 17, X,
    ),
    "zeros of both signs": ([node("Div", "x", "k")], {"k": np.float32([0, -0.0, 0, 0])}, 17, X),
    "sum of constants along no axes named": (
        added(node("ReduceSum", "k", "a", outputs="r")), {"k": K, "a": ints()}, 17, WIDE,
    ),
    "sum of constants along none": (
        added(node("ReduceSum", "k", outputs="r", noop_with_empty_axes=1)), {"k": K}, 17, WIDE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_equals_onnxruntime(tmp_path: Path, case: str) -> None:
    nodes, constants, opset, x = CASES[case]
    proto = model(nodes, x.shape, constants, opset)
    got = Session(read(tmp_path, proto), "numpy").run(x).values()
    wanted = onnxruntime_outputs(save(tmp_path / "o.onnx", proto), x)
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_free_size_with_as_many_pixels_is_another_size(tmp_path: Path) -> None:
    """Instance norm sees a map as rows, which do not tell its sides."""
    constants = {"s": np.float32([1, 2, 3]), "b": np.float32([0, 1, 0])}
    proto = model([node("InstanceNormalization", "x", "s", "b")], (1, 3, "h", "w"), constants)
    session = Session(read_onnx(save(tmp_path / "x.onnx", proto), size=(6, 8)), "numpy")
    x = np.random.default_rng(0).standard_normal((1, 3, 6, 8)).astype(np.float32)
    (wanted,) = onnxruntime_outputs(tmp_path / "x.onnx", x)
    np.testing.assert_allclose(session.run(x)["y"], wanted, atol=1e-5)
    with pytest.raises(GraphError):
        session.run(np.zeros((1, 3, 8, 6), np.float32))


@pytest.mark.parametrize(
    "nodes, constants, shape",
    [
        ([node("Gemm", "x", "x", "c", alpha=0.5, transB=1)], {"c": np.ones(3, np.float32)}, (3, 4)),
        ([node("Reshape", "x", "s", allowzero=1)], {"s": ints(0, 3, 16)}, X.shape),
        ([node("Tile", "x", "r")], {"r": ints(1, 1, 65, 1)}, X.shape),
        ([node("GatherND", "x", "i")], {"i": np.array([[0, -4], [1, 1]])}, X.shape),
        ([node("Pad", "x", "p", mode="edge")], {"p": ints(0, 0, 128, 0, 0, 0, 1, 0)}, X.shape),
    ],
    ids=["scaled product and sum", "allowzero", "65 copies", "index too low", "129 pads"],
)
def test_refused(
    tmp_path: Path, nodes: list[Any], constants: dict[str, np.ndarray], shape: tuple[int, ...]
) -> None:
    with pytest.raises(FormatError):
        read(tmp_path, model(nodes, shape, constants))


def test_slopes_of_vectors_are_exported(tmp_path: Path) -> None:
    b = Builder("vectors")
    graph = b.build(b.prelu(b.input("x", (2, 3, 5)), key="p"))
    graph = graph.bind(random_state(graph))
    export_onnx(graph, tmp_path / "e.onnx")
    x = X[:, :, 0, :1] * np.arange(1, 6, dtype=np.float32)
    (wanted,) = run_graph(graph, {"x": x}).values()
    np.testing.assert_allclose(onnxruntime_outputs(tmp_path / "e.onnx", x)[0], wanted)


def test_files_as_mxnet_wrote_them(tmp_path: Path) -> None:
    """ArcFace of the ONNX zoo: spatial=0 with ordinary statistics, slopes of channels as a vector;
    onnxruntime refuses both."""
    names = ("g", "b", "m", "v")
    values = {name: np.random.default_rng(i).uniform(0.5, 1, 4) for i, name in enumerate(names)}
    constants = {name: value.astype(np.float32) for name, value in values.items()}

    def outputs(slope: np.ndarray, **how: int) -> np.ndarray:
        nodes = [
            node("BatchNormalization", "x", *names, outputs="n", **how),
            node("PRelu", "n", "s"),
        ]
        graph = read(tmp_path, model(nodes, (2, 4, 5, 3), constants | {"s": slope}, 8))
        return next(iter(Session(graph, "numpy").run(WIDE[..., :3].copy()).values()))

    slope = np.float32([0.1, 0.2, 0.3, 0.4])
    wanted = outputs(slope[:, None, None])
    assert np.array_equal(outputs(slope[:, None, None], spatial=0), wanted)
    nodes = [node("PRelu", "x", "s")]
    narrow = np.ascontiguousarray(WIDE[..., :3])
    got, same = (
        Session(read(tmp_path, model(nodes, narrow.shape, {"s": s}, 8)), "numpy").run(narrow)["y"]
        for s in (slope, slope[:, None, None])
    )
    assert np.array_equal(got, same)


@pytest.mark.parametrize("first", ["Resize", "Pad"])
def test_pixels_that_are_first_scaled_or_framed(tmp_path: Path, first: str) -> None:
    """The file subtracts the mean behind that; pixels must not be normalised twice."""
    sizes = {
        "roi": np.float32([]),
        "f": np.float32([1, 1, 2, 2]),
        "p": ints(0, 0, 1, 1, 0, 0, 1, 1),
    }
    begin = node("Resize", "x", "roi", "f", outputs="r") if first == "Resize" else (
        node("Pad", "x", "p", outputs="r")
    )  # fmt: skip
    nodes = [begin, node("Sub", "r", "m", outputs="s"), node("GlobalAveragePool", "s")]
    graph = read(tmp_path, model(nodes, (1, 3, 8, 8), sizes | {"m": np.float32([127.5])}))
    assert usual_preprocess(graph).mean == (0, 0, 0)


def test_weights_that_were_expanded_to_a_map_hold_for_others(tmp_path: Path) -> None:
    """S3FD's and FaceBoxes' ``weight.expand_as(x) * x``, of which exporters make one constant."""
    scale = np.broadcast_to(np.float32([1, 2, 3]).reshape(1, 3, 1, 1), (1, 3, 4, 4)).copy()
    proto = model([node("Mul", "s", "x")], (1, 3, 4, 4), {"s": scale})
    session = Session(read(tmp_path, proto), "numpy")
    x = np.ones((1, 3, 5, 6), np.float32)
    assert np.array_equal(session.run(x)["y"], x * scale[..., :1, :1])
    column = scale.copy()
    column[..., 1] = 7  # along the width they differ: the other axes alone go
    (kept,) = read(
        tmp_path, model([node("Mul", "s", "x")], (1, 3, 4, 4), {"s": column})
    ).params.values()
    assert kept.shape == (1, 3, 1, 4)


def test_a_size_that_does_not_go_through_is_answered_with_what_to_do(tmp_path: Path) -> None:
    proto = model([node("Reshape", "x", "s")], (1, 3, 4, 4), {"s": ints(1, 3, 16)})
    session = Session(read(tmp_path, proto), "numpy")
    with pytest.raises(GraphError, match="made for 4x4 .*import the file again with --size"):
        session.run(np.zeros((1, 3, 5, 4), np.float32))


# ------------------------------------------------------------------ checkpoints, safetensors


@pytest.mark.parametrize(
    "state",
    [{"net.a": 1, "b": 2}, {"net.a": 1, "net.b": 2, "a": 3}, {"net.": 1, "net.b": 2}],
    ids=["half is no majority", "two would have one name", "one would have none"],
)
def test_a_prefix_stays(state: dict[str, int]) -> None:
    assert strip_majority(state) == ("", state)


def test_wrappers_in_wrappers() -> None:
    """As Lightning saves a module whose network is wrapped once more, beside its loss."""
    state = {"model.backbone.a": 1, "model.backbone.b": 2, "model.backbone.c": 3, "loss.w": 4}
    assert strip_majority(state) == ("model.backbone.", {"a": 1, "b": 2, "c": 3, "loss.w": 4})


@pytest.mark.parametrize(
    "storage, size, kind",
    [(StorageRef("0", "float32", 8), 8, "uint8"), (StorageRef("0", "uint8", 8, 3), 1, "uint32")],
    ids=["of numbers", "from the middle of one"],
)
def test_bytes_seen_as_another_type(storage: StorageRef, size: int, kind: str) -> None:
    rebuild = REBUILD["torch._utils._rebuild_tensor_v3"]
    with pytest.raises(CheckpointError):
        rebuild(PickleReader("x"), storage, 0, (size,), (1,), False, None, Name(f"torch.{kind}"))


@pytest.mark.parametrize(
    "entry, data",
    [
        ({"dtype": "U8", "shape": [MAX_DIM + 1, 0], "data_offsets": [0, 0]}, b""),
        ({"dtype": "U8", "shape": [1], "data_offsets": [False, True]}, b"\0"),
    ],
    ids=["side", "offsets that are no numbers"],
)
def test_a_safetensors_entry_is_refused(tmp_path: Path, entry: dict[str, Any], data: bytes) -> None:
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    with pytest.raises(FormatError):
        open_file(path)
