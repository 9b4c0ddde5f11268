"""The FDFaceNet paper's claim, put to the test: does feature-map traffic decide the time?

Four models of the time of a network (docs/claim.md), each with a constant tau as in the paper's
eq. 4, T = B / (alpha P) + F / (theta D) + tau; and the same four for the single steps of each
kind of convolution, where the constant per operator is what the fourth model adds.

The verdict follows one rule, :func:`verdict`, from held-out errors and intervals.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyface.ops.spec import Array
from tinyface.traffic.experiment import Measured
from tinyface.traffic.fit import Fit, correlation, least_squares
from tinyface.traffic.steps import COLUMNS, KINDS, columns

MODELS: Mapping[str, tuple[str, ...]] = {
    "MACs": ("macs",),
    "MACs + F": ("macs", "feature"),
    "MACs + F + weights": ("macs", "feature", "weight"),
    "MACs + F + weights + operators": ("macs", "feature", "weight", "steps"),
}
ALONE, WITH_F, _, FULL = MODELS
BETTER = 0.95  # F must cut the held-out error to this share or less; a useless column raises it
MUCH, LITTLE = 1 / 4, 1 / 10  # share of the fitted time that counts as much, as little
MIN_ROWS = 8

WORDS = {
    "yes": "Yes: feature-map traffic matters here, beside the MACs",
    "confounded": (
        "It cannot be told apart: feature-map traffic improves on MACs alone, but weights or the "
        "number of operators would explain the same"
    ),
    "no": "No: feature-map traffic explains hardly more here than the MACs do",
    "unknown": "It cannot be told: too few networks",
}


@dataclass(frozen=True)
class Claim:
    """What the experiment says.

    pooled: model -> fit over networks. by_kind: kind -> model -> fit over steps.
    shares: network -> share of its fitted time that the full model gives to F, 0…1.
    """

    measured: tuple[Measured, ...]
    pooled: Mapping[str, Fit]
    by_kind: Mapping[str, Mapping[str, Fit]]
    verdict: str
    shares: Mapping[str, float]
    correlations: Mapping[tuple[str, str], float]

    @property
    def sentence(self) -> str:
        """The answer in plain words, without figures: two runs give the same one."""
        text = WORDS[self.verdict]
        if self.verdict != "yes":
            return f"{text}."
        found = family_shares(self.measured, self.shares)
        much = [name for name, share in found.items() if share >= MUCH]
        little = [name for name, share in found.items() if share <= LITTLE]
        if much:
            text += f"; it is a large part of the time of {_listed(much)}"
        if little:
            text += f"; it is a small part of the time of {_listed(little)}"
        return f"{text}."

    def to_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "sentence": self.sentence,
            "verdict": self.verdict,
            "verdict_by_kind": {kind: verdict(fits) for kind, fits in self.by_kind.items()},
            "pooled": {name: fit.to_json() for name, fit in self.pooled.items()},
            "by_kind": {
                kind: {name: fit.to_json() for name, fit in fits.items()}
                for kind, fits in self.by_kind.items()
            },
            "correlations": [
                {"columns": list(pair), "r": r} for pair, r in self.correlations.items()
            ],
            "networks": [
                m.to_json() | {"f_share": self.shares.get(m.member.name)} for m in self.measured
            ],
        }


def analyse(measured: Sequence[Measured]) -> Claim:
    """Fit all models and decide."""
    rows = [m for m in measured if m.member.pooled]
    table = network_columns(rows)
    times = np.array([m.time_ns for m in rows])
    pooled = _fits(table, times, [m.member.held_out_with for m in rows], constant=True)
    by_kind = {}
    for kind in KINDS:
        chosen = [
            (m.member.held_out_with, step, ns)
            for m in measured
            for step, ns in zip(m.steps, m.step_ns, strict=True)
            if step.kind == kind and ns > 0
        ]
        if len(chosen) >= MIN_ROWS:
            data = columns([step for _, step, _ in chosen])
            ns = np.array([ns for _, _, ns in chosen])
            fits = _fits(data, ns, [group for group, _, _ in chosen], constant=False)
            if fits:
                by_kind[kind] = fits
    shares = {}
    if FULL in pooled:
        shares = dict(zip((m.member.name for m in rows), f_share(pooled[FULL], table), strict=True))
    return Claim(tuple(measured), pooled, by_kind, verdict(pooled), shares, correlation(table))


def verdict(fits: Mapping[str, Fit]) -> str:
    """The rule: "yes", "confounded", "no" or "unknown".

    F must (1) cut the mean held-out error of MACs alone to 95 % or less, and (2) have a
    coefficient whose 95 % interval lies above 0, beside the MACs: else "no". It must (3) keep
    such an interval when weights and operators are in the model, too: else "confounded".
    """
    if FULL not in fits or not np.isfinite(fits[WITH_F].mean):
        return "unknown"
    alone, with_f, full = fits[ALONE], fits[WITH_F], fits[FULL]
    if with_f.mean > BETTER * alone.mean or not with_f.positive("feature"):
        return "no"
    return "yes" if full.positive("feature") else "confounded"


def network_columns(measured: Sequence[Measured]) -> dict[str, Array]:
    """The four columns, one row per network."""
    return {name: np.array([m.totals[name] for m in measured], np.float64) for name in COLUMNS}


def f_share(fit: Fit, table: Mapping[str, Array]) -> list[float]:
    """Share of the fitted time that is F's, by row; negative parts count as none."""
    parts = {
        name: np.maximum(0, fit.coefficient(name) * table[name])
        for name in fit.names
        if name != "constant"
    }
    parts["constant"] = np.full_like(
        table["macs"], max(0.0, fit.coefficient("constant")) if "constant" in fit.names else 0.0
    )
    total = np.maximum(sum(parts.values()), 1e-12)
    return [float(share) for share in parts["feature"] / total]


def family_shares(measured: Sequence[Measured], shares: Mapping[str, float]) -> dict[str, float]:
    """Median share of F by family of real networks, the largest first."""
    families: dict[str, list[float]] = {}
    for m in measured:
        if not m.member.designed and m.member.name in shares:
            families.setdefault(m.member.family, []).append(shares[m.member.name])
    medians = {family: statistics.median(values) for family, values in families.items()}
    return dict(sorted(medians.items(), key=lambda item: -item[1]))


def _fits(
    table: Mapping[str, Array], times: Array, groups: Sequence[str], *, constant: bool
) -> dict[str, Fit]:
    """All models that the rows can decide; columns that are 0 throughout are left out."""
    fits: dict[str, Fit] = {}
    ones = {"constant": np.ones_like(times)} if constant else {}
    for name, wanted in MODELS.items():
        used = {column: table[column] for column in wanted if table[column].any()} | ones
        if wanted[0] in used and len(times) > len(used):
            fits[name] = least_squares(used, times, relative=True, groups=groups)
    return fits


def _listed(names: Sequence[str]) -> str:
    """In the order of the alphabet, which does not change from run to run."""
    ordered = sorted(names)
    return ordered[0] if len(ordered) == 1 else f"{', '.join(ordered[:-1])} and {ordered[-1]}"
