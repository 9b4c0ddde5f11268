"""Pictures that lie on their side or stand on their head: found out, and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from detections import Oracle, card, face

import tinyface as package
from tinyface.vision.detect import Detector, Face
from tinyface.vision.image import RGB, read_image

SHAPE = (200, 320)  # of the upright picture
FACES = [face(40, 30, 100, 0.995), face(200, 60, 80, 0.95)]
TURNED = pytest.mark.parametrize("turned", [90, 180, 270])


def upright() -> RGB:
    """White above on the left, so that one sees how it is turned."""
    image = np.zeros((*SHAPE, 3), np.uint8)
    image[:100, :160] = 255
    return image


def as_given(image: RGB, turned: int) -> RGB:
    """The picture that must be turned by so many degrees clockwise to be this one."""
    return np.ascontiguousarray(np.rot90(image, turned // 90))


class Upright(Oracle):
    """Sees its faces in a picture that is upright; in others one that is none, less surely."""

    def __init__(self, faces: list[Face], doubtful: float = 0.0) -> None:
        super().__init__(faces, SHAPE)
        self.true, self.doubtful = faces, doubtful

    def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        other = [face(60, 40, 60, self.doubtful)] if self.doubtful else []
        self.faces = self.true if is_upright(x) else other
        return super().run(x)


def is_upright(x: np.ndarray) -> bool:
    """Whether what a network sees is white above on the left."""
    return bool(x[0, :, : x.shape[2] // 2 - 2, : x.shape[3] // 2 - 2].min() > 0)


def find(oracle: Oracle, image: RGB, **options: Any) -> list[Face]:
    return Detector(oracle, card(sure=0.99)).detect(image, **options)


@TURNED
@pytest.mark.parametrize("doubtful", [0.0, 0.8])
def test_faces_of_a_turned_picture_are_found_where_they_are(turned: int, doubtful: float) -> None:
    """The pixel of the given picture that a landmark is on is the upright one's, turned along."""
    found = find(Upright(FACES, doubtful), as_given(upright(), turned))
    assert [f.turned for f in found] == [turned] * 2
    assert [f.score for f in found] == pytest.approx([0.995, 0.95])
    number = as_given(np.arange(np.prod(SHAPE)).reshape(*SHAPE, 1), turned)[..., 0]
    for f, e in zip(found, FACES, strict=True):
        for (x, y), (u, v) in zip(f.landmarks, e.landmarks, strict=True):
            row, column = np.argwhere(number == int(v) * SHAPE[1] + int(u))[0]
            assert abs(column - x) <= 1 and abs(row - y) <= 1
        left, top, right, bottom = f.box
        assert f.area == pytest.approx(e.area)
        eyes = f.landmarks[:2]
        assert (eyes > (left, top)).all() and (eyes < (right, bottom)).all()


def test_a_face_that_is_sure_costs_no_look_and_a_doubtful_one_is_no_other() -> None:
    oracle = Upright(FACES)
    assert [f.turned for f in find(oracle, upright())] == [0, 0]
    assert len(oracle.seen) == 1
    oracle = Upright([face(40, 30, 100, 0.95)], doubtful=0.94)
    (found,) = find(oracle, upright())
    assert (found.turned, found.score) == (0, pytest.approx(0.95))
    assert [max(x.shape) for x in oracle.seen] == [320] + [160] * 4


@TURNED
def test_turns_are_not_taken_for_a_face_that_is_doubtful_itself(turned: int) -> None:
    unsure = [face(40, 30, 100, 0.85)]
    given = as_given(upright(), turned)
    assert find(Upright(unsure), given) == []
    (found,) = find(Upright(unsure, 0.8), given)
    assert (found.turned, found.score) == (0, pytest.approx(0.8))
    oracle = Upright(FACES)
    assert find(oracle, given, turns=False) == []
    assert max(max(x.shape) for x in oracle.seen[1:]) == 640 and len(oracle.seen) == 3


class Small(Upright):
    """Surer of its faces where the picture is large."""

    def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        if max(x.shape) >= max(SHAPE):
            return super().run(x)
        there = self.true, self.doubtful
        self.true, self.doubtful = [replace(f, score=0.4) for f in self.true], 0.0
        answers = super().run(x)
        self.true, self.doubtful = there
        return answers


def test_a_turn_is_looked_for_below_the_score_that_counts() -> None:
    oracle = Small([face(40, 30, 100, 0.95)], doubtful=0.7)
    assert [f.turned for f in find(oracle, as_given(upright(), 180))] == [180]


class Fickle(Oracle):
    """Sees one face: of 0.95 in the picture as it is given, and of less if that is small; in the
    upright one of 0.92, and of more if that is small."""

    def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        small = max(x.shape) < max(SHAPE)
        scores = (0.92, 0.98) if is_upright(x) else (0.95, 0.9)
        self.faces = [face(60, 40, 60, scores[small])]
        return super().run(x)


def test_a_turn_must_show_a_surer_face_at_full_size() -> None:
    (found,) = find(Fickle([], SHAPE), as_given(upright(), 180))
    assert (found.turned, found.score) == (0, pytest.approx(0.95))


def test_a_detector_whose_card_says_so_looks_again_only_where_it_found_nothing() -> None:
    oracle = Upright(FACES, doubtful=0.7)
    given = as_given(upright(), 180)
    assert [f.turned for f in Detector(oracle, card(sure=0)).detect(given)] == [0]
    assert len(oracle.seen) == 1
    assert [f.turned for f in Detector(Upright(FACES), card(sure=0)).detect(given)] == [180] * 2


# ------------------------------------------------------------- the weights that ship

IMAGES = Path(__file__).parent / "images"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that ship and no others."""
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path / "empty"))
    for name in ("TINYFACE_MODEL", "TINYFACE_DETECTOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("shipped")
@TURNED
@pytest.mark.parametrize("name", ["portrait_female_0.jpg", "group_of_four.jpg", "astronaut.png"])
def test_an_embedding_does_not_depend_on_how_the_picture_lies(name: str, turned: int) -> None:
    model = package.load()
    image = read_image(IMAGES / name)
    true = model.embed_faces(image)
    found = model.embed_faces(as_given(image, turned))
    assert len(found) == len(true) and {f.face.turned for f in found} == {turned}
    for f in found:
        assert max(float(f.embedding @ t.embedding) for t in true) > 0.98


@pytest.fixture
def turned_picture(shipped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    portrait = read_image(IMAGES / "portrait_female_0.jpg")
    samples.save_png(tmp_path / "turned.png", as_given(portrait, 180))
    return "turned.png"


def test_commands_say_that_a_picture_is_turned(tinyface: Any, turned_picture: str) -> None:
    upright = str(IMAGES / "portrait_female_0.jpg")
    note = "turned.png: upside down, by its faces; taken as if it were turned by 180 degrees\n"
    done = tinyface("verify", turned_picture, upright, "--json")
    assert done.err == note and done.json["same"] and done.json["cosine"] > 0.98
    assert [f["turned"] for f in done.json["faces"]] == [180, 0]
    for command in (["embed"], ["embed", "--all-faces"], ["detect"], ["align", "-o", "crops"]):
        assert tinyface(*command, turned_picture).err == note
    done = tinyface("detect", turned_picture, upright, "--json")
    found = [row["faces"][0] for row in done.json["results"]]
    assert [f["turned"] for f in found] == [180, 0]
    # the eye on the left of the upright picture is on the right of the other
    assert found[0]["landmarks"][0][0] == pytest.approx(511 - found[1]["landmarks"][0][0], abs=3)
