"""Makers of ncnn models: good ones from lines of text and arrays, and broken ones."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

FLOAT16 = 0x01306B47


def param(*lines: str, layers: int | None = None, blobs: int = 0) -> str:
    """A .param file of these layer lines."""
    count = len(lines) if layers is None else layers
    return "\n".join(["7767517", f"{count} {blobs or count}", *lines, ""])


def tagged(array: np.ndarray, half: bool = False) -> bytes:
    """A weight behind its four bytes."""
    if not half:
        return bytes(4) + array.astype("<f4").tobytes()
    raw = array.astype("<f2").tobytes()
    return FLOAT16.to_bytes(4, "little") + raw + bytes(-len(raw) % 4)


def plain(arrays: Iterable[np.ndarray]) -> bytes:
    """Vectors that are always float32."""
    return b"".join(np.asarray(a).astype("<f4").tobytes() for a in arrays)


INPUT = "Input in 0 1 in 0=4 1=4 2=3"
CONV = "Convolution conv 1 1 in out 0=2 1=1 6=6"
WEIGHTS = tagged(np.arange(6.0))

# rule -> (.param, .bin, what the error says)
BROKEN: dict[str, tuple[str, bytes, str]] = {
    "other magic": (param(INPUT).replace("7767517", "7767518"), b"\0", "first line"),
    "no layers": ("7767517\n", b"\0", "first line"),
    "zero layers": ("7767517\n0 0\n", b"\0", "0 layers"),
    "truncated": (param(INPUT, CONV, layers=3), WEIGHTS, "truncated"),
    "counts are words": ("7767517\na b\n", b"\0", "truncated"),
    "unknown layer": (param(INPUT, "Exec bad 1 1 in out"), b"\0", r"line 4: layer 'bad' \(Exec\)"),
    "escape sequence": (param(INPUT, "Noop \x1b[2J 1 1 in out"), b"\0", "line 4"),
    "too few words": (param(INPUT, "Noop x"), b"\0", "line 4: not a layer"),
    "fan-in not a number": (param(INPUT, "Noop x one 1 in out"), b"\0", "not a layer"),
    "fan-in negative": (param(INPUT, "Noop x -1 1 in out"), b"\0", "not a layer"),
    "fan-in huge": (param(INPUT, "Noop x 999999999999 1 in out"), b"\0", "not a layer"),
    "blobs missing": (param(INPUT, "Noop x 1 1 in"), b"\0", "not a layer"),
    "parameter without value": (param(INPUT, "Noop x 1 1 in out 0="), b"\0", "not a layer"),
    "parameter a word": (param(INPUT, "Noop x 1 1 in out 0=a"), b"\0", "not a layer"),
    "parameter nan": (param(INPUT, "Noop x 1 1 in out 0=nan"), b"\0", "not a layer"),
    "parameter infinite": (param(INPUT, "Noop x 1 1 in out 0=1e999"), b"\0", "not a layer"),
    "parameter id": (param(INPUT, "Noop x 1 1 in out 99=1"), b"\0", "not a layer"),
    "parameter twice": (param(INPUT, "Noop x 1 1 in out 0=1 0=2"), b"\0", "not a layer"),
    "array count": (param(INPUT, "Noop x 1 1 in out -23300=3,1,2"), b"\0", "not a layer"),
    "unknown parameter": (param(INPUT, "Sigmoid x 1 1 in out 5=1"), b"\0", "parameter 5"),
    "half a pixel": (param(INPUT, CONV.replace("1=1", "1=1.5")), WEIGHTS, "not a whole number"),
    "unknown blob": (param(INPUT, "Noop x 1 1 other out"), b"\0", "reads 'other'"),
    "blob made twice": (param(INPUT, "Noop x 1 1 in in"), b"\0", "makes 'in'"),
    "cycle": (param(INPUT, "Noop x 1 1 out out"), b"\0", "reads 'out'"),
    "layer of one name": (
        param(INPUT, "Sigmoid x 1 1 in a", "Sigmoid x 1 1 a b"),
        b"\0",
        "this name|defined twice",
    ),
    "outputs": (param(INPUT, "Sigmoid x 1 2 in a b"), b"\0", "makes 1 blobs, not 2"),
    "no input": (param(INPUT, "Concat x 0 1 out"), b"\0", "line 4"),
    "weights end": (param(INPUT, CONV), WEIGHTS[:-1], "truncated, or belongs"),
    "weights are left over": (param(INPUT, CONV), WEIGHTS + bytes(100), "left over"),
    "weights empty": (param(INPUT, CONV), b"", "empty"),
    "weights quantised": (param(INPUT, CONV), b"\1\2\3\4" + bytes(100), "quantised"),
    "int8": (param(INPUT, CONV + " 8=1"), WEIGHTS, "int8"),
    "weight size 2^62": (
        param(INPUT, CONV.replace("6=6", "6=4611686018427387904")),
        WEIGHTS,
        "a weight of",
    ),
    "weight size negative": (param(INPUT, CONV.replace("6=6", "6=-6")), WEIGHTS, "a weight of"),
    "weight size does not fit": (param(INPUT, CONV.replace("6=6", "6=5")), WEIGHTS, "do not make"),
    "kernel 0": (param(INPUT, CONV.replace("1=1", "1=0")), WEIGHTS, "do not make"),
    "stride 0": (param(INPUT, CONV + " 3=0"), WEIGHTS, "do not make"),
    "groups 0": (param(INPUT, CONV + " 7=0"), WEIGHTS, "do not make"),
    "groups": (param(INPUT, CONV + " 7=2"), WEIGHTS, "groups"),
    "pad negative": (param(INPUT, CONV + " 4=-7"), WEIGHTS, "pad"),
    "pad with ones": (param(INPUT, CONV + " 18=1.0"), WEIGHTS, "pad other than 0"),
    "activation": (param(INPUT, CONV + " 9=5"), WEIGHTS, "activation 5"),
    "activation constants": (param(INPUT, CONV + " 9=3"), WEIGHTS, "activation 3"),
    "window 0": (param(INPUT, "Pooling x 1 1 in out 0=0 1=0"), b"\0", "window"),
    "window": (param(INPUT, "Pooling x 1 1 in out 0=0 1=9 5=1"), b"\0", "line 4"),
    "tagged data": (param(INPUT, "MemoryData x 0 1 out 0=4 21=0"), b"\0" * 32, "stored as"),
    "left by pnnx": (param(INPUT, "torch.unbind x 1 1 in out"), b"\0", "pnnx could not convert"),
    "operation": (param(INPUT, "BinaryOp x 1 1 in out 0=10 1=1"), b"\0", "operation 10"),
    "operand missing": (param(INPUT, "BinaryOp x 1 1 in out 0=0"), b"\0", "line 4"),
    "axis": (param(INPUT, "Softmax x 1 1 in out 0=3"), b"\0", "axis 3"),
    "slices": (param(INPUT, "Slice x 1 2 in a b -23300=2,7,-233"), b"\0", "line 4"),
    "reshape": (param(INPUT, "Reshape x 1 1 in out 0=7"), b"\0", "does not fit"),
    "size left free": (
        param("Input in 0 1 in", "Reshape x 1 1 in out 0=7"),
        b"\0",
        "tried was 112x112, see",
    ),
    "resize to nothing": (
        param(INPUT, "Interp x 1 1 in out 0=1 1=0.001 2=0.001"),
        b"\0",
        "nothing is left",
    ),
    "input huge": (param("Input in 0 1 in 0=999999999 1=4 2=3"), b"\0", "side of"),
    "scale weights": (param(INPUT, "Scale x 1 1 in out 0=3 1=1"), plain([np.ones(3)]), "truncated"),
    "batch norm of another width": (
        param(INPUT, "BatchNorm x 1 1 in out 0=2"),
        plain([np.ones(8)]),
        "gamma|shape",
    ),
}
