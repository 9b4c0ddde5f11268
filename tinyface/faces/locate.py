"""Find the faces of a picture, and cut them out the way recognisers want them."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TypeAlias

from numpy.typing import ArrayLike

from tinyface import modelstore
from tinyface.errors import ModelError, NoFaceError
from tinyface.formats.modelfile import load_model
from tinyface.runtime import Session
from tinyface.vision import align as alignment
from tinyface.vision.detect import Detector, Face
from tinyface.vision.image import RGB, Source, read_image

Size: TypeAlias = int | tuple[int, int]  # side, or (height, width)
ALIGNED = " (--aligned, aligned=True, is for faces that are cut out and upright already)"


def load_detector(
    name_or_path: str | os.PathLike[str] | None = None,
    backend: str = "auto",
    threads: int | None = None,
    max_side: int | None = None,
) -> Detector:
    """A face detector: installed weights by name, or a model file; None for the default one.

    Loading the same one again gives the same object.

    Args:
        name_or_path: installed weights by name, or a model file; None for the default one.
        backend, threads: of the engine, as for :func:`tinyface.load`.
        max_side: pixels to which larger pictures are scaled down for the first look; less is
            faster and misses small faces. None for what the detector's card says.

    Raises:
        UsageError: there is no such model, or none at all (says how to import one); ``max_side``
            out of range.
        ModelError: the file is malformed, or holds no detector.
    """
    path = modelstore.chosen(name_or_path, "detect")
    return _load(os.path.abspath(path), path.stat().st_mtime_ns, backend, threads, max_side)


@lru_cache(maxsize=4)
def _load(
    path: str, mtime_ns: int, backend: str, threads: int | None, max_side: int | None
) -> Detector:
    graph, card = load_model(path)
    if card.task != "detect":
        raise ModelError(f"{path}: finds no faces (its task is {card.task!r}); name a detector")
    detector = Detector(Session(graph, backend, threads), card, max_side)
    detector.made_by = load_detector, (path, backend, threads, max_side)
    return detector


def detect(
    image: Source,
    detector: Detector | str | os.PathLike[str] | None = None,
    score: float | None = None,
    turns: bool = True,
) -> list[Face]:
    """All faces of a picture, the largest first.

    Args:
        image: a path, encoded bytes, a Pillow image, or an RGB uint8 array (H, W, 3).
        detector: from :func:`load_detector`, or a name or path; None for the default one.
        score: 0 <= score < 1, what a face must have more of; None for what the detector's card
            says. Less finds smaller and half-hidden faces, and more that are none.
        turns: False where the picture is known to be upright; see ``Detector.detect``.

    Returns:
        faces with ``box`` (x0, y0, x1, y1), ``landmarks`` (5, 2), both in pixels of the picture
        (EXIF orientation applied), and ``score`` 0…1; empty if there are none. Where the picture
        lies on its side or stands on its head, ``turned`` is by how many degrees, clockwise, it
        must be turned.

    Raises:
        ImageError: the picture cannot be read.
        UsageError: no detector is installed, or a score out of range.
    """
    if not isinstance(detector, Detector):
        detector = load_detector(detector)
    return detector.detect(read_image(image), score, turns)


def align(
    image: Source,
    landmarks: ArrayLike | None = None,
    size: Size = 112,
    detector: Detector | str | os.PathLike[str] | None = None,
) -> RGB:
    """One face of a picture, upright, eyes and mouth where recognisers expect them.

    Args:
        image: a path, encoded bytes, a Pillow image, or an RGB uint8 array (H, W, 3).
        landmarks: ``(5, 2)``, in pixels: left eye, right eye, nose, left and right corner of
            the mouth; None to take those of the largest face.
        size: side of the crop, or (height, width).
        detector: what finds the face where no landmarks are given, as for :func:`detect`.

    Returns:
        ``uint8 (height, width, 3)``, RGB.

    Raises:
        NoFaceError: no landmarks were given, and no face was found.
        ImageError: the picture cannot be read, or the landmarks fix no transform.
    """
    rgb = read_image(image)
    if landmarks is None:
        landmarks = largest(detect(rgb, detector), name_of(image)).landmarks
    return alignment.align(rgb, landmarks, size)


def largest(faces: list[Face], name: str) -> Face:
    """The first of the faces of a picture. Raises NoFaceError where there are none."""
    if not faces:
        raise no_face(name)
    return faces[0]


def no_face(name: str, otherwise: str = ALIGNED) -> NoFaceError:
    """The error about a picture without a face; ``otherwise``: what else helps, where it was
    looked for."""
    return NoFaceError(f"{name}: no face found; try a larger or sharper picture{otherwise}")


def name_of(image: Source) -> str:
    """What to call a picture in a message."""
    if isinstance(image, str | os.PathLike):
        return "standard input" if image == "-" else os.fspath(image)
    return "the picture"
