"""ONNX import of what newer exporters and opsets write: indices, cubes, attention."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface.errors import FormatError
from tinyface.formats.importer import import_file
from tinyface.passes import optimise
from tinyface.runtime import Session

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx_models import assert_close, model, node, onnxruntime_outputs, read, save  # noqa: E402

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def run(folder: Path, nodes: list[Any], x: Array, constants: Any, opset: int = 18) -> Array:
    """Of the C engine with NumPy's help, and the same of NumPy alone."""
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"this onnx package does not know opset {opset}")
    graph = read(folder, model(nodes, ("n", *x.shape[1:]), constants, opset))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (y,) = Session(graph, threads=1).run(x).values()
    (alone,) = Session(graph, "numpy", 1).run(x).values()
    np.testing.assert_allclose(y, alone, rtol=1e-5, atol=1e-5)
    return np.asarray(y)


# -- GatherND


ROWS, COLUMNS = np.array([0, 0, 1, 3, 3]), np.array([4, 2, 0, -1])
INDICES = {
    "grid": np.stack(np.meshgrid(ROWS, COLUMNS, indexing="ij"), -1),
    "grid of windows": np.stack(
        np.broadcast_arrays(ROWS[:4].reshape(2, 2, 1, 1), COLUMNS.reshape(1, 1, 2, 2)), -1
    ),
    "pairs": np.stack([ROWS[:4], COLUMNS], -1),
    "grid the other way": np.stack(np.meshgrid(ROWS, COLUMNS, indexing="xy"), -1),
    "one index": COLUMNS[1:, None],
    "one pixel": np.array([2, 1]),
    "the same for all": np.array([[[2, 1], [2, 3]], [[2, 1], [2, 3]]]),
}


@pytest.mark.parametrize("name", INDICES)
def test_pixels_by_their_numbers(tmp_path: Path, name: str) -> None:
    """x[:, :, i, j], as PyTorch's newer exporter writes it."""
    indices = INDICES[name]
    nodes = [
        node("Transpose", "x", outputs="front", perm=[2, 3, 1, 0]),
        node("GatherND", "front", "i", outputs="picked"),
    ]
    if indices.shape[-1] == 2:
        perm = (indices.ndim, indices.ndim - 1, *range(indices.ndim - 1))
        nodes.append(node("Transpose", "picked", perm=list(perm)))
        wanted = (..., *np.moveaxis(indices, -1, 0))
    else:
        nodes.append(node("Transpose", "picked", perm=[3, 2, 0, 1]))
        wanted = (..., indices[:, 0], slice(None))
    x = normal(2, 3, 4, 5)
    y = run(tmp_path, nodes, x, {"i": indices})
    assert np.array_equal(y, x[wanted])


@pytest.mark.needs_c
def test_all_numbers_in_their_order_are_no_slice(tmp_path: Path) -> None:
    """as_strided of a pooled map, as PyTorch's newer exporter writes ConvNeXt's head: in C."""
    nodes = [
        node("GlobalAveragePool", outputs="mean"),
        node("Reshape", "mean", "flat", outputs="row"),
        node("Gather", "row", "i", axis=0),
    ]
    constants = {"flat": np.array([-1]), "i": np.arange(3).reshape(1, 3, 1, 1)}
    x = normal(1, 3, 4, 5)
    (y,) = Session(read(tmp_path, model(nodes, x.shape, constants)), "c", 1).run(x).values()
    np.testing.assert_allclose(y, x.mean((2, 3), keepdims=True), rtol=1e-5, atol=1e-6)


