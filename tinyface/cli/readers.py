"""What ``tinyface embed -o`` wrote, read again: faces with their embeddings.

The files may be anybody's: sizes, shapes and types are checked, and nothing in them is run.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tinyface import limits
from tinyface.cli.common import one_line
from tinyface.cli.writers import FILES, Row
from tinyface.errors import FormatError, UsageError
from tinyface.formats.safetensors import parse_json
from tinyface.vision.detect import Face

if TYPE_CHECKING:
    from tinyface.model import Model

MAX_BYTES: Final = limits.MAX_PARAM_BYTES  # of a file, unpacked
MAX_LINE: Final = 4 * limits.MiB  # bytes of a face in .jsonl
SCHEMA: Final = "tinyface.embed/1"
DAMAGE: Final = (
    ValueError, TypeError, KeyError, EOFError, OSError, MemoryError, FormatError,
    NotImplementedError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_NEWER: Final = {"turned": 0, "of": 1, "stamps": (0, 0)}  # what older versions did not write
_NOWHERE: Final = {
    "box": [np.nan] * 4, "score": np.nan, "landmarks": [[np.nan] * 2] * 5, "turned": 0,
}  # fmt: skip


def is_embeddings(path: str) -> bool:
    """Whether a file's name ends as one of ``embed -o`` does.

    Raises:
        UsageError: it does as one that does not say which model made it.
    """
    suffix = Path(path).suffix
    if suffix in FILES and suffix not in _READERS:
        raise UsageError(
            f"{path}: does not say which model it is of; make another with  "
            f"tinyface embed -o FILE{next(iter(_READERS))}"
        )
    return suffix in _READERS


def read_embeddings(path: str, model: Model) -> Iterator[Row]:
    """The faces in a file of :func:`is_embeddings`.

    Raises:
        UsageError: there is no such file, it is of another model, damaged, or something else.
    """
    width = model.card.embedding_size
    if not os.path.isfile(path):
        raise UsageError(f"{path}: no such file; check the spelling")
    try:
        if os.stat(path).st_size > MAX_BYTES:
            raise ValueError("too large")
        for name, fingerprint, row in _READERS[Path(path).suffix](path):
            if name != model.name:
                raise UsageError(
                    f"{path} is of the model {name[:80]!r}, not {model.name!r}: "
                    "name that one (-m), or embed the pictures anew"
                )
            if fingerprint not in ("", model.fingerprint):  # "": written by an older version
                raise UsageError(
                    f"{path} is of other weights than those that {model.name!r} has here: "
                    "embed the pictures anew, or name the file of the old ones (-m)"
                )
            check_embedding(row.embedding, width)
            yield row
    except DAMAGE as error:
        why = one_line(str(error).split("\n")[0][:120]) or type(error).__name__
        raise UsageError(
            f"{path}: not what  tinyface embed -o  writes ({why}); make it again"
        ) from None


def check_embedding(vector: NDArray[np.float32], width: int) -> None:
    """ValueError where it is not that many finite numbers."""
    if vector.shape != (width,) or not np.isfinite(vector).all():
        raise ValueError(f"an embedding that is not {width} finite numbers")


def recipe_of(path: str) -> str:
    """That of a .npz file (see ``journal``); "" where none can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(_member(archive, "recipe"))
    except DAMAGE:
        return ""


def _npz(path: str) -> Iterator[tuple[str, str, Row]]:
    kinds = {"embeddings": "f", "files": "U", "faces": "iu", "scores": "f", "boxes": "f"}
    kinds |= {"landmarks": "f", "turned": "iu", "of": "iu", "stamps": "i"}
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        present = [key for key in kinds if key not in _NEWER or f"{key}.npy" in names]
        arrays = {key: _member(archive, key) for key in present}
        name, fingerprint = str(_member(archive, "model"))[:200], ""
        if "fingerprint.npy" in names:
            fingerprint = str(_member(archive, "fingerprint"))
    count = len(arrays["embeddings"])
    ends = {"embeddings": arrays["embeddings"].shape[1:], "boxes": (4,), "landmarks": (5, 2)}
    ends |= {"stamps": (2,)}
    for key, array in arrays.items():
        if array.dtype.kind not in kinds[key] or array.shape != (count, *ends.get(key, ())):
            raise ValueError(f"{key} of type {array.dtype} and shape {array.shape}")
    for i in range(count):
        at = {key: array[i] for key, array in arrays.items()}
        turned, of, (size, time) = (at.get(key, value) for key, value in _NEWER.items())
        face = to_face(at["boxes"], at["scores"], at["landmarks"], turned)
        vector, stamp = _float32(at["embeddings"]), (int(size), int(time))
        row = Row(str(at["files"]), int(at["faces"]), face, vector, int(of), stamp)
        yield name, fingerprint, row


def _member(archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    """One array, not larger than what the archive holds of it, whatever it says itself."""
    info = archive.getinfo(f"{key}.npy")
    if info.file_size > MAX_BYTES:
        raise ValueError(f"{key}: too large when unpacked")
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        try:
            shape, _, dtype = read(stream)
        except Exception as error:  # those of Python's parser, too
            raise ValueError(f"{key}: {error}") from None
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f"{key} of shape {shape}, of which the file holds a part")
    with archive.open(info) as stream:
        array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    return array


def _jsonl(path: str) -> Iterator[tuple[str, str, Row]]:
    with open(path, "rb") as lines:
        while line := lines.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise ValueError("a line without an end")
            found = parse_json(line, path)
            if not isinstance(found, dict) or found.get("schema") != SCHEMA:
                raise ValueError(f"a line that is not of {SCHEMA}")
            if "error" in found:
                continue
            face = to_face(**{key: found.get(key, value) for key, value in _NOWHERE.items()})
            vector = _float32(np.asarray(found["embedding"], np.float64))
            row = Row(str(found["file"]), int(found["face"]), face, vector)
            yield str(found["model"]), str(found.get("fingerprint", "")), row


_READERS: Final = {".npz": _npz, ".jsonl": _jsonl}


def _float32(vector: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # infinite ones are refused later
        return vector.astype(np.float32)


def to_face(box: Any, score: Any, landmarks: Any, turned: Any = 0) -> Face | None:
    """None for an aligned crop, which has no place in a picture.

    Raises:
        ValueError, TypeError: that is no face.
    """
    corners: NDArray[np.float64] = np.asarray(box, np.float64)
    points: NDArray[np.float64] = np.asarray(landmarks, np.float64)
    if corners.shape != (4,) or points.shape != (5, 2):
        raise ValueError(f"a box of shape {corners.shape}, landmarks of {points.shape}")
    if turned not in (0, 90, 180, 270):
        raise ValueError(f"a face turned by {turned} degrees")
    given = (*corners, *points.ravel(), float(score))
    if not np.isfinite(given).all():
        return None
    return Face(corners, float(score), points, int(turned))
