"""The detector: its arithmetic by definition, its behaviour with a made-up network whose answers
are known, and the public checkpoints against PyTorch's own detections."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyface.backends import c
from tinyface.errors import FormatError, ModelError, UsageError
from tinyface.formats.card import Card, Preprocess
from tinyface.formats.torch_checkpoint import read_checkpoint
from tinyface.networks import REGISTRY
from tinyface.runtime import Session
from tinyface.vision.align import TEMPLATE
from tinyface.vision.detect import (
    Detector,
    Face,
    Priors,
    decode_boxes,
    decode_landmarks,
    suppress,
)
from tinyface.vision.draw import draw_faces, montage
from tinyface.vision.image import collect_images, read_image

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs the project's shared material in ../shared"
)
DETECTORS = sorted(name for name, entry in REGISTRY.items() if entry.task == "detect")
USUAL = dict(REGISTRY["retinaface-mnet0.25"].detector)
RETINAFACE = Priors.from_card(USUAL)
MEAN = (104.0, 117.0, 123.0)


def card(**more: Any) -> Card:
    how = Preprocess(320, 320, "bgr", MEAN, (1.0, 1.0, 1.0))
    return Card("test detector", "detect", how, detector={**USUAL, **more})


# --- the lattice ------------------------------------------------------------------------------


@given(st.sampled_from(DETECTORS), st.integers(1, 300), st.integers(1, 300))
def test_count_and_place_of_the_priors(name, height, width):
    priors = Priors.from_card(REGISTRY[name].detector)
    lattice = priors.lattice(height, width)
    cells = [math.ceil(height / s) * math.ceil(width / s) for s in priors.steps]
    sizes = [len(row) for row in priors.min_sizes]
    assert lattice.shape == (sum(c * n for c, n in zip(cells, sizes, strict=True)), 3)
    assert (lattice > 0).all()
    # No centre lies further outside than half a cell.
    assert (lattice[:, 0] < width + priors.steps[-1] / 2).all()
    assert (lattice[:, 1] < height + priors.steps[-1] / 2).all()


def test_priors_by_the_public_definition():
    """Loops over rows, columns and sizes, relative to the picture, as public code has them."""
    height, width = 50, 75
    expected = []
    for step, sizes in zip(RETINAFACE.steps, RETINAFACE.min_sizes, strict=True):
        for i in range(math.ceil(height / step)):
            for j in range(math.ceil(width / step)):
                for size in sizes:
                    x, y = (j + 0.5) * step / width, (i + 0.5) * step / height
                    expected.append((x * width, y * height, size))
    np.testing.assert_allclose(RETINAFACE.lattice(height, width), expected)


@pytest.mark.parametrize("size", [(64, 64), (33, 70), (1, 1), (95, 129)])
@pytest.mark.parametrize("name", DETECTORS)
def test_networks_give_one_answer_per_prior(name, size):
    """At sizes that no step divides, too. Shapes only: nothing is computed."""
    rows = len(Priors.from_card(REGISTRY[name].detector).lattice(*size))
    graph = REGISTRY[name].build(size=size)
    types = [graph.types[output].shape for output in ("loc", "conf", "landms")]
    assert types == [(1, rows, 4), (1, rows, 2), (1, rows, 10)]


# --- decoding ---------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_decoding_undoes_encoding(seed):
    rng = np.random.default_rng(seed)
    lattice = RETINAFACE.lattice(64, 96)
    low = rng.uniform(-50, 50, (len(lattice), 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 300, low.shape)], axis=1)
    marks = rng.uniform(-50, 200, (len(lattice), 5, 2))
    loc, landms = encode(boxes, marks, lattice, RETINAFACE.variances)
    np.testing.assert_allclose(
        decode_boxes(loc, lattice, RETINAFACE.variances), boxes, atol=1e-9, rtol=1e-9
    )
    np.testing.assert_allclose(decode_landmarks(landms, lattice, 0.1), marks, atol=1e-9)


def encode(boxes, marks, lattice, variances):
    """What a network should answer: the equations of the SSD paper, section 2.2, with variances."""
    side = lattice[:, 2:]
    centre = ((boxes[:, :2] + boxes[:, 2:]) / 2 - lattice[:, :2]) / (side * variances[0])
    size = np.log((boxes[:, 2:] - boxes[:, :2]) / side) / variances[1]
    points = (marks - lattice[:, None, :2]) / (side[:, None] * variances[0])
    return np.concatenate([centre, size], axis=1), points.reshape(-1, 10)


# --- suppression ------------------------------------------------------------------------------


def overlap(a, b):
    """Intersection over union of two boxes that hold pixels, by counting."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    area = [(x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b)]
    return width * height / (sum(area) - width * height)


