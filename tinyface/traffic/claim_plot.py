"""The experiment as a picture: held-out errors of the models, and what the full model fits."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tinyface import plots
from tinyface.errors import UsageError
from tinyface.traffic.claim import FULL, Claim, network_columns

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
MARKS = "osD^vP*"


def draw(claim: Claim, path: str | os.PathLike[str], title: str) -> None:
    """Error by model, fitted against measured times, the share of F by network.

    Args:
        path: ends with .png, .svg or .pdf.

    Raises:
        MissingExtraError: there is no matplotlib.
        UsageError: a file of unknown form, or the models could not be fitted.
    """
    plots.check(os.fspath(path))
    if FULL not in claim.pooled:
        raise UsageError("too few networks for a plot; measure more")
    figure = plots.figure(13, 5.2, dpi=120)
    errors, fitted, shares = figure.subplots(1, 3, width_ratios=(1, 1.2, 1.3))
    _errors(errors, claim)
    _fitted(fitted, claim)
    _shares(shares, claim)
    figure.suptitle(title, fontsize=10)
    plots.save(figure, os.fspath(path))


def _errors(axes: Any, claim: Claim) -> None:
    names = list(claim.pooled)
    values = [100 * claim.pooled[name].mean for name in names]
    axes.bar(range(len(names)), values, color=COLOURS[0])
    axes.set_xticks(range(len(names)), [name.replace(" + ", "\n+ ") for name in names], fontsize=8)
    axes.set_ylabel("mean error on held-out networks, %")
    for x, value in enumerate(values):
        axes.annotate(f"{value:.0f}", (x, value), ha="center", va="bottom", fontsize=9)
    axes.set_title("What the models predict", fontsize=10)


def _fitted(axes: Any, claim: Claim) -> None:
    rows = [m for m in claim.measured if m.member.pooled]
    measured = np.array([m.time_ns for m in rows]) / 1e6
    fitted = claim.pooled[FULL].predict(
        network_columns(rows) | {"constant": np.ones(len(measured))}
    )
    families = list(dict.fromkeys(m.member.family for m in rows))
    for i, family in enumerate(families):
        mine = [j for j, m in enumerate(rows) if m.member.family == family]
        axes.scatter(
            measured[mine], np.maximum(fitted[mine] / 1e6, 1e-3), s=22, label=family,
            color=COLOURS[i % len(COLOURS)], marker=MARKS[i % len(MARKS)],
            facecolors=None if i < len(COLOURS) else "none",
        )  # fmt: skip
    ends = [0.7 * measured.min(), 1.4 * measured.max()]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="fitted, ms")
    plots.plain_ticks(axes)
    axes.legend(fontsize=7)
    axes.set_title("Full model: each point is a network", fontsize=10)


def _shares(axes: Any, claim: Claim) -> None:
    designed = {m.member.name for m in claim.measured if m.member.designed}
    found = sorted((share, name) for name, share in claim.shares.items() if name not in designed)
    axes.barh(range(len(found)), [100 * share for share, _ in found], color=COLOURS[1])
    axes.set_yticks(range(len(found)), [name for _, name in found], fontsize=6)
    axes.set_xlabel("share of the fitted time that is F's, %")
    axes.set_title("For which networks", fontsize=10)
