"""ONNX's smooth activations, logarithms and magnitudes, in terms of our operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tinyface.formats.arrays import Array
from tinyface.formats.formulas import LEAST
from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import (
    Add,
    Div,
    Exp,
    Log,
    Op,
    Reduce,
    Reshape,
    Softmax,
    Softplus,
    Sub,
    Tanh,
)

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter


def make_Abs(c: Converter, node: OnnxNode) -> list[str]:
    return [c.formulas(node).magnitude(c.tensor(node, 0))]


def make_Softsign(c: Converter, node: OnnxNode) -> list[str]:
    """x / (1 + |x|)."""
    x, write = c.tensor(node, 0), c.formulas(node)
    size, one = write.magnitude(x, "size"), write.number("one", 1)
    return [c.apply(Div(), x, c.apply(Add(), size, one, node=node, part="more"), node=node)]


def make_Log(c: Converter, node: OnnxNode) -> list[str]:
    return [c.apply(Log(), c.tensor(node, 0), node=node)]


def make_Softplus(c: Converter, node: OnnxNode) -> list[str]:
    return [c.apply(Softplus(), c.tensor(node, 0), node=node)]


def make_Mish(c: Converter, node: OnnxNode) -> list[str]:
    return [c.formulas(node).mish(c.tensor(node, 0))]


def make_Tanh(c: Converter, node: OnnxNode) -> list[str]:
    """tanh; of a softplus, as in Mish before opset 18."""
    x = c.tensor(node, 0)
    inner = c.file.makers.get(node.inputs[0])
    if inner is None or inner.kind != "Softplus":
        return [c.apply(Tanh(), x, node=node)]
    return [c.formulas(node).gate_of_mish(c.tensor(inner, 0))]


def make_Elu(c: Converter, node: OnnxNode) -> list[str]:
    return [c.formulas(node).bent(c.tensor(node, 0), 1, node.attribute("alpha", 1.0), 1)]


def make_Selu(c: Converter, node: OnnxNode) -> list[str]:
    gamma = node.attribute("gamma", 1.0507009873554805)
    below = gamma * node.attribute("alpha", 1.6732632423543772)
    return [c.formulas(node).bent(c.tensor(node, 0), gamma, below, 1)]


def make_Celu(c: Converter, node: OnnxNode) -> list[str]:
    alpha = node.attribute("alpha", 1.0)
    if not alpha > 0:
        raise node.refuse(f"alpha {alpha}; only one above 0 is known here")
    return [c.formulas(node).bent(c.tensor(node, 0), 1, alpha, 1 / alpha)]


# -- softmax and its logarithm


def make_Softmax(c: Converter, node: OnnxNode) -> list[str]:
    return _along(
        c, node, lambda x, axis, part: c.apply(Softmax(axis=axis), x, node=node, part=part)
    )


def make_LogSoftmax(c: Converter, node: OnnxNode) -> list[str]:
    """d - log(sum exp d) with d = x - max x."""

    def made(x: str, axis: int, part: str) -> str:
        def step(op: Op, *inputs: str, part: str) -> str:
            return c.apply(op, *inputs, node=node, part=part)

        most = step(Reduce(mode="max", axes=(axis,)), x, part="max")
        below = step(Sub(), x, most, part="below")
        total = step(Reduce(mode="sum", axes=(axis,)), step(Exp(), below, part="e"), part="sum")
        return step(Sub(), below, step(Log(), total, part="log"), part=part)

    return _along(c, node, made)


def hidden(c: Converter, node: OnnxNode) -> tuple[int, Array] | None:
    """Which operand of a sum in front of a softmax hides places by -infinity or the least number,
    and its numbers, if it is a constant that leaves a place in every row.

    The least number has no share in a softmax, either, and a model file can hold it.
    """
    known = [i for i in range(len(node.inputs)) if c.is_constant(node, i)]
    two = node.kind == "Add" and len(node.inputs) == 2
    mask = c.constant(node, known[0]) if two and len(known) == 1 else None
    if mask is None or not mask.ndim or mask.dtype.kind != "f" or mask.min(initial=0) > LEAST:
        return None
    rank = max(mask.ndim, len(c.shape(c.tensor(node, 1 - known[0]))))
    usual = -1 if node.opset >= 13 else 1
    rows = all(
        other.kind == "Softmax" and other.attribute("axis", usual) in (-1, rank - 1)
        for other in c.file.readers.get(node.outputs[0], ())
    )
    if node.outputs[0] in c.file.outputs or not rows or (mask.max(-1) <= LEAST).any():
        return None
    return known[0], mask.clip(LEAST)


def _along(c: Converter, node: OnnxNode, made: Callable[[str, int, str], str]) -> list[str]:
    """``made(x, axis, part)``; before opset 13 the axes from ``axis`` on count as one."""
    x, shape = c.tensor(node, 0), c.shape(c.tensor(node, 0))
    axis = node.axis(-1 if node.opset >= 13 else 1, len(shape))
    if node.opset >= 13 or math.prod(shape[axis + 1 :]) == 1:
        return [made(x, axis, "")]
    matrix = (-1, math.prod(shape[axis:]))
    y = c.apply(Reshape(shape=matrix), x, node=node, part="matrix")
    y = made(y, 1, "along")
    return [c.apply(Reshape(shape=(-1, *shape[1:])), y, node=node)]
