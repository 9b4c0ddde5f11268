"""ONNX's Attention (opset 23): products, a softmax between them, and masks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from tinyface.formats.arrays import Array
from tinyface.formats.formulas import LEAST
from tinyface.formats.onnx_file import OnnxNode
from tinyface.formats.onnx_gather import rows
from tinyface.ops import Add, MatMul, Reshape, Softmax, Tanh, Transpose

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter

MAX_MASK: Final = 1 << 24  # elements
_MOVES: Final = (
    "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
_NUMBERS: Final = ("Add", "Div", "Gemm", "MatMul", "Mul", "Sub")  # what makes no truth values


def make_Attention(c: Converter, node: OnnxNode) -> list[str]:
    """softmax(scale q k' + mask) v for every head. Vaswani et al. 2017, eq. 1.

    A head of keys and values may serve several heads of queries that follow each other.
    """
    if any(node.has(i) for i in (4, 5, 6)):
        raise node.refuse("it goes on from earlier keys (a cache); export the network without one")

    def step(op: MatMul | Softmax | Tanh | Transpose, *inputs: str, part: str) -> str:
        return c.apply(op, *inputs, node=node, part=part)

    q, k, v = (_heads(c, node, i) for i in range(3))
    (_, heads, length, depth), (_, served, count, _) = c.shape(q), c.shape(k)
    if heads % served:
        raise node.refuse(f"{heads} heads of queries and {served} of keys")
    if heads != served:
        each = np.repeat(np.arange(served), heads // served)
        k, v = (rows(c, node, x, 1, each, part) for x, part in ((k, "keys:"), (v, "values:")))
    turned = step(Transpose(perm=(0, 1, 3, 2)), k, part="turned")
    product = MatMul(scale=node.attribute("scale", 1 / math.sqrt(depth)))
    y = step(product, q, turned, part="scores")
    cap = node.attribute("softcap", 0.0)
    if cap > 0:
        y = step(Tanh(), c.formulas(node).times(y, 1 / cap, "low"), part="bent")
        y = c.formulas(node).times(y, cap, "capped")
    for i, mask in enumerate(_masks(c, node, length, count)):
        y = c.apply(Add(), y, mask, node=node, part=f"masked{i}")
    y = step(Softmax(axis=-1), y, part="shares")
    if len(c.shape(c.tensor(node, 0))) == 4:
        return [c.apply(MatMul(), y, v, node=node)]
    y = step(Transpose(perm=(0, 2, 1, 3)), step(MatMul(), y, v, part="heads"), part="behind")
    return [c.apply(Reshape(shape=(0, length, -1)), y, node=node)]


def _heads(c: Converter, node: OnnxNode, i: int) -> str:
    """Input i as (n, heads, tokens, depth); with three axes it is (n, tokens, heads depth)."""
    x, shape = c.tensor(node, i), c.shape(c.tensor(node, i))
    if len(shape) == 4:
        return x
    heads = node.attribute("kv_num_heads" if i else "q_num_heads", 0)
    if len(shape) != 3 or heads < 1 or shape[2] % heads:
        raise node.refuse(f"{heads} heads of shape {shape}")
    split = Reshape(shape=(0, shape[1], heads, shape[2] // heads))
    x = c.apply(split, x, node=node, part=f"input{i}:split")
    return c.apply(Transpose(perm=(0, 2, 1, 3)), x, node=node, part=f"input{i}:heads")


def _masks(c: Converter, node: OnnxNode, length: int, count: int) -> list[str]:
    """What is added to the scores (n, heads, length, count): 0, or the least number where a token
    may not look."""
    computed = [_computed(c, node, count)] if node.has(3) and not c.is_constant(node, 3) else []
    given = None if computed else c.constant(node, 3)
    left, right = (node.attribute(f"{side}_window_size", -1) for side in ("left", "right"))
    right = 0 if node.attribute("is_causal", 0) else right
    if given is None and left == right == -1:
        return computed
    theirs = () if given is None else (*given.shape[:-1], count)
    sides = np.broadcast_shapes(theirs, (length, count))
    if math.prod(sides) > MAX_MASK:
        raise node.refuse(f"a mask of {sides}")
    mask = _window(length, count, left, right)
    if given is not None:
        mask = mask + _as_terms(given, count)
    # also where nothing is left but the least number, which infinity becomes
    if ((mask.max(-1) <= LEAST) & np.isneginf(mask.min(-1))).any():
        raise node.refuse("its mask hides everything from a token")
    return [*computed, c.own_weight(node, "mask", mask.clip(LEAST))]


def _computed(c: Converter, node: OnnxNode, count: int) -> str:
    """A mask that the network makes: added as it is, which only numbers may be."""
    if not _is_number(c, node.inputs[3]) or c.shape(c.tensor(node, 3))[-1] != count:
        raise node.refuse("its mask is neither a constant nor made of sums and products")
    return c.tensor(node, 3)


def _as_terms(given: Array, count: int) -> Array:
    """A constant mask, of numbers or of truth values, as what is added; it may leave out the last
    tokens, which are hidden then."""
    terms = np.where(given, 0, -np.inf) if given.dtype.kind == "b" else given
    missing = [(0, 0)] * (terms.ndim - 1) + [(0, max(count - terms.shape[-1], 0))]
    return np.pad(terms, missing, constant_values=-np.inf)


def _window(length: int, count: int, left: int, right: int) -> Array:
    """(length, count): how many tokens behind and ahead of its own a query sees; -1: all."""
    ahead = np.arange(count) - np.arange(length)[:, None]
    seen = ((ahead >= -left) | (left < 0)) & ((ahead <= right) | (right < 0))
    return np.where(seen, 0, -np.inf)


def _is_number(c: Converter, name: str) -> bool:
    """Whether numbers were computed: of truth values, which are 0 and 1 here, a mask is made in
    another way."""
    for _ in c.file.nodes:  # in a damaged file they may go round in a circle
        maker = c.file.makers.get(name)
        if maker is None or maker.kind not in _MOVES:
            return maker is not None and maker.kind in _NUMBERS
        name = maker.inputs[0]
    return False
