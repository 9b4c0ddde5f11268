"""Two maps into one, element by element; and the maximum of a map's two halves.

Shapes broadcast as in NumPy and ONNX: aligned at the last axis, sides of 1 are repeated. A
squeeze-and-excitation gate (n, c, 1, 1) thus scales a map (n, c, h, w).
"""

from __future__ import annotations

from itertools import zip_longest
from typing import ClassVar

import numpy as np

from tinyface.errors import GraphError
from tinyface.ops.spec import Array, MaybeType, Op, Types, attr, need, need_rank, register
from tinyface.types import TensorType


class Binary(Op):
    """Base: two inputs whose shapes broadcast, one output."""

    arity: ClassVar[tuple[int, int]] = (2, 2)

    def infer(self, *inputs: MaybeType) -> Types:
        a, b = need(self.kind, inputs[0]), need(self.kind, inputs[1])
        pairs = list(zip_longest(reversed(a.shape), reversed(b.shape), fillvalue=1))
        if any(p != q and 1 not in (p, q) for p, q in pairs):
            raise GraphError(f"{self.kind}: shapes {a} and {b} do not broadcast to one")
        return (TensorType(tuple(max(pair) for pair in reversed(pairs)), a.dtype),)


@register
class Add(Binary):
    """y = a + b: the shortcut of residual networks. He et al. 2016, eq. 1."""

    kind: ClassVar[str] = "add"
    onnx: ClassVar[tuple[str, ...]] = ("Add", "Sum")

    def run(self, a: Array, b: Array) -> Array:
        y: Array = a + b
        return y


@register
class Sub(Binary):
    """y = a - b."""

    kind: ClassVar[str] = "sub"
    onnx: ClassVar[tuple[str, ...]] = ("Sub",)

    def run(self, a: Array, b: Array) -> Array:
        y: Array = a - b
        return y


@register
class Mul(Binary):
    """y = a b: a gate, as in squeeze-and-excitation. Hu et al. 2018, eq. 4."""

    kind: ClassVar[str] = "mul"
    onnx: ClassVar[tuple[str, ...]] = ("Mul",)

    def run(self, a: Array, b: Array) -> Array:
        y: Array = a * b
        return y


@register
class Div(Binary):
    """y = a / b by IEEE 754: x/0 is an infinity, 0/0 is NaN, without a warning."""

    kind: ClassVar[str] = "div"
    onnx: ClassVar[tuple[str, ...]] = ("Div",)

    def run(self, a: Array, b: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            y: Array = a / b
        return y


@register
class Maximum(Binary):
    """y = max(a, b); NaN if either is."""

    kind: ClassVar[str] = "maximum"
    onnx: ClassVar[tuple[str, ...]] = ("Max",)

    def run(self, a: Array, b: Array) -> Array:
        y: Array = np.maximum(a, b)
        return y


@register
class Compare(Binary):
    """y = 1 where a is greater than b (or as ``mode`` says), else 0; 0 where either is NaN."""

    mode: str = attr("greater", choices=("greater", "greater_equal", "less", "less_equal", "equal"))

    kind: ClassVar[str] = "compare"
    onnx: ClassVar[tuple[str, ...]] = (
        "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal",
    )  # fmt: skip

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """Truth values of one byte."""
        return 2 * outputs[0].size

    def run(self, a: Array, b: Array) -> Array:
        true: Array = getattr(np, self.mode)(a, b)
        return true.astype(a.dtype)


@register
class Where(Op):
    """y = a where the condition is not 0, else b; all three broadcast to one shape."""

    kind: ClassVar[str] = "where"
    onnx: ClassVar[tuple[str, ...]] = ("Where",)
    arity: ClassVar[tuple[int, int]] = (3, 3)

    def infer(self, *inputs: MaybeType) -> Types:
        condition, a, b = (need(self.kind, x) for x in inputs)
        try:
            shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
        except ValueError:
            raise GraphError(
                f"where: shapes {condition}, {a} and {b} do not broadcast to one"
            ) from None
        return (TensorType(shape, a.dtype),)

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """Truth values of one byte."""
        return 2 * need(self.kind, inputs[0]).size

    def run(self, condition: Array, a: Array, b: Array) -> Array:
        return np.where(condition != 0, a, b)


@register
class MaxFeatureMap(Op):
    """y = max(first half, second half) of the channels: (n, 2c, …) -> (n, c, …).

    LightCNN's activation: two candidate maps compete. Wu et al. 2018, eq. 3.
    """

    kind: ClassVar[str] = "max_feature_map"

    def infer(self, *inputs: MaybeType) -> Types:
        x = need_rank(self.kind, inputs[0], 2, 3, 4)
        n, c, *rest = x.shape
        if c % 2:
            raise GraphError(f"max_feature_map: {c} channels have no two halves")
        return (TensorType((n, c // 2, *rest), x.dtype),)

    def run(self, x: Array) -> Array:
        half = x.shape[1] // 2
        y: Array = np.maximum(x[:, :half], x[:, half:])
        return y
