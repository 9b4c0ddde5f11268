"""``tinyface claim``: does feature-map traffic decide the time, on this machine?"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import click

from tinyface import plots
from tinyface.cli import common
from tinyface.cli.common import si
from tinyface.limits import MAX_THREADS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tinyface.traffic.claim import Claim
    from tinyface.traffic.device import Device
    from tinyface.traffic.fit import Fit
    from tinyface.traffic.predict import HeldOut

SYMBOLS = {
    "macs": ("ns/MAC", 1.0), "feature": ("F ns/B", 1.0), "feature_z": ("F ns/B", 1.0),
    "weight": ("weights ns/B", 1.0), "steps": ("µs/operator", 1e-3),
    "layers": ("µs/layer", 1e-3), "constant": ("constant µs", 1e-3),
}  # fmt: skip


@click.command("claim", short_help="Does feature-map traffic decide the time here?")
@click.option("--paper", is_flag=True, help="Fit the FDFaceNet paper's printed figures instead.")
@click.option("--quick", is_flag=True, help="Fewer networks and rounds: about half a minute.")
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=None,
    help="Turns of every network.  [default: 10; 4 with --quick]",
)  # fmt: skip
@click.option(
    "-t", "--threads", type=click.IntRange(1, MAX_THREADS), default=1, show_default=True,
    help="Threads of the C engine.",
)  # fmt: skip
@click.option("--backend", type=click.Choice(["auto", "c", "numpy"]), default="auto",
              show_default=True, help="Engine.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(), help="Also write the measurements: .csv.")
@click.option(
    "--plot", type=click.Path(), help="Also draw them: .png, .svg or .pdf (needs matplotlib)."
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False),
    help="Also write a report for the browser: one file, with everything in it.",
)
@click.option("--device", type=click.Path(), help="Also write this machine for predict: .json.")
@common.json_option
def command(
    paper: bool,
    quick: bool,
    rounds: int | None,
    threads: int,
    backend: str,
    output: str | None,
    plot: str | None,
    html: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Put the FDFaceNet paper's claim to the test on this machine.

    Runs its families of networks, the face networks, and networks built so that one of
    feature-map traffic F, MACs, weights and number of operators varies while the others stay;
    fits four models of the time, and says in one sentence whether F matters. Takes minutes;
    nothing else should be running. docs/claim.md explains design, models and rule.

    \b
    Example:
      tinyface claim --quick
      tinyface claim --html claim.html --device here.json
      tinyface claim --paper
    """
    _check_names(
        (output, (".csv",)), (plot, plots.SUFFIXES), (html, (".html",)), (device, (".json",))
    )
    if paper:
        return _paper(as_json, (output, plot, html, device, quick, rounds))
    plots.check(plot)
    if html:
        from tinyface.traffic.report_page import check_extra

        check_extra()
    from tinyface.traffic.claim import analyse
    from tinyface.traffic.predict import held_out

    described, warning, measured = _measure(quick, rounds, threads, backend)
    result = analyse(measured)
    held = held_out(measured)
    fitted = _device(measured, described, held, threads, backend, warning)
    _files(result, held, fitted, (output, plot, html, device), described, warning, threads)
    if warning:
        common.note(f"these times are not to be trusted: {warning}")
    if as_json:
        facts = {"machine": described, "threads": threads, "quick": quick, "warning": warning}
        prediction = {"held_out": held.to_json(), "device": fitted.to_json()}
        common.print_json("claim/1", facts | result.to_json() | {"prediction": prediction})
    else:
        from tinyface import machine

        click.echo(machine.headline(described))
        print_claim(result, held)
    return 0


def _files(
    result: Claim,
    held: HeldOut,
    fitted: Device,
    names: tuple[str | None, ...],
    described: dict[str, Any],
    warning: str,
    threads: int,
) -> None:
    """Write what the options name."""
    output, plot, html, device = names
    measured = result.measured
    if output:
        about = {"cpu": described["cpu"], "threads": threads, "warning": warning}
        _write(output, _csv([m.to_json() | about for m in measured]))
    if plot:
        from tinyface.traffic.claim_plot import draw

        doubt = f"\nthe times are not to be trusted: {warning}" if warning else ""
        draw(result, plot, described["cpu"] + doubt)
    if html:
        _html(html, result, held, described, warning, threads)
    if device:
        _write(device, json.dumps(fitted.to_json(), indent=1, ensure_ascii=False) + "\n")


def _html(
    path: str, claim: Claim, held: HeldOut, described: dict[str, Any], warning: str, threads: int
) -> None:
    """The report."""
    from datetime import date

    from tinyface import __version__, machine
    from tinyface.traffic.claim_html import About, write

    how = f"{len(claim.measured)} networks in turns, threads: {threads}"
    today = date.today().isoformat()
    about = About(machine.headline(described), how, today, __version__, warning)
    write(path, claim, held, about)
    common.note(f"report: {path}")


def _check_names(*wanted: tuple[str | None, tuple[str, ...]]) -> None:
    """Before minutes are spent: can what is asked for be written?"""
    from pathlib import Path

    from tinyface.errors import UsageError

    for path, forms in wanted:
        if path and Path(path).suffix.lower() not in forms:
            raise UsageError(f"{path}: give it a name that ends in {' or '.join(forms)}")
    common.check_folders(*(path for path, _ in wanted))


