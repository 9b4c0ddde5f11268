"""The fully connected layer."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tinyface.errors import GraphError
from tinyface.ops.epilogue import check_act, check_epilogue, epilogue, epilogue_scratch
from tinyface.ops.spec import Array, MaybeType, Op, Types, attr, need_rank, register
from tinyface.types import TensorType


@register
class Linear(Op):
    """Fully connected layer with an optional epilogue: y = act(x W^T + bias + residual).

    Inputs: x (n, k); weight (o, k); optional bias (o,); optional slope of a fused PReLU,
    (o,) or (1,); optional residual (n, o). Output: (n, o). MACs: n o k.
    """

    act: Op | None = attr(None)

    kind: ClassVar[str] = "linear"
    onnx: ClassVar[tuple[str, ...]] = ("Gemm", "MatMul")
    arity: ClassVar[tuple[int, int]] = (2, 5)

    def __post_init__(self) -> None:
        check_act(self.kind, self.act)

    def infer(self, *inputs: MaybeType) -> Types:
        x, weight = need_rank(self.kind, inputs[0], 2), need_rank(self.kind, inputs[1], 2)
        (n, k), (o, wanted) = x.shape, weight.shape
        if k != wanted:
            raise GraphError(f"linear: weight {weight} needs {wanted} values a row, x has {k}")
        out = TensorType((n, o), x.dtype)
        check_epilogue(self.kind, self.act, inputs, out)
        return (out,)

    def macs(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        return outputs[0].size * need_rank(self.kind, inputs[0], 2).shape[1]

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
        y: Array = np.matmul(x, weight.T)  # (n, k) (k, o) -> (n, o)
        return epilogue(y, bias, residual, self.act, slope)
