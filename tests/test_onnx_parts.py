"""ONNX import: assignments to parts of a tensor, frames that never win a maximum, constants."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface.errors import FormatError
from tinyface.passes import name_patterns
from tinyface.runtime import Session

pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx import helper
from onnx_models import model, node, onnxruntime_outputs, read, save

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
SHAPE = (2, 5, 6, 7)


def places(*ranges: Sequence[int]) -> Array:
    """Indices of these places of each axis, as ScatterND wants them."""
    return np.stack(np.meshgrid(*ranges, indexing="ij"), -1)


def run(folder: Path, nodes: list[Any], x: Array, constants: dict[str, Array]) -> Array:
    """In C from end to end."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (y,) = Session(read(folder, model(nodes, x.shape, constants)), threads=1).run(x).values()
    return y


BOXES = {
    "channels": (range(2), range(1, 3)),
    "the first rows": (range(2), range(5), range(2)),
    "the last column": (range(2), range(5), range(6), range(6, 7)),
    "the middle": (range(2), range(1, 4), range(2, 5), range(3, 5)),
    "one picture": (range(1, 2),),
    "one value": (range(1, 2), range(4, 5), range(1), range(1)),
    "every other channel": (range(2), range(0, 5, 2)),
    "some rows and columns": (range(2), range(5), [0, 2, 3, 5], [1, 2, 6]),
}


@pytest.mark.parametrize("case", BOXES)
@pytest.mark.parametrize("below", [False, True])
def test_a_part_is_assigned(tmp_path: Path, case: str, below: bool) -> None:
    """Its indices counted from the front or from the back."""
    x, box = RNG.standard_normal(SHAPE).astype(np.float32), BOXES[case]
    wanted, part = x.copy(), np.ix_(*box)
    updates = RNG.standard_normal(x[part].shape).astype(np.float32)
    wanted[part] = updates
    indices = places(*box) - (np.array(SHAPE[: len(box)]) if below else 0)
    flat = indices.reshape(-1, len(box))  # in rows, too
    for i in (indices, flat):
        given = updates.reshape(*i.shape[:-1], *SHAPE[len(box) :])
        constants = {"i": i, "u": given}
        assert (run(tmp_path, [node("ScatterND", "x", "i", "u")], x, constants) == wanted).all()


def test_everything_is_assigned_and_few_pieces_are_made(tmp_path: Path) -> None:
    x = RNG.standard_normal(SHAPE).astype(np.float32)
    whole = [node("Relu", "x", outputs="u"), node("ScatterND", "x", "i", "u")]
    assert (run(tmp_path, whole, x, {"i": places(range(2))}) == np.maximum(x, 0)).all()
    part = {"i": places(range(2), range(1, 4)), "u": np.zeros((2, 3, 6, 7), np.float32)}
    graph = read(tmp_path, model([node("ScatterND", "x", "i", "u")], SHAPE, part))
    assert max(len(n.inputs) for n in graph.nodes) == 3  # before, the new ones, behind
    long = np.zeros((1, 131), np.float32)
    odd = {"i": places(range(1), range(1, 131, 2)), "u": np.zeros((1, 65), np.float32)}
    with pytest.raises(FormatError, match="65 runs of places, where up to 64"):
        read(tmp_path, model([node("ScatterND", "x", "i", "u")], long.shape, odd))
    odd = {"i": odd["i"][:, :-1], "u": odd["u"][:, :-1]}
    assert (run(tmp_path, [node("ScatterND", "x", "i", "u")], long + 1, odd)[0, ::2] == 1).all()


@pytest.mark.parametrize(
    "indices",
    [
        places(range(2), range(3))[::-1],  # backwards
        np.array([[0, 1], [1, 0]]),  # two corners
        np.array([[0, 1], [0, 1]]),  # twice
        np.array([[0, 5]]),  # beyond the end
        np.array([[-3, 0]]),
        np.zeros((1, 0), np.int64),
    ],
)
def test_other_parts_are_refused(tmp_path: Path, indices: Array) -> None:
    side = indices.shape[-1]
    constants = {"i": indices, "u": np.zeros((*indices.shape[:-1], *SHAPE[side:]), np.float32)}
    with pytest.raises(FormatError, match="some of every axis"):
        read(tmp_path, model([node("ScatterND", "x", "i", "u")], SHAPE, constants))


def test_sums_and_other_sizes_are_refused(tmp_path: Path) -> None:
    constants = {"i": places(range(2), range(2)), "u": np.zeros((2, 2, 6, 7), np.float32)}
    added = node("ScatterND", "x", "i", "u", reduction="add")
    with pytest.raises(FormatError, match="adds to what is there"):
        read(tmp_path, model([added], SHAPE, constants))
    constants["u"] = constants["u"][:, :, :5]
    with pytest.raises(FormatError, match="reshape"):
        read(tmp_path, model([node("ScatterND", "x", "i", "u")], SHAPE, constants))


MASKS = {
    "one axis": np.array([[True], [False], [False], [True], [False], [True]]),
    "two axes": np.array([0, 1, 0, 0, 1, 0])[:, None] * np.array([1, 0, 0, 0, 1, 1, 0]) > 0,
    "all but these": np.array([0, 1, 0, 0, 1, 0])[:, None] * np.array([1, 0, 0, 0, 1, 1, 0]) == 0,
}


