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
from tinyface.vision.image import collect_images, read_image
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
                np.tile(box, (len(near), 1)), np.tile(face.landmarks * factor, (len(near), 1, 1)),
                lattice[near], RETINAFACE.variances,
            )  # fmt: skip
            loc[near], landms[near] = answers
            face_scores[near] = face.score - 0.01 * np.arange(len(near))
        conf = np.stack([1 - face_scores, face_scores], axis=1)
        return {"loc": loc[None], "conf": conf[None], "landms": landms[None]}


def face(left: float, top: float, height: float, score: float = 0.9) -> Face:
    box = np.array([left, top, left + 0.8 * height, top + height])
    return Face(box, score, box[:2] + TEMPLATE / 112 * (0.8 * height, height))


def same(found: list[Face], expected: list[Face]) -> None:
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f.box, e.box, atol=1e-6)
        np.testing.assert_allclose(f.landmarks, e.landmarks, atol=1e-6)
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
