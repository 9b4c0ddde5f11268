"""Read and write the safetensors container: a JSON header, then the tensors' bytes.

    8 bytes    length of the header, little-endian
    header     {"name": {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, ...,
                "__metadata__": {"text": "text"}}
    the rest   the tensors, without gaps

Written here and not by the ``safetensors`` package, because a reader must map the weights
instead of copying them and must check every rule before it trusts a number, and a writer must
give the same bytes for the same model, whatever version is installed. The tests hold both
against the package.

Source of the format: huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from tinyface import limits
from tinyface.errors import FormatError
from tinyface.formats.arrays import ITEMSIZE, Array, map_file, view

DTYPES: Final = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip
_CODES: Final = {name: code for code, name in DTYPES.items()}
_METADATA: Final = "__metadata__"
_ALIGNMENT: Final = 64  # of the first tensor's byte in a file that is written here


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in the file; ``start`` counts from the file's first byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header was checked; tensors are views of the mapped file."""

    path: Path
    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]
    data: mmap.mmap

    def tensor(self, name: str) -> Array:
        """One tensor; bfloat16 is widened to float32."""
        entry = self.entries[name]
        return view(self.data, entry.dtype, entry.start, entry.shape)

    def tensors(self) -> dict[str, Array]:
        return {name: self.tensor(name) for name in self.entries}


def open_file(path: str | Path) -> TensorFile:
    """Map a safetensors file and check its header, every number of it.

    Raises:
        FormatError: the file breaks a rule of the format or a limit of tinyface.
    """
    path = Path(path)
    data = map_file(path)
    if len(data) < 8:
        raise FormatError(f"{path}: too short for a safetensors file; fetch it again")
    length = int.from_bytes(data[:8], "little")
    if length > limits.MAX_HEADER_BYTES:
        raise FormatError(
            f"{path}: the header would take {length} bytes (at most {limits.MAX_HEADER_BYTES}): "
            "not a model file, or a damaged one"
        )
    if length > len(data) - 8:
        raise FormatError(f"{path}: truncated within the header; fetch it again")
    header = parse_json(data[8 : 8 + length], f"{path}: the header")
    if not isinstance(header, dict):
        raise FormatError(f"{path}: the header is not a JSON object")
    metadata = _check_metadata(path, header.pop(_METADATA, {}))
    if len(header) > limits.MAX_TENSORS:
        raise FormatError(f"{path}: {len(header)} tensors (at most {limits.MAX_TENSORS})")
    start = 8 + length
    entries = {name: _check_entry(path, name, doc, start) for name, doc in header.items()}
    _check_layout(path, entries, start, len(data))
    return TensorFile(path, metadata, entries, data)


def parse_json(text: str | bytes, where: str, printable: bool = False) -> Any:
    """JSON with bounded depth, no duplicate keys, and no NaN or Infinity.

    Args:
        printable: refuse texts with control characters other than a newline, because they
            will be printed on a terminal.

    Raises:
        FormatError: named after ``where``.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise FormatError(f"{where}: a JSON object names the same key twice")
        return result

    def no_constant(name: str) -> Any:
        raise FormatError(f"{where}: {name} is not a JSON number")

    try:
        document = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except RecursionError:
        raise FormatError(f"{where}: JSON nested too deeply") from None
    except ValueError as error:  # includes UnicodeDecodeError and integers of 4300 digits
        raise FormatError(f"{where} is not valid JSON ({error}); fetch the file again") from None
    level = [document]
    for _ in range(limits.MAX_JSON_DEPTH):
        if printable and not all(map(_is_printable, level)):
            raise FormatError(f"{where}: holds a text with control characters")
        level = [child for item in level for child in _children(item)]
        if not level:
            return document
    raise FormatError(f"{where}: JSON nested deeper than {limits.MAX_JSON_DEPTH} levels")


def _children(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    return item if isinstance(item, list) else ()


def _is_printable(item: Any) -> bool:
    return not isinstance(item, str) or item.replace("\n", "").isprintable()


def _check_metadata(path: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{path}: the metadata is not an object of texts")
    return metadata


def _check_entry(path: Path, name: str, entry: Any, start: int) -> Entry:
    """One tensor of the header, for itself."""
    if not name.isprintable() or not 1 <= len(name) <= limits.MAX_NAME_LENGTH:
        raise FormatError(
            f"{path}: a tensor is named {name[:80]!r}, of {len(name)} characters; "
            f"1 to {limits.MAX_NAME_LENGTH} printable ones are allowed"
        )
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{where}: expected are dtype, shape and data_offsets, nothing else")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise FormatError(f"{where}: element type {str(code)[:20]!r} is not read; store float32")
    if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in shape):
        raise FormatError(f"{where}: the shape is not a list of sizes")
    if len(shape) > limits.MAX_RANK or max(shape, default=0) > limits.MAX_DIM:
        raise FormatError(
            f"{where}: shape {str(shape)[:80]} "
            f"(at most {limits.MAX_RANK} sides of {limits.MAX_DIM} are allowed)"
        )
    if (
        not isinstance(offsets, list)
        or any(type(n) is not int or n < 0 for n in offsets)
        or len(offsets) != 2
        or offsets[0] > offsets[1]
    ):
        raise FormatError(f"{where}: the offsets are not two positions")
    nbytes = ITEMSIZE[DTYPES[code]]
    for side in shape:
        nbytes *= side
    given = offsets[1] - offsets[0]
    if nbytes != given:
        raise FormatError(f"{where}: shape {shape} needs {nbytes} bytes, the offsets give {given}")
    if nbytes > limits.MAX_TENSOR_BYTES:
        raise FormatError(f"{where}: {nbytes} bytes (at most {limits.MAX_TENSOR_BYTES})")
    return Entry(DTYPES[code], tuple(shape), start + offsets[0], nbytes)


def _check_layout(path: Path, entries: Mapping[str, Entry], start: int, size: int) -> None:
    """The tensors follow one another without overlap or hole, and end where the file does."""
    expected = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if entry.start != expected:
            problem = "overlaps another one" if entry.start < expected else "is preceded by a hole"
            raise FormatError(f"{path}: tensor {name!r} {problem}; the file is damaged")
        expected += entry.nbytes
    if expected > size:
        raise FormatError(
            f"{path}: truncated, {size} bytes of {expected} are there; fetch it again"
        )
    if expected < size:
        raise FormatError(f"{path}: {size - expected} bytes follow the last tensor")
    if expected - start > limits.MAX_PARAM_BYTES:
        raise FormatError(
            f"{path}: {expected - start} bytes of tensors (at most {limits.MAX_PARAM_BYTES})"
        )


def write(file: IO[bytes], tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write the tensors in their order, one at a time: the same bytes for the same arguments.

    Args:
        file: opened for writing.
        tensors: arrays of the element types in :data:`DTYPES`.
        metadata: texts.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _CODES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode("ascii")
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for array in tensors.values():
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        file.write(little.reshape(-1).view(np.uint8).data)
