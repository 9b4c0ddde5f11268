"""Operators. Each is declared once, in the file of its family; see :mod:`tinyface.ops.spec`."""

from tinyface.ops.activation import (
    FUSABLE,
    Activation,
    Clip,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    PReLU,
    ReLU,
    Sigmoid,
    Softmax,
)
from tinyface.ops.conv import Conv2d
from tinyface.ops.spec import OPS, Op, from_json

__all__ = [
    "FUSABLE", "OPS", "Activation", "Clip", "Conv2d", "HardSigmoid", "HardSwish", "LeakyReLU",
    "Op", "PReLU", "ReLU", "Sigmoid", "Softmax", "from_json",
]  # fmt: skip
