"""``tinyface profile --html``: one file that a browser opens from disk, without a network.

The tables hold everything; the charts (Vega-Lite, packed into the file) show it. The page is
built as a tree of elements, so every name from a model file is escaped where it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any
from xml.etree.ElementTree import Element

from tinyface.traffic.report import (
    QUANTITIES,
    Context,
    Subject,
    coloured,
    label,
    points,
    roof_lines,
)
from tinyface.traffic.report_page import (
    asset,
    document,
    element,
    figure,
    libraries,
    save,
    section,
)
from tinyface.traffic.report_sections import (
    kinds_table,
    maps_section,
    network_section,
    operators_table,
    summary_table,
)

TERMS = {
    "MAC": "one multiplication and the addition that follows it; FLOPs are twice as many.",
    "Bytes": "compulsory: every operand of an operator once. Feature maps are what operators "
    "hand to each other, weights what the model file holds. Scratch is what the kernel itself "
    "writes and reads back.",
    "Intensity": "MACs over compulsory bytes. An operator of low intensity is held by memory, "
    "one of high intensity by arithmetic.",
    "Bound": "which roof of the machine accounts for most of an operator's time: compute or a "
    "level of memory; overhead where neither explains half of it. Known only where roofs were "
    "measured.",
}


def write(path: str, subjects: Sequence[Subject], context: Context) -> None:
    """The report as a file, which appears whole or not at all.

    Raises:
        MissingExtraError: the package that carries the plotting library is not installed.
        UsageError: ``path`` may not be written.
    """
    save(path, page(subjects, context, libraries()))


def page(subjects: Sequence[Subject], context: Context, script: str) -> str:
    """The report of one network, or of two to compare.

    Args:
        script: from :func:`libraries`.
    """
    names = " and ".join(subject.profile.network for subject in subjects)
    return document(
        f"{names}: tinyface profile",
        skip=("Skip to the table of operators", "#operators"),
        header=_header(subjects, context),
        sections=_sections(subjects, context),
        data=chart_data(subjects, context),
        scripts=(script, asset("charts.js"), asset("report.js")),
    )


def chart_data(subjects: Sequence[Subject], context: Context) -> dict[str, Any]:
    """What the charts are drawn from."""
    shown = [points(subject, context.roofs) for subject in subjects]
    return {
        "quantities": QUANTITIES,
        "networks": [
            {"label": label(subjects, i), "points": found} for i, found in enumerate(shown)
        ],
        "coloured": coloured(chain.from_iterable(shown)),
        "roofs": roof_lines(subjects, context.roofs),
    }


def _header(subjects: Sequence[Subject], context: Context) -> Element:
    first = subjects[0].profile
    engine = f"{first.backend} engine, {first.weights} weights"
    how = f"{engine}, threads: {first.threads}, runs: {first.runs}"
    title = " against ".join(label(subjects, i) for i in range(len(subjects)))
    lines = [
        element("h1", title),
        element("p", f"{context.machine}; {how}; {context.created}; tinyface {context.version}"),
    ]
    if context.warning:
        text = f"The times are doubtful: {context.warning}."
        lines.append(element("p", text, {"class": "warning", "role": "note"}))
    for number, subject in enumerate(subjects):
        prefix = f"{label(subjects, number)}: " if len(subjects) > 1 else ""
        lines += [element("p", f"{prefix}{note}", {"class": "note"}) for note in subject.notes]
    return element("header", *lines)


def _sections(subjects: Sequence[Subject], context: Context) -> Iterable[Element]:
    yield section("summary", "Summary", summary_table(subjects), *_kinds(subjects))
    yield section("bars", "Where it goes", *_bars(len(subjects)))
    yield section("roofline", "Roofline", *_roofline(subjects, context))
    tables = [operators_table(subjects, i, context.roofs) for i in range(len(subjects))]
    yield section("operators", "Operators", *tables)
    graphs = [network_section(subjects, i) for i in range(len(subjects))]
    yield section("network", "The network", *graphs)
    if any(subject.maps for subject in subjects):
        shown = [maps_section(subjects, i) for i in range(len(subjects)) if subjects[i].maps]
        yield section("maps", "Feature maps", *shown)
    terms = [part for k, v in TERMS.items() for part in (element("dt", k), element("dd", v))]
    yield section("terms", "What the figures mean", element("dl", *terms))


def _kinds(subjects: Sequence[Subject]) -> list[Element]:
    return [kinds_table(subjects, i) for i in range(len(subjects))]


def _bars(networks: int) -> list[Element]:
    choices = {"all": "all, as shares"} if networks == 1 else {}
    choices |= QUANTITIES
    radios = []
    for number, (key, title) in enumerate(choices.items()):
        attributes = {"type": "radio", "name": "quantity", "value": key}
        attributes |= {} if number else {"checked": "checked"}
        radios.append(element("label", element("input", attributes), f" {title}"))
    orders = {"number": "as they run", **{k: f"most {v} first" for k, v in QUANTITIES.items()}}
    options = [element("option", text, value=key) for key, text in orders.items()]
    return [
        element(
            "div",
            element("fieldset", element("legend", "Show"), *radios),
            element("label", "Order ", element("select", *options, id="order")),
            {"class": "controls"},
        ),
        figure("bars-chart", "One bar per operator, on one scale. The same figures are in the "
                "table of operators, which takes the order chosen here."),
    ]  # fmt: skip


def _roofline(subjects: Sequence[Subject], context: Context) -> list[Element]:
    if context.roofs is None:
        (best,) = roof_lines(subjects, None)
        text = (
            "No roofs of this machine are known. The dashed line is the best that any operator "
            f"here achieved ({best['gmac']:.3g} GMAC/s, {best['gb']:.3g} GB/s): an envelope of "
            "the points, not what the machine can do. With the C engine, or --roofs FILE, measured "
            "roofs take its place."
        )
    else:
        text = "The lines are the measured roofs: peak arithmetic and each level of memory."
    return [
        element("p", text, {"class": "note"} if context.roofs is None else {}),
        figure("roofline-chart", "Every operator that has MACs as a point. Both axes are "
                "logarithmic."),
        figure("strip-chart", "Operators without MACs have no place in a roofline; here is what "
                "they achieve of memory. One whose bytes the engine does not count is not shown."),
    ]  # fmt: skip
