"""ONNX's reductions along axes, and means of several tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import Add, Identity, Log, Mul, Reduce

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter


def _reduce(c: Converter, node: OnnxNode, mode: str, x: str = "", part: str = "") -> str:
    """Of input 0, or of ``x`` that was made of it."""
    x = x or c.tensor(node, 0)
    axes = _axes(c, node, x)
    if not axes:
        return _same(c, node, x, part)
    op = Reduce(mode=mode, axes=axes, keepdims=bool(node.attribute("keepdims", 1)))
    return c.apply(op, x, node=node, part=part)


def _axes(c: Converter, node: OnnxNode, x: str) -> tuple[int, ...]:
    """From input 1 or the attribute, counted from the front; all, or none at all, if not given."""
    rank = len(c.shape(x))
    none = () if node.attribute("noop_with_empty_axes", 0) else tuple(range(rank))
    return c.axes(node, rank) or none


def _same(c: Converter, node: OnnxNode, x: str, part: str = "") -> str:
    """Along no axes at all."""
    return c.apply(Identity(), x, node=node, part=part)


def make_ReduceMean(c: Converter, node: OnnxNode) -> list[str]:
    return [_reduce(c, node, "mean")]


def make_ReduceSum(c: Converter, node: OnnxNode) -> list[str]:
    return [_reduce(c, node, "sum")]


def make_ReduceMax(c: Converter, node: OnnxNode) -> list[str]:
    return [_reduce(c, node, "max")]


def make_ReduceMin(c: Converter, node: OnnxNode) -> list[str]:
    x = c.tensor(node, 0)
    axes, keepdims = _axes(c, node, x), bool(node.attribute("keepdims", 1))
    return [c.formulas(node).smallest_along(x, axes, keepdims) if axes else _same(c, node, x)]


def make_ReduceL1(c: Converter, node: OnnxNode) -> list[str]:
    """The sum of |x|."""
    return [_reduce(c, node, "sum", c.formulas(node).magnitude(c.tensor(node, 0), "size"))]


def make_ReduceL2(c: Converter, node: OnnxNode) -> list[str]:
    return [_reduce(c, node, "l2")]


def make_ReduceSumSquare(c: Converter, node: OnnxNode) -> list[str]:
    x = c.tensor(node, 0)
    return [_reduce(c, node, "sum", c.apply(Mul(), x, x, node=node, part="square"))]


def make_ReduceLogSum(c: Converter, node: OnnxNode) -> list[str]:
    return [c.apply(Log(), _reduce(c, node, "sum", part="sum"), node=node)]


def make_ReduceLogSumExp(c: Converter, node: OnnxNode) -> list[str]:
    x = c.tensor(node, 0)
    axes, keepdims = _axes(c, node, x), bool(node.attribute("keepdims", 1))
    return [c.formulas(node).log_sum_exp(x, axes, keepdims) if axes else _same(c, node, x)]


def make_Mean(c: Converter, node: OnnxNode) -> list[str]:
    """Of one, two or more tensors, element by element."""
    tensors = [c.tensor(node, i) for i in range(len(node.inputs))]
    write = c.formulas(node)
    return [write.times(write.chain(Add(), tensors, "sum"), 1 / len(tensors))]
