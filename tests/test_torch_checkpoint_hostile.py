"""PyTorch checkpoints that attack: pickles that would run code, numbers and containers that lie."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import checkpoints as attack
from attacks.checkpoints import GOOD, GOOD_LEGACY, refused, write
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyface import limits
from tinyface.errors import CheckpointError
from tinyface.formats.pickle_reader import read_pickle
from tinyface.formats.torch_checkpoint import read_checkpoint

# ------------------------------------------------------------- hostile pickles


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fails the test if a process was started or the trace file appeared."""
    monkeypatch.chdir(tmp_path)
    events: list[str] = []
    watching = True
    watched = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")

    def hook(event: str, _: object) -> None:
        if watching and event in watched:
            events.append(event)

    sys.addaudithook(hook)
    yield None
    watching = False
    assert not events
    assert not (tmp_path / attack.TRACE).exists()


@pytest.mark.parametrize("container", ["zip", "legacy", "legacy first pickle"])
@pytest.mark.parametrize("case", attack.EXECUTING)
def test_executing_pickle_is_refused(
    tmp_path: Path, case: str, container: str, nothing_runs: None
) -> None:
    body, named = attack.EXECUTING[case]
    wrap = {"zip": attack.zipped, "legacy": attack.legacy, "legacy first pickle": bytes}
    message = refused(tmp_path, wrap[container](body))
    assert named in message
    assert "byte " in message


def test_the_attacks_would_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the test above: Python's own unpickler does execute such a pickle."""
    import pickle

    monkeypatch.chdir(tmp_path)
    for case in ("reduce os.system", "stack global", "inst", "memo trick", "builtins.eval"):
        (tmp_path / attack.TRACE).unlink(missing_ok=True)
        pickle.loads(attack.EXECUTING[case][0])
        assert (tmp_path / attack.TRACE).exists(), case


@pytest.mark.parametrize("case", attack.MALFORMED)
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_malformed_pickle(tmp_path: Path, case: str, container: str) -> None:
    body = attack.MALFORMED[case]
    refused(tmp_path, attack.zipped(body) if container == "zip" else attack.legacy(body))


@pytest.mark.parametrize("case", attack.LYING_TENSORS)
def test_lying_tensor(tmp_path: Path, case: str) -> None:
    body = attack.state({"w": attack.tensor(**attack.LYING_TENSORS[case])})  # type: ignore[arg-type]
    refused(tmp_path, attack.zipped(body))


@settings(max_examples=300)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_or_plain(data: bytes) -> None:
    try:
        read_pickle(io.BytesIO(b"\x80\x02}(X\x01\x00\x00\x00a" + data), "x")
    except CheckpointError as error:
        assert "\n" not in str(error)


