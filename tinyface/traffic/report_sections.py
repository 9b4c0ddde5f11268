"""The tables, the drawn network and the feature maps of an HTML report, as elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

from tinyface.traffic.report import Subject, figures, label, ratios, totals
from tinyface.traffic.report_graph import LaneRow, lane_rows
from tinyface.traffic.report_maps import data_uri
from tinyface.traffic.report_page import element, head, line, table
from tinyface.traffic.roofs import Roofs

STEP = 14  # pixels between lanes
HEIGHT = 28  # of a row of the drawn network
MOST_LANES = 64  # more are not drawn: the text says the same

# key -> (title, explanation); the keys sort
COLUMNS = {
    "number": ("#", "place in the order of execution"),
    "name": ("operator", ""),
    "kernel": ("kernel", "what computes it"),
    "shape": ("output", "shape of its first output, NCHW"),
    "macs": ("MACs", "multiply-accumulates"),
    "read": ("read B", "bytes of feature maps read"),
    "written": ("written B", "bytes of feature maps written"),
    "weights": ("weights B", "bytes of weights"),
    "scratch": ("scratch B", "bytes of scratch that the kernel touches"),
    "past": ("past cache B", "bytes that pass the last cache, by the model"),
    "time": ("µs", "median time, microseconds"),
    "share": ("share", "share of the network's time"),
    "gmac": ("GMAC/s", "achieved"),
    "gb": ("GB/s", "achieved, of the bytes that the kernel touches"),
    "intensity": ("MAC/B", "arithmetic intensity"),
    "bound": ("bound", "which roof holds it"),
}
TEXTS = ("name", "kernel", "shape", "bound")


def amount(value: float) -> str:
    """1234567 -> "1.23 M"; three digits that count; "–" for nothing."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g}" if value else "–"


def _rate(value: float) -> str:
    return f"{value:.2f}" if value else "–"


def shape_text(shape: Sequence[int]) -> str:
    """(1, 3, 112, 112) -> "1×3×112×112"."""
    return "×".join(map(str, shape))


# ------------------------------------------------------------------------------ tables


def summary_table(subjects: Sequence[Subject]) -> Element:
    """The totals; of two networks side by side, with B over A."""
    names = [label(subjects, i) for i in range(len(subjects))]
    sums = [totals(subject.profile) for subject in subjects]
    rows = []
    relation = ratios(subjects[0].profile, subjects[-1].profile)
    for key in sums[0]:
        cells = [amount(found[key]) for found in sums]
        if len(subjects) == 2:
            ratio = relation[key]
            cells.append("–" if ratio is None else f"× {ratio:.3g}")
        rows.append(line(key, *cells))
    heads = head("", *names, *(["B / A"] if len(subjects) == 2 else []))
    return table("Totals of one inference", heads, rows)


def kinds_table(subjects: Sequence[Subject], number: int) -> Element:
    """Sums by operator and kernel, the slowest first, with the share of the time."""
    profile = subjects[number].profile
    total = sum(row.time_ns for row in profile.rows) or 1
    rows = [
        line(
            key, str(steps), amount(cost.macs), amount(cost.feature_read + cost.feature_write),
            amount(cost.weight), f"{ns / 1e3:.1f}", f"{ns / total:.1%}",
            _rate(cost.macs / max(1, ns)),
        )
        for key, (steps, ns, cost) in profile.by_kernel().items()
    ]  # fmt: skip
    heads = head("kind", "steps", "MACs", "maps B", "weights B", "µs", "share", "GMAC/s")
    return table(f"{label(subjects, number)}: by kind", heads, rows)


