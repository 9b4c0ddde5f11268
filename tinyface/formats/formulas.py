"""What model formats have a name for and we have no operator, written in operators of ours.

Every importer hands in how it makes a node and a weight; what is written here has kernels in C
for every part, but for logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tinyface.formats.arrays import Array
from tinyface.limits import MAX_BLOCK, MAX_INDEX, MAX_LRN, MAX_PIECES
from tinyface.ops import (
    Add,
    ChannelShuffle,
    Clip,
    Concat,
    Conv2d,
    Div,
    Exp,
    LayerNorm,
    Log,
    Maximum,
    Mul,
    Op,
    Reduce,
    ReLU,
    Reshape,
    Slice,
    Split,
    Sqrt,
    Sub,
)
from tinyface.types import Shape

LEAST: Final = -float(np.finfo(np.float32).max)
QUARTERS: Final = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Formulas:
    """Writes formulas into a graph.

    node: makes a node and gives its tensor: ``node(op, *tensors, part=...)``; the part is its
        place in the formula, "" for the result. weight: makes a weight, ``weight(part, values)``.

    Every method takes tensors by name and gives one; ``part`` names its result. Those that cannot
    write what is asked for raise ValueError.
    """

    node: Callable[..., str]
    weight: Callable[[str, Array], str]

    def number(self, part: str, value: float) -> str:
        """A number as a weight of its own."""
        return self.weight(part, np.array([value], np.float32))

    def times(self, x: str, factor: float, part: str = "") -> str:
        return self.node(Mul(), x, self.number(f"{part}:factor", factor), part=part)

    def chain(self, op: Op, tensors: Sequence[str], part: str = "") -> str:
        """One, two or more tensors, from the left."""
        y, last = tensors[0], len(tensors)
        for i, other in enumerate(tensors[1:], start=2):
            y = self.node(op, y, other, part=part if i == last else f"{part}of{i}")
        return y

    def magnitude(self, x: str, part: str = "") -> str:
        """|x| = max(x, -x)."""
        return self.node(Maximum(), x, self.times(x, -1, f"{part or 'abs'}:minus"), part=part)

    def smallest(self, tensors: Sequence[str], part: str = "") -> str:
        """-max(-a, -b, ...)."""
        minus = self.number(f"{part}minus", -1)
        negated = [
            self.node(Mul(), x, minus, part=f"{part}minus{i}") for i, x in enumerate(tensors)
        ]
        return self.node(Mul(), self.chain(Maximum(), negated, f"{part}max"), minus, part=part)

    def inverse(self, x: str, part: str = "") -> str:
        return self.node(Div(), self.number(f"{part}one", 1), x, part=part)

    # -- powers

    def power(self, x: str, exponent: float) -> str:
        """Whole powers up to 4, quarters (roots, and roots of roots), other broken ones as
        exp(exponent log x), which is NaN below 0, as they are."""
        if exponent in QUARTERS:
            return self.root(x, exponent)
        if exponent in (-0.5, -1):
            return self.inverse(x if exponent == -1 else self.root(x, 0.5, "power"))
        if math.isfinite(exponent) and not exponent.is_integer():
            return self.node(Exp(), self.times(self.node(Log(), x, part="log"), exponent, "scaled"))
        if exponent not in (1, 2, 3, 4):
            raise ValueError(
                f"a power of {exponent:g}; known are one number, either broken or -1, 1, 2, 3 or 4"
            )
        if exponent == 4:
            square = self.node(Mul(), x, x, part="square")
            return self.node(Mul(), square, square)
        y = x
        for i in range(int(exponent) - 1):
            y = self.node(Mul(), y, x, part="" if i == exponent - 2 else "square")
        return y

    def root(self, x: str, exponent: float, part: str = "") -> str:
        """x^(1/4), x^(1/2) or x^(3/4)."""
        if exponent == 0.5:
            return self.node(Sqrt(), x, part=part)
        root = self.node(Sqrt(), x, part="root")
        if exponent == 0.25:
            return self.node(Sqrt(), root, part=part)
        return self.node(Mul(), root, self.node(Sqrt(), root, part="fourth"), part=part)

    # -- smooth activations

    def gate_of_mish(self, x: str, part: str = "") -> str:
        """tanh(ln(1 + e)) = n / (n + 2) with e = exp(x), n = e (e + 2): no logarithm, no
        difference. From x = 20 on, that is 1 in float32; what is larger is cut there, lest e e
        overflow."""
        cut = self.node(Clip(low=LEAST, high=20.0), x, part="cut")
        e = self.node(Exp(), cut, part="power")
        two = self.number("two", 2)
        n = self.node(Mul(), e, self.node(Add(), e, two, part="more"), part="numerator")
        return self.node(Div(), n, self.node(Add(), n, two, part="denominator"), part=part)

    def mish(self, x: str) -> str:
        """x tanh(softplus x)."""
        return self.node(Mul(), x, self.gate_of_mish(x, "gate"))

    def bent(self, x: str, above: float, below: float, slope: float) -> str:
        """above max(x, 0) + below (exp(slope min(x, 0)) - 1): ELU and its kin."""
        linear = self.node(ReLU(), x, part="above")
        linear = linear if above == 1 else self.times(linear, above, "steep")
        mirrored = self.node(ReLU(), self.times(x, -1, "minus"), part="mirrored")
        power = self.node(Exp(), self.times(mirrored, -slope, "below"), part="power")
        scaled = self.times(power, below, "scaled")
        shifted = self.node(Add(), scaled, self.number("alpha", -below), part="shifted")
        return self.node(Add(), linear, shifted)

    # -- norms

    def rows(self, x: str, shape: Shape, rows: Shape, eps: float) -> str:
        """(x - mean) / sqrt(var + eps) along the last axis of x as ``rows``, in x's ``shape``.

        The sides between channels and the last one must be what they are: rows do not tell.
        """
        for axis in range(2, len(shape) - 1):
            x = self.node(Split(axis, (shape[axis],)), x, part=f"side{axis}")
        y = self.node(Reshape(shape=rows), x, part="rows")
        y = self.node(LayerNorm(axis=len(rows) - 1, eps=eps), y, part="normalised")
        batch = 0 if rows[0] == 0 else shape[0]
        return self.node(Reshape(shape=(batch, *shape[1:-1], -1)), y, part="whole")

    def root_of_mean(self, x: str, axes: Shape, eps: float) -> str:
        """sqrt(mean(x x) + eps)."""
        square = self.node(Mul(), x, x, part="square")
        mean = self.node(Reduce(mode="mean", axes=axes), square, part="var")
        safe = self.node(Add(), mean, self.number("eps", eps), part="safe")
        return self.node(Sqrt(), safe, part="root")

    def across_channels(
        self, x: str, shape: Shape, size: int, alpha: float, beta: float, bias: float
    ) -> str:
        """x / (bias + alpha / size * sum of x x over ``size`` neighbouring channels)^beta.

        The sum is a 1x1 convolution of the squares, whose matrix is a band of alpha / size.
        Krizhevsky et al. 2012, section 3.3 (LRN).
        """
        channels = shape[1]
        if len(shape) != 4 or channels > MAX_LRN:
            raise ValueError(f"of anything but a map of up to {MAX_LRN} channels")
        if size < 1 or beta not in (*QUARTERS, 1):
            raise ValueError("a size below 1, or a beta other than 0.25, 0.5, 0.75 and 1")
        apart = np.arange(channels)[None] - np.arange(channels)[:, None]
        near = (apart >= -((size - 1) // 2)) & (apart <= size // 2)
        band = self.weight("band", near[:, :, None, None] * np.float32(alpha / size))
        square = self.node(Mul(), x, x, part="square")
        biases = self.weight("bias", np.full(channels, bias, np.float32))
        total = self.node(Conv2d(), square, band, biases, part="sum")
        return self.node(Div(), x, total if beta == 1 else self.root(total, beta, "power"))

    # -- moving values

    def space_to_depth(self, x: str, shape: Shape, block: int, together: bool) -> str:
        """Every block of pixels becomes channels: maps of every block-th pixel, joined; where a
        channel's block is to stay together (PyTorch's pixel_unshuffle), channels are shuffled."""
        whole = len(shape) == 4 and 1 <= block <= MAX_BLOCK
        if not whole or shape[2] % block or shape[3] % block:
            raise ValueError(f"blocks of {block} in shape {shape}")
        last, steps = (MAX_INDEX,) * 2, (block,) * 2
        maps = [
            self.node(
                Slice(axes=(2, 3), starts=(i, j), ends=last, steps=steps),
                x, part=f"row{i}column{j}",
            )
            for i in range(block)
            for j in range(block)
        ]  # fmt: skip
        if not together or shape[1] == 1:
            return self.node(Concat(axis=1), *maps)
        y = self.node(Concat(axis=1), *maps, part="maps")  # (n, b b, c, h, w)
        return self.node(ChannelShuffle(groups=block * block), y)

    def extended(self, x: str, side: int, axis: int, pads: tuple[int, int], mode: str) -> str:
        """One axis, of length ``side``, with parts of the map before and behind it: its "edge"
        again and again, its mirror image without the edge ("reflect"), or the other end ("wrap").

        Slices of the map, joined: addressing in the C engine, and right for maps of any size.
        """
        before, after = pads
        if not before and not after:
            return x
        if max(pads) > {"reflect": side - 1, "edge": MAX_PIECES, "wrap": side}[mode]:
            raise ValueError(f"pads {before} and {after} of a side of {side} by mode {mode!r}")
        if sum(pads) > MAX_PIECES and mode != "wrap":
            raise ValueError(f"pads {before} and {after}; up to {MAX_PIECES} are known here")

        def cut(start: int, end: int) -> str:
            return self.node(
                Slice.along(axis, start, end or MAX_INDEX), x, part=f"axis{axis}:{start}"
            )

        if mode == "edge":
            front = [cut(0, 1)] * before if before else []
            back = [cut(-1, 0)] * after if after else []
        elif mode == "reflect":
            front = [cut(i, i + 1) for i in range(before, 0, -1)]
            back = [cut(-i - 1, -i) for i in range(1, after + 1)]
        else:
            front, back = [cut(-before, 0)] if before else [], [cut(0, after)] if after else []
        return self.node(Concat(axis=axis), *front, x, *back, part=f"axis{axis}")

    def windows(self, x: str, side: int, axis: int, count: int, mode: str) -> str:
        """``count`` windows of an axis of length ``side``: i reaches from floor(i side / count) to
        ceil((i + 1) side / count). Their means or maxima, one after another."""
        if not 1 <= count <= MAX_PIECES:
            raise ValueError(f"{count} windows; up to {MAX_PIECES} are known here")

        def window(i: int) -> str:
            first, last = i * side // count, -(-(i + 1) * side // count)
            cut = self.node(Slice.along(axis, first, last), x, part=f"axis{axis}:cut{i}")
            return self.node(Reduce(mode=mode, axes=(axis,)), cut, part=f"axis{axis}:{mode}{i}")

        return self.node(Concat(axis=axis), *map(window, range(count)), part=f"axis{axis}")

    def smallest_along(self, x: str, axes: Shape, keepdims: bool, part: str = "") -> str:
        """-max(-x)."""
        op = Reduce(mode="max", axes=axes, keepdims=keepdims)
        return self.times(self.node(op, self.times(x, -1, "minus"), part="max"), -1, part)

    def log_sum_exp(self, x: str, axes: Shape, keepdims: bool, part: str = "") -> str:
        """most + log(sum exp(x - most)), with the largest of all for most: no power overflows."""
        most = self.node(Reduce(mode="max", axes=axes), x, part="most")
        power = self.node(Exp(), self.node(Sub(), x, most, part="below"), part="power")
        total = self.node(Reduce(mode="sum", axes=axes), power, part="sum")
        log = self.node(Log(), total, part="log")
        if keepdims:
            return self.node(Add(), log, most, part=part)
        y = self.node(Add(), log, most, part="kept")  # each of one number: the axes go
        return self.node(Reduce(mode="max", axes=axes, keepdims=False), y, part=part)