@pytest.mark.needs_c
def test_colours_the_other_way_round_are_in_C(tmp_path: Path) -> None:
    """x[:, [2, 1, 0]] is three slices of the picture itself: what turns it before and behind is
    one turn, of nothing."""
    turn = [1, 0, 2, 3]
    nodes = [
        node("Transpose", "x", outputs="front", perm=turn),
        node("GatherND", "front", "i", outputs="picked"),
        node("Transpose", "picked", perm=turn),
    ]
    x = normal(2, 3, 4, 5)
    graph = read(tmp_path, model(nodes, ("n", 3, 4, 5), {"i": np.array([[2], [1], [0]])}))
    (y,) = Session(graph, "c", 1).run(x).values()
    assert np.array_equal(y, x[:, ::-1])
    assert "transpose" not in [n.op.kind for n in optimise(graph).nodes]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_whether_pixels_go_in_as_they_are(tmp_path: Path, swap: bool, scaled: bool) -> None:
    """The network that scales its input does so after it has changed the colours' order, too."""
    swapped = "swapped" if swap else "x"
    nodes = [
        node("Gather", "x", "i", outputs="swapped", axis=1),
        node("Sub", swapped, "mean", outputs="less"),
        node("Conv", "less" if scaled else swapped, "w", outputs="c"),
        node("GlobalAveragePool", "c", outputs="p"),
        node("Flatten", "p"),
    ]
    nodes = nodes[0 if swap else 1 :]
    nodes = [n for n in nodes if scaled or n.op_type != "Sub"]
    constants = {
        "i": np.array([2, 1, 0]), "mean": np.array([127.5], np.float32), "w": normal(8, 3, 2, 2),
    }  # fmt: skip
    path = save(tmp_path / "x.onnx", model(nodes, ("n", 3, 4, 4), constants))
    taken = import_file(path).card.preprocess
    assert (taken.mean, taken.scale[0]) == (((0,) * 3, 1) if scaled else ((127.5,) * 3, 1 / 128))


def test_pixels_of_constants(tmp_path: Path) -> None:
    """A table of biases, looked up on import."""
    table = normal(3, 7)
    nodes = [node("GatherND", "t", "i", outputs="bias"), node("Add", "x", "bias")]
    i = np.array([[0, 6], [2, 1], [1, -1], [0, 0]])
    x = normal(1, 3, 2, 4)
    y = run(tmp_path, nodes, x, {"t": table, "i": i})
    assert np.array_equal(y, x + table[i[:, 0], i[:, 1]])


def test_a_table_that_is_computed(tmp_path: Path) -> None:
    """Swin V2's biases: two layers of constants, looked up, behind a gate, on import."""
    places, first, second = normal(9, 2), normal(2, 6), normal(5, 6)
    i = RNG.integers(0, 9, (4, 4))
    nodes = [
        node("MatMul", "places", "first", outputs="h"),
        node("Relu", "h", outputs="r"),
        node("Gemm", "r", "second", "b", outputs="table", transB=1, alpha=0.5, beta=2.0),
        node("GatherND", "table", "i", outputs="looked"),
        node("Sigmoid", "looked", outputs="gate"),
        node("Transpose", "gate", outputs="bias", perm=[2, 0, 1]),
        node("Add", "x", "bias"),
    ]
    constants = {"places": places, "first": first, "second": second, "b": normal(5)}
    x = normal(2, 5, 4, 4)
    graph = read(tmp_path, model(nodes, x.shape, {**constants, "i": i[..., None]}))
    assert [n.op.kind for n in graph.nodes] == ["add"]
    (y,) = Session(graph, threads=1).run(x).values()
    table = 0.5 * np.maximum(places @ first, 0) @ second.T + 2 * constants["b"]
    wanted = x + (1 / (1 + np.exp(-table[i]))).transpose(2, 0, 1)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "data, indices, attributes",
    [("x", [[0]], {"batch_dims": 1}), ("t", [[0]], {"batch_dims": 1}), ("x", [[9, 0]], {}),
     ("x", [[0, 4, 0], [0, 0, 0]], {}), ("x", [[0] * 5], {}), ("t", [[9]], {}),
     ("t", [[0] * 5], {}), ("x", [[0.0, 0]], {}), ("x", 0, {})],
)  # fmt: skip
def test_pixels_that_are_not_there(
    tmp_path: Path, data: str, indices: Any, attributes: dict[str, Any]
) -> None:
    constants = {"i": np.array(indices), "t": normal(2, 3)}
    nodes = [node("GatherND", data, "i", outputs="p", **attributes), node("Add", "p", "x")]
    with pytest.raises(FormatError, match="node 0, 'GatherND'"):
        read(tmp_path, model(nodes, (1, 3, 4, 4), constants, 18))


