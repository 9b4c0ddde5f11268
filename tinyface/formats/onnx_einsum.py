"""ONNX's Einsum of one or two tensors, as sums, transpositions and a product of stacks.

Letters are sorted by where they occur: in both operands and the result (a stack of products), in
both alone (what is summed over, k), in the result and the left operand (rows, m) or the right one
(columns, n). a becomes (stack, m, k), b becomes (stack, k, n), and the result is transposed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import Identity, MatMul, Reduce, Reshape, Transpose
from tinyface.types import Shape

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter


def make_Einsum(c: Converter, node: OnnxNode) -> list[str]:
    terms, result = _equation(c, node)
    tensors = [c.tensor(node, i) for i in range(len(terms))]
    for i, term in enumerate(terms):
        others = {*result}.union(*terms[:i], *terms[i + 1 :])
        tensors[i], terms[i] = _summed(c, node, tensors[i], term, others, f"of{i + 1}")
    if len(terms) == 1:
        return [_ordered(c, node, tensors[0], terms[0], result, "")]
    return [_product(c, node, tensors, terms, result)]


def _equation(c: Converter, node: OnnxNode) -> tuple[list[str], str]:
    """The letters of each operand, and of the result."""
    equation = str(node.attribute("equation", "")).replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow:  # the letters that occur once, in order
        result = "".join(sorted(letter for letter in {*left} - {","} if left.count(letter) == 1))
    known = (
        1 <= len(terms) == len(node.inputs) <= 2
        and all(term.isalpha() and term.isascii() and len({*term}) == len(term) for term in terms)
        and len({*result}) == len(result)
        and {*result} <= {*left} - {","}
    )
    if not known:
        raise node.refuse(
            f"the equation {equation[:80]!r}: known are one or two operands, each axis named by a "
            "letter of its own"
        )
    sides: dict[str, int] = {}
    for i, term in enumerate(terms):
        shape = c.shape(c.tensor(node, i))
        if len(shape) != len(term) or any(
            sides.setdefault(letter, side) != side for letter, side in zip(term, shape, strict=True)
        ):
            raise node.refuse(f"the equation {equation[:80]!r} does not fit its inputs")
    return terms, result


def _summed(
    c: Converter, node: OnnxNode, x: str, term: str, wanted: set[str], part: str
) -> tuple[str, str]:
    """Without the axes that nothing else names."""
    axes = tuple(i for i, letter in enumerate(term) if letter not in wanted)
    if not axes:
        return x, term
    op = Reduce(mode="sum", axes=axes, keepdims=False)
    y = c.apply(op, x, node=node, part=f"{part}:sum")
    return y, "".join(letter for letter in term if letter in wanted)


def _ordered(c: Converter, node: OnnxNode, x: str, term: str, wanted: str, part: str) -> str:
    """With its axes in another order; as it is, or under the node's name, where they are in it."""
    if term == wanted:
        return x if part else c.apply(Identity(), x, node=node)
    perm = tuple(term.index(letter) for letter in wanted)
    return c.apply(Transpose(perm=perm), x, node=node, part=part)


def _product(
    c: Converter, node: OnnxNode, tensors: list[str], terms: list[str], result: str
) -> str:
    a, b = terms
    stack = [letter for letter in a if letter in b and letter in result]
    inner = [letter for letter in a if letter in b and letter not in result]
    rows = [letter for letter in a if letter not in b]
    columns = [letter for letter in b if letter not in a]
    sides = {
        letter: side
        for x, term in zip(tensors, terms, strict=True)
        for letter, side in zip(term, c.shape(x), strict=True)
    }

    def merged(x: str, term: str, first: list[str], second: list[str], part: str) -> str:
        """(stack, first, second), each of the two as one axis."""
        x = _ordered(c, node, x, term, "".join([*stack, *first, *second]), f"{part}:turned")
        if len(first) == len(second) == 1:
            return x
        pair = [math.prod(sides[letter] for letter in letters) for letters in (first, second)]
        op = Reshape(shape=(*[0] * len(stack), *pair))
        return c.apply(op, x, node=node, part=f"{part}:matrix")

    left = merged(tensors[0], a, rows, inner, "left")
    right = merged(tensors[1], b, inner, columns, "right")
    y = c.apply(MatMul(), left, right, node=node, part="product")
    order = [*stack, *rows, *columns]
    if len(rows) != 1 or len(columns) != 1:
        shape: Shape = (*[0] * len(stack), *(sides[letter] for letter in (*rows, *columns)))
        y = c.apply(Reshape(shape=shape), y, node=node, part="apart")
    return _ordered(c, node, y, "".join(order), result, "")
