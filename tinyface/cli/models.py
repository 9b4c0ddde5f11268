"""``tinyface models``: the networks that can be built, and the weights that are installed."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import click

from tinyface.cli import common, get
from tinyface.cli.common import si


class NameOrCommand(click.Group):
    """A group in which any word that is no subcommand is the NAME of ``show``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            return "show", show, args
        return super().resolve_command(ctx, args)


@click.group(
    "models",
    cls=NameOrCommand,
    invoke_without_command=True,
    subcommand_metavar="[NAME | get [NAME]]",
    short_help="Networks and weights: installed ones, public ones.",
)
@click.option("--networks", is_flag=True, help="The networks as a table, with their figures.")
@common.json_option
@click.pass_context
def command(ctx: click.Context, networks: bool, as_json: bool) -> int:
    """List the trained weights that are installed, and the networks that tinyface can build.

    With NAME, that network's layers (the same as 'tinyface info NAME'); with 'get', public
    weights are fetched. With --networks, parameters are the trainable ones, as papers count, MACs
    those of convolutions and linear layers. F is the FDFaceNet paper's feature-map output, 8 bytes
    per output element of every layer, (U) with batch norm as layers of its own and (Z) with it
    folded. 'tinyface tables' holds them against what was printed. --json has all of it.

    \b
    Example:
      tinyface models
      tinyface models --networks
      tinyface models fdfacenet
      tinyface models get mobilefacenet-foamliu
    """
    if ctx.invoked_subcommand is None:
        return _networks() if networks and not as_json else _list(as_json)
    return 0


@click.command("show", hidden=True)
@click.argument("name")
@common.json_option
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> int:
    """The layers of a network."""
    from tinyface.cli import info

    as_json = as_json or bool(ctx.parent and ctx.parent.params["as_json"])
    status: int = info.command.main([name, *["--json"] * as_json], standalone_mode=False)
    return status


command.add_command(get.command)


def _list(as_json: bool) -> int:
    weights = installed_weights()
    if as_json:
        document = {"weights": weights, "public": get.rows(), "networks": network_rows()}
        common.print_json("models/1", document)
        return 0
    from tinyface.networks import REGISTRY

    if not weights:
        click.echo("Trained weights: none; import some with  tinyface import\n")
    for folder, found in groupby(sorted(weights, key=_folder), _folder):
        click.echo(f"Trained weights, for -m and --detector, in {folder}:")
        common.print_table(
            ["name", "task", "licence"],
            [[w["name"], w["task"] or "unreadable", common.brief(w["licence"])] for w in found],
        )
    click.echo(
        "Public weights, for  tinyface models get: " + ", ".join(r["name"] for r in get.rows())
    )
    names = ", ".join(REGISTRY)
    common.print_text(f"Networks, for  tinyface info  and  tinyface import --network: {names}")
    click.echo("Their figures:  tinyface models --networks")
    return 0


def _networks() -> int:
    common.print_table(
        ["network", "params", "MACs", "F (U)", "F (Z)", "printed", "status", "source"],
        [
            [n["name"], si(n["parameters"]), si(n["macs"]), si(n["fmap_unfused_bytes"], "B"),
             si(n["fmap_folded_bytes"], "B"), _printed(n["published"]), n["status"], n["source"]]
            for n in network_rows()
        ],
        right=(1, 2, 3, 4),
    )  # fmt: skip
    return 0


def _folder(weights: dict[str, Any]) -> str:
    return str(Path(weights["file"]).parent)


def _printed(published: dict[str, str]) -> str:
    """``{"params_M": "3.17", "fmap_MB": "7.39"}`` -> ``3.17 M, F 7.39 MB``."""
    forms = {"params_M": "{} M", "macs_M": "{} M MACs", "fmap_MB": "F {} MB"}
    return ", ".join(forms[key].format(value) for key, value in published.items()) or "-"


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
                "macs_paper": c.macs_paper,
                "macs_pooled": c.macs_pooled,
                "fmap_unfused_bytes": c.fmap_unfused,
                "fmap_folded_bytes": c.fmap_folded,
                "source": entry.source,
                "status": entry.status,
                "published": dict(entry.figures),
                "notes": entry.notes,
            }
        )
    return rows