# -- Resize


@pytest.mark.parametrize("exclude", [0, 1])
@pytest.mark.parametrize("antialias", [0, 1])
@pytest.mark.parametrize("how", ["half_pixel", "align_corners", "asymmetric"])
def test_cubes(tmp_path: Path, how: str, antialias: int, exclude: int) -> None:
    """PyTorch's bicubic, also with antialias=True."""
    x = normal(2, 3, 6, 7)
    for size, a in (((12, 14), -0.75), ((4, 9), -0.5), ((5, 3), -0.75), ((1, 7), -0.75)):
        nodes = [
            node("Resize", "x", "", "", "s", mode="cubic", coordinate_transformation_mode=how,
                 antialias=antialias, exclude_outside=exclude, cubic_coeff_a=a, axes=[2, 3])
        ]  # fmt: skip
        y = run(tmp_path, nodes, x, {"s": np.array(size)})
        assert_close([y], onnxruntime_outputs(tmp_path / "x.onnx", x))


@pytest.mark.parametrize("size", [(3, 3), (12, 3), (2, 14), (6, 7), (12, 14)])
def test_lines_without_steps(tmp_path: Path, size: tuple[int, int]) -> None:
    """PyTorch's bilinear with antialias=True: only a smaller side takes in more neighbours."""
    x = normal(2, 3, 6, 7)
    nodes = [
        node("Resize", "x", "", "", "s", mode="linear", antialias=1, exclude_outside=1, axes=[2, 3])
    ]  # fmt: skip
    y = run(tmp_path, nodes, x, {"s": np.array(size)})
    assert_close([y], onnxruntime_outputs(tmp_path / "x.onnx", x))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [2.0, 1.5, 0.5])
def test_rows_of_three_axes(tmp_path: Path, mode: str, factor: float) -> None:
    """PyTorch's interpolate of (n, c, l)."""
    x = normal(2, 3, 8)
    nodes = [node("Resize", "x", "", "s", mode=mode, nearest_mode="floor")]
    y = run(tmp_path, nodes, x, {"s": np.array([1, 1, factor], np.float32)})
    assert_close([y], onnxruntime_outputs(tmp_path / "x.onnx", x))


def test_proportions_of_one_axis(tmp_path: Path) -> None:
    """The other keeps its length, and its places."""
    x = normal(2, 3, 6, 7)
    keep = {"axes": [2], "keep_aspect_ratio_policy": "not_larger"}
    nodes = [node("Resize", "x", "", "", "s", mode="linear", **keep)]
    y = run(tmp_path, nodes, x, {"s": np.array([9])})
    assert_close([y], onnxruntime_outputs(tmp_path / "x.onnx", x))


def test_a_matrix_that_is_too_large(tmp_path: Path) -> None:
    nodes = [node("Resize", "x", "", "s", mode="cubic")]
    proto = model(nodes, (1, 1, 1, 1 << 14), {"s": np.array([1, 1, 1, 2], np.float32)}, 18)
    with pytest.raises(FormatError, match="too large a matrix"):
        read(tmp_path, proto)


# -- Attention


def attended(q: Array, k: Array, v: Array, scale: float, mask: Any = 0, cap: float = 0) -> Array:
    """By the definition, in float64; heads of q follow each other where they share one of k."""
    share = q.shape[1] // k.shape[1]
    k, v = (np.repeat(part.astype(np.float64), share, 1) for part in (k, v))
    scores = scale * q @ k.swapaxes(2, 3)
    scores = (cap * np.tanh(scores / cap) if cap else scores) + mask
    power = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(power / power.sum(-1, keepdims=True) @ v)


