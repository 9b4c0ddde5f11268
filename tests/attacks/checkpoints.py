"""Pickles that try to run code, and checkpoints whose numbers or containers lie.

Assembled opcode by opcode, because Python's own pickler would not write most of them. The
command in :data:`COMMAND` leaves a trace file behind if anything ever executes it.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tinyface.errors import CheckpointError
from tinyface.formats.torch_checkpoint import read_checkpoint

TRACE = "tinyface-attack-was-executed"
COMMAND = f"touch {TRACE}"
MAGIC = 0x1950A86A20F9469CFC6C


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module: str, function: str) -> bytes:
    return b"c" + module.encode() + b"\n" + function.encode() + b"\n"


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def pickled(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def call(module: str, function: str, *arguments: bytes) -> bytes:
    return name(module, function) + b"(" + b"".join(arguments) + b"tR"


# name -> (pickle, what the error must name)
EXECUTING: dict[str, tuple[bytes, str]] = {
    "reduce os.system": (pickled(call("os", "system", text(COMMAND))), "os.system"),
    "reduce posix.system": (pickled(call("posix", "system", text(COMMAND))), "posix.system"),
    "builtins.eval": (
        pickled(call("builtins", "eval", text(f"__import__('os').system('{COMMAND}')"))),
        "builtins.eval",
    ),
    "python 2 eval": (pickled(call("__builtin__", "eval", text("1"))), "__builtin__.eval"),
    "builtins.getattr": (
        pickled(call("builtins", "getattr", text("x"), text("upper"))),
        "builtins.getattr",
    ),
    "subprocess": (pickled(call("subprocess", "Popen", text(COMMAND))), "subprocess.Popen"),
    "stack global": (
        pickled(b"\x8c\x02os\x8c\x06system\x93(" + text(COMMAND) + b"tR", 4),
        "os.system",
    ),
    "stack global dotted": (
        pickled(b"\x8c\x05torch\x8c\x10serialization.os\x93", 4),
        "torch.serialization.os",
    ),
    "inst": (pickled(b"(" + text(COMMAND) + b"ios\nsystem\n"), "INST"),
    "obj": (pickled(b"(" + name("os", "system") + text(COMMAND) + b"o"), "os.system"),
    "obj of a known name": (pickled(b"(" + name("torch", "Size") + b"o"), "OBJ"),
    "newobj": (pickled(name("collections", "OrderedDict") + b")\x81"), "NEWOBJ"),
    "newobj_ex": (pickled(name("torch", "Size") + b")}\x92", 4), "NEWOBJ_EX"),
    "ext1": (pickled(b"\x82\x01"), "EXT1"),
    "ext2": (pickled(b"\x83\x01\x00"), "EXT2"),
    "ext4": (pickled(b"\x84\x01\x00\x00\x00"), "EXT4"),
    "build on a dict": (pickled(b"}" + text("a") + b"}b"), "state of a str"),
    "build on a size": (pickled(call("torch", "Size") + b"}b"), "state of a tuple"),
    "call of a storage class": (
        pickled(call("torch", "FloatStorage", integer(1 << 40))),
        "torch.FloatStorage",
    ),
    "other torch function": (pickled(call("torch", "load", text("x"))), "torch.load"),
    "torch.jit": (
        pickled(call("torch.jit._script", "RecursiveScriptModule")),
        "RecursiveScriptModule",
    ),
    "whole model": (pickled(call("__main__", "Net")), "__main__.Net"),
    "numpy scalar": (
        pickled(call("numpy.core.multiarray", "scalar")),
        "numpy.core.multiarray.scalar",
    ),
    "text persistent id": (pickled(b"Pos.system\n"), "PERSID"),
    "out-of-band buffer": (pickled(b"\x97", 5), "NEXT_BUFFER"),
    "memo trick": (
        pickled(name("os", "system") + b"q\x000h\x00(" + text(COMMAND) + b"tR"),
        "os.system",
    ),
    "pickle inside": (pickled(call("pickle", "loads", text("x"))), "pickle.loads"),
    "_rebuild_from_type_v2": (
        pickled(call("torch._tensor", "_rebuild_from_type_v2", name("os", "system"))),
        "_rebuild_from_type_v2",
    ),
    "escape sequence in the name": (pickled(b"c\x1b[2Jos\nsystem\n"), r"\x1b[2Jos.system"),
}

MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "only protocol": b"\x80\x02",
    "protocol 0": b"I1\n.",
    "protocol 9": pickled(b"N", 9),
    "stop on an empty stack": pickled(b""),
    "stop on a mark": pickled(b"("),
    "tuple without mark": pickled(b"t"),
    "tuple3 of two": pickled(b"NN\x87"),
    "append to nothing": pickled(b"Na"),
    "append to a dict": pickled(b"}Na"),
    "odd items": pickled(b"}(Nu"),
    "items of a list": pickled(b"](NNu"),
    "list as key": pickled(b"}]Ns"),
    "tuple as key": pickled(b"})Ns"),
    "get before put": pickled(b"h\x05"),
    "put of nothing": pickled(b"q\x05"),
    "reduce of a string": pickled(text("os.system") + b")R"),
    "reduce without tuple": pickled(name("torch", "Size") + b"NR"),
    "persistent id of a number": pickled(b"K\x01Q"),
    "unknown opcode": pickled(b"\xff"),
    "string longer than the file": pickled(b"X\xff\xff\xff\x7fabc"),
    "long text of 4 GB": pickled(b"\x8d\xff\xff\xff\xff\x00\x00\x00\x00a", 4),
    "bytes of 2^62": pickled(b"\x8e" + struct.pack("<Q", 1 << 62), 4),
    "broken utf-8": pickled(b"X\x02\x00\x00\x00\xff\xfe"),
    "size of a number": pickled(name("torch", "Size") + b"(K\x01tR"),
    "dict of a number": pickled(name("collections", "OrderedDict") + b"(K\x01tR"),
    "too many arguments": pickled(name("torch", "Size") + b"(NNNNNtR"),
    "parameter of nothing": pickled(name("torch._utils", "_rebuild_parameter") + b"(N\x88NtR"),
    "long4": pickled(b"\x8b\x01\x00\x00\x00\x01"),
    "endless work": pickled(
        name("torch", "Size") + b"q\x010](" + b"N" * 5000 + b"eq\x020" + b"h\x01h\x02\x85R0" * 1000
    ),
    "too many steps": pickled(b"N0" * 1_100_000 + b"N"),
    "deep tuples": pickled(b"N" + b"\x85" * 200_000),
    "deep lists": pickled(b"]" * 200_000 + b"a" * 199_999),
    "list within itself": pickled(b"]q\x00h\x00a"),
    "dict within itself": pickled(b"}q\x00" + text("state_dict") + b"h\x00s"),
}


def storage(kind: str, key: str, numel: int, *rest: bytes) -> bytes:
    """A persistent id; the legacy format has one more field."""
    return (
        b"("
        + text("storage")
        + name("torch", kind)
        + text(key)
        + text("cpu")
        + integer(numel)
        + b"".join(rest)
        + b"tQ"
    )


def tensor(
    kind: str = "FloatStorage",
    key: str = "0",
    numel: int = 4,
    offset: int = 0,
    shape: tuple[int, ...] = (4,),
    strides: tuple[int, ...] = (1,),
    *rest: bytes,
) -> bytes:
    sides = b"(" + b"".join(map(integer, shape)) + b"t"
    steps = b"(" + b"".join(map(integer, strides)) + b"t"
    hooks = name("collections", "OrderedDict") + b")R"
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + storage(kind, key, numel, *rest)
        + integer(offset)
        + sides
        + steps
        + b"\x89"
        + hooks
        + b"tR"
    )


def state(tensors: Mapping[str, bytes]) -> bytes:
    """A pickled dict of tensors."""
    return pickled(b"}(" + b"".join(text(k) + v for k, v in tensors.items()) + b"u")


def zipped(
    pickle_bytes: bytes,
    records: Mapping[str, bytes] | None = None,
    *,
    method: int = zipfile.ZIP_STORED,
    root: str = "archive",
) -> bytes:
    """A zip checkpoint; ``records`` by their name below the root."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(f"{root}/data.pkl", pickle_bytes)
        for key, value in (records if records is not None else {"data/0": bytes(16)}).items():
            archive.writestr(f"{root}/{key}", value)
    return buffer.getvalue()


