"""Chains of random ONNX operators, of rank 2 to 4 and any batch, beside onnxruntime.

What a step's attributes are is drawn for the shape that it finds. Left out is what onnxruntime does
otherwise (``auto_pad`` with strides beyond the kernel: test_onnx_operators.py) or falls over
(means over one pixel), and what makes errors large (quotients, powers).
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

from tinyface.runtime import Session

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx_models import assert_close, model, node, onnxruntime_outputs, read  # noqa: E402

BATCH, CHAINS = 2, 20
OPSETS = (11, 13, 17, 18)
Shape = tuple[int, ...]


class Step(NamedTuple):
    """A node: its constants, with None for one that is left out, and its attributes."""

    kind: str
    constants: tuple[Any, ...] = ()
    attributes: Mapping[str, Any] = MappingProxyType({})


class Draw(random.Random):
    """What steps are drawn from."""

    opset = 17

    def floats(self, *shape: int) -> np.ndarray:
        return np.random.default_rng(self.getrandbits(32)).standard_normal(shape, np.float32)

    def ints(self, count: int, low: int, high: int) -> list[int]:
        return [self.randint(low, high) for _ in range(count)]

    def axis(self, rank: int) -> int:
        """Any but the batch's, from the front or from the end."""
        return self.choice((0, -rank)) + self.randint(1, rank - 1)

    def divisor(self, number: int) -> int:
        return self.choice([d for d in range(1, number + 1) if number % d == 0])

    def as_input(self, kind: str, name: str, since: int, value: list[int], **more: Any) -> Step:
        """A list that became an input with an opset, and was an attribute before."""
        if self.opset >= since:
            return Step(kind, (np.array(value),), more)
        return Step(kind, (), {name: value} | more)


