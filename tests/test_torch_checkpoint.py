"""The restricted reader of PyTorch checkpoints: reads tensors, executes nothing."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import checkpoints as attack
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyface import limits
from tinyface.errors import CheckpointError
from tinyface.formats.pickle_reader import read_pickle
from tinyface.formats.torch_checkpoint import open_checkpoint, read_checkpoint

SHARED = Path(__file__).parents[2] / "shared" / "weights"
PUBLIC = ("mobilefacenet.pt", "retinaface_mnet025.pth", "retinaface_mnet025_lowres.pth")
GOOD = attack.state({"w": attack.tensor()})
ZERO = bytes(16)


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    return path


def refused(tmp_path: Path, content: bytes, match: str | None = None) -> str:
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(write(tmp_path, content))
    message = str(caught.value)
    assert "\n" not in message and "file.pth" in message
    return message


# ------------------------------------------------------- what PyTorch wrote


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, Any]) -> None:
    """Equal names, order, shapes, and every bit of every value."""
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        tensor = tensor.detach()
        if str(tensor.dtype) == "torch.bfloat16":
            tensor = tensor.float()
        assert ours[name].dtype == tensor.numpy().dtype, name
        np.testing.assert_array_equal(ours[name], tensor.numpy(), err_msg=name, strict=True)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_checkpoint_equals_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    if not (SHARED / name).exists():
        pytest.skip("the project's shared material is not beside the checkout")
    theirs = torch.load(SHARED / name, weights_only=True, map_location="cpu")
    assert_same(
        read_checkpoint(SHARED / name),
        {k: v for k, v in theirs.items() if not k.endswith("num_batches_tracked")},
    )


def tensors_of_every_kind(torch: Any) -> dict[str, Any]:
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    state = {
        "float32": base,
        "shares the storage": base[1],
        "transposed": base.permute(2, 0, 1),
        "every other": base[:, ::2, 1:4],
        "expanded": torch.ones(3).expand(3),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "bool": torch.tensor([True, False, True]),
        "half": torch.randn(7).half(),
        "odd offset": torch.randn(9).half()[1:],
        "bfloat16": torch.randn(5, 3).bfloat16().T,
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    for kind in ("float64", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32"):
        state[kind] = torch.arange(6).reshape(2, 3).to(getattr(torch, kind))
    return state


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_saved_here(tmp_path: Path, zipped: bool, protocol: int) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    state = tensors_of_every_kind(torch)
    path = tmp_path / "file.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    checkpoint = open_checkpoint(path)
    assert checkpoint.container == ("zip" if zipped else "legacy")
    assert_same(checkpoint.tensors, state)


@pytest.mark.parametrize("zipped", [True, False])
def test_training_checkpoint(tmp_path: Path, zipped: bool) -> None:
    """A wrapped state dict beside an optimizer, a scheduler, and a few plain values."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    adam = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    adam.step()
    steps = torch.optim.lr_scheduler.MultiStepLR(adam, [3, 5])
    saved = {
        "epoch": 3,
        "big": 2**70,
        "best": 0.5,
        "arch": "net",
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "size": torch.Size([112, 112]),
        "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()},
        "optimizer": adam.state_dict(),
        "scheduler": steps.state_dict(),
    }
    path = tmp_path / "file.pth"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(path)
    assert checkpoint.found_at == ("state_dict",)
    assert checkpoint.prefix == "module."
    expected = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    assert_same(checkpoint.tensors, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_and_whole_models_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "file.pth"
    net = torch.nn.Linear(2, 2)
    torch.jit.save(torch.jit.script(net), path)
    with pytest.raises(CheckpointError, match="TorchScript archive, which holds code"):
        read_checkpoint(path)
    torch.save(net, path)
    with pytest.raises(CheckpointError, match=r"'torch\.nn\.modules\.linear\.Linear'.*state_dict"):
        read_checkpoint(path)
    torch.save({"w": torch.ones(2).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(CheckpointError, match="float8_e4m3fn"):
        read_checkpoint(path)


def test_large_file_is_mapped_not_copied(tmp_path: Path) -> None:
    """Reading 200 MB of float32 must not take 200 MB of memory."""
    numel = 5 * 10_000_000
    path = tmp_path / "large.pth"
    body = attack.state(
        {"w": attack.tensor(numel=numel, shape=(5, numel // 5), strides=(numel // 5, 1))}
    )
    with zipfile.ZipFile(path, "w") as archive:
        # the first record, so that its bytes begin at 30 + 10 + 20: aligned, as PyTorch does
        with archive.open("net/data/0", "w", force_zip64=True) as record:
            for _ in range(200):
                record.write(bytes(numel * 4 // 200))
        archive.writestr("net/data.pkl", body)
    code = (
        "import sys, resource; from tinyface.formats.torch_checkpoint import read_checkpoint\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "w = read_checkpoint(sys.argv[1])['w']\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert w.shape == (5, 10_000_000) and w[-1, -1] == 0\n"
        "print(after - before)\n"
    )
    pytest.importorskip("resource")
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(out.stdout) * unit < 20_000_000


# ------------------------------------------------------------- by hand, no torch


def test_by_hand_zip_and_legacy(tmp_path: Path) -> None:
    data = struct.pack("<4f", 1, 2, 3, 4)
    got = read_checkpoint(write(tmp_path, attack.zipped(GOOD, {"data/0": data})))
    np.testing.assert_array_equal(got["w"], np.float32([1, 2, 3, 4]), strict=True)
    body = attack.state({"w": attack.tensor("FloatStorage", "0", 4, 0, (4,), (1,))})
    # the legacy id has a sixth field: None, or (key, offset, length) of a view
    body = body.replace(attack.integer(4) + b"tQ", attack.integer(4) + b"NtQ")
    got = read_checkpoint(
        write(tmp_path, attack.legacy(body, storages=struct.pack("<q", 4) + data))
    )
    np.testing.assert_array_equal(got["w"], np.float32([1, 2, 3, 4]), strict=True)


def test_legacy_view_of_a_storage(tmp_path: Path) -> None:
    view = b"(" + attack.text("v") + attack.integer(1) + attack.integer(3) + b"t"
    tensor = attack.tensor("FloatStorage", "0", 4, 1, (2,), (1,), view)
    data = struct.pack("<q4f", 4, 10, 20, 30, 40)
    got = read_checkpoint(write(tmp_path, attack.legacy(attack.state({"w": tensor}), ("0",), data)))
    np.testing.assert_array_equal(got["w"], np.float32([30, 40]))
    beyond = attack.tensor("FloatStorage", "0", 4, 2, (2,), (1,), view)
    refused(tmp_path, attack.legacy(attack.state({"w": beyond}), ("0",), data), "reaches element 3")


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


def test_big_endian(tmp_path: Path) -> None:
    records = {"byteorder": b"big", "data/0": struct.pack(">4f", 1, 2, 3, 4)}
    got = read_checkpoint(write(tmp_path, attack.zipped(GOOD, records)))
    np.testing.assert_array_equal(got["w"], np.float32([1, 2, 3, 4]), strict=True)
    assert got["w"].dtype.isnative
    body = attack.state({"w": attack.tensor("BFloat16Storage", "0", 2, 0, (2,), (1,))})
    records = {"byteorder": b"big", "data/0": b"\x3f\x80\xc0\x00"}  # 1, -2
    got = read_checkpoint(write(tmp_path, attack.zipped(body, records)))
    np.testing.assert_array_equal(got["w"], np.float32([1, -2]), strict=True)
    refused(tmp_path, attack.zipped(GOOD, {"byteorder": b"pdp", "data/0": ZERO}), "byte order")


@pytest.mark.parametrize("module", ["torch", "torch.cuda"])
def test_storages_of_a_gpu(tmp_path: Path, module: str) -> None:
    body = GOOD.replace(b"ctorch\nFloatStorage", f"c{module}\nFloatStorage".encode())
    assert read_checkpoint(write(tmp_path, attack.zipped(body)))["w"].shape == (4,)


def test_python_2_ordered_dict(tmp_path: Path) -> None:
    """Python 2 wrote the items as a list of lists and names as byte strings."""
    pairs = b"]]U\x01wa" + attack.tensor() + b"aa"
    body = attack.pickled(attack.name("collections", "OrderedDict") + b"(" + pairs + b"tR")
    assert list(read_checkpoint(write(tmp_path, attack.zipped(body)))) == ["w"]


# -------------------------------------------------- where the state dict hides


def nested(*keys: str) -> bytes:
    body = b"}(" + attack.text("conv.w") + attack.tensor() + b"u"
    for key in reversed(keys):
        body = b"}(" + attack.text("epoch") + b"K\x03" + attack.text(key) + body + b"u"
    return attack.pickled(body)


@pytest.mark.parametrize(
    "keys",
    [(), ("state_dict",), ("net_state_dict",), ("model", "state_dict"), ("anything at all",)],
)
def test_containers(tmp_path: Path, keys: tuple[str, ...]) -> None:
    checkpoint = open_checkpoint(write(tmp_path, attack.zipped(nested(*keys))))
    assert checkpoint.found_at == keys
    assert list(checkpoint.tensors) == ["conv.w"]


@pytest.mark.parametrize(
    ("names", "prefix", "result"),
    [
        (("module.a", "module.b"), "module.", ["a", "b"]),
        (("module.model.a", "module.model.b"), "module.model.", ["a", "b"]),
        (("module.a", "b"), "", ["module.a", "b"]),
        (("model.", "model.b"), "", ["model.", "model.b"]),
        (("features.a", "features.b"), "", ["features.a", "features.b"]),
        (("a", "b.num_batches_tracked"), "", ["a"]),
        (("module.a", "module.b.num_batches_tracked"), "module.", ["a"]),
    ],
)
def test_names(tmp_path: Path, names: tuple[str, ...], prefix: str, result: list[str]) -> None:
    body = attack.state({name: attack.tensor() for name in names})
    checkpoint = open_checkpoint(write(tmp_path, attack.zipped(body)))
    assert (checkpoint.prefix, list(checkpoint.tensors)) == (prefix, result)


def test_no_state_dict_or_several(tmp_path: Path) -> None:
    refused(tmp_path, attack.zipped(attack.pickled(b"}")), "no state dict")
    refused(tmp_path, attack.zipped(attack.pickled(b"]")), "no state dict")
    one = b"}(" + attack.text("w") + attack.tensor() + b"u"
    body = attack.pickled(b"}(" + attack.text("x") + one + attack.text("y") + one + b"u")
    refused(tmp_path, attack.zipped(body), "several sets of tensors")


@pytest.mark.parametrize("name", ["", "a" * (limits.MAX_NAME_LENGTH + 1), "a\nb", "\x1b[31m"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    refused(tmp_path, attack.zipped(attack.state({name: attack.tensor()})), "is named")


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
    legacy = attack.legacy(GOOD.replace(attack.integer(4) + b"tQ", attack.integer(4) + b"NtQ"))
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
    legacy = attack.legacy(GOOD.replace(attack.integer(4) + b"tQ", attack.integer(4) + b"NtQ"))
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


def test_checksums_that_pytorch_was_told_to_leave_out(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(3.0)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    np.testing.assert_array_equal(read_checkpoint(path)["w"], np.float32([0, 1, 2]))


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
    good = GOOD.replace(attack.integer(4) + b"tQ", attack.integer(4) + b"NtQ")
    count = struct.Struct("<q").pack
    refused(tmp_path, attack.legacy(good, storages=count(5) + bytes(20)), "should have 4 elements")
    refused(tmp_path, attack.legacy(good, storages=count(1 << 60) + ZERO), "truncated")
    refused(tmp_path, attack.legacy(good, storages=count(-4) + ZERO), "should have 4 elements")
    refused(tmp_path, attack.legacy(good, storages=b""), "truncated")
    refused(tmp_path, attack.legacy(good, ("0", "0")), "does not match")
    refused(tmp_path, attack.legacy(good, ("0", "1")), "does not match")
    refused(tmp_path, attack.legacy(good, ()), "does not match")
    refused(tmp_path, attack.legacy(good, keys={"0": 1}), "list of storages is damaged")
    twice = attack.state({"a": attack.tensor(), "b": attack.tensor("HalfStorage", numel=4)})
    refused(tmp_path, attack.legacy(twice), "declared twice")
