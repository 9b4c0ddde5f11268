"""ONNX's Pad, and the mover of pixels into channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyface.formats.onnx_file import OnnxNode
from tinyface.limits import MAX_INDEX
from tinyface.ops import Identity, Pad, Slice
from tinyface.ops.shape import LOWEST

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter


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
        pads = (before[axis], after[axis])
        x = c.formulas(node).extended(x, c.shape(x)[axis], axis, pads, mode)
    return [c.apply(Identity(), x, node=node)]


def _cropped(c: Converter, node: OnnxNode, x: str, before: list[int], after: list[int]) -> str:
    """What the pads below 0 leave."""
    axes = [i for i, pair in enumerate(zip(before, after, strict=True)) if min(pair) < 0]
    if not axes:
        return x
    starts = tuple(max(-before[axis], 0) for axis in axes)
    ends = tuple(min(after[axis], 0) or MAX_INDEX for axis in axes)
    op = Slice(axes=tuple(axes), starts=starts, ends=ends, steps=(1,) * len(axes))
    return c.apply(op, x, node=node, part="cropped")


def make_SpaceToDepth(c: Converter, node: OnnxNode) -> list[str]:
    x, block = c.tensor(node, 0), node.attribute("blocksize", 0)
    together = node.attribute("mode", "DCR") != "DCR"
    return [c.formulas(node).space_to_depth(x, c.shape(x), block, together)]
