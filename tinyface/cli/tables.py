"""``tinyface tables``: the FDFaceNet paper's figures, recomputed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tinyface.cli import common

if TYPE_CHECKING:
    from tinyface.traffic.tables import Figure

LEGEND = """\
printed / computed. = fits the printed digits, ~ within 0.5 %, ! no rule fits. MACs under the rule
that fits: pure (convolutions and linear layers), paper (+ 2 per batch-norm output + 1 per
activation output), paper+pool (+ 1 per pooling input). F: 8 bytes per output element of every
layer, under both rules, U with batch norm, Z without; the rule named is the one that fits.
Rows printed under different rules must not be compared."""


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
        ["network", "table", "params M", "MACs M", "F printed, MB", "F (U)", "F (Z)"],
        [
            [r.title, r.table, _cell(r.params), _cell(r.macs), _printed(r.fmap),
             *(f"{r.fmap.computed[rule]:.3f}" if r.fmap.computed else "-" for rule in "UZ")]
            for r in table
        ],
        right=(5, 6),
    )  # fmt: skip
    click.echo(LEGEND)
    for row in table:
        if row.note:
            click.echo(f"{row.title}: {row.note}")
    return 0


def _cell(figure: Figure) -> str:
    """``130 / 130.3 paper =``: printed, computed, rule, verdict; every rule where none fits."""
    shown = figure.fits[:1] or figure.near[:1] or tuple(figure.computed)
    values = ", ".join(
        f"{figure.computed[rule]:.5g}" + ("" if rule == "trainable" else f" {rule}")
        for rule in shown
    )
    return f"{figure.printed or '-'} / {values or '-'} {_sign(figure)}".rstrip()


def _printed(figure: Figure) -> str:
    """``7.39 U =``: printed, the rule that fits it or comes near, verdict."""
    rule = (figure.fits or figure.near or ("",))[0]
    return " ".join(part for part in (figure.printed or "-", rule, _sign(figure)) if part)


def _sign(figure: Figure) -> str:
    return "=" if figure.fits else "~" if figure.near else "!" if figure.misfit else ""
