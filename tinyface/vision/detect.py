"""Find faces: run a single-shot detector and read its output.

Such a network looks at a fixed lattice of squares ("priors", "anchors") and says for each: is
there a face, and how far is it from this square? Here the lattice is laid out, the answers are
decoded, and of several answers about one face the best is kept.

Sources: J. Deng et al., "RetinaFace", CVPR 2020; W. Liu et al., "SSD", ECCV 2016 (priors,
variances). Figures as in biubug6/Pytorch_Retinaface. J. Guo et al., "SCRFD", ICLR 2022 (distances
to the edges); W. Wu et al., "YuNet", 2023. Coordinates are (x, y) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tinyface.errors import FormatError, ModelError, UsageError
from tinyface.vision.image import RGB, resize

if TYPE_CHECKING:
    from tinyface.formats.card import Card

Float = NDArray[np.float64]

MAX_CANDIDATES: Final = 5000  # best-scored answers that go into the suppression
MAX_FACES: Final = 750  # that come out of it
LARGEST_ANSWER: Final = 200  # twenty sides of the prior away; a network that says so is broken
SMALLEST_SIDE, LARGEST_SIDE = 32, 4096  # of the picture that the network sees
SMALL_FACE: Final = 40  # pixels high in that picture: where one is, smaller ones may be missed
LARGE_FACE: Final = 130  # pixels wide in that picture: landmarks are less sure from here on
SURE_WIDTH: Final = 120  # at which such a face is looked at again
ALIKE: Final = 0.7  # faces of this share of the widest one's width are seen well enough with it


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
        mouth; left as seen in the picture. May lie outside of it.
    """

    box: Float
    score: float
    landmarks: Float

    @property
    def area(self) -> float:
        """Of the box, in pixels."""
        left, top, right, bottom = self.box
        return float(max(0.0, right - left) * max(0.0, bottom - top))

    @property
    def width(self) -> float:
        """Of the box, in pixels."""
        return float(self.box[2] - self.box[0])

    def overlap(self, other: Face) -> float:
        """Intersection over union of the two boxes."""
        low, high = np.maximum(self.box[:2], other.box[:2]), np.minimum(self.box[2:], other.box[2:])
        shared = float((high - low).clip(0).prod())
        return shared / max(self.area + other.area - shared, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, rounded to 1/100 pixel."""
        return {
            "box": self.box.round(2).tolist(),
            "score": round(self.score, 5),
            "landmarks": self.landmarks.round(2).tolist(),
        }


@dataclass(frozen=True)
class Priors:
    """The lattice and the thresholds of one detector, from its card.

    min_sizes: sides of the squares in pixels, for every level one tuple.
    steps: distance of the lattice points in pixels, for every level.
    variances: factors on the network's answers, for the centre and for the size.
    score: answers below are dropped.
    overlap: intersection over union above which two answers are about the same face.
    max_side: longer side of the picture that the network sees, in pixels, if no one says other.
    origin: place of a level's first point, in steps from the edge.
    edges: answers are the distances of the four edges from the point, in sides of the square;
        else the shift of the centre and the logarithms of width and height.
    score_power: the score is the network's to this power (1/2 where it multiplies two).
    multiple: both sides of the picture that the network sees must be multiples of it; black is
        added on the right and below.
    canvas: the only (height, width) that the network takes; () where it takes any.
    """

    min_sizes: tuple[tuple[float, ...], ...]
    steps: tuple[int, ...]
    variances: tuple[float, float] = (0.1, 0.2)
    score: float = 0.6
    overlap: float = 0.4
    max_side: int = 640
    origin: float = 0.5
    edges: bool = False
    score_power: float = 1.0
    multiple: int = 1
    canvas: tuple[int, ...] = ()

    @staticmethod
    def from_card(detector: Mapping[str, Any]) -> Priors:
        """Read and check the ``detector`` part of a card.

        Raises:
            FormatError: something is missing, or not a number in its range.
        """
        given = dict(detector)
        try:
            given["min_sizes"] = tuple(tuple(map(float, row)) for row in given["min_sizes"])
            given["steps"] = tuple(map(int, given["steps"]))
            if "variances" in given:
                centre, size = map(float, given["variances"])
                given["variances"] = (centre, size)
            kinds = {"score": float, "overlap": float, "max_side": int, "multiple": int}
            kinds |= {"origin": float, "edges": bool, "score_power": float}
            for key in kinds.keys() & given.keys():
                given[key] = kinds[key](given[key])
            given["canvas"] = tuple(map(int, given.get("canvas", ())))
            priors = Priors(**given)
            priors._check()
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FormatError(
                f"the model's card does not describe a detector ({error!r}); "
                "import it again with  tinyface import"
            ) from None
        return priors

    def _check(self) -> None:
        sides = [side for row in self.min_sizes for side in row]
        if not 1 <= len(self.steps) == len(self.min_sizes) <= 16 or len(sides) > 64:
            raise ValueError("steps and min_sizes must name the same 1 to 16 levels")
        if not all(self.min_sizes) or not all(0 < side <= 1e5 for side in sides):
            raise ValueError("min_sizes")
        if not all(1 <= step <= 1024 for step in self.steps):
            raise ValueError("steps")
        if sum(len(row) / s**2 for row, s in zip(self.min_sizes, self.steps, strict=True)) > 0.25:
            raise ValueError("more than one prior for every four pixels")
        if not all(0 < v <= 1 for v in self.variances):
            raise ValueError("variances")
        if not (0 <= self.score < 1 and 0 < self.overlap <= 1):
            raise ValueError("score, overlap")
        if not SMALLEST_SIDE <= self.max_side <= LARGEST_SIDE:
            raise ValueError("max_side")
        if not (0 <= self.origin <= 1 and 0 < self.score_power <= 1 <= self.multiple <= 256):
            raise ValueError("origin, score_power, multiple")
        sides_fit = all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in self.canvas)
        if len(self.canvas) not in (0, 2) or not sides_fit:
            raise ValueError("canvas")

    def lattice(self, height: int, width: int) -> Float:
        """All squares for a picture of this size: ``(n, 3)``, centre x, centre y, side.

        Level after level, row after row, point after point, size after size; there are
        ceil(height / step) x ceil(width / step) points, the first ``origin`` steps from the edge.
        """
        levels = []
        for step, sides in zip(self.steps, self.min_sizes, strict=True):
            y = (np.arange(math.ceil(height / step)) + self.origin) * step
            x = (np.arange(math.ceil(width / step)) + self.origin) * step
            grid = np.meshgrid(y, x, np.array(sides), indexing="ij")
            levels.append(np.stack([grid[1], grid[0], grid[2]], axis=-1).reshape(-1, 3))
        return np.concatenate(levels)

    def fill(self, image: RGB) -> RGB:
        """The picture in the upper left corner of one that the network takes, the rest black."""
        height, width = image.shape[:2]
        rows, columns = self.canvas or (
            math.ceil(side / self.multiple) * self.multiple for side in (height, width)
        )
        if (rows, columns) == (height, width):
            return image
        filled = np.zeros((rows, columns, 3), np.uint8)
        filled[:height, :width] = image
        return filled

    def decode(self, answers: Float, lattice: Float) -> Float:
        """``(n, 4)`` answers to left, top, right, bottom."""
        if self.edges:
            reach = answers * lattice[:, 2:]
            return np.tile(lattice[:, :2], 2) + reach * (-1, -1, 1, 1)
        return decode_boxes(answers, lattice, self.variances)


def decode_boxes(answers: Float, lattice: Float, variances: tuple[float, float]) -> Float:
    """``(n, 4)`` answers (dx, dy, log width, log height) to left, top, right, bottom.

    centre = prior centre + d * v0 * prior side; size = prior side * exp(answer * v1).
    """
    side = lattice[:, 2:]
    centre = lattice[:, :2] + answers[:, :2] * variances[0] * side
    size = side * np.exp(answers[:, 2:] * variances[1])
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def decode_landmarks(answers: Float, lattice: Float, variance: float) -> Float:
    """``(n, 10)`` answers to ``(n, 5, 2)`` points: prior centre + answer * v0 * prior side."""
    shift = answers.reshape(-1, 5, 2) * variance * lattice[:, None, 2:]
    return lattice[:, None, :2] + shift


def suppress(boxes: Float, scores: Float, overlap: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: the best box stays, all that overlap it by more than
    ``overlap`` go, and so on with the rest.

    Boxes hold pixels, so that one from 3 to 5 is 3 wide: hence the + 1 in areas and overlaps.

    Args:
        boxes: ``(n, 4)`` left, top, right, bottom.
        scores: ``(n,)``; of equal ones the first is the better.
        overlap: intersection over union, 0..1.

    Returns:
        Indices of what stays, best first.
    """
    order = np.argsort(-scores, kind="stable")
    low, high = boxes[:, :2], boxes[:, 2:]
    area = (high - low + 1).clip(0).prod(axis=1)
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(best)
        shared = np.minimum(high[best], high[rest]) - np.maximum(low[best], low[rest]) + 1
        intersection = shared.clip(0).prod(axis=1)
        union = area[best] + area[rest] - intersection
        order = rest[intersection <= overlap * union]
    return np.array(keep, dtype=np.intp)


def _again(face: Face, seen: list[Face]) -> Face:
    """The face with box and landmarks of that one in another look which shares most with it, if
    that is half of their union; else as it is."""
    best = max(seen, key=face.overlap, default=None)
    if best is None or face.overlap(best) < 0.5:
        return face
    return Face(best.box, face.score, best.landmarks)


class Detector:
    """A face detector: a network that runs, and the card that says how to read it.

    Args:
        session: runs the network, for any picture size.
        card: its ``preprocess`` (colour order, mean, scale) and ``detector`` (see ``Priors``).
        max_side: larger pictures are scaled down for the network until their longer side has
            this many pixels; by default what the card says. Twice the side takes four times as
            long. Faces under about 20 pixels *after scaling down* are missed.

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

    def detect(self, image: RGB, score: float | None = None) -> list[Face]:
        """The faces in a picture, the largest first; an empty list if there are none.

        A second look follows where the first one is not enough: at half the size if nothing was
        found, since a face may be too large for the network to see it as a whole; and at double
        the size if still nothing or something very small was found, since there may be faces
        that are smaller still.

        A face that is wider than 130 pixels in the network's picture is looked at once more, in
        a picture in which it is 120 pixels wide, and box and landmarks are taken from there: the
        larger a face, the less precise they are (networks learn from smaller ones). No face is
        found or lost by that. Networks of one fixed picture size, whose faces stay below, do not.

        Args:
            image: ``uint8 (H, W, 3)``, RGB, upright.
            score: 0 <= score < 1, what a face must have more of; by default what the card says.

        Raises:
            UsageError: a score out of range.
        """
        least = self.priors.score if score is None else score
        if not 0 <= least < 1:
            raise UsageError(f"a score of {least}: give 0 or more, less than 1")
        longest = max(image.shape[:2])
        side = min(longest, self.max_side, self.largest)
        half = max(SMALLEST_SIDE, side // 2)
        faces = self._look(image, side, least) or self._look(image, half, least)
        double = min(2 * side, max(longest, self.max_side), self.largest)
        smallest = min((face.box[3] - face.box[1] for face in faces), default=0.0)
        if double > side and smallest * side < SMALL_FACE * longest:
            faces = self._merge(faces + self._look(image, double, least))
        faces = self._refined(image, faces, side, least)
        return sorted(faces, key=lambda face: -face.area)

    def _look(self, image: RGB, side: int, least: float) -> list[Face]:
        """What the network sees when the longer side of the picture has ``side`` pixels."""
        height, width = image.shape[:2]
        factor = side / max(height, width)
        if self.priors.canvas:
            rows, columns = self.priors.canvas
            factor = min(factor, rows / height, columns / width)
        small = resize(image, max(1, round(height * factor)), max(1, round(width * factor)))
        boxes, scores, landmarks = self._answers(small, least)
        keep = suppress(boxes, scores, self.priors.overlap)[:MAX_FACES]
        back = np.array([width / small.shape[1], height / small.shape[0]])  # to full size
        boxes = np.clip(boxes[keep].reshape(-1, 2, 2) * back, 0, (width, height)).reshape(-1, 4)
        found = map(Face, boxes, scores[keep].tolist(), landmarks[keep] * back)
        return [face for face in found if face.area >= 1]  # not those outside of the picture

    def _refined(self, image: RGB, faces: list[Face], side: int, least: float) -> list[Face]:
        """The faces; box and landmarks of large ones from a look at a smaller picture.

        "Large" is meant where the picture's longer side has ``side`` pixels. Faces of about one
        width share a look, so that each is seen at a width that suits it.
        """
        limit = LARGE_FACE * max(image.shape[:2]) / side
        wide = sorted((face for face in faces if face.width > limit), key=lambda face: -face.width)
        if self.priors.canvas or not wide:
            return faces
        result = [face for face in faces if face.width <= limit]
        while wide:
            alike = [face for face in wide if face.width > ALIKE * wide[0].width]
            smaller = round(max(image.shape[:2]) * SURE_WIDTH / wide[0].width)
            seen = self._look(image, max(SMALLEST_SIDE, smaller), least / 2)
            result += [_again(face, seen) for face in alike]
            wide = wide[len(alike) :]
        return result

    def _merge(self, faces: list[Face]) -> list[Face]:
        if not faces:
            return faces
        boxes = np.stack([face.box for face in faces])
        scores = np.array([face.score for face in faces])
        return [faces[i] for i in suppress(boxes, scores, self.priors.overlap)]

    def _answers(self, image: RGB, least: float) -> tuple[Float, Float, Float]:
        """Boxes (n, 4), scores (n,) and landmarks (n, 5, 2), in pixels of ``image``."""
        image = self.priors.fill(image)
        lattice = self.priors.lattice(*image.shape[:2])
        out = self.session.run(self.card.preprocess.apply(image[None]))
        loc, conf, landms = (
            self._output(out, name, [(1, len(lattice), n) for n in fields])
            for name, fields in (("loc", (4,)), ("conf", (2, 1)), ("landms", (10,)))
        )
        scores = conf[:, -1].clip(0) ** self.priors.score_power
        chosen = np.flatnonzero((scores > least) & (scores <= 1.001))
        answers = np.concatenate([loc[chosen], landms[chosen]], axis=1)
        chosen = chosen[(np.abs(answers) < LARGEST_ANSWER).all(axis=1)]  # false for NaN, too
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:MAX_CANDIDATES]
        loc, landms, scores, lattice = loc[chosen], landms[chosen], scores[chosen], lattice[chosen]
        boxes = self.priors.decode(loc, lattice)
        landmarks = decode_landmarks(landms, lattice, self.priors.variances[0])
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
