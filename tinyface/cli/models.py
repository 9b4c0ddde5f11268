"""``tinyface models``: the networks that can be built, and the weights that are installed."""

from __future__ import annotations

from typing import Any

import click

from tinyface.cli import common
from tinyface.cli.common import si


@click.command("models", short_help="Networks and installed weights.")
@click.argument("name", metavar="[NAME]", required=False)
@common.json_option
def command(name: str | None, as_json: bool) -> int:
    """List the networks that tinyface can build, and the trained weights that are installed.

    With NAME, that network's layers (the same as 'tinyface info NAME'). Parameters are the
    trainable ones, as papers count; F (Z) is the FDFaceNet paper's feature-map output with batch
    norm folded: 8 bytes per output element of every layer.

    \b
    Example:
      tinyface models
      tinyface models fdfacenet
    """
    from tinyface.cli import info

    if name:
        status: int = info.command.main([name, *["--json"] * as_json], standalone_mode=False)
        return status
    weights, networks = installed_weights(), network_rows()
    if as_json:
        common.print_json("models/1", {"weights": weights, "networks": networks})
        return 0
    click.echo("Trained weights, for -m and --detector:")
    if weights:
        common.print_table(
            ["name", "task", "licence", "file"],
            [[w["name"], w["task"], common.brief(w["licence"]), w["file"]] for w in weights],
        )
    else:
        click.echo("  none; import some with  tinyface import\n")
    click.echo("Networks, for  tinyface info  and  tinyface import --network:")
    common.print_table(
        ["network", "params", "MACs", "F (Z)", "source", "status"],
        [
            [n["name"], si(n["parameters"]), si(n["macs"]), si(n["fmap_folded_bytes"], "B"),
             n["source"], n["status"]]
            for n in networks
        ],
        right=(1, 2, 3),
    )  # fmt: skip
    return 0


def installed_weights() -> list[dict[str, Any]]:
    """What is in the package and in the user's folder; an unreadable file says why."""
    from tinyface import modelstore
    from tinyface.errors import TinyfaceError
    from tinyface.formats.modelfile import read_card

    rows = []
    for name, path in modelstore.installed().items():
        row: dict[str, Any] = {"name": name, "file": str(path), "task": None, "licence": None}
        try:
            card = read_card(path)
            row |= {"task": card.task, "licence": card.licence, "data": card.data}
        except TinyfaceError as error:
            row["problem"] = str(error)
            common.note(str(error))
        rows.append(row)
    return rows


def network_rows() -> list[dict[str, Any]]:
    """The registry, with each network's figures."""
    from tinyface.networks import REGISTRY
    from tinyface.traffic.tables import counts

    rows = []
    for entry in REGISTRY.values():
        c = counts(entry.build())
        rows.append(
            {
                "name": entry.name,
                "family": entry.family,
                "task": entry.task,
                "parameters": c.params,
                "macs": c.macs,
                "fmap_unfused_bytes": c.fmap_unfused,
                "fmap_folded_bytes": c.fmap_folded,
                "source": entry.source,
                "status": entry.status,
                "published": dict(entry.figures),
                "notes": entry.notes,
            }
        )
    return rows
