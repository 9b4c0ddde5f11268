"""Pooling: the maximum or the mean of a window, or of the whole map."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tinyface import limits
from tinyface.errors import GraphError
from tinyface.ops.conv import (
    Pads,
    Pair,
    check_made_for,
    pad_map,
    padded_bytes,
    window_output,
    windows,
)
from tinyface.ops.spec import (
    Array,
    MaybeType,
    Op,
    Types,
    attr,
    elements,
    need_rank,
    register,
    vectors,
)
from tinyface.types import TensorType

TAP = 4  # operations: a tap loads all that it uses, a product has most of it in registers


class Pool(Op):
    """Base of window pooling: (n, c, h, w) -> (n, c, oh, ow), each channel by itself.

    ``ceil`` rounds the number of windows up, so that the last may hang over the end.
    A pad must be smaller than the window, so that every window meets the map (with a
    dilation its elements can still all fall beside it: the maximum is then -inf, the mean 0).
    ``made_for`` is as in Conv2d.
    """

    kernel: Pair = attr((2, 2), low=1, high=limits.MAX_KERNEL)
    stride: Pair = attr((2, 2), low=1, high=limits.MAX_STRIDE)
    pad: Pads = attr((0, 0, 0, 0), low=0, high=limits.MAX_PAD)
    dilation: Pair = attr((1, 1), low=1, high=limits.MAX_DILATION)
    ceil: bool = attr(False)
    made_for: Pair = attr((0, 0), low=0, high=limits.MAX_DIM)

    def extent(self) -> Pair:
        """Height and width that the window covers, dilation included."""
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return dh * (kh - 1) + 1, dw * (kw - 1) + 1

    def output_map(self, side: Pair) -> Pair:
        """(h, w) of the input map -> (oh, ow)."""
        k, s, d = self.kernel, self.stride, self.dilation
        top, left, bottom, right = self.pad
        return (
            window_output(side[0], top, bottom, k[0], s[0], d[0], self.ceil),
            window_output(side[1], left, right, k[1], s[1], d[1], self.ceil),
        )

    def full_pad(self, side: Pair) -> Pads:
        """The pads, made larger at the end where windows hang over it (ceil)."""
        top, left, bottom, right = self.pad
        (oh, ow), (eh, ew) = self.output_map(side), self.extent()
        reach_h, reach_w = (oh - 1) * self.stride[0] + eh, (ow - 1) * self.stride[1] + ew
        return (
            top,
            left,
            max(bottom, reach_h - side[0] - top),
            max(right, reach_w - side[1] - left),
        )

    def infer(self, *inputs: MaybeType) -> Types:
        x = need_rank(self.kind, inputs[0], 4)
        extent = self.extent()
        if any(p >= e for p, e in zip(self.pad, extent * 2, strict=True)):
            raise GraphError(f"{self.kind}: pad {self.pad} must be smaller than the window")
        n, c, h, w = x.shape
        check_made_for(self.kind, self.made_for, (h, w), self.stride)
        return (TensorType((n, c, *self.output_map((h, w))), x.dtype),)

    def operations(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """Every element of every window; each takes as long as some multiply-accumulates."""
        n, c, oh, ow = outputs[0].shape
        taps = n * oh * ow * vectors(c) * self.kernel[0] * self.kernel[1]
        return elements(inputs, outputs) + TAP * taps

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """The padded copy, if there is one."""
        x = need_rank(self.kind, inputs[0], 4)
        return 2 * padded_bytes(x, self.full_pad((x.shape[2], x.shape[3])))

    def windows(self, x: Array, value: float) -> Array:
        """(n, c, h, w) -> (n, c, oh, ow, kh, kw), with ``value`` around the map."""
        padded = pad_map(x, self.full_pad((x.shape[2], x.shape[3])), value)
        return windows(padded, self.kernel, self.stride, self.dilation)


@register
class MaxPool(Pool):
    """y = maximum of each window; NaN if one is in it. The pad never wins (it is -inf)."""

    kind: ClassVar[str] = "max_pool"
    onnx: ClassVar[tuple[str, ...]] = ("MaxPool",)

    def run(self, x: Array) -> Array:
        y: Array = self.windows(x, -np.inf).max((4, 5))
        return y


@register
class AveragePool(Pool):
    """y = sum of each window / number of its elements.

    count_include_pad: the pad's zeros count as elements (ONNX and Keras do not count them
    unless asked, PyTorch does). What hangs over the pad in ceil mode never counts.
    """

    count_include_pad: bool = attr(False)

    kind: ClassVar[str] = "average_pool"
    onnx: ClassVar[tuple[str, ...]] = ("AveragePool",)

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """The padded copy, the sums, the counts, and the map of ones behind the counts."""
        out, x = outputs[0], need_rank(self.kind, inputs[0], 4)
        planes = out.shape[0] * out.shape[1]
        ones = (x.nbytes + padded_bytes(x, self.full_pad((x.shape[2], x.shape[3])))) // planes
        return super().scratch(inputs, outputs) + 2 * (
            out.nbytes + 2 * out.nbytes // planes + 2 * ones
        )

    def run(self, x: Array) -> Array:
        total = self.windows(x, 0).sum((4, 5))  # (n, c, oh, ow)
        y: Array = total / np.maximum(self.counts(x), 1)
        return y

    def counts(self, x: Array) -> Array:
        """Number of counted elements of each window, (1, 1, oh, ow)."""
        side = (x.shape[2], x.shape[3])
        ones = pad_map(np.ones((1, 1, *side), x.dtype), self.pad, float(self.count_include_pad))
        overhang = [f - p for f, p in zip(self.full_pad(side), self.pad, strict=True)]
        top, left, bottom, right = overhang
        ones = pad_map(ones, (top, left, bottom, right))
        n: Array = windows(ones, self.kernel, self.stride, self.dilation).sum((4, 5))
        return n


class GlobalPool(Op):
    """Base: the whole map becomes one value, (n, c, h, w) -> (n, c, 1, 1)."""

    def infer(self, *inputs: MaybeType) -> Types:
        x = need_rank(self.kind, inputs[0], 4)
        return (TensorType((x.shape[0], x.shape[1], 1, 1), x.dtype),)


@register
class GlobalAveragePool(GlobalPool):
    """y = mean of the map. Lin et al. 2014 (Network in Network), section 3.2."""

    kind: ClassVar[str] = "global_average_pool"
    onnx: ClassVar[tuple[str, ...]] = ("GlobalAveragePool",)

    def run(self, x: Array) -> Array:
        y: Array = x.mean((2, 3), keepdims=True)
        return y


@register
class GlobalMaxPool(GlobalPool):
    """y = maximum of the map; NaN if one is in it."""

    kind: ClassVar[str] = "global_max_pool"
    onnx: ClassVar[tuple[str, ...]] = ("GlobalMaxPool",)

    def run(self, x: Array) -> Array:
        y: Array = x.max((2, 3), keepdims=True)
        return y
