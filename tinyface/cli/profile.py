"""``tinyface profile``: where the time of a network goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from tinyface.cli import common
from tinyface.cli.common import si
from tinyface.errors import UsageError

if TYPE_CHECKING:
    from tinyface.formats.modelfile import Card
    from tinyface.runtime import Session
    from tinyface.traffic.cache import Cache
    from tinyface.traffic.profile import Profile
    from tinyface.traffic.report import Context, Subject
    from tinyface.traffic.roofs import Roofs


@dataclass(frozen=True)
class Wishes:
    """What the options ask for besides the figures."""

    html: str | None
    png: str | None
    picture: str | None
    aligned: bool
    detector: str | None
    cache: Cache | None


@click.command("profile", short_help="Time and traffic of every operator.")
@click.argument("models", metavar="MODEL [MODEL]", nargs=-1, required=True)
@click.option("--compare", is_flag=True, help="Set two networks side by side; they take turns.")
@click.option("--runs", type=click.IntRange(1, 10_000), default=30, show_default=True)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), default=None,
    help="Also write the trace of one run: .json, .csv, or .chrome.json for chrome://tracing.",
)  # fmt: skip
@click.option(
    "--html", type=click.Path(dir_okay=False), default=None,
    help="Also write a report for the browser: one file, with everything in it.",
)  # fmt: skip
@click.option(
    "--png", type=click.Path(dir_okay=False), default=None,
    help="Also draw the bars and the roofline as a picture.",
)  # fmt: skip
@click.option(
    "--picture", metavar="PHOTO", default=None,
    help="With --html: show what every operator makes of this photo.",
)  # fmt: skip
@common.aligned_option
@common.detector_option
@click.option(
    "--roofs", metavar="FILE", default=None,
    help="Roofs of another machine or of yours, as JSON.  [default: this machine's, measured]",
)  # fmt: skip
@click.option(
    "--cache", metavar="SIZE", default=None,
    help="Also the bytes that pass a last cache of this size (512K, 1M, 1M:16), by a model: "
    "takes seconds.",
)  # fmt: skip
@common.engine_options
@common.weights_option
@common.json_option
def command(
    models: tuple[str, ...], compare: bool, runs: int, output: str | None, html: str | None,
    png: str | None, picture: str | None, aligned: bool, detector: str | None,
    roofs: str | None, cache: str | None, backend: str, threads: int | None, weights: str,
    as_json: bool,
) -> int:  # fmt: skip
    """Time every operator of a network, beside its MACs and the bytes it moves.

    MODEL is a model file (one of another format that 'tinyface import' reads will do), the name of
    installed weights, or a network from 'tinyface models' (which then runs with random weights: the
    times do not depend on them). Times are medians over the runs; least is the minimum. read,
    written and weights are compulsory bytes, every operand once; GMAC/s and GB/s are what the
    operator achieved (docs/definitions.md).

    \b
    Example:
      tinyface profile fdfacenet
      tinyface profile fdfacenet --html report.html --picture photo.jpg
      tinyface profile --compare fdfacenet mobilefacenet
      tinyface profile theirs.onnx
    """
    wishes = Wishes(html, png, picture, aligned, detector, read_cache(cache))
    common.check_kept([*models, picture or "", roofs or ""], output, html, png)
    check(models, compare, output, wishes)
    opened = [open_network(name, backend, threads, weights) for name in models]
    known = machine_roofs(roofs, opened[0][0])
    pictures = [show_picture(session, card, wishes) for session, card in opened]
    profiles, described = run(opened, runs, wishes.cache)
    subjects = [
        subject(profile, session, card, *shown)
        for profile, (session, card), shown in zip(profiles, opened, pictures, strict=True)
    ]
    write_reports(subjects, described, known, wishes)
    if output:
        write_trace(opened[0][0], output)
    if as_json:
        print_documents(profiles, described, known)
    else:
        for profile in profiles:
            print_profile(profile, known)
        if compare:
            print_comparison(*profiles)
    return 0


def check(models: tuple[str, ...], compare: bool, output: str | None, wishes: Wishes) -> None:
    """Refuse what cannot be done before anything is timed."""
    if compare and len(models) != 2:
        raise UsageError(f"--compare takes two networks, not {len(models)}")
    if not compare and len(models) != 1:
        raise UsageError("give one network, or two after --compare")
    if compare and output:
        raise UsageError("a trace is of one network; leave out --compare or -o")
    if wishes.picture and not wishes.html:
        raise UsageError("--picture is shown in the report: add --html report.html")
    if output:
        from tinyface.tracing import check_name

        check_name(output)
    common.check_folders(output, wishes.png, wishes.html)
    if wishes.png:
        from tinyface import plots

        plots.check(wishes.png)
    if wishes.html:
        from tinyface.traffic.report_page import check_extra

        check_extra()


def machine_roofs(file: str | None, session: Session) -> Roofs | None:
    """From the file, else those kept by ``doctor --roofline``, else measured now."""
    from tinyface.backends import c
    from tinyface.traffic import roofline
    from tinyface.traffic.roofs import Roofs

    if file:
        return Roofs.read(file, c.choose_isa().name if c.available() else "", session.threads)
    return roofline.of_this_machine(session.threads)


def read_cache(text: str | None) -> Cache | None:
    from tinyface.traffic.cache import Cache

    return None if text is None else Cache.parse(text)


def run(
    opened: Sequence[tuple[Session, Card | None]], runs: int, cache: Cache | None = None
) -> tuple[list[Profile], dict[str, Any]]:
    """The networks' profiles, taken in turns, and the machine before and after."""
    from dataclasses import replace

    from tinyface import machine
    from tinyface.traffic.counters import Counters
    from tinyface.traffic.profile import count, measure_in_turns, model_cache, random_inputs

    cases = [(session, random_inputs(session)) for session, _ in opened]
    past = [model_cache(session, cache) if cache else () for session, _ in opened]
    before = machine.state()
    with Counters() as counters, common.progress_bar(runs + 1, "profiling") as advance:
        profiles = measure_in_turns(cases, runs=runs, progress=advance)
        profiles = [
            replace(count(profile, *case, counters, runs), cache=cache, past=found)
            for profile, case, found in zip(profiles, cases, past, strict=True)
        ]
    described = machine.describe() | {"before": before, "after": machine.state()}
    described["disturbance"] = machine.disturbance(before, described["after"])
    if described["disturbance"]:
        common.note(f"the times are doubtful: {described['disturbance']}")
    return profiles, described


