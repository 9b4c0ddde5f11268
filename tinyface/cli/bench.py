"""``tinyface bench``: how fast networks run on this machine."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from tinyface.cli import common
from tinyface.limits import MAX_THREADS

if TYPE_CHECKING:
    from tinyface.traffic.bench import Run, Timing

HEADERS = (
    "network", "engine", "isa", "weights", "threads", "MMACs", "ms", "least", "middle half",
    "GMAC/s",
)  # fmt: skip
NAMES = 4  # columns that are no figures


@click.command("bench", short_help="How fast networks run here.")
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("-t", "--threads", default="", help="E.g. 1,2.  [default: one for each fast core]")
@click.option("--isa", default="", help="E.g. scalar,avx2; all for every one.  [default: best]")
@click.option(
    "--weights", default="fp32", show_default=True, help="How they are kept, e.g. fp32,fp16."
)
@click.option("--numpy", "with_numpy", is_flag=True, help="The NumPy engine, too.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option(
    "-o", "--output", "form", type=click.Choice(["table", "md", "json", "csv"]), default="table",
    show_default=True,
)  # fmt: skip
@common.json_option
def command(
    models: tuple[str, ...],
    threads: str,
    isa: str,
    weights: str,
    with_numpy: bool,
    rounds: int,
    form: str,
    as_json: bool,
) -> int:
    """Time networks: every model with every number of threads and instruction set.

    MODEL is a model file (one of another format that 'tinyface import' reads will do), the name of
    installed weights, or a network from 'tinyface models' (fdfacenet by default). All combinations
    take turns within one run, so that they can be compared even where the machine's speed drifts.
    Times are of single inferences: median, minimum, and the range of the middle half. The machine
    is described with them: CPU, and governor, clock and temperature where they are known. A run
    during which it throttled, or which shared it with other work, says so (CSV: in the column
    "warning"). The engine "c+numpy" is C with NumPy's help, where an operator has no C kernel.

    \b
    Example:
      tinyface bench fdfacenet mobilefacenet theirs.onnx -t 1,2
      tinyface bench --isa all -t 1 -o md
      tinyface bench --weights fp32,fp16 -o csv
    """
    from tinyface import machine
    from tinyface.traffic.bench import take_turns

    _check(form, isa, as_json)
    counts = _numbers(threads)
    runs, macs = _cases(models or ("fdfacenet",), counts, isa, weights, with_numpy)
    before = machine.state()
    with common.progress_bar(rounds * len(runs), "timing") as advance:
        timings = take_turns(runs, macs, rounds=rounds, progress=advance)
    described = machine.describe() | {"before": before, "after": machine.state()}
    warning = machine.disturbance(described["before"], described["after"])
    if warning:
        common.note(f"these times are not to be trusted: {warning}")
    if as_json or form == "json":
        document = {"machine": described, "timings": [t.to_json() for t in timings]}
        common.print_json("bench/1", document | {"warning": warning})
    elif form == "csv":
        click.echo(_csv(timings, machine.headline(described), warning), nl=False)
    else:
        click.echo(machine.headline(described))
        _print_rows([_row(t) for t in timings], form)
    return 0


def _check(form: str, isa: str, as_json: bool) -> None:
    from tinyface.errors import UsageError

    if as_json and form in ("md", "csv"):
        raise UsageError(f"--json prints a document, and -o {form} something else: give either")
    if isa and not all(isa.split(",")):
        raise UsageError(f"--isa {isa}: give instruction sets, such as scalar,avx2, or all")


def _numbers(text: str) -> list[int]:
    from tinyface.errors import UsageError
    from tinyface.runtime import default_threads

    if not text:
        return [default_threads()]
    parts = text.split(",")
    if not all(p.isdecimal() and 1 <= int(p) <= MAX_THREADS for p in parts):
        most = f"from 1 to {MAX_THREADS}"
        raise UsageError(f"-t {text}: give numbers of threads {most}, such as 1,2")
    return [int(p) for p in parts]


def _cases(
    models: tuple[str, ...], threads: list[int], isa: str, weights: str, with_numpy: bool
) -> tuple[list[Run], dict[str, int]]:
    """The executables of all combinations, and the MACs of every network."""
    from tinyface.backends import c
    from tinyface.backends.numpy import NumpyExecutable
    from tinyface.cli.profile import open_network
    from tinyface.errors import BackendError
    from tinyface.traffic.bench import Case
    from tinyface.traffic.profile import random_inputs

    runs: list[Run] = []
    macs = {}
    for name in models:
        for kept in weights.split(","):
            session, _ = open_network(name, "auto", 1, kept)
            inputs: dict[str, Any] = random_inputs(session)
            macs[name] = session.graph.cost.macs
            if session.backend != "c" and isa not in ("", "all"):
                raise BackendError(f"--isa {isa}: {c.missing()}; or leave --isa out")
            if session.backend == "c":
                for each, backend, kind in _engines(session.graph, threads, isa):
                    runs.append((Case(name, backend, kind, each.threads, kept), each, inputs))
            if with_numpy or session.backend == "numpy":
                numpy = NumpyExecutable(session.graph)
                runs.append((Case(name, "numpy", "-", 1, kept), numpy, inputs))
    return runs, macs


def _engines(graph: Any, threads: list[int], isa: str) -> Iterator[tuple[Any, str, str]]:
    """(executable, engine, instruction set): "c", or "c+numpy" with NumPy's help where there is no
    kernel, which is said."""
    from tinyface.backends import c
    from tinyface.backends.mixed import MixedExecutable
    from tinyface.errors import NoKernelError

    known = [i.name for i in c.isas()]
    names = known if isa == "all" else isa.split(",") if isa else [c.choose_isa().name]
    helped = ""
    for name in names:
        for count in threads:
            try:
                yield c.CExecutable(graph, count, name), "c", name
            except NoKernelError:
                mixed = MixedExecutable(graph, count, {}, isa=name)
                helped = ", ".join(mixed.foreign)
                yield mixed, "c+numpy", name
    if helped:
        common.note(f"{graph.name}: NumPy runs what has no C kernel: {helped}")


def _row(t: Timing) -> list[str]:
    c = t.case
    return [
        c.network, c.backend, c.isa, c.weights, str(c.threads), f"{t.mmacs:.1f}",
        f"{t.median_ms:.3f}", f"{t.least_ms:.3f}", f"{t.low_ms:.3f}-{t.high_ms:.3f}",
        f"{t.gmac_per_s:.2f}",
    ]  # fmt: skip


def _print_rows(rows: list[list[str]], form: str) -> None:
    if form == "table":
        common.print_table(HEADERS, rows, right=range(NAMES, len(HEADERS)))
        return
    click.echo("| " + " | ".join(HEADERS) + " |")
    click.echo("|" + "---|" * NAMES + "---:|" * (len(HEADERS) - NAMES))
    for row in rows:
        click.echo("| " + " | ".join(row) + " |")


def _csv(timings: list[Timing], where: str, warning: str) -> str:
    """Every line says on what it was measured, and why it is not to be trusted ("" if it is)."""
    out = io.StringIO()
    rows = [t.to_json() | {"machine": where, "warning": warning} for t in timings]
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
