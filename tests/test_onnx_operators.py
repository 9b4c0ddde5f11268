"""ONNX import: operators that are written out in others, against ONNX's formulas in NumPy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface.builder import Builder
from tinyface.errors import FormatError, GraphError
from tinyface.formats.described import in_steps
from tinyface.formats.onnx import read_onnx
from tinyface.ops import Conv2d, MaxPool
from tinyface.runtime import Session

pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx import helper
from onnx_models import model, node, onnxruntime_outputs, read, save

Array = np.ndarray[Any, Any]
Formula = Callable[[Array], Array]
RNG = np.random.default_rng(0)
SHAPE = (3, 6, 5, 4)
WHOLE = {"two": np.float32(2), "half": np.float32([0.5]), "axes": np.array([1, 3]),
         "third": np.float32([1 / 3]), "broken": np.float32(-1.5)}  # fmt: skip


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def log_softmax(x: Array) -> Array:
    d = x - x.max(1, keepdims=True)
    return np.asarray(d - np.log(np.exp(d).sum(1, keepdims=True)))


def elu(x: Array, alpha: float, slope: float = 1) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(slope * np.minimum(x, 0)))


# name -> (nodes, formula): x is (3, 6, 5, 4) with an infinity, 0 and 100 among its values
C: dict[str, tuple[list[Any], Formula]] = {  # runs in C from end to end
    "abs": ([node("Abs")], np.abs),
    "sign": ([node("Sign")], np.sign),
    "softsign": ([node("Softsign")], lambda x: x / (1 + np.abs(x))),
    "mish": ([node("Mish")], lambda x: x * np.tanh(softplus(x))),
    "mish in three": (
        [node("Softplus", outputs="a"), node("Tanh", "a", outputs="b"), node("Mul", "x", "b")],
        lambda x: x * np.tanh(softplus(x)),
    ),
    "elu": ([node("Elu", alpha=0.7)], lambda x: elu(x, 0.7)),
    "celu": ([node("Celu", alpha=0.7)], lambda x: elu(x, 0.7, 1 / 0.7)),
    "selu": ([node("Selu", alpha=1.5, gamma=1.1)], lambda x: 1.1 * elu(x, 1.5)),
    "reduce min": ([node("ReduceMin", "x", "axes")], lambda x: x.min((1, 3), keepdims=True)),
    "reduce l1": ([node("ReduceL1", "x", "axes", keepdims=0)], lambda x: np.abs(x).sum((1, 3))),
    "log sum exp of no axes": ([node("ReduceLogSumExp", noop_with_empty_axes=1)], lambda x: x),
    "squares": ([node("ReduceSumSquare", "x", "axes", keepdims=0)], lambda x: (x * x).sum((1, 3))),
    "l1 norm": (
        [node("LpNormalization", axis=1, p=1)],
        lambda x: x / np.maximum(np.abs(x).sum(1, keepdims=True), 1e-30),
    ),
    "mean": ([node("Mean", "x", "half", "x")], lambda x: (2 * x + 0.5) / 3),
    "min": ([node("Min", "x", "two")], lambda x: np.minimum(x, 2)),
}  # fmt: skip
NUMPY: dict[str, tuple[list[Any], Formula]] = {  # one step or more in NumPy
    "softplus": ([node("Softplus")], softplus),
    "log": ([node("Abs", outputs="a"), node("Log", "a")], lambda x: np.log(np.abs(x))),
    "power": (
        [node("Abs", outputs="a"), node("Pow", "a", "third")], lambda x: np.cbrt(np.abs(x)),
    ),
    "power below 0": ([node("Pow", "x", "broken")], lambda x: x**-1.5),
    "log sum exp": (
        [node("ReduceLogSumExp", "x", "axes")],
        lambda x: np.log(np.exp(x).sum((1, 3), keepdims=True)),
    ),
    "log sum exp of less": (
        [node("ReduceLogSumExp", "x", "axes", keepdims=0)], lambda x: np.log(np.exp(x).sum((1, 3))),
    ),
    "log softmax": ([node("LogSoftmax", axis=1)], log_softmax),
    "thresholded": ([node("ThresholdedRelu", alpha=0.5)], lambda x: np.where(x > 0.5, x, 0)),
    "shrink": (
        [node("Shrink", lambd=0.5, bias=0.2)],
        lambda x: np.where(x > 0.5, x - 0.2, np.where(x < -0.5, x + 0.2, 0)),
    ),
    "where": (
        [node("Greater", "x", "half", outputs="c"), node("Mul", "x", "two", outputs="t"),
         node("Where", "c", "x", "t")],
        lambda x: np.where(x > 0.5, x, 2 * x),
    ),
    "truth": (
        [node("Less", "x", "half", outputs="a"), node("LessOrEqual", "two", "x", outputs="b"),
         node("Or", "a", "b", outputs="c"), node("Not", "c", outputs="d"),
         node("GreaterOrEqual", "x", "two", outputs="e"), node("Equal", "x", "two", outputs="f"),
         node("And", "e", "f", outputs="g"), node("Or", "d", "g", outputs="h"),
         node("Cast", "h", to=1)],
        lambda x: (~((x < 0.5) | (x >= 2)) | (x == 2)).astype(np.float32),
    ),
    "to truth": (
        [node("Cast", "x", outputs="a", to=9), node("Not", "a", outputs="b"),
         node("Cast", "b", to=1)],
        lambda x: (x == 0).astype(np.float32),
    ),
}  # fmt: skip


def outputs(
    folder: Path, nodes: list[Any], x: Array, constants: Any = None, opset: int = 18
) -> Any:
    """Of the C engine with NumPy's help, and whether it needed that."""
    proto = model(nodes, ("n", *x.shape[1:]), constants, opset)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session = Session(read(folder, proto), threads=1)
        (y,) = session.run(x).values()
        (first,) = session.run(x[:1]).values()
    assert first.shape == (1, *y.shape[1:])
    return y, any("no C kernel" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("name", [*C, *NUMPY])
def test_equals_its_formula(tmp_path: Path, name: str) -> None:
    nodes, formula = (C | NUMPY)[name]
    x = (4 * RNG.standard_normal(SHAPE)).astype(np.float32)
    x[0, 0, 0] = [100, -100, 0, 2]
    y, helped = outputs(tmp_path, nodes, x, WHOLE, 18)
    with np.errstate(all="ignore"):
        wanted = formula(x.astype(np.float64))
    assert y.shape == wanted.shape
    np.testing.assert_allclose(y, wanted, rtol=2e-6, atol=1e-6)
    assert helped <= (name in NUMPY)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap", "constant"])
def test_pads_that_are_parts_of_the_map(tmp_path: Path, mode: str) -> None:
    """Wider on one side than on the other; in C, and for another size of the picture, too."""
    x = RNG.standard_normal(SHAPE).astype(np.float32)
    pads = np.array([0, 0, 3, 1, 0, 0, 2, 0])
    y, helped = outputs(tmp_path, [node("Pad", "x", "pads", mode=mode)], x, {"pads": pads})
    ways = ((0, 0), (0, 0), (3, 2), (1, 0))
    assert (y == np.pad(x, ways, mode=mode)).all()  # type: ignore[call-overload]
    assert not helped
    larger = read(tmp_path, model([node("Pad", "x", "pads", mode=mode)], SHAPE, {"pads": pads}))
    x = RNG.standard_normal((1, 6, 9, 7)).astype(np.float32)
    (y,) = Session(larger).run(x).values()
    assert (y == np.pad(x, ways, mode=mode)).all()  # type: ignore[call-overload]


def test_pads_below_zero_take_away(tmp_path: Path) -> None:
    x = RNG.standard_normal(SHAPE).astype(np.float32)
    constants = {"pads": np.array([0, -1, 2, -1, 0, 1, -2, 0])}
    y, _ = outputs(tmp_path, [node("Pad", "x", "pads")], x, constants)
    cut = x[:, 1:, :-2, 1:]
    assert (y == np.pad(cut, ((0, 0), (0, 1), (2, 0), (0, 0)))).all()


@pytest.mark.parametrize("pads", [[0, 0, 5, 0] + [0] * 4, [0] * 7 + [4], [0] * 7 + [-9]])
def test_pads_that_do_not_fit_are_refused(tmp_path: Path, pads: list[int]) -> None:
    with pytest.raises(FormatError, match="by mode 'reflect'|nothing is left"):
        proto = model([node("Pad", "x", "p", mode="reflect")], SHAPE, {"p": np.array(pads)})
        read(tmp_path, proto)
    many = {"p": np.array([0, 0, 999, 0, 0, 0, 0, 0])}
    with pytest.raises(FormatError, match="by mode 'edge'"):
        read(tmp_path, model([node("Pad", "x", "p", mode="edge")], SHAPE, many))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_blocks_become_channels(tmp_path: Path, mode: str) -> None:
    x = RNG.standard_normal((2, 3, 6, 4)).astype(np.float32)
    proto = node("SpaceToDepth", blocksize=2, **({} if mode == "DCR" else {"mode": mode}))
    blocks = x.reshape(2, 3, 3, 2, 2, 2)
    perm = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    y, helped = outputs(tmp_path, [proto], x)
    assert (y == blocks.transpose(perm).reshape(2, 12, 3, 2)).all()
    assert not helped


@pytest.mark.parametrize("opset", [18, 21])
def test_group_norm(tmp_path: Path, opset: int) -> None:
    """Scale and shift per group at opset 18, per channel since 21."""
    x = RNG.standard_normal(SHAPE).astype(np.float32)
    scale, shift = RNG.standard_normal((2, 6 if opset == 21 else 2)).astype(np.float32)
    y, helped = outputs(
        tmp_path, [node("GroupNormalization", "x", "a", "b", num_groups=2)], x,
        {"a": scale, "b": shift}, opset,
    )  # fmt: skip
    groups = x.astype(np.float64).reshape(3, 2, -1)
    flat = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
    repeat = 1 if opset == 21 else 3
    a, b = (np.repeat(v, repeat).reshape(-1, 1, 1) for v in (scale, shift))
    np.testing.assert_allclose(y, flat.reshape(SHAPE) * a + b, rtol=1e-5, atol=1e-5)
    assert not helped


@pytest.mark.parametrize(
    "equation",
    [
        "nchw,nchw->nchw", "nchw,ndhw->ncd", "nchw,nchv->nhwv", "nchw,nchw->n", "nchw,mchw->nm",
        "nchw,cd->ndhw", "nchw,wd->nchd", "nchw,nchw->nc", "nchw,cd", "nchw,d->nchwd",
    ],
)  # fmt: skip
def test_einsum(tmp_path: Path, equation: str) -> None:
    """Both operands computed where they have the input's rank; else the second one is constant."""
    x = RNG.standard_normal((2, 3, 4, 4)).astype(np.float32)
    other = equation.partition("->")[0].split(",")[1]
    right = RNG.standard_normal({"cd": (3, 5), "wd": (4, 5), "d": (5,)}.get(other, (1,)))
    right = right.astype(np.float32)
    nodes = [node("Einsum", "x", "x" if len(other) == 4 else "w", equation=equation)]
    result = Session(read(tmp_path, model(nodes, x.shape, {"w": right}))).run(x)["y"]
    wanted = np.einsum(equation, x.astype(np.float64), x if len(other) == 4 else right)
    assert result.shape == wanted.shape
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "equation", ["iijk,ab->a", "...a,ab->...b", "nchw,ab->nchwz", "nchw->", ""]
)
def test_einsum_of_other_forms_is_refused(tmp_path: Path, equation: str) -> None:
    nodes = [node("Einsum", "x", "w", equation=equation)]
    with pytest.raises(FormatError, match="the equation"):
        read(tmp_path, model(nodes, SHAPE, {"w": np.ones((2, 2), np.float32)}))