def random_boxes(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (n, 2))
    return np.concatenate([low, low + rng.uniform(0, 40, (n, 2))], axis=1), rng.permutation(n) / n


@given(st.integers(0, 10**6), st.integers(0, 40), st.floats(0.05, 1))
def test_suppression_keeps_what_nothing_better_overlaps(seed, n, limit):
    boxes, scores = random_boxes(seed, n)
    kept = suppress(boxes, scores, limit).tolist()
    assert scores[kept].tolist() == sorted(scores[kept], reverse=True)
    for i in range(n):
        rivals = [k for k in kept if scores[k] > scores[i] and overlap(boxes[k], boxes[i]) > limit]
        assert (i in kept) == (not rivals)


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_suppression_does_not_depend_on_the_order(seed, n):
    boxes, scores = random_boxes(seed, n)
    order = np.random.default_rng(seed + 1).permutation(n)
    again = order[suppress(boxes[order], scores[order], 0.4)]
    assert again.tolist() == suppress(boxes, scores, 0.4).tolist()


def test_suppression_counts_pixels():
    """Boxes 0..9 and 5..14 share 5 of 15 pixels per row: 1/3, not (10-5)/(9+9-4)."""
    boxes = np.array([[0, 0, 9, 9], [5, 0, 14, 9.0]])
    assert suppress(boxes, np.array([0.9, 0.8]), 0.34).tolist() == [0, 1]
    assert suppress(boxes, np.array([0.9, 0.8]), 0.33).tolist() == [0]
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.4).tolist() == []


# --- the card ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": None}, {"steps": [8, 16]}, {"steps": [0, 16, 32]}, {"steps": [8, 16, 10**6]},
        {"min_sizes": []}, {"min_sizes": [[], [1], [2]]}, {"min_sizes": [[-1], [1], [2]]},
        {"min_sizes": [[math.inf], [1], [2]]}, {"min_sizes": "abc"}, {"min_sizes": 5},
        {"steps": [1, 1, 1]}, {"variances": [0.1]}, {"variances": [0, 0.2]}, {"score": "high"},
        {"score": 1.5}, {"overlap": -1}, {"max_side": 10**6}, {"max_side": 1}, {"scores": 0.5},
    ],
)  # fmt: skip
def test_cards_that_describe_no_detector(bad):
    detector = {**USUAL, **bad}
    with pytest.raises(FormatError, match="card") as caught:
        Priors.from_card(detector)
    assert "\n" not in str(caught.value)


def test_an_empty_card_is_refused():
    with pytest.raises(FormatError):
        Priors.from_card({})


# --- the detector with a made-up network ------------------------------------------------------


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


@pytest.mark.parametrize("shape", [(480, 640), (1200, 1600), (3000, 1000), (333, 217)])
def test_coordinates_come_back_in_the_pictures_pixels_largest_first(shape):
    scale = shape[0] / 480
    faces = [face(100 * scale * s, 200 * scale * s, 60 * scale * s) for s in (0.3, 0.9)]
    oracle = Oracle(faces, shape, least=1)
    same(Detector(oracle, card()).detect(np.zeros((*shape, 3), np.uint8)), faces[::-1])
    assert max(oracle.seen[0].shape) == min(max(shape), 640)


def test_the_network_gets_what_it_was_trained_on():
    """Blue first, minus the mean, in (1, 3, h, w)."""
    image = np.zeros((40, 50, 3), np.uint8)
    image[:] = (200, 100, 50)
    image[0, 0] = 0
    oracle = Oracle([], (40, 50))
    Detector(oracle, card()).detect(image)
    x = oracle.seen[0]
    assert x.shape == (1, 3, 40, 50) and x.dtype == np.float32
    np.testing.assert_array_equal(x[0, :, 5, 5], np.subtract((50, 100, 200), MEAN))
    np.testing.assert_array_equal(x[0, :, 0, 0], np.negative(MEAN))


def test_boxes_end_at_the_edge_and_landmarks_do_not():
    """Half of the first face is outside; all of the second."""
    shape = (200, 300)
    faces = [face(-30, -20, 80), face(-200, 10, 60)]
    (found,) = Detector(Oracle(faces, shape), card()).detect(np.zeros((*shape, 3), np.uint8))
    np.testing.assert_allclose(found.box, [0, 0, 34, 60], atol=1e-6)
    np.testing.assert_allclose(found.landmarks, faces[0].landmarks, atol=1e-6)


