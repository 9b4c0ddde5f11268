"""The card of a model: how to feed it, what it is for, where it comes from, what it may do.

A card travels inside the model file, so that no one has to guess the colour order or the
licence. It is read from files that anybody may have written: every field is checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tinyface.errors import FormatError

CHANNELS: Final = {"rgb": 3, "bgr": 3, "gray": 1}
TASKS: Final = ("embed", "detect", "other")
MAX_TEXT: Final = 20_000  # characters of a free-text field
MAX_SIDE: Final = 4096  # pixels
MAX_ENTRIES: Final = 1000  # of a table


@dataclass(frozen=True)
class Preprocess:
    """From pixels to the network's input: ``y = (x - mean) * scale`` per channel.

    height, width: pixels, 1...4096. A detector takes other sizes, too.
    colour: order of the channels, "rgb", "bgr" or "gray".
    mean, scale: one number per channel, in that order; x is 0...255.

    Raises:
        FormatError: on construction, a value out of these ranges.
    """

    height: int
    width: int
    colour: str = "rgb"
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)
    scale: tuple[float, ...] = (1 / 128, 1 / 128, 1 / 128)

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MAX_SIDE:
                raise _refuse(f"preprocess.{name}", value, f"a number of pixels, 1 to {MAX_SIDE}")
        if not isinstance(self.colour, str) or self.colour not in CHANNELS:
            raise _refuse("preprocess.colour", self.colour, f"one of {', '.join(CHANNELS)}")
        for name in ("mean", "scale"):
            values = getattr(self, name)
            channels = CHANNELS[self.colour]
            if not isinstance(values, (tuple, list)) or not all(map(_is_number, values)):
                raise _refuse(f"preprocess.{name}", values, "a list of finite numbers")
            if len(values) != channels or any(abs(v) > 1e6 for v in values):
                raise _refuse(f"preprocess.{name}", values, f"{channels} numbers up to 1e6")
            object.__setattr__(self, name, tuple(map(float, values)))
        if not all(map(np.float32, self.scale)):  # of 1e-300, too, nothing is left there
            raise _refuse("preprocess.scale", self.scale, "other than 0")

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures to the network's input.

        Args:
            images: ``uint8 (N, H, W, 3)``, RGB.

        Returns:
            ``float32 (N, C, H, W)``, C-contiguous.
        """
        if self.colour == "bgr":
            images = images[..., ::-1]
        elif self.colour == "gray":
            images = to_gray(images)[..., None]
        x = images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        x -= np.array(self.mean, np.float32)[:, None, None]
        x *= np.array(self.scale, np.float32)[:, None, None]
        return x


