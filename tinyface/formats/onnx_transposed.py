"""ONNX operators that enlarge a map by interleaving: ``make_TYPE(converter, node) -> tensors``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyface.formats.onnx_file import OnnxNode
from tinyface.formats.onnx_windows import as_it_was, as_map
from tinyface.formats.transposed import Axis, depth_to_space, dilated, transposed

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter


def make_ConvTranspose(c: Converter, node: OnnxNode) -> list[str]:
    """A convolution for each phase of the output."""
    shape = c.shape(c.tensor(node, 0))
    x, weight = as_map(c, node, c.tensor(node, 0)), c.constant(node, 1)
    axes, line = len(shape) - 2, len(shape) == 3
    if weight is None or weight.ndim != 2 + axes or weight.dtype.kind != "f":
        raise node.refuse("its weight is missing or has another number of axes than its input")
    dilation = node.ints("dilations", (1,) * axes)
    if len(dilation) != axes or min(dilation) < 1:
        raise node.refuse(f"dilations {dilation}")
    weight = weight[:, :, None, :] if line else weight
    weight = dilated(weight, (1, dilation[0]) if line else (dilation[0], dilation[1]))
    found = _axes(node, c.shape(x)[4 - axes :], weight.shape[4 - axes :])
    both = (Axis(1, 1, 0, 0, 0), found[0]) if line else (found[0], found[1])
    y = transposed(
        x, weight, c.tensor(node, 2) if node.has(2) else "", both, node.attribute("group", 1),
        lambda op, *inputs, part: c.apply(
            op, *inputs, node=node, part=part or ("windows" if line else "")
        ),
        lambda part, value: c.own_weight(node, part, value),
    )  # fmt: skip
    return [as_it_was(c, node, y, shape)]


def _axes(node: OnnxNode, sides: tuple[int, ...], kernel: tuple[int, ...]) -> list[Axis]:
    """Strides and pads; where the size of the output is given, the pads that make it."""
    count = len(sides)
    stride, more = node.ints("strides", (1,) * count), node.ints("output_padding", (0,) * count)
    pads, size = node.ints("pads", (0,) * (2 * count)), node.ints("output_shape", ())[-count:]
    auto = node.attribute("auto_pad", "NOTSET")
    if {len(stride), len(more), len(pads) / 2} != {count} or len(size) not in (0, count):
        raise node.refuse("its kernel, strides and pads differ in length")
    if min(stride) < 1 or min(*more, *pads) < 0:
        raise node.refuse("a stride below 1, or a negative pad")
    same = auto in ("SAME_UPPER", "SAME_LOWER") and not size
    if same:
        size = tuple(side * step for side, step in zip(sides, stride, strict=True))
    axes = []
    for i, side in enumerate(sides):
        before, after, extra = pads[i], pads[i + count], more[i]
        if auto == "VALID":
            before = after = 0
        if size:
            total = stride[i] * (side - 1) + extra + kernel[i] - size[i]
            if total < 0:  # more rows than any window reaches: made if asked for by number
                extra, total = extra if same else extra - total, 0
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
            after = total - before
        axes.append(Axis(kernel[i], stride[i], before, after, extra))
    return axes


def make_DepthToSpace(c: Converter, node: OnnxNode) -> list[str]:
    """Channel groups as the pixels of a block; in the mode CRD the block is the inner one."""
    inner = node.attribute("mode", "DCR") == "CRD"
    prefix = f"{c.checked(node.outputs[0])}:"
    while f"{prefix}part0" in c.tensors:  # in a file of our own
        prefix += "parts:"
    op, parts = depth_to_space(
        c.builder, c.tensor(node, 0), node.attribute("blocksize", 0), inner, prefix
    )
    return [c.apply(op, *parts, node=node)]