@settings(max_examples=300)
@given(data=st.data())
def test_mutated_checkpoints(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any few changed bytes: refused, or tensors that lie within the file."""
    legacy = attack.legacy(GOOD_LEGACY)
    content = bytearray(data.draw(st.sampled_from([attack.zipped(GOOD), legacy])))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.pth"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        tensors = read_checkpoint(path)
    except CheckpointError:
        return
    assert all(np.asarray(t).nbytes <= len(content) for t in tensors.values())
    for tensor in tensors.values():
        tensor.sum()


# ---------------------------------------------------------- hostile containers


def test_not_a_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path, b"", "empty")
    refused(tmp_path, b"hello", "not a PyTorch checkpoint")
    refused(tmp_path, bytes(257) + b"ustar" + bytes(300), "tar format")
    refused(tmp_path, attack.pickled(b"N"), "magic number")
    refused(tmp_path, attack.legacy(GOOD, version=1002), "unknown version")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path)


def test_every_truncation(tmp_path: Path) -> None:
    torch_like = attack.zipped(GOOD)
    legacy = attack.legacy(GOOD_LEGACY)
    for whole in (torch_like, legacy):
        read_checkpoint(write(tmp_path, whole))
        for length in range(len(whole)):
            refused(tmp_path, whole[:length])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_zip_archives(tmp_path: Path) -> None:
    refused(tmp_path, attack.zipped(GOOD, method=zipfile.ZIP_DEFLATED), "compressed")
    refused(tmp_path, attack.zipped(GOOD, {}), "missing from the archive")
    refused(tmp_path, attack.zipped(GOOD, {"data/0": bytes(15)}), "should hold 4 x 4 bytes")
    refused(tmp_path, attack.zipped(GOOD, {"constants.pkl": b""}), "TorchScript")
    refused(tmp_path, attack.zipped(GOOD, root="a/b"), r"without a 'data\.pkl'")
    buffer = io.BytesIO(attack.zipped(GOOD))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data/0", bytes(16))
    refused(tmp_path, buffer.getvalue(), "there 2 times")
    buffer = io.BytesIO(attack.zipped(GOOD))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("other/data.pkl", GOOD)
    refused(tmp_path, buffer.getvalue(), "several checkpoints")


def test_changed_bytes_do_not_pass_their_checksum(tmp_path: Path) -> None:
    data = struct.pack("<4f", 1, 2, 3, 4)
    whole = attack.zipped(GOOD, {"data/0": data})
    refused(tmp_path, whole.replace(data, data[:-1] + b"\x41"), "'data/0' is not what was written")
    refused(tmp_path, whole.replace(b"FloatStorage", b"HalfStorage\0"), "'data.pkl' is not what")
    unused = attack.zipped(GOOD, {"data/0": data, "data/1": b"spare"})
    read_checkpoint(write(tmp_path, unused.replace(b"spare", b"spore")))  # nobody asks for it


def patched(content: bytes, signature: bytes, at: int, value: bytes) -> bytes:
    """Overwrite bytes of the *last* header that begins with the signature."""
    start = content.rindex(signature) + at
    return content[:start] + value + content[start + len(value) :]


@pytest.mark.parametrize(
    ("signature", "at", "value"),
    [
        (b"PK\1\2", 42, b"\xff\xff\xff\x7f"),  # local header far outside
        (b"PK\1\2", 42, b"\x01\0\0\0"),  # local header at a wrong place
        (b"PK\1\2", 20, b"\xff\xff\xff\x7f" * 2),  # both sizes huge
        (b"PK\1\2", 20, b"\x01\0\0\0"),  # sizes differ: as if compressed
        (b"PK\1\2", 8, b"\x01\0"),  # encrypted
        (b"PK\3\4", 28, b"\xff\xff"),  # extra field beyond the file
        (b"PK\5\6", 12, b"\xff\xff\xff\x7f"),  # directory larger than the file
        (b"PK\5\6", 16, b"\xff\xff\xff\x7f"),  # directory outside the file
    ],
)
def test_lying_zip_headers(tmp_path: Path, signature: bytes, at: int, value: bytes) -> None:
    refused(tmp_path, patched(attack.zipped(GOOD), signature, at, value))


def test_lying_legacy_storages(tmp_path: Path) -> None:
    count = struct.Struct("<q").pack
    refused(
        tmp_path,
        attack.legacy(GOOD_LEGACY, storages=count(5) + bytes(20)),
        "should have 4 elements",
    )
    refused(tmp_path, attack.legacy(GOOD_LEGACY, storages=count(1 << 60) + bytes(16)), "truncated")
    refused(
        tmp_path,
        attack.legacy(GOOD_LEGACY, storages=count(-4) + bytes(16)),
        "should have 4 elements",
    )
    refused(tmp_path, attack.legacy(GOOD_LEGACY, storages=b""), "truncated")
    refused(tmp_path, attack.legacy(GOOD_LEGACY, ("0", "0")), "does not match")
    refused(tmp_path, attack.legacy(GOOD_LEGACY, ("0", "1")), "does not match")
    refused(tmp_path, attack.legacy(GOOD_LEGACY, ()), "does not match")
    refused(tmp_path, attack.legacy(GOOD_LEGACY, keys={"0": 1}), "list of storages is damaged")
    twice = attack.state({"a": attack.tensor(), "b": attack.tensor("HalfStorage", numel=4)})
    refused(tmp_path, attack.legacy(twice), "declared twice")


@pytest.mark.parametrize(
    "view",
    [
        b"N\x85",
        b"(" + attack.text("v") + attack.integer(-1) + attack.integer(3) + b"t",
        b"(" + attack.text("v") + attack.integer(2) + attack.integer(3) + b"t",
        b"(" + attack.text("v") + attack.integer(1 << 63) + attack.integer(1 << 63) + b"t",
    ],
)
def test_lying_storage_views(tmp_path: Path, view: bytes) -> None:
    tensor = attack.tensor("FloatStorage", "0", 4, 0, (2,), (1,), view)
    refused(tmp_path, attack.legacy(attack.state({"w": tensor})), "storage view")


@pytest.mark.parametrize("shape", [(1,), (1, 4), (0, 4)])
def test_steps_that_are_never_taken_may_be_of_any_size(tmp_path: Path, shape: Any) -> None:
    strides = (1 << 62, 1)[: len(shape)]
    tensor = attack.tensor("FloatStorage", "0", 4, 0, shape, strides)
    path = write(tmp_path, attack.zipped(attack.state({"w": tensor})))
    assert read_checkpoint(path)["w"].shape == shape


def test_caps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = attack.zipped(attack.state({"a": attack.tensor(), "b": attack.tensor()}))
    monkeypatch.setattr(limits, "MAX_PARAM_BYTES", 31)
    refused(tmp_path, two, "the tensors take 32 bytes")
    monkeypatch.setattr(limits, "MAX_TENSORS", 1)
    refused(tmp_path, two, "2 tensors")
    monkeypatch.setattr(limits, "MAX_PICKLE_BYTES", 100)
    refused(tmp_path, two, "data.pkl' takes")
    monkeypatch.setattr(limits, "MAX_ZIP_DIRECTORY_BYTES", 50)
    refused(tmp_path, two, "zip directory takes")
