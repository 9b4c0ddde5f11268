"""Expected times on a machine that is described by a file.

A *device* has nanoseconds per MAC, per byte of feature maps, per byte of weights, and per step,
for every kernel of its engine, or for every kind of convolution, or for any step; the most
specific set that it has is taken. The expected time of a step is their sum, that of a network
the sum over its steps plus a constant per run.

:func:`fit_device` makes one from a measurement, and says how well it predicts networks that it
has not seen. docs/claim.md has the form of the file.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from tinyface.errors import UsageError
from tinyface.graph import Graph
from tinyface.passes import optimise
from tinyface.plan import Isa
from tinyface.traffic.experiment import Measured
from tinyface.traffic.fit import least_squares
from tinyface.traffic.roofs import Roofs
from tinyface.traffic.steps import COLUMNS, KINDS, StepFigures, columns, expected
from tinyface.types import Cost

SCHEMA = "tinyface.device/1"
SHIPPED = ("pi4", "epyc-avx512")
MAX_FILE = 1 << 20
MAX_RATE = 1e9  # ns per unit
MIN_STEPS, MIN_NETWORKS = 8, 3  # for a set of its own

Rates = tuple[float, float, float, float]  # ns per MAC, feature byte, weight byte, step


@dataclass(frozen=True)
class Device:
    """A machine with an engine, as :func:`predict` sees it.

    any: rates of steps that no other set is for. kinds, kernels: sets by kind of convolution
    and by kernel. isa: instruction set of the C engine, whose plan is then what is predicted;
    None where another engine runs the graph's operators one by one. threads: None if not known.
    overhead_ns: per run. roofs: what it can do at most, if known: says what bounds a step.
    about: how it was made, for people and programs: "source", "fit", "machine" …
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

    def rates(self, step: StepFigures) -> Rates:
        """The most specific set for a step."""
        return self.kernels.get(step.kernel) or self.kinds.get(step.kind) or self.any

    def parts_ns(self, step: StepFigures) -> Rates:
        """Expected ns of a step for its MACs, its feature maps, its weights, and itself."""
        macs, feature, weight, constant = self.rates(step)
        return macs * step.macs, feature * step.feature, weight * step.weight, constant

    def to_json(self) -> dict[str, Any]:
        """The form of a device file."""

        def sets(rates: Mapping[str, Rates]) -> dict[str, dict[str, float]]:
            return {key: _named(value) for key, value in rates.items()}

        isa = None
        if self.isa is not None:
            isa = asdict(self.isa)
        return {
            "schema": SCHEMA,
            "name": self.name,
            "threads": self.threads,
            "isa": isa,
            "overhead_ns": self.overhead_ns,
            "any": _named(self.any),
            "kinds": sets(self.kinds),
            "kernels": sets(self.kernels),
            "roofs": self.roofs.to_json() if self.roofs else None,
            "about": dict(self.about),
        }


@dataclass(frozen=True)
class Prediction:
    """Expected times of a network. parts: of every step, as :meth:`Device.parts_ns`."""

    network: str
    device: Device
    steps: tuple[StepFigures, ...]
    parts: tuple[Rates, ...]

    @property
    def bounds(self) -> tuple[str, ...]:
        """What holds each step (:meth:`Roofs.bound`); "" where roofs are unknown."""
        roofs = self.device.roofs
        if roofs is None:
            return ("",) * len(self.steps)
        weights = sum(step.weight for step in self.steps)
        return tuple(
            roofs.bound(Cost(step.macs, step.feature, 0, step.weight), round(sum(parts)), weights)
            for step, parts in zip(self.steps, self.parts, strict=True)
        )

    @property
    def time_ns(self) -> float:
        return self.device.overhead_ns + sum(map(sum, self.parts))

    def to_json(self) -> dict[str, Any]:
        rows = [
            {
                "name": step.name,
                "kind": step.kind,
                "kernel": step.kernel,
                "macs": step.macs,
                "feature_bytes": step.feature,
                "weight_bytes": step.weight,
                "time_ns": sum(parts),
                "parts_ns": _named(parts),
                "bound": bound or None,
            }
            for step, parts, bound in zip(self.steps, self.parts, self.bounds, strict=True)
        ]
        return {
            "network": self.network,
            "device": self.device.name,
            "threads": self.device.threads,
            "time_ns": self.time_ns,
            "overhead_ns": self.device.overhead_ns,
            "parts_ns": _named(tuple(map(sum, zip(*self.parts, strict=True)))),
            "operators": rows,
        }


def predict(graph: Graph, device: Device) -> Prediction:
    """Expected times of a network, with or without weights, at its own input shapes.

    Raises:
        BackendError: the device's engine has no kernel for an operator.
    """
    return predict_steps(graph.name, expected(optimise(graph), device.isa), device)


def predict_steps(network: str, steps: Iterable[StepFigures], device: Device) -> Prediction:
    listed = tuple(steps)
    return Prediction(network, device, listed, tuple(device.parts_ns(step) for step in listed))


# -------------------------------------------------------------------------------- fitting


@dataclass(frozen=True)
class HeldOut:
    """Relative errors of totals of real networks that the fit had not seen.

    errors: by network, of the device; macs_alone: of one rate per MAC, fitted and held out alike.
    """

    errors: Mapping[str, float]
    macs_alone: Mapping[str, float]

    @property
    def median(self) -> float:
        return statistics.median(self.errors.values())

    @property
    def median_macs_alone(self) -> float:
        return statistics.median(self.macs_alone.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "networks": len(self.errors),
            "median": self.median,
            "worst": max(self.errors.values()),
            "macs_alone": {
                "median": self.median_macs_alone,
                "worst": max(self.macs_alone.values()),
            },
        }


