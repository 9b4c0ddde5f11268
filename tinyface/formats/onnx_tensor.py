"""Tensors of an ONNX file, in it or in a file beside it, checked before anything is allocated.

The newer exporter of PyTorch and converters of large models write a small file with the graph
and the weights beside it (``net.onnx``, ``net.onnx.data``). The graph names that file: it is
opened only in the model's own folder.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tinyface import limits
from tinyface.errors import FormatError
from tinyface.formats.arrays import Array


class Beside:
    """The files that hold the data of a model's tensors.

    Together no more than `limits.MAX_PARAM_BYTES` are kept of them, however often a hostile
    graph names the same bytes.
    """

    def __init__(self, model: Path) -> None:
        # a cache of downloads may hold links, whose targets stand in a folder of their own
        self._folders = {model.parent.resolve(), model.resolve().parent}
        self._folder, self._left = model.parent, limits.MAX_PARAM_BYTES

    def read(self, tensor: Any, length: int, kept: int, where: str) -> bytes:
        """The `length` bytes that the tensor's entries (location, offset, length) name; `kept`:
        what they take in memory.

        Raises:
            FormatError: a place outside of the model's folder, no such file, or other sizes.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not all(isinstance(text, str) for pair in entries.items() for text in pair):
            raise FormatError(f"{where}: where its data are is no text; fetch the file again")
        path = self._path(entries.get("location", ""), where)
        offset = _number(entries, "offset", 0, where)
        if _number(entries, "length", length, where) != length:
            raise FormatError(
                f"{where}: {entries['length']} bytes in {path.name!r}, its shape needs {length}"
            )
        if kept > self._left:
            raise FormatError(f"{where}: the tensors have over {limits.MAX_PARAM_BYTES} bytes")
        self._left -= kept
        try:
            with open(path, "rb", opener=_open_at_once) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or offset + length > status.st_size:
                    raise FormatError(
                        f"{where}: {path.name!r} ends before its data do; copy that file again"
                    )
                file.seek(offset)
                data = file.read(length)
        except OSError as error:
            raise FormatError(
                f"{where}: its data are in {path.name!r}, which cannot be read "
                f"({error.strerror}); that file belongs beside the model"
            ) from None
        if len(data) != length:
            raise FormatError(f"{where}: {path.name!r} became shorter while it was read")
        return data

    def _path(self, location: str, where: str) -> Path:
        """Where the data are: nowhere but in the model's folder, links followed."""
        place = PurePosixPath(location)
        if location.isprintable() and place.parts and not place.is_absolute():
            path = self._folder / place
            target = Path(os.path.realpath(path))
            if ".." not in place.parts and any(f in target.parents for f in self._folders):
                return path
        raise FormatError(
            f"{where}: its data are said to be in {location[:80]!r}, outside of the model's "
            "folder; export it again, as one file"
        )


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting, should the name be that of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _number(entries: dict[str, str], key: str, default: int, where: str) -> int:
    value = entries.get(key, str(default))
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise FormatError(f"{where}: the {key} of its data is {value[:40]!r}")
    return int(value)


def read_tensor(tensor: Any, beside: Beside, where: str) -> Array:
    """A TensorProto as an array over its own bytes; float64 and float16 become float32.

    Raises:
        FormatError: sizes that do not agree, a type that is not read, or data elsewhere than in
            the file or beside it.
    """
    from onnx import TensorProto, numpy_helper

    if len(tensor.dims) > limits.MAX_RANK or any(d < 0 for d in tensor.dims):
        raise FormatError(f"{where}: shape {list(tensor.dims)[:20]}")
    size = math.prod(tensor.dims)
    if size > limits.MAX_TENSOR_BYTES // 4:
        raise FormatError(f"{where}: {size} elements")
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        return _as_known(_from_beside(tensor, beside, size, where), where)
    try:
        array: Array = numpy_helper.to_array(tensor)
    except Exception as error:  # whatever a damaged tensor makes of it
        raise FormatError(f"{where}: damaged ({type(error).__name__})") from None
    if array.shape != tuple(tensor.dims):
        raise FormatError(f"{where}: has {array.size} elements, its shape needs {size}")
    return _as_known(array, where)


# onnx.proto's numbers of the types whose bytes are NumPy's. (Older versions of onnx say of bfloat16
# that it is float32, which is what it becomes there.)
TYPES = {
    1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2",
    11: "<f8", 12: "<u4",
}  # fmt: skip


def _from_beside(tensor: Any, beside: Beside, size: int, where: str) -> Array:
    if tensor.data_type not in TYPES:
        raise FormatError(f"{where}: elements of type {tensor.data_type} are not read")
    dtype = np.dtype(TYPES[tensor.data_type])
    each = 8 if dtype.kind in "iu" else dtype.itemsize  # whole numbers become int64
    data = beside.read(tensor, size * dtype.itemsize, size * each, where)
    array: Array = np.frombuffer(data, dtype).reshape(tuple(tensor.dims))
    return array.view(np.uint8) != 0 if dtype.kind == "b" else array


def _as_known(array: Array, where: str) -> Array:
    """float32, int64 or bool, of what can become one of them."""
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype.kind in "iu" and array.dtype != np.uint64:
        return array.astype(np.int64)
    if array.dtype.kind == "b":
        return array
    raise FormatError(f"{where}: elements of type {array.dtype} are not read")
