"""Transposed convolution as convolutions, one for each phase of the output, and an interleave.

Where it enlarges a map by s, output s q + r of an axis sees every s-th tap of the kernel, from
r + pad on; so the outputs of one r are a convolution with those taps, mirrored, of the map
itself. None of them multiplies by the zeros that the usual explanation puts between the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tinyface.builder import Builder
from tinyface.formats.arrays import Array
from tinyface.limits import MAX_BLOCK, MAX_KERNEL, MAX_PAD, MAX_TENSOR_BYTES
from tinyface.ops import ChannelShuffle, Conv2d, Interleave, Slice, Split

_END = (1 << 31) - 1
Pair = tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """One axis of a transposed convolution.

    kernel: taps, dilated; more: rows that the output has beyond the last input's window.

    Raises:
        ValueError: sizes that no network has, before anything is made of them.
    """

    kernel: int
    stride: int
    before: int
    after: int
    more: int

    def __post_init__(self) -> None:
        around = (self.before, self.after, self.more)
        if not (1 <= self.kernel <= MAX_KERNEL and 1 <= self.stride <= MAX_BLOCK):
            raise ValueError(
                f"transposed windows of {self.kernel}, {self.stride} apart; known here are those "
                f"of 1 to {MAX_KERNEL}, 1 to {MAX_BLOCK} apart"
            )
        if not 0 <= min(around) <= max(around) <= MAX_PAD:
            raise ValueError(f"{around} rows around transposed windows; known are 0 to {MAX_PAD}")

    @property
    def beyond(self) -> int:
        """Outputs: stride times inputs, and this."""
        return self.kernel - self.stride + self.more - self.before - self.after

    @property
    def cut(self) -> int:
        """Outputs at the end that only the last phases are too many for."""
        return -self.beyond % self.stride

    def phase(self, r: int) -> tuple[list[int | None], Pair]:
        """The taps of phase r in the order in which they meet the inputs (None: a zero), and the
        pads around these."""
        first, base = (r + self.before) % self.stride, (r + self.before) // self.stride
        taps: list[int | None] = [*range(first, self.kernel, self.stride)][::-1] or [None]
        left = len(taps) - 1 - base
        right = -(-self.beyond // self.stride) - left + len(taps) - 1
        taps = [None] * -left + taps + [None] * -right  # in the place of negative pads
        return taps, (max(left, 0), max(right, 0))


def dilated(weight: Array, dilation: Pair) -> Array:
    """(…, kh, kw) with zeros between the taps.

    Raises:
        ValueError: a larger kernel than is known here.
    """
    dh, dw = dilation
    kh, kw = (d * (side - 1) + 1 for d, side in zip(dilation, weight.shape[-2:], strict=True))
    if max(kh, kw) > MAX_KERNEL:
        raise ValueError(f"a dilated kernel of {kh}x{kw}; sides of at most {MAX_KERNEL} are known")
    wide = np.zeros((*weight.shape[:-2], kh, kw), weight.dtype)
    wide[..., ::dh, ::dw] = weight
    return wide


def phases(weight: Array, axes: tuple[Axis, Axis], groups: int) -> Iterator[tuple[Array, Conv2d]]:
    """Weight (o, c / groups, …) and operator of every phase, row by row.

    weight: (c, o / groups, kh, kw), dilated, as PyTorch and ONNX have it.
    """
    c, per_group = weight.shape[:2]
    turned = weight.reshape(groups, c // groups, per_group, *weight.shape[2:]).swapaxes(1, 2)
    turned = turned.reshape(groups * per_group, c // groups, *weight.shape[2:])
    turned = np.pad(turned, ((0, 0), (0, 0), (0, 1), (0, 1)))  # the last tap is a zero
    for i in range(axes[0].stride):
        rows, (top, bottom) = axes[0].phase(i)
        for j in range(axes[1].stride):
            columns, (left, right) = axes[1].phase(j)
            picked = [[-1 if tap is None else tap for tap in taps] for taps in (rows, columns)]
            if len(rows) * len(columns) * weight[:, :, 0, 0].nbytes > MAX_TENSOR_BYTES:
                raise ValueError("its pads make a kernel that is too large")
            part = turned[:, :, picked[0]][:, :, :, picked[1]]
            yield part, Conv2d(pad=(top, left, bottom, right), groups=groups)


def transposed(
    x: str,
    weight: Array,
    bias: str,
    axes: tuple[Axis, Axis],
    groups: int,
    apply: Callable[..., str],
    param: Callable[[str, Array], str],
) -> str:
    """The tensor that the operators make.

    bias: a parameter's name or "". apply: (operator, *inputs, part) -> tensor, where part "" makes
    the result; param: (part, array) -> name.
    """
    if min(groups, *weight.shape) < 1 or weight.shape[0] % groups:
        raise ValueError("its sizes do not make a transposed convolution")
    block = (axes[0].stride, axes[1].stride)
    parts = []
    for i, (part, conv) in enumerate(phases(weight, axes, groups)):
        inputs = (x, param(f"weight{i}", part), *([bias] if bias else []))
        parts.append(apply(conv, *inputs, part="" if block == (1, 1) else f"phase{i}"))
    if block == (1, 1):
        return parts[0]
    cuts = [axis.cut for axis in axes]
    whole = apply(Interleave(block=block), *parts, part="whole" if any(cuts) else "")
    if not any(cuts):
        return whole
    ends = tuple(-cut or _END for cut in cuts)
    return apply(Slice(axes=(2, 3), starts=(0, 0), ends=ends, steps=(1, 1)), whole, part="")


def depth_to_space(
    builder: Builder, x: str, block: int, inner: bool, prefix: str
) -> tuple[Interleave, list[str]]:
    """The interleave of the blocks of x's channels, and its parts.

    inner: channels are numbered (channel, row, column of the block), as PyTorch has it, else (row,
    column, channel). prefix: of the names of what is made on the way.
    """
    parts, channels = block * block, builder.shape(x)[1]
    if block < 1 or channels % parts:
        raise ValueError(f"blocks of {block} from {channels} channels")
    if inner:
        shuffle = ChannelShuffle(groups=channels // parts)
        x = builder.apply(shuffle, x, name=f"{prefix}ordered")
    split = Split(axis=1, sizes=(channels // parts,) * parts)
    names = [f"{prefix}part{i}" for i in range(parts)]
    return Interleave(block=(block, block)), list(builder.apply_many(split, x, names=names))
