"""What may follow the matrix product of a convolution or a linear operator, in the same step.

y = act(product + bias + residual). Done here, while the sums are still at hand, it saves
writing the map and reading it again for each of the three.
"""

from __future__ import annotations

from tinyface.errors import GraphError
from tinyface.ops.activation import FUSABLE, PReLU
from tinyface.ops.spec import Array, MaybeType, Op, channels_first, need_shape
from tinyface.types import TensorType

NAMES = ("bias", "slope", "residual")  # the optional inputs, in this order after x and weight


def check_act(kind: str, act: Op | None) -> None:
    """GraphError unless the activation is one that can be fused."""
    if act is not None and not isinstance(act, FUSABLE):
        raise GraphError(f"{kind}: {act.kind} cannot be fused into it: give it a step of its own")


def may_end(op: Op, act: Op, rank: int) -> bool:
    """Whether an operator, whose result has this rank, can apply an activation that follows it.

    The slopes of PReLU belong to axis 1, which is that of the channels in vectors and maps alone,
    and not where a linear operator has made a map: along its last axis.
    """
    elsewhere = isinstance(act, PReLU) and (rank not in (2, 4) or (op.kind, rank) == ("linear", 4))
    return isinstance(act, FUSABLE) and not elsewhere


def optional(inputs: tuple[MaybeType, ...]) -> tuple[MaybeType, MaybeType, MaybeType]:
    """(bias, slope, residual) of the inputs (x, weight, bias?, slope?, residual?)."""
    bias, slope, residual = (*inputs[2:], None, None, None)[:3]
    return bias, slope, residual


def check_epilogue(
    kind: str, act: Op | None, inputs: tuple[MaybeType, ...], out: TensorType, axis: int = 1
) -> None:
    """GraphError unless bias (o,), slope (o,) or (1,) and residual (as the output) fit.

    axis: of the o channels.
    """
    bias, slope, residual = optional(inputs)
    channels = out.shape[axis]
    need_shape(kind, "bias", bias, (channels,))
    need_shape(kind, "slope", slope, (channels,), (1,))
    need_shape(kind, "residual", residual, out.shape)
    if (slope is not None) != isinstance(act, PReLU):
        raise GraphError(f"{kind}: a slope input and act=prelu need each other")


def epilogue(
    y: Array, bias: Array | None, residual: Array | None, act: Op | None, slope: Array | None
) -> Array:
    """act(y + bias + residual); y is (n, o) or (n, o, oh, ow), fresh, and may be overwritten."""
    if bias is not None:
        y += channels_first(bias, y.ndim)
    if residual is not None:
        y += residual
    if act is None:
        return y
    result: Array = act.run(y) if slope is None else act.run(y, slope)
    return result


def epilogue_scratch(act: Op | None, inputs: tuple[MaybeType, ...], out: TensorType) -> int:
    """Bytes of the sweeps over the output: one each for bias, residual and activation."""
    bias, slope, residual = optional(inputs)
    sweeps = sum(part is not None for part in (bias, residual, act))
    inside = act.scratch((out, slope), (out,)) if act is not None else 0
    return 2 * sweeps * out.nbytes + inside
