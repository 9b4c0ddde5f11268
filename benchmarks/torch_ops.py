"""Every operator, said once more with PyTorch's functions, as its own users would have written it:
the oracle of the property tests, and how a peer runs a network in the benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tinyface import ops
from tinyface.ops import Op

Tensor = torch.Tensor


def oracle(op: Op, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """The operator's outputs according to PyTorch."""
    result = RUN[op.kind](op, *inputs)
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def finish(
    op: Any, y: Tensor, slope: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    """Residual and activation behind a convolution or a linear layer."""
    if residual is not None:
        y = y + residual
    if op.act is None:
        return y
    return oracle(op.act, (y,) if slope is None else (y, slope))[0]


def conv2d(
    op: Any, x: Any, weight: Any, bias: Any = None, slope: Any = None, residual: Any = None
) -> Any:
    top, left, bottom, right = op.pad
    if (top, left) != (bottom, right):
        x = F.pad(x, (left, right, top, bottom))
        top = left = 0
    y = F.conv2d(x, weight, bias, op.stride, (top, left), op.dilation, op.groups)
    return finish(op, y, slope, residual)


def linear(
    op: Any, x: Any, weight: Any, bias: Any = None, slope: Any = None, residual: Any = None
) -> Any:
    y = F.linear(x, weight, bias)
    if slope is None or y.ndim == 2:
        return finish(op, y, slope, residual)
    # the slopes of F.prelu belong to axis 1
    rows = None if residual is None else residual.flatten(0, -2)
    return finish(op, y.flatten(0, -2), slope, rows).reshape(y.shape)


def layer_norm(op: Any, x: Any, scale: Any = None, shift: Any = None) -> Any:
    last = x.movedim(op.axis, -1)
    return F.layer_norm(last, last.shape[-1:], scale, shift, op.eps).movedim(-1, op.axis)


def hard_sigmoid(op: Any, x: Any) -> Any:
    if op == ops.HardSigmoid():
        return F.hardsigmoid(x)
    return torch.clamp(op.alpha * x + op.beta, 0, 1)


def symmetric(op) -> bool:
    """Whether PyTorch's own padding can say it: equal pads of at most half the window."""
    top, left, bottom, right = op.pad
    equal = (top, left) == (bottom, right)
    return equal and 2 * top <= op.kernel[0] and 2 * left <= op.kernel[1]


def max_pool(op: Any, x: Any) -> Any:
    top, left, bottom, right = op.pad
    if symmetric(op):
        pads, args = (0, 0, 0, 0), (top, left)
    else:
        pads, args = (left, right, top, bottom), (0, 0)
    padded = F.pad(x, pads, value=-math.inf)
    y = F.max_pool2d(padded, op.kernel, op.stride, args, op.dilation, op.ceil)
    if symmetric(op):
        return y
    # PyTorch took the pads for map and may have placed one more window there
    oh, ow = op.output_map(tuple(x.shape[2:]))
    return y[:, :, :oh, :ow]


def average_pool(op: Any, x: Any) -> Any:
    top, left, bottom, right = op.pad
    if symmetric(op) and op.dilation == (1, 1):
        return F.avg_pool2d(x, op.kernel, op.stride, (top, left), op.ceil, op.count_include_pad)
    # one window after another, with room behind the map for those that hang over
    h, w = x.shape[2:]
    room_h, room_w = op.dilation[0] * op.kernel[0], op.dilation[1] * op.kernel[1]
    oh, ow = op.output_map((h, w))
    around = (left, right, top, bottom)
    ones = F.pad(torch.ones(1, 1, h, w, dtype=x.dtype), around, value=float(op.count_include_pad))

    def sums(t: Any) -> Any:
        t = F.pad(t, (0, room_w + op.stride[1], 0, room_h + op.stride[0]))
        reach_h, reach_w = op.dilation[0] * (op.kernel[0] - 1), op.dilation[1] * (op.kernel[1] - 1)
        rows = (t.shape[2] - reach_h - 1) // op.stride[0] + 1
        columns = (t.shape[3] - reach_w - 1) // op.stride[1] + 1
        u = F.unfold(t, op.kernel, op.dilation, 0, op.stride)
        u = u.reshape(t.shape[0], t.shape[1], -1, rows, columns).sum(2)
        return u[:, :, :oh, :ow]

    return sums(F.pad(x, around)) / sums(ones).clamp(min=1)


def reduce(op: Any, x: Any) -> Any:
    if op.mode == "l2":
        return torch.linalg.vector_norm(x, 2, op.axes, op.keepdims)
    how = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}[op.mode]
    return how(x, op.axes, op.keepdims)


