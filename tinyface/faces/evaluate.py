"""How well a recogniser tells people apart: the LFW protocol on a list of pairs.

Source: G. B. Huang et al., "Labeled Faces in the Wild", UMass Amherst TR 07-49, 2007: ten folds,
for each the threshold that is best on the nine others, mean and deviation of the ten accuracies.
The definitions of all figures are in :mod:`tinyface.faces.metrics`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tinyface import ahead
from tinyface.errors import ImageError, UsageError
from tinyface.faces import metrics
from tinyface.faces.locate import largest
from tinyface.faces.metrics import Bools, Floats, Ints, OperatingPoint
from tinyface.faces.pairs import Pair, locate, pictures
from tinyface.model import Model, fit, l2_normalise
from tinyface.vision import align as alignment
from tinyface.vision.detect import Face
from tinyface.vision.image import RGB, read_image

RATES: Final = (1e-2, 1e-3)  # false-match rates that the literature reports
MISSING: Final = "no such file"
Vector = NDArray[np.float32]
OnFailure = Literal["wrong", "skip"]


@dataclass(frozen=True, eq=False)
class Report:
    """The figures of one evaluation.

    Attributes:
        same, different: pairs that the figures are about, those that failed included if they
            count as wrong.
        failed: pairs of which a picture could not be embedded.
        on_failure: "wrong" or "skip", see :func:`summarise`.
        accuracies, thresholds: of the folds, ``(f,)``.
        auc: area under the ROC.
        eer, eer_threshold: where false matches and false non-matches are equally frequent.
        points: thresholds for false-match rates.
        roc: false-accept rates and true-accept rates, ``(m,)`` each.
    """

    same: int
    different: int
    failed: int
    on_failure: str
    accuracies: Floats
    thresholds: Floats
    auc: float
    eer: float
    eer_threshold: float
    points: tuple[OperatingPoint, ...]
    roc: tuple[Floats, Floats]

    @property
    def accuracy(self) -> float:
        """Mean over the folds."""
        return float(self.accuracies.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over the folds (n - 1)."""
        return float(self.accuracies.std(ddof=1))

    @property
    def standard_error(self) -> float:
        """Of the mean: what LFW's own tables print behind the ±."""
        return self.deviation / float(np.sqrt(len(self.accuracies)))

    def to_json(self) -> dict[str, Any]:
        return {
            "pairs": {"same": self.same, "different": self.different, "failed": self.failed,
                      "on_failure": self.on_failure},
            "accuracy": {"mean": self.accuracy, "deviation": self.deviation,
                         "standard_error": self.standard_error,
                         "folds": self.accuracies.tolist(),
                         "threshold": float(self.thresholds.mean()),
                         "thresholds": self.thresholds.tolist()},
            "auc": self.auc,
            "eer": {"rate": self.eer, "threshold": metrics.finite(self.eer_threshold)},
            "points": [point.to_json() for point in self.points],
        }  # fmt: skip


def summarise(
    scores: Floats,
    same: Bools,
    folds: Ints,
    *,
    on_failure: OnFailure = "wrong",
    rates: Sequence[float] = RATES,
) -> Report:
    """All figures from the scores of pairs.

    Args:
        scores: ``(n,)`` similarities, NaN where a pair could not be compared.
        same: ``(n,)``, whether a pair is of one person.
        folds: ``(n,)``, number of its fold.
        on_failure: "wrong": a failed pair is a wrong answer in its fold, and a genuine one is
            accepted at no threshold; a failed impostor pair counts for nothing beyond its fold
            (as a refusal it would make the false-match rate look better). "skip": failed pairs
            are left out of everything, which flatters.
        rates: false-match rates to find thresholds for.

    Raises:
        UsageError: pairs of one kind only, or fewer than two folds.
    """
    failed = np.isnan(scores)
    if on_failure == "skip":
        scores, same, folds = scores[~failed], same[~failed], folds[~failed]
    lost = np.isnan(scores)
    genuine, impostor = np.where(lost, -np.inf, scores)[same], scores[~same & ~lost]
    if not np.isfinite(genuine).any() or not impostor.size:
        raise UsageError(
            f"{int(np.isfinite(genuine).sum())} pairs of one person and {impostor.size} of two "
            "could be compared; both kinds are needed"
        )
    accuracies, thresholds = metrics.fold_accuracies(scores, same, folds, lost)
    eer, eer_threshold = metrics.equal_error_rate(genuine, impostor)
    return Report(
        same=int(same.sum()),
        different=int((~same).sum()),
        failed=int(failed.sum()),
        on_failure=on_failure,
        accuracies=accuracies,
        thresholds=thresholds,
        auc=metrics.area_under_roc(genuine, impostor),
        eer=eer,
        eer_threshold=eer_threshold,
        points=tuple(metrics.operating_point(genuine, impostor, rate) for rate in rates),
        roc=metrics.roc(genuine, impostor)[:2],
    )


