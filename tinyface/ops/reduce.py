"""Reductions along axes: what exporters write for pooling and norms."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tinyface import limits
from tinyface.errors import GraphError
from tinyface.ops.spec import Array, MaybeType, Op, Types, attr, need, need_axis, register
from tinyface.types import TensorType


@register
class Reduce(Op):
    """Sum, mean, maximum or Euclidean norm ("l2") along ``axes``.

    The reduced axes stay with side 1 if ``keepdims``, else they go.
    """

    mode: str = attr("mean", choices=("mean", "sum", "max", "l2"))
    axes: tuple[int, ...] = attr(
        (-1,), low=-limits.MAX_RANK, high=limits.MAX_RANK - 1, length=limits.MAX_RANK
    )
    keepdims: bool = attr(True)

    kind: ClassVar[str] = "reduce"
    onnx: ClassVar[tuple[str, ...]] = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2")

    def infer(self, *inputs: MaybeType) -> Types:
        x = need(self.kind, inputs[0])
        axes = {need_axis(self.kind, x, axis) for axis in self.axes}
        if len(axes) != len(self.axes) or not axes:
            raise GraphError(f"reduce: axes {self.axes} must name one axis or more, each once")
        sides = enumerate(x.shape)
        if self.keepdims:
            shape = tuple(1 if i in axes else side for i, side in sides)
        else:
            shape = tuple(side for i, side in sides if i not in axes)
        return (TensorType(shape, x.dtype),)

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """For the norm: the squares, and their sums."""
        squares = need(self.kind, inputs[0]).nbytes + outputs[0].nbytes
        return 2 * squares if self.mode == "l2" else 0

    def run(self, x: Array) -> Array:
        if self.mode == "l2":
            return np.asarray(np.sqrt(np.sum(x * x, axis=self.axes, keepdims=self.keepdims)))
        how = getattr(x, self.mode)  # the method of that name
        return np.asarray(how(axis=self.axes, keepdims=self.keepdims))
