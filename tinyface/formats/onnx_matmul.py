"""ONNX's matrix product, in terms of our operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import Linear, MatMul, Reshape

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter


def make_MatMul(c: Converter, node: OnnxNode) -> list[str]:
    """(..., m, k) x (k, o): a linear layer where the right matrix is a constant."""
    x, shape = c.tensor(node, 0), c.shape(c.tensor(node, 0))
    values = c.constant(node, 1) if c.is_constant(node, 1) else None
    if values is not None and values.ndim == 2 and len(shape) >= 2:
        return [c.apply(Linear(), x, c.own_weight(node, "weight", values.T), node=node)]
    return _product(c, node, x, c.tensor(node, 1))


def _product(c: Converter, node: OnnxNode, a: str, b: str) -> list[str]:
    """Stacks of matrices; a vector is a row on the left and a column on the right."""
    left, right = c.shape(a), c.shape(b)
    if len(left) > 1 < len(right):
        return [c.apply(MatMul(), a, b, node=node)]
    if len(left) == 1:
        a = c.apply(Reshape(shape=(1, *left)), a, node=node, part="row")
    if len(right) == 1:
        b = c.apply(Reshape(shape=(*right, 1)), b, node=node, part="column")
    y = c.apply(MatMul(), a, b, node=node, part="product")
    stack = c.shape(y)[:-2]
    out = (*stack, *left[-2:-1], *(right[-1:] if len(right) > 1 else ()))
    return [c.apply(Reshape(shape=out), y, node=node)]
