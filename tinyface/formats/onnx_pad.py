"""ONNX's Pad, and the mover of pixels into channels.

Padding with the map itself is slices of it, joined: addressing in the C engine, and right for maps
of any size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import ChannelShuffle, Concat, Identity, Pad, Slice
from tinyface.ops.shape import LOWEST

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter

_END: Final = (1 << 31) - 1  # of a slice: to the end
MAX_PIECES: Final = 128  # rows or columns that are put beside a map one by one


def make_Pad(c: Converter, node: OnnxNode) -> list[str]:
    """Attributes before opset 11, inputs since; axes since 18. Below 0, a pad takes away."""
    x, mode = c.tensor(node, 0), node.attribute("mode", "constant")
    rank = len(c.shape(x))
    pads, value = c.integers(node, 1, "pads"), c.constant(node, 2)
    axes = c.integers(node, 3) or tuple(range(rank))
    if pads is None or len(pads) != 2 * len(axes):
        raise node.refuse("its pads are missing, or not two for each axis")
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[i + len(axes)]
    x = _cropped(c, node, x, before, after)
    before, after = ([max(n, 0) for n in pair] for pair in (before, after))
    if mode == "constant":
        number = node.attribute("value", 0.0) if value is None else float(value.reshape(()))
        number = max(number, LOWEST)  # -inf, in front of a maximum
        op = Pad(before=tuple(before), after=tuple(after), value=number)
        return [c.apply(op, x, node=node)]
    if mode not in ("reflect", "edge", "wrap"):
        raise node.refuse(f"of mode {mode!r}")
    for axis in range(rank):
        x = _extended(c, node, x, axis, (before[axis], after[axis]), mode)
    return [c.apply(Identity(), x, node=node)]


def _cropped(c: Converter, node: OnnxNode, x: str, before: list[int], after: list[int]) -> str:
    """What the pads below 0 leave."""
    axes = [i for i, pair in enumerate(zip(before, after, strict=True)) if min(pair) < 0]
    if not axes:
        return x
    starts = tuple(max(-before[axis], 0) for axis in axes)
    ends = tuple(min(after[axis], 0) or _END for axis in axes)
    op = Slice(axes=tuple(axes), starts=starts, ends=ends, steps=(1,) * len(axes))
    return c.apply(op, x, node=node, part="cropped")


def _extended(
    c: Converter, node: OnnxNode, x: str, axis: int, pads: tuple[int, int], mode: str
) -> str:
    """One axis with parts of the map before and behind it."""
    before, after = pads
    side = c.shape(x)[axis]
    if not before and not after:
        return x
    if max(pads) > {"reflect": side - 1, "edge": MAX_PIECES, "wrap": side}[mode]:
        raise node.refuse(f"pads {before} and {after} of a side of {side} by mode {mode!r}")
    if sum(pads) > MAX_PIECES and mode != "wrap":
        raise node.refuse(f"pads {before} and {after}; up to {MAX_PIECES} are known here")

    def cut(start: int, end: int) -> str:
        op = Slice.along(axis, start, end or _END)
        return c.apply(op, x, node=node, part=f"axis{axis}:{start}")

    if mode == "edge":
        front, back = [cut(0, 1)] * before if before else [], [cut(-1, 0)] * after if after else []
    elif mode == "reflect":
        front = [cut(i, i + 1) for i in range(before, 0, -1)]
        back = [cut(-i - 1, -i) for i in range(1, after + 1)]
    else:
        front, back = [cut(-before, 0)] if before else [], [cut(0, after)] if after else []
    return c.apply(Concat(axis=axis), *front, x, *back, node=node, part=f"axis{axis}")


def make_SpaceToDepth(c: Converter, node: OnnxNode) -> list[str]:
    """Every block of pixels becomes channels: maps of every block-th pixel, joined; where a
    channel's block is to stay together (PyTorch's pixel_unshuffle), its channels are shuffled."""
    x, block = c.tensor(node, 0), node.attribute("blocksize", 0)
    shape = c.shape(x)
    if len(shape) != 4 or not 1 <= block <= 32 or shape[2] % block or shape[3] % block:
        raise node.refuse(f"blocks of {block} in shape {shape}")
    maps = [
        c.apply(
            Slice(axes=(2, 3), starts=(i, j), ends=(_END, _END), steps=(block, block)),
            x, node=node, part=f"row{i}column{j}",
        )
        for i in range(block)
        for j in range(block)
    ]  # fmt: skip
    if node.attribute("mode", "DCR") == "DCR" or shape[1] == 1:
        return [c.apply(Concat(axis=1), *maps, node=node)]
    y = c.apply(Concat(axis=1), *maps, node=node, part="maps")  # (n, b b, c, h, w)
    return [c.apply(ChannelShuffle(groups=block * block), y, node=node)]