def operators_table(subjects: Sequence[Subject], number: int, roofs: Roofs | None) -> Element:
    """One row per step, sortable by every column."""
    profile = subjects[number].profile
    heads = []
    shown = {key: text for key, text in COLUMNS.items() if key != "past" or profile.cache}
    for key, (title, meaning) in shown.items():
        button = element("button", title, {"type": "button", "data-key": key})
        if meaning:
            button.set("title", meaning)
        state = "ascending" if key == "number" else "none"
        heads.append(element("th", button, {"scope": "col", "aria-sort": state}))
    places = _places(lane_rows(subjects[number].graph))
    rows = []
    for i, (row, bound) in enumerate(zip(profile.rows, profile.bounds(roofs), strict=True)):
        past = profile.past[i].bytes if profile.cache else None
        cells = _cells(row, bound, past)
        place = _place(row.record.name, places)
        where = f"#g{number}-{place}" if place is not None else ""
        rows.append(_operator_row(f"{number}-{i}", i, cells, where))
    caption = f"{label(subjects, number)}: every step; the heads of the columns sort"
    table_id = f"operators-{number}"
    return table(caption, element("tr", *heads), rows, id=table_id, **{"class": "sortable"})


def _cells(row: Any, bound: str | None, past: int | None) -> dict[str, tuple[str, float | str]]:
    """key -> (text, what it sorts by)."""
    record, cost, found = row.record, row.record.compulsory, figures(row)
    scratch = record.algorithmic.scratch
    return {
        "name": (record.name, record.name),
        "kernel": (f"{record.op} · {record.kernel}", f"{record.op} {record.kernel}"),
        "shape": (shape_text(record.output_shape), shape_text(record.output_shape)),
        "macs": (amount(cost.macs), cost.macs),
        "read": (amount(cost.feature_read), cost.feature_read),
        "written": (amount(cost.feature_write), cost.feature_write),
        "weights": (amount(cost.weight), cost.weight),
        "scratch": (amount(scratch), scratch),
        **({} if past is None else {"past": (amount(past), past)}),
        "time": (f"{row.time_ns / 1e3:.1f}", row.time_ns),
        "share": (f"{row.share:.1%}", row.share),
        "gmac": (_rate(found["gmac"]), found["gmac"]),
        "gb": (_rate(found["gb"]), found["gb"]),
        "intensity": (_rate(found["intensity"]), found["intensity"]),
        "bound": (bound or "unknown", bound or ""),
    }


def _operator_row(
    key: str, number: int, cells: dict[str, tuple[str, float | str]], where: str
) -> Element:
    name = cells.pop("name")[0]
    title: Element | str = element("a", name, href=where) if where else name
    made = [
        element("td", str(number), {"data-v": str(number), "class": "figure"}),
        element("th", title, {"scope": "row", "data-v": name}),
    ]
    for column, (text, value) in cells.items():
        attributes = {"data-v": str(value)}
        if column not in TEXTS:
            attributes["class"] = "figure"
        made.append(element("td", text, attributes))
    return element("tr", *made, {"id": f"r{key}", "data-point": key})


# ------------------------------------------------------------------------- the network


def _places(rows: Sequence[LaneRow]) -> dict[str, int]:
    """Name of a node, or of what it writes -> row of the drawn network."""
    named = {row.name: place for place, row in enumerate(rows)}
    return named | {name: place for place, row in enumerate(rows) for name in row.outputs}


def _place(step: str, places: dict[str, int]) -> int | None:
    """Where a step belongs. It is called like its node or what that writes; copies and changes
    of layout that the engine adds have a suffix (input.nhwc, stage1.cat.0)."""
    return places.get(step, places.get(step.rpartition(".")[0]))


def network_section(subjects: Sequence[Subject], number: int) -> Element:
    """The operators in order, with lanes for the maps between them."""
    subject = subjects[number]
    rows = lane_rows(subject.graph)
    steps = _steps(subject, rows, number)
    width = max(max((row.lane, *row.through, *row.into, *row.out)) for row in rows) + 1
    items = []
    before = ""
    for place, row in enumerate(rows):
        picture = [_lanes(row, width)] if width <= MOST_LANES else []
        attributes, name, time = steps.get(place, ({}, element("span", row.name), []))
        if not attributes and row.kind != "input":
            time = [element("span", " no step of its own", {"class": "time"})]
        name.set("class", "name")
        kind = element("span", f" {row.kind} ", {"class": "kind"})
        shape = element("span", shape_text(row.shape), {"class": "shape"})
        away = row.reads not in ((), (before,))  # not just the row above
        reads = [element("span", f" reads {', '.join(row.reads)}", {"class": "reads"})]
        parts = [*picture, name, kind, shape, *(reads if away else []), *time]
        items.append(element("li", *parts, attributes | {"id": f"g{number}-{place}"}))
        before = row.name
    title = f"{label(subjects, number)}: {len(rows)} operators and inputs in the order they run"
    style = {"class": "scroll lanes", "tabindex": "0", "role": "region", "aria-label": title}
    return element("div", element("h3", title), element("ol", *items), style)


