"""Read PyTorch checkpoints (``.pt``, ``.pth``) without PyTorch and without unpickling.

Two containers: the zip archive of PyTorch >= 1.6 and the older run of pickles that begins with
a magic number. In both, a pickle says which tensor views which storage, and the storages follow
as raw bytes. The pickle goes through :mod:`tinyface.formats.pickle_reader`, which executes
nothing; the file is memory-mapped, so that float32 weights are views of it and a large file
needs no second copy in memory.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from tinyface import limits
from tinyface.errors import CheckpointError
from tinyface.formats.arrays import ITEMSIZE, Array, map_file, view
from tinyface.formats.pickle_reader import PickleReader, read_pickle
from tinyface.formats.state_dict import find_state_dict, tidy_keys
from tinyface.formats.torch_objects import STORAGES, Name, StorageRef, TensorRef
from tinyface.formats.torch_zip import Record, check_bytes, read_records

LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL: Final = 1001


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a checkpoint and how they were found.

    tensors: by name, prefixes stripped; native element type (bfloat16 widened to float32).
    container: ``"zip"`` or ``"legacy"``. found_at: keys down to the state dict, such as
    ``("state_dict",)``. prefix: what was stripped from every name, such as ``"module."``.
    """

    tensors: dict[str, Array]
    container: str
    found_at: tuple[str, ...]
    prefix: str


@dataclass(frozen=True)
class _Container:
    """The unpickled object, and where the bytes of each storage are."""

    kind: str
    content: Any
    storages: Mapping[str, Record]
    byteorder: str


def read_checkpoint(path: str | Path) -> dict[str, Array]:
    """The tensors of a PyTorch checkpoint, by name.

    The state dict is looked for at the top and under the usual names (``state_dict``,
    ``model``, ``net`` ...); prefixes that all names share (``module.``, ``model.`` ...) are
    stripped; ``num_batches_tracked`` counters are dropped.

    Returns:
        name -> array; views of the memory-mapped file where the bytes allow it.
        float32, float64, float16 and integers as stored, bfloat16 widened to float32.

    Raises:
        CheckpointError: anything but tensors in plain containers, a damaged or truncated file,
            no state dict or several, or sizes above ``tinyface.limits``.
    """
    return open_checkpoint(path).tensors


