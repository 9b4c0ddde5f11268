"""Close looks: of large faces they give box and landmarks, about doubtful ones they decide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from detections import MEAN, Charted, Oracle, card, chart, face, same
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyface.vision.detect as module
from tinyface.errors import FormatError
from tinyface.vision.detect import Detector, Face
from tinyface.vision.priors import Priors

SHAPE = (480, 640)
DOUBT = [0.2, 0.9]


class Large(Charted):
    """Sees faces of more than 130 pixels in a wrong place, by a tenth of their width, and others
    as they are, but less surely; and beside them a face that is none."""

    def at(self, step: float) -> list[Face]:
        if step <= 1:
            return [replace(f, landmarks=f.landmarks + 0.1 * f.width) for f in self.faces]
        smaller = [replace(f, score=f.score - 0.4) for f in self.faces]
        return [*smaller, face(560, 420, 50)]


def widths(oracle: Oracle) -> list[int]:
    return [x.shape[3] for x in oracle.seen]


def test_large_faces_are_looked_at_again_where_they_are_smaller() -> None:
    """Box and landmarks are those of the close look, the score stays, and nothing is found that
    was not there before."""
    large = [face(10, 10, 400), face(340, 50, 300)]  # 320 and 240 wide
    oracle = Large(large, SHAPE)
    same(Detector(oracle, card()).detect(chart(SHAPE)), large, pixels=2)
    assert widths(oracle) == [640, 256, 256]


def test_a_face_that_is_not_large_keeps_what_it_had() -> None:
    oracle = Large([face(330, 300, 120)], SHAPE)  # 96 wide
    (found,) = Detector(oracle, card()).detect(chart(SHAPE))
    (expected,) = oracle.at(1)
    same([found], [expected], pixels=1)
    assert len(oracle.seen) == 1


def test_a_large_face_that_is_not_seen_closely_stays_as_it_was() -> None:
    lost = Charted([face(10, 10, 400)], SHAPE, least=200)
    same(Detector(lost, card()).detect(chart(SHAPE)), lost.faces, pixels=1)
    assert len(lost.seen) == 2


class Steps(Charted):
    """Keeps how many pixels of the picture each of a look's was."""

    def __init__(self, faces: list[Face], picture: tuple[int, int]) -> None:
        super().__init__(faces, picture)
        self.steps: list[float] = []

    def at(self, step: float) -> list[Face]:
        self.steps.append(step)
        return self.faces


@pytest.mark.parametrize(("shape", "high"), [((960, 1280), 350), (SHAPE, 400)])
def test_a_close_look_shows_a_face_150_pixels_high(shape: tuple[int, int], high: int) -> None:
    """Also where the square around it reaches beyond the picture."""
    oracle = Steps([face(20, 10, high)], shape)
    Detector(oracle, card()).detect(chart(shape))
    assert oracle.steps[-1] == pytest.approx(high / 150, rel=0.02)


def test_a_close_look_at_the_edge_is_moved_into_the_picture() -> None:
    oracle = Charted([face(1000, 600, 350)], (960, 1280))
    Detector(oracle, card()).detect(chart((960, 1280)))
    blue = oracle.seen[-1][0, 0] + MEAN[0]
    assert (blue > 200).all()  # as is all of the picture; nothing is black


class Doubtful(Charted):
    """Gives its faces other scores, and places, where it looks closely."""

    closely = 0.0
    moved = 0.0

    def at(self, step: float) -> list[Face]:
        if step < 0.9:
            return [
                replace(f, score=self.closely, landmarks=f.landmarks + self.moved)
                for f in self.faces if self.closely
            ]  # fmt: skip
        return self.faces


def look(first: float, closely: float, score: float | None = None, **told: object) -> list[Face]:
    oracle = Doubtful([face(300, 200, 90, first)], SHAPE)
    oracle.closely, oracle.moved = closely, 2.0
    found = Detector(oracle, card(doubt=DOUBT, **told)).detect(chart(SHAPE), score, turns=False)
    assert (len(oracle.seen) > 1) == (first < 0.9)
    for f in found:  # the landmarks are those of the look that decided
        moved = (f.landmarks - oracle.faces[0].landmarks).mean()
        assert moved == pytest.approx(2.0 if first < 0.9 else 0.0, abs=0.4)
    return found


