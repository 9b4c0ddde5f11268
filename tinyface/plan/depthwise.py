"""How a depthwise kernel makes a row: rolling along it, in strips of outputs, or one by one.

A 3 x 3 that rolls (csrc/neon_roll.h) comes with the packed kernel, so ``Isa.rows_pack`` says which
instruction sets have it. Strips are those of csrc/depthwise.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyface.ops import Conv2d
from tinyface.plan.model import FLOAT, Isa, Step
from tinyface.types import Shape

CHANNELS, BYTES = 8, 40 << 10  # ROLL_CHANNELS, ROLL_BYTES
STRIP = 4  # outputs


def may_roll(isa: Isa, fields: Mapping[str, Any], channels: int, width: int, out: int) -> bool:
    """Does a depthwise step with these fields roll? width, out: of the input and the output."""
    f = fields
    over = (out - 1) * f["sw"] - f["pl"] + 3 - width  # columns beyond the map
    usual = f["kh"] == f["kw"] == 3 and f["dh"] == f["dw"] == 1 and f["sw"] <= 2
    act = f.get("act", "TF_NONE") in ("TF_NONE", "TF_CLIP", "TF_PRELU")
    fits = f["pl"] <= 1 and over <= 1 and channels % CHANNELS == 0
    return bool(isa.rows_pack) and usual and fits and act


def has_strips(out: int) -> bool:
    """Does a depthwise step that does not roll make strips? out: width of the output."""
    return out >= STRIP


def shares_vectors(isa: Isa, weight: Shape, op: Conv2d, out: int) -> bool:
    """Is a convolution, with several inputs in a group, done like a depthwise one, since a group
    fills no vector? out: width of the output."""
    o, depth, *kernel = weight
    several = o == depth * op.groups > depth > 1 and isa.lanes > depth and isa.lanes % depth == 0
    usual = kernel == [3, 3] and op.dilation == (1, 1) and op.stride[1] <= 2 and has_strips(out)
    return isa.lanes >= 8 and several and usual


def filter_size(step: Step) -> int:
    """Weights of an output channel of such a step."""
    f = step.fields
    depth = step.x.shape[1] // int(f["groups"]) if f["op"] == "TF_GROUPED" else 1
    return depth * int(f["kh"]) * int(f["kw"])


def rolls(step: Step) -> bool:
    return step.kernel.startswith("depthwise_") and step.kernel.endswith("_roll")


def parts(step: Step) -> list[tuple[int, int]]:
    """Columns of the output that a task makes, in all its rows, before the next ones."""
    _, c, _, ow = step.y.shape
    count = -(-ow * (3 * int(step.fields["sw"]) + 1) * c * FLOAT // BYTES)
    found = [(ow * p // count, ow * (p + 1) // count) for p in range(count)]
    return [(a, b) for a, b in found if a < b]
