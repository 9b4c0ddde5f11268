"""What is this file? By content alone, never by name."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from attacks import checkpoints, modelfiles
from attacks import ncnn as attack
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyface.errors import FormatError, ModelError
from tinyface.formats.importer import import_file
from tinyface.formats.sniff import Kind, sniff

ONNX = b"\x08\x08\x12\x04test:\x00\x42\x02\x10\x11"
CONTENTS: dict[str, tuple[bytes, Kind]] = {
    "empty": (b"", Kind.EMPTY),
    "text": (b"hello", Kind.UNKNOWN),
    "zeros": (bytes(100), Kind.UNKNOWN),
    "model": (modelfiles.model(), Kind.TINYFACE),
    "tensors": (modelfiles.container({"w": modelfiles.TENSOR}), Kind.SAFETENSORS),
    "tensors behind a length like a pickle": (
        modelfiles.container(b"{}".ljust(0x0280), b""),
        Kind.SAFETENSORS,
    ),
    "torch": (checkpoints.zipped(checkpoints.pickled(b"}")), Kind.TORCH_ZIP),
    "torch, truncated": (checkpoints.zipped(checkpoints.pickled(b"}"))[:99], Kind.TORCH_ZIP),
    "old torch": (checkpoints.legacy(checkpoints.pickled(b"}")), Kind.TORCH_LEGACY),
    "script": (
        checkpoints.zipped(checkpoints.pickled(b"}"), {"constants.pkl": b""}),
        Kind.TORCHSCRIPT,
    ),
    "pickle": (checkpoints.pickled(b"N"), Kind.PICKLE),
    "onnx": (ONNX, Kind.ONNX),
    "onnx, truncated": (ONNX[:-1], Kind.UNKNOWN),
    "ncnn": (attack.param(attack.INPUT).encode(), Kind.NCNN_PARAM),
    "binary ncnn": ((7767517).to_bytes(4, "little") + bytes(8), Kind.NCNN_BINARY_PARAM),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(8), Kind.HDF5),
    "tflite": (b"\x20\0\0\0TFL3" + bytes(8), Kind.TFLITE),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_sniff(tmp_path: Path, case: str) -> None:
    content, kind = CONTENTS[case]
    path = tmp_path / "no-suffix"
    path.write_bytes(content)
    assert sniff(path) is kind


def test_sniff_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    assert sniff(tmp_path / "a.npz") is Kind.NUMPY
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("weights.pth", b"x")
    assert sniff(tmp_path / "a.zip") is Kind.ZIP
    with pytest.raises(FormatError, match="cannot be read"):
        sniff(tmp_path / "missing")


@pytest.mark.parametrize(
    "case", ["empty", "text", "model", "script", "pickle", "hdf5", "tflite", "binary ncnn"]
)
def test_import_says_what_a_file_is(tmp_path: Path, case: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENTS[case][0])
    with pytest.raises(FormatError) as caught:
        import_file(path)
    assert CONTENTS[case][1].value in str(caught.value)
    assert caught.value.exit_code == 3


@settings(max_examples=200)
@given(content=st.binary(max_size=200))
def test_sniff_takes_anything(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "anything"
    path.write_bytes(content)
    try:
        sniff(path)
    except ModelError as error:
        assert "anything" in str(error)
