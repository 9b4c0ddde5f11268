"""ONNX operators that are formulas of ours: powers and roots, smooth activations, norms, LRN.

Instance and group norm are layer norm of a map that is seen as rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import (
    GELU,
    Add,
    Div,
    Exp,
    LayerNorm,
    Maximum,
    Mul,
    Reduce,
    Sigmoid,
    SiLU,
    Sqrt,
    Sub,
)

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter


def make_Exp(c: Converter, node: OnnxNode) -> list[str]:
    return [c.apply(Exp(), c.tensor(node, 0), node=node)]


def make_Pow(c: Converter, node: OnnxNode) -> list[str]:
    exponent = c.constant(node, 1)
    if exponent is None or exponent.size != 1:
        raise node.refuse("a power other than one number")
    return [c.formulas(node).power(c.tensor(node, 0), float(exponent.reshape(())))]


def make_LRN(c: Converter, node: OnnxNode) -> list[str]:
    x = c.tensor(node, 0)
    usual = {"size": 0, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    numbers = (node.attribute(name, value) for name, value in usual.items())
    return [c.formulas(node).across_channels(x, c.shape(x), *numbers)]


def make_Sqrt(c: Converter, node: OnnxNode) -> list[str]:
    """A root; one that ends a norm, sqrt(sum x x), or sqrt(max(sum x x, eps)) as TensorFlow
    writes it, as what it is."""
    makers, least = c.file.makers, None
    total = makers.get(node.inputs[0]) if node.has(0) else None
    if total is not None and total.kind == "Max" and len(total.inputs) == 2:
        least = c.constant(total, 1) if c.is_constant(total, 1) else None
        total = makers.get(total.inputs[0]) if least is not None and least.size == 1 else None
    square = makers.get(total.inputs[0]) if total and total.kind == "ReduceSum" else None
    squared = square is not None and (
        (square.kind == "Pow" and c.is_constant(square, 1) and np.all(c.constant(square, 1) == 2))
        or (square.kind == "Mul" and len(set(square.inputs)) == 1)
    )
    made = c.made.get(total.outputs[0]) if total else None
    if not squared or square is None or not isinstance(made, Reduce):
        return [c.apply(Sqrt(), c.tensor(node, 0), node=node)]
    norm = Reduce(mode="l2", axes=made.axes, keepdims=made.keepdims)
    if least is None:
        return [c.apply(norm, c.tensor(square, 0), node=node)]
    y = c.apply(norm, c.tensor(square, 0), node=node, part="norm")
    least = np.sqrt(np.maximum(least, 0)).astype(np.float32)
    return [c.apply(Maximum(), y, c.own_weight(node, "least", least.reshape(-1)), node=node)]


def make_Gelu(c: Converter, node: OnnxNode) -> list[str]:
    """As it is defined, or by tanh."""
    tanh = node.attribute("approximate", "none") == "tanh"
    return [c.apply(GELU(tanh), c.tensor(node, 0), node=node)]


def make_Swish(c: Converter, node: OnnxNode) -> list[str]:
    """x sigmoid(alpha x)."""
    x, alpha = c.tensor(node, 0), node.attribute("alpha", 1.0)
    if alpha == 1:
        return [c.apply(SiLU(), x, node=node)]
    gate = c.apply(Sigmoid(), c.formulas(node).times(x, alpha, "steep"), node=node, part="gate")
    return [c.apply(Mul(), x, gate, node=node)]


def _normalised(c: Converter, node: OnnxNode, x: str, rows: tuple[int, ...]) -> str:
    return c.formulas(node).rows(x, c.shape(x), rows, node.attribute("epsilon", 1e-5))


def _affine(c: Converter, node: OnnxNode, x: str, shape: tuple[int, ...], repeat: int = 1) -> str:
    """x times input 1 plus input 2 (if there), which are constants brought to ``shape``, each
    number ``repeat`` times."""
    scale, shift = c.constant(node, 1), c.constant(node, 2)
    if scale is None:
        raise node.refuse("its scale is missing")
    weight = c.own_weight(node, "scale", np.repeat(scale, repeat).reshape(shape))
    if shift is None:
        return c.apply(Mul(), x, weight, node=node)
    y = c.apply(Mul(), x, weight, node=node, part="scaled")
    return c.apply(
        Add(), y, c.own_weight(node, "shift", np.repeat(shift, repeat).reshape(shape)), node=node
    )


def make_InstanceNormalization(c: Converter, node: OnnxNode) -> list[str]:
    """Every channel of every picture by its own mean and variance."""
    x = c.tensor(node, 0)
    shape = c.shape(x)
    y = _normalised(c, node, x, (0, shape[1], -1))
    return [_affine(c, node, y, (-1, *[1] * (len(shape) - 2)))]


def make_LayerNormalization(c: Converter, node: OnnxNode) -> list[str]:
    """Along the last axes, from ``axis`` on."""
    x = c.tensor(node, 0)
    shape = c.shape(x)
    axis = node.axis(-1, len(shape))
    if axis == len(shape) - 1 and len(node.outputs) == 1:
        return [_last(c, node, x, axis)]
    rows = (0, *shape[1:axis], -1) if axis else (1, -1)
    y = _normalised(c, node, x, rows)
    return [
        _affine(c, node, y, shape[axis:]),
        *_statistics(c, node, x, (*range(axis, len(shape)),)),
    ]


def make_RMSNormalization(c: Converter, node: OnnxNode) -> list[str]:
    """scale x / sqrt(mean(x x) + eps) along the last axes, from ``axis`` on. Zhang & Sennrich
    2019, eq. 4."""
    x, rank = c.tensor(node, 0), len(c.shape(c.tensor(node, 0)))
    root = _root_of_mean(c, node, x, tuple(range(node.axis(-1, rank), rank)))
    y = c.apply(Div(), x, root, node=node, part="normalised")
    return [c.apply(Mul(), y, c.tensor(node, 1), node=node)]


def _root_of_mean(c: Converter, node: OnnxNode, x: str, axes: tuple[int, ...]) -> str:
    return c.formulas(node).root_of_mean(x, axes, node.attribute("epsilon", 1e-5))


def _last(c: Converter, node: OnnxNode, x: str, axis: int) -> str:
    """The operator itself, with what it multiplies and adds."""
    vectors = [c.constant(node, i) for i in (1, 2) if node.has(i)]
    if not vectors or any(vector is None for vector in vectors):
        raise node.refuse("its scale or shift is no constant")
    given = [
        c.own_weight(node, part, vector.reshape(-1))
        for part, vector in zip(("scale", "shift"), vectors, strict=False)
        if vector is not None
    ]
    op = LayerNorm(axis=axis, eps=node.attribute("epsilon", 1e-5))
    return c.apply(op, x, *given, node=node)


def _statistics(c: Converter, node: OnnxNode, x: str, axes: tuple[int, ...]) -> tuple[str, str]:
    """The mean, and 1 / sqrt(var + eps): outputs that are of use in training only."""
    mean = c.apply(Reduce(mode="mean", axes=axes), x, node=node, part="mean")
    centred = c.apply(Sub(), x, mean, node=node, part="centred")
    root = _root_of_mean(c, node, centred, axes)
    return mean, c.formulas(node).inverse(root, "inverse")


def make_GroupNormalization(c: Converter, node: OnnxNode) -> list[str]:
    """Every group of channels by its own mean and variance. Scale and shift are one per channel,
    before opset 21 one per group."""
    x = c.tensor(node, 0)
    shape, groups = c.shape(x), node.attribute("num_groups", 0)
    if groups < 1 or shape[1] % groups:
        raise node.refuse(f"{groups} groups of {shape[1]} channels")
    y = _normalised(c, node, x, (0, groups, -1))
    repeat = 1 if node.opset >= 21 else shape[1] // groups
    return [_affine(c, node, y, (-1, *[1] * (len(shape) - 2)), repeat)]
