"""``tinyface models get``: fetch a public checkpoint and make a model file of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from tinyface.cli import common
from tinyface.errors import FormatError, UsageError


@click.command("get", short_help="Fetch public weights.")
@click.argument("name", metavar="[NAME]", required=False)
@common.json_option
@click.pass_context
def command(ctx: click.Context, name: str | None, as_json: bool) -> int:
    """Fetch public weights and make a model file of them; without NAME, list what there is.

    The file goes to 'downloads' in your folder of models, its size and SHA-256 are checked, and
    it is imported as 'tinyface import' would. An interrupted download goes on where it ended.
    With TINYFACE_OFFLINE=1 nothing is fetched; a file that is there already is still used.

    \b
    Example:
      tinyface models get
      tinyface models get mobilefacenet-foamliu
    """
    from tinyface.fetch import fetch
    from tinyface.formats.importer import import_file
    from tinyface.formats.known import public
    from tinyface.formats.modelfile import save_model
    from tinyface.modelstore import card_at, made_user_folder, place

    as_json = as_json or bool(ctx.parent and ctx.parent.params["as_json"])
    if name is None:
        _list(as_json)
        return 0
    known = public()
    if name not in known:
        raise UsageError(f"{name!r} cannot be fetched; these can: {', '.join(known)}")
    sha256, file = known[name]
    folder, model = made_user_folder(), place(name)
    held = card_at(model)
    if held and held.checksum != sha256:
        raise UsageError(f"{model} is a model of other weights; rename or remove it first")
    target = folder / "downloads" / f"{name}-{file.addresses[0].rpartition('/')[2]}"
    try:
        with _bytes_bar(file.size, target.name) as progress:
            fetch(file.addresses, target, size=file.size, sha256=sha256, progress=progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; what came is kept for the next time") from None
    imported = import_file(target)
    if imported.card.checksum != sha256:
        raise FormatError(f"{target}: changed while it was read; run the command again")
    for line in imported.found:
        common.note(line)
    card = imported.card
    common.note(f"licence: {card.licence or 'not stated'}. Trained on: {card.data or 'not stated'}")
    save_model(model, imported.graph, card)
    if as_json:
        document = {"model": str(model), "download": str(target), "card": card.to_json()}
        common.print_json("models-get/1", document)
    else:
        click.echo(click.format_filename(model))
    return 0


def rows() -> list[dict[str, Any]]:
    """What can be fetched."""
    from tinyface.formats.known import public

    return [
        {
            "name": name,
            "what": file.title,
            "bytes": file.size,
            "sha256": sha256,
            "address": file.addresses[0],
            "licence": file.card["licence"],
            "data": file.card["data"],
            "figures": dict(file.card.get("figures", {})),
        }
        for name, (sha256, file) in public().items()
    ]


def _list(as_json: bool) -> None:
    if as_json:
        common.print_json("models-get/1", {"public": rows()})
        return
    common.print_table(
        ["name", "what", "size", "licence", "measured"],
        [
            [r["name"], r["what"], common.si(r["bytes"], "B"), r["licence"], _figures(r["figures"])]
            for r in rows()
        ],
        right=(2,),
    )
    for row in rows():
        click.echo(f"{row['name']}: trained on {row['data']}")
        click.echo(f"  {row['address']}\n  SHA-256 {row['sha256']}")


def _figures(figures: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items()) or "-"


@contextmanager
def _bytes_bar(total: int, what: str) -> Iterator[Callable[[int], object]]:
    """A bar on stderr where a person is watching; gives what sets how much is there."""
    if not sys.stderr.isatty():
        yield lambda there: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda there: bar.update(task, completed=there)
