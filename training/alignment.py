"""Five landmarks -> the similarity transform onto the 112x112 template, and the warped crop.

Umeyama (1991), equations 40-42, without reflection; the template is ArcFace's. The formulas are
the ones of `tinyface`'s own alignment, written again here because the training scripts run where
the package is not installed.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
POOL = ("faces_utk", "faces_masks", "faces_more")
HELD_OUT = 1024
LANDMARKS = [
    f"{part}_{axis}" for part in ("eye_l", "eye_r", "nose", "mouth_l", "mouth_r") for axis in "xy"
]


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares [scale R | t] (2x3) that carries `source` (n,2) onto `target` (n,2)."""
    ms, md = source.mean(0), target.mean(0)
    s, d = source - ms, target - md
    u, sing, vt = np.linalg.svd(d.T @ s / len(s))
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt))])
    rot = u @ np.diag(sign) @ vt
    scale = (sing * sign).sum() / (s**2).sum(1).mean()
    return np.hstack([scale * rot, (md - scale * rot @ ms)[:, None]])


def crop(
    picture: Image.Image, points: NDArray[np.float64], size: int, border: str = "zero"
) -> NDArray[np.uint8]:
    """`size`x`size`x3 RGB crop, the 112x112 template in its middle.

    Bilinear, pixel centres at integer coordinates. `border` is "zero" (what `tinyface` does),
    "edge" or "reflect": what stands where the crop leaves the picture.
    """
    margin = (size - 112) / 2
    if border != "zero":
        pad = max(picture.size) // 2
        mode = "edge" if border == "edge" else "reflect"
        pixels = np.pad(np.asarray(picture), ((pad, pad), (pad, pad), (0, 0)), mode=mode)
        picture, points = Image.fromarray(pixels), points + pad
    forward = np.vstack([similarity(points, TEMPLATE + margin), [0, 0, 1]])
    a = np.linalg.inv(forward)[:2]
    # Pillow samples at (x + 1/2, y + 1/2) and takes pixel centres at halves.
    a[:, 2] += 0.5 - 0.5 * (a[:, 0] + a[:, 1])
    warped = picture.transform(
        (size, size), Image.Transform.AFFINE, tuple(a.ravel()), Image.Resampling.BILINEAR
    )
    return np.asarray(warped)


class Face(NamedTuple):
    """One row of a set's table: where the picture is and its five landmarks (5, 2)."""

    archive: Path
    name: str
    points: NDArray[np.float64]


def faces(archive: Path) -> list[Face]:
    """Every row of `archive`'s .csv, in its order.

    Raises:
        ValueError: a file is missing, or the table lacks a column.
    """
    for path in (archive, archive.with_suffix(".csv")):
        if not path.is_file():
            raise ValueError(f"{path}: no such file; each set is a .zip with a .csv beside it")
    with open(archive.with_suffix(".csv"), encoding="utf-8", newline="") as table:
        rows = csv.DictReader(table)
        missing = {"file", *LANDMARKS} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{table.name}: no column {', '.join(sorted(missing))}; add it")
        return [
            Face(archive, row["file"], np.array([float(row[k]) for k in LANDMARKS]).reshape(5, 2))
            for row in rows
        ]


def kept(crops: int) -> int:
    """How many of so many crops, the first ones, are never trained on: a tenth, at most
    `HELD_OUT`."""
    return min(HELD_OUT, crops // 10)


def shuffled(data: Path, names: Sequence[str] = POOL) -> list[tuple[int, Face]]:
    """The pool that trainings learn from, numbered, in a fixed random order."""
    pool = [face for name in names for face in faces(data / f"{name}.zip")]
    return [(int(i), pool[i]) for i in np.random.default_rng(1).permutation(len(pool))]


@cache
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def open_face(face: Face) -> Image.Image:
    """The face's picture, RGB."""
    # One open archive per process: a file position must not be shared after a fork.
    data = _archive(face.archive, os.getpid()).read(face.name)
    return Image.open(io.BytesIO(data)).convert("RGB")
