"""Weights of an ONNX file in another file beside it: the same network, and hostile places."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface import limits
from tinyface.backends.numpy import run_graph
from tinyface.errors import FormatError
from tinyface.formats.importer import import_file

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

import onnx_models as small  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from tinyface.formats.onnx import read_onnx  # noqa: E402
from tinyface.formats.onnx_file import open_onnx  # noqa: E402

RNG = np.random.default_rng(0)
TYPES = (np.float32, np.float16, np.float64, np.int64, np.int32, np.uint8, np.bool_)


def model(constants: dict[str, np.ndarray]) -> Any:
    """x plus every constant of 4 floats."""
    nodes, last = [], "x"
    for name in constants:
        nodes.append(helper.make_node("Add", [last, name], [f"{name}_sum"]))
        last = f"{name}_sum"
    return small.model(nodes, [1, 3, 4, 4], constants, outputs=[last])


def elsewhere(tensor: Any, **entries: Any) -> None:
    """Say that the tensor's data are in another file: location and, perhaps, offset, length."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def four(location: str, **entries: Any) -> Any:
    proto = model({"w": np.ones(4, np.float32)})
    elsewhere(proto.graph.initializer[0], location=location, **entries)
    return proto


def write(folder: Path, proto: Any, data: bytes | None = None) -> Path:
    if data is not None:
        (folder / "net.data").write_bytes(data)
    return small.save(folder / "net.onnx", proto)


def test_every_type(tmp_path: Path) -> None:
    constants = {
        np.dtype(kind).name: RNG.integers(0, 2, (5, 3)).astype(kind) * np.array(2, kind)
        for kind in TYPES
    }
    onnx.save_model(
        model(constants),
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    assert (tmp_path / "net.data").stat().st_size >= sum(a.nbytes for a in constants.values())
    read = open_onnx(tmp_path / "net.onnx").constants
    for name, value in constants.items():
        kind = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}[value.dtype.kind]
        assert read[name].dtype == kind
        assert np.array_equal(read[name], value.astype(kind))


@pytest.mark.filterwarnings("ignore")
def test_what_pytorch_writes_by_default(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript", reason="the newer exporter of PyTorch needs it")
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 2, bias=False),
        torch.nn.BatchNorm2d(16),
        torch.nn.PReLU(16),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 7 * 7, 32),
    ).eval()
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, (torch.zeros(1, 3, 16, 16),), path)
    if not (tmp_path / "net.onnx.data").exists():
        pytest.skip("this PyTorch writes one file")
    graph = import_file(path).graph
    x = RNG.uniform(0, 255, (1, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        wanted = net(torch.from_numpy(x)).numpy()
    (got,) = run_graph(graph, {next(iter(graph.inputs)): x}).values()
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_places_and_parts(tmp_path: Path) -> None:
    """A part of a file, a file in a folder below, and no more said than needed."""
    values = np.arange(8, dtype="<f4")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "more").write_bytes(values.tobytes())
    for proto, first in (
        (four("net.data", offset=16, length=16), 4),
        (four("net.data", offset=12), 3),
        (four("below/more"), 0),
    ):
        path = write(tmp_path, proto, values.tobytes())
        assert np.array_equal(open_onnx(path).constants["w"], values[first : first + 4])


def test_links_of_a_download_cache(tmp_path: Path) -> None:
    """Both files are links into one folder of blobs."""
    blobs, shown = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir(), shown.mkdir()
    write(blobs, four("net.data"), np.ones(4, np.float32).tobytes())
    for name in ("net.onnx", "net.data"):
        (shown / name).symlink_to(blobs / name)
    assert open_onnx(shown / "net.onnx").constants["w"].sum() == 4


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", "below/../../secret", "link", "", ".", "a\0b", "C:\\x"]
)
def test_places_outside_of_the_folder_are_not_opened(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "below").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "link").symlink_to(tmp_path / "secret")
    path = write(folder, four(location))
    with pytest.raises(FormatError, match=r"outside of the model's folder|cannot be read"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("proto", "data", "message"),
    [
        (four("net.data"), None, "'net.data', which cannot be read.*belongs beside the model"),
        (four("net.data"), bytes(15), "ends before its data do"),
        (four("net.data", offset=8), bytes(20), "ends before its data do"),
        (four("net.data", offset=10**18 - 1), bytes(20), "ends before its data do"),
        (four("net.data", offset=-4), bytes(20), "the offset of its data is '-4'"),
        (four("net.data", offset="1" * 40), bytes(20), "the offset of its data is '1111"),
        (four("net.data", offset="٤"), bytes(20), "the offset of its data is"),
        (
            four("net.data", offset=0, length=12),
            bytes(20),
            "12 bytes in 'net.data', its shape needs 16",
        ),
        (four("below"), None, "cannot be read"),
    ],
)
def test_what_does_not_fit(proto: Any, data: bytes | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    with pytest.raises(FormatError, match=message):
        read_onnx(write(tmp_path, proto, data))


def test_a_type_that_is_not_read(tmp_path: Path) -> None:
    proto = four("net.data")
    for kind in (TensorProto.BFLOAT16, TensorProto.STRING, TensorProto.COMPLEX64, 999):
        proto.graph.initializer[0].data_type = kind
        with pytest.raises(FormatError, match="are not read"):
            read_onnx(write(tmp_path, proto, bytes(64)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.data")
    with pytest.raises(FormatError, match="ends before its data do"):
        read_onnx(write(tmp_path, four("net.data")))


def test_whole_numbers_count_as_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte of the file becomes eight of memory."""
    proto = model({f"w{i}": np.ones((100, 3, 1, 4), np.int8) for i in range(5)})
    for tensor in proto.graph.initializer:
        elsewhere(tensor, location="net.data")
    path = write(tmp_path, proto, bytes(1200))
    monkeypatch.setattr(limits, "MAX_PARAM_BYTES", 4 * 8 * 1200)
    with pytest.raises(FormatError, match="'w4': the tensors have over 38400 bytes"):
        open_onnx(path)


def test_a_place_that_is_no_text(tmp_path: Path) -> None:
    data = four("net.data").SerializeToString().replace(b"net.data", b"net.d\xfft\xff")
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"no text|not a readable ONNX file"):
        open_onnx(path)


def test_many_tensors_of_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is within its limits; their sum is not."""
    proto = model({f"w{i}": np.ones((100, 3, 1, 4), np.float32) for i in range(5)})
    for tensor in proto.graph.initializer:
        elsewhere(tensor, location="net.data")
    path = write(tmp_path, proto, bytes(4800))
    assert len(open_onnx(path).constants) == 5
    monkeypatch.setattr(limits, "MAX_PARAM_BYTES", 4 * 4800)
    with pytest.raises(FormatError, match="'w4': the tensors have over 19200 bytes"):
        open_onnx(path)