def legacy(
    body: bytes,
    keys: object = ("0",),
    storages: bytes = struct.pack("<q", 4) + bytes(16),
    magic: int = MAGIC,
    version: int = 1001,
) -> bytes:
    """A checkpoint in the older format; ``body`` is the pickled state dict."""
    parts = [magic, version, {"protocol_version": 1001, "little_endian": True}]
    listed = list(keys) if isinstance(keys, tuple) else keys
    head = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    return head + body + pickle.dumps(listed, protocol=2) + storages


# name -> keyword arguments of tensor() that must be refused
LYING_TENSORS: dict[str, dict[str, object]] = {
    "one too many": {"shape": (5,)},
    "offset beyond": {"offset": 1},
    "offset huge": {"offset": 1 << 62},
    "negative offset": {"offset": -1},
    "negative stride": {"strides": (-1,)},
    "negative side": {"shape": (-4,)},
    "stride beyond": {"strides": (2,)},
    "product overflows 64 bits": {"shape": (1 << 32, 1 << 32), "strides": (0, 0)},
    "expanded to gigabytes": {"shape": (1 << 20, 1 << 12), "strides": (0, 0)},
    "side over the limit": {"shape": (1 << 30, 0), "strides": (1, 1)},
    "rank 9": {"shape": (1,) * 9, "strides": (1,) * 9},
    "ranks differ": {"shape": (2, 2), "strides": (1,)},
    "storage larger than its record": {"numel": 1 << 40},
    "storage of negative size": {"numel": -1},
    "quantised storage": {"kind": "QInt8Storage"},
    "complex storage": {"kind": "ComplexFloatStorage"},
}

GOOD = state({"w": tensor()})
# the older format's id of a storage has a sixth field: None, or (key, offset, length) of a view
GOOD_LEGACY = GOOD.replace(integer(4) + b"tQ", integer(4) + b"NtQ")


def write(folder: Path, content: bytes) -> Path:
    path = folder / "file.pth"
    path.write_bytes(content)
    return path


def refused(folder: Path, content: bytes, match: str | None = None) -> str:
    """The message, which is one line and names the file."""
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(write(folder, content))
    message = str(caught.value)
    assert "\n" not in message and "file.pth" in message
    return message
