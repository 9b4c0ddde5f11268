"""Expected times on a machine that is described by a file (device.py).

The expected time of a step is a sum of four: the multiply-adds that its kernel carries out, its
bytes of feature maps and of weights, and the step itself, each times a rate of that kernel. That of
a network is the sum over its steps plus a constant per run.

:func:`fit_device` makes a device from a measurement, and :func:`held_out` says how well it predicts
networks that it has not seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyface.errors import UsageError
from tinyface.graph import Graph
from tinyface.passes import optimise
from tinyface.plan import Isa
from tinyface.traffic.device import Device, Rates, rate_names
from tinyface.traffic.experiment import Measured
from tinyface.traffic.fit import least_squares
from tinyface.traffic.steps import COLUMNS, KINDS, StepFigures, columns, expected
from tinyface.types import Cost

MIN_STEPS, MIN_NETWORKS = 8, 3  # for a set of its own


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
                "products": step.products,
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
    """Relative errors of whole runs of real networks that the fit had not seen.

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
    share, overhead = _whole_runs(measured)
    rows = [(name, step, share * ns) for name, step, ns in rows]
    kernels = _sets(rows, {step.kernel for _, step, _ in rows} - {""}, lambda s: s.kernel)
    kinds = _sets(rows, KINDS, lambda s: s.kind)
    return Device(name, _rates(rows), kinds, kernels, isa, threads, overhead)


def held_out(measured: Sequence[Measured]) -> HeldOut:
    """Predict every real network by a device fitted without it and its family; compare with whole
    runs of the engine as it is, chains and what surrounds the steps included.

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
            {"macs": [m.totals["macs"] for m in seen]}, [m.least_ns for m in seen], relative=True
        ).coefficients[0]
        for m in (m for m in real if m.member.held_out_with == family):
            total = predict_steps(m.member.name, m.steps, device).time_ns
            errors[m.member.name] = abs(total / m.least_ns - 1)
            alone[m.member.name] = abs(rate * m.totals["macs"] / m.least_ns - 1)
    return HeldOut(errors, alone)


Row = tuple[str, StepFigures, float]


def _whole_runs(measured: Sequence[Measured]) -> tuple[float, float]:
    """How whole runs follow from the least times of their steps: times what (no run has all of its
    steps at their least), and how many ns on top. Of networks whose steps are all that a run has:
    none left out, none in chains."""
    used = [m for m in measured if not (m.member.designed or m.chained)]
    if len(used) < MIN_NETWORKS:
        return 1.0, statistics.median(max(0.0, m.least_ns - m.time_ns) for m in measured)
    columns = {"steps": [m.time_ns for m in used], "run": [1.0] * len(used)}
    whole = [m.least_ns for m in used]
    fit = least_squares(columns, whole, relative=True, nonnegative=True, validate=False)
    return fit.coefficients[0], fit.coefficients[1]


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
    table["products"] = np.array([step.products for _, step, _ in rows], np.float64)
    used = {name: table[name] for name in rate_names("products") if table[name].any()}
    times = np.array([ns for _, _, ns in rows])
    fit = least_squares(used, times, relative=True, nonnegative=True, validate=False)
    found = dict(zip(fit.names, fit.coefficients, strict=True))
    products, feature, weight, steps = (found.get(name, 0.0) for name in rate_names("products"))
    return products, feature, weight, steps


def _named(parts: Sequence[float]) -> dict[str, float]:
    return dict(zip(COLUMNS, parts, strict=True))