def to_gray(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, rounded: ``(..., 3) -> (...)``.

    In 16-bit fixed point, like Pillow's mode "L", so that the grey values are the same.
    """
    r, g, b = (images[..., c].astype(np.uint32) for c in range(3))
    luma = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16
    return luma.astype(np.uint8)


@dataclass(frozen=True)
class Card:
    """What a model file says about its weights.

    name: of the weights; need not be that of the network.
    task: "embed", "detect", or "other": it runs and is profiled, and nobody reads its output.
    embedding_size: length of the embedding; 0 for a detector.
    thresholds: cosine similarity above which two faces count as the same person, by
        false-match rate: ``{"1e-3": 0.31}``.
    detector: priors and thresholds of a detector, see :class:`tinyface.vision.priors.Priors`.
    licence, data, source: of the weights; what they were trained on; where they come from.
    figures: measured quality, such as ``{"LFW accuracy": 0.9937}``.
    notes: anything else, such as limits of use.
    checksum: SHA-256 of the file that the weights were imported from, in hexadecimal.
    stored: element type of the weights in the file; set when it is read.

    Raises:
        FormatError: on construction, a field of the wrong type or out of range.
    """

    name: str
    task: str
    preprocess: Preprocess
    embedding_size: int = 0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    detector: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    data: str = ""
    source: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""
    checksum: str = ""
    stored: str = field(default="float32", compare=False)

    def __post_init__(self) -> None:
        for name in ("name", "licence", "data", "source", "notes", "checksum"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > MAX_TEXT:
                raise _refuse(name, value, f"text of at most {MAX_TEXT} characters")
            if not all(c.isprintable() or c == "\n" for c in value):
                raise _refuse(name, value, "printable text")
        if not 1 <= len(self.name) <= 200 or "\n" in self.name:
            raise _refuse("name", self.name, "1 to 200 characters in one line")
        if self.task not in TASKS:
            raise _refuse("task", self.task, f"one of {', '.join(TASKS)}")
        if not isinstance(self.preprocess, Preprocess):
            raise _refuse("preprocess", self.preprocess, "an object")
        if type(self.embedding_size) is not int or not 0 <= self.embedding_size <= 65536:
            raise _refuse("embedding_size", self.embedding_size, "0 to 65536")
        if len(self.checksum) not in (0, 64) or not set(self.checksum) <= set("0123456789abcdef"):
            raise _refuse("checksum", self.checksum, "a SHA-256 in hexadecimal, or empty")
        _check_thresholds(self.thresholds)
        for name in ("detector", "figures"):
            _check_table(name, getattr(self, name))

    def to_json(self) -> dict[str, Any]:
        """All fields that are not empty, for the model file."""
        document = {k: v for k, v in asdict(self).items() if v not in ("", {}, 0)}
        del document["stored"]
        return document

    @staticmethod
    def from_json(document: Any) -> Card:
        """The card that :meth:`to_json` wrote.

        Raises:
            FormatError: not an object, a field is missing or unknown, or has a bad value.
        """
        known = {f.name for f in fields(Card)} - {"stored"}
        given = _object("card", document, known, {"name", "task", "preprocess"})
        shape = {f.name for f in fields(Preprocess)}
        given["preprocess"] = Preprocess(
            **_object("preprocess", given["preprocess"], shape, {"height", "width"})
        )
        return Card(**given)


def _object(name: str, value: Any, known: set[str], needed: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(name, value, "an object")
    for key in value.keys() - known:
        raise _refuse(name, key, "without unknown fields; this file needs a newer tinyface")
    for key in needed - value.keys():
        raise FormatError(f"the card has no '{key}'{' in ' + name if name != 'card' else ''}")
    return dict(value)


def _check_thresholds(table: Any) -> None:
    if not isinstance(table, Mapping) or len(table) > MAX_ENTRIES:
        raise _refuse("thresholds", table, "an object")
    seen: set[float] = set()  # "1e-3" and "0.001" are one rate
    for rate, value in table.items():
        try:
            good = 0 < float(rate) <= 1 and _is_number(value) and -1 <= value <= 1
            good = good and float(rate) not in seen
            seen.add(float(rate))
        except (TypeError, ValueError):
            good = False
        if not good:
            raise _refuse(
                "thresholds",
                {rate: value},
                "false-match rates (0 to 1), each once, with cosines (-1 to 1)",
            )


def _check_table(name: str, table: Any, depth: int = 0) -> None:
    """JSON values without surprises: finite numbers, texts, and lists or objects of such."""
    if depth == 0 and not isinstance(table, Mapping):
        raise _refuse(name, table, "an object")
    if isinstance(table, (Mapping, list, tuple)):
        if depth > 4 or len(table) > MAX_ENTRIES:
            raise _refuse(name, "too many or too deeply nested values", "a small table")
        for key in table if isinstance(table, Mapping) else ():
            _check_table(name, key, 5)
        for value in table.values() if isinstance(table, Mapping) else table:
            _check_table(name, value, depth + 1)
    elif isinstance(table, str):
        if len(table) > MAX_TEXT or not table.isprintable():
            raise _refuse(name, table, "printable text")
    elif table is not None and not isinstance(table, bool) and not _is_number(table):
        raise _refuse(name, table, "finite numbers and text")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1 << 63 and math.isfinite(value)


def _refuse(name: str, value: Any, expected: str) -> FormatError:
    return FormatError(f"the card's {name} is {str(value)[:80]!r}; expected: {expected}")
