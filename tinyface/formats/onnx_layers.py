"""ONNX operators that compute: ``make_TYPE(converter, node) -> tensors``."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tinyface.formats.ncnn_layers import same
from tinyface.formats.onnx_file import OnnxNode
from tinyface.formats.onnx_smooth import hidden, magnitude, scalar
from tinyface.ops import (
    Add,
    AveragePool,
    BatchNorm,
    Clip,
    Conv2d,
    Div,
    Erf,
    GlobalAveragePool,
    GlobalMaxPool,
    HardSigmoid,
    HardSwish,
    L2Normalize,
    LeakyReLU,
    Linear,
    Maximum,
    MaxPool,
    Mul,
    Op,
    PReLU,
    Reduce,
    ReLU,
    Reshape,
    Sigmoid,
    Sub,
    Transpose,
)
from tinyface.ops.conv import Pads

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter

_LARGEST: Final = float(np.finfo(np.float32).max)


# -- windows: convolution and pooling, of maps (n, c, h, w) and of lines (n, c, l)


def as_map(c: Converter, node: OnnxNode, x: str) -> tuple[str, bool]:
    """(n, c, l) -> (n, c, 1, l), and whether it was a line."""
    shape = c.shape(x)
    if len(shape) == 4:
        return x, False
    if len(shape) != 3:
        raise node.refuse(f"of an input with {len(shape)} axes; 3 and 4 are known here")
    return c.apply(Reshape(shape=(0, shape[1], 1, shape[2])), x, node=node, part="map"), True


def as_line(c: Converter, node: OnnxNode, y: str, line: bool) -> str:
    shape = c.shape(y)
    return c.apply(Reshape(shape=(0, shape[1], -1)), y, node=node) if line else y


def _window(
    c: Converter, node: OnnxNode, x: str, kernel: tuple[int, ...], line: bool
) -> tuple[tuple[int, int], dict[str, Any]]:
    """Its height and width; stride, dilation, pad and made_for as the operators take them."""
    axes = 1 if line else 2
    ones = (1,) * axes
    values = [kernel, node.ints("strides", ones), node.ints("dilations", ones)]
    pads = node.ints("pads", (0,) * (2 * axes))
    if any(len(v) != axes for v in values) or len(pads) != 2 * axes:
        raise node.refuse("its kernel, strides, dilations and pads differ in length")
    if line:
        values = [(1, *v) for v in values]
        pads = (0, pads[0], 0, pads[1])
    (kh, kw), (sh, sw), (dh, dw) = values
    auto, made_for = node.attribute("auto_pad", "NOTSET"), (0, 0)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        if min(sh, sw, kh, kw, dh, dw) < 1:
            raise node.refuse("a stride, kernel or dilation below 1")
        extent = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
        upper = auto == "SAME_UPPER"
        pads, made_for = same(c.shape(x)[2:], extent, (sh, sw), upper=upper)
    elif auto == "VALID":
        pads = (0, 0, 0, 0)
    elif auto != "NOTSET":
        raise node.refuse(f"padding {auto!r}")
    top, left, bottom, right = pads
    pad: Pads = (top, left, bottom, right)
    return (kh, kw), {"stride": (sh, sw), "dilation": (dh, dw), "pad": pad, "made_for": made_for}


def make_Conv(c: Converter, node: OnnxNode) -> list[str]:
    x, line = as_map(c, node, c.tensor(node, 0))
    if line and c.is_constant(node, 1):
        values = c.constant(node, 1)
        assert values is not None
        if values.ndim != 3:
            raise node.refuse("a weight with another number of axes than its input")
        weight = c.own_weight(node, "weight", values[:, :, None, :])
    elif line:
        shape = c.shape(c.tensor(node, 1))
        op = Reshape(shape=(0, shape[1], 1, shape[2]))
        weight = c.apply(op, c.tensor(node, 1), node=node, part="weight")
    else:
        weight = c.tensor(node, 1)
    own = c.shape(weight)[2:]
    _, window = _window(c, node, x, own[1:] if line else own, line)
    conv = Conv2d(**window, groups=node.attribute("group", 1))
    inputs = [x, weight, c.tensor(node, 2)] if node.has(2) else [x, weight]
    y = c.apply(conv, *inputs, node=node, part="line" if line else "")
    return [as_line(c, node, y, line)]


def _deep(c: Converter, node: OnnxNode) -> OnnxNode:
    """Windows along the first of three axes as windows of maps (n, c, d, h w): PyTorch's
    LocalResponseNorm takes the mean of neighbouring channels so."""
    ones = (1, 1, 1)
    kernel, strides = node.ints("kernel_shape"), node.ints("strides", ones)
    dilations, pads = node.ints("dilations", ones), node.ints("pads", (0,) * 6)
    flat = all(len(v) == 3 and v[1:] == (1, 1) for v in (kernel, strides, dilations))
    auto = node.attribute("auto_pad", "NOTSET")
    if not flat or auto != "NOTSET" or len(pads) != 6 or any(pads[1:3] + pads[4:]):
        raise node.refuse("of an input with 5 axes; 3 and 4 are known here")
    window = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    pairs: dict[str, Any] = {name: values[:2] for name, values in window.items()}
    pairs["pads"] = (pads[0], 0, pads[3], 0)
    return replace(node, attributes={**node.attributes, **pairs})


def _pool(c: Converter, node: OnnxNode, op: type[MaxPool] | type[AveragePool]) -> list[str]:
    x, shape = c.tensor(node, 0), c.shape(c.tensor(node, 0))
    deep = len(shape) == 5
    if deep:
        node = _deep(c, node)
        x = c.apply(Reshape(shape=(0, *shape[1:3], -1)), x, node=node, part="flat")
    x, line = as_map(c, node, x)
    kernel, window = _window(c, node, x, node.ints("kernel_shape"), line)
    window["ceil"] = bool(node.attribute("ceil_mode", 0))
    if op is AveragePool:
        window["count_include_pad"] = bool(node.attribute("count_include_pad", 0))
    pool = op(kernel=kernel, **window)
    y = c.apply(pool, x, node=node, part="line" if line else "deep" if deep else "")
    if deep:
        return [c.apply(Reshape(shape=(0, *c.shape(y)[1:3], *shape[3:])), y, node=node)]
    return [as_line(c, node, y, line)]


def make_MaxPool(c: Converter, node: OnnxNode) -> list[str]:
    if node.attribute("storage_order", 0):
        raise node.refuse("storage in columns")
    return _pool(c, node, MaxPool)


_DIVISOR: Final = re.compile(r"avg_pool\dd\.default\].*(?:True|False), (?:True|False), (\d+)\)")


def _divides_by(node: OnnxNode, divisor: str) -> bool:
    """Whether each of its windows has this many elements, all of which count."""
    counted = node.attribute("count_include_pad", 0) or not any(node.attributes.get("pads", ()))
    area = str(math.prod(node.ints("kernel_shape")))
    return bool(counted) and not node.attribute("ceil_mode", 0) and divisor == area


def make_AveragePool(c: Converter, node: OnnxNode) -> list[str]:
    lost = _DIVISOR.search(node.origin)
    if lost and not _divides_by(node, lost[1]):
        raise node.refuse(
            f"in PyTorch it divides by {lost[1][:20]} (divisor_override), which the exporter left "
            "out, so that the file computes something else; multiply behind a plain average "
            "pooling there, and export it again"
        )
    return _pool(c, node, AveragePool)


def _global(c: Converter, node: OnnxNode, op: Op, mode: str) -> list[str]:
    x = c.tensor(node, 0)
    rank = len(c.shape(x))
    if rank == 4:
        return [c.apply(op, x, node=node)]
    return [c.apply(Reduce(mode=mode, axes=tuple(range(2, rank))), x, node=node)]


def make_GlobalAveragePool(c: Converter, node: OnnxNode) -> list[str]:
    return _global(c, node, GlobalAveragePool(), "mean")


def make_GlobalMaxPool(c: Converter, node: OnnxNode) -> list[str]:
    return _global(c, node, GlobalMaxPool(), "max")


# -- dense


def make_Gemm(c: Converter, node: OnnxNode) -> list[str]:
    """y = alpha A' B' + beta C; B as a constant is brought into our layout (out, in) once."""
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    a = c.tensor(node, 0)
    if node.attribute("transA", 0):
        a = c.apply(Transpose(perm=(1, 0)), a, node=node, part="a")
    flip = not node.attribute("transB", 0)
    if c.is_constant(node, 1):
        values = c.constant(node, 1)
        assert values is not None
        scaled = values.astype(np.float32) * np.float32(alpha)
        b = c.own_weight(node, "weight", scaled.T if flip else scaled)
    else:
        b = c.tensor(node, 1)
        b = c.apply(Transpose(perm=(1, 0)), b, node=node, part="b") if flip else b
    inputs = [a, b]
    if c.is_constant(node, 2):
        bias = c.constant(node, 2)
        assert bias is not None
        if bias.size in (1, c.shape(b)[0]) and bias.size == max(bias.shape[-1:], default=1):
            full = np.broadcast_to(bias.reshape(-1) * np.float32(beta), (c.shape(b)[0],))
            inputs.append(c.own_weight(node, "bias", full))
    variable = not c.is_constant(node, 1)
    added = node.has(2) and len(inputs) == 2
    scale = variable and alpha != 1
    if scale and len(inputs) == 3:
        raise node.refuse("a factor on a product of two tensors")
    y = c.apply(Linear(), *inputs, node=node, part="product" if added or scale else "")
    if scale:
        factor = scalar(c, node, "alpha", alpha)
        y = c.apply(Mul(), y, factor, node=node, part="scaled" if added else "")
    if added:
        term = c.tensor(node, 2)
        if beta != 1:
            factor = scalar(c, node, "beta", beta)
            term = c.apply(Mul(), term, factor, node=node, part="term")
        y = c.apply(Add(), y, term, node=node)
    return [y]


# -- normalisation


def make_BatchNormalization(c: Converter, node: OnnxNode) -> list[str]:
    if node.attribute("training_mode", 0):
        raise node.refuse("in training mode; export it after model.eval()")
    if not node.attribute("spatial", 1):  # before opset 9
        raise node.refuse("with statistics of its own for every pixel")
    eps = node.attribute("epsilon", 1e-5)
    inputs = [c.tensor(node, i) for i in range(5)]
    rank = len(c.shape(inputs[0]))
    if rank <= 4:
        return [c.apply(BatchNorm(eps=eps), *inputs, node=node)]
    raise node.refuse(f"of an input with {rank} axes")


def make_LpNormalization(c: Converter, node: OnnxNode) -> list[str]:
    x, power = c.tensor(node, 0), node.attribute("p", 2)
    axis = node.axis(-1, len(c.shape(x)))
    if power == 2:
        return [c.apply(L2Normalize(axis=axis, eps=1e-30), x, node=node)]
    if power != 1:
        raise node.refuse("a norm other than L1 and L2")
    along = Reduce(mode="sum", axes=(axis,))
    total = c.apply(along, magnitude(c, node, x, "size"), node=node, part="sum")
    norm = c.apply(Maximum(), total, scalar(c, node, "least", 1e-30), node=node, part="norm")
    return [c.apply(Div(), x, norm, node=node)]


# -- activations


def _unary(c: Converter, node: OnnxNode, op: Op) -> list[str]:
    return [c.apply(op, c.tensor(node, 0), node=node)]


def make_Relu(c: Converter, node: OnnxNode) -> list[str]:
    return _unary(c, node, ReLU())


def make_LeakyRelu(c: Converter, node: OnnxNode) -> list[str]:
    return _unary(c, node, LeakyReLU(alpha=node.attribute("alpha", 0.01)))


def make_Sigmoid(c: Converter, node: OnnxNode) -> list[str]:
    return _unary(c, node, Sigmoid())


def make_HardSigmoid(c: Converter, node: OnnxNode) -> list[str]:
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    return _unary(c, node, HardSigmoid(alpha=alpha, beta=beta))


def make_HardSwish(c: Converter, node: OnnxNode) -> list[str]:
    return _unary(c, node, HardSwish())


def make_Erf(c: Converter, node: OnnxNode) -> list[str]:
    return _unary(c, node, Erf())


def make_Clip(c: Converter, node: OnnxNode) -> list[str]:
    """Bounds are attributes before opset 11, inputs since; infinite ones mean none."""
    bounds = []
    for i, name, default in ((1, "min", -_LARGEST), (2, "max", _LARGEST)):
        value = c.constant(node, i)
        bound = node.attribute(name, default) if value is None else float(value.reshape(()))
        bounds.append(min(max(bound, -_LARGEST), _LARGEST))
    low, high = bounds
    return _unary(c, node, Clip(low=min(low, high), high=high))  # min above max: max wins


def make_PRelu(c: Converter, node: OnnxNode) -> list[str]:
    """Per channel or with one slope; any other slope as max(x, 0) - slope max(-x, 0)."""
    x, shape = c.tensor(node, 0), c.shape(c.tensor(node, 0))
    slope = c.constant(node, 1) if c.is_constant(node, 1) else None
    if slope is not None and 2 <= len(shape) <= 4:
        wide = (1,) * (len(shape) - slope.ndim) + slope.shape
        if slope.size == 1 or (len(wide) == len(shape) and slope.size == wide[1] == shape[1]):
            return [c.apply(PReLU(), x, c.own_weight(node, "slope", slope.reshape(-1)), node=node)]
    minus = scalar(c, node, "minus", -1)
    mirrored = c.apply(Mul(), x, minus, node=node, part="mirrored")
    below = c.apply(ReLU(), mirrored, node=node, part="below")
    below = c.apply(Mul(), below, c.tensor(node, 1), node=node, part="sloped")
    above = c.apply(ReLU(), x, node=node, part="above")
    return [c.apply(Sub(), above, below, node=node)]


# -- element by element


def _chain(c: Converter, node: OnnxNode, op: type[Op]) -> list[str]:
    """One, two or more inputs, from the left."""
    y = c.tensor(node, 0)
    if len(node.inputs) == 1:
        return [y]
    for i in range(1, len(node.inputs)):
        part = "" if i == len(node.inputs) - 1 else f"of{i + 1}"
        y = c.apply(op(), y, c.tensor(node, i), node=node, part=part)
    return [y]


def make_Add(c: Converter, node: OnnxNode) -> list[str]:
    masked = hidden(c, node)
    if masked is None:
        return _chain(c, node, Add)
    i, mask = masked
    return [c.apply(Add(), c.tensor(node, 1 - i), c.own_weight(node, "mask", mask), node=node)]


make_Sum = make_Add


def make_Sub(c: Converter, node: OnnxNode) -> list[str]:
    return _chain(c, node, Sub)


def make_Mul(c: Converter, node: OnnxNode) -> list[str]:
    return _chain(c, node, Mul)


def make_Div(c: Converter, node: OnnxNode) -> list[str]:
    return _chain(c, node, Div)


def make_Max(c: Converter, node: OnnxNode) -> list[str]:
    return _chain(c, node, Maximum)


def make_Min(c: Converter, node: OnnxNode) -> list[str]:
    """-max(-a, -b, ...)."""
    minus = scalar(c, node, "minus", -1)
    negated = [
        c.apply(Mul(), c.tensor(node, i), minus, node=node, part=f"minus{i}")
        for i in range(len(node.inputs))
    ]
    y = negated[0]
    for i, other in enumerate(negated[1:], start=2):
        y = c.apply(Maximum(), y, other, node=node, part=f"of{i}")
    return [c.apply(Mul(), y, minus, node=node)]


def make_Neg(c: Converter, node: OnnxNode) -> list[str]:
    minus = scalar(c, node, "minus", -1)
    return [c.apply(Mul(), c.tensor(node, 0), minus, node=node)]


def make_Reciprocal(c: Converter, node: OnnxNode) -> list[str]:
    one = scalar(c, node, "one", 1)
    return [c.apply(Div(), one, c.tensor(node, 0), node=node)]
