"""SCRFD and YuNet: known by the outputs of their files, read by the numbers in their cards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detections import assert_golden_faces, face, same, scaled
from shared import SHARED, needs_shared

from tinyface.builder import Builder
from tinyface.crosscheck import crosscheck
from tinyface.errors import FormatError
from tinyface.formats.card import Card
from tinyface.formats.detectors import FAMILIES, STEPS, Family, heads
from tinyface.formats.freesize import is_free
from tinyface.formats.importer import import_file
from tinyface.graph import Graph
from tinyface.networks.random import random_state
from tinyface.ops import Add, Reshape, Sigmoid, Transpose
from tinyface.runtime import Session
from tinyface.vision.detect import Detector, Face
from tinyface.vision.priors import Priors

SCRFD, YUNET = FAMILIES
both = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def network(
    family: Family, size: tuple[int, int] = (64, 96), fixed: bool = False, constants: bool = False
) -> Graph:
    """The outputs of such a detector behind one convolution each, under meaningless names.

    ``fixed``: for pictures of this size only. ``constants``: the numbers of rows are written out,
    as exporters do.
    """
    b = Builder("heads")
    x = b.input("x", (1, 3, *size))
    if fixed:
        x = b.apply(Add(), x, b.param("grid", (1, 3, *size)))
    outputs = []
    for kind, fields in (("s" * family.scores, 1), ("b", 4), ("k", 10)):
        for i in range(len(kind)):
            for step in STEPS:
                key = f"{kind[i]}{i}_{step}"
                pad = (0, 0, -size[0] % step, -size[1] % step)
                y = b.conv(
                    x, family.anchors * fields, step, stride=step, pad=pad, key=f"{key}:conv"
                )
                _, _, h, w = b.shape(y)
                if family is SCRFD:
                    y = b.apply(Transpose((2, 3, 0, 1)), y)
                    y = b.apply(Reshape((h * w * 2 if constants else -1, fields)), y, name=key)
                else:
                    y = b.apply(Transpose((0, 2, 3, 1)), y)
                    y = b.apply(Reshape((0, h * w if constants else -1, fields)), y, name=key)
                outputs.append(b.apply(Sigmoid(), y, name=f"{key}:p") if kind[0] == "s" else y)
    graph = b.build(*outputs)
    state = random_state(graph)
    return graph.bind({key: 0.02 * value for key, value in state.items()})  # for raw pixels, too


@both
def test_the_outputs_are_joined_level_by_level(family: Family) -> None:
    graph = network(family)
    found = heads(graph)
    assert found is not None and found[1] is family
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    apart, joined = (Session(g, "numpy").run(x) for g in (graph, found[0]))
    rows = [family.anchors * 64 * 96 // step**2 for step in STEPS]
    assert joined["loc"].shape == (1, sum(rows), 4) and joined["landms"].shape[2] == 10
    for output, kind in (("loc", "b0"), ("landms", "k0")):
        parts = [apart[f"{kind}_{step}"].reshape(rows[i], -1) for i, step in enumerate(STEPS)]
        np.testing.assert_array_equal(joined[output][0], np.concatenate(parts))
    factors = [
        np.concatenate([apart[f"s{i}_{step}:p"].reshape(-1) for step in STEPS])
        for i in range(family.scores)
    ]
    np.testing.assert_allclose(joined["conf"][0, :, 0], np.prod(factors, axis=0), rtol=1e-6)


def test_pictures_of_a_batch_keep_their_rows_apart() -> None:
    found = heads(network(YUNET))
    assert found is not None
    x = np.random.default_rng(0).standard_normal((3, 3, 64, 96)).astype(np.float32)
    whole = Session(found[0], "numpy").run(x)
    for i in range(3):
        for name, value in Session(found[0], "numpy").run(x[i : i + 1]).items():
            np.testing.assert_allclose(whole[name][i], value[0], rtol=1e-4, atol=1e-5)


@pytest.mark.needs_c
@both
def test_c_runs_all_of_it(family: Family) -> None:
    found = heads(network(family))
    assert found is not None
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    wanted = Session(found[0], "numpy").run(x)
    for name, value in Session(found[0], "c", 1).run(x).items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-5)


@both
def test_other_outputs_are_not_mistaken(family: Family) -> None:
    graph = network(family)
    assert heads(Graph("less", graph.inputs, graph.outputs[1:], graph.nodes, graph.params)) is None
    assert heads(network(family, (32, 32)).with_inputs({"x": (2, 3, 32, 32)})) is None
    b = Builder("other")
    assert heads(b.build(b.apply(Sigmoid(), b.input("x", (1, 3, 64, 64))))) is None


@both
def test_one_size_or_any(family: Family) -> None:
    for fixed, constants in ((False, False), (False, True), (True, False)):
        found = heads(network(family, fixed=fixed, constants=constants))
        assert found is not None
        graph, _ = found
        assert is_free(graph) is not fixed
        card = family.detector(graph)
        assert card.get("canvas") == ([64, 96] if fixed else None)
        priors = Priors.from_card(card)
        assert len(priors.lattice(64, 96)) == graph.types["loc"].shape[1]


# --- reading the answers ----------------------------------------------------------------------


class Answers:
    """Answers about faces as the public code of each family reads them: from the point nearest to
    each face's centre, on the level of 8 pixels."""

    def __init__(self, family: Family, faces: list[Face], factor: float) -> None:
        self.family, self.faces, self.factor = family, faces, factor
        self.seen: list[tuple[int, ...]] = []

    def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        self.seen.append(x.shape)
        height, width = x.shape[2:]
        anchors = self.family.anchors
        rows = sum(anchors * math.ceil(height / s) * math.ceil(width / s) for s in STEPS)
        out = {"loc": np.zeros((1, rows, 4)), "conf": np.zeros((1, rows, 1))}
        out["landms"] = np.zeros((1, rows, 10))
        for f in self.faces:
            left, top, right, bottom = f.box * self.factor
            column, row = round((left + right) / 16), round((top + bottom) / 16)
            i = anchors * (row * math.ceil(width / 8) + column)
            at = np.array([column * 8, row * 8])
            if self.family is SCRFD:  # distances of the edges, in strides
                out["loc"][0, i] = (
                    (at[0] - left) / 8, (at[1] - top) / 8,
                    (right - at[0]) / 8, (bottom - at[1]) / 8,
                )  # fmt: skip
                out["conf"][0, i] = f.score
            else:  # centre from the point, in strides; logarithms of the sides
                out["loc"][0, i] = (
                    ((left + right) / 2 - at[0]) / 8, ((top + bottom) / 2 - at[1]) / 8,
                    math.log((right - left) / 8), math.log((bottom - top) / 8),
                )  # fmt: skip
                out["conf"][0, i] = f.score**2  # of two factors, whose mean it is
            out["landms"][0, i] = ((scaled(f, self.factor) - at) / 8).reshape(-1)
        return out