def test_uneven_parts(tmp_path: Path) -> None:
    """Opset 18: the last of num_outputs parts is smaller."""
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3),
        helper.make_node("Concat", ["c", "a", "b"], ["y"], axis=1),
    ]
    x = RNG.standard_normal((2, 8, 3, 2)).astype(np.float32)
    y, _ = outputs(tmp_path, nodes, x)
    assert (y == x[:, [6, 7, 0, 1, 2, 3, 4, 5]]).all()


@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
def test_windows_of_channels(tmp_path: Path, kind: str) -> None:
    """As PyTorch writes LocalResponseNorm: the mean of three neighbours in (n, 1, c, h, w)."""
    nodes = [
        node("Unsqueeze", "x", "one", outputs="five"),
        helper.make_node(kind, ["five"], ["mean"], kernel_shape=[3, 1, 1], pads=[1, 0, 0, 0, 0, 0]),
        node("Squeeze", "mean", "one"),
    ]
    x = RNG.standard_normal(SHAPE).astype(np.float32)
    y, helped = outputs(tmp_path, nodes, x, {"one": np.array([1])})
    rows = np.stack([x[:, max(i - 1, 0) : i + 2].mean(1) for i in range(5)], 1)
    if kind == "MaxPool":
        rows = np.stack([x[:, max(i - 1, 0) : i + 2].max(1) for i in range(5)], 1)
    np.testing.assert_allclose(y, rows, rtol=1e-5, atol=1e-6)
    assert not helped
    nodes[1].attribute[0].ints[:] = [3, 3, 1]
    with pytest.raises(FormatError, match="with 5 axes"):
        outputs(tmp_path, nodes, x, {"one": np.array([1])})


