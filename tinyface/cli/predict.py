"""``tinyface predict``: expected times on a machine that a file describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tinyface.cli import common
from tinyface.cli.common import si

if TYPE_CHECKING:
    from tinyface.traffic.predict import Prediction


@click.command("predict", short_help="Expected time on another machine.")
@click.argument("model", metavar="MODEL")
@click.option(
    "--device", required=True, metavar="FILE.json|pi4|epyc-avx2|epyc-avx512|xeon-avx512",
    help="The machine: a file from 'tinyface claim --device', or one that ships.",
)  # fmt: skip
@common.json_option
def command(model: str, device: str, as_json: bool) -> int:
    """Print the expected time of every operator of a network on a machine, and the total.

    MODEL is a model file (one of another format that 'tinyface import' reads will do), the name of
    installed weights, or a network from 'tinyface models'. Nothing is run. pi4 is a Raspberry Pi 4B
    as the FDFaceNet paper's printed times describe it: a rough guide. The others are server CPUs,
    one thread, as measured (epyc-avx2 is Zen 3, epyc-avx512 Zen 4). docs/claim.md has the form of a
    device file.

    \b
    Example:
      tinyface predict fdfacenet --device pi4
      tinyface claim --device here.json && tinyface predict mine.safetensors --device here.json
    """
    from tinyface.cli.info import open_model
    from tinyface.traffic.device import read_device
    from tinyface.traffic.predict import predict

    described = read_device(device)
    graph, _ = open_model(model)
    result = predict(graph, described)
    if as_json:
        about = {"about": dict(described.about)}
        common.print_json("predict/1", result.to_json() | about)
    else:
        print_prediction(result)
    return 0


def print_prediction(result: Prediction) -> None:
    """The table for people."""
    total = result.time_ns or 1.0
    body = [
        [step.name, step.kind, step.kernel or "-", si(step.macs), si(step.feature),
         si(step.weight), *(f"{part / 1e3:.1f}" for part in (*parts, sum(parts))),
         f"{sum(parts) / total:.1%}", bound or "-"]
        for step, parts, bound in zip(result.steps, result.parts, result.bounds, strict=True)
    ]  # fmt: skip
    sums = [sum(column) / 1e3 for column in zip(*result.parts, strict=True)]
    common.print_table(
        ["operator", "kind", "kernel", "MACs", "F B", "weights B", "MACs µs", "F µs",
         "weights µs", "constant µs", "µs", "share", "bound"],
        body,
        right=range(3, 12),
        footer=[f"{len(body)} steps", *[""] * 5, *(f"{s:.1f}" for s in (*sums, sum(sums))), "", ""],
    )  # fmt: skip
    device = result.device
    threads = f", threads {device.threads}" if device.threads else ""
    click.echo(f"{result.network} on {device.name}{threads}: {total / 1e6:.3g} ms expected")
    for key in ("source", "engine", "note", "warning"):
        if device.about.get(key):
            click.echo(f"{key}: {device.about[key]}")
    held = device.about.get("held_out")
    if isinstance(held, dict) and isinstance(held.get("median"), (int, float)):
        click.echo(f"median error on networks held out of the fit: {held['median']:.1%}")