def conv(d: Draw, shape: Shape) -> Step:
    axes, groups = len(shape) - 2, d.divisor(shape[1])
    kernel = [d.randint(1, min(4, side + 2)) for side in shape[2:]]
    fits = (2 * k - 1 <= side + 2 for k, side in zip(kernel, shape[2:], strict=True))
    dilations = [d.randint(1, 1 + fit) for fit in fits]
    weight = d.floats(groups * d.randint(1, 3), shape[1] // groups, *kernel)
    bias = (d.floats(len(weight)),) if d.random() < 0.5 else ()
    steps = {"strides": d.ints(axes, 1, 3), "pads": d.ints(2 * axes, 1, 3)}
    return Step("Conv", (weight, *bias), steps | {"dilations": dilations, "group": groups})


def transposed_conv(d: Draw, shape: Shape) -> Step:
    strides, groups = d.ints(2, 1, 3), d.divisor(shape[1])
    more = {"output_padding": [d.randrange(s) for s in strides], "dilations": d.ints(2, 1, 2)}
    weight = d.floats(shape[1], d.randint(1, 3), *d.ints(2, 2, 4))
    pads = {"pads": d.ints(4, 0, 1), "strides": strides, "group": groups}
    return Step("ConvTranspose", (weight,), pads | more)


def pool(d: Draw, shape: Shape) -> Step:
    axes = len(shape) - 2
    kernel = [d.randint(1, min(4, side)) for side in shape[2:]]
    pads = [d.randrange(side) for side in kernel * 2]
    more = {"kernel_shape": kernel, "strides": d.ints(axes, 1, 3), "pads": pads}
    if d.random() < 0.5:
        return Step("MaxPool", (), more)
    return Step("AveragePool", (), more | {"count_include_pad": d.randint(0, 1)})


def resize(d: Draw, shape: Shape) -> Step:
    how = d.choice(["half_pixel", "asymmetric", "align_corners"])
    mode = d.choice(["nearest", "linear", "cubic"])
    factors = np.float32([1, 1, d.choice([0.5, 1, 2, 3]), d.choice([0.5, 1, 2, 3])])
    if np.any(factors * shape < 1):
        factors = np.float32([1, 1, 2, 2])
    return Step(
        "Resize",
        (np.float32([]) if d.opset < 13 else None, factors),
        {"mode": mode, "coordinate_transformation_mode": how},
    )


def pad(d: Draw, shape: Shape) -> Step:
    mode = d.choice(["constant", "reflect", "edge"])
    most = [min(3, side - 1) for side in shape[2:]]
    pads = [0, 0, *(d.randint(0, n) for n in most), 0, 0, *(d.randint(0, n) for n in most)]
    return Step("Pad", (np.array(pads),), {"mode": mode})


def blocks(d: Draw, shape: Shape) -> Step:
    if shape[1] % 4 == 0:
        return Step("DepthToSpace", (), {"blocksize": 2, "mode": d.choice(["DCR", "CRD"])})
    if shape[2] % 2 == shape[3] % 2 == 0:
        return Step("SpaceToDepth", (), {"blocksize": 2})
    return Step(d.choice(["GlobalAveragePool", "GlobalMaxPool"]))


def batch_norm(d: Draw, shape: Shape) -> Step:
    scale, shift, mean, variance = (d.floats(shape[1]) for _ in range(4))
    return Step("BatchNormalization", (scale, shift, mean, np.abs(variance) + 0.5))


def activation(d: Draw, shape: Shape) -> Step:
    plain = ["Relu", "Sigmoid", "Tanh", "Elu", "Selu", "HardSigmoid", "Softplus", "Softsign", "Abs",
             "Neg", "Erf", "LeakyRelu"]  # fmt: skip
    kind = d.choice([*plain, "PRelu", "Clip"])
    if kind == "PRelu":
        return Step(kind, (d.floats(shape[1], *[1] * (len(shape) - 2)),))
    return Step(kind, (np.float32(-0.5), np.float32(0.7)) if kind == "Clip" else ())


def arithmetic(d: Draw, shape: Shape) -> Step:
    """With a constant of some of the sides, or of the last ones alone."""
    sides = [1, *(d.choice([1, side]) for side in shape[1:])][d.randrange(len(shape)) :]
    return Step(d.choice(["Add", "Sub", "Mul", "Max", "Min"]), (d.floats(*sides),))


def reduction(d: Draw, shape: Shape) -> Step:
    kinds = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1"]
    kind, rank = d.choice(kinds), len(shape)
    axes = sorted(d.sample(range(1, rank), d.randint(1, rank - 1)))
    axes = [axis - d.choice((0, rank)) for axis in axes]
    since = 13 if kind == "ReduceSum" else 18
    return d.as_input(kind, "axes", since, axes, keepdims=d.randint(0, 1))


def reshape(d: Draw, shape: Shape) -> Step:
    size = int(np.prod(shape[1:]))
    part = d.divisor(size)
    forms = [(-1, size), (0, -1), (-1, part, size // part), (0, part, -1), (0, part, 1, -1)]
    return Step("Reshape", (np.array(d.choice(forms)),))


def transpose(d: Draw, shape: Shape) -> Step:
    return Step("Transpose", (), {"perm": [0, *d.sample(range(1, len(shape)), len(shape) - 1)]})


def softmax(d: Draw, shape: Shape) -> Step:
    axis = d.axis(len(shape)) if d.opset >= 13 else -1  # before, all behind it counted as one
    return Step(d.choice(["Softmax", "LogSoftmax"]), (), {"axis": axis})


def part(d: Draw, shape: Shape) -> Step:
    axis = d.axis(len(shape))
    side = shape[axis]
    if d.random() < 0.5:
        return Step("Gather", (np.array(d.ints(d.randint(1, 4), -side, side - 1)),), {"axis": axis})
    ends = [d.randrange(side), d.choice([side, (1 << 31) - 1]), axis, d.randint(1, 3)]
    return Step("Slice", tuple(np.array([end]) for end in ends))


def one_axis_more(d: Draw, shape: Shape) -> Step:
    return d.as_input("Unsqueeze", "axes", 13, [d.randint(1, len(shape))])


def product(d: Draw, shape: Shape) -> Step:
    if len(shape) == 2 and d.random() < 0.5:
        outputs = d.randint(1, 9)
        return Step("Gemm", (d.floats(outputs, shape[1]), d.floats(outputs)), {"transB": 1})
    return Step("MatMul", (d.floats(shape[-1], d.randint(1, 9)),))


ANY = (activation, arithmetic, reduction, reshape, transpose, softmax, part, product)
OF_RANK: dict[int, tuple[Callable[[Draw, Shape], Step], ...]] = {
    2: (*ANY, one_axis_more, batch_norm),
    3: (*ANY, one_axis_more, batch_norm, conv, pool),
    4: (*ANY, conv, conv, transposed_conv, pool, resize, pad, blocks, batch_norm),
}


def chain(d: Draw) -> tuple[list[Any], dict[str, Any], Shape]:
    """Nodes, constants, and the shape of ``x``. Steps that would leave nothing are left out."""
    first = shape = (BATCH, d.randint(1, 9), *d.ints(d.choice([0, 1, 2, 2, 2]), 3, 12))
    name, nodes = "x", [node("Identity", outputs="y")]
    constants: dict[str, Any] = {}
    for i in range(d.choice([1, 2, 3, 5, 8])):
        step = d.choice(OF_RANK[len(shape)])(d, shape)
        given = {f"{i}.{j}": c for j, c in enumerate(step.constants)}
        inputs = ["" if c is None else key for key, c in given.items()]
        more = [*nodes, node(step.kind, name, *inputs, outputs=f"y{i}", **step.attributes)]
        known = constants | {key: given[key] for key in inputs if key}
        made = shape_of(model(more, first, known, d.opset, (f"y{i}",)))
        if len(made) in OF_RANK and min(made) > 0:
            shape, name, nodes, constants = made, f"y{i}", more, known
    return nodes, constants, first


def shape_of(proto: Any) -> Shape:
    """Of the output, as ONNX infers it (which goes wrong for ``ceil_mode``)."""
    found = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    return tuple(d.dim_value for d in found.graph.output[0].type.tensor_type.shape.dim)


@pytest.mark.parametrize("seed", range(12))
def test_random_chains(tmp_path: Path, seed: int) -> None:
    pytest.importorskip("onnxruntime")
    d = Draw(seed)
    for _ in range(CHAINS):
        d.opset = d.choice(OPSETS)
        nodes, constants, shape = chain(d)
        last = (nodes[-1].output[0],)
        graph = read(tmp_path, model(nodes, ("n", *shape[1:]), constants, d.opset, last))
        x = d.floats(*shape)
        wanted = onnxruntime_outputs(tmp_path / "x.onnx", x, as_written=True)
        for backend in ("numpy", "auto"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # operators without a C kernel
                ours = Session(graph, backend, threads=2).run(x).values()
            assert_close(ours, wanted, [1e-4])  # eight sums of up to thousands of products