@pytest.mark.parametrize(
    "case, second",
    [("one axis", False), ("one axis", True), ("two axes", False), ("all but these", True)],
)
@pytest.mark.parametrize("value", [np.float32(0), RNG.standard_normal((6, 1)).astype(np.float32)])
def test_a_choice_that_is_known_is_an_assignment(
    tmp_path: Path, case: str, second: bool, value: Array
) -> None:
    """In C, of finite numbers and others."""
    x, mask = RNG.standard_normal(SHAPE).astype(np.float32), MASKS[case]
    x[0, 0, :, ::2] = np.inf
    names = ["m", "x", "v"] if second else ["m", "v", "x"]
    y = run(tmp_path, [node("Where", *names)], x, {"m": mask, "v": value})
    assert (y == (np.where(mask, x, value) if second else np.where(mask, value, x))).all()


def test_other_choices_stay_choices(tmp_path: Path) -> None:
    """Places that are no combination of rows and columns; a batch of any size."""
    corner = np.tri(6, 7) > 0
    for mask, shape in ((corner, SHAPE), (MASKS["two axes"], ("n", *SHAPE[1:]))):
        proto = model([node("Where", "m", "v", "x")], shape, {"m": mask, "v": np.float32(2)})
        graph = read(tmp_path, proto)
        x = RNG.standard_normal(SHAPE).astype(np.float32)
        (y,) = Session(graph, "numpy").run(x).values()
        assert [n.op.kind for n in graph.nodes] == ["where"]
        assert (y == np.where(mask, np.float32(2), x)).all()


def test_places_in_many_pieces_stay_a_choice(tmp_path: Path) -> None:
    """Each piece would be an operator or two."""
    shape = (1, 2, 18, 130)
    x = RNG.standard_normal(shape).astype(np.float32)
    columns = np.arange(130) % 2 == 0
    both = columns & (np.arange(18) % 2 == 0)[:, None]
    for mask, kinds in ((columns, {"where"}), (both, {"where"}), (both[:, :8], None)):
        given = x[..., : mask.shape[-1]]
        proto = model([node("Where", "m", "v", "x")], given.shape, {"m": mask, "v": np.float32(2)})
        graph = read(tmp_path, proto)
        assert kinds is None or {n.op.kind for n in graph.nodes} == kinds
        (y,) = Session(graph, "numpy").run(given).values()
        assert (y == np.where(mask, np.float32(2), given)).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_frame_of_minus_infinity_belongs_to_the_maximum(tmp_path: Path, stride: int) -> None:
    """As TensorFlow's "same" is exported; of values below zero, too."""
    x = -np.abs(RNG.standard_normal(SHAPE)).astype(np.float32)
    constants = {"p": np.array([0, 0, 0, 1, 0, 0, 1, 1]), "v": np.float32(-np.inf)}
    pool = node("MaxPool", "a", kernel_shape=[3, 3], strides=[stride] * 2)
    nodes = [node("Pad", "x", "p", "v", outputs="a"), pool]
    y = run(tmp_path, nodes, x, constants)
    (wanted,) = onnxruntime_outputs(save(tmp_path / "m.onnx", model(nodes, SHAPE, constants)), x)
    assert (y == wanted).all()
    graph = name_patterns(read(tmp_path, model(nodes, SHAPE, constants)))
    assert [n.op.kind for n in graph.nodes] == ["max_pool"]


def test_constants_of_shapes_and_ones_on_a_diagonal(tmp_path: Path) -> None:
    """EyeLike, Size and Flatten of what is known: x + (eye flattened, times its size)."""
    constants = {"sides": np.array([2, 3])}
    nodes = [
        helper.make_node("ConstantOfShape", ["sides"], ["zeros"]),
        helper.make_node("EyeLike", ["zeros"], ["eye"], k=1),
        helper.make_node("Flatten", ["eye"], ["flat"], axis=-2),
        helper.make_node("Size", ["zeros"], ["count"]),
        helper.make_node("Cast", ["count"], ["number"], to=1),
        helper.make_node("Mul", ["flat", "number"], ["much"]),
        node("Add", "x", "much"),
    ]
    x = RNG.standard_normal((1, 6)).astype(np.float32)
    y = run(tmp_path, nodes, x, constants)
    np.testing.assert_array_equal(y, x + np.float32([0, 6, 0, 0, 0, 6]))


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("EyeLike", ["c"], ["y"])],  # of three axes
        [helper.make_node("Flatten", ["c"], ["y"], axis=4)],
        [
            helper.make_node("ConstantOfShape", ["much"], ["zeros"]),
            helper.make_node("EyeLike", ["zeros"], ["y"]),
        ],
    ],
)
def test_constants_that_do_not_work_out(tmp_path: Path, nodes: list[Any]) -> None:
    constants = {"c": np.zeros((2, 2, 2), np.float32), "much": np.array([1 << 11, 1 << 11])}
    with pytest.raises(FormatError):
        read(tmp_path, model(nodes, SHAPE, constants))
