"""How far two correct computations of an operator may lie apart, derived from its arithmetic.

A sum of K products, added in any order, with or without fused multiply-add, differs from the
exact one by at most gamma_K sum|a||b|, gamma_K = K u / (1 - K u), u = eps/2 the unit roundoff
(Higham 2002, Accuracy and Stability of Numerical Algorithms, eq. 3.5). Two such results differ
by at most twice that; as K u is far below 1, that is K eps sum|a||b| up to a factor that the
added constant covers. Functions applied to the sum pass its error on, times their largest
slope, and add a few roundings of their own.

Operators that only choose, move, or round once per element have the bound 0: equal bits
(up to the sign of a zero).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyface import ops
from tinyface.ops import Op
from tinyface.ops.spec import Array

Inputs = tuple[Any, ...]
Bound = Callable[[Any, Inputs, float], Any]


def tolerance(op: Op, inputs: Inputs, dtype: str) -> Array:
    """Largest allowed difference of two results in ``dtype``, for each element of the output.

    ``inputs`` are float64; operators with several outputs all have the bound 0.
    """
    info = np.finfo(dtype)
    bound = BOUNDS[op.kind](op, inputs, float(info.eps))
    return np.asarray(bound, np.float64) + (float(info.tiny) if np.any(bound) else 0.0)


def exact(op: Op, inputs: Inputs, eps: float) -> float:
    return 0.0


def product(op: Any, inputs: Inputs, eps: float) -> Array:
    """Convolution and linear: K products, bias, residual, then the activation."""
    x, weight, bias, slope, residual = (*inputs, None, None, None)[:5]
    plain = type(op)(**{**vars(op), "act": None})
    size = [None if a is None else np.abs(a) for a in (bias, residual)]
    total = plain.run(np.abs(x), np.abs(weight), size[0], None, size[1])  # sum |a||b| + …
    error: Array = (np.prod(weight.shape[1:]) + 3) * eps * total
    if op.act is None:
        return error
    own = BOUNDS[op.act.kind](op.act, (total, slope), eps)
    result: Array = steepest(op.act, slope) * error + own
    return result


def steepest(act: Any, slope: Array | None) -> float:
    """Largest slope of an activation (its Lipschitz constant)."""
    if isinstance(act, ops.PReLU):
        assert slope is not None
        return max(1.0, float(np.abs(slope).max()))
    if isinstance(act, ops.LeakyReLU):
        return max(1.0, abs(act.alpha))
    if isinstance(act, ops.HardSigmoid):
        return abs(act.alpha)
    most = {"hard_swish": 1.5, "sigmoid": 0.25, "silu": 1.1, "gelu": 1.13, "erf": 1.13}
    return most.get(act.kind, 1.0)


def one_product(op: Any, inputs: Inputs, eps: float) -> Array:
    """PReLU and leaky ReLU inside an epilogue: one rounding of slope times sum."""
    result: Array = eps * steepest(op, inputs[1] if len(inputs) > 1 else None) * np.abs(inputs[0])
    return result


def hard_sigmoid(op: Any, inputs: Inputs, eps: float) -> Array:
    """A product and a sum, each rounded; fused or not."""
    result: Array = 2 * eps * (np.abs(op.alpha * inputs[0]) + abs(op.beta))
    return result


def hard_swish(op: Any, inputs: Inputs, eps: float) -> Array:
    """The gate's error is a few eps absolute (the gate is at most 1); it is multiplied by x."""
    result: Array = 4 * eps * np.abs(inputs[0])
    return result


def sqrt(op: Any, inputs: Inputs, eps: float) -> Array:
    """One unit in the last place: not every library rounds it correctly, as IEEE 754 asks."""
    result: Array = eps * op.run(inputs[0])
    return result


def exp(op: Any, inputs: Inputs, eps: float) -> Array:
    """exp to 4 units in the last place."""
    result: Array = 4 * eps * op.run(inputs[0])
    return result


def log(op: Any, inputs: Inputs, eps: float) -> Array:
    """The logarithm to 4 units in the last place."""
    result: Array = 4 * eps * np.abs(op.run(inputs[0]))
    return result


def softplus(op: Any, inputs: Inputs, eps: float) -> Array:
    """exp and the logarithm to 4 units in the last place each, and a sum. PyTorch leaves out what
    is below e^-20 beside x."""
    result: Array = 12 * eps * op.run(inputs[0]) + 2.1e-9 * (inputs[0] > 20)
    return result


def sigmoid(op: Any, inputs: Inputs, eps: float) -> Array:
    """exp to 4 units in the last place, a sum and a quotient."""
    result: Array = 8 * eps * op.run(inputs[0])
    return result


def silu(op: Any, inputs: Inputs, eps: float) -> Array:
    """The gate's error, and one more product; the gate may end at the least normal number."""
    x = inputs[0]
    result: Array = 9 * eps * np.abs(op.run(x)) + np.abs(x) * 2.0**-125
    return result