BIAS = normal(4, 5, 5)
SEEN = RNG.random((5, 5)) < 0.5
np.fill_diagonal(SEEN, True)
AHEAD = np.arange(5) - np.arange(5)[:, None]
NEVER = -np.inf
MASKS: dict[str, tuple[dict[str, Any], Any, Any]] = {  # attributes, the mask of the file, its sense
    "none": ({}, None, 0),
    "scale": ({"scale": 0.3}, None, 0),
    "cap": ({"softcap": 1.5}, None, 0),
    "numbers": ({}, BIAS, BIAS),
    "truth": ({}, SEEN, np.where(SEEN, 0, NEVER)),
    "shorter": ({}, BIAS[:, :, :3], np.pad(BIAS[:, :, :3], ((0, 0), (0, 0), (0, 2)),
                                           constant_values=NEVER)),
    "causal": ({"is_causal": 1}, None, np.where(AHEAD <= 0, 0, NEVER)),
    "causal numbers": ({"is_causal": 1}, BIAS, np.where(AHEAD <= 0, BIAS, NEVER)),
    "window": ({"left_window_size": 1, "right_window_size": 2}, None,
               np.where((AHEAD >= -1) & (AHEAD <= 2), 0, NEVER)),
}  # fmt: skip


@pytest.mark.parametrize("axes", [3, 4])
@pytest.mark.parametrize("name", MASKS)
def test_attention(tmp_path: Path, name: str, axes: int) -> None:
    """Four heads of queries, two of keys; tokens are columns, or (n, tokens, heads depth)."""
    attributes, given, mask = MASKS[name]
    x = normal(2, 4, 5, 6)
    heads: dict[str, Any] = {"q_num_heads": 4, "kv_num_heads": 2} if axes == 3 else {}
    flat = {"rows": np.array([0, 5, -1])}
    nodes = [
        node("Slice", "x", "from", "to", "axis", outputs="k"),
        node("Mul", "k", "x1", outputs="v"),
    ]
    names = ["x", "k", "v"]
    if axes == 3:
        for part in names:
            nodes.append(node("Transpose", part, outputs=f"{part}:t", perm=[0, 2, 1, 3]))
            nodes.append(node("Reshape", f"{part}:t", "rows", outputs=f"{part}:3"))
        names = [f"{part}:3" for part in names]
    nodes.append(node("Attention", *names, *["m"] * (given is not None), **attributes, **heads))
    constants = {
        "from": np.array([1]), "to": np.array([3]), "axis": np.array([1]), "x1": normal(6), **flat,
        **({} if given is None else {"m": given}),
    }  # fmt: skip
    y = run(tmp_path, nodes, x, constants, 23)
    k = x[:, 1:3]
    scale = attributes.get("scale", 6**-0.5)
    wanted = attended(x, k, k * constants["x1"], scale, mask, attributes.get("softcap", 0))
    wanted = wanted if axes == 4 else wanted.swapaxes(1, 2).reshape(2, 5, -1)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


def test_a_mask_that_is_computed(tmp_path: Path) -> None:
    """A bias that the picture decides; what compares could as well be truth values."""
    nodes = [
        node("MatMul", "x", "w", outputs="b"),
        node("Transpose", "b", outputs="m", perm=[0, 1, 2, 3]),
        node("Attention", "x", "x", "x", "m"),
    ]
    x, w = normal(2, 4, 5, 6), normal(6, 5)
    y = run(tmp_path, nodes, x, {"w": w}, 23)
    np.testing.assert_allclose(y, attended(x, x, x, 6**-0.5, x @ w), rtol=1e-5, atol=1e-5)
    nodes[0] = node("Greater", "x", "w", outputs="b")
    with pytest.raises(FormatError, match="neither a constant nor made of"):
        read(tmp_path, model(nodes, (1, 4, 6, 6), {"w": w[:1, :1]}, 23))


