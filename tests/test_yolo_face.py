"""YOLOv5-face, v7 and v8: known by their only output, read in pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from detections import face, same, scaled

from tinyface.builder import Builder
from tinyface.formats.card import Card
from tinyface.formats.importer import import_file
from tinyface.formats.yolo_face import rows
from tinyface.graph import Graph
from tinyface.networks.random import random_state
from tinyface.ops import Add, Concat, Reshape, Transpose
from tinyface.runtime import Session
from tinyface.vision.detect import Detector, Face
from tinyface.vision.priors import Priors

VERSIONS = {"YOLOv5-face": (16, 3), "YOLOv7-face": (21, 3), "YOLOv8-face": (20, 1)}
each = pytest.mark.parametrize("name", VERSIONS)


def network(
    name: str, size: tuple[int, int] = (64, 96), steps: tuple[int, ...] = (8, 16, 32)
) -> Graph:
    """One convolution a level, and what exporters write to make rows of them (v8: columns)."""
    numbers, anchors = VERSIONS[name]
    b = Builder("yolo")
    x = b.input("x", (1, 3, *size))
    levels = []
    for step in steps:
        pad = (0, 0, -size[0] % step, -size[1] % step)
        y = b.conv(x, anchors * numbers, step, stride=step, pad=pad, key=f"level{step}")
        if name == "YOLOv8-face":
            levels.append(b.apply(Reshape((0, numbers, -1)), y))
            continue
        _, _, h, w = b.shape(y)
        y = b.apply(Reshape((1, anchors, numbers, h, w)), y)
        y = b.apply(Transpose((0, 1, 3, 4, 2)), y)
        levels.append(b.apply(Reshape((0, -1, numbers)), y))
    whole = b.apply(Concat(2 if name == "YOLOv8-face" else 1), *levels)
    grid = b.param("grid", (1, *b.shape(whole)[1:]))  # of one size of picture
    graph = b.build(b.apply(Add(), whole, grid))
    return graph.bind(random_state(graph))


def expected(name: str, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and landmarks (n, 10) as the public code takes them from the output."""
    row = y[0].T if name == "YOLOv8-face" else y[0]
    if name == "YOLOv5-face":
        return row[:, :4], row[:, 4] * row[:, 15], row[:, 5:15]
    first = 5 if name == "YOLOv8-face" else 6
    points = [row[:, [first + 3 * k, first + 3 * k + 1]] for k in range(5)]
    scores = row[:, 4] if name == "YOLOv8-face" else row[:, 4] * row[:, 5]
    return row[:, :4], scores, np.concatenate(points, 1)


@each
@pytest.mark.parametrize("steps", [(8, 16, 32), (8, 16, 32, 64)])
@pytest.mark.parametrize("backend", ["numpy", pytest.param("c", marks=pytest.mark.needs_c)])
def test_the_columns_become_three_outputs(name: str, steps: tuple[int, ...], backend: str) -> None:
    graph = network(name, steps=steps)
    found = rows(graph)
    assert found is not None and found[1].name == name and found[1].steps == steps
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    (whole,) = Session(graph, "numpy").run(x).values()
    out = Session(found[0], backend, 1).run(x)
    wanted = expected(name, whole)
    for output, value in zip(("loc", "conf", "landms"), wanted, strict=True):
        np.testing.assert_allclose(out[output][0].reshape(value.shape), value, rtol=1e-4, atol=1e-4)
    card = found[1].detector(found[0])
    assert card["canvas"] == [64, 96]
    assert len(Priors.from_card(card).lattice(64, 96)) == len(wanted[0])


@each
def test_other_outputs_are_not_mistaken(name: str) -> None:
    graph = network(name)
    larger = network(name, (64, 128))
    assert rows(larger) is not None
    assert rows(Graph("x", larger.inputs, larger.outputs * 2, larger.nodes, larger.params)) is None
    b = Builder("other")
    x = b.input("x", (1, 3, 64, 96))
    assert rows(b.build(b.apply(Reshape((0, -1, 16)), x))) is None
    assert rows(graph) is not None


@each
def test_tensors_may_have_any_names(name: str) -> None:
    """Those of the columns are not taken for the network's own."""
    graph = network(name)
    last = graph.nodes[-1]
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    (whole,) = Session(graph, "numpy").run(x).values()
    for called in ("face", "points", "rows", "object", "loc"):
        nodes = (*graph.nodes[:-1], replace(last, outputs=(called,)))
        found = rows(replace(graph, nodes=nodes, outputs=(called,)))
        assert (found is None) == (called == "loc")
        if found is not None:
            boxes = Session(found[0], "numpy").run(x)["loc"]
            np.testing.assert_array_equal(boxes[0], expected(name, whole)[0])


class Answers:
    """Rows about faces in places of their own, in pixels, all others sure of nothing."""

    def __init__(self, name: str, faces: list[Face], factor: float) -> None:
        self.anchors, self.faces, self.factor = VERSIONS[name][1], faces, factor

    def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        height, width = x.shape[2:]
        count = sum(
            self.anchors * math.ceil(height / s) * math.ceil(width / s) for s in (8, 16, 32)
        )
        out = {"loc": np.full((1, count, 4), 1e9), "conf": np.zeros((1, count, 1))}
        out["landms"] = np.zeros((1, count, 10))
        for i, f in enumerate(self.faces):
            left, top, right, bottom = f.box * self.factor
            box = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
            out["loc"][0, 3 * i + 5] = box
            out["conf"][0, 3 * i + 5] = f.score
            out["landms"][0, 3 * i + 5] = scaled(f, self.factor).reshape(-1)
        out["conf"][0, 0] = 0.9  # of a box beyond all bounds: a broken answer
        return out


@each
def test_places_are_pixels(name: str) -> None:
    found = rows(network(name))
    assert found is not None
    graph, family = found
    detector = family.detector(graph) | {"canvas": [320, 320]}
    card = Card("test", "detect", family.preprocess(graph), detector=detector)
    faces = [face(120, 60, 180), face(400, 300, 100, 0.8)]
    got = Detector(Answers(name, faces, 0.5), card).detect(np.zeros((480, 640, 3), np.uint8))
    same(got, faces)
    assert [f.score for f in got] == pytest.approx([f.score for f in faces])


@each
def test_an_onnx_file_is_recognised(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tinyface.formats.onnx_export import export_onnx

    export_onnx(network(name), tmp_path / "x.onnx")
    imported = import_file(tmp_path / "x.onnx")
    assert imported.card.task == "detect" and name in " ".join(imported.found)
    assert imported.card.preprocess.scale == pytest.approx((1 / 255,) * 3)
    assert Priors.from_card(imported.card.detector).pixels
