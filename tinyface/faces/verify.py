"""Are two pictures of the same person?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinyface import modelstore
from tinyface.errors import UsageError
from tinyface.faces.locate import ALIGNED, name_of, no_face
from tinyface.formats.modelfile import Card
from tinyface.model import FaceEmbedding, Model, load
from tinyface.vision.image import Source

DEFAULT_FMR = 1e-3  # one impostor in a thousand is let through


@dataclass(frozen=True)
class Verification:
    """The answer of :func:`verify`; as a condition, ``if verify(a, b):``, what ``same`` says.

    Attributes:
        same: whether ``cosine >= threshold``.
        cosine: similarity of the two embeddings, -1…1.
        threshold: what it was compared with.
        fmr: false-match rate that the threshold was measured for (of 1/fmr pairs of different
            people, one is expected to be called the same); None for a threshold of one's own.
        model: name of the recogniser.
        faces: the face that was taken of either picture, and how many there were; None for
            aligned crops.
    """

    same: bool
    cosine: float
    threshold: float
    fmr: float | None
    model: str
    faces: tuple[FaceEmbedding, FaceEmbedding] | None = field(
        default=None, compare=False, repr=False
    )

    def __bool__(self) -> bool:
        # Any other object would count as true: two strangers as one person.
        return self.same

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, for ``json.dumps``; of the faces, which were taken and of how many."""
        document = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "faces"}
        if self.faces:
            document["faces"] = [{"of": f.of, **f.face.to_json()} for f in self.faces]
        return document


def cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Cosine of the angle between two embeddings ``(D,)``, or ``(1, D)``, computed in float64.

    Raises:
        UsageError: embeddings of different lengths, or several of them.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if any(side != 1 for side in (*x.shape[:-1], *y.shape[:-1])):
        raise UsageError(
            f"arrays of shape {x.shape} and {y.shape}; give two embeddings (of many, A @ B.T "
            "holds every cosine)"
        )
    x, y = x.ravel(), y.ravel()
    if x.shape != y.shape:
        raise UsageError(f"embeddings of {x.size} and {y.size} values; both must be of one model")
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.clip(x @ y / length, -1, 1)) if length else 0.0


def threshold_for(card: Card, fmr: float = DEFAULT_FMR) -> float:
    """The threshold that a model's card gives for a false-match rate.

    Raises:
        UsageError: the card has none for it; those it has are listed.
    """
    known = thresholds(card)
    for rate, value in known.items():
        if abs(rate - fmr) <= 1e-6 * rate:
            return value
    if not known:
        raise UsageError(
            f"{card.name} carries no thresholds, so it cannot say what is the same: give one "
            "(--threshold, threshold=…), measured on pairs that you know (tinyface evaluate)"
        )
    known_rates = ", ".join(f"{rate:g}" for rate in known)
    raise UsageError(
        f"{card.name} has no threshold for a false-match rate of {fmr:g}; take {known_rates}"
    )


def choose_threshold(card: Card, fmr: float, threshold: float | None) -> tuple[float | None, float]:
    """(false-match rate, threshold) that decide: the card's for ``fmr``, or a ``threshold`` of
    one's own, which has no rate.

    Raises:
        UsageError: the card has no threshold for ``fmr``, or ``threshold`` is no cosine.
    """
    if threshold is None:
        return fmr, threshold_for(card, fmr)
    if not -1 <= threshold <= 1:
        raise UsageError(f"a threshold of {threshold:g}: give a cosine, from -1 to 1")
    return None, float(threshold)  # of NumPy: its comparisons are no bool, nor in JSON


def thresholds(card: Card) -> Mapping[float, float]:
    """False-match rate -> threshold, the strictest last."""
    table = {float(rate): float(value) for rate, value in card.thresholds.items()}
    return dict(sorted(table.items(), reverse=True))


def verify(
    a: Source,
    b: Source,
    model: Model | str | os.PathLike[str] | None = None,
    *,
    aligned: bool = False,
    fmr: float = DEFAULT_FMR,
    threshold: float | None = None,
) -> Verification:
    """Compare the largest face of one picture with that of another.

    Args:
        a, b: a path, encoded bytes, a Pillow image, or an RGB uint8 array (H, W, 3).
        model: from :func:`tinyface.load`, or a name or path; None for the default one.
        aligned: both are aligned crops already.
        fmr: false-match rate whose threshold, from the model's card, decides.
        threshold: a cosine of your own instead.

    Raises:
        ImageError: a picture cannot be read; NoFaceError: no face was found in one.
        UsageError: the model has no threshold for ``fmr``, or ``threshold`` is no cosine.
    """
    if not isinstance(model, Model):
        path = modelstore.chosen(model, "embed")
        model = _load(os.path.abspath(path), path.stat().st_mtime_ns)
    rate, limit = choose_threshold(model.card, fmr, threshold)
    faces = None if aligned else (largest_face(model, a), largest_face(model, b))
    if faces:
        score = cosine(faces[0].embedding, faces[1].embedding)
    else:
        score = cosine(model.embed(a, aligned), model.embed(b, aligned))
    return Verification(
        same=bool(score >= limit),
        cosine=score,
        threshold=limit,
        fmr=rate,
        model=model.name,
        faces=faces,
    )


def largest_face(model: Model, picture: Source, otherwise: str = ALIGNED) -> FaceEmbedding:
    """The largest face of a picture, and its embedding. ``otherwise``: as :func:`no_face` takes it.

    Raises:
        ImageError: the picture cannot be read, or there is no face in it.
    """
    found = model.embed_faces(picture, limit=1)
    if not found:
        raise no_face(name_of(picture), otherwise)
    return found[0]


@lru_cache(maxsize=2)
def _load(path: str, mtime_ns: int) -> Model:
    return load(path)
