"""ncnn layers that multiply matrices: ``make_TYPE(converter, layer, tensors)``.

A matrix is (n, h, w) here, a stack of them (n, c, h, w).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tinyface.formats.ncnn_file import Layer
from tinyface.ops import Add, Linear, MatMul, Reshape, Softmax, Transpose

if TYPE_CHECKING:
    from tinyface.formats.ncnn import Converter


def _turned(c: Converter, layer: Layer, x: str, part: str) -> str:
    """The last two axes change places."""
    rank = len(c.shape(x))
    perm = (*range(rank - 2), rank - 1, rank - 2)
    return c.apply(Transpose(perm=perm), x, layer=layer, part=part)


def make_MatMul(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Stacks broadcast as in NumPy; a vector is a row on the left and a column on the right."""
    layer.known(0)
    a, b = x
    left, right = c.shape(a), c.shape(b)
    if len(left) == 2:
        a = c.apply(Reshape(shape=(0, 1, left[1])), a, layer=layer, part="row")
    if len(right) == 2:
        b = c.apply(Reshape(shape=(0, right[1], 1)), b, layer=layer, part="column")
    elif layer.whole(0, 0):
        b = _turned(c, layer, b, "right")
    rank = max(len(c.shape(a)), len(c.shape(b)))
    a, b = (_stacked(c, layer, t, rank, part) for t, part in ((a, "a"), (b, "b")))
    y = c.apply(MatMul(), a, b, layer=layer, part="" if 2 not in map(len, (left, right)) else "y")
    shape = c.shape(y)
    if len(left) == 2:
        shape = (*shape[:-2], shape[-1])
    if len(right) == 2:
        shape = shape[:-1]
    if shape == c.shape(y):
        return [y]
    return [c.apply(Reshape(shape=(0, *(shape[1:] or (1,)))), y, layer=layer)]


def _stacked(c: Converter, layer: Layer, x: str, rank: int, part: str) -> str:
    """Axes of length 1 behind the batch, up to so many in all."""
    shape = c.shape(x)
    if len(shape) == rank:
        return x
    wide = (0, *(1,) * (rank - len(shape)), *shape[1:])
    return c.apply(Reshape(shape=wide), x, layer=layer, part=f"{part}:stack")


def make_Gemm(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """alpha (a b + beta c) with a matrix for b, and a row or nothing for c, in the file."""
    layer.known(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 18, 20, 21, 22)
    outputs, inputs, kind = layer.whole(8, 0), layer.whole(9, 0), layer.whole(10, 0)
    plain = not layer.whole(4, 0) and layer.whole(5, 0) and not layer.whole(18, 0)
    plain = plain and len(x) == 1 and len(c.shape(x[0])) == 3
    addend = not layer.whole(6, 0) or kind in (-1, 0, 4)
    if not plain or not addend or layer.whole(11, 0) or min(outputs, inputs) < 1:
        raise layer.refuse("known here are products with a matrix of the file, and a row added")
    weight = c.weights.tagged(layer, outputs * inputs)
    weight = weight.reshape(outputs, inputs) if layer.whole(3, 0) else weight.reshape(inputs, -1).T
    alpha = layer.real(0, 1.0)
    given = [c.param(layer, "weight", weight * alpha)]
    if layer.whole(6, 0) and kind != -1:
        row = c.weights.tagged(layer, outputs if kind == 4 else 1)
        factor = alpha * layer.real(1, 1.0)
        given.append(c.param(layer, "bias", (row * factor).repeat(1 if kind == 4 else outputs)))
    rows = _turned(c, layer, x[0], "left") if layer.whole(2, 0) else x[0]
    last = layer.whole(14, 0)
    y = c.apply(Linear(), rows, *given, layer=layer, part="y" if last else "")
    return [_turned(c, layer, y, "") if last else y]


def _attention(
    c: Converter, layer: Layer, qkv: list[str], mask: str, scale: float, part: str
) -> str:
    """softmax(scale q k^T + mask) v of stacks (n, heads, rows, depth)."""
    q, k, v = qkv
    y = c.apply(MatMul(scale=scale), q, _turned(c, layer, k, "turned"), layer=layer, part="alike")
    if mask:
        rank = len(c.shape(y))
        y = c.apply(Add(), y, _stacked(c, layer, mask, rank, "mask"), layer=layer, part="masked")
    y = c.apply(Softmax(axis=len(c.shape(y)) - 1), y, layer=layer, part="shares")
    return c.apply(MatMul(), y, v, layer=layer, part=part)


def make_SDPA(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Attention of stacks (heads, rows, depth). Vaswani et al. 2017, eq. 1."""
    layer.known(5, 6, 7, 18)
    masked = bool(layer.whole(5, 0))
    if layer.whole(7, 0) or layer.whole(18, 0) or len(x) != 3 + masked:
        raise layer.refuse("keys that are kept from run to run, or int8")
    heads, others = (c.shape(t)[1:-2] for t in x[:2])
    if heads != others:
        raise layer.refuse(f"{heads} heads that ask {others}")
    scale = layer.real(6, 0.0) or 1 / math.sqrt(c.shape(x[0])[-1])
    return [_attention(c, layer, x[:3], x[3] if masked else "", scale, "")]


def make_MultiHeadAttention(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Linear layers in front of attention and behind it, of matrices (rows, depth)."""
    layer.known(0, 1, 2, 3, 4, 5, 6, 7, 18)
    width, heads = layer.whole(0, 0), layer.whole(1, 1)
    masked = bool(layer.whole(5, 0))
    if layer.whole(7, 0) or layer.whole(18, 0) or width < 1 or heads < 1 or width % heads:
        raise layer.refuse("keys that are kept from run to run, int8, or heads that do not fit")
    mask = x.pop() if masked else ""
    sources = x if len(x) == 3 else [x[0], x[-1], x[-1]]  # keys are values, and perhaps queries
    outer = layer.whole(2, 0) // width  # of queries and of the result
    parts = []
    for part, source, depth in zip(
        "qkv", sources, (outer, layer.whole(3, width), layer.whole(4, width)), strict=True
    ):
        y = _dense(c, layer, source, part, width, depth)
        y = c.apply(Reshape(shape=(0, 0, heads, -1)), y, layer=layer, part=f"{part}:heads")
        parts.append(c.apply(Transpose(perm=(0, 2, 1, 3)), y, layer=layer, part=f"{part}:stack"))
    scale = layer.real(6, 1 / math.sqrt(width // heads))
    y = _attention(c, layer, parts, mask, scale, "seen")
    y = c.apply(Transpose(perm=(0, 2, 1, 3)), y, layer=layer, part="rows")
    y = c.apply(Reshape(shape=(0, 0, -1)), y, layer=layer, part="joined")
    return [_dense(c, layer, y, "", outer, width)]


def _dense(c: Converter, layer: Layer, x: str, part: str, out: int, depth: int) -> str:
    weight = c.weights.tagged(layer, out * depth).reshape(out, depth)
    bias = c.weights.vector(layer, out)
    named = (("weight", weight), ("bias", bias))
    given = [c.param(layer, f"{part or 'out'}.{name}", value) for name, value in named]
    return c.apply(Linear(), x, *given, layer=layer, part=part)
