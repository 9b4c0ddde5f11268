"""Arithmetic on constants: exporters write whole little programs that only compute a shape.

:func:`fold` computes a node whose inputs are all known. Sizes are bounded before anything is
allocated; whatever does not work out is a FormatError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, Final

import numpy as np

from tinyface.errors import FormatError
from tinyface.formats.arrays import Array
from tinyface.formats.onnx_file import OnnxNode
from tinyface.limits import MAX_TENSOR_BYTES

MAX_ELEMENTS: Final = 1 << 22  # of what is computed here; weights are larger, but not computed
MAX_PRODUCTS: Final = 1 << 26  # of one product of matrices: a tenth of a second for integers
MAX_ALL_PRODUCTS: Final = 1 << 30  # of all of a file: 24 layers of the largest Swin V2 and more
_TYPES: Final = {
    1: np.float32,
    6: np.int64,
    7: np.int64,
    9: np.bool_,
    10: np.float32,
    11: np.float32,
}


def _constant(node: OnnxNode) -> Array:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in node.attributes:
            value = np.asarray(node.attributes[name])
            return value.astype(np.float32) if value.dtype.kind == "f" else value
    raise node.refuse("a constant of a type that is not read")


def _axes(node: OnnxNode, arrays: tuple[Array, ...], i: int = 1) -> tuple[int, ...] | None:
    """Axes from an input (newer opsets) or the attribute; None if not given."""
    if len(arrays) > i:
        return tuple(int(v) for v in arrays[i].reshape(-1))
    return node.ints("axes") if "axes" in node.attributes else None


def _cast(node: OnnxNode, x: Array) -> Array:
    to = node.attribute("to", 0)
    if to not in _TYPES:
        raise node.refuse(f"a cast to type {to}")
    return x.astype(_TYPES[to])


def _constant_of_shape(node: OnnxNode, shape: Array) -> Array:
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).reshape(-1)
    return np.full(_bounded(node, shape), value[0])


def _eye_like(node: OnnxNode, x: Array) -> Array:
    to = node.attribute("dtype", 0)
    if x.ndim != 2 or to not in (0, *_TYPES):
        raise node.refuse(f"of {x.ndim} axes and type {to}")
    high, wide = _bounded(node, np.array(x.shape))
    eye = np.eye(high, wide, node.attribute("k", 0))
    return eye.astype(_TYPES.get(to, x.dtype))


def _bounded(node: OnnxNode, shape: Array) -> tuple[int, ...]:
    sides = tuple(int(side) for side in shape.reshape(-1))
    if any(side < 0 for side in sides) or math.prod(sides) > MAX_ELEMENTS:
        raise node.refuse(f"a constant of shape {sides}")
    return sides


def _gather(node: OnnxNode, x: Array, indices: Array) -> Array:
    axis = node.attribute("axis", 0)
    _bounded(node, np.array([x.size // max(x.shape[axis], 1) * indices.size]))
    return np.take(x, indices, axis)


def _gather_nd(node: OnnxNode, x: Array, indices: Array) -> Array:
    if node.attribute("batch_dims", 0):
        raise node.refuse("batch_dims other than 0")
    k = indices.shape[-1]
    _bounded(node, np.array([*indices.shape[:-1], *x.shape[k:]]))
    return np.asarray(x[tuple(np.moveaxis(indices, -1, 0))])


def _cumsum(node: OnnxNode, x: Array, axis: Array) -> Array:
    along = axis.item()
    x = np.flip(x, along) if node.attribute("reverse", 0) else x
    y = np.cumsum(x, along, dtype=x.dtype)
    y = y - x if node.attribute("exclusive", 0) else y
    return np.flip(y, along) if node.attribute("reverse", 0) else y


def _range(node: OnnxNode, start: Array, limit: Array, delta: Array) -> Array:
    count = math.ceil((limit.item() - start.item()) / delta.item())
    _bounded(node, np.array([max(count, 0)]))
    return np.arange(start.item(), limit.item(), delta.item()).astype(start.dtype)


def _shape(node: OnnxNode, x: Array) -> Array:
    return np.array(x.shape[slice(node.attribute("start", 0), node.attribute("end", None))])


def _slice(node: OnnxNode, x: Array, *rest: Array) -> Array:
    numbers = [tuple(int(v) for v in r.reshape(-1)) for r in rest]
    given = dict(zip((i for i in range(1, 5) if node.has(i)), numbers, strict=True))
    if not given:
        given = {i: node.ints(name, ()) for i, name in enumerate(("starts", "ends", "axes"), 1)}
    starts, ends = given[1], given[2]
    axes = given.get(3) or tuple(range(len(starts)))
    steps = given.get(4) or (1,) * len(starts)
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end if end > -(1 << 31) else None, step)
    return x[tuple(index)]


def _squeeze(node: OnnxNode, *arrays: Array) -> Array:
    return np.squeeze(arrays[0], _axes(node, arrays))


def _unsqueeze(node: OnnxNode, *arrays: Array) -> Array:
    return np.expand_dims(arrays[0], _axes(node, arrays) or ())


def _flatten(node: OnnxNode, x: Array) -> Array:
    axis = node.attribute("axis", 1)
    if not -x.ndim <= axis <= x.ndim:
        raise node.refuse(f"at axis {axis} of {x.ndim}")
    return x.reshape(math.prod(x.shape[: axis if axis >= 0 else x.ndim + axis]), -1)


def _reshape(node: OnnxNode, x: Array, shape: Array) -> Array:
    sides = [int(s) for s in shape.reshape(-1)]
    if not node.attribute("allowzero", 0):
        sides = [x.shape[i] if s == 0 else s for i, s in enumerate(sides)]
    return x.reshape(sides)


def _concat(node: OnnxNode, *arrays: Array) -> Array:
    if sum(a.nbytes for a in arrays) > MAX_TENSOR_BYTES:
        raise node.refuse("this computation on constants is too large")
    return np.concatenate(arrays, node.attribute("axis", 0))


def _transpose(node: OnnxNode, x: Array) -> Array:
    return x.transpose(node.ints("perm", tuple(reversed(range(x.ndim)))))


def _broadcast(node: OnnxNode, arrays: tuple[Array, ...]) -> None:
    """Raises FormatError where arrays of these shapes together make a much larger one."""
    size = math.prod(np.broadcast_shapes(*(a.shape for a in arrays)))
    if size > max(MAX_ELEMENTS, *(a.size for a in arrays)):
        raise node.refuse("this computation on constants is too large")


def _div(node: OnnxNode, a: Array, b: Array) -> Array:
    _broadcast(node, (a, b))
    if a.dtype.kind == "f":
        with np.errstate(all="ignore"):
            return np.asarray(a / b)
    return np.trunc(a / b).astype(a.dtype)


def _expand(node: OnnxNode, x: Array, shape: Array) -> Array:
    """A view, but the next operator would write it out."""
    sides = np.broadcast_shapes(x.shape, _bounded(node, shape))
    if math.prod(sides) > max(MAX_ELEMENTS, x.size):
        raise node.refuse(f"a constant of shape {sides}")
    return np.broadcast_to(x, sides)


def _clip(node: OnnxNode, x: Array, *ends: Array) -> Array:
    """Ends from inputs, of which the lower one may be absent; before opset 11 from attributes."""
    if node.opset < 11:
        least, most = node.attribute("min", -np.inf), node.attribute("max", np.inf)
    else:
        given = iter(ends)
        least, most = (next(given) if node.has(i) else None for i in (1, 2))
    _broadcast(node, (x, *ends))
    return np.asarray(np.clip(x, least, most)) if ends or node.opset < 11 else x


def _tile(node: OnnxNode, x: Array, repeats: Array) -> Array:
    times = [int(r) for r in repeats.reshape(-1)]
    if min(times, default=1) < 0 or x.size * math.prod(times) > MAX_ELEMENTS:
        raise node.refuse(f"it repeats {x.size} values {times} times")
    return np.tile(x, times)


def products(node: OnnxNode, arrays: tuple[Array, ...]) -> int:
    """How often a product of matrices multiplies, or more; 0 of all else."""
    if node.kind not in ("Gemm", "MatMul") or len(arrays) < 2 or not arrays[0].ndim:
        return 0
    a, b = arrays[:2]
    turned = node.kind == "Gemm" and a.ndim > 1 and node.attribute("transA", 0)
    return int(a.size * b.size // max(a.shape[-2 if turned else -1], 1))


def _matmul(node: OnnxNode, a: Array, b: Array) -> Array:
    """Swin V2 makes its table of biases of the places by two layers, which no picture changes."""
    columns = b.shape[-1] if b.ndim > 1 else 1
    size = math.prod(a.shape[:-1]) * math.prod(b.shape[:-2]) * columns  # or less
    if size > max(MAX_ELEMENTS, a.size, b.size) or size * a.shape[-1] > MAX_PRODUCTS:
        raise node.refuse("this computation on constants is too large")
    return np.asarray(np.matmul(a, b))


def _gemm(node: OnnxNode, a: Array, b: Array, *c: Array) -> Array:
    a = a.T if node.attribute("transA", 0) else a
    b = b.T if node.attribute("transB", 0) else b
    y = node.attribute("alpha", 1.0) * _matmul(node, a, b)
    _broadcast(node, (y, *c[:1]))
    return np.asarray(y + node.attribute("beta", 1.0) * c[0] if c else y)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _trilu(node: OnnxNode, x: Array, *k: Array) -> Array:
    if x.ndim < 2:
        raise node.refuse("half of a vector")
    half = np.triu if node.attribute("upper", 1) else np.tril
    return half(x, k[0].item() if k else 0)


def _batch_norm(
    node: OnnxNode, x: Array, scale: Array, shift: Array, mean: Array, variance: Array
) -> Array:
    """Of weights, whose own mean and variance are taken in training mode: standardised
    convolutions (NFNet, BiT) are written so."""
    if node.attribute("training_mode", 0):
        others = tuple(axis for axis in range(x.ndim) if axis != 1)
        mean, variance = x.mean(others, np.float64), x.var(others, np.float64)
    _broadcast(node, (x, scale.reshape(-1, *[1] * (x.ndim - 2))))
    factor = scale / np.sqrt(variance + node.attribute("epsilon", 1e-5))
    sides = (1, -1, *[1] * (x.ndim - 2))
    return np.asarray(x * factor.reshape(sides) + (shift - mean * factor).reshape(sides))


def _reduce(how: Callable[..., Any]) -> Callable[..., Array]:
    def run(node: OnnxNode, *arrays: Array) -> Array:
        axes = _axes(node, arrays) or None  # all
        if axes is None and node.attribute("noop_with_empty_axes", 0):
            return arrays[0]
        x, kept = arrays[0], bool(node.attribute("keepdims", 1))
        return np.asarray(how(x, axis=axes, keepdims=kept)).astype(x.dtype)  # whole: no fraction

    return run


def _mod(node: OnnxNode, a: Array, b: Array) -> Array:
    """What is left has the sign of the divisor, or with ``fmod`` of what is divided."""
    _broadcast(node, (a, b))
    return np.asarray((np.fmod if node.attribute("fmod", 0) else np.mod)(a, b))


def _simple(how: Callable[..., Any]) -> Callable[..., Array]:
    """An operator that NumPy has under another name."""

    def run(node: OnnxNode, *arrays: Array) -> Array:
        _broadcast(node, arrays)
        return np.asarray(how(*arrays))

    return run


_NUMPY: Final[dict[str, Callable[..., Any]]] = {
    "Abs": np.abs, "Add": np.add, "And": np.logical_and, "Ceil": np.ceil, "Cos": np.cos,
    "Equal": np.equal, "Exp": np.exp, "Floor": np.floor, "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less, "LessOrEqual": np.less_equal, "Log": np.log,
    "Max": lambda *xs: reduce(np.maximum, xs),
    "Min": lambda *xs: reduce(np.minimum, xs),
    "Mul": np.multiply, "Neg": np.negative,
    "Not": np.logical_not, "Or": np.logical_or, "Pow": np.power,
    "Reciprocal": np.reciprocal, "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": _sigmoid, "Sin": np.sin,
    "Sign": np.sign, "Sqrt": np.sqrt, "Sub": np.subtract, "Where": np.where,
}  # fmt: skip
FOLD: Final[dict[str, Callable[..., Array]]] = {
    "BatchNormalization": _batch_norm,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "CumSum": _cumsum,
    "Div": _div,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "Identity": lambda node, x: x,
    "MatMul": _matmul,
    "Range": _range,
    "Mod": _mod,
    "ReduceMax": _reduce(np.max),
    "ReduceMean": _reduce(np.mean),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda node, x: np.array(x.size),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    **{name: _simple(how) for name, how in _NUMPY.items()},
}


def fold(node: OnnxNode, arrays: tuple[Array, ...]) -> Array:
    """The node's only output.

    Raises:
        FormatError: an operator that is not in :data:`FOLD`, or values that do not fit.
    """
    if node.kind not in FOLD:
        raise node.refuse("this computation on constants is not known here")
    try:
        with np.errstate(all="ignore"):
            result = FOLD[node.kind](node, *arrays)
    except FormatError:
        raise
    except (ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError, MemoryError) as e:
        raise node.refuse(f"its constants do not fit ({type(e).__name__})") from None
    return result.astype(np.float32) if result.dtype == np.float64 else result
