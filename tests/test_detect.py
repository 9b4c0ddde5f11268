"""The detector: with a made-up network whose answers are known, and the public checkpoints against
PyTorch's own detections."""

from __future__ import annotations

import json

import numpy as np
import pytest
from detections import (
    MEAN,
    RETINAFACE,
    Charted,
    Oracle,
    assert_golden_faces,
    card,
    chart,
    face,
    same,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import SHARED, needs_shared

from tinyface.backends import c
from tinyface.errors import ModelError, UsageError
from tinyface.formats.torch_checkpoint import read_checkpoint
from tinyface.networks import REGISTRY
from tinyface.runtime import Session
from tinyface.vision.detect import Detector, Face
from tinyface.vision.image import RGB, read_image


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

    large = Charted([face(300, 100, 1600)], shape, most=300)  # 400 high at 640
    assert len(Detector(large, card()).detect(chart(shape))) == 1
    assert widths(large) == [640, 320, 256]  # and closely, where it is 150 high
    tiny = Oracle([face(300, 100, 60)], shape, least=20)  # 15 high at 640
    assert len(Detector(tiny, card()).detect(blank)) == 1 and widths(tiny) == [640, 320, 1280]
    # One face of 30 pixels at 640 and a smaller one beside it; the first is not found twice.
    crowd = Oracle([face(300, 100, 120), face(1500, 900, 70)], shape, least=20)
    assert len(Detector(crowd, card()).detect(blank)) == 2 and widths(crowd) == [640, 1280]
    plain = Oracle([face(300, 100, 600)], shape)  # 120 wide at 640
    assert len(Detector(plain, card()).detect(blank)) == 1 and widths(plain) == [640]
    nothing = Oracle([], (300, 300))
    assert Detector(nothing, card()).detect(blank[:300, :300]) == []
    # small pictures are enlarged, up to 640; and turned, at half the size where faces are known
    assert widths(nothing) == [300, 150, 600, 300, 300, 300]


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


def one_look(detector: Detector, image: RGB) -> list[Face]:
    """What the network says of the picture as it is."""
    return detector._look(
        image, min(detector.max_side, max(image.shape[:2])), detector.priors.score
    )


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
        image = read_image(SHARED / "images" / name)
        found = one_look(detector, image)
        assert len(found) == len(expected) == len(detector.detect(image)), name
        for f in found:
            e = min(expected, key=lambda e: np.abs(f.box - e["box"]).max())
            np.testing.assert_allclose(f.box, e["box"], atol=0.01)
            np.testing.assert_allclose(f.landmarks, e["landmarks"], atol=0.01)
            assert f.score == pytest.approx(e["score"], abs=2e-5)
        areas = [f.area for f in detector.detect(image)]
        assert areas == sorted(areas, reverse=True)


@needs_shared
def test_the_other_checkpoint_agrees_on_where_the_faces_are():
    """Other weights, other anchors, other activation: both must mean the same faces. With the
    anchors of the other network they would not."""
    detector = public("retinaface-mnet0.25-lowres", "retinaface_mnet025_lowres.pth")
    assert_golden_faces(detector)