def test_a_lower_score_finds_more_and_a_higher_one_less():
    shape = (480, 640)
    faces = [face(300, 100, 200, 0.9), face(50, 60, 150, 0.5), face(60, 300, 100, 0.7)]
    detector = Detector(Oracle(faces, shape), card())
    blank = np.zeros((*shape, 3), np.uint8)
    found = [len(detector.detect(blank, score)) for score in (0.0, 0.45, 0.65, 0.8, 0.95, None)]
    assert found == [3, 3, 2, 1, 0, 2] and detector.priors.score == 0.6
    for score in (-0.1, 1, float("nan")):
        with pytest.raises(UsageError, match="give 0 or more"):
            detector.detect(blank, score)


def test_a_second_look_finds_what_is_too_large_or_too_small():
    shape = (1920, 2560)
    blank = np.zeros((*shape, 3), np.uint8)

    def widths(oracle: Oracle) -> list[int]:
        return [x.shape[3] for x in oracle.seen]

    large = Oracle([face(300, 100, 1600)], shape, most=300)  # 400 high at 640
    assert len(Detector(large, card()).detect(blank)) == 1 and widths(large) == [640, 320]
    tiny = Oracle([face(300, 100, 60)], shape, least=20)  # 15 high at 640
    assert len(Detector(tiny, card()).detect(blank)) == 1 and widths(tiny) == [640, 320, 1280]
    # One face of 30 pixels at 640 and a smaller one beside it; the first is not found twice.
    crowd = Oracle([face(300, 100, 120), face(1500, 900, 70)], shape, least=20)
    assert len(Detector(crowd, card()).detect(blank)) == 2 and widths(crowd) == [640, 1280]
    plain = Oracle([face(300, 100, 600)], shape)
    assert len(Detector(plain, card()).detect(blank)) == 1 and widths(plain) == [640]
    nothing = Oracle([], (300, 300))
    assert Detector(nothing, card()).detect(blank[:300, :300]) == []
    assert widths(nothing) == [300, 150, 600]  # small pictures are enlarged, up to 640


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (31, 700)])
def test_pictures_of_any_shape(shape):
    assert Detector(Oracle([], shape), card()).detect(np.zeros((*shape, 3), np.uint8)) == []


def test_max_side():
    for given_side, told, expected in ((None, {}, 640), (None, {"max_side": 320}, 320),
                                       (128, {"max_side": 320}, 128)):  # fmt: skip
        oracle = Oracle([face(100, 100, 400)], (1000, 1000))
        detector = Detector(oracle, card(**told), max_side=given_side)
        detector.detect(np.zeros((1000, 1000, 3), np.uint8))
        assert oracle.seen[0].shape[3] == expected
    with pytest.raises(UsageError, match="max_side"):
        Detector(Oracle([], (1, 1)), card(), max_side=0)


class Hostile:
    """Answers without sense: infinite, not a number, enormous."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        rows = len(RETINAFACE.lattice(*x.shape[2:]))
        odd = [np.nan, np.inf, -np.inf, 1e300, -1e300, 5.0, -5.0, 1e4, -1e4, 199.0]
        values = np.array([0.7] * 90 + odd)  # mostly good, so that some rows hold one odd value
        return {
            name: self.rng.choice(values, (1, rows, n))
            for name, n in (("loc", 4), ("conf", 2), ("landms", 10))
        }


@given(st.integers(0, 10**6))
@settings(max_examples=25)
@pytest.mark.filterwarnings("error")
def test_senseless_answers_give_sensible_faces(seed):
    image = np.zeros((64, 80, 3), np.uint8)
    for f in Detector(Hostile(seed), card()).detect(image):
        assert np.isfinite(f.box).all() and np.isfinite(f.landmarks).all() and f.score <= 1.001
        assert 0 <= f.box[0] < f.box[2] <= 80 and 0 <= f.box[1] < f.box[3] <= 64


@pytest.mark.parametrize(
    "outputs",
    [{}, {"loc": np.zeros((1, 3, 4))}, {"loc": np.zeros((2, 2)), "conf": np.zeros((1, 1, 2))}],
)
def test_a_network_that_does_not_fit_its_card(outputs):
    class Other:
        def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
            return outputs

    with pytest.raises(ModelError, match=r"test detector.*import it again"):
        Detector(Other(), card()).detect(np.zeros((64, 64, 3), np.uint8))


def test_a_face_as_json():
    document = face(10, 20, 30, score=0.123456789).to_json()
    assert json.loads(json.dumps(document)) == document
    assert document["box"] == [10.0, 20.0, 34.0, 50.0] and document["score"] == 0.12346
    assert np.shape(document["landmarks"]) == (5, 2)


# --- the public checkpoints -------------------------------------------------------------------


def public(name: str, file: str, backend: str = "numpy") -> Detector:
    entry = REGISTRY[name]
    graph = entry.build().bind(
        read_checkpoint(SHARED / "weights" / file), ignore=("num_batches_tracked",)
    )
    return Detector(Session(graph, backend), entry.card(graph))


def engine(name: str) -> str:
    if name == "c" and not c.available():
        pytest.skip("the C engine was not built")
    return name


@needs_shared
@pytest.mark.parametrize("backend", ["numpy", "c"])
def test_retinaface_finds_what_pytorch_finds(backend):
    """Boxes and landmarks to 1/100 pixel (the file has two digits), scores to 1e-5 and the
    file's rounding."""
    detector = public("retinaface-mnet0.25", "retinaface_mnet025.pth", engine(backend))
    golden = json.loads((SHARED / "golden/real/retinaface_detections.json").read_text())
    for name, expected in golden.items():
        found = detector.detect(read_image(SHARED / "images" / name))
        assert len(found) == len(expected), name
        for f in found:
            e = min(expected, key=lambda e: np.abs(f.box - e["box"]).max())
            np.testing.assert_allclose(f.box, e["box"], atol=0.01)
            np.testing.assert_allclose(f.landmarks, e["landmarks"], atol=0.01)
            assert f.score == pytest.approx(e["score"], abs=2e-5)
        areas = [f.area for f in found]
        assert areas == sorted(areas, reverse=True)


