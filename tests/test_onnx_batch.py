"""ONNX import: a batch of free size stays free, and a network for one picture runs several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface.errors import GraphError
from tinyface.runtime import Session

pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx import helper
from onnx_models import model, node, read

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
CONSTANTS = {
    "two": np.array([2]), "three": np.array([3]), "four": np.array([4]), "six": np.array([6]),
    "all": np.array([-1]), "first": np.array([0]), "token": np.ones((1, 3, 1, 4), np.float32),
    "left": np.array([3, 1, 4]),
}  # fmt: skip


def computed(target: Sequence[str], name: str) -> list[Any]:
    """``name``: the sides of a reshape, "n" for the batch as the exporter asks for it."""
    return [
        node("Shape", "x", outputs=f"{name}:shape"),
        node("Gather", f"{name}:shape", "first", outputs="n"),
        node("Mul", "n", "six", outputs="6n"),
        node("Mul", "n", "three", outputs="3n"),
        helper.make_node("Concat", list(target), [name], axis=0),
    ]


def several(session: Session, numpy: Any) -> None:
    """Batches of 1, 2, 3 and 5 are what each picture gives by itself."""
    for count in (1, 2, 3, 5):
        x = RNG.standard_normal((count, 3, 4, 4)).astype(np.float32)
        (y,) = session.run(x).values()
        wanted = np.concatenate([numpy(x[i : i + 1]) for i in range(count)])
        assert y.shape == wanted.shape
        assert np.allclose(y, wanted, atol=1e-6)


def test_heads_merged_with_the_batch(tmp_path: Path) -> None:
    """As PyTorch's MultiheadAttention has it: tokens first, then batch times heads."""
    nodes = [
        *computed(("four", "6n", "two"), "heads"),
        node("Transpose", "x", outputs="tokens", perm=[3, 0, 1, 2]),  # (4, n, 3, 4)
        node("Reshape", "tokens", "heads", outputs="rows"),  # (4, 6 n, 2)
        node("Transpose", "rows", outputs="queries", perm=[1, 0, 2]),
        node("Transpose", "rows", outputs="keys", perm=[1, 2, 0]),
        node("MatMul", "queries", "keys", outputs="scores"),
        node("Softmax", "scores", outputs="weights", axis=-1),
        node("MatMul", "weights", "queries", outputs="mixed"),  # (6 n, 4, 2)
        node("Transpose", "mixed", outputs="back", perm=[1, 0, 2]),
        helper.make_node("Concat", ["four", "n", "three", "four"], ["map"], axis=0),
        node("Reshape", "back", "map", outputs="apart"),
        node("Transpose", "apart", outputs="y", perm=[1, 2, 3, 0]),
    ]

    def numpy(x: Array) -> Array:
        rows = x.transpose(3, 0, 1, 2).reshape(4, 6, 2)
        queries = rows.transpose(1, 0, 2)
        scores = np.exp(queries @ queries.transpose(0, 2, 1))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ queries
        return mixed.transpose(1, 0, 2).reshape(4, 1, 3, 4).transpose(1, 2, 3, 0)

    graph = read(tmp_path, model(nodes, constants=CONSTANTS))
    session = Session(graph)
    several(session, numpy)
    assert not session._one_only
    assert graph.with_inputs({"x": (7, 3, 4, 4)}).types["y"].shape == (7, 3, 4, 4)


def test_a_new_first_axis(tmp_path: Path) -> None:
    """unsqueeze(0) of a batch of 1 looks like one of axis 1, until the batch grows."""
    nodes = [
        node("Unsqueeze", "x", "first", outputs="five"),  # (1, n, 3, 4, 4)
        node("Transpose", "five", outputs="turned", perm=[2, 1, 0, 3, 4]),  # (3, n, 1, 4, 4)
        node("Gather", "turned", "one", outputs="y", axis=0),
    ]
    graph = read(tmp_path, model(nodes, constants={**CONSTANTS, "one": np.array(1)}))
    session = Session(graph)
    several(session, lambda x: x[:, 1:2])
    assert not session._one_only


def test_what_is_squeezed_is_not_the_batch(tmp_path: Path) -> None:
    """pool(x).squeeze(), without axes: (n, 3), for one picture, too."""
    nodes = [node("GlobalAveragePool", outputs="mean"), node("Squeeze", "mean", outputs="y")]
    session = Session(read(tmp_path, model(nodes)))
    several(session, lambda x: x.mean((2, 3)))
    assert not session._one_only
    fixed = read(tmp_path, model(nodes, (1, 3, 4, 4)))
    assert fixed.types["y"].shape == (3,)


def test_a_class_token_runs_one_picture_after_another(tmp_path: Path) -> None:
    """It is expanded to the batch: a constant, once the batch is 1."""
    nodes = [
        *computed(("n", "left"), "wide"),
        node("Expand", "token", "wide", outputs="tokens"),
        helper.make_node("Concat", ["tokens", "x"], ["y"], axis=2),
    ]
    session = Session(read(tmp_path, model(nodes, constants=CONSTANTS)))
    several(session, lambda x: np.concatenate([np.ones((1, 3, 1, 4), np.float32), x], 2))
    assert session._one_only


def test_a_batch_in_two_sides_runs_one_picture_after_another(tmp_path: Path) -> None:
    """(n, 3, 4, 4) seen as (3 n, 4, 4) without a word about it, and back as (1, 3, 4, 4)."""
    nodes = [
        *computed(("3n", "four", "four"), "stack"),
        node("Reshape", "x", "stack", outputs="rows"),
        node("Reshape", "rows", "fixed", outputs="y"),
    ]
    constants = {**CONSTANTS, "fixed": np.array([1, 3, 4, 4])}
    session = Session(read(tmp_path, model(nodes, constants=constants)))
    several(session, lambda x: x)


def test_a_fixed_batch_runs_one_picture_after_another(tmp_path: Path) -> None:
    """Exported for one picture, with its shapes as numbers; a wrong size is still refused."""
    nodes = [
        node("Transpose", "x", outputs="turned", perm=[1, 0, 2, 3]),
        node("Reshape", "turned", "fixed", outputs="rows"),
        node("Transpose", "rows", outputs="y", perm=[1, 0, 2]),
    ]
    proto = model(nodes, (1, 3, 4, 4), {"fixed": np.array([3, 1, 16])})
    session = Session(read(tmp_path, proto))
    several(session, lambda x: x.reshape(1, 3, 16))
    for shape in ((1, 3, 4, 5), (2, 3, 4, 5)):
        with pytest.raises(GraphError, match="does not fit"):
            session.run(np.zeros(shape, np.float32))
