"""A detector with a made-up network whose answers are known, and what it must find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import SHARED

from tinyface.formats.card import Card, Preprocess
from tinyface.networks import REGISTRY
from tinyface.vision.align import TEMPLATE
from tinyface.vision.detect import Detector, Face
from tinyface.vision.folder import collect_images
from tinyface.vision.image import RGB, read_image
from tinyface.vision.priors import Priors

USUAL = dict(REGISTRY["retinaface-mnet0.25"].detector)
RETINAFACE = Priors.from_card(USUAL)
MEAN = (104.0, 117.0, 123.0)


def card(**more: Any) -> Card:
    how = Preprocess(320, 320, "bgr", MEAN, (1.0, 1.0, 1.0))
    return Card("test detector", "detect", how, detector={**USUAL, "sure": 0.0, **more})


def encode(boxes, marks, lattice, variances):
    """What a network should answer: the equations of the SSD paper, section 2.2, with variances."""
    side = lattice[:, 2:]
    centre = ((boxes[:, :2] + boxes[:, 2:]) / 2 - lattice[:, :2]) / (side * variances[0])
    size = np.log((boxes[:, 2:] - boxes[:, :2]) / side) / variances[1]
    points = (marks - lattice[:, None, :2]) / (side[:, None] * variances[0])
    return np.concatenate([centre, size], axis=1), points.reshape(-1, 10)


class Oracle:
    """Sees the faces that it is told of, where the height (in pixels of what the network sees)
    is between ``least`` and ``most``. Answers come from the nearest priors."""

    def __init__(self, faces: list[Face], picture: tuple[int, int], least=0.0, most=1e9):
        self.faces, self.picture, self.least, self.most = faces, picture, least, most
        self.seen: list[np.ndarray] = []

    def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        self.seen.append(x)
        lattice = RETINAFACE.lattice(*x.shape[2:])
        loc, landms = np.zeros((len(lattice), 4)), np.zeros((len(lattice), 10))
        face_scores = np.zeros(len(lattice))
        factor = np.array([x.shape[3] / self.picture[1], x.shape[2] / self.picture[0]])
        for face in self.faces:
            box = (face.box.reshape(2, 2) * factor).ravel()
            if not self.least <= box[3] - box[1] <= self.most:
                continue
            near = np.argsort(np.hypot(*(lattice[:, :2] - (box[:2] + box[2:]) / 2).T))[:6]
            near = near[face_scores[near] == 0]
            answers = encode(
                np.tile(box, (len(near), 1)), np.tile(scaled(face, factor), (len(near), 1, 1)),
                lattice[near], RETINAFACE.variances,
            )  # fmt: skip
            loc[near], landms[near] = answers
            face_scores[near] = face.score - 0.01 * np.arange(len(near))
        conf = np.stack([1 - face_scores, face_scores], axis=1)
        return {"loc": loc[None], "conf": conf[None], "landms": landms[None]}


def chart(shape: tuple[int, int]) -> RGB:
    """A picture whose colours say where they are: red from left to right, green from top down;
    blue is everywhere."""
    image = np.full((*shape, 3), 255, np.uint8)
    image[..., 0] = np.linspace(0, 255, shape[1]).round()[None]
    image[..., 1] = np.linspace(0, 255, shape[0]).round()[:, None]
    return image


class Charted(Oracle):
    """Sees its faces in parts of a :func:`chart`, too: to a pixel or so where they are large."""

    def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        start, step = np.zeros(2), np.ones(2)
        there = x[0, 0] + MEAN[0] > 200  # blue: what is not there is black
        seen = x[0][:, there.any(1)][:, :, there.any(0)]
        for axis in (0, 1):  # x is red, the last channel; y green
            values = (seen[2 - axis] + MEAN[2 - axis]).mean(axis)
            slope, first = np.polyfit(np.arange(len(values)), values, 1)
            extent = self.picture[1 - axis]
            step[axis] = slope * (extent - 1) / 255  # pixels of the picture for one of x
            start[axis] = first * (extent - 1) / 255 + 0.5 - step[axis] / 2
        true, whole = self.faces, self.picture
        self.faces = [
            Face(f.box - np.tile(start, 2), f.score, f.landmarks - start) for f in self.at(step[0])
        ]
        self.picture = (x.shape[2] * step[1], x.shape[3] * step[0])
        result = super().run(x)
        self.faces, self.picture = true, whole
        return result

    def at(self, step: float) -> list[Face]:
        """What it sees where a pixel of the network's picture is ``step`` of the chart's."""
        return self.faces


def scaled(face: Face, factor: float) -> np.ndarray:
    """Its landmarks in a picture resized by ``factor``: the middle of pixel 0 is .5 from the edge,
    before and after."""
    return (face.landmarks + 0.5) * factor - 0.5


def face(left: float, top: float, height: float, score: float = 0.9) -> Face:
    box = np.array([left, top, left + 0.8 * height, top + height])
    return Face(box, score, box[:2] + TEMPLATE / 112 * (0.8 * height, height))


def same(found: list[Face], expected: list[Face], pixels: float = 1e-6) -> None:
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f.box, e.box, atol=pixels)
        np.testing.assert_allclose(f.landmarks, e.landmarks, atol=pixels)
        assert f.score == pytest.approx(e.score)


def assert_golden_faces(detector: Detector) -> None:
    """Another detector finds the same faces of the sample pictures as the public RetinaFace."""
    golden = json.loads((SHARED / "golden/real/retinaface_detections.json").read_text())
    for path in collect_images(Path(__file__).parent / "images"):
        found = detector.detect(read_image(path))
        assert len(found) == len(golden[path.name]), path.name
        for f in found:
            e = min(golden[path.name], key=lambda e: np.abs(f.box - e["box"]).max())
            height = e["box"][3] - e["box"][1]
            assert np.abs(f.landmarks - e["landmarks"]).max() < 0.1 * height