def fit_device(
    measured: Sequence[Measured], name: str, *, isa: Isa | None = None, threads: int = 1
) -> Device:
    """Fit every kernel and kind that enough steps of enough networks have.

    Least squares of relative errors, no rate below 0.
    """
    rows = [
        (m.member.name, step, ns)
        for m in measured
        for step, ns in zip(m.steps, m.step_ns, strict=True)
        if ns > 0
    ]
    if len(rows) < len(COLUMNS):
        raise UsageError("too few steps to describe a machine: measure more networks")
    kernels = _sets(rows, {step.kernel for _, step, _ in rows} - {""}, lambda s: s.kernel)
    overhead = statistics.median(max(0.0, m.least_ns - m.time_ns) for m in measured)
    kinds = _sets(rows, KINDS, lambda s: s.kind)
    return Device(name, _rates(rows), kinds, kernels, isa, threads, overhead)


def held_out(measured: Sequence[Measured]) -> HeldOut:
    """Predict every real network by a device fitted without it and its family.

    Raises:
        UsageError: there are fewer than two families of real networks.
    """
    real = [m for m in measured if not m.member.designed]
    families = list(dict.fromkeys(m.member.held_out_with for m in real))
    if len(families) < 2:
        raise UsageError("to hold networks out, measure two families at least")
    errors, alone = {}, {}
    for family in families:
        seen = [m for m in measured if m.member.held_out_with != family]
        device = fit_device(seen, "held out")
        rate = least_squares(
            {"macs": [m.totals["macs"] for m in seen]}, [m.time_ns for m in seen], relative=True
        ).coefficients[0]
        for m in (m for m in real if m.member.held_out_with == family):
            total = predict_steps(m.member.name, m.steps, device).time_ns - device.overhead_ns
            errors[m.member.name] = abs(total / m.time_ns - 1)
            alone[m.member.name] = abs(rate * m.totals["macs"] / m.time_ns - 1)
    return HeldOut(errors, alone)


Row = tuple[str, StepFigures, float]


def _sets(
    rows: Sequence[Row], keys: Iterable[str], key_of: Callable[[StepFigures], str]
) -> dict[str, Rates]:
    found = {}
    for key in sorted(keys):
        mine = [row for row in rows if key_of(row[1]) == key]
        if len(mine) >= MIN_STEPS and len({network for network, _, _ in mine}) >= MIN_NETWORKS:
            found[key] = _rates(mine)
    return found


def _rates(rows: Sequence[Row]) -> Rates:
    table = columns([step for _, step, _ in rows])
    used = {name: column for name, column in table.items() if column.any()}
    times = np.array([ns for _, _, ns in rows])
    fit = least_squares(used, times, relative=True, nonnegative=True, validate=False)
    found = dict(zip(fit.names, fit.coefficients, strict=True))
    macs, feature, weight, steps = (found.get(name, 0.0) for name in COLUMNS)
    return macs, feature, weight, steps


# ---------------------------------------------------------------------------------- files


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
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r} is not {SCHEMA}")
        isa = document.get("isa")
        roofs = document.get("roofs")
        threads = document.get("threads", 1)
        if threads is not None and (type(threads) is not int or not 1 <= threads <= 256):
            raise ValueError(f"threads {threads!r}")
        return Device(
            name=_text(document["name"]),
            any=_unnamed(document["any"]),
            kinds=_read_sets(document.get("kinds", {}), KINDS),
            kernels=_read_sets(document.get("kernels", {})),
            isa=None if isa is None else _isa(isa),
            threads=threads,
            overhead_ns=_rate(document.get("overhead_ns", 0.0)),
            roofs=None if roofs is None else Roofs.from_json(roofs),
            about=dict(document.get("about", {})),
        )
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{where}: not a device file ({what}); see docs/claim.md") from None


def _read_sets(sets: Mapping[str, Any], known: Sequence[str] = ()) -> dict[str, Rates]:
    for key in sets:
        if known and key not in known:
            raise ValueError(f"kind {key!r} is not one of {', '.join(known)}")
    return {_text(key): _unnamed(value) for key, value in sets.items()}


def _named(rates: Sequence[float]) -> dict[str, float]:
    return dict(zip(COLUMNS, rates, strict=True))


def _unnamed(rates: Mapping[str, Any]) -> Rates:
    macs, feature, weight, steps = (_rate(rates[name]) for name in COLUMNS)
    return macs, feature, weight, steps


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number")
    if not (math.isfinite(value) and 0 <= value <= MAX_RATE):
        raise ValueError(f"{value!r} is not from 0 to {MAX_RATE:g}")
    return float(value)


def _isa(found: Mapping[str, Any]) -> Isa:
    lanes, wide, slim = (found[key] for key in ("lanes", "rows_wide", "rows_slim"))
    if not all(type(n) is int and 1 <= n <= 64 for n in (lanes, wide, slim)):
        raise ValueError("an instruction set has lanes, rows_wide and rows_slim from 1 to 64")
    return Isa(_text(found["name"]), lanes, wide, slim)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        raise ValueError(f"{value!r} is not a short text")
    return value
