"""Convolution: one operator for standard, grouped, depthwise, pointwise and global depthwise.

The definition is im2col: lay the input under every position of the kernel out as a column,
and the convolution of each group becomes one matrix product.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tinyface import limits
from tinyface.errors import GraphError
from tinyface.ops.epilogue import check_act, check_epilogue, epilogue, epilogue_scratch
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
from tinyface.types import ITEMSIZE, TensorType

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]  # top, left, bottom, right


def window_output(
    side: int, before: int, after: int, kernel: int, stride: int, dilation: int, ceil: bool = False
) -> int:
    """Positions of a window along one side: floor((n + pads - d (k - 1) - 1) / s) + 1.

    With ``ceil`` the last window may hang over the end, but must start inside the side or its
    leading pad (PyTorch's rule). Raises GraphError where not even one window fits.
    """
    room = side + before + after - dilation * (kernel - 1) - 1
    if room < 0:
        raise GraphError(
            f"a window of {kernel} (dilation {dilation}) does not fit a side of {side} "
            f"with pads {before} and {after}"
        )
    out = (room + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (out - 1) * stride >= side + before:
        out -= 1
    return out


def check_made_for(kind: str, made_for: Pair, side: Pair, stride: Pair) -> None:
    """GraphError where pads made for one size of map are not those of another: where a side has
    another remainder by the stride."""
    if any(made and (n - made) % s for made, n, s in zip(made_for, side, stride, strict=True)):
        raise GraphError(
            f"{kind}: its pads are for maps of {made_for[0]}x{made_for[1]}, and not for "
            f"{side[0]}x{side[1]}; import the file once more, for this size of pictures (--size)"
        )


def windows(x: Array, kernel: Pair, stride: Pair, dilation: Pair) -> Array:
    """Every window of an already padded map, without copying.

    (n, c, h, w) -> (n, c, oh, ow, kh, kw): a view with strides chosen so that the windows overlap.
    """
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    extent = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    view = np.lib.stride_tricks.sliding_window_view(x, extent, axis=(2, 3))
    return view[:, :, ::sh, ::sw, ::dh, ::dw]


def pad_map(x: Array, pad: Pads, value: float = 0) -> Array:
    """(n, c, h, w) -> (n, c, top + h + bottom, left + w + right); x itself if there is no pad."""
    top, left, bottom, right = pad
    if not any(pad):
        return x
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def padded_bytes(x: TensorType, pad: Pads) -> int:
    """Bytes of :func:`pad_map`'s copy; 0 if it makes none."""
    n, c, h, w = x.shape
    top, left, bottom, right = pad
    return n * c * (h + top + bottom) * (w + left + right) * ITEMSIZE[x.dtype] * any(pad)


def im2col(x: Array, kernel: Pair, stride: Pair, pad: Pads, dilation: Pair, groups: int) -> Array:
    """Columns of a convolution: (n, c, h, w) -> (n, groups, c/groups*kh*kw, oh*ow).

    Row (channel, i, j) of a group's matrix holds what kernel element (i, j) meets in that
    channel; column p belongs to output position p. A 1x1 kernel with stride 1 needs no copy.
    """
    n, c, _, _ = x.shape
    view = windows(pad_map(x, pad), kernel, stride, dilation).transpose(0, 1, 4, 5, 2, 3)
    rows = c // groups * kernel[0] * kernel[1]
    return view.reshape(n, groups, rows, -1)  # windows overlap: here the copy is made


@register
class Conv2d(Op):
    """2-d convolution with an optional epilogue: y = act(w * x + bias + residual).

    Inputs: x (n, c, h, w); weight (o, c/groups, kh, kw); optional bias (o,); optional slope
    of a fused PReLU, (o,) or (1,); optional residual (n, o, oh, ow), added before the activation.
    Output: (n, o, oh, ow) with oh = floor((h + top + bottom - dh (kh - 1) - 1) / sh) + 1.

    groups = 1: standard. groups = c: depthwise. Kernel 1x1: pointwise. Depthwise with a kernel
    as large as the map: global depthwise convolution (GDC), FDFaceNet eq. 13.
    MACs: o oh ow (c/groups) kh kw (FDFaceNet, Table 2).

    made_for: the (h, w) that `pad` was made for, where other maps need another ("same" padding
    with a stride); (0, 0) where it holds for all.
    """

    stride: Pair = attr((1, 1), low=1, high=limits.MAX_STRIDE)
    pad: Pads = attr((0, 0, 0, 0), low=0, high=limits.MAX_PAD)
    dilation: Pair = attr((1, 1), low=1, high=limits.MAX_DILATION)
    groups: int = attr(1, low=1, high=limits.MAX_DIM)
    act: Op | None = attr(None)
    made_for: Pair = attr((0, 0), low=0, high=limits.MAX_DIM)

    kind: ClassVar[str] = "conv2d"
    onnx: ClassVar[tuple[str, ...]] = ("Conv",)
    arity: ClassVar[tuple[int, int]] = (2, 5)

    def __post_init__(self) -> None:
        check_act(self.kind, self.act)

    def infer(self, *inputs: MaybeType) -> Types:
        x, weight = need_rank(self.kind, inputs[0], 4), need_rank(self.kind, inputs[1], 4)
        n, c, h, w = x.shape
        o, per_group, kh, kw = weight.shape
        if max(kh, kw) > limits.MAX_KERNEL:
            raise GraphError(f"conv2d: a kernel of {kh}x{kw} is larger than {limits.MAX_KERNEL}")
        if o % self.groups or per_group * self.groups != c:
            raise GraphError(
                f"conv2d: weight {weight} with {self.groups} groups does not fit {c} channels"
            )
        check_made_for(self.kind, self.made_for, (h, w), self.stride)
        out = TensorType((n, o, *self.output_map((h, w), (kh, kw))), x.dtype)
        check_epilogue(self.kind, self.act, inputs, out)
        return (out,)

    def macs(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        weight = need_rank(self.kind, inputs[1], 4)
        _, per_group, kh, kw = weight.shape
        return outputs[0].size * per_group * kh * kw

    def operations(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """Whole vectors of each group's outputs; if it is depthwise, of all channels."""
        o, per_group, kh, kw = need_rank(self.kind, inputs[1], 4).shape
        n, _, oh, ow = outputs[0].shape
        depthwise = per_group == 1 and o == self.groups
        wide = vectors(o) if depthwise else self.groups * vectors(o // self.groups)
        return elements(inputs, outputs) + n * oh * ow * wide * per_group * kh * kw

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """The padded copy, the columns, and the epilogue's sweeps."""
        x, weight = need_rank(self.kind, inputs[0], 4), need_rank(self.kind, inputs[1], 4)
        n, _, oh, ow = outputs[0].shape
        _, c, _, _ = x.shape
        kernel = weight.shape[2:]
        copied = (*kernel, *self.stride) != (1, 1, 1, 1)
        columns = copied * n * c * kernel[0] * kernel[1] * oh * ow * ITEMSIZE[x.dtype]
        product = 2 * (padded_bytes(x, self.pad) + columns)
        return product + epilogue_scratch(self.act, inputs, outputs[0])

    def run(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        slope: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        o, _, kh, kw = weight.shape
        n, g = x.shape[0], self.groups
        columns = im2col(x, (kh, kw), self.stride, self.pad, self.dilation, g)  # (n, g, k, p)
        kernels = weight.reshape(g, o // g, -1)  # (g, o/g, k)
        y: Array = np.matmul(kernels, columns)  # (n, g, o/g, p)
        oh, ow = self.output_map((x.shape[2], x.shape[3]), (kh, kw))
        return epilogue(y.reshape(n, o, oh, ow), bias, residual, self.act, slope)

    def output_map(self, side: Pair, kernel: Pair) -> Pair:
        """(h, w) of the input map -> (oh, ow)."""
        top, left, bottom, right = self.pad
        return (
            window_output(side[0], top, bottom, kernel[0], self.stride[0], self.dilation[0]),
            window_output(side[1], left, right, kernel[1], self.stride[1], self.dilation[1]),
        )