def show_picture(session: Session, card: Card | None, wishes: Wishes) -> tuple[Any, ...]:
    """PNG of the crop, and the feature maps; nothing where no picture was given."""
    if not wishes.picture:
        return b"", ()
    from tinyface.traffic import report_maps

    crop = report_maps.picture_crop(
        session.graph, card, wishes.picture, wishes.aligned, wishes.detector
    )
    inputs = report_maps.network_input(session.graph, card, crop)
    maps = report_maps.feature_maps(session.graph, inputs)
    return report_maps.encode_png(crop), tuple(maps)


def subject(
    profile: Profile, session: Session, card: Card | None, crop: bytes, maps: tuple[Any, ...]
) -> Subject:
    """A network as the reports take it."""
    from tinyface.traffic.report import Subject

    notes = []
    if card is None:
        notes.append(
            "The weights are random. Times, MACs and bytes do not depend on them; feature maps do."
        )
    return Subject(profile, session.graph, tuple(notes), crop, maps)


def write_reports(
    subjects: list[Subject], described: dict[str, Any], roofs: Roofs | None, wishes: Wishes
) -> None:
    """The files that the options name."""
    context = report_context(described, roofs)
    if wishes.html:
        from tinyface.traffic.report_html import write

        write(wishes.html, subjects, context)
        common.note(f"report: {wishes.html}")
    if wishes.png:
        from tinyface.traffic.report_png import draw

        draw(wishes.png, subjects, context)
        common.note(f"picture: {wishes.png}")


def report_context(described: dict[str, Any], roofs: Roofs | None) -> Context:
    """Where and when it was measured."""
    from datetime import date

    from tinyface import __version__, machine
    from tinyface.traffic.report import Context

    today = date.today().isoformat()
    headline = machine.headline(described)
    return Context(headline, described["disturbance"], today, __version__, roofs)


def write_trace(session: Session, output: str) -> None:
    """One more run, step by step."""
    from tinyface.tracing import trace
    from tinyface.traffic.profile import random_inputs

    inputs = random_inputs(session)
    with trace() as opened:
        session.run(inputs)
    opened.write(output)
    common.note(f"trace of one run: {output}")


def print_documents(
    profiles: list[Profile], described: dict[str, Any], roofs: Roofs | None
) -> None:
    """JSON: one profile, or two with the ratios of their totals."""
    known = {"machine": described, "roofs": roofs.to_json() if roofs else None}
    if len(profiles) == 1:
        common.print_json("profile/1", profiles[0].to_json(roofs) | known)
        return
    from tinyface.traffic.report import ratios

    documents = [profile.to_json(roofs) for profile in profiles]
    both = {"profiles": documents, "ratios_b_over_a": ratios(*profiles)}
    common.print_json("profile-compare/1", both | known)


