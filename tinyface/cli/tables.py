"""``tinyface tables``: the FDFaceNet paper's figures, recomputed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tinyface.cli import common

if TYPE_CHECKING:
    from tinyface.traffic.tables import Figure

LEGEND = """\
Each cell: printed / computed under the rule named. = fits the printed digits, ~ within 0.5 %,
! no rule fits. MACs: pure (convolutions and linear layers), paper (+ 2 per batch-norm output
+ 1 per activation output), paper+pool (+ 1 per pooling input). F: 8 bytes per output element of
every layer, U with batch norm, Z without. Rows under different rules must not be compared."""


@click.command("tables", short_help="The FDFaceNet paper's figures, recomputed.")
@common.json_option
def command(as_json: bool) -> int:
    """Print the networks of the FDFaceNet paper's tables: published and computed figures.

    Parameters, MACs (pure, and as the paper counts) and feature-map output F by both of the
    paper's rules, with the rule that fits each printed figure, and misfits marked.

    \b
    Example:
      tinyface tables
      tinyface tables --json
    """
    from tinyface.traffic.tables import rows

    table = list(rows())
    if as_json:
        document = [
            asdict(row)
            | {
                "misfits": row.misfits,
                "fits": {k: getattr(row, k).fits for k in ("params", "macs", "fmap")},
            }
            for row in table
        ]
        common.print_json("tables/1", {"rows": document})
        return 0
    common.print_table(
        ["table", "network", "params M", "MACs M", "F MB"],
        [[r.table, r.title, _cell(r.params), _cell(r.macs), _cell(r.fmap)] for r in table],
    )
    click.echo(LEGEND)
    for row in table:
        if row.note:
            click.echo(f"{row.title}: {row.note}")
    return 0


def _cell(figure: Figure) -> str:
    """``7.39 / 7.387 U =``: printed, computed, rule, verdict; every rule where none fits."""
    shown = figure.fits[:1] or figure.near[:1] or tuple(figure.computed)
    sign = "=" if figure.fits else "~" if figure.near else "!" if figure.misfit else ""
    values = ", ".join(
        f"{figure.computed[rule]:.4g}" + ("" if rule == "trainable" else f" {rule}")
        for rule in shown
    )
    return f"{figure.printed or '-'} / {values or '-'} {sign}".rstrip()