def open_checkpoint(path: str | Path) -> Checkpoint:
    """As :func:`read_checkpoint`, with what was found where."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            container = _read_container(path, stream)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    data = map_file(path)
    found_at, state = find_state_dict(path, container.content, TensorRef)
    prefix, state = tidy_keys(path, state)
    total = sum(tensor.nbytes for tensor in state.values())
    if total > limits.MAX_PARAM_BYTES:
        raise CheckpointError(
            f"{path}: the tensors take {total} bytes (at most {limits.MAX_PARAM_BYTES})"
        )
    tensors = {name: _array(data, container, tensor) for name, tensor in state.items()}
    return Checkpoint(tensors, container.kind, found_at, prefix)


def _read_container(path: Path, stream: BinaryIO) -> _Container:
    start = stream.read(512)
    stream.seek(0)
    if not start:
        raise CheckpointError(f"{path}: the file is empty; fetch it again")
    if start.startswith(b"PK\3\4"):
        return _read_zip(path, stream)
    if start.startswith(b"\x80"):
        return _read_legacy(path, stream)
    if start[257:262] == b"ustar":
        raise CheckpointError(
            f"{path}: the tar format of PyTorch before 0.2; load and save it once with PyTorch"
        )
    raise CheckpointError(f"{path}: not a PyTorch checkpoint (neither a zip archive nor a pickle)")


# -- zip (PyTorch >= 1.6)


def _read_zip(path: Path, stream: BinaryIO) -> _Container:
    _, records = read_records(path, stream)
    order = "little"
    if "byteorder" in records:
        order = _read(stream, records["byteorder"], 16).decode("ascii", "replace")
    if order not in ("little", "big"):
        raise CheckpointError(f"{path}: byte order {order!r} (little or big)")
    if records["data.pkl"].nbytes > limits.MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"{path}: 'data.pkl' takes {records['data.pkl'].nbytes} bytes "
            f"(at most {limits.MAX_PICKLE_BYTES}): this is no checkpoint of a face network"
        )
    pickled = io.BytesIO(_read(stream, records["data.pkl"], limits.MAX_PICKLE_BYTES))
    check_bytes(path, pickled, "data.pkl", replace(records["data.pkl"], start=0))
    pickled.seek(0)
    used: dict[str, Record] = {}

    def storage(reader: PickleReader, saved: Any) -> StorageRef:
        kind, key, numel, _ = _parse_storage_id(reader, saved)
        record = records.get(f"data/{key}")
        if record is None:
            raise reader.refuse(f"the storage {f'data/{key}'[:80]!r} is missing from the archive")
        dtype = STORAGES[kind]
        itemsize = ITEMSIZE[dtype]
        if numel * itemsize > record.nbytes:
            raise reader.refuse(
                f"storage {f'data/{key}'[:80]!r} should hold {numel} x {itemsize} bytes "
                f"and has {record.nbytes}: the file is damaged"
            )
        used[key] = record
        return StorageRef(key, dtype, numel)

    content = read_pickle(pickled, f"{path}: data.pkl", storage)
    for key, record in used.items():
        check_bytes(path, stream, f"data/{key}", record)
    return _Container("zip", content, used, order)


def _read(stream: BinaryIO, record: Record, limit: int) -> bytes:
    stream.seek(record.start)
    return stream.read(min(record.nbytes, limit))


def _parse_storage_id(reader: PickleReader, saved: Any) -> tuple[str, str, int, Any]:
    """``("storage", class, key, device, numel[, view])`` -> class name, key, numel, view."""
    if type(saved) is not tuple or not 5 <= len(saved) <= 6 or saved[0] != "storage":
        raise reader.refuse("a persistent id that is not that of a storage")
    _, kind, key, _, numel, *view = saved
    name = kind.dotted.rpartition(".")[2] if isinstance(kind, Name) else ""
    if name not in STORAGES or type(key) is not str or type(numel) is not int or numel < 0:
        raise reader.refuse("a storage of unknown type, key or size")
    return name, key, numel, view[0] if view else None


# -- the older format: five pickles, then the storages


def _read_legacy(path: Path, stream: BinaryIO) -> _Container:
    pickled = io.BytesIO(stream.read(limits.MAX_PICKLE_BYTES))
    declared: dict[str, tuple[int, int]] = {}  # key -> numel, bytes of an element
    if read_pickle(pickled, str(path)) != LEGACY_MAGIC:
        raise CheckpointError(
            f"{path}: a pickle, but not a PyTorch checkpoint (its magic number is missing)"
        )
    version = read_pickle(pickled, str(path))
    if version != _LEGACY_PROTOCOL:
        raise CheckpointError(f"{path}: a PyTorch checkpoint of an unknown version")
    read_pickle(pickled, str(path))  # the writer's system; storages are little-endian in any case

    def storage(reader: PickleReader, saved: Any) -> StorageRef:
        kind, key, numel, view = _parse_storage_id(reader, saved)
        dtype = STORAGES[kind]
        itemsize = ITEMSIZE[dtype]
        if declared.setdefault(key, (numel, itemsize)) != (numel, itemsize):
            raise reader.refuse(f"storage {key[:80]!r} is declared twice, with different sizes")
        if view is None:
            return StorageRef(key, dtype, numel)
        start, length = _parse_view(reader, view, numel)
        return StorageRef(key, dtype, length, start)

    content = read_pickle(pickled, str(path), storage)
    keys = read_pickle(pickled, str(path))
    storages = _legacy_storages(path, stream, pickled.tell(), keys, declared)
    return _Container("legacy", content, storages, "little")


def _parse_view(reader: PickleReader, view: Any, numel: int) -> tuple[int, int]:
    """A storage that is itself part of another one: (key of the view, offset, length)."""
    if type(view) is not tuple or len(view) != 3:
        raise reader.refuse("a storage view that is not (key, offset, length)")
    _, start, length = view
    if type(start) is not int or type(length) is not int or start < 0 or length < 0:
        raise reader.refuse("a storage view with a negative or non-integer offset or length")
    if start + length > numel:
        raise reader.refuse("a storage view that reaches beyond its storage")
    return start, length


def _legacy_storages(
    path: Path, stream: BinaryIO, at: int, keys: Any, declared: dict[str, tuple[int, int]]
) -> dict[str, Record]:
    """After the pickles: for every key an int64 element count and the elements."""
    if type(keys) is not list or any(type(k) is not str for k in keys):
        raise CheckpointError(f"{path}: the list of storages is damaged")
    if len(set(keys)) != len(keys) or set(keys) != set(declared):
        raise CheckpointError(f"{path}: the list of storages does not match those that are used")
    size = stream.seek(0, 2)
    records: dict[str, Record] = {}
    for key in keys:
        numel, itemsize = declared[key]
        stream.seek(at)
        count = int.from_bytes(stream.read(8), "little", signed=True)
        if at + 8 > size or count * itemsize > size - at - 8:
            raise CheckpointError(
                f"{path}: storage {key[:80]!r} reaches beyond the end of the file, "
                "which is truncated; fetch it again"
            )
        if count != numel:
            raise CheckpointError(
                f"{path}: storage {key[:80]!r} should have {numel} elements and has {count}: "
                "the file is damaged"
            )
        records[key] = Record(at + 8, count * itemsize)
        at += 8 + count * itemsize
    return records


# -- from references to arrays


def _array(data: mmap.mmap, container: _Container, tensor: TensorRef) -> Array:
    record = container.storages[tensor.storage.key]
    start = record.start + (tensor.storage.start + tensor.offset) * ITEMSIZE[tensor.dtype]
    order = "<" if container.byteorder == "little" else ">"
    return view(data, tensor.dtype, start, tensor.shape, tensor.strides, order)