# ------------------------------------------------------------------------------ pictures


def embed_picture(
    model: Model,
    path: str | os.PathLike[str],
    *,
    aligned: bool = False,
    flip: bool = False,
    central: bool = False,
) -> Vector:
    """One face of a picture to its embedding ``(D,)``, of length 1.

    Args:
        aligned: the picture is an aligned crop already.
        flip: add the embedding of the mirrored crop before the length is brought to 1.
        central: take the face in the middle (the one that LFW names), not the largest:
            :func:`most_central`.

    Raises:
        ImageError: the picture cannot be read; NoFaceError: it shows no face.
    """
    rgb = read_image(path)
    size = (model.card.preprocess.height, model.card.preprocess.width)
    if aligned:
        crop = fit(rgb, *size)
    else:
        faces = model.detector.detect(rgb)
        face = largest(most_central(faces, rgb) if central else faces, os.fspath(path))
        crop = alignment.align(rgb, face.landmarks, size)
    crops = np.stack([crop, crop[:, ::-1]] if flip else [crop])
    summed: Vector = l2_normalise(model.embed_crops(crops).sum(axis=0, keepdims=True))[0]
    return summed


def most_central(faces: Sequence[Face], rgb: RGB) -> list[Face]:
    """The faces, that with the largest area less twice the square of its distance from the middle
    first: a tiny one behind somebody's shoulder does not come before the person."""
    middle = np.array(rgb.shape[1::-1]) / 2

    def worth(face: Face) -> float:
        return face.area - 2 * float(((face.box.reshape(2, 2).mean(axis=0) - middle) ** 2).sum())

    return sorted(faces, key=worth, reverse=True)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`evaluate` found.

    scores: ``(n,)``, of every pair, NaN where it failed.
    pictures: how many there are.
    failures: why those that failed did.
    """

    report: Report
    scores: Floats
    pictures: int
    failures: Mapping[str, str]


def evaluate(
    model: Model,
    pairs: Sequence[Pair],
    root: str | os.PathLike[str],
    *,
    aligned: bool = False,
    flip: bool = False,
    central: bool = False,
    on_failure: OnFailure = "wrong",
    rates: Sequence[float] = RATES,
    at_once: int = 1,
    progress: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Embed every picture of a list once, compare the pairs, and report.

    Args:
        model: from :func:`tinyface.load`.
        pairs: from :func:`tinyface.faces.pairs.read_pairs`.
        root: folder of the pictures, see :func:`tinyface.faces.pairs.locate`.
        aligned, flip, central: see :func:`embed_picture`.
        on_failure, rates: see :func:`summarise`.
        at_once: pictures to work on side by side, each with the model's threads.
        progress: called after every picture; there are ``len(pictures(pairs))``.

    Raises:
        UsageError: pictures are not there, and ``on_failure`` is not "skip"; the first are
            named. Or what :func:`summarise` refuses.
    """
    names = pictures(pairs)
    files = locate(names, root)
    missing = [name for name in names if name not in files]
    if missing and (on_failure != "skip" or len(missing) == len(names)):
        raise UsageError(_missing(missing, len(names), Path(root), on_failure))
    failures = dict.fromkeys(missing, MISSING)
    vectors: dict[str, Vector] = {}
    embed = partial(embed_picture, model, aligned=aligned, flip=flip, central=central)
    with closing(ahead.in_order(files, lambda name: embed(files[name]), at_once)) as looked:
        for name, answer in looked:
            try:
                vectors[name] = answer()
            except ImageError as error:
                failures[name] = str(error)
            progress()
    scores = np.array([_score(vectors, pair) for pair in pairs])
    same = np.array([pair.same for pair in pairs], bool)
    folds = np.array([pair.fold for pair in pairs], np.int64)
    report = summarise(scores, same, folds, on_failure=on_failure, rates=rates)
    return Evaluation(report, scores, len(names), failures)


def _score(vectors: Mapping[str, Vector], pair: Pair) -> float:
    if pair.a not in vectors or pair.b not in vectors:
        return float("nan")
    return float(vectors[pair.a].astype(np.float64) @ vectors[pair.b].astype(np.float64))


def _missing(names: Sequence[str], total: int, root: Path, on_failure: str) -> str:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    advice = "name the folder that they are below"
    if on_failure != "skip":
        advice += ", or leave their pairs out with --on-failure skip"
    return f"{root}: {len(names)} of {total} pictures are not there ({shown}); {advice}"
