"""Resizing of feature maps: nearest neighbour and bilinear."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tinyface import limits
from tinyface.errors import GraphError
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


def positions(mode: str, outputs: Array, side: int, step: float) -> Array:
    """Where ``outputs`` (their numbers) look on an axis of length ``side``, 0 .. side - 1.

    "nearest": floor(i step), in float32, as PyTorch does: where i step is a whole number in exact
    arithmetic, rounding can decide, and a trained network expects the same decision. "bilinear":
    (i + 1/2) step - 1/2, pixel centres lie at halves; "corners": at whole numbers.
    """
    if mode == "nearest":
        at: Array = np.floor(outputs.astype(np.float32) * np.float32(step))
    else:
        half = 0.0 if mode == "corners" else 0.5
        at = (outputs + half) * step - half
    return at.clip(0, side - 1)


def nearest(x: Array, axis: int, at: Array) -> Array:
    """The elements at whole positions of the axis."""
    y: Array = x.take(at.astype(np.intp), axis)
    return y


def linear(x: Array, axis: int, at: Array) -> Array:
    """Mixes of the two elements beside each position of the axis."""
    left = np.floor(at).astype(np.intp)
    right = np.minimum(left + 1, x.shape[axis] - 1)
    share = (at - left).astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
    y: Array = x.take(left, axis) * (1 - share) + x.take(right, axis) * share
    return y


@register
class Resize(Op):
    """(n, c, h, w) -> (n, c, oh, ow), each channel by itself.

    The new size is that of the optional input ``like`` (n', c', oh, ow), else ``size`` if it
    is not (0, 0), else floor(side x ``scale``). Output position i looks at i h/oh (or
    i/scale) of the input: "nearest" rounds it down, "bilinear" uses half-pixel centres. Both
    are PyTorch's ``interpolate`` with align_corners=False; "corners" is "bilinear" with True: i
    looks at i (h - 1)/(oh - 1), so that corners fall on corners.
    """

    mode: str = attr("nearest", choices=("nearest", "bilinear", "corners"))
    scale: tuple[float, float] = attr((1.0, 1.0), low=1 / limits.MAX_SCALE, high=limits.MAX_SCALE)
    size: Pair = attr((0, 0), low=0, high=limits.MAX_DIM)

    kind: ClassVar[str] = "resize"
    onnx: ClassVar[tuple[str, ...]] = ("Resize", "Upsample")
    arity: ClassVar[tuple[int, int]] = (1, 2)

    def __post_init__(self) -> None:
        if (self.size[0] == 0) != (self.size[1] == 0):
            raise GraphError(f"resize: size {self.size} gives one side but not the other")

    def output_map(self, side: Pair, like: Pair | None = None) -> Pair:
        """(h, w) of the input, and of ``like`` if there is one -> (oh, ow)."""
        if like is not None:
            return like
        if self.size != (0, 0):
            return self.size
        return int(side[0] * self.scale[0]), int(side[1] * self.scale[1])

    def steps(self, side: Pair, out: Pair, like: Pair | None = None) -> tuple[float, float]:
        """How far one step in the output goes in the input, down and to the right."""
        if self.mode == "corners":  # of a single output the step does not matter
            pairs = zip(side, out, strict=True)
            down, right = ((n - 1) / (m - 1) if m > 1 < n else 1e-6 for n, m in pairs)
            return down, right
        if like is not None or self.size != (0, 0):
            return side[0] / out[0], side[1] / out[1]
        return 1 / self.scale[0], 1 / self.scale[1]

    def infer(self, *inputs: MaybeType) -> Types:
        x = need_rank(self.kind, inputs[0], 4)
        like = None
        if len(inputs) == 2 and inputs[1] is not None:
            other = need_rank(self.kind, inputs[1], 4)
            like = (other.shape[2], other.shape[3])
        oh, ow = self.output_map((x.shape[2], x.shape[3]), like)
        if oh == 0 or ow == 0:
            raise GraphError(f"resize: nothing is left of {x} at scale {self.scale}")
        return (TensorType((*x.shape[:2], oh, ow), x.dtype),)

    def operations(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """Four products an element, of the result and of the map whose rows were resized."""
        n, c, oh, ow = outputs[0].shape
        w = need_rank(self.kind, inputs[0], 4).shape[3]
        return elements(inputs, outputs) + 4 * n * vectors(c) * oh * (w + ow)

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """The map after its rows were resized; for bilinear, also both neighbours and shares."""
        x, y = need_rank(self.kind, inputs[0], 4), outputs[0]
        n, c, _, w = x.shape
        rows = n * c * y.shape[2] * w * ITEMSIZE[x.dtype]
        return 2 * (rows if self.mode == "nearest" else 5 * rows + 4 * y.nbytes)

    def run(self, x: Array, like: Array | None = None) -> Array:
        side = (x.shape[2], x.shape[3])
        target = None if like is None else (like.shape[2], like.shape[3])
        out = self.output_map(side, target)
        steps = self.steps(side, out, target)
        along = nearest if self.mode == "nearest" else linear
        for axis, n, m, step in zip((2, 3), side, out, steps, strict=True):
            x = along(x, axis, positions(self.mode, np.arange(m), n, step))
        return x
