"""What a report shows of a measured network, apart from how it is drawn.

:mod:`~tinyface.traffic.report_html` and :mod:`~tinyface.traffic.report_png` draw it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinyface.graph import Graph
from tinyface.traffic.profile import Profile, Row
from tinyface.traffic.report_maps import FeatureMap
from tinyface.traffic.roofs import Roofs

# key in a point of the charts -> what people call it
QUANTITIES = {
    "time": "time",
    "macs": "MACs",
    "maps": "feature-map bytes",
    "weights": "weight bytes",
}


@dataclass(frozen=True)
class Subject:
    """One network of a report.

    graph: as it runs, optimised. notes: what a reader must know of it (random weights…).
    crop: PNG of what the network was shown; maps: what its operators made of it.
    """

    profile: Profile
    graph: Graph
    notes: tuple[str, ...] = ()
    crop: bytes = b""
    maps: tuple[FeatureMap, ...] = ()


@dataclass(frozen=True)
class Context:
    """Where and how all of a report was measured.

    machine: one line. warning: why the times are doubtful, or "". created: the date.
    """

    machine: str
    warning: str
    created: str
    version: str
    roofs: Roofs | None = None


def label(subjects: Sequence[Subject], number: int) -> str:
    """A network's name in a report; with a letter where there are two, perhaps of one name."""
    name = subjects[number].profile.network
    return name if len(subjects) == 1 else f"{chr(ord('A') + number)}: {name}"


def figures(row: Row) -> dict[str, float]:
    """One step's QUANTITIES (ns, MACs, compulsory bytes) and rates (10^9 a second).

    gb is of algorithmic bytes, what the kernel touched; gb_compulsory of compulsory ones, the
    slope in a roofline: gmac = intensity x gb_compulsory.
    """
    cost, ns = row.record.compulsory, max(1, row.time_ns)
    return {
        "time": row.time_ns,
        "macs": cost.macs,
        "maps": cost.feature_read + cost.feature_write,
        "weights": cost.weight,
        "gmac": cost.macs / ns,
        "gb": row.record.algorithmic.bytes / ns,
        "gb_compulsory": cost.bytes / ns,
        "intensity": row.record.intensity,
    }


def kind(row: Row) -> str:
    """What an operator is coloured by: its kind, and of a convolution the family of its kernel."""
    op, kernel = row.record.op, row.record.kernel
    return f"{op} ({kernel.partition('_')[0]})" if op == "conv2d" and "_" in kernel else op


OTHERS = "others"  # the kinds for which no colour is left
COLOURS = (  # of assets/charts.js by day
    *("#3525a0", "#b9830e", "#058571", "#7681ff", "#840f00", "#ff2f85", "#2198b5", "#666f20"),
    "#57534e",
)


def coloured(points: Iterable[Mapping[str, Any]], colours: int = len(COLOURS)) -> list[str]:
    """The kinds of operators that have a colour: all, or those of the most time and OTHERS."""
    times: dict[str, float] = {}
    for point in points:
        times[point["kind"]] = times.get(point["kind"], 0) + point["time"]
    if len(times) <= colours:
        return sorted(times)
    return [*sorted(sorted(times, key=lambda kind: -times[kind])[: colours - 1]), OTHERS]


def points(subject: Subject, roofs: Roofs | None) -> list[dict[str, Any]]:
    """One dict per step, in order of execution: names, :func:`figures`, shares of the network."""
    rows = subject.profile.rows
    every = [figures(row) for row in rows]
    totals = {key: sum(f[key] for f in every) or 1 for key in QUANTITIES}
    return [
        {
            "number": number,
            "name": row.record.name,
            "kind": kind(row),
            "kernel": row.record.kernel,
            "bound": bound,
            **found,
            "shares": {key: found[key] / totals[key] for key in QUANTITIES},
        }
        for number, (row, found, bound) in enumerate(
            zip(rows, every, subject.profile.bounds(roofs), strict=True)
        )
    ]


def roof_lines(subjects: Sequence[Subject], roofs: Roofs | None) -> list[dict[str, Any]]:
    """The lines above the points: ``{label, gmac, gb, measured}``, each min(gmac, gb x intensity).

    Without measured roofs one line: the best rates that any operator here achieved. It is an
    envelope of the points, and says nothing about what the machine could do.
    """
    if roofs is not None:
        return [
            {"label": f"{level.name}: {level.gb_per_s:.3g} GB/s, {roofs.gmac_per_s:.3g} GMAC/s",
             "gmac": roofs.gmac_per_s, "gb": level.gb_per_s, "measured": True}
            for level in roofs.levels
        ]  # fmt: skip
    every = [figures(row) for subject in subjects for row in subject.profile.rows]
    gmac, gb = (max((f[key] for f in every), default=0) for key in ("gmac", "gb_compulsory"))
    text = "best achieved here, no roof of the machine"
    return [{"label": text, "gmac": gmac, "gb": gb, "measured": False}]


def totals(profile: Profile) -> dict[str, float]:
    """What a comparison sets side by side: ns, MACs, bytes; title -> value."""
    cost = profile.cost
    return {
        "time, median (ms)": profile.whole_ns / 1e6,
        "time, least (ms)": profile.least_ns / 1e6,
        "steps": len(profile.rows),
        "MACs": cost.macs,
        "feature maps read (bytes)": cost.feature_read,
        "feature maps written (bytes)": cost.feature_write,
        "weights (bytes)": cost.weight,
        "scratch, algorithmic (bytes)": profile.algorithmic.scratch,
        **_past(profile),
        "GMAC/s": cost.macs / max(1, profile.whole_ns),
        "GB/s": profile.algorithmic.bytes / max(1, profile.whole_ns),
    }


def _past(profile: Profile) -> dict[str, float]:
    if profile.cache is None:
        return {}
    return {f"past a cache of {profile.cache}, by the model (bytes)": profile.past_sum.bytes}


def ratios(a: Profile, b: Profile) -> dict[str, float | None]:
    """B over A of every total; None where A has nothing."""
    other = totals(b)
    return {key: other[key] / value if value else None for key, value in totals(a).items()}