def test_same_padding_of_strides_beyond_the_kernel_takes_nothing_away(tmp_path: Path) -> None:
    """As in TensorFlow and ONNX's reference: windows at 0, 4. onnxruntime crops, and has 1, 5."""
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8)
    nodes = [node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[1, 4])]
    y, _ = outputs(tmp_path, nodes, x, {"w": np.ones((1, 1, 1, 1), np.float32)})
    assert y.ravel().tolist() == [0, 4]


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER"])
def test_transposed_same_padding_adds_no_row(tmp_path: Path, pad: str) -> None:
    """Windows of 1 every 2: 5 columns, as onnxruntime and ONNX's shape inference have it."""
    x = np.arange(1, 4, dtype=np.float32).reshape(1, 1, 1, 3)
    nodes = [node("ConvTranspose", "x", "w", auto_pad=pad, strides=[1, 2])]
    y, _ = outputs(tmp_path, nodes, x, {"w": np.ones((1, 1, 1, 1), np.float32)})
    assert y.ravel().tolist() == [1, 0, 2, 0, 3]


@pytest.mark.parametrize("indices", [-1, [-1], [-3, -2, -1], [-1, -2], [-2, -1, 0, 1, -1]])
def test_from_the_end_is_from_the_end_of_every_size(tmp_path: Path, indices: Any) -> None:
    """The last row of a picture of 6 is not that of one of 9."""
    wanted = np.int64(indices)
    proto = model([node("Gather", "x", "i", axis=2)], ("n", 2, "h", 3), {"i": wanted}, 13)
    graph = read(tmp_path, proto)
    x = RNG.standard_normal((1, 2, 9, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (y,) = Session(graph, threads=1).run(x).values()
    assert np.array_equal(y, x.take(wanted, 2))


@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool"])
def test_same_padding_of_another_size_is_not_guessed(tmp_path: Path, op: str) -> None:
    """3x3 windows 2 apart: 5 rows take a row of padding above and below, 8 rows one below."""
    extra = {} if op == "Conv" else {"kernel_shape": [3, 3]}
    constants = {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)} if op == "Conv" else {}
    nodes = [node(op, "x", *constants, auto_pad="SAME_UPPER", strides=[2, 2], **extra)]
    path = save(tmp_path / "m.onnx", model(nodes, ("n", 3, "h", "w"), constants))
    for size, other in (((5, 5), (8, 5)), ((8, 8), (8, 5))):
        graph = read_onnx(path, size)
        for sides in (size, (size[0] + 6, size[1] + 2)):  # the same remainders by 2
            x = RNG.standard_normal((2, 3, *sides)).astype(np.float32)
            (y,) = Session(graph, "numpy").run({"x": x}).values()
            (wanted,) = onnxruntime_outputs(path, x)
            np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
        with pytest.raises(GraphError, match="--size"):
            graph.with_inputs({"x": (1, 3, *other)})


def test_a_detector_of_same_padding_is_fed_whole_steps() -> None:
    steps = {"steps": [8, 16, 32], "multiple": 1}
    for made_for in ((0, 0), (80, 80)):
        b = Builder("same")
        x = b.input("x", (1, 3, 80, 80))
        x = b.apply(MaxPool(pad=(0, 0, 1, 1), kernel=(3, 3), made_for=made_for), x)
        wanted = {**steps, "multiple": 32 if any(made_for) else 1}
        assert in_steps(b.build(y=x), steps) == wanted


def test_computed_constants(tmp_path: Path) -> None:
    """Two of 112 x 112 joined (EdgeNeXt's positions); the largest of three."""
    parts = {name: RNG.standard_normal((1, 1, 112, 112)).astype(np.float32) for name in "abc"}
    nodes = [
        helper.make_node("Max", ["a", "b", "c"], ["most"]),
        helper.make_node("Concat", ["most", "c"], ["both"], axis=1),
        helper.make_node("Add", ["x", "both"], ["y"]),
    ]
    x = RNG.standard_normal((1, 2, 112, 112)).astype(np.float32)
    y, _ = outputs(tmp_path, nodes, x, parts)
    most = np.maximum(np.maximum(parts["a"], parts["b"]), parts["c"])
    assert (y == x + np.concatenate([most, parts["c"]], 1)).all()


@pytest.mark.parametrize("training", [0, 1])
def test_standardised_weights(tmp_path: Path, training: int) -> None:
    """NFNet, BiT: a batch norm of the weights themselves, in training mode their own."""
    w = RNG.uniform(-1, 3, (5, 3, 3, 3)).astype(np.float32)
    scale, shift, mean = (RNG.standard_normal(5).astype(np.float32) for _ in range(3))
    variance = RNG.uniform(0.5, 2, 5).astype(np.float32)
    constants = {
        "w": w.reshape(1, 5, 27), "scale": scale, "shift": shift, "mean": mean,
        "variance": variance, "sides": np.array(w.shape),
    }  # fmt: skip
    outs = ["s", "m", "v"] if training else ["s"]
    nodes = [
        helper.make_node("BatchNormalization", ["w", "scale", "shift", "mean", "variance"], outs,
                         training_mode=training, epsilon=1e-3),
        helper.make_node("Reshape", ["s", "sides"], ["kernel"]),
        node("Conv", "x", "kernel"),
    ]  # fmt: skip
    x = RNG.standard_normal((2, 3, 6, 7)).astype(np.float32)
    y, _ = outputs(tmp_path, nodes, x, constants)
    flat = w.reshape(5, 27).astype(np.float64)
    if training:
        mean, variance = flat.mean(1), flat.var(1)
    flat = (flat.T - mean) / np.sqrt(variance + 1e-3) * scale + shift
    assert np.allclose(y, Conv2d().run(x, flat.T.reshape(w.shape)), atol=1e-4)
