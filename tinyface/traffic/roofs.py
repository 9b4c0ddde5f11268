"""What a machine can do at most, and which of its roofs holds an operator.

A roofs file is JSON, as measured on one machine::

    {"gmac_per_s": 24.0,
     "levels": [{"name": "L1d", "bytes": 32768, "gb_per_s": 60.0},
                {"name": "L2", "bytes": 1048576, "gb_per_s": 20.0},
                {"name": "DRAM", "gb_per_s": 4.0}]}

or, as ``tinyface doctor --roofline`` writes it, ``engines``: a list of such entries, each with
its ``isa`` and ``threads`` (roofline.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyface.errors import UsageError
from tinyface.types import Cost

MAX_FILE = 1 << 20
MAX_LEVELS = 8
MAX_ENGINES = 64
EXPLAINED = 0.5  # a roof that accounts for less of the time than this does not hold the operator


@dataclass(frozen=True)
class Level:
    """One level of the memory hierarchy.

    nbytes: its capacity; None for main memory. gb_per_s: 10^9 bytes a second that it delivers.
    """

    name: str
    gb_per_s: float
    nbytes: int | None = None


@dataclass(frozen=True)
class Roofs:
    """Peak 10^9 MAC/s, and the levels of memory from the fastest to main memory."""

    gmac_per_s: float
    levels: tuple[Level, ...]

    @staticmethod
    def from_json(document: Mapping[str, Any], isa: str = "", threads: int = 1) -> Roofs:
        """From the form above, or a document that has it under ``roofs``.

        isa, threads: which of several ``engines`` is wanted; the instruction set must be there,
        of the numbers of threads the largest that is not larger is taken.

        Raises:
            UsageError: something is missing or is not a positive number.
        """
        found = document.get("roofs", document)
        try:
            if "engines" in found:
                found = _engine(found["engines"], isa, threads)
            levels = found["levels"]
            if not 1 <= len(levels) <= MAX_LEVELS:
                raise ValueError(f"{len(levels)} levels, not 1 to {MAX_LEVELS}")
            return Roofs(_positive(found["gmac_per_s"]), tuple(map(_level, levels)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"the roofs are malformed ({type(error).__name__}: {error}): give gmac_per_s and "
                "levels, each with a name, gb_per_s and, but for main memory, bytes"
            ) from None

    @staticmethod
    def read(path: str | Path, isa: str = "", threads: int = 1) -> Roofs:
        """From a JSON file; isa, threads: as for :meth:`from_json`.

        Raises:
            UsageError: it cannot be read, or is no roofs file.
        """
        try:
            with open(path, "rb") as file:
                text = file.read(MAX_FILE + 1)
            if len(text) > MAX_FILE:
                raise ValueError("too long")
            document = json.loads(text)
            if not isinstance(document, dict):
                raise ValueError("not a JSON object")
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; name a file with roofs") from None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: no roofs file ({error}); see docs/profile.md") from None
        return Roofs.from_json(document, isa, threads)

    def level_for(self, nbytes: int) -> Level:
        """The first level that holds ``nbytes``; else the last one."""
        fitting = (lv for lv in self.levels if lv.nbytes is None or nbytes <= lv.nbytes)
        return next(fitting, self.levels[-1])

    def bound(self, cost: Cost, time_ns: int, network_weights: int) -> str:
        """What holds an operator: "compute", the name of a level of memory, or "overhead".

        Each roof gives the least time it allows. Feature maps come from the level that holds
        the operator's own; weights from the level that holds those of the whole network,
        because they pass once a run. The roof that allows less speed holds, if it accounts for
        at least half the time; else the time went elsewhere: calls, packing, a kernel that is
        far from its roof. Where maps and weights come from two levels, the one that takes
        longer is named.

        Args:
            cost: compulsory, of the operator.
            time_ns: measured.
            network_weights: bytes of weights of the whole network.
        """
        compute_ns = cost.macs / self.gmac_per_s
        maps = cost.feature_read + cost.feature_write
        near, far = self.level_for(maps), self.level_for(network_weights)
        maps_ns, weights_ns = maps / near.gb_per_s, cost.weight / far.gb_per_s
        if max(compute_ns, maps_ns + weights_ns) < EXPLAINED * time_ns:
            return "overhead"
        if compute_ns >= maps_ns + weights_ns:
            return "compute"
        return (near if maps_ns >= weights_ns else far).name

    def to_json(self) -> dict[str, Any]:
        """The form of a roofs file."""
        levels = [
            {"name": lv.name, "gb_per_s": lv.gb_per_s}
            | ({} if lv.nbytes is None else {"bytes": lv.nbytes})
            for lv in self.levels
        ]
        return {"gmac_per_s": self.gmac_per_s, "levels": levels}


def _engine(entries: Sequence[Any], isa: str, threads: int) -> Mapping[str, Any]:
    """The entry for an instruction set and the nearest number of threads."""
    if not 1 <= len(entries) <= MAX_ENGINES:
        raise ValueError(f"{len(entries)} engines, not 1 to {MAX_ENGINES}")
    own = [entry for entry in entries if not isa or entry["isa"] == isa]
    if not own:
        raise ValueError(f"nothing about {isa}")
    few = [entry for entry in own if _positive(entry["threads"]) <= threads]
    found: Mapping[str, Any] = max(few or own, key=lambda entry: _positive(entry["threads"]))
    return found


def _level(entry: Mapping[str, Any]) -> Level:
    name, size = entry["name"], entry.get("bytes")
    if not isinstance(name, str):
        raise ValueError(f"a level is called {name!r}")
    return Level(name, _positive(entry["gb_per_s"]), None if size is None else int(_positive(size)))


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is no number")
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{value!r} is not positive and finite")
    return float(value)
