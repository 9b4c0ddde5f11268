"""``tinyface profile --png``: the bars and the roofline, for people without a browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tinyface import plots
from tinyface.traffic.report import (
    COLOURS,
    OTHERS,
    QUANTITIES,
    Context,
    Subject,
    coloured,
    label,
    points,
    roof_lines,
)

MARKERS: Final = ("o", "^")
STYLES: Final = ("-", "-.", ":", (0, (8, 4)))
MOST: Final = 120  # bars of a network; with more, the slowest


def draw(path: str, subjects: Sequence[Subject], context: Context) -> None:
    """Per network a row of bars, shares of the network's totals; below, one roofline of all."""
    plots.check(path)
    every = [points(subject, context.roofs) for subject in subjects]
    shown = [_slowest(rows) for rows in every]
    heights = [0.6 + 0.16 * len(rows) for rows in shown]
    figure = plots.figure(11, 1.2 + sum(heights) + 4.5)
    grid = figure.add_gridspec(len(shown) + 1, 1, height_ratios=[*heights, 4.5])
    colours = _colours(shown)
    for number, rows in enumerate(shown):
        columns = grid[number, 0].subgridspec(1, len(QUANTITIES), wspace=0.05)
        title = label(subjects, number)
        if len(rows) < len(every[number]):
            title += f": the slowest {len(rows)} of {len(every[number])} steps"
        _bars(figure, columns, rows, colours, title)
    _roofline(figure.add_subplot(grid[-1, 0]), subjects, shown, context, colours)
    warning = f"\ntimes doubtful: {context.warning}" if context.warning else ""
    _text(figure.suptitle, f"{context.machine}, {context.created}{warning}", fontsize=8)
    plots.save(figure, path)


def _slowest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """No more than MOST rows, still in the order in which they run."""
    kept = {row["number"] for row in sorted(rows, key=lambda row: -row["time"])[:MOST]}
    return [row for row in rows if row["number"] in kept]


def _colours(shown: list[list[dict[str, Any]]]) -> dict[str, str]:
    """Kind -> colour. Rows of a kind for which none is left are of OTHERS from here on."""
    rows = [row for rows in shown for row in rows]
    of_kind = dict(zip(coloured(rows), COLOURS, strict=False))
    for row in rows:
        row["kind"] = row["kind"] if row["kind"] in of_kind else OTHERS
    return of_kind


def _bars(
    figure: Any, columns: Any, rows: list[dict[str, Any]], colours: dict[str, str], title: str
) -> None:
    """One panel per quantity, all on the scale of shares."""
    places = range(len(rows))
    first = None
    for column, (key, meaning) in enumerate(QUANTITIES.items()):
        axes = figure.add_subplot(columns[0, column], sharex=first, sharey=first)
        values = [100 * row["shares"][key] for row in rows]
        axes.barh(places, values, color=[colours[row["kind"]] for row in rows], height=0.8)
        axes.set_xlabel(f"{meaning}, %", fontsize=8)
        axes.tick_params(labelsize=7, left=False, labelleft=column == 0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        if first is None:
            first = axes
            names = [f"{row['number']} {row['name']}"[:40] for row in rows]
            axes.set_yticks(places, names, parse_math=False)
            axes.invert_yaxis()
            axes.margins(y=0.01)
            _text(axes.set_title, title, loc="left", fontsize=10)


def _roofline(
    axes: Any,
    subjects: Sequence[Subject],
    shown: list[list[dict[str, Any]]],
    context: Context,
    colours: dict[str, str],
) -> None:
    """Achieved GMAC/s over MACs per byte, one point per operator."""
    drawn = set()
    xs = []
    for number, rows in enumerate(shown):
        for row in rows:
            if row["macs"] and row["time"]:
                which = "" if len(shown) == 1 else f"{label(subjects, number)}, "
                title = f"{which}{row['kind']}"
                axes.scatter(
                    row["intensity"], row["gmac"], s=24, marker=MARKERS[number % 2],
                    color=colours[row["kind"]], label=None if title in drawn else title[:60],
                )  # fmt: skip
                drawn.add(title)
                xs.append(row["intensity"])
    placed = {row["kind"] for rows in shown for row in rows if row["macs"] and row["time"]}
    for kind in [kind for kind in colours if kind not in placed]:
        # of the bars, which have no legend of their own
        axes.scatter([], [], s=24, marker="s", color=colours[kind], label=kind[:60])
    for number, line in enumerate(roof_lines(subjects, context.roofs)):
        if line["gb"] and line["gmac"] and xs:
            ridge = line["gmac"] / line["gb"]
            x = [min(*xs, ridge) / 2, ridge, max(*xs, ridge) * 2]
            y = [min(line["gmac"], line["gb"] * value) for value in x]
            style = STYLES[number % len(STYLES)] if line["measured"] else "--"
            axes.plot(x, y, linestyle=style, color=COLOURS[-1], linewidth=1, label=line["label"])
    axes.set(xscale="log", yscale="log")
    plots.plain_ticks(axes)
    axes.set_xlabel("arithmetic intensity (MAC per compulsory byte)", fontsize=8)
    axes.set_ylabel("achieved GMAC/s", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if xs:
        for text in axes.legend(fontsize=7, loc="best").get_texts():
            text.set_parse_math(False)


def _text(put: Any, text: str, **how: Any) -> None:
    """Names may hold dollar signs; they are not formulas."""
    put(text, **how).set_parse_math(False)
