"""What the FDFaceNet paper's own figures support, and what they do not.

``paper.json`` has the times of the paper that the project's material gives, row by row (printed
tables hold more), and the regressions that were made over all printed rows when they were at
hand. MACs and F are the printed ones of the registry; weights and layers are counted on our
networks. Fits are ordinary least squares of absolute times, with a constant, as in eq. 4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from tinyface.graph import Graph
from tinyface.networks import REGISTRY
from tinyface.ops import FUSABLE, BatchNorm, Conv2d, GlobalAveragePool, Linear
from tinyface.ops.pool import Pool
from tinyface.passes import optimise
from tinyface.traffic.device import Device
from tinyface.traffic.fit import Fit, correlation, least_squares
from tinyface.traffic.steps import COLUMNS, expected, totals
from tinyface.traffic.tables import FACES, NETWORKS, PLAIN, counts

MACHINES = {"pi4": "Raspberry Pi 4B, CPU", "tx2": "Jetson TX2, GPU"}
MODELS = {
    "MACs": ("macs",),
    "F": ("feature",),
    "F (Z)": ("feature_z",),
    "MACs + F": ("macs", "feature"),
    "MACs + F (Z)": ("macs", "feature_z"),
    "layers": ("layers",),
}
LAYERS = (Conv2d, Linear, BatchNorm, *FUSABLE, Pool, GlobalAveragePool)
RECONSTRUCTED = "reconstruction"


@dataclass(frozen=True)
class PaperRow:
    """A network with a printed time.

    ms: printed. macs, feature: printed, MACs and bytes. feature_z: bytes by the rule that leaves
    out batch norms, the same for all rows (``tinyface tables``). weight: bytes of its parameters,
    counted. layers: convolutions, linear layers, batch norms, activations and poolings, counted;
    0 where our network is a reconstruction.
    """

    machine: str
    network: str
    ms: float
    macs: float
    feature: float
    feature_z: float
    weight: int
    layers: int
    note: str = ""


@cache
def document() -> Mapping[str, Any]:
    """The data file."""
    text = resources.files("tinyface.traffic").joinpath("paper.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def rows(machine: str = "") -> list[PaperRow]:
    """Rows with a printed time, of one machine or all."""
    return [
        _row(entry) for entry in document()["times"] if not machine or entry["machine"] == machine
    ]


def _row(entry: Mapping[str, Any]) -> PaperRow:
    known = REGISTRY[entry["network"]]
    graph = known.build()
    c = counts(graph)
    return PaperRow(
        entry["machine"],
        entry["network"],
        entry["ms"],
        float(known.figures["macs_M"]) * 1e6,
        float(known.figures["fmap_MB"]) * 1e6,
        c.fmap_folded,
        4 * c.params,
        0 if known.status == RECONSTRUCTED else layers(graph),
        entry.get("note", ""),
    )


def layers(graph: Graph) -> int:
    """Leaf modules as a framework launches them one by one."""
    return sum(isinstance(node.op, LAYERS) for node in graph.nodes)


def fits(machine: str) -> dict[str, Fit]:
    """The models, fitted to the printed rows of one machine as far as they decide them."""
    found = {}
    for name, wanted in MODELS.items():
        used = [row for row in rows(machine) if all(getattr(row, column) for column in wanted)]
        if len(used) > len(wanted) + 1:
            table = {column: np.array([getattr(r, column) for r in used]) for column in wanted}
            table["constant"] = np.ones(len(used))
            found[name] = least_squares(table, [row.ms * 1e6 for row in used])
    return found


def correlations() -> dict[str, dict[tuple[str, str], float]]:
    """Correlation of MACs, F (rule Z), weights and layers among the networks of the tables.

    It needs no times, so it covers every network that can be built: "3, 4" and "9, 10, 11".
    """
    found = {}
    for table in (PLAIN, FACES):
        names = [network for where, _, network, _ in NETWORKS if where == table]
        graphs = [REGISTRY[n].build() for n in names if REGISTRY[n].status != RECONSTRUCTED]
        counted = [counts(graph) for graph in graphs]
        found[table] = correlation(
            {
                "MACs": [c.macs for c in counted],
                "F": [c.fmap_folded for c in counted],
                "weights": [c.params for c in counted],
                "layers": [layers(graph) for graph in graphs],
            }
        )
    return found


def weight_bandwidth() -> dict[str, float]:
    """What dropping weights alone gains: FDFN* to FDFaceNet, where F does not shrink.

    Bytes of weights and printed MACs that go, ms that are gained, and the bytes a second that
    this makes, without and with the MACs' own time taken off.
    """
    (entry,) = document()["differences"]
    before, after = (REGISTRY[entry[key]] for key in ("from", "to"))
    nbytes = 4 * (counts(before.build()).params - counts(after.build()).params)
    macs = 1e6 * (float(before.figures["macs_M"]) - float(after.figures["macs_M"]))
    gained = -entry["ms"]
    rate = next(r["ns_per_mac"] for r in document()["regressions"] if "ns_per_mac" in r)
    return {
        "weight_bytes": nbytes,
        "macs": macs,
        "ms": gained,
        "gb_per_s": nbytes / gained / 1e6,
        "gb_per_s_less_macs": nbytes / (gained - macs * rate / 1e6) / 1e6,
    }


def conclusions() -> list[str]:
    """What the printed figures support and do not, in sentences."""
    plain = correlations()[PLAIN]["F", "layers"]
    weights = weight_bandwidth()
    known = {m: len(rows(m)) for m in MACHINES}
    best = document()["regressions"]
    separable, tables34, layered = best[0], best[3], best[-1]
    off = [
        f"{name} {expected_ms} ms for {row.ms:g}"
        for name, expected_ms in separable["predicts"].items()
        for row in rows("pi4")
        if row.network == name
    ]
    return [
        f"Supported: on the Pi 4, MACs and F together explain the separable and FD rows of Table "
        f"4 (R² {separable['r2']}, {separable['rows']} rows), Tables 3 and 4 less well (R² "
        f"{tables34['r2']}, {tables34['rows']} rows), and better than MACs alone.",
        f"Not supported: one rate for all kinds of convolution. That fit says {'; '.join(off)}.",
        f"Not supported: F as the cause. Among the plain networks F and the number of layers "
        f"correlate (r = {plain:.2f}); on the TX2 the number of layers alone explains the time "
        f"(R² {layered['r2']}, {layered['rows']} rows), where F changes it hardly at all.",
        "Left out by the paper: weights. FDFN* to FDFaceNet drops "
        f"{weights['weight_bytes'] / 1e6:.1f} MB of them and gains {weights['ms']:g} ms: "
        f"{weights['gb_per_s']:.1f} to {weights['gb_per_s_less_macs']:.1f} GB/s, as much as a byte "
        "of F costs.",
        f"Too few: a time is at hand for {known['pi4']} rows of the Pi 4 and {known['tx2']} of the "
        f"TX2; {_decided()}",
    ]


def _decided() -> str:
    """Of the fits to the rows at hand: does any give F an interval above 0?"""
    certain = [
        f"{MACHINES[machine]}, {name}"
        for machine in MACHINES
        for name, fit in fits(machine).items()
        if any(fit.positive(term) for term in fit.names if term.startswith("feature"))
    ]
    if certain:
        return f"F's coefficient is surely above 0 in: {'; '.join(certain)}."
    return "none of the fits to them gives F a coefficient that is surely above 0."


def fit_pi4() -> Device:
    """The Raspberry Pi 4 as the paper's printed times describe it; ships as ``pi4``.

    Rates for MACs, F and weights, none below 0, by least squares of relative errors on the rows
    that have a time, and on FDFN*, whose time is that of FDFaceNet and the printed difference.
    """
    times = {row.network: row.ms for row in rows("pi4")}
    for entry in document()["differences"]:
        times[entry["from"]] = times[entry["to"]] - entry["ms"]
    sums = [totals(expected(optimise(REGISTRY[name].build()), None)) for name in times]
    table = {column: np.array([t[column] for t in sums], np.float64) for column in COLUMNS[:3]}
    ns = np.array(list(times.values())) * 1e6
    fit = least_squares(table, ns, relative=True, nonnegative=True)
    macs, feature, weight = (float(f"{value:.4g}") for value in fit.coefficients)
    errors = np.abs(fit.predict(table) / ns - 1)
    return Device(
        "Raspberry Pi 4B, from the FDFaceNet paper",
        (macs, feature, weight, 0.0),
        threads=None,
        about={
            "source": f"fitted to printed times of {document()['source']}; nothing was measured",
            "networks": list(times),
            "errors": {name: round(float(e), 3) for name, e in zip(times, errors, strict=True)},
            "held_out": {"median": round(fit.error, 3), "worst": round(fit.worst, 3)},
            "engine": "the paper's, not tinyface; how many threads it had is not known",
            "note": "a rough guide: five networks, one set of rates for all kinds of convolution",
        },
        work="macs",
    )


def to_json() -> dict[str, Any]:
    """Everything of this module, for machines."""
    return {
        "source": document()["source"],
        "rows": [asdict(row) for row in rows()],
        "fits": {m: {name: f.to_json() for name, f in fits(m).items()} for m in MACHINES},
        "regressions": document()["regressions"],
        "correlations": {
            table: [{"columns": list(pair), "r": r} for pair, r in found.items()]
            for table, found in correlations().items()
        },
        "weight_bandwidth": weight_bandwidth(),
        "conclusions": conclusions(),
    }