@pytest.mark.parametrize(
    ("first", "closely", "found"),
    [(0.5, 0.97, 0.97), (0.3, 0.8, 0.8), (0.89, 0.7, 0.7), (0.89, 0.59, None), (0.89, 0.0, None),
     (0.95, 0.1, 0.95)],
)  # fmt: skip
def test_a_doubtful_face_has_the_score_of_the_close_look(
    first: float, closely: float, found: float | None
) -> None:
    scores = [f.score for f in look(first, closely)]  # the card's own least score is 0.6
    assert scores == ([] if found is None else [pytest.approx(found)])


def test_what_a_first_look_scores_below_the_doubt_is_no_face() -> None:
    oracle = Doubtful([face(300, 200, 90, 0.19)], SHAPE)
    oracle.closely = 0.99
    assert Detector(oracle, card(doubt=DOUBT)).detect(chart(SHAPE)) == []


def test_the_score_that_is_asked_for_is_what_the_close_look_must_give() -> None:
    assert len(look(0.5, 0.4, score=0.35)) == 1 and len(look(0.5, 0.4, score=0.45)) == 0
    assert len(look(0.15, 0.5, score=0.1)) == 1  # whoever asks for less sees less


def test_a_network_of_one_picture_size_does_not_look_closely() -> None:
    oracle = Oracle([face(10, 10, 400, 0.7)], SHAPE)
    detector = Detector(oracle, card(canvas=[480, 640], doubt=DOUBT))
    assert len(detector.detect(chart(SHAPE))) == 1 and len(oracle.seen) == 1


def test_at_double_the_size_only_what_was_small_is_looked_at_again() -> None:
    """The large face is known, the doubtful one of 12 pixels only visible there."""
    shape = (960, 1280)
    oracle = Charted([face(100, 100, 500), face(900, 500, 24, 0.8), face(600, 700, 60)], shape)
    oracle.least = 15
    found = Detector(oracle, card(doubt=DOUBT)).detect(chart(shape))
    assert [round(f.area**0.5) for f in found] == pytest.approx([447, 54, 21], abs=2)
    # the picture, the large face closely, the picture at double the size, the small one closely
    assert widths(oracle) == [640, 256, 1280, 256]


def test_close_looks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture full of what might be faces costs no more than so many; the surest come first."""
    faces = [face(40 + 150 * i, 100, 90, 0.5 + 0.1 * i) for i in range(4)]
    oracle = Charted(faces, SHAPE)
    monkeypatch.setattr(module, "MAX_CLOSE", 2)
    found = Detector(oracle, card(doubt=DOUBT)).detect(chart(SHAPE), turns=False)
    assert [f.score for f in found] == [pytest.approx(s) for s in (0.8, 0.7)]
    assert widths(oracle) == [640, 256, 256]


@pytest.mark.parametrize("doubt", [[0.9, 0.2], [-0.1, 0.5], [0.2, 1.1], [0.2], "ab", [0.1, None]])
def test_a_card_whose_doubt_is_none(doubt: object) -> None:
    with pytest.raises(FormatError, match="does not describe a detector"):
        Priors.from_card(card(doubt=doubt).detector)


@given(
    st.integers(1, 60), st.integers(1, 60), st.floats(-1, 61), st.floats(-1, 61),
    st.floats(0.01, 60), st.floats(0.01, 60),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_any_box_can_be_looked_at(
    height: int, width: int, left: float, top: float, wide: float, high: float
) -> None:
    """Whatever a network says, what it is shown has the one size, whose plan is kept."""
    box = np.array([left, top, left + wide, top + high]).clip(0, (width, height) * 2)
    doubtful = Face(box, 0.5, np.zeros((5, 2)))
    oracle = Oracle([], (height, width))
    if doubtful.area >= 1:
        detector = Detector(oracle, card(doubt=DOUBT))
        closely = detector._closely(np.zeros((height, width, 3), np.uint8), doubtful, 0.5)
        assert closely.score == 0 and oracle.seen[0].shape == (1, 3, 256, 256)