def tanh(op: Any, inputs: Inputs, eps: float) -> Array:
    """Absolute, since 2 sigmoid(2x) - 1 cancels: twice the sigmoid's, and the argument's."""
    return np.full_like(inputs[0], 20 * eps)


def erf(op: Any, inputs: Inputs, eps: float) -> Array:
    """Absolute: a quotient of polynomials off by 2 eps, and a few roundings."""
    return np.full_like(inputs[0], 8 * eps)


def gelu(op: Any, inputs: Inputs, eps: float) -> Array:
    """The error of erf (8 eps) and of 1 + erf, times |x| / 2; by tanh that of a sigmoid (4 eps),
    whose argument u is off by 4 eps u where u times its slope is under 0.23."""
    result: Array = 6 * eps * np.abs(inputs[0])
    return result


def softmax(op: Any, inputs: Inputs, eps: float) -> Array:
    """x - max is rounded, exp magnifies that by |x - max|; then a sum of K terms."""
    x = inputs[0]
    depth = np.abs(x - x.max(op.axis, keepdims=True)).max()
    result: Array = (x.shape[op.axis] + 8 + depth) * eps * op.run(x)
    return result


def batch_norm(op: Any, inputs: Inputs, eps: float) -> Array:
    """Holds for (x - mean) scale + beta as for x scale + (beta - mean scale)."""
    x, gamma, beta, mean, var = inputs
    size = ops.BatchNorm(op.eps).run(np.abs(x), np.abs(gamma), np.abs(beta), -np.abs(mean), var)
    result: Array = 6 * eps * size
    return result


def l2_normalize(op: Any, inputs: Inputs, eps: float) -> Array:
    """The sum of K squares is off by K eps of itself, its root by half of that."""
    result: Array = (inputs[0].shape[op.axis] + 4) * eps * np.abs(op.run(inputs[0]))
    return result


def layer_norm(op: Any, inputs: Inputs, eps: float) -> Array:
    """The mean is off by K eps of the mean size; what is centred, by that and a rounding; the
    root, by half of what all squares are; all of it is magnified by 1 / sqrt(var + eps)."""
    x, scale, shift = (*inputs, None, None)[:3]
    k = x.shape[op.axis]
    var = x.var(op.axis, keepdims=True) + op.eps
    size = np.abs(x).mean(op.axis, keepdims=True)
    off = eps * ((k + 2) * size + np.abs(x)) / np.sqrt(var)  # of a value before scale and shift
    mine = np.abs(ops.LayerNorm(op.axis, op.eps).run(x))
    root = 2 * off.mean(op.axis, keepdims=True) + (k + 8) * eps
    along = (-1,) + (1,) * (x.ndim - 1 - op.axis % x.ndim)
    error = 2 * off + mine * root
    error = error if scale is None else error * np.abs(scale).reshape(along)
    total = np.abs(ops.LayerNorm(op.axis, op.eps).run(*inputs))
    total = total + (0.0 if shift is None else np.abs(shift).reshape(along))
    result: Array = error + 4 * eps * total
    return result


def matmul(op: Any, inputs: Inputs, eps: float) -> Array:
    a, b = inputs
    result: Array = (a.shape[-1] + 5) * eps * abs(op.scale) * np.matmul(np.abs(a), np.abs(b))
    return result


def mean_of_window(op: Any, inputs: Inputs, eps: float) -> Array:
    elements = op.kernel[0] * op.kernel[1]
    result: Array = (elements + 2) * eps * op.run(np.abs(inputs[0]))
    return result


def mean_of_map(op: Any, inputs: Inputs, eps: float) -> Array:
    x = inputs[0]
    result: Array = (x.shape[2] * x.shape[3] + 2) * eps * op.run(np.abs(x))
    return result


def reduce(op: Any, inputs: Inputs, eps: float) -> Array | float:
    if op.mode == "max":
        return 0.0
    x = inputs[0]
    elements = np.prod([x.shape[axis] for axis in op.axes])
    result: Array = (elements + 4) * eps * op.run(np.abs(x))
    return result


def resize(op: Any, inputs: Inputs, eps: float) -> float:
    """Bilinear: three mixings, and positions that are off by a few eps times the side."""
    if op.mode == "nearest":
        return 0.0
    x = inputs[0]
    return float((8 + 4 * (x.shape[2] + x.shape[3])) * eps * np.abs(x).max())


BOUNDS: dict[str, Bound] = {
    **dict.fromkeys(ops.OPS, exact),
    "average_pool": mean_of_window,
    "batch_norm": batch_norm,
    "conv2d": product,
    "erf": erf,
    "exp": exp,
    "gelu": gelu,
    "global_average_pool": mean_of_map,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
    "l2_normalize": l2_normalize,
    "layer_norm": layer_norm,
    "linear": product,
    "log": log,
    "matmul": matmul,
    "reduce": reduce,
    "resize": resize,
    "sigmoid": sigmoid,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
    "sqrt": sqrt,
    "tanh": tanh,
}
