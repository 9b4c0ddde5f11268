"""A machine with an engine, described by nanoseconds per unit of work, and the files that hold it.

docs/claim.md has the form of the file. Version 1 counted the MACs of an operator; version 2 counts
the products that the engine's kernel carries out for it, which its plan knows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from tinyface.errors import UsageError
from tinyface.plan import Isa
from tinyface.traffic.roofs import Roofs
from tinyface.traffic.steps import COLUMNS, KINDS, StepFigures

SCHEMAS = {"macs": "tinyface.device/1", "products": "tinyface.device/2"}
SHIPPED = ("pi4", "xeon-avx512", "epyc-avx512", "epyc-avx2")
MAX_FILE = 1 << 20
MAX_RATE = 1e9  # ns per unit

Rates = tuple[float, float, float, float]  # ns per MAC or product, feature byte, weight byte, step


def rate_names(work: str) -> tuple[str, ...]:
    """The names of a set's four rates in a file."""
    return (work, *COLUMNS[1:])


@dataclass(frozen=True)
class Device:
    """A machine with an engine, as :func:`predict` sees it.

    any: rates of steps that no other set is for. kinds, kernels: sets by kind of convolution
    and by kernel. isa: instruction set of the C engine, whose plan is then what is predicted;
    None where another engine runs the graph's operators one by one. threads: None if not known.
    overhead_ns: per run. work: what the first rate of each set counts, "products" that the kernel
    carries out or, in older files, "macs" of the operator. roofs: what it can do at most, if known:
    says what bounds a step. about: how it was made, for people and programs: "source", "machine" …
    """

    name: str
    any: Rates
    kinds: Mapping[str, Rates] = field(default_factory=dict)
    kernels: Mapping[str, Rates] = field(default_factory=dict)
    isa: Isa | None = None
    threads: int | None = 1
    overhead_ns: float = 0.0
    roofs: Roofs | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    work: str = "products"

    def rates(self, step: StepFigures) -> Rates:
        """The most specific set for a step."""
        return self.kernels.get(step.kernel) or self.kinds.get(step.kind) or self.any

    def parts_ns(self, step: StepFigures) -> Rates:
        """Expected ns of a step for its arithmetic, its feature maps, its weights, and itself."""
        work, feature, weight, constant = self.rates(step)
        count = step.macs if self.work == "macs" else step.products
        return work * count, feature * step.feature, weight * step.weight, constant

    def to_json(self) -> dict[str, Any]:
        """The form of a device file."""

        def sets(rates: Mapping[str, Rates]) -> dict[str, dict[str, float]]:
            return {key: self._named(value) for key, value in rates.items()}

        isa = None
        if self.isa is not None:
            isa = asdict(self.isa)
        return {
            "schema": SCHEMAS[self.work],
            "name": self.name,
            "threads": self.threads,
            "isa": isa,
            "overhead_ns": self.overhead_ns,
            "any": self._named(self.any),
            "kinds": sets(self.kinds),
            "kernels": sets(self.kernels),
            "roofs": self.roofs.to_json() if self.roofs else None,
            "about": dict(self.about),
        }

    def _named(self, rates: Rates) -> dict[str, float]:
        return dict(zip(rate_names(self.work), rates, strict=True))


def shipped(name: str) -> Device:
    """A device that comes with tinyface."""
    text = resources.files("tinyface.traffic").joinpath(f"devices/{name}.json").read_text("utf-8")
    return from_json(json.loads(text), name)


def read_device(name: str) -> Device:
    """A shipped device by name, or a device file.

    Raises:
        UsageError: there is no such device or file, or the file is malformed.
    """
    if name in SHIPPED:
        return shipped(name)
    try:
        with Path(name).open("rb") as file:
            text = file.read(MAX_FILE + 1)
        if len(text) > MAX_FILE:
            raise ValueError(f"more than {MAX_FILE} bytes")
        document = json.loads(text)
    except OSError as error:
        raise UsageError(
            f"{name}: {error.strerror}; name a device file (tinyface claim --device OUT.json "
            f"writes one) or {', '.join(SHIPPED)}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: not a device file ({error}); see docs/claim.md") from None
    return from_json(document, name)


def from_json(document: Any, where: str) -> Device:
    """The device of a parsed file; unknown members are passed over.

    Raises:
        UsageError: it does not have the form of docs/claim.md.
    """
    try:
        work = {schema: work for work, schema in SCHEMAS.items()}.get(str(document["schema"]))
        if work is None:
            raise ValueError(f"schema {document['schema']!r} is not {SCHEMAS['products']}")
        isa = document.get("isa")
        roofs = document.get("roofs")
        threads = document.get("threads", 1)
        if threads is not None and (type(threads) is not int or not 1 <= threads <= 256):
            raise ValueError(f"threads {threads!r}")
        return Device(
            name=_text(document["name"]),
            any=_unnamed(document["any"], work),
            kinds=_read_sets(document.get("kinds", {}), work, KINDS),
            kernels=_read_sets(document.get("kernels", {}), work),
            isa=None if isa is None else _isa(isa),
            threads=threads,
            overhead_ns=_rate(document.get("overhead_ns", 0.0)),
            roofs=None if roofs is None else Roofs.from_json(roofs),
            about=dict(document.get("about", {})),
            work=work,
        )
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{where}: not a device file ({what}); see docs/claim.md") from None


def _read_sets(sets: Mapping[str, Any], work: str, known: Sequence[str] = ()) -> dict[str, Rates]:
    for key in sets:
        if known and key not in known:
            raise ValueError(f"kind {key!r} is not one of {', '.join(known)}")
    return {_text(key): _unnamed(value, work) for key, value in sets.items()}


def _unnamed(rates: Mapping[str, Any], work: str) -> Rates:
    first, feature, weight, steps = (_rate(rates[name]) for name in rate_names(work))
    return first, feature, weight, steps


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number")
    if not (math.isfinite(value) and 0 <= value <= MAX_RATE):
        raise ValueError(f"{value!r} is not from 0 to {MAX_RATE:g}")
    return float(value)


def _isa(found: Mapping[str, Any]) -> Isa:
    lanes, wide, slim = (found[key] for key in ("lanes", "rows_wide", "rows_slim"))
    packed = found.get("rows_pack", 0)  # 0: no packing
    if not all(type(n) is int and 1 <= n <= 64 for n in (lanes, wide, slim, packed or 1)):
        raise ValueError("an instruction set has lanes, rows_wide and rows_slim from 1 to 64")
    return Isa(_text(found["name"]), lanes, wide, slim, packed)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        raise ValueError(f"{value!r} is not a short text")
    return value
