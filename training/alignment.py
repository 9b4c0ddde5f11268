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
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

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


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[int, str, NDArray[np.float64]]]:
    """Of every row of a set's .csv its line, its picture's name, and what its columns hold.

    Raises:
        ValueError: a column is missing, or there is no number where one belongs.
    """
    found = []
    # With a byte order mark, as spreadsheets save it, the first column would not be called "file".
    with open(path, encoding="utf-8-sig", newline="") as table:
        rows = csv.DictReader(table)
        missing = {"file", *columns} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: no column {', '.join(sorted(missing))}; add it")
        for row in rows:
            try:
                values = np.array([float(row[name]) for name in columns])
            except (TypeError, ValueError):  # an empty cell, or a row that ends early
                values = np.full(len(columns), np.nan)
            if not row["file"] or not np.isfinite(values).all():
                raise ValueError(
                    f"{path}: line {rows.line_num} ({row['file']}) has no name or not all of its "
                    f"{len(columns)} numbers; fill it in or leave it out"
                )
            found.append((rows.line_num, row["file"], values))
    return found


class Face(NamedTuple):
    """One row of a set's table: where the picture is and its five landmarks (5, 2)."""

    archive: Path
    name: str
    points: NDArray[np.float64]


def faces(archive: Path) -> list[Face]:
    """Every row of `archive`'s .csv, in its order.

    Raises:
        ValueError: a file is missing, or a row of the table is not whole, or all its landmarks
            lie on one point, from which nothing can be aligned.
    """
    table = archive.with_suffix(".csv")
    for path in (archive, table):
        if not path.is_file():
            raise ValueError(f"{path}: no such file; each set is a .zip with a .csv beside it")
    found = []
    for line, name, values in read_table(table, LANDMARKS):
        points = values.reshape(5, 2)
        if not np.ptp(points, axis=0).any():
            raise ValueError(f"{table}: line {line} ({name}): all landmarks are one point; "
                             "leave out what has none")  # fmt: skip
        found.append(Face(archive, name, points))
    return found


def kept(crops: int) -> int:
    """How many of so many crops, the first ones, are never trained on: a tenth, at most
    `HELD_OUT`."""
    return min(HELD_OUT, crops // 10)


def is_the_pool(record: str | None) -> bool:
    """Whether a training's record of its sets names those that what ships learnt from; a training
    of before there were records learnt from them."""
    return record is None or set(record.split(", ")) == set(POOL)


def shuffled(data: Path, names: Sequence[str] = POOL) -> list[tuple[int, Face]]:
    """The pool that trainings learn from, numbered, in a fixed random order."""
    pool = [face for name in names for face in faces(data / f"{name}.zip")]
    return [(int(i), pool[i]) for i in np.random.default_rng(1).permutation(len(pool))]


@cache
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def read_picture(archive: zipfile.ZipFile, name: str) -> Image.Image:
    """A picture as it is shown, RGB: landmarks count in pixels of what EXIF's rotation gives.

    Raises:
        ValueError: it is not there, or broken.
    """
    try:
        picture = Image.open(io.BytesIO(archive.read(name)))
        return ImageOps.exif_transpose(picture).convert("RGB")
    except KeyError:
        raise ValueError(f"{archive.filename}: no {name}, which the .csv beside it names; add it "
                         "there or leave it out here") from None  # fmt: skip
    except (OSError, SyntaxError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive.filename}: {name} cannot be read ({error}); leave it out of "
                         "the .csv") from None  # fmt: skip


def open_face(face: Face) -> Image.Image:
    """The face's picture, RGB."""
    # One open archive per process: a file position must not be shared after a fork.
    return read_picture(_archive(face.archive, os.getpid()), face.name)
