"""ONNX's matrix product, in terms of our operators."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import Concat, Linear, Reshape, Slice, Transpose

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter

MAX_PRODUCTS: Final = 64  # matrices in a batch, each of which becomes an operator


def make_MatMul(c: Converter, node: OnnxNode) -> list[str]:
    """(..., m, k) x (k, o): rows are independent, so the leading axes are folded into them."""
    x, shape = c.tensor(node, 0), c.shape(c.tensor(node, 0))
    if c.is_constant(node, 1):
        values = c.constant(node, 1)
        assert values is not None
        if values.ndim != 2 or len(shape) < 2:
            return _batched(c, node)
        weight = c.own_weight(node, "weight", values.T)
    elif len(c.shape(c.tensor(node, 1))) != 2 or len(shape) < 2:
        return _batched(c, node)
    else:
        weight = c.apply(Transpose(perm=(1, 0)), c.tensor(node, 1), node=node, part="weight")
    if len(shape) == 2:
        return [c.apply(Linear(), x, weight, node=node)]
    rows = c.apply(Reshape(shape=(-1, shape[-1])), x, node=node, part="rows")
    y = c.apply(Linear(), rows, weight, node=node, part="product")
    return [c.apply(Reshape(shape=(-1, *shape[1:-1], c.shape(weight)[0])), y, node=node)]


def _batched(c: Converter, node: OnnxNode) -> list[str]:
    """Stacks of matrices, and vectors: one product after the other, paired as in NumPy."""
    a, b = c.tensor(node, 0), c.tensor(node, 1)
    left, right = c.shape(a), c.shape(b)
    wide = ((1, *left) if len(left) == 1 else left, (*right, 1) if len(right) == 1 else right)
    batch = np.broadcast_shapes(wide[0][:-2], wide[1][:-2])
    if math.prod(batch) > MAX_PRODUCTS:
        raise node.refuse(f"{math.prod(batch)} matrix products (at most {MAX_PRODUCTS})")
    stacks = []
    for part, tensor, shape in (("a", a, wide[0]), ("b", b, wide[1])):
        flat = (-1, *shape[-2:])
        stacks.append(c.apply(Reshape(shape=flat), tensor, node=node, part=part))
    numbers = [
        np.broadcast_to(np.arange(math.prod(s[:-2])).reshape(s[:-2]), batch).reshape(-1)
        for s in wide
    ]
    products = []
    for i, pair in enumerate(zip(*numbers, strict=True)):
        matrices = []
        for part, stack, number in zip("ab", stacks, pair, strict=True):
            cut = Slice(axes=(0,), starts=(int(number),), ends=(int(number) + 1,), steps=(1,))
            one = c.apply(cut, stack, node=node, part=f"{part}{i}")
            sides = c.shape(one)[1:]
            matrices.append(c.apply(Reshape(shape=sides), one, node=node, part=f"{part}{i}:matrix"))
        flipped = c.apply(Transpose(perm=(1, 0)), matrices[1], node=node, part=f"b{i}:flipped")
        products.append(c.apply(Linear(), matrices[0], flipped, node=node, part=f"product{i}"))
    y = c.apply(Concat(axis=0), *products, node=node, part="products")
    out = (*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ()))
    return [c.apply(Reshape(shape=out), y, node=node)]
