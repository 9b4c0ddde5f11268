"""Find faces: run a single-shot detector, look again where one look is not enough.

How the network's answers are read stands in :mod:`tinyface.vision.priors`. Coordinates are (x, y)
in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tinyface.errors import ModelError, UsageError
from tinyface.vision.image import RGB, resize
from tinyface.vision.priors import (
    LARGEST_SIDE,
    SMALLEST_SIDE,
    Float,
    Priors,
    shared,
    suppress,
)

if TYPE_CHECKING:
    from tinyface.formats.card import Card

MAX_CANDIDATES: Final = 5000  # best-scored answers that go into the suppression
MAX_FACES: Final = 750  # that come out of it
LARGEST_ANSWER: Final = 200  # twenty sides of the prior away; a network that says so is broken
SMALL_FACE: Final = 40  # pixels high in that picture: where one is, smaller ones may be missed
LARGE_FACE: Final = 130  # pixels wide in that picture: landmarks are less sure from here on
CLOSE_SIDE: Final = 256  # of the square that a close look sees; one size: its plan is kept
CLOSE_FACE: Final = 150  # longer side of the face in the middle of it
MAX_CLOSE: Final = 300  # close looks behind one look, at the surest of the doubtful faces first
MAX_CLOSE_TURNED: Final = 16  # where only the surest face counts
TURNED_SCORE: Final = 0.9  # of a face for which a picture is taken to be turned


class Runner(Protocol):
    """What the detector needs of a ``Session``: (1, 3, h, w) in, out ``loc`` (1, n, 4), ``conf``
    (1, n, 2), whose last column is the score, or (1, n, 1), and ``landms`` (1, n, 10)."""

    def run(self, x: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]: ...


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture, in pixels of that picture.

    box: float64 (4,), left, top, right, bottom, inside the picture.
    score: 0..1, the network's own belief.
    landmarks: float64 (5, 2), (x, y) of left eye, right eye, nose, left and right corner of the
        mouth; left as seen in the picture, once it is upright. May lie outside of it. Whole
        numbers are the middles of pixels, where those of ``box`` are their edges.
    turned: degrees (0, 90, 180 or 270), clockwise, by which the picture must be turned to be
        upright. Box and landmarks are those of the picture as it is, nevertheless.
    """

    box: Float
    score: float
    landmarks: Float
    turned: int = 0

    @property
    def area(self) -> float:
        """Of the box, in pixels."""
        left, top, right, bottom = self.box
        return float(max(0.0, right - left) * max(0.0, bottom - top))

    @property
    def width(self) -> float:
        """Of the box, in pixels."""
        return float(self.box[2] - self.box[0])

    @property
    def height(self) -> float:
        """Of the box, in pixels."""
        return float(self.box[3] - self.box[1])

    def overlap(self, other: Face) -> float:
        """Intersection over union of the two boxes."""
        (both,), (either,) = shared(self.box, other.box[None])
        return float(both / max(either, 1e-9))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, rounded to 1/100 pixel."""
        return {
            "box": self.box.round(2).tolist(),
            "score": round(self.score, 5),
            "landmarks": self.landmarks.round(2).tolist(),
            "turned": self.turned,
        }


def _best(faces: list[Face]) -> float:
    """The highest score, 0 where there is no face."""
    return max((face.score for face in faces), default=0.0)


def _rotate(image: RGB, quarters: int) -> RGB:
    """Turned clockwise by so many quarters."""
    return np.ascontiguousarray(np.rot90(image, -quarters))


def _rotate_back(face: Face, quarters: int, height: int, width: int) -> Face:
    """A face of :func:`_rotate` (image, quarters) as one of the image, (height, width, 3)."""
    box, points = face.box.reshape(2, 2), face.landmarks
    for quarter in range(quarters):
        # (x, y) came from (y, last row - x): pixels of landmarks are counted, edges of boxes not
        side = (height, width)[(quarters - 1 - quarter) % 2]
        box = np.column_stack([box[:, 1], side - box[:, 0]])
        points = np.column_stack([points[:, 1], side - 1 - points[:, 0]])
    corners = np.concatenate([box.min(axis=0), box.max(axis=0)])
    return Face(corners, face.score, points, 90 * quarters)


class Detector:
    """A face detector: a network that runs, and the card that says how to read it.

    Args:
        session: runs the network, for any picture size.
        card: its ``preprocess`` (colour order, mean, scale) and ``detector`` (see ``Priors``).
        max_side: larger pictures are scaled down for the network until their longer side has
            this many pixels; by default what the card says. Twice the side takes four times as
            long. Faces under about 10 pixels *after scaling down* are missed.

    Raises:
        FormatError: the card describes no detector.
        UsageError: a ``max_side`` out of range.
    """

    def __init__(self, session: Runner, card: Card, max_side: int | None = None) -> None:
        self.session = session
        self.card = card
        self.priors = Priors.from_card(card.detector)
        self.max_side = self.priors.max_side if max_side is None else max_side
        self.largest = max(self.priors.canvas, default=LARGEST_SIDE)
        if not SMALLEST_SIDE <= self.max_side <= LARGEST_SIDE:
            raise UsageError(
                f"max_side is {max_side}: give {SMALLEST_SIDE} to {LARGEST_SIDE} pixels"
            )
        self.made_by: tuple[Any, ...] | None = None  # function and arguments, for pickle

    def __repr__(self) -> str:
        return f"<tinyface.Detector {self.card.name}: up to {self.max_side} pixels>"

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and multiprocessing: the other process loads the same file."""
        if self.made_by is None:
            raise TypeError("a Detector made of a session cannot be pickled; use load_detector()")
        return self.made_by

    def detect(self, image: RGB, score: float | None = None, turns: bool = True) -> list[Face]:
        """The faces in a picture, the largest first; an empty list if there are none.

        A second look follows where the first one is not enough: at half the size if nothing was
        found, since a face may be too large for the network to see it as a whole; and at double
        the size if still nothing or something very small was found, since there may be faces
        that are smaller still.

        A close look, at a square of the picture in which the face is 150 pixels high, follows
        for two kinds of faces. Of those wider than 130 pixels in the network's picture it gives
        box and landmarks: the larger a face, the less precise they are (networks learn from
        smaller ones). And it decides about those whose score is doubtful, if the card says which
        are (``Priors.doubt``): their score is that of the close look. Networks of one fixed
        picture size do not look closely.

        A picture that lies on its side or stands on its head is found out: where no face is as
        sure as those of upright pictures are (``Priors.sure``), looks at the picture at half the
        size follow, turned by quarters. If one turn shows a surer face, of at least 0.9, the
        faces are those of the picture turned so, and say it (``Face.turned``).

        Args:
            image: ``uint8 (H, W, 3)``, RGB.
            score: 0 <= score < 1, what a face must have more of; by default what the card says.
            turns: False for pictures that are known to be upright: saves the looks at turned ones.

        Raises:
            UsageError: a score out of range.
        """
        least = self.priors.score if score is None else score
        if not 0 <= least < 1:
            raise UsageError(f"a score of {least}: give 0 or more, less than 1")
        faces = self._upright(image, least)
        if turns and not (faces and _best(faces) >= self.priors.sure):
            faces = self._turned(image, faces, least)
        return sorted(faces, key=lambda face: -face.area)

    def _turned(self, image: RGB, faces: list[Face], least: float) -> list[Face]:
        """The faces that an upright picture shows, or those of the turn that shows surer ones."""
        height, width = image.shape[:2]
        side = self._side(image) // 2 if faces else self._side(image)  # small ones may be all
        scale = side / max(height, width)
        small = resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
        side = max(SMALLEST_SIDE, *small.shape[:2])
        scores = [0.0] * 4
        for n in range(4) if faces else range(1, 4):
            seen = self._seen(_rotate(small, n), side, least / 2, MAX_CLOSE_TURNED)
            scores[n] = _best(seen)
        quarters = int(np.argmax(scores))
        if quarters == 0:
            return faces
        found = self._upright(_rotate(image, quarters), least)
        if _best(found) < max(TURNED_SCORE, _best(faces)):
            return faces
        return [_rotate_back(face, quarters, height, width) for face in found]

    def _side(self, image: RGB) -> int:
        """Longer side of the picture that the network sees first."""
        return min(int(max(image.shape[:2])), self.max_side, self.largest)

    def _upright(self, image: RGB, least: float) -> list[Face]:
        """The faces of a picture that is upright, in no order."""
        longest, side = max(image.shape[:2]), self._side(image)
        half = max(SMALLEST_SIDE, side // 2)
        faces = self._seen(image, side, least, MAX_CLOSE)
        faces = faces or self._seen(image, half, least, MAX_CLOSE)
        double = min(2 * side, max(longest, self.max_side), self.largest)
        smallest = min((face.height for face in faces), default=0.0)
        if double > side and smallest * side < SMALL_FACE * longest:
            faces += self._seen(image, double, least, MAX_CLOSE, faces)
        return self._merge(faces)  # two close looks may have found one face

    def _seen(
        self, image: RGB, side: int, least: float, most: int, known: Sequence[Face] = ()
    ) -> list[Face]:
        """What one look shows and, where it is not enough, close looks at what it shows, at
        ``most`` so many. Faces that are ``known`` and no longer small in this look are left
        out."""
        low, high = self.priors.doubt
        factor = side / max(image.shape[:2])
        good = [face for face in known if face.height * factor > SMALL_FACE]
        result = []
        for face in self._look(image, side, min(least, low) if high else least):  # surest first
            if any(face.overlap(other) > self.priors.overlap for other in good):
                continue
            doubtful, large = face.score < high, face.width * factor > LARGE_FACE
            if (doubtful or large) and most and not self.priors.canvas:
                face, most = self._closely(image, face, least), most - 1
            elif doubtful and not most:
                break
            if face.score > least:
                result.append(face)
        return result

    def _closely(self, image: RGB, face: Face, least: float) -> Face:
        """The face as a look at the picture around it shows it. If that shows none there, the face
        as it is, or with a score of 0 if it was doubtful; any other score stays."""
        extent = math.ceil(max(face.width, face.height) * CLOSE_SIDE / CLOSE_FACE)
        last = np.maximum(np.subtract(image.shape[1::-1], extent), 0)
        corner = ((face.box[:2] + face.box[2:] - extent) / 2).clip(0, last).astype(int)
        part = image[corner[1] :, corner[0] :][:extent, :extent]
        longest = max(1, max(part.shape[:2]) * CLOSE_SIDE // extent)
        low, high = self.priors.doubt
        seen = (
            replace(f, box=f.box + np.tile(corner, 2), landmarks=f.landmarks + corner)
            for f in self._look(part, longest, max(least, low) / 2, (CLOSE_SIDE, CLOSE_SIDE))
        )
        doubtful = face.score < high
        here = [f for f in seen if f.overlap(face) > self.priors.overlap]
        if not doubtful:
            return replace(max(here, key=lambda f: f.score, default=face), score=face.score)
        return max(here, key=lambda f: f.score, default=replace(face, score=0.0))

    def _look(self, image: RGB, side: int, least: float, canvas: Sequence[int] = ()) -> list[Face]:
        """What the network sees when the longer side of the picture has ``side`` pixels. Where it
        is to be shown a ``canvas``, (height, width), the rest of that is black."""
        height, width = image.shape[:2]
        canvas = self.priors.canvas or canvas
        factor = side / max(height, width)
        if canvas:
            factor = min(factor, canvas[0] / height, canvas[1] / width)
        small = resize(image, max(1, round(height * factor)), max(1, round(width * factor)))
        boxes, scores, landmarks = self._answers(self.priors.fill(small, canvas), least)
        keep = suppress(boxes, scores, self.priors.overlap)[:MAX_FACES]
        back = np.array([width / small.shape[1], height / small.shape[0]])  # to full size
        boxes = np.clip(boxes[keep].reshape(-1, 2, 2) * back, 0, (width, height)).reshape(-1, 4)
        # edges of boxes are counted, but pixels of landmarks, whose middle is where alignment looks
        points = (landmarks[keep] + 0.5) * back - 0.5
        found = map(Face, boxes, scores[keep].tolist(), points)
        return [face for face in found if face.area >= 1]  # not those outside of the picture

    def _merge(self, faces: list[Face]) -> list[Face]:
        if not faces:
            return faces
        boxes = np.stack([face.box for face in faces])
        scores = np.array([face.score for face in faces])
        return [faces[i] for i in suppress(boxes, scores, self.priors.overlap)]

    def _answers(self, image: RGB, least: float) -> tuple[Float, Float, Float]:
        """Boxes (n, 4), scores (n,) and landmarks (n, 5, 2), in pixels of ``image``."""
        lattice = self.priors.lattice(*image.shape[:2])
        out = self.session.run(self.card.preprocess.apply(image[None]))
        loc, conf, landms = (
            self._output(out, name, [(1, len(lattice), n) for n in fields])
            for name, fields in (("loc", (4,)), ("conf", (2, 1)), ("landms", (10,)))
        )
        scores = conf[:, -1].clip(0) ** self.priors.score_power
        chosen = np.flatnonzero((scores > least) & (scores <= 1.001))
        answers = np.concatenate([loc[chosen], landms[chosen]], axis=1)
        largest = 2 * LARGEST_SIDE if self.priors.pixels else LARGEST_ANSWER
        chosen = chosen[(np.abs(answers) < largest).all(axis=1)]  # false for NaN, too
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:MAX_CANDIDATES]
        loc, landms, scores, lattice = loc[chosen], landms[chosen], scores[chosen], lattice[chosen]
        boxes = self.priors.decode(loc, lattice)
        landmarks = self.priors.decode_landmarks(landms, lattice)
        return boxes, scores, landmarks

    def _output(
        self, out: Mapping[str, NDArray[Any]], name: str, shapes: list[tuple[int, ...]]
    ) -> Float:
        array = out.get(name)
        if array is None or array.shape not in shapes:
            found = "nothing" if array is None else str(array.shape)
            raise ModelError(
                f"{self.card.name}: the card's priors ask for '{name}' of shape {shapes[0]}, the "
                f"network gives {found}; import it again with the network it was trained as"
            )
        rows: Float = array[0].astype(np.float64)
        return rows