@both
@pytest.mark.parametrize(
    "shape, canvas, seen",
    [
        ((480, 640), None, (480, 640)),
        ((333, 217), None, (352, 224)),
        ((1000, 1500), None, (448, 640)),
        ((1000, 1500), [320, 320], (320, 320)),
        ((1500, 1000), [256, 512], (256, 512)),
        ((100, 100), [320, 320], (320, 320)),
    ],
)
def test_boxes_and_landmarks_in_pixels_of_the_picture(family, shape, canvas, seen) -> None:
    found = heads(network(family))
    assert found is not None
    detector = family.detector(found[0]) | ({"canvas": canvas} if canvas else {}) | {"sure": 0.0}
    card = Card("test", "detect", family.preprocess(found[0]), detector=detector)
    small = min(1, *(a / b for a, b in zip(seen, shape, strict=True))) if canvas else (
        min(1, 640 / max(shape))
    )  # fmt: skip
    unit = min(min(shape) / 100, 2.5 / small)  # 120 pixels wide at most: not looked at again
    faces = [face(40 * unit, 20 * unit, 60 * unit), face(5 * unit, 10 * unit, 50 * unit, 0.8)]
    height, width = (round(side * small) for side in shape)
    assert (height / shape[0], width / shape[1]) == pytest.approx((small, small), rel=2e-3)
    answers = Answers(family, faces, small)
    got = Detector(answers, card).detect(np.zeros((*shape, 3), np.uint8))
    assert answers.seen == [(1, 3, *seen)]
    if (height, width) == (shape[0] * small, shape[1] * small):
        same(got, faces)
    assert [f.score for f in got] == pytest.approx([f.score for f in faces])
    for f, e in zip(got, faces, strict=True):
        np.testing.assert_allclose(f.box, e.box, rtol=5e-3)


@pytest.mark.parametrize(
    "bad",
    [{"origin": 2}, {"multiple": 0}, {"multiple": 1000}, {"score_power": 0}, {"score_power": 2},
     {"canvas": [320]}, {"canvas": [1, 320]}, {"canvas": "ab"}, {"canvas": [320, 10**6]}],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    found = heads(network(YUNET))
    assert found is not None
    with pytest.raises(FormatError, match="card"):
        Priors.from_card(YUNET.detector(found[0]) | bad)


# --- files ------------------------------------------------------------------------------------


@both
def test_an_onnx_file_is_recognised(family: Family, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tinyface.formats.onnx_export import export_onnx

    export_onnx(network(family, fixed=True), tmp_path / "x.onnx")
    imported = import_file(tmp_path / "x.onnx")
    assert imported.card.task == "detect" and family.name in " ".join(imported.found)
    assert imported.card.preprocess.colour == family.colour
    assert Priors.from_card(imported.card.detector).canvas == (64, 96)
    assert "others are scaled into that" in imported.found[-1]
    pytest.importorskip("onnxruntime")
    (check,) = crosscheck(tmp_path / "x.onnx", imported)
    assert check.good and check.difference is not None


@needs_shared
@pytest.mark.filterwarnings("error")
def test_the_public_yunet_finds_the_same_faces_as_retinaface() -> None:
    pytest.importorskip("onnx")
    imported = import_file(SHARED / "weights/yunet_n_320_320.onnx")
    detector = Detector(Session(imported.graph), imported.card)
    assert_golden_faces(detector)
