"""The pair test of a packaged recogniser, the whole way from pictures: found, aligned, embedded.

All pairs of the labelled pictures are compared. They are not independent (a picture is in
hundreds of them), so that intervals come from drawing *people* with replacement: the bootstrap
over subjects (Bolle, Ratha, Pankanti, "Error analysis of pattern recognition systems: the
subsets bootstrap", CVIU 93, 2004).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyface.model import Model
from tinyface.vision.align import align
from tinyface.vision.detect import Detector
from tinyface.vision.image import resize
from training.alignment import Face, faces, open_face
from training.pairs import all_pairs, evaluate, unit

Crops = NDArray[np.uint8]
Floats = NDArray[np.float64]

SET = "validation_identities"
RATES = ("1e-2", "1e-3", "1e-4")
REPLICATES = 400


class People(NamedTuple):
    """Aligned crops (n, 112, 112, 3), whose they are, and how many pictures there were."""

    crops: Crops
    names: list[str]
    pictures: int


def found(data: Path, detector: Detector, size: tuple[int, int]) -> People:
    """Crops of the largest face that `detector` finds in every picture; some may have none."""
    everyone = list(faces(data / f"{SET}.zip"))
    crops, names = [], []
    for picture in everyone:
        rgb = np.asarray(open_face(picture))
        seen = detector.detect(rgb)
        if seen:
            crops.append(align(rgb, seen[0].landmarks, size))
            names.append(person(picture))
    return People(np.stack(crops), names, len(everyone))


def given(data: Path, size: tuple[int, int]) -> People:
    """Crops by the landmarks of the set's own table."""
    everyone = list(faces(data / f"{SET}.zip"))
    crops = [align(np.asarray(open_face(face)), face.points, size) for face in everyone]
    return People(np.stack(crops), [person(face) for face in everyone], len(everyone))


def person(face: Face) -> str:
    """The folder is the person."""
    return face.name.split("/")[0]


def embed(model: Model, crops: Crops, batch: int = 16) -> NDArray[np.float32]:
    """Embeddings (n, d), no mirrored pictures."""
    return np.concatenate([model.embed_crops(crops[i : i + batch])
                           for i in range(0, len(crops), batch)])  # fmt: skip


# ------------------------------------------------------------------------------ thresholds


class Scores(NamedTuple):
    """Cosines of all pairs, and the people in them by number."""

    genuine: Floats  # (g,)
    owner: NDArray[np.int64]  # (g,)
    impostor: Floats  # (i,), descending
    owners: NDArray[np.int64]  # (i, 2)
    people: int


def score(embeddings: NDArray[Any], names: Sequence[str]) -> Scores:
    """Of all pairs."""
    e, number = unit(embeddings), np.unique(np.array(names), return_inverse=True)[1]
    same, different = all_pairs(list(names))
    cosine = e @ e.T
    impostor = cosine[different[:, 0], different[:, 1]]
    order = np.argsort(-impostor, kind="stable")
    return Scores(cosine[same[:, 0], same[:, 1]], number[same[:, 0]], impostor[order],
                  number[different[order]], int(number.max()) + 1)  # fmt: skip


def threshold(scores: Scores, rate: float, weights: Floats | None = None) -> float:
    """The smallest threshold that impostors of at most `rate` of the whole weight reach.

    `weights` (people,): how often each person was drawn; a pair counts as the product of its two.
    """
    w = np.ones(scores.people) if weights is None else weights
    reached = np.cumsum(w[scores.owners[:, 0]] * w[scores.owners[:, 1]])
    refused = int(np.searchsorted(reached, rate * reached[-1] + 1e-9, "right"))
    return float(np.nextafter(scores.impostor[min(refused, len(reached) - 1)], np.inf))


def operating_points(scores: Scores, replicates: int = REPLICATES) -> dict[str, dict[str, Any]]:
    """For every rate: threshold (rounded up to four decimals), pairs let in, its interval; and
    where there are genuine pairs the TAR with its interval.
    """
    rng = np.random.default_rng(11)
    drawn = [np.bincount(rng.integers(scores.people, size=scores.people), minlength=scores.people)
             .astype(np.float64) for _ in range(replicates)]  # fmt: skip
    points: dict[str, dict[str, Any]] = {}
    for name in RATES:
        limit = math.ceil(threshold(scores, float(name)) * 1e4) / 1e4
        limits = [threshold(scores, float(name), w) for w in drawn]
        points[name] = {
            "threshold": limit,
            "interval": _middle(limits),
            "let_in": int((scores.impostor >= limit).sum()),
        }
        if len(scores.genuine):
            rates = [np.average(scores.genuine >= t, weights=w[scores.owner])
                     for t, w in zip(limits, drawn, strict=True)]  # fmt: skip
            points[name]["tar"] = round(float((scores.genuine >= limit).mean()), 4)
            points[name]["tar_interval"] = _middle(rates)
    return points


def _middle(values: Sequence[float]) -> list[float]:
    """95 % of the replicates."""
    return [round(float(v), 4) for v in np.percentile(values, [2.5, 97.5])]


# ------------------------------------------------------------------------------------ tests


def small(crops: Crops) -> Crops:
    """As if the face had been a quarter as large: 28 pixels wide."""
    h, w = crops.shape[1:3]
    return np.stack([resize(resize(crop, h // 4, w // 4), h, w) for crop in crops])


def masked(crops: Crops) -> Crops:
    """Nose and mouth covered: a pale block from just below the eyes to the chin."""
    result = crops.copy()
    h, w = crops.shape[1:3]
    result[:, round(0.55 * h) :, round(0.12 * w) : round(0.88 * w)] = (200, 215, 225)
    return result


def dark(crops: Crops) -> Crops:
    """An eighth of the light, in 8 bits."""
    return (crops // 8).astype(np.uint8)


HARD: Mapping[str, Callable[[Crops], Crops]] = {
    "28 pixels wide": small,
    "nose and mouth covered": masked,
    "an eighth of the light": dark,
}


def brief(embeddings: NDArray[Any], names: list[str]) -> dict[str, float]:
    """Accuracy over ten folds by person, its deviation, AUC, TAR, rounded."""
    figures = evaluate(embeddings, names)
    return {key: round(value, 4) for key, value in figures.items()
            if key not in ("genuine", "impostor")}  # fmt: skip


def examine(model: Model, data: Path, detector: Detector) -> dict[str, Any]:
    """Everything that a card says about a recogniser's quality."""
    size = (model.card.preprocess.height, model.card.preprocess.width)
    people, aligned = found(data, detector, size), given(data, size)
    embeddings = embed(model, people.crops)
    scores = score(embeddings, people.names)
    hard = {name: brief(embed(model, change(people.crops)), people.names)
            for name, change in HARD.items()}  # fmt: skip
    return {
        "pictures": people.pictures,
        "found": len(people.names),
        "people": len(set(people.names)),
        "same_pairs": len(scores.genuine),
        "different_pairs": len(scores.impostor),
        **brief(embeddings, people.names),
        "operating_points": operating_points(scores),
        "landmarks_given": brief(embed(model, aligned.crops), aligned.names),
        "hard": hard,
    }
