"""ONNX's reductions along axes, and means of several tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyface.formats.onnx_file import OnnxNode
from tinyface.formats.onnx_smooth import magnitude, times
from tinyface.ops import Add, Exp, Identity, Log, Mul, Reduce, Sub

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter


def _reduce(c: Converter, node: OnnxNode, mode: str, x: str = "", part: str = "") -> str:
    """Of input 0, or of ``x`` that was made of it."""
    x = x or c.tensor(node, 0)
    axes = _axes(c, node, x)
    if not axes:
        return c.apply(Identity(), x, node=node, part=part)
    op = Reduce(mode=mode, axes=axes, keepdims=bool(node.attribute("keepdims", 1)))
    return c.apply(op, x, node=node, part=part)


def _axes(c: Converter, node: OnnxNode, x: str) -> tuple[int, ...]:
    """From input 1 or the attribute, counted from the front; all, or none at all, if not given."""
    rank = len(c.shape(x))
    none = () if node.attribute("noop_with_empty_axes", 0) else tuple(range(rank))
    return c.axes(node, rank) or none


def make_ReduceMean(c: Converter, node: OnnxNode) -> list[str]:
    return [_reduce(c, node, "mean")]


def make_ReduceSum(c: Converter, node: OnnxNode) -> list[str]:
    return [_reduce(c, node, "sum")]


def make_ReduceMax(c: Converter, node: OnnxNode) -> list[str]:
    return [_reduce(c, node, "max")]


def make_ReduceMin(c: Converter, node: OnnxNode) -> list[str]:
    """-max(-x)."""
    minus = times(c, node, c.tensor(node, 0), -1, "minus")
    return [times(c, node, _reduce(c, node, "max", minus, "max"), -1, "")]


def make_ReduceL1(c: Converter, node: OnnxNode) -> list[str]:
    """The sum of |x|."""
    return [_reduce(c, node, "sum", magnitude(c, node, c.tensor(node, 0), "size"))]


def make_ReduceL2(c: Converter, node: OnnxNode) -> list[str]:
    return [_reduce(c, node, "l2")]


def make_ReduceSumSquare(c: Converter, node: OnnxNode) -> list[str]:
    x = c.tensor(node, 0)
    return [_reduce(c, node, "sum", c.apply(Mul(), x, x, node=node, part="square"))]


def make_ReduceLogSum(c: Converter, node: OnnxNode) -> list[str]:
    return [c.apply(Log(), _reduce(c, node, "sum", part="sum"), node=node)]


def make_ReduceLogSumExp(c: Converter, node: OnnxNode) -> list[str]:
    """most + log(sum exp(x - most)), with the largest of all for most: no power overflows."""
    x = c.tensor(node, 0)
    axes, kept = _axes(c, node, x), node.attribute("keepdims", 1)
    if not axes:
        return [c.apply(Identity(), x, node=node)]
    most = c.apply(Reduce(mode="max", axes=axes), x, node=node, part="most")
    below = c.apply(Sub(), x, most, node=node, part="below")
    power = c.apply(Exp(), below, node=node, part="power")
    total = c.apply(Reduce(mode="sum", axes=axes), power, node=node, part="sum")
    log = c.apply(Log(), total, node=node, part="log")
    y = c.apply(Add(), log, most, node=node, part="" if kept else "kept")
    return [y if kept else _reduce(c, node, "max", y)]  # each of one number: the axes go


def make_Mean(c: Converter, node: OnnxNode) -> list[str]:
    """Of one, two or more tensors, element by element."""
    total = c.tensor(node, 0)
    for i in range(1, len(node.inputs)):
        total = c.apply(Add(), total, c.tensor(node, i), node=node, part=f"of{i + 1}")
    return [times(c, node, total, 1 / len(node.inputs), "")]
