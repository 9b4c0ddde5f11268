"""ONNX's comparisons, truth values and choices: true is 1, false is 0, all float32."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tinyface.formats.onnx_file import OnnxNode
from tinyface.formats.onnx_scatter import MAX_RUNS, assigned, chosen_places, pieces
from tinyface.formats.onnx_smooth import hidden
from tinyface.ops import Clip, Compare, Identity, Maximum, Mul, Sub, Where

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter


def _truth(c: Converter, node: OnnxNode, i: int) -> str:
    """Input i, which holds truth values."""
    if c.is_constant(node, i):
        value = c.constant(node, i)
        assert value is not None
        return c.own_weight(node, f"truth{i}", np.atleast_1d(value).astype(np.float32))
    return c.tensor(node, i)


def _compare(c: Converter, node: OnnxNode, mode: str) -> list[str]:
    return [c.apply(Compare(mode=mode), c.tensor(node, 0), c.tensor(node, 1), node=node)]


def make_Greater(c: Converter, node: OnnxNode) -> list[str]:
    return _compare(c, node, "greater")


def make_GreaterOrEqual(c: Converter, node: OnnxNode) -> list[str]:
    return _compare(c, node, "greater_equal")


def make_Less(c: Converter, node: OnnxNode) -> list[str]:
    return _compare(c, node, "less")


def make_LessOrEqual(c: Converter, node: OnnxNode) -> list[str]:
    return _compare(c, node, "less_equal")


def make_Equal(c: Converter, node: OnnxNode) -> list[str]:
    return _compare(c, node, "equal")


def make_And(c: Converter, node: OnnxNode) -> list[str]:
    return [c.apply(Mul(), _truth(c, node, 0), _truth(c, node, 1), node=node)]


def make_Or(c: Converter, node: OnnxNode) -> list[str]:
    return [c.apply(Maximum(), _truth(c, node, 0), _truth(c, node, 1), node=node)]


def make_Not(c: Converter, node: OnnxNode) -> list[str]:
    return [c.apply(Sub(), c.formulas(node).number("one", 1), _truth(c, node, 0), node=node)]


def make_Sign(c: Converter, node: OnnxNode) -> list[str]:
    """x times so much that it is 0, or 1 and more, cut at -1 and 1. The least number above 0 is
    1.4e-45, so that it takes 1e38 two times; cut before, nothing overflows, and no layer in front
    can take the factor into its weights."""
    cut = Clip(low=-1.0, high=1.0)
    y = c.apply(cut, c.tensor(node, 0), node=node, part="cut")
    y = c.apply(cut, c.formulas(node).times(y, 1e38, "large"), node=node, part="most")
    return [c.apply(cut, c.formulas(node).times(y, 1e38, "huge"), node=node)]


def make_ThresholdedRelu(c: Converter, node: OnnxNode) -> list[str]:
    """x where x > alpha, 0 elsewhere."""
    x, alpha = c.tensor(node, 0), c.formulas(node).number("alpha", node.attribute("alpha", 1.0))
    above = c.apply(Compare(mode="greater"), x, alpha, node=node, part="above")
    return [c.apply(Where(), above, x, c.formulas(node).number("zero", 0), node=node)]


def make_Shrink(c: Converter, node: OnnxNode) -> list[str]:
    """x - bias where x > lambd, x + bias where x < -lambd, 0 between."""
    x, least = c.tensor(node, 0), node.attribute("lambd", 0.5)
    y = c.formulas(node).number("zero", 0)
    for part, mode, sign in (("below", "less", -1), ("above", "greater", 1)):
        edge = c.formulas(node).number(f"{part}:edge", sign * least)
        apart = c.apply(Compare(mode=mode), x, edge, node=node, part=part)
        bias = c.formulas(node).number(f"{part}:bias", sign * node.attribute("bias", 0.0))
        moved = c.apply(Sub(), x, bias, node=node, part=f"{part}:moved")
        last = "" if part == "above" else f"{part}:chosen"
        y = c.apply(Where(), apart, moved, y, node=node, part=last)
    return [y]


def make_IsNaN(c: Converter, node: OnnxNode) -> list[str]:
    """Whatever does not equal itself."""
    x = c.tensor(node, 0)
    same = c.apply(Compare(mode="equal"), x, x, node=node, part="same")
    return [c.apply(Sub(), c.formulas(node).number("one", 1), same, node=node)]


def make_Where(c: Converter, node: OnnxNode) -> list[str]:
    """Choices, but for PyTorch's Where(IsNaN(y), 0, y) of a masked softmax y in which every row
    sees something: that is y."""
    makers = c.file.makers
    asks, shares = (makers.get(node.inputs[i]) if node.has(i) else None for i in (0, 2))
    other = c.constants.get(node.inputs[1])  # anything larger would give its shape to the result
    if asks and asks.kind == "IsNaN" and asks.inputs[0] == node.inputs[2] and shares:
        single = other is not None and other.size == 1 and other.ndim <= 1
        total = makers.get(shares.inputs[0]) if shares.kind == "Softmax" and single else None
        if total and hidden(c, total):
            return [c.apply(Identity(), c.tensor(node, 2), node=node)]
    if c.is_constant(node, 0):
        for value, chosen, x in ((True, 1, 2), (False, 2, 1)):
            if made := _known_places(c, node, value, chosen, x):
                return [made]
    inputs = _truth(c, node, 0), c.tensor(node, 1), c.tensor(node, 2)
    return [c.apply(Where(), *inputs, node=node)]


def _known_places(c: Converter, node: OnnxNode, value: bool, chosen: int, x: int) -> str:
    """Input ``x`` with a constant, input ``chosen``, at the places where the condition, a constant,
    has this value, if these are some of every axis; "" where they are not, or are many pieces, and
    for a free batch, since the constant is written out. PyTorch's newer exporter writes adaptive
    pooling so, with zeros beside the shorter windows.
    """
    known, other = c.constant(node, 0), c.constants.get(node.inputs[chosen])
    if known is None or other is None or other.dtype.kind != "f" or c.is_constant(node, x):
        return ""
    if c.file.free:
        return ""
    tensor = c.tensor(node, x)
    shape = c.shape(tensor)
    if np.broadcast_shapes(known.shape, other.shape, shape) != shape:
        return ""
    mask = known.reshape((1,) * (len(shape) - known.ndim) + known.shape).astype(bool) == value
    some = chosen_places(mask)
    if some is None or pieces(some) > MAX_RUNS:
        return ""
    everywhere = zip(some, mask.shape, shape, strict=True)
    found = [[*range(side)] if own == 1 else at for at, own, side in everywhere]
    region = tuple(map(len, found))
    c.count(node, 4 * math.prod(region))
    whole = np.broadcast_to(other, shape)[np.ix_(*found)]
    return assigned(c, node, tensor, c.weight(node, f"{node.outputs[0]}:chosen", whole), found)
