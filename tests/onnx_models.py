"""Small ONNX models, node by node. Only for tests that have asked for ``onnx``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper


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
    path.write_bytes(proto.SerializeToString())
    return path