def open_network(
    name: str, backend: str, threads: int | None, weights: str = "fp32"
) -> tuple[Session, Card | None]:
    """A session of a trained model, with its card, or of a network of the registry with random
    weights."""
    from tinyface.cli.info import open_model
    from tinyface.networks import random_state
    from tinyface.runtime import Session

    graph, card = open_model(name)
    if card is None:
        graph = graph.bind(random_state(graph))
    return Session(graph, backend, threads, weights), card


def print_comparison(a: Profile, b: Profile) -> None:
    """The totals side by side."""
    from tinyface.traffic.report import ratios, totals

    other, relation = totals(b), ratios(a, b)
    common.print_table(
        ["", f"A: {a.network}", f"B: {b.network}", "B / A"],
        [
            [key, si(float(f"{value:.4g}")), si(float(f"{other[key]:.4g}")),
             "-" if relation[key] is None else f"{relation[key]:.3g}"]
            for key, value in totals(a).items()
        ],
        right=range(1, 4),
    )  # fmt: skip


def print_profile(result: Profile, roofs: Roofs | None = None) -> None:
    """The tables for people."""
    click.echo(
        f"{result.network}: {result.whole_ns / 1e6:.3f} ms (least {result.least_ns / 1e6:.3f}), "
        f"{result.backend} engine, {result.threads} thread{'s' * (result.threads != 1)}, "
        f"{result.weights} weights, {result.runs} run{'s' * (result.runs != 1)}; "
        f"with step times {result.traced_ns / 1e6:.3f} ms"
    )
    if result.memory:
        sizes = ", ".join(f"{what} {si(size, 'B')}" for what, size in result.memory.items())
        click.echo(f"memory: {sizes}")
    if result.measured:
        counts = result.measured.to_json()
        counts.pop("runs")
        click.echo("counted a run: " + ", ".join(f"{k} {si(v)}" for k, v in counts.items()))
    if result.cache:
        past = result.past_sum
        click.echo(
            f"past a cache of {result.cache}, by the model: {si(past.filled)}B filled, "
            f"{si(past.written)}B written back"
        )
    modelled = [[si(p.bytes) if p.bytes else "-"] for p in result.past] or [[]] * len(result.rows)
    body = []
    for row, bound, beyond in zip(result.rows, result.bounds(roofs), modelled, strict=True):
        r, cost = row.record, row.record.compulsory
        shape = "x".join(map(str, r.output_shape))
        figures = (cost.macs, cost.feature_read, cost.feature_write, cost.weight)
        rates = (f / max(1, row.time_ns) for f in (cost.macs, r.algorithmic.bytes))
        body.append(
            [r.name, r.kernel, shape, *(si(f) if f else "-" for f in figures), *beyond,
             f"{row.time_ns / 1e3:.1f}", f"{row.least_ns / 1e3:.1f}", f"{row.share:.1%}",
             *(f"{rate:.2f}" for rate in rates), *([bound] if bound else [])]
        )  # fmt: skip
    cost = result.cost
    sums = (cost.macs, cost.feature_read, cost.feature_write, cost.weight)
    total = sum(row.time_ns for row in result.rows)
    title, beyond = (["past cache B"], [si(result.past_sum.bytes)]) if result.cache else ([], [])
    common.print_table(
        ["operator", "kernel", "output", "MACs", "read B", "written B", "weights B", *title,
         "µs", "least", "share", "GMAC/s", "GB/s", *(["bound"] if roofs else [])],
        body,
        right=range(3, 12 + len(title)),
        footer=[f"{len(body)} steps", "", "", *map(si, sums), *beyond, f"{total / 1e3:.1f}",
                *[""] * (5 if roofs else 4)],
    )  # fmt: skip
    common.print_table(
        ["kind", "steps", "MACs", "feature maps B", "weights B", "µs", "share", "GMAC/s"],
        [
            [key, str(steps), si(c.macs), si(c.feature_read + c.feature_write), si(c.weight),
             f"{ns / 1e3:.1f}", f"{ns / max(1, total):.1%}", f"{c.macs / max(1, ns):.2f}"]
            for key, (steps, ns, c) in result.by_kernel().items()
        ],
        right=range(1, 8),
    )  # fmt: skip