def assert_golden_faces(detector: Detector) -> None:
    """Another detector finds the same faces of the sample pictures as the public RetinaFace."""
    golden = json.loads((SHARED / "golden/real/retinaface_detections.json").read_text())
    for path in collect_images(HERE / "images"):
        found = detector.detect(read_image(path))
        assert len(found) == len(golden[path.name]), path.name
        for f in found:
            e = min(golden[path.name], key=lambda e: np.abs(f.box - e["box"]).max())
            height = e["box"][3] - e["box"][1]
            assert np.abs(f.landmarks - e["landmarks"]).max() < 0.1 * height


@needs_shared
def test_the_other_checkpoint_agrees_on_where_the_faces_are():
    """Other weights, other anchors, other activation: both must mean the same faces. With the
    anchors of the other network they would not."""
    detector = public("retinaface-mnet0.25-lowres", "retinaface_mnet025_lowres.pth")
    assert_golden_faces(detector)


# --- drawing ----------------------------------------------------------------------------------


def test_drawing_marks_the_faces_and_leaves_the_picture_alone():
    image = np.full((200, 300, 3), 90, np.uint8)
    faces = [face(150, 60, 100), face(20, 20, 24, score=0.61)]
    drawn = np.asarray(draw_faces(image, faces))
    assert drawn.shape == image.shape and (image == 90).all()
    for f in faces:
        left, top, right, bottom = f.box.astype(int)
        middle = (top + bottom) // 2
        assert (drawn[middle, left - 1 : left + 2] != 90).any()
        assert (drawn[middle, right - 1 : right + 2] != 90).any()
        for x, y in f.landmarks:
            assert (drawn[round(y), round(x)] != 90).any()
    assert (drawn[190:, :140] == 90).all()  # far from the faces nothing changes


@pytest.mark.parametrize("shape", [(1, 1), (20, 2000), (40, 40)])
def test_faces_beyond_the_edge_can_be_drawn(shape):
    image = np.zeros((*shape, 3), np.uint8)
    assert draw_faces(image, [face(-50, -50, 200), face(0, 0, 0.5)]).size == shape[::-1]
    assert (np.asarray(draw_faces(image, [])) == 0).all()


def test_montage():
    crops = [np.full((8, 6, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = np.asarray(montage(crops, columns=2, gap=2))
    assert sheet.shape == (2 + 2 * 10, 2 + 2 * 8, 3)
    assert sheet[2, 2, 0] == 10 and sheet[9, 15, 0] == 20 and sheet[12, 7, 0] == 30
    assert (sheet[0] == 255).all() and (sheet[12:20, 10:16] == 255).all()
    assert montage(crops[:1]).size == (14, 16)
    for bad in ([], [crops[0], np.zeros((9, 6, 3), np.uint8)]):
        with pytest.raises(UsageError):
            montage(bad)
    with pytest.raises(UsageError):
        montage(crops, columns=-1)
