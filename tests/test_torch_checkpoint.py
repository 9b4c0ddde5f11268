"""The restricted reader of PyTorch checkpoints: reads tensors, executes nothing."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import checkpoints as attack
from attacks.checkpoints import GOOD, GOOD_LEGACY, refused, write
from shared import SHARED, needs_shared

from tinyface import limits
from tinyface.errors import CheckpointError
from tinyface.formats.torch_checkpoint import open_checkpoint, read_checkpoint

PUBLIC = ("mobilefacenet.pt", "retinaface_mnet025.pth", "retinaface_mnet025_lowres.pth")


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


@needs_shared
@pytest.mark.parametrize("name", PUBLIC)
def test_public_checkpoint_equals_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    path = SHARED / "weights" / name
    theirs = torch.load(path, weights_only=True, map_location="cpu")
    assert_same(
        read_checkpoint(path),
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
    got = read_checkpoint(
        write(tmp_path, attack.legacy(GOOD_LEGACY, storages=struct.pack("<q", 4) + data))
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


def test_big_endian(tmp_path: Path) -> None:
    records = {"byteorder": b"big", "data/0": struct.pack(">4f", 1, 2, 3, 4)}
    got = read_checkpoint(write(tmp_path, attack.zipped(GOOD, records)))
    np.testing.assert_array_equal(got["w"], np.float32([1, 2, 3, 4]), strict=True)
    assert got["w"].dtype.isnative
    body = attack.state({"w": attack.tensor("BFloat16Storage", "0", 2, 0, (2,), (1,))})
    records = {"byteorder": b"big", "data/0": b"\x3f\x80\xc0\x00"}  # 1, -2
    got = read_checkpoint(write(tmp_path, attack.zipped(body, records)))
    np.testing.assert_array_equal(got["w"], np.float32([1, -2]), strict=True)
    refused(tmp_path, attack.zipped(GOOD, {"byteorder": b"pdp", "data/0": bytes(16)}), "byte order")


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


def test_of_several_sets_of_tensors_the_backbone_is_the_network(tmp_path: Path) -> None:
    """As arcface_torch of insightface keeps them, with the head that is of use in training."""
    sets = b"".join(
        attack.text(key) + b"}(" + attack.text(name) + attack.tensor() + b"u"
        for key, name in (("state_dict_softmax_fc", "weight"), ("state_dict_backbone", "conv.w"))
    )
    checkpoint = open_checkpoint(
        write(tmp_path, attack.zipped(attack.pickled(b"}(" + sets + b"u")))
    )
    assert checkpoint.found_at == ("state_dict_backbone",) and list(checkpoint.tensors) == [
        "conv.w"
    ]


def test_no_state_dict_or_several(tmp_path: Path) -> None:
    refused(tmp_path, attack.zipped(attack.pickled(b"}")), "no state dict")
    refused(tmp_path, attack.zipped(attack.pickled(b"]")), "no state dict")
    one = b"}(" + attack.text("w") + attack.tensor() + b"u"
    body = attack.pickled(b"}(" + attack.text("x") + one + attack.text("y") + one + b"u")
    refused(tmp_path, attack.zipped(body), "several sets of tensors")


@pytest.mark.parametrize("name", ["", "a" * (limits.MAX_NAME_LENGTH + 1), "a\nb", "\x1b[31m"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    refused(tmp_path, attack.zipped(attack.state({name: attack.tensor()})), "is named")
