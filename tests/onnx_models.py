"""Small ONNX models, node by node, and what onnxruntime makes of them.

Only for tests that have asked for ``onnx``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, defs, helper, numpy_helper

from tinyface.formats.onnx import read_onnx
from tinyface.graph import Graph


def graph(
    nodes: Sequence[Any],
    shape: Sequence[Any] | None,
    outputs: Sequence[str] = ("y",),
    constants: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """float32 ``x`` of ``shape`` (None: no input, as of a branch) -> ``outputs`` of any shape."""
    inputs = [] if shape is None else [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    return helper.make_graph(
        nodes,
        "hand",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )


def model(
    nodes: Sequence[Any],
    shape: Sequence[Any] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
) -> Any:
    """A whole model of such a graph; ``x`` is (n, 3, 4, 4) unless said otherwise."""
    whole = graph(nodes, shape or ("n", 3, 4, 4), outputs, constants)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(path: Path, proto: Any) -> Path:
    """Skips the test where the installed onnx is older than the model's opset."""
    opset = max(
        (each.version for each in getattr(proto, "opset_import", ()) if not each.domain), default=0
    )
    if defs.onnx_opset_version() < opset < 99:
        pytest.skip(f"opset {opset} takes a newer onnx")
    path.write_bytes(proto.SerializeToString())
    return path


def onnxruntime_outputs(
    path: Path,
    x: np.ndarray | Mapping[str, np.ndarray],
    names: Sequence[str] | None = None,
    *,
    as_written: bool = False,
) -> list[np.ndarray]:
    """Of an ``x`` for the only input, or of all inputs by name; all outputs unless told which.

    as_written: without its optimisations, of which a few fail (1.32: where a transposition stands
    before a resize).
    """
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = x if isinstance(x, Mapping) else {session.get_inputs()[0].name: x}
    return list(session.run(names, given))


def assert_close(
    ours: Iterable[np.ndarray], theirs: Iterable[np.ndarray], bounds: Iterable[float] | None = None
) -> None:
    """Within 1e-5, or a bound of its own, of the largest value of each output."""
    both = zip(ours, theirs, strict=True)
    for (a, b), bound in zip(both, bounds or repeat(1e-5), strict=False):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= bound * max(1.0, float(np.abs(b).max()))


def node(kind: str, *inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs) or ["x"], [outputs], **attributes)


def read(folder: Path, proto: Any) -> Graph:
    """By way of a file, ``x.onnx``."""
    return read_onnx(save(folder / "x.onnx", proto))
