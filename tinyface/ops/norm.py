"""Normalisation: batch norm with stored statistics, layer norm, scaling to unit length."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tinyface import limits
from tinyface.ops.spec import (
    Array,
    MaybeType,
    Op,
    Types,
    attr,
    channels_first,
    need,
    need_axis,
    need_rank,
    need_shape,
    register,
)


@register
class BatchNorm(Op):
    """y = (x - mean) / sqrt(var + eps) gamma + beta, per channel, as at inference.

    Inputs: x (n, c), (n, c, l) or (n, c, h, w); gamma, beta, mean, var, each (c,).
    Ioffe and Szegedy 2015, algorithm 2. The FDFaceNet paper's sigma is sqrt(var + eps).
    """

    eps: float = attr(1e-5, low=0.0, high=1.0)

    kind: ClassVar[str] = "batch_norm"
    onnx: ClassVar[tuple[str, ...]] = ("BatchNormalization",)
    arity: ClassVar[tuple[int, int]] = (5, 5)

    def infer(self, *inputs: MaybeType) -> Types:
        x = need_rank(self.kind, inputs[0], 2, 3, 4)
        for name, vector in zip(("gamma", "beta", "mean", "var"), inputs[1:], strict=True):
            need_shape(self.kind, name, need(self.kind, vector), (x.shape[1],))
        return (x,)

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """The centred map, the scaled map, and a few vectors of c."""
        vectors = 4 * need(self.kind, inputs[1]).nbytes
        return 2 * (2 * outputs[0].nbytes + vectors)

    def run(self, x: Array, gamma: Array, beta: Array, mean: Array, var: Array) -> Array:
        scale = gamma / np.sqrt(var + self.eps)  # (c,)
        centred = x - channels_first(mean, x.ndim)
        y: Array = centred * channels_first(scale, x.ndim) + channels_first(beta, x.ndim)
        return y


@register
class LayerNorm(Op):
    """y = (x - mean) / sqrt(var + eps) [* scale [+ shift]], of the values along ``axis``.

    Inputs: x; optional scale and shift, each as long as the axis. Ba et al. 2016, without the
    recurrence: every token, or with axis 1 every pixel, by its own statistics.
    """

    axis: int = attr(-1, low=-limits.MAX_RANK, high=limits.MAX_RANK - 1)
    eps: float = attr(1e-5, low=0.0, high=1.0)

    kind: ClassVar[str] = "layer_norm"
    onnx: ClassVar[tuple[str, ...]] = ("LayerNormalization",)
    arity: ClassVar[tuple[int, int]] = (1, 3)

    def infer(self, *inputs: MaybeType) -> Types:
        x = need(self.kind, inputs[0])
        side = x.shape[need_axis(self.kind, x, self.axis)]
        for name, vector in zip(("scale", "shift"), inputs[1:], strict=False):
            need_shape(self.kind, name, need(self.kind, vector), (side,))
        return (x,)

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """The centred map, its squares, the quotient, the product; and the statistics."""
        x = outputs[0]
        return 2 * (4 * x.nbytes + 4 * x.nbytes // x.shape[self.axis])

    def run(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        rest = (1,) * (x.ndim - 1 - self.axis % x.ndim)  # axes behind the normalised one
        centred = x - x.mean(self.axis, keepdims=True)
        var = (centred * centred).mean(self.axis, keepdims=True)
        y: Array = centred / np.sqrt(var + x.dtype.type(self.eps))
        for vector, combine in ((scale, np.multiply), (shift, np.add)):
            y = y if vector is None else combine(y, vector.reshape(-1, *rest))
        return y


@register
class L2Normalize(Op):
    """y = x / max(||x||, eps) with the Euclidean norm along ``axis``.

    eps keeps a vector of zeros from becoming NaN. Embeddings leave the networks this way:
    the dot product of two is then their cosine.
    """

    axis: int = attr(1, low=-limits.MAX_RANK, high=limits.MAX_RANK - 1)
    eps: float = attr(1e-12, low=0.0, high=1.0)

    kind: ClassVar[str] = "l2_normalize"
    onnx: ClassVar[tuple[str, ...]] = ("LpNormalization",)

    def infer(self, *inputs: MaybeType) -> Types:
        x = need(self.kind, inputs[0])
        need_axis(self.kind, x, self.axis)
        return (x,)

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """The squares, and sum, root and maximum (as large as x where the axis is 1 long)."""
        x = outputs[0]
        norms = x.nbytes // x.shape[self.axis]
        return 2 * (x.nbytes + 3 * norms)

    def run(self, x: Array) -> Array:
        norm = np.sqrt(np.sum(x * x, axis=self.axis, keepdims=True))
        y: Array = x / np.maximum(norm, x.dtype.type(self.eps))
        return y
