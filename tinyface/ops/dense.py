"""Matrix products: the fully connected layer, and of two tensors that are both computed."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from tinyface.errors import GraphError
from tinyface.ops.epilogue import check_act, check_epilogue, epilogue, epilogue_scratch
from tinyface.ops.spec import (
    Array,
    MaybeType,
    Op,
    Types,
    attr,
    elements,
    need,
    need_rank,
    register,
    vectors,
)
from tinyface.types import TensorType


class Product(Op):
    """Base of what multiplies rows (…, k) by a matrix with k rows: (…, k) -> (…, o)."""

    def macs(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        return outputs[0].size * need(self.kind, inputs[0]).shape[-1]

    def operations(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """Whole vectors of each row."""
        *rows, o = outputs[0].shape
        k = need(self.kind, inputs[0]).shape[-1]
        return elements(inputs, outputs) + math.prod(rows) * vectors(o) * k


@register
class Linear(Product):
    """Fully connected layer with an optional epilogue: y = act(x W^T + bias + residual).

    Inputs: x (n, ..., k), every row by itself; weight (o, k); optional bias (o,); optional slope of
    a fused PReLU, (o,) or (1,); optional residual (n, ..., o), as the output. MACs: n ... o k.
    """

    act: Op | None = attr(None)

    kind: ClassVar[str] = "linear"
    onnx: ClassVar[tuple[str, ...]] = ("Gemm",)
    arity: ClassVar[tuple[int, int]] = (2, 5)

    def __post_init__(self) -> None:
        check_act(self.kind, self.act)

    def infer(self, *inputs: MaybeType) -> Types:
        x, weight = need(self.kind, inputs[0]), need_rank(self.kind, inputs[1], 2)
        if x.rank < 2:
            raise GraphError(f"linear: {x} has no rows")
        (o, wanted), (*rows, k) = weight.shape, x.shape
        if k != wanted:
            raise GraphError(f"linear: weight {weight} needs {wanted} values a row, x has {k}")
        out = TensorType((*rows, o), x.dtype)
        check_epilogue(self.kind, self.act, inputs, out, axis=-1)
        return (out,)

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        return epilogue_scratch(self.act, inputs, outputs[0])

    def run(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        slope: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        rows = x.reshape(-1, x.shape[-1])
        y: Array = np.matmul(rows, weight.T)  # (n, k) (k, o) -> (n, o)
        residual = None if residual is None else residual.reshape(y.shape)
        y = epilogue(y, bias, residual, self.act, slope)
        return y.reshape(*x.shape[:-1], -1)


@register
class MatMul(Product):
    """y = scale a b of stacks of matrices: (..., m, k) (..., k, n) -> (..., m, n).

    The axes in front of the last two broadcast, as in NumPy and ONNX. Attention is two of them
    around a softmax. Vaswani et al. 2017, eq. 1.
    """

    scale: float = attr(1.0)

    kind: ClassVar[str] = "matmul"
    onnx: ClassVar[tuple[str, ...]] = ("MatMul",)
    arity: ClassVar[tuple[int, int]] = (2, 2)

    def infer(self, *inputs: MaybeType) -> Types:
        a, b = need(self.kind, inputs[0]), need(self.kind, inputs[1])
        if min(a.rank, b.rank) < 2 or a.shape[-1] != b.shape[-2]:
            raise GraphError(f"matmul: {a} and {b} are no matrices that can be multiplied")
        try:
            stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            raise GraphError(f"matmul: the stacks {a} and {b} do not broadcast to one") from None
        return (TensorType((*stack, a.shape[-2], b.shape[-1]), a.dtype),)

    def run(self, a: Array, b: Array) -> Array:
        y = np.asarray(np.matmul(a, b))
        return y if self.scale == 1 else np.multiply(y, y.dtype.type(self.scale))