def take_slices(op: Any, x: Any) -> Any:
    if min(op.steps, default=1) > 0:
        return x[op.index(x.ndim)]
    for axis, start, end, step in zip(op.axes, op.starts, op.ends, op.steps, strict=True):
        places = list(range(x.shape[axis]))[start:end:step]
        x = x.index_select(axis, torch.tensor(places))
    return x


def pad(op: Any, x: Any) -> Any:
    ends = [n for b, a in zip(reversed(op.before), reversed(op.after), strict=True) for n in (b, a)]
    return F.pad(x, ends, value=op.value)


def reshape(op: Any, x: Any) -> Any:
    return x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(op.shape)])


def flatten(op: Any, x: Any) -> Any:
    axis = op.axis % x.ndim if op.axis < 0 else op.axis
    return torch.flatten(x, 1) if axis == 1 < x.ndim else x.reshape(math.prod(x.shape[:axis]), -1)


def resize(op: Any, x: Any, like: Any = None) -> Any:
    size = tuple(like.shape[2:]) if like is not None else op.size if any(op.size) else None
    how = {"mode": op.mode} if op.mode != "corners" else {"mode": "bilinear", "align_corners": True}
    if size is None:
        return F.interpolate(x, scale_factor=op.scale, **how)
    return F.interpolate(x, size=size, **how)


def channel_shuffle(op: Any, x: Any) -> Any:
    n, c, h, w = x.shape
    return x.reshape(n, op.groups, c // op.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def interleave(op: Any, *parts: Any) -> Any:
    bh, bw = op.block
    n, c, h, w = parts[0].shape
    grid = torch.stack(parts, 1).view(n, bh, bw, c, h, w)
    return grid.permute(0, 3, 4, 1, 5, 2).reshape(n, c, h * bh, w * bw)


TORCH_COMPARES = {
    "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "equal": "eq",
}  # fmt: skip
RUN: dict[str, Callable[..., Any]] = {
    "add": lambda op, a, b: a + b,
    "average_pool": average_pool,
    "batch_norm": lambda op, x, gamma, beta, mean, var: F.batch_norm(
        x, mean, var, gamma, beta, False, 0.0, op.eps
    ),
    "channel_shuffle": channel_shuffle,
    "clip": lambda op, x: torch.clamp(x, op.low, op.high),
    "compare": lambda op, a, b: getattr(torch, TORCH_COMPARES[op.mode])(a, b).to(a.dtype),
    "concat": lambda op, *parts: torch.cat(parts, op.axis),
    "conv2d": conv2d,
    "div": lambda op, a, b: a / b,
    "erf": lambda op, x: torch.erf(x),
    "exp": lambda op, x: torch.exp(x),
    "flatten": flatten,
    "gelu": lambda op, x: F.gelu(x, approximate="tanh" if op.tanh else "none"),
    "global_average_pool": lambda op, x: F.adaptive_avg_pool2d(x, 1),
    "global_max_pool": lambda op, x: F.adaptive_max_pool2d(x, 1),
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": lambda op, x: F.hardswish(x),
    "identity": lambda op, x: x,
    "interleave": interleave,
    "l2_normalize": lambda op, x: F.normalize(x, 2.0, op.axis, op.eps),
    "layer_norm": layer_norm,
    "leaky_relu": lambda op, x: F.leaky_relu(x, op.alpha),
    "linear": linear,
    "log": lambda op, x: torch.log(x),
    "matmul": lambda op, a, b: torch.matmul(a, b) * op.scale,
    "max_feature_map": lambda op, x: torch.maximum(*x.chunk(2, 1)),
    "max_pool": max_pool,
    "maximum": lambda op, a, b: torch.maximum(a, b),
    "mul": lambda op, a, b: a * b,
    "pad": pad,
    "prelu": lambda op, x, slope: F.prelu(x, slope),
    "reduce": reduce,
    "relu": lambda op, x: F.relu(x),
    "reshape": reshape,
    "resize": resize,
    "sigmoid": lambda op, x: torch.sigmoid(x),
    "silu": lambda op, x: F.silu(x),
    "slice": take_slices,
    "softmax": lambda op, x: F.softmax(x, op.axis),
    "softplus": lambda op, x: F.softplus(x),
    "split": lambda op, x: torch.split(x, op.sizes, op.axis),
    "sqrt": lambda op, x: torch.sqrt(x),
    "sub": lambda op, a, b: a - b,
    "tanh": lambda op, x: torch.tanh(x),
    "transpose": lambda op, x: x.permute(op.perm),
    "where": lambda op, condition, a, b: torch.where(condition != 0, a, b),
}
