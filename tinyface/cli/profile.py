"""``tinyface profile``: where the time of a network goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tinyface.cli import common
from tinyface.cli.common import si

if TYPE_CHECKING:
    from tinyface.traffic.profile import Profile


@click.command("profile", short_help="Time and traffic of every operator.")
@click.argument("model", metavar="MODEL")
@click.option("--runs", type=click.IntRange(1, 10_000), default=30, show_default=True)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), default=None,
    help="Also write the trace of one run: .json, .csv, or .chrome.json for chrome://tracing.",
)  # fmt: skip
@common.engine_options
@common.json_option
def command(
    model: str, runs: int, output: str | None, backend: str, threads: int | None, as_json: bool
) -> int:
    """Time every operator of a network, beside its MACs and the bytes it moves.

    MODEL is a model file, the name of installed weights, or a network from 'tinyface models'
    (which then runs with random weights: the times do not depend on them). Times are medians
    over the runs; least is the minimum. read, written and weights are compulsory bytes, every
    operand once; GMAC/s and GB/s are what the operator achieved.

    \b
    Example:
      tinyface profile fdfacenet
      tinyface profile mobilefacenet -t 1 --json
    """
    from tinyface.traffic.profile import measure, random_inputs

    session = open_session(model, backend, threads)
    inputs = random_inputs(session)
    with common.progress_bar(runs + 1, "profiling") as advance:
        result = measure(session, inputs, runs=runs, progress=advance)
    if output:
        from tinyface.tracing import trace

        with trace() as opened:
            session.run(inputs)
        opened.write(output)
        common.note(f"trace of one run: {output}")
    if as_json:
        common.print_json("profile/1", result.to_json())
    else:
        print_profile(result)
    return 0


def open_session(name: str, backend: str, threads: int | None) -> Any:
    """A session of a trained model, or of a network of the registry with random weights."""
    from tinyface.cli.info import open_model
    from tinyface.networks import random_state
    from tinyface.runtime import Session

    graph, card = open_model(name)
    if card is None:
        graph = graph.bind(random_state(graph))
    return Session(graph, backend, threads)


def print_profile(result: Profile) -> None:
    """The tables for people."""
    click.echo(
        f"{result.network}: {result.whole_ns / 1e6:.3f} ms (least {result.least_ns / 1e6:.3f}), "
        f"{result.backend} engine, {result.threads} threads, {result.runs} runs; "
        f"with step times {result.traced_ns / 1e6:.3f} ms"
    )
    body = []
    for row in result.rows:
        r, cost = row.record, row.record.compulsory
        shape = "x".join(map(str, r.output_shape))
        figures = (cost.macs, cost.feature_read, cost.feature_write, cost.weight)
        rates = (cost.macs / max(1, row.time_ns), cost.bytes / max(1, row.time_ns))
        body.append(
            [r.name, r.kernel, shape, *(si(f) if f else "-" for f in figures),
             f"{row.time_ns / 1e3:.1f}", f"{row.least_ns / 1e3:.1f}", f"{row.share:.1%}",
             *(f"{rate:.2f}" for rate in rates)]
        )  # fmt: skip
    cost = result.cost
    sums = (cost.macs, cost.feature_read, cost.feature_write, cost.weight)
    total = sum(row.time_ns for row in result.rows)
    common.print_table(
        ["operator", "kernel", "output", "MACs", "read B", "written B", "weights B",
         "µs", "least", "share", "GMAC/s", "GB/s"],
        body,
        right=range(3, 12),
        footer=[f"{len(body)} steps", "", "", *map(si, sums), f"{total / 1e3:.1f}", "", "", "", ""],
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
