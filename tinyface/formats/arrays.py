"""Arrays over a memory-mapped file, for every reader of weights."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tinyface.errors import FormatError

Array = NDArray[Any]

# Element types that weights are stored in, and their bytes. NumPy has no bfloat16.
ITEMSIZE: Final = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "bool": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1,
}  # fmt: skip


def map_file(path: Path) -> mmap.mmap:
    """The file's bytes, read-only, as pages that the system may drop and read again.

    The file must stay as it is while arrays over it are in use; replacing it by another one
    (``os.replace``) is fine, shortening it in place is not.

    Raises:
        FormatError: the file is missing, not readable, or empty.
    """
    try:
        with path.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError:
        raise FormatError(f"{path}: the file is empty; fetch it again") from None


def view(
    data: mmap.mmap | bytes,
    dtype: str,
    start: int,
    shape: Sequence[int],
    strides: Sequence[int] | None = None,
    order: str = "<",
) -> Array:
    """An array over mapped bytes; a copy only where NumPy needs one.

    Copied are bfloat16 (widened to float32), bool (any byte but 0 counts as true), bytes of
    the other order, and elements that do not begin at a multiple of their size.

    Args:
        dtype: a key of :data:`ITEMSIZE`.
        start: byte of the first element. The caller has checked that all elements lie inside.
        strides: in elements; None: C-contiguous.
        order: "<" little- or ">" big-endian.
    """
    if 0 in shape:
        return np.empty(shape, "float32" if dtype == "bfloat16" else dtype)
    stored = np.dtype({"bfloat16": "uint16", "bool": "uint8"}.get(dtype, dtype)).newbyteorder(
        "<" if order == "<" else ">"
    )
    steps = None if strides is None else tuple(s * stored.itemsize for s in strides)
    array: Array = np.ndarray(tuple(shape), stored, buffer=data, offset=start, strides=steps)
    if dtype == "bool":
        array = array != 0
    elif dtype == "bfloat16":  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif not (array.dtype.isnative and array.flags.aligned):
        array = array.astype(array.dtype.newbyteorder("="))
    return array