def _steps(
    subject: Subject, rows: Sequence[LaneRow], number: int
) -> dict[int, tuple[dict[str, str], Element, list[Element]]]:
    """Place -> attributes, link and time of the step that computes it. Bars: the slowest is 1."""
    places = _places(rows)
    members: dict[int, list[int]] = {}
    for i, step in enumerate(subject.profile.rows):
        place = _place(step.record.name, places)
        if place is not None:
            members.setdefault(place, []).append(i)
    shares = {
        place: sum(subject.profile.rows[i].share for i in steps) for place, steps in members.items()
    }
    longest = max(shares.values(), default=0) or 1
    found = {}
    for place, steps in members.items():
        link = element("a", rows[place].name, href=f"#r{number}-{steps[0]}")
        style = f"--share:{shares[place] / longest:.4f}"
        ns = sum(subject.profile.rows[i].time_ns for i in steps)
        meter = element("span", {"class": "meter", "style": style})
        text = f" {ns / 1e3:.1f} µs, {shares[place]:.1%}"
        time = [meter, element("span", text, {"class": "time"})]
        found[place] = ({"data-point": f"{number}-{steps[0]}"}, link, time)
    return found


def _lanes(row: LaneRow, width: int) -> Element:
    """The piece of the drawing in front of one row; decoration, the text says the same."""
    half = HEIGHT // 2
    x = [STEP * (lane + 0.5) for lane in range(width)]
    here = x[row.lane]
    paths = [f"M{x[lane]} 0V{HEIGHT}" for lane in row.through]
    paths += [_curve(x[lane], 0, here, half) for lane in row.into]
    paths += [_curve(here, half, x[lane], HEIGHT) for lane in row.out]
    size = {"width": str(STEP * width), "height": str(HEIGHT)}
    return element(
        "svg",
        element("path", d="".join(paths) or "M0 0"),
        element("circle", cx=str(here), cy=str(half), r="4.5"),
        size | {"viewBox": f"0 0 {STEP * width} {HEIGHT}", "aria-hidden": "true"},
    )


def _curve(x0: float, y0: float, x1: float, y1: float) -> str:
    middle = (y0 + y1) / 2
    return f"M{x0} {y0}C{x0} {middle} {x1} {middle} {x1} {y1}"


# ------------------------------------------------------------------------ feature maps


def maps_section(subjects: Sequence[Subject], number: int) -> Element:
    """The crop, and for every operator the channels that vary most."""
    subject = subjects[number]
    first = element(
        "figure",
        element("img", src=data_uri(subject.crop), alt="The picture as the network sees it"),
        element("figcaption", "the network's input"),
    )
    pictures = [first]
    for found in subject.maps:
        vector = len(found.channels) > 1 and found.shape[2:] in ((), (1, 1))
        which = (
            f"{len(found.channels)} values"
            if vector
            else f"channels {', '.join(map(str, found.channels))}"
        )
        alt = (
            f"Output of {found.name}, {shape_text(found.shape)}: {which}, "
            f"values {found.low:.3g} to {found.high:.3g}"
        )
        caption = f"{found.name} · {found.kind} · {shape_text(found.shape)}"
        detail = element("span", f"{which}; {found.low:.3g} … {found.high:.3g}")
        image = element("img", src=found.uri, alt=alt)
        pictures.append(element("figure", image, element("figcaption", caption, " · ", detail)))
    note = (
        "Of every operator the channels that vary most; each from its least value (black) to "
        "its largest (white)."
    )
    title = element("h3", label(subjects, number))
    return element("div", title, element("p", note), *pictures, {"class": "tiles"})
