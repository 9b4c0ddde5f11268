"""The squares that a detector answers about, and how its answers are read.

Such a network looks at a fixed lattice of squares ("priors", "anchors") and says for each: is
there a face, and how far is it from this square? Here the lattice is laid out, the answers are
decoded, and of several answers about one face the best is kept.

Sources: J. Deng et al., "RetinaFace", CVPR 2020; W. Liu et al., "SSD", ECCV 2016 (priors,
variances). Figures as in biubug6/Pytorch_Retinaface. J. Guo et al., "SCRFD", ICLR 2022 (distances
to the edges); W. Wu et al., "YuNet", 2023. Coordinates are (x, y) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyface.errors import FormatError
from tinyface.vision.image import RGB

Float = NDArray[np.float64]

SMALLEST_SIDE, LARGEST_SIDE = 32, 4096  # of the picture that the network sees


@dataclass(frozen=True)
class Priors:
    """The lattice and the thresholds of one detector, from its card.

    min_sizes: sides of the squares in pixels, for every level one tuple.
    steps: distance of the lattice points in pixels, for every level.
    variances: factors on the network's answers, for the centre and for the size.
    score: answers below are dropped.
    sure: of upright pictures nearly all have a face with this score or more; one without is looked
        at from other sides, too. 0: only where no face was found.
    doubt: faces with a score from the first of these up to the second are looked at closely, and
        have the score of that look. (0, 0): none are.
    overlap: intersection over union above which two answers are about the same face.
    max_side: longer side of the picture that the network sees, in pixels, if no one says other.
    origin: place of a level's first point, in steps from the edge.
    edges: answers are the distances of the four edges from the point, in sides of the square;
        else the shift of the centre and the logarithms of width and height.
    pixels: answers are centres, widths and heights, and landmarks places, in pixels of the picture
        that the network sees: it knows the lattice itself.
    score_power: the score is the network's to this power (1/2 where it multiplies two).
    multiple: both sides of the picture that the network sees must be multiples of it; black is
        added on the right and below.
    canvas: the only (height, width) that the network takes; () where it takes any.
    """

    min_sizes: tuple[tuple[float, ...], ...]
    steps: tuple[int, ...]
    variances: tuple[float, float] = (0.1, 0.2)
    score: float = 0.6
    sure: float = 0.99
    doubt: tuple[float, float] = (0.0, 0.0)
    overlap: float = 0.4
    max_side: int = 640
    origin: float = 0.5
    edges: bool = False
    pixels: bool = False
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
            for key in {"variances", "doubt"} & given.keys():
                first, second = map(float, given[key])
                given[key] = (first, second)
            kinds = {"score": float, "overlap": float, "max_side": int, "multiple": int}
            kinds |= {"sure": float, "origin": float, "edges": bool, "score_power": float}
            kinds |= {"pixels": bool}
            for key in kinds.keys() & given.keys():
                if kinds[key] is bool and not isinstance(given[key], bool):  # "false", say
                    raise TypeError(key)
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
        if not (0 <= self.score < 1 and 0 <= self.sure <= 1 and 0 < self.overlap <= 1):
            raise ValueError("score, sure, overlap")
        if not 0 <= self.doubt[0] <= self.doubt[1] <= 1:
            raise ValueError("doubt")
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

    def fill(self, image: RGB, canvas: Sequence[int] = ()) -> RGB:
        """The picture in the upper left corner of one that the network takes, the rest black: of
        a ``canvas``, (height, width), which must be one, or of the least that holds it."""
        height, width = image.shape[:2]
        rows, columns = canvas or (
            math.ceil(side / self.multiple) * self.multiple for side in (height, width)
        )
        if (rows, columns) == (height, width):
            return image
        filled = np.zeros((rows, columns, 3), np.uint8)
        filled[:height, :width] = image
        return filled

    def decode(self, answers: Float, lattice: Float) -> Float:
        """``(n, 4)`` answers to left, top, right, bottom."""
        if self.pixels:
            centre, half = answers[:, :2], answers[:, 2:] / 2
            return np.concatenate([centre - half, centre + half], axis=1)
        if self.edges:
            reach = answers * lattice[:, 2:]
            return np.tile(lattice[:, :2], 2) + reach * (-1, -1, 1, 1)
        return decode_boxes(answers, lattice, self.variances)

    def decode_landmarks(self, answers: Float, lattice: Float) -> Float:
        """``(n, 10)`` answers to ``(n, 5, 2)`` points."""
        if self.pixels:
            return answers.reshape(-1, 5, 2)
        return decode_landmarks(answers, lattice, self.variances[0])


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


def shared(box: Float, boxes: Float, edge: float = 0) -> tuple[Float, Float]:
    """Areas of the intersection and of the union of one box with others.

    Args:
        box: ``(4,)`` left, top, right, bottom; boxes: ``(n, 4)``.
        edge: what a side has in addition to the difference of its coordinates: 1 where these are
            the first and the last pixel, so that a box from 3 to 5 is 3 wide.

    Returns:
        two arrays ``(n,)``.
    """
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]) + edge
    one, others = ((b[..., 2:] - b[..., :2] + edge).clip(0).prod(axis=-1) for b in (box, boxes))
    both = sides.clip(0).prod(axis=1)
    return both, one + others - both


def suppress(boxes: Float, scores: Float, overlap: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: the best box stays, all that overlap it by more than
    ``overlap`` go, and so on with the rest.

    Coordinates are of first and last pixels here, as in the implementation that the networks were
    trained and published with; ``Face.overlap`` takes them for places between pixels.

    Args:
        boxes: ``(n, 4)`` left, top, right, bottom.
        scores: ``(n,)``; of equal ones the first is the better.
        overlap: intersection over union, 0..1.

    Returns:
        Indices of what stays, best first.
    """
    order = np.argsort(-scores, kind="stable")
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(best)
        both, either = shared(boxes[best], boxes[rest], edge=1)
        order = rest[both <= overlap * either]
    return np.array(keep, dtype=np.intp)
