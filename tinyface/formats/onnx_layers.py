"""ONNX's products, norms and element-wise operators: ``make_TYPE(converter, node) -> tensors``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tinyface.formats.onnx_file import OnnxNode
from tinyface.formats.onnx_smooth import hidden
from tinyface.ops import (
    Add,
    BatchNorm,
    Clip,
    Div,
    Erf,
    HardSigmoid,
    HardSwish,
    L2Normalize,
    LeakyReLU,
    Linear,
    Maximum,
    Mul,
    Op,
    PReLU,
    Reduce,
    ReLU,
    Sigmoid,
    Sub,
    Transpose,
)
from tinyface.types import Shape

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter

_LARGEST: Final = float(np.finfo(np.float32).max)


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
        factor = c.formulas(node).number("alpha", alpha)
        y = c.apply(Mul(), y, factor, node=node, part="scaled" if added else "")
    if added:
        term = c.tensor(node, 2)
        if beta != 1:
            factor = c.formulas(node).number("beta", beta)
            term = c.apply(Mul(), term, factor, node=node, part="term")
        y = c.apply(Add(), y, term, node=node)
    return [y]


# -- normalisation


def make_BatchNormalization(c: Converter, node: OnnxNode) -> list[str]:
    if node.attribute("training_mode", 0):
        raise node.refuse("in training mode; export it after model.eval()")
    eps = node.attribute("epsilon", 1e-5)
    inputs = [c.tensor(node, i) for i in range(5)]
    each = not node.attribute("spatial", 1)  # before opset 9; MXNet wrote it of ordinary ones
    if each and any(len(c.shape(vector)) != 1 for vector in inputs[1:]):
        raise node.refuse("with statistics of its own for every pixel; none of today's has such")
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
    total = c.apply(along, c.formulas(node).magnitude(x, "size"), node=node, part="sum")
    norm = c.apply(
        Maximum(), total, c.formulas(node).number("least", 1e-30), node=node, part="norm"
    )
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
    """Per channel or with one slope; any other slope as max(x, 0) - slope max(-x, 0). A vector that
    fits the channels and not the last axis is MXNet's way to write one slope a channel."""
    x, shape = c.tensor(node, 0), c.shape(c.tensor(node, 0))
    slope = c.constant(node, 1) if c.is_constant(node, 1) else None
    if slope is not None and 2 <= len(shape) <= 4:
        wide = (1,) * (len(shape) - slope.ndim) + slope.shape
        vector = slope.shape == (shape[1],) and shape[-1] not in (1, shape[1])
        if (
            slope.size == 1
            or vector
            or (len(wide) == len(shape) and slope.size == wide[1] == shape[1])
        ):
            return [c.apply(PReLU(), x, c.own_weight(node, "slope", slope.reshape(-1)), node=node)]
    minus = c.formulas(node).number("minus", -1)
    mirrored = c.apply(Mul(), x, minus, node=node, part="mirrored")
    below = c.apply(ReLU(), mirrored, node=node, part="below")
    below = c.apply(Mul(), below, c.tensor(node, 1), node=node, part="sloped")
    above = c.apply(ReLU(), x, node=node, part="above")
    return [c.apply(Sub(), above, below, node=node)]


# -- element by element


def _chain(c: Converter, node: OnnxNode, op: type[Op]) -> list[str]:
    """One, two or more inputs, from the left."""
    count = range(len(node.inputs))
    maps = [c.shape(c.tensor(node, i)) for i in count if not c.is_constant(node, i)]
    most: Shape = max(maps, key=len, default=())
    return [c.formulas(node).chain(op(), [_narrow(c, node, i, most) for i in count])]


def _narrow(c: Converter, node: OnnxNode, i: int, most: Shape) -> str:
    """Input i; a constant without the axes along which it repeats itself beside a map as ``most``,
    as weights do that were expanded to a map's size: for a larger one they are the same."""
    value = c.constant(node, i) if c.is_constant(node, i) else None
    if value is None or value.size < 2 or value.ndim > len(most) or value.dtype.kind != "f":
        return c.tensor(node, i)
    narrow = value
    for axis in range(-value.ndim, 0):
        first = narrow.take([0], axis)
        alike = (narrow == first) & (np.signbit(narrow) == np.signbit(first))  # 0 is not -0
        if most[axis] == value.shape[axis] > 1 and alike.all():
            narrow = first
    if narrow is value:
        return c.tensor(node, i)
    return c.own_weight(node, f"once{i}", narrow)


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
    return [c.formulas(node).smallest([c.tensor(node, i) for i in range(len(node.inputs))])]


def make_Neg(c: Converter, node: OnnxNode) -> list[str]:
    return [c.formulas(node).times(c.tensor(node, 0), -1)]


def make_Reciprocal(c: Converter, node: OnnxNode) -> list[str]:
    return [c.formulas(node).inverse(c.tensor(node, 0))]
