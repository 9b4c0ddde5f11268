"""``tinyface profile --html``: one file that a browser opens from disk, without a network.

The tables hold everything; the charts (Vega-Lite, packed into the file) show it. The page is
built as a tree of elements, so every name from a model file is escaped where it is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from importlib.util import find_spec
from typing import Any
from xml.etree.ElementTree import Element, tostring

from tinyface.errors import MissingExtraError
from tinyface.files import atomic_write
from tinyface.traffic.report import QUANTITIES, Context, Subject, label, points, roof_lines
from tinyface.traffic.report_sections import (
    element,
    kinds_table,
    maps_section,
    network_section,
    operators_table,
    summary_table,
)

# Nothing may be fetched; Vega compiles its expressions, which is what 'unsafe-eval' allows.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
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


def check_extra() -> None:
    """Refuse a report before any work is done for it.

    Raises:
        MissingExtraError: the package that carries the plotting library is not installed.
    """
    if find_spec("vl_convert") is None:
        raise MissingExtraError("vl-convert-python", "report", "an HTML report")


def libraries() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, about 0.9 MB.

    Raises:
        MissingExtraError: the package that carries them is not installed.
    """
    check_extra()
    from vl_convert import javascript_bundle

    return str(javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def write(path: str, subjects: Sequence[Subject], context: Context) -> None:
    """The report as a file, which appears whole or not at all.

    Raises:
        MissingExtraError: the package that carries the plotting library is not installed.
        UsageError: ``path`` may not be written.
    """
    text = page(subjects, context, libraries())
    # a name out of a JSON file may hold half a surrogate pair, which no encoding has
    with atomic_write(path, "w", encoding="utf-8", errors="xmlcharrefreplace") as file:
        file.write(text)


def page(subjects: Sequence[Subject], context: Context, script: str) -> str:
    """The report of one network, or of two to compare.

    Args:
        script: from :func:`libraries`.
    """
    names = " and ".join(subject.profile.network for subject in subjects)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{names}: tinyface profile"),
        element("style", _asset("report.css")),
    )
    body = element(
        "body",
        element("a", "Skip to the table of operators", {"class": "skip", "href": "#operators"}),
        _header(subjects, context),
        element("main", *_sections(subjects, context)),
        element(
            "script", _script_json(chart_data(subjects, context)), id="data",
            type="application/json",
        ),
        element("script", _script_text(script)),
        element("script", _script_text(_asset("report.js"))),
    )  # fmt: skip
    html = element("html", head, body, lang="en")
    return f"<!DOCTYPE html>\n{tostring(html, encoding='unicode', method='html')}\n"


def chart_data(subjects: Sequence[Subject], context: Context) -> dict[str, Any]:
    """What the charts are drawn from."""
    return {
        "quantities": QUANTITIES,
        "networks": [
            {"label": label(subjects, i), "points": points(subject, context.roofs)}
            for i, subject in enumerate(subjects)
        ],
        "roofs": roof_lines(subjects, context.roofs),
    }


def _header(subjects: Sequence[Subject], context: Context) -> Element:
    first = subjects[0].profile
    how = f"{first.backend} engine, {first.weights}, threads: {first.threads}, runs: {first.runs}"
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
    yield _section("summary", "Summary", summary_table(subjects), *_kinds(subjects))
    yield _section("bars", "Where it goes", *_bars(len(subjects)))
    yield _section("roofline", "Roofline", *_roofline(subjects, context))
    tables = [operators_table(subjects, i, context.roofs) for i in range(len(subjects))]
    yield _section("operators", "Operators", *tables)
    graphs = [network_section(subjects, i) for i in range(len(subjects))]
    yield _section("network", "The network", *graphs)
    if any(subject.maps for subject in subjects):
        shown = [maps_section(subjects, i) for i in range(len(subjects)) if subjects[i].maps]
        yield _section("maps", "Feature maps", *shown)
    terms = [part for k, v in TERMS.items() for part in (element("dt", k), element("dd", v))]
    yield _section("terms", "What the figures mean", element("dl", *terms))


def _kinds(subjects: Sequence[Subject]) -> list[Element]:
    return [kinds_table(subjects, i) for i in range(len(subjects))]


def _section(name: str, title: str, *content: Element) -> Element:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *content, {"id": name, "aria-labelledby": f"{name}-title"})


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
        _figure("bars-chart", "One bar per operator, on one scale. The same figures are in the "
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
        _figure("roofline-chart", "Every operator that has MACs as a point. Both axes are "
                "logarithmic."),
        _figure("strip-chart", "Operators without MACs have no place in a roofline; here is what "
                "they achieve of memory. One whose bytes the engine does not count is not shown."),
    ]  # fmt: skip


def _figure(name: str, caption: str) -> Element:
    return element(
        "figure",
        element("div", {"id": name, "class": "chart"}),
        element("noscript", "This chart needs JavaScript; the table of operators does not."),
        element("figcaption", caption),
    )


def _asset(name: str) -> str:
    return (files("tinyface.traffic.assets") / name).read_text(encoding="utf-8")


def _script_json(document: dict[str, Any]) -> str:
    """JSON that cannot end its script element, whatever names it holds."""
    return json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")


def _script_text(code: str) -> str:
    """JavaScript that cannot, either. In its strings ``\\/`` is ``/``."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
