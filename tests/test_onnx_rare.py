"""ONNX files that are legal and rarely seen: each gives what onnxruntime gives, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface.backends.numpy import run_graph
from tinyface.errors import FormatError

pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx_models import assert_close, model, node, onnxruntime_outputs, read, save

LAST = np.iinfo(np.int64).min
SQUARES = np.linspace(0.1, 3, 16, dtype=np.float32).reshape(4, 4)


def norm(*floors: str, axis: int) -> list[Any]:
    """sqrt(max(sum x x, floors...)) over an axis."""
    return [
        node("Mul", "x", "x", outputs="xx"),
        node("ReduceSum", "xx", f"axis{axis}", outputs="sum"),
        node("Max", "sum", *floors, outputs="most"),
        node("Sqrt", "most"),
    ]


# name -> nodes over x, (2, 3, 4, 4), and what they read
CASES: dict[str, tuple[list[Any], dict[str, np.ndarray[Any, Any]]]] = {
    "a norm of two floors": (
        norm("least", "most100", axis=2),
        {"least": np.float32(1e-12), "most100": np.float32(100)},
    ),
    "a norm of a floor a channel": (
        norm("floors", axis=2),
        {"floors": np.float32([1, 4, 9]).reshape(3, 1, 1)},
    ),
    "a constant sliced backwards": (
        [node("Slice", "c", "start", "end", "", "step", outputs="d"), node("Add", "x", "d")],
        {"c": np.arange(4, dtype=np.float32), "start": np.array([-1]), "end": np.array([LAST]),
         "step": np.array([-1])},
    ),
    "a name like one of ours": (
        [node("MatMul", "x", "y:weight"), node("Mul", "y", "y:weight", outputs="z")],
        {"y:weight": SQUARES},
    ),
    "a name like one of ours, of other numbers": (
        [node("MatMul", "x", "w"), node("Add", "y", "y:weight", outputs="z")],
        {"w": SQUARES, "y:weight": -SQUARES},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_as_onnxruntime(tmp_path: Path, name: str) -> None:
    nodes, constants = CASES[name]
    axes = {f"axis{i}": np.array([i]) for i in range(4)}
    proto = model(nodes, (2, 3, 4, 4), constants | axes, outputs=list(nodes[-1].output))
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    ours = run_graph(read(tmp_path, proto), {"x": x})
    assert_close(ours.values(), onnxruntime_outputs(save(tmp_path / "y.onnx", proto), x))


@pytest.mark.parametrize("kind", ["Relu", "Identity", "Shape", "Split"])
def test_a_node_that_makes_nothing(tmp_path: Path, kind: str) -> None:
    empty = node(kind, "x")
    del empty.output[:]
    with pytest.raises(FormatError, match=f"node 0, '{kind}'.*makes nothing"):
        read(tmp_path, model([empty, node("Relu", "x")]))
