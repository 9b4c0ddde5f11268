"""Operators. Each is declared once, in the file of its family; see :mod:`tinyface.ops.spec`.

convolution (standard, grouped, depthwise, pointwise, global depthwise): conv.py; fully
connected, products of two tensors: dense.py; what may be fused behind: epilogue.py; activations:
activation.py; batch norm, layer norm, unit length: norm.py; pooling: pool.py; sums, gates, maxima,
comparisons, choices: eltwise.py; sums and means along axes: reduce.py; resizing: resize.py; concat,
split, slice, pad, reshape, transpose, shuffle, interleave: shape.py.
"""

from tinyface.ops.activation import (
    FUSABLE,
    GELU,
    Activation,
    Clip,
    Erf,
    Exp,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    Log,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Sqrt,
    Tanh,
)
from tinyface.ops.conv import Conv2d
from tinyface.ops.dense import Linear, MatMul
from tinyface.ops.eltwise import Add, Compare, Div, MaxFeatureMap, Maximum, Mul, Sub, Where
from tinyface.ops.norm import BatchNorm, L2Normalize, LayerNorm
from tinyface.ops.pool import AveragePool, GlobalAveragePool, GlobalMaxPool, MaxPool
from tinyface.ops.reduce import Reduce
from tinyface.ops.resize import Resize
from tinyface.ops.shape import (
    ChannelShuffle,
    Concat,
    Flatten,
    Identity,
    Interleave,
    Pad,
    Reshape,
    Slice,
    Split,
    Transpose,
)
from tinyface.ops.spec import OPS, Op, from_json

__all__ = [
    "FUSABLE",
    "GELU",
    "OPS",
    "Activation",
    "Add",
    "AveragePool",
    "BatchNorm",
    "ChannelShuffle",
    "Clip",
    "Compare",
    "Concat",
    "Conv2d",
    "Div",
    "Erf",
    "Exp",
    "Flatten",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "Interleave",
    "L2Normalize",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "Log",
    "MatMul",
    "MaxFeatureMap",
    "MaxPool",
    "Maximum",
    "Mul",
    "Op",
    "PReLU",
    "Pad",
    "ReLU",
    "Reduce",
    "Reshape",
    "Resize",
    "SiLU",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Softplus",
    "Split",
    "Sqrt",
    "Sub",
    "Tanh",
    "Transpose",
    "Where",
    "from_json",
]