@pytest.mark.needs_c
def test_what_a_mask_hides_by_infinity(tmp_path: Path) -> None:
    """Written out, as below opset 23, with PyTorch's care for rows that see nothing, of which
    there are none: such a network can be saved, and runs in C."""
    nodes = [
        node("Trilu", "ones", outputs="seen", upper=0),
        node("Where", "seen", "zero", "never", outputs="m"),
        node("Add", "x", "m", outputs="scores"),
        node("Softmax", "scores", outputs="shares", axis=-1),
        node("IsNaN", "shares", outputs="none"),
        node("Where", "none", "zero", "shares"),
    ]
    constants = {
        "ones": np.ones((5, 5), bool), "zero": np.zeros((), np.float32),
        "never": np.array(-np.inf, np.float32),
    }  # fmt: skip
    x = normal(2, 4, 5, 5)
    graph = read(tmp_path, model(nodes, ("n", 4, 5, 5), constants))
    (y,) = Session(graph, "c", 1).run(x).values()
    assert all(np.isfinite(value).all() for value in graph.params.values())
    power = np.where(AHEAD <= 0, np.exp(x), 0)
    np.testing.assert_allclose(y, power / power.sum(-1, keepdims=True), rtol=1e-5, atol=1e-6)
    # where a row sees nothing, or something else reads the scores, all is as written
    first = np.where(AHEAD < 0, 0, -np.inf).astype(np.float32)
    for other, mask in ((nodes[2:], first), ([*nodes[2:3], node("Relu", "scores")], first.T)):
        y = run(tmp_path, other, x, {"m": mask, "zero": constants["zero"]})
        with np.errstate(invalid="ignore"):
            power = np.where(AHEAD < 0, np.exp(x), 0)
            shares = np.nan_to_num(power / power.sum(-1, keepdims=True))
        wanted = shares if mask is first else np.maximum(x + mask, 0)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


def test_what_is_no_number(tmp_path: Path) -> None:
    x = normal(2, 3, 4, 5)
    x[0, 0, 0, :2] = np.nan, np.inf
    nodes = [node("IsNaN", "x", outputs="n"), node("Where", "n", "zero", "x")]
    y = run(tmp_path, nodes, x, {"zero": np.zeros((), np.float32)})
    assert np.array_equal(y, np.where(np.isnan(x), 0, x))


@pytest.mark.parametrize(
    "inputs, attributes, says",
    [
        (("x", "x", "x", "", "x", "x"), {}, "a cache"),
        (("x", "x", "x", "m"), {}, "hides everything"),
        (("x", "x", "x", "least"), {"is_causal": 1}, "hides everything"),
        (("z", "z", "z"), {"q_num_heads": 5, "kv_num_heads": 5}, "5 heads of shape"),
        (("x", "k", "k"), {}, "4 heads of queries and 3 of keys"),
    ],
)
def test_attention_that_is_refused(
    tmp_path: Path, inputs: Any, attributes: dict[str, Any], says: str
) -> None:
    constants = {"m": SEEN & False, "rows": np.array([0, 5, -1]), "k": normal(1, 3, 5, 6)}
    constants["least"] = np.full((5, 5), np.finfo(np.float32).min)
    nodes = [node("Reshape", "x", "rows", outputs="z"), node("Attention", *inputs, **attributes)]
    with pytest.raises(FormatError, match=says):
        read(tmp_path, model(nodes, (1, 4, 5, 6), constants, 23))


# -- norms and activations of newer opsets


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_root_mean_square_norm(tmp_path: Path, axis: int) -> None:
    x = normal(2, 3, 4, 5)
    scale = normal(*x.shape[axis:])
    nodes = [node("RMSNormalization", "x", "s", axis=axis, epsilon=1e-3)]
    axes = tuple(range(axis % 4, 4))
    wanted = x / np.sqrt((x * x).mean(axes, keepdims=True) + 1e-3) * scale
    y = run(tmp_path, nodes, x, {"s": scale}, 23)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 1.702])
def test_swish(tmp_path: Path, alpha: float) -> None:
    x = 3 * normal(2, 3, 4, 5)
    y = run(tmp_path, [node("Swish", "x", alpha=alpha)], x, {}, 24)
    np.testing.assert_allclose(y, x / (1 + np.exp(-alpha * x)), rtol=1e-5, atol=1e-6)
