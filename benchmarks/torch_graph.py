"""Run a tinyface Graph in PyTorch: a peer for benchmarks, an oracle for whole networks.

Each operator is written with the torch.nn.functional call that means the same, so that
PyTorch runs the network as its own users would have written it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tinyface.graph import Graph
from tinyface.ops import Op


def _act(op: Op | None, y: Any, slope: Any) -> Any:
    if op is None:
        return y
    return RUN[op.kind](op, y) if slope is None else RUN[op.kind](op, y, slope)


def _conv2d(op: Any, x: Any, w: Any, bias: Any = None, slope: Any = None, z: Any = None) -> Any:
    top, left, bottom, right = op.pad
    if (top, left) != (bottom, right):
        x = F.pad(x, (left, right, top, bottom))
        top = left = 0
    y = F.conv2d(x, w, bias, op.stride, (top, left), op.dilation, op.groups)
    return _act(op.act, y if z is None else y + z, slope)


def _linear(op: Any, x: Any, w: Any, bias: Any = None, slope: Any = None, z: Any = None) -> Any:
    y = F.linear(x, w, bias)
    return _act(op.act, y if z is None else y + z, slope)


def _max_pool(op: Any, x: Any) -> Any:
    top, left, bottom, right = op.pad
    if (top, left) != (bottom, right):
        x = F.pad(x, (left, right, top, bottom), value=float("-inf"))
        top = left = 0
    return F.max_pool2d(x, op.kernel, op.stride, (top, left), op.dilation, op.ceil)


def _average_pool(op: Any, x: Any) -> Any:
    if op.pad[:2] != op.pad[2:]:
        raise NotImplementedError("average pooling with uneven pads")
    return F.avg_pool2d(x, op.kernel, op.stride, op.pad[:2], op.ceil, op.count_include_pad)


def _resize(op: Any, x: Any, like: Any = None) -> Any:
    size = like.shape[2:] if like is not None else op.size if op.size != (0, 0) else None
    scale = None if size is not None else op.scale
    corners = op.mode == "corners"
    how = {"mode": "bilinear", "align_corners": True} if corners else {"mode": op.mode}
    return F.interpolate(x, size=size, scale_factor=scale, **how)


def _pad(op: Any, x: Any) -> Any:
    widths = [w for pair in zip(op.before[::-1], op.after[::-1], strict=True) for w in pair]
    return F.pad(x, widths, value=op.value)


def _interleave(op: Any, *parts: Any) -> Any:
    (n, c, h, w), (bh, bw) = parts[0].shape, op.block
    grid = torch.stack(parts, 1).view(n, bh, bw, c, h, w)
    return grid.permute(0, 3, 4, 1, 5, 2).reshape(n, c, h * bh, w * bw)


def _shuffle(op: Any, x: Any) -> Any:
    n, c, h, w = x.shape
    return x.reshape(n, op.groups, c // op.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def _slice(op: Any, x: Any) -> Any:
    if min(op.steps, default=1) > 0:
        return x[op.index(x.ndim)]
    for axis, s in enumerate(op.index(x.ndim)):
        x = x.index_select(axis, torch.tensor(range(*s.indices(x.shape[axis]))))
    return x


def _reduce(op: Any, x: Any) -> Any:
    how = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax, "l2": torch.linalg.vector_norm}
    return how[op.mode](x, dim=op.axes, keepdim=op.keepdims)


RUN: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "relu": lambda op, x: F.relu(x),
    "clip": lambda op, x: torch.clamp(x, op.low, op.high),
    "leaky_relu": lambda op, x: F.leaky_relu(x, op.alpha),
    "prelu": lambda op, x, slope: F.prelu(x, slope),
    "sigmoid": lambda op, x: torch.sigmoid(x),
    "hard_sigmoid": lambda op, x: torch.clamp(op.alpha * x + op.beta, 0, 1),
    "hard_swish": lambda op, x: F.hardswish(x),
    "silu": lambda op, x: F.silu(x),
    "tanh": lambda op, x: torch.tanh(x),
    "erf": lambda op, x: torch.erf(x),
    "gelu": lambda op, x: F.gelu(x, approximate="tanh" if op.tanh else "none"),
    "softmax": lambda op, x: torch.softmax(x, op.axis),
    "batch_norm": lambda op, x, g, b, m, v: F.batch_norm(x, m, v, g, b, eps=op.eps),
    "l2_normalize": lambda op, x: F.normalize(x, dim=op.axis, eps=op.eps),
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "global_average_pool": lambda op, x: F.adaptive_avg_pool2d(x, 1),
    "global_max_pool": lambda op, x: F.adaptive_max_pool2d(x, 1),
    "add": lambda op, a, b: a + b,
    "sub": lambda op, a, b: a - b,
    "mul": lambda op, a, b: a * b,
    "div": lambda op, a, b: a / b,
    "maximum": lambda op, a, b: torch.maximum(a, b),
    "max_feature_map": lambda op, x: torch.maximum(*x.chunk(2, 1)),
    "reduce": _reduce,
    "resize": _resize,
    "concat": lambda op, *parts: torch.cat(parts, op.axis),
    "split": lambda op, x: torch.split(x, op.sizes, op.axis),
    "slice": _slice,
    "pad": _pad,
    "reshape": lambda op, x: x.reshape([s or x.shape[i] for i, s in enumerate(op.shape)]),
    "flatten": lambda op, x: torch.flatten(x, op.axis),
    "transpose": lambda op, x: x.permute(op.perm),
    "channel_shuffle": _shuffle,
    "interleave": _interleave,
    "identity": lambda op, x: x,
}  # fmt: skip


class TorchGraph(torch.nn.Module):
    """The network as a module: arrays of the graph's input shape in, a tuple of outputs out."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.weights = {k: torch.from_numpy(v.copy()) for k, v in graph.params.items()}
        for i, weight in enumerate(self.weights.values()):  # so that tracing sees constants
            self.register_buffer(f"w{i}", weight)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        names = list(self.graph.params)
        values: dict[str, Any] = {name: getattr(self, f"w{i}") for i, name in enumerate(names)}
        values |= dict(zip(self.graph.inputs, inputs, strict=True)) | {"": None}
        for node in self.graph.nodes:
            result = RUN[node.op.kind](node.op, *(values[name] for name in node.inputs))
            outputs = result if isinstance(result, (tuple, list)) else (result,)
            values.update(zip(node.outputs, outputs, strict=True))
        return tuple(values[name] for name in self.graph.outputs)
