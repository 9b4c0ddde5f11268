"""The two files of an ncnn model: layers as lines of text (.param), weights in a row (.bin).

    7767517
    layers blobs
    Type name inputs outputs [input blobs] [output blobs] [id=value] [-23300-id=count,value,...]

A weight begins with four bytes that tell how it is stored, where its layer allows several ways;
small vectors are plain float32. Everything is aligned to four bytes.
Source of the format: Tencent/ncnn, docs/developer-guide/param-and-model-file-structure.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tinyface import limits
from tinyface.errors import FormatError
from tinyface.formats.arrays import ITEMSIZE, Array, map_file, view

MAGIC: Final = "7767517"
_ARRAYS: Final = -23300  # ids at and below it are those of arrays
_MAX_IDS: Final = 32
_STORED: Final = {  # the four bytes -> element type
    0x00000000: "float32",
    0x0002C056: "float32",
    0x01306B47: "float16",
    0x01348B83: "bfloat16",
}

Number = int | float


@dataclass(frozen=True)
class Layer:
    """One line of the .param file.

    ``where`` is its place for messages. ``params`` are numbers by id, ``arrays`` lists,
    ``texts`` what stands in quotes: sizes that are computed.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, Number]
    arrays: Mapping[int, tuple[Number, ...]]
    texts: Mapping[int, str]
    where: str

    def refuse(self, problem: str) -> FormatError:
        return FormatError(f"{self.where}: layer {self.name!r} ({self.kind}): {problem}")

    def whole(self, key: int, default: int) -> int:
        """An integer parameter."""
        value = self.params.get(key, default)
        if not isinstance(value, int) and not value.is_integer():
            raise self.refuse(f"parameter {key} is {value}, not a whole number")
        return int(value)

    def real(self, key: int, default: float) -> float:
        return float(self.params.get(key, default))

    def known(self, *keys: int) -> None:
        """Refuse parameters that would change what the layer computes and are not read."""
        for key in (*self.params, *self.arrays, *self.texts):
            if key not in keys:
                raise self.refuse(f"its parameter {key} is not known here")


def read_layers(path: Path) -> list[Layer]:
    """The layers of a .param file, in order.

    Raises:
        FormatError: too large, not text, or a line that does not have the form above.
    """
    data = map_file(path)
    if len(data) > limits.MAX_HEADER_BYTES:
        raise FormatError(f"{path}: {len(data)} bytes (at most {limits.MAX_HEADER_BYTES})")
    try:
        lines = data[:].decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise FormatError(f"{path}: not a text file") from None
    if len(lines) < 2 or lines[0].strip() != MAGIC:
        raise FormatError(f"{path}: not an ncnn .param file (its first line is not {MAGIC})")
    layers = [
        _parse_line(line.split(), f"{path}, line {number}")
        for number, line in enumerate(lines[2:], start=3)
        if line.strip()
    ]
    counts = lines[1].split()
    if counts[:1] != [str(len(layers))]:
        raise FormatError(
            f"{path}: announces {' '.join(counts)[:40]!r} layers and blobs and has {len(layers)} "
            "layers; the file is truncated"
        )
    if not 1 <= len(layers) <= limits.MAX_NODES:
        raise FormatError(f"{path}: {len(layers)} layers (1 to {limits.MAX_NODES})")
    return layers


def _parse_line(words: Sequence[str], where: str) -> Layer:
    if any(not w.isprintable() or len(w) > limits.MAX_NAME_LENGTH * 8 for w in words):
        raise FormatError(f"{where}: holds characters that are no text, or an endless word")
    try:
        kind, name, first, second, *rest = words
        fan_in, fan_out = int(first), int(second)
        if not (0 <= fan_in <= limits.MAX_INPUTS and 0 <= fan_out <= limits.MAX_INPUTS):
            raise ValueError
        inputs, outputs = rest[:fan_in], rest[fan_in : fan_in + fan_out]
        if len(outputs) != fan_out or any("=" in blob for blob in inputs + outputs):
            raise ValueError
        parsed = _parse_params(rest[fan_in + fan_out :])
    except ValueError:
        raise FormatError(f"{where}: not a layer: {' '.join(words)[:80]!r}") from None
    return Layer(kind, name, tuple(inputs), tuple(outputs), *parsed, where)


def _parse_params(
    words: Sequence[str],
) -> tuple[dict[int, Number], dict[int, tuple[Number, ...]], dict[int, str]]:
    """``id=value``, ``-23300-id=count,value,...`` and ``id="text"``; raises ValueError."""
    params: dict[int, Number] = {}
    arrays: dict[int, tuple[Number, ...]] = {}
    texts: dict[int, str] = {}
    for word in words:
        left, _, right = word.partition("=")
        key = int(left)
        if key <= _ARRAYS:
            count, *values = right.split(",")
            key = _ARRAYS - key
            arrays[key] = tuple(map(_number, values))
            if int(count) != len(values):
                raise ValueError
        elif right.startswith('"'):
            texts[key] = right.removeprefix('"').removesuffix('"')
        elif "," in right:  # newer files write arrays like this
            arrays[key] = tuple(map(_number, right.rstrip(",").split(",")))
        else:
            params[key] = _number(right)
        if not 0 <= key < _MAX_IDS:
            raise ValueError
    if len(params) + len(arrays) + len(texts) != len(words):  # one named twice
        raise ValueError
    return params, arrays, texts


def _number(text: str) -> Number:
    value = float(text)
    if not math.isfinite(value) or abs(value) > limits.MAX_FLOAT * (1 + 1e-8):
        raise ValueError
    value = max(-limits.MAX_FLOAT, min(value, limits.MAX_FLOAT))  # ncnn writes 3.40282347e38
    return int(text) if text.lstrip("+-").isdecimal() else value


class Weights:
    """Reads the .bin file from its beginning; every read is checked against its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = map_file(path)
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def vector(self, layer: Layer, count: int) -> Array:
        """``count`` plain float32."""
        return self._take(layer, "float32", count)

    def tagged(self, layer: Layer, count: int) -> Array:
        """``count`` numbers behind four bytes that say how they are stored.

        Raises:
            FormatError: quantised weights, or the file ends.
        """
        tag = int(self._take(layer, "uint32", 1)[0])
        if tag not in _STORED:
            raise layer.refuse("its weights are quantised; import the float32 or float16 model")
        return self._take(layer, _STORED[tag], count)

    def _take(self, layer: Layer, dtype: str, count: int) -> Array:
        if not 0 < count <= limits.MAX_TENSOR_BYTES // 4:
            raise layer.refuse(f"a weight of {count} numbers")
        nbytes = count * ITEMSIZE[dtype]
        if nbytes > self.left:
            raise layer.refuse(
                f"its weights need {nbytes} bytes and {self.path.name} has {self.left} left; it "
                "is truncated, or belongs to another .param"
            )
        array = view(self.data, dtype, self.position, (count,))
        self.position += nbytes + -nbytes % 4
        return array if dtype == "uint32" else array.astype("float32", copy=False)