def _measure(
    quick: bool, rounds: int | None, threads: int, backend: str
) -> tuple[dict[str, Any], str, list[Any]]:
    """The machine, what disturbed it, the measurements."""
    from tinyface import machine
    from tinyface.traffic.design import members
    from tinyface.traffic.experiment import measure

    chosen = members(quick=quick)
    count = rounds or (4 if quick else 10)
    before = machine.state()
    with common.progress_bar(len(chosen) * (count + 1), "measuring") as advance:
        measured = measure(chosen, backend=backend, threads=threads, rounds=count, progress=advance)
    described = machine.describe() | {"before": before, "after": machine.state()}
    reasons = [machine.disturbance(described["before"], described["after"])]
    noisy = sum(m.noisy for m in measured)
    if noisy > len(measured) // 4:
        reasons.append(f"{noisy} of {len(measured)} networks were interrupted in most rounds")
    return described, "; ".join(filter(None, reasons)), measured


def _device(
    measured: list[Any],
    described: dict[str, Any],
    held: HeldOut,
    threads: int,
    backend: str,
    warning: str,
) -> Device:
    """This machine for ``predict``."""
    from dataclasses import replace

    from tinyface.runtime import choose_backend
    from tinyface.traffic import roofline
    from tinyface.traffic.predict import fit_device

    isa = None
    if choose_backend(backend) == "c":
        from tinyface.backends import c

        isa = c.choose_isa()
    about = {
        "source": "measured by tinyface claim", "warning": warning, "machine": described,
        "held_out": held.to_json(),
    }  # fmt: skip
    device = fit_device(measured, described["cpu"], isa=isa, threads=threads)
    return replace(device, about=about, roofs=roofline.of_this_machine(threads))


def _paper(as_json: bool, others: tuple[str | bool | int | None, ...]) -> int:
    from tinyface.errors import UsageError
    from tinyface.traffic import paper

    if any(others):
        raise UsageError(
            "--paper measures nothing: leave out -o, --plot, --html, --device, --quick and --rounds"
        )
    if as_json:
        common.print_json("claim-paper/1", paper.to_json())
        return 0
    click.echo(f"{paper.document()['source']}: rows with a time at hand")
    common.print_table(
        ["machine", "network", "ms", "MACs", "F printed", "F (Z)", "weights", "layers"],
        [
            [r.machine, r.network, f"{r.ms:g}", si(r.macs), *(f"{v / 1e6:.2f} MB" for v in
             (r.feature, r.feature_z, r.weight)), str(r.layers or "-")]
            for r in paper.rows()
        ],
        right=range(2, 8),
    )  # fmt: skip
    for machine, title in paper.MACHINES.items():
        click.echo(f"{title}: fits to these rows, 95 % intervals in brackets")
        _print_fits({"": paper.fits(machine)})
    click.echo("Fits to all printed rows, whose times are not at hand:")
    common.print_table(
        ["machine", "tables", "rows", "model", "R²"],
        [[r["machine"], r["tables"], str(r["rows"]), r["model"], f"{r['r2']:g}"]
         for r in paper.document()["regressions"]],
        right=(2, 4),
    )  # fmt: skip
    for sentence in paper.conclusions():
        click.echo(sentence)
    return 0


def print_claim(claim: Claim, held: HeldOut) -> None:
    """Tables and the sentence, for people."""
    from tinyface.traffic.claim import family_shares, verdict

    common.print_table(
        ["network", "family", "MACs", "F B", "weights B", "steps", "ms", "middle half", "least",
         "F's share"],
        [
            [m.member.name, m.member.family, *(si(m.totals[c]) for c in ("macs", "feature",
             "weight")), str(m.totals["steps"]), f"{m.whole_ns / 1e6:.3f}",
             f"{m.low_ns / 1e6:.3f}-{m.high_ns / 1e6:.3f}", f"{m.least_ns / 1e6:.3f}",
             f"{claim.shares[m.member.name]:.0%}" if m.member.name in claim.shares else "-"]
            for m in claim.measured
        ],
        right=range(2, 10),
    )  # fmt: skip
    click.echo("All networks, each a row (95 % intervals in brackets; errors on held-out networks)")
    _print_fits({"": claim.pooled})
    click.echo("Single operators, by kind")
    _print_fits(claim.by_kind)
    for kind, fits in claim.by_kind.items():
        click.echo(f"{kind}: {verdict(fits)}")
    for family, share in family_shares(claim.measured, claim.shares).items():
        click.echo(f"F's share of the time, {family}: {share:.0%}")
    click.echo(
        f"Prediction of {len(held.errors)} networks by a fit without their family: median error "
        f"{held.median:.1%}; from MACs alone {held.median_macs_alone:.1%}"
    )
    click.echo(claim.sentence)


def _print_fits(groups: Mapping[str, Mapping[str, Fit]]) -> None:
    body = [
        [kind, name, str(fit.rows), _terms(fit), f"{fit.r2:.3f}",
         *("-" if e != e else f"{e:.1%}" for e in (fit.error, fit.mean, fit.worst)),
         f"{fit.condition:.0f}{'!' if fit.collinear else ''}"]
        for kind, fits in groups.items()
        for name, fit in fits.items()
    ]  # fmt: skip
    headers = ["kind", "model", "rows", "coefficients", "R²", "median", "mean", "worst", "cond."]
    skip = 0 if any(groups) else 1
    common.print_table(
        headers[skip:], [row[skip:] for row in body], right=range(4 - skip, 9 - skip)
    )


def _terms(fit: Fit) -> str:
    parts = []
    for name, value, low, high in zip(fit.names, fit.coefficients, fit.low, fit.high, strict=True):
        unit, factor = SYMBOLS[name]
        figures = " ".join(f"{v * factor:.3g}" for v in (low, high))
        parts.append(f"{unit} {value * factor:.3g} [{figures}]")
    return ", ".join(parts)


def _csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _write(path: str, text: str) -> None:
    from tinyface.files import atomic_write

    with atomic_write(path, "w", encoding="utf-8") as file:
        file.write(text)
    common.note(f"written: {path}")
