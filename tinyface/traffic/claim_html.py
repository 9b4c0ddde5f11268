"""``tinyface claim --html``: the experiment as one page for the browser.

The answer, the rule that gave it, the models with their intervals, the design, every network. The
tables hold all figures; the charts (assets/claim.js) show them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from tinyface.errors import UsageError
from tinyface.traffic.claim import ALONE, BETTER, FULL, WITH_F, Claim, network_columns, verdict
from tinyface.traffic.fit import Fit
from tinyface.traffic.predict import HeldOut
from tinyface.traffic.report_page import (
    asset,
    document,
    element,
    figure,
    head,
    libraries,
    line,
    save,
    section,
    table,
)
from tinyface.traffic.report_sections import amount

UNITS = {"macs": ("MACs", "ns per MAC", 1.0), "feature": ("F", "ns per byte", 1.0),
         "weight": ("weights", "ns per byte", 1.0), "steps": ("operators", "µs each", 1e-3),
         "constant": ("constant", "µs", 1e-3)}  # fmt: skip
TERMS = {
    "F": "bytes of feature maps that the operators of a network read and write, each once.",
    "Held out": "a family of networks is predicted by a fit that has not seen it.",
    "Interval": "95 %, Student's t. One that holds 0 says: this column may do nothing.",
    "cond.": "condition number of the columns. Above 30 two of them say nearly the same, and the "
    "split between them means little.",
    "Design": "networks built so that one of F, MACs, weights and operators varies while the "
    "others stay. In real families they rise together.",
}


@dataclass(frozen=True)
class About:
    """Where, when and how it was measured, for the head of the page."""

    machine: str
    how: str
    created: str
    version: str
    warning: str = ""


def write(path: str, claim: Claim, held: HeldOut, about: About) -> None:
    """The page as a file, which appears whole or not at all.

    Raises:
        MissingExtraError: the package that carries the plotting library is not installed.
        UsageError: ``path`` may not be written, or there are too few networks.
    """
    save(path, page(claim, held, about, libraries()))


def page(claim: Claim, held: HeldOut, about: About, script: str) -> str:
    """The page as text.

    Args:
        script: from :func:`~tinyface.traffic.report_page.libraries`.
    """
    if FULL not in claim.pooled:
        raise UsageError("too few networks for a report; measure more")
    return document(
        "Does feature-map traffic decide the time? tinyface claim",
        skip=("Skip to the models", "#models"),
        header=_header(claim, about),
        sections=_sections(claim, held),
        data=chart_data(claim),
        scripts=(script, asset("charts.js"), asset("claim.js")),
    )


def chart_data(claim: Claim) -> dict[str, Any]:
    """What the charts are drawn from."""
    groups = {"all networks": claim.pooled, **claim.by_kind}
    rows = [m for m in claim.measured if m.member.pooled]
    table_ = network_columns(rows) | {"constant": np.ones(len(rows))}
    fitted = claim.pooled[FULL].predict(table_)
    return {
        "models": list(claim.pooled),
        "errors": [
            {"group": group, "model": model, "mean": fit.mean, "median": fit.error}
            for group, fits in groups.items()
            for model, fit in fits.items()
            if math.isfinite(fit.mean)
        ],
        "terms": [
            {"model": model, "term": UNITS[name][0], "unit": UNITS[name][1], "value": value,
             "low": low, "high": high}
            for model, fit in claim.pooled.items()
            for name, value, low, high in _scaled(fit)
            if math.isfinite(low + high)
        ],
        "networks": [
            m.to_json()
            | {"designed": m.member.designed, "ms": m.time_ns / 1e6,
               "fitted": max(float(ns), 1.0) / 1e6, "share": claim.shares[m.member.name]}
            for m, ns in zip(rows, fitted, strict=True)
        ],
    }  # fmt: skip


def _scaled(fit: Fit) -> Iterable[tuple[str, float, float, float]]:
    """(name, value, low, high) in the units of the page."""
    for name, *values in zip(fit.names, fit.coefficients, fit.low, fit.high, strict=True):
        factor = UNITS[name][2]
        value, low, high = (v * factor for v in values)
        yield name, value, low, high


def _header(claim: Claim, about: About) -> Element:
    lines = [
        element("h1", "Does feature-map traffic decide the time here?"),
        element("p", claim.sentence, {"class": "answer"}),
        element("p", f"{about.machine}; {about.how}; {about.created}; tinyface {about.version}"),
    ]
    if about.warning:
        text = f"The times are not to be trusted: {about.warning}."
        lines.append(element("p", text, {"class": "warning", "role": "note"}))
    return element("header", *lines)


def _sections(claim: Claim, held: HeldOut) -> Iterable[Element]:
    yield section("rule", "How the answer was found", _rule(claim), _kinds(claim))
    yield section(
        "models", "The models",
        figure("errors-chart", "Mean error on networks held out of the fit, by model."),
        figure("terms-chart", "Coefficients over all networks, with their 95 % intervals."),
        _fits("Over all networks: a row is a network", {"": claim.pooled}),
        _fits("By kind of convolution: a row is an operator", claim.by_kind),
    )  # fmt: skip
    yield section(
        "fit", "What the full model fits",
        figure("fitted-chart", "Every point is a network; on the line the fit is right."),
        figure("share-chart", "Share of the fitted time that is F's, of real networks."),
    )  # fmt: skip
    yield section(
        "design", "The design",
        figure("design-chart", "MACs against F of every network. Triangles were made for the "
               "purpose: around each centre one figure varies at a time. In real families all rise "
               "together."),
        _correlations(claim),
    )  # fmt: skip
    yield section("prediction", "Prediction", _prediction(held))
    yield section("networks", "Every network", _networks(claim))
    terms = [part for k, v in TERMS.items() for part in (element("dt", k), element("dd", v))]
    yield section("terms", "What the words mean", element("dl", *terms))


def _rule(claim: Claim) -> Element:
    alone, with_f, full = (claim.pooled[name] for name in (ALONE, WITH_F, FULL))
    rows = [
        line(
            "1. F cuts the mean held-out error of MACs alone "
            f"to {BETTER:.0%} or less",
            f"{_percent(alone.mean)} to {_percent(with_f.mean)}",
            _yes(with_f.mean <= BETTER * alone.mean),
        ),
        line("2. its coefficient beside the MACs lies above 0", _interval(with_f, "feature"),
             _yes(with_f.positive("feature"))),
        line("3. and still does with weights and operators in the model",
             _interval(full, "feature"), _yes(full.positive("feature"))),
    ]  # fmt: skip
    return table("The rule, over all networks", head("condition", "found", "met"), rows)


def _kinds(claim: Claim) -> Element:
    rows = [line(kind, verdict(fits)) for kind, fits in claim.by_kind.items()]
    return table("The same rule for single operators", head("kind", "does F matter?"), rows)


def _fits(caption: str, groups: Mapping[str, Mapping[str, Fit]]) -> Element:
    titles = [f"{title}, {unit}" for title, unit, _ in UNITS.values()]
    rows = []
    for group, fits in groups.items():
        for model, fit in fits.items():
            terms = {
                name: f"{value:.3g} [{low:.3g} … {high:.3g}]"
                for name, value, low, high in _scaled(fit)
            }
            errors = [_percent(e) for e in (fit.error, fit.mean, fit.worst)]
            title = f"{group}: {model}" if group else model
            cond = f"{fit.condition:.0f}{' !' if fit.collinear else ''}"
            cells = [terms.get(name, "–") for name in UNITS]
            rows.append(line(title, str(fit.rows), *cells, f"{fit.r2:.3f}", *errors, cond))
    return table(
        caption, head("model", "rows", *titles, "R²", "median", "mean", "worst", "cond."), rows
    )


def _correlations(claim: Claim) -> Element:
    rows = [
        line(f"{UNITS[a][0]} and {UNITS[b][0]}", f"{r:+.2f}")
        for (a, b), r in claim.correlations.items()
    ]
    return table("Correlations over all networks", head("columns", "r"), rows)


def _prediction(held: HeldOut) -> Element:
    rows = [
        line(name, _percent(error), _percent(held.macs_alone[name]))
        for name, error in sorted(held.errors.items(), key=lambda item: item[1])
    ]
    rows.insert(0, line("median", _percent(held.median), _percent(held.median_macs_alone)))
    caption = "Errors of predicted times; each network's family was held out of the fit"
    return table(caption, head("network", "by kernel, MACs, F, weights", "by MACs alone"), rows)


def _networks(claim: Claim) -> Element:
    rows = [
        line(
            m.member.name, m.member.family, m.member.varies or "–",
            *(amount(m.totals[c]) for c in ("macs", "feature", "weight")), str(m.totals["steps"]),
            *(f"{ns / 1e6:.3f}" for ns in (m.whole_ns, m.low_ns, m.high_ns, m.least_ns)),
            f"{claim.shares[m.member.name]:.0%}" if m.member.name in claim.shares else "–",
        )
        for m in claim.measured
    ]  # fmt: skip
    titles = ("network", "family", "varies", "MACs", "F B", "weights B", "steps", "ms", "from",
              "to", "least", "F's share")  # fmt: skip
    return table("Times in ms: median over the turns, middle half, least", head(*titles), rows)


def _interval(fit: Fit, name: str) -> str:
    _, value, low, high = next(row for row in _scaled(fit) if row[0] == name)
    return f"{value:.3g} [{low:.3g} … {high:.3g}] {UNITS[name][1]}"


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "–"


def _yes(met: bool) -> str:
    return "yes" if met else "no"
