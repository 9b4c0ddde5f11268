"""The zip container of PyTorch >= 1.6: ``ROOT/data.pkl`` and one stored record per storage.

The records are never decompressed (PyTorch stores them), so a record is a range of the file:
no copy is made, and a zip bomb has nothing to unfold.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tinyface import limits
from tinyface.errors import CheckpointError

_END: Final = struct.Struct("<4s4H2LH")  # end of central directory
_END64_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCAL: Final = struct.Struct("<4s5H3L2H")  # local file header
_MAX_COMMENT: Final = 0xFFFF
_PIECE: Final = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Record:
    """``nbytes`` bytes from ``start`` of the file; their CRC-32, or 0 where none was written
    (``torch.serialization.set_crc32_options(False)``).
    """

    start: int
    nbytes: int
    crc: int = 0


def read_records(path: Path, stream: BinaryIO) -> tuple[str, dict[str, Record]]:
    """Where every record of the archive lies.

    Returns:
        the archive's root folder and the records by their name below it (``data.pkl``,
        ``byteorder``, ``data/0`` ...).

    Raises:
        CheckpointError: no zip file, a huge directory, compressed, encrypted or duplicate
            records, records outside the file, no or several ``data.pkl``, or TorchScript.
    """
    size = check_directory_size(path, stream)
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError) as e:
        raise CheckpointError(
            f"{path}: a damaged or truncated zip archive ({e}); fetch the file again"
        ) from None
    names = [entry.filename for entry in entries]
    root = _root(path, names)
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise CheckpointError(f"{path}: the record {name[:200]!r} is there {times} times")
    return root, {
        entry.filename.removeprefix(root): _locate(path, stream, entry, size)
        for entry in entries
        if entry.filename.startswith(root)
    }


def check_directory_size(path: Path, stream: BinaryIO) -> int:
    """Bound the central directory before :mod:`zipfile` makes an object of every entry.

    Returns the file's size. Raises CheckpointError.
    """
    size = stream.seek(0, 2)
    tail_start = max(0, size - _END.size - _MAX_COMMENT)
    stream.seek(tail_start)
    tail = stream.read(size - tail_start)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise CheckpointError(f"{path}: the zip archive is truncated; fetch the file again")
    nbytes = int(_END.unpack_from(tail, at)[5])
    locator_at = at - _END64_LOCATOR.size
    if locator_at >= 0 and tail[locator_at : locator_at + 4] == b"PK\6\7":
        end64_at = _END64_LOCATOR.unpack_from(tail, locator_at)[2]
        stream.seek(min(end64_at, size))
        end64 = stream.read(_END64.size)
        if len(end64) < _END64.size or end64[:4] != b"PK\6\6":
            raise CheckpointError(f"{path}: the zip64 directory is damaged; fetch the file again")
        nbytes = max(int(_END64.unpack(end64)[8]), nbytes if nbytes != 0xFFFFFFFF else 0)
    if nbytes > limits.MAX_ZIP_DIRECTORY_BYTES:
        raise CheckpointError(
            f"{path}: the zip directory takes {nbytes} bytes "
            f"(at most {limits.MAX_ZIP_DIRECTORY_BYTES}): this is no checkpoint of a face network"
        )
    return size


def _locate(path: Path, stream: BinaryIO, entry: zipfile.ZipInfo, size: int) -> Record:
    """Follow the entry to its local header; the data begin behind that."""
    name = entry.filename[:200]
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise CheckpointError(
            f"{path}: the record {name!r} is compressed; PyTorch stores records as they are "
            "(if this is a zip file around a checkpoint, unpack it first)"
        )
    if entry.flag_bits & 1:
        raise CheckpointError(f"{path}: the record {name!r} is encrypted")
    if not 0 <= entry.header_offset <= size - _LOCAL.size:
        raise CheckpointError(f"{path}: the record {name!r} begins outside the file")
    stream.seek(entry.header_offset)
    header = _LOCAL.unpack(stream.read(_LOCAL.size))
    if header[0] != b"PK\3\4":
        raise CheckpointError(f"{path}: the record {name!r} has no header where it should begin")
    start = entry.header_offset + _LOCAL.size + header[9] + header[10]
    if start > size or entry.file_size > size - start:
        raise CheckpointError(
            f"{path}: the record {name!r} reaches beyond the end of the file, which is truncated; "
            "fetch it again"
        )
    return Record(start, entry.file_size, entry.CRC)


def check_bytes(path: Path, stream: BinaryIO, name: str, record: Record) -> None:
    """Compare a record with its checksum, read piece by piece and not through the map, so that
    no page of it stays in memory. Raises CheckpointError.
    """
    if not record.crc:
        return
    stream.seek(record.start)
    left, crc = record.nbytes, 0
    while left and (piece := stream.read(min(left, _PIECE))):
        crc = zlib.crc32(piece, crc)
        left -= len(piece)
    if crc != record.crc:
        raise CheckpointError(
            f"{path}: the record {name[:200]!r} is not what was written (its checksum differs); "
            "fetch the file again"
        )


def _root(path: Path, names: list[str]) -> str:
    roots = [n[: -len("data.pkl")] for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
    if not roots:
        raise CheckpointError(
            f"{path}: a zip archive without a 'data.pkl': not a PyTorch checkpoint "
            "(if it is a zip file around one, unpack it first)"
        )
    if len(roots) > 1:
        raise CheckpointError(
            f"{path}: several checkpoints in one archive: {str(roots)[1:-1][:200]}"
        )
    if f"{roots[0]}constants.pkl" in names:
        raise CheckpointError(
            f"{path}: a TorchScript archive, which holds code; only weights are read. "
            "Where PyTorch is installed: torch.save(torch.jit.load(FILE).state_dict(), OUT)"
        )
    return roots[0]
