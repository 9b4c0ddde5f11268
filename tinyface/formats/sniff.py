"""What a file is, from its content; a suffix proves nothing."""

from __future__ import annotations

import os
import struct
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Final

from tinyface import limits
from tinyface.errors import FormatError
from tinyface.formats import safetensors
from tinyface.formats.modelfile import KEY


class Kind(Enum):
    """What :func:`sniff` can tell apart; the value reads well in a message."""

    TINYFACE = "a tinyface model"
    SAFETENSORS = "a safetensors file of tensors"
    TORCH_ZIP = "a PyTorch checkpoint"
    TORCH_LEGACY = "a PyTorch checkpoint in the format before 1.6"
    TORCHSCRIPT = "a TorchScript archive"
    PICKLE = "a Python pickle"
    ONNX = "an ONNX model"
    NCNN_PARAM = "an ncnn .param file"
    NCNN_BINARY_PARAM = "a binary ncnn .param file"
    NUMPY = "a NumPy archive"
    ZIP = "a zip archive"
    HDF5 = "an HDF5 file (Keras)"
    TFLITE = "a TensorFlow Lite model"
    EMPTY = "an empty file"
    UNKNOWN = "of no format that is known here"


_LEGACY_MAGIC: Final = bytes.fromhex("6cfc9c46f9206aa85019")  # of PyTorch before 1.6
_NCNN_MAGIC: Final = 7767517
_GRAPH, _OPSETS = 7, 8  # fields of ONNX's ModelProto


def sniff(path: str | os.PathLike[str]) -> Kind:
    """Look at a file's first bytes and, where these are shared, a little further.

    Raises:
        FormatError: the file cannot be read, or is a safetensors file with a broken header.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            head = stream.read(64)
            if head[8:9] == b"{" and head[5:8] == bytes(3):  # behind a length below 2^40, which
                kind = Kind.SAFETENSORS  # may look like anything: so this comes first
            elif head.startswith(b"PK\3\4"):
                return _sniff_zip(path, stream)
            else:
                kind = _sniff_head(head)
            if kind is Kind.UNKNOWN and _is_onnx(stream, size):
                return Kind.ONNX
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if kind is Kind.SAFETENSORS and KEY in safetensors.open_file(path).metadata:
        return Kind.TINYFACE
    return kind


def _sniff_head(head: bytes) -> Kind:
    if not head:
        return Kind.EMPTY
    if head.startswith(b"\x80"):
        return Kind.TORCH_LEGACY if _LEGACY_MAGIC in head[:32] else Kind.PICKLE
    if head.split(maxsplit=1)[:1] == [str(_NCNN_MAGIC).encode()]:
        return Kind.NCNN_PARAM
    if head[:4] == _NCNN_MAGIC.to_bytes(4, "little"):
        return Kind.NCNN_BINARY_PARAM
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Kind.HDF5
    if head[4:8] == b"TFL3":
        return Kind.TFLITE
    return Kind.UNKNOWN


def _sniff_zip(path: Path, stream: BinaryIO) -> Kind:
    """Only names are looked at; nothing is unpacked."""
    import zipfile  # needed for nobody's own models, and a while to import

    from tinyface.formats.torch_zip import check_directory_size

    try:
        check_directory_size(path, stream)
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except (FormatError, zipfile.BadZipFile, NotImplementedError, ValueError, struct.error):
        # the reader of checkpoints says what is wrong with it, which is most often truncation
        return Kind.TORCH_ZIP
    if any(name.endswith("/constants.pkl") for name in names):
        return Kind.TORCHSCRIPT
    if any(name.endswith("/data.pkl") for name in names):
        return Kind.TORCH_ZIP
    if names and all(name.endswith(".npy") for name in names):
        return Kind.NUMPY
    return Kind.ZIP


def _is_onnx(stream: BinaryIO, size: int) -> bool:
    """The outermost protobuf message has a graph and opsets, and fills the file exactly.

    Fields are (number << 3 | wire type); wire type 2 is a length and that many bytes, which
    are skipped.
    """
    fields: set[int] = set()
    position = 0
    for _ in range(limits.MAX_TENSORS):
        if position == size:
            return {_GRAPH, _OPSETS} <= fields
        stream.seek(position)
        data = stream.read(20)
        tag, used = _varint(data)
        value, more = _varint(data[used:])
        if not used or not more or tag & 7 not in (0, 2):
            return False
        position += used + more + (value if tag & 7 == 2 else 0)
        fields.add(tag >> 3)
        if position > size:
            return False
    return False


def _varint(data: bytes) -> tuple[int, int]:
    """(value, bytes used); (0, 0) where there is none."""
    value = 0
    for index, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, index + 1
    return 0, 0
