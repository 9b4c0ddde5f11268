"""``tinyface import``: weights that somebody else trained become a model file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from tinyface.cli import common
from tinyface.errors import UsageError


@click.command("import", short_help="Make a model file of trained weights.")
@click.argument("file", metavar="FILE")
@click.option(
    "--network", metavar="NAME", default=None,
    help="The network it was trained as (see 'tinyface models'); recognised if left out.",
)  # fmt: skip
@click.option(
    "-o", "--output", metavar="OUT.safetensors", default=None,
    help="Where to write the model. Left out, it goes to your own models, for -m by its name.",
)  # fmt: skip
@click.option("--name", metavar="NAME", help="Name of the weights; the network's if left out.")
@click.option(
    "--ignore", multiple=True, metavar="PREFIX",
    help="Leave out tensors whose names begin so (a classifier's, say). May be repeated.",
)  # fmt: skip
@click.option("--weights", metavar="FILE.bin", help="The weights beside an ncnn .param file.")
@click.option("--colour", type=click.Choice(["rgb", "bgr", "gray"]), help="Order of the channels.")
@click.option("--mean", metavar="R,G,B", help="Subtracted from the pixels, which are 0...255.")
@click.option("--scale", metavar="R,G,B", help="The difference is multiplied by this.")
@click.option(
    "--threshold", "thresholds", multiple=True, metavar="FMR=COSINE",
    help="A threshold for verify, like 1e-3=0.31. May be repeated.",
)  # fmt: skip
@click.option("--licence", metavar="TEXT", help="Licence of the weights, for the card.")
@click.option("--data", metavar="TEXT", help="What they were trained on, for the card.")
@click.option("--half", is_flag=True, help="Store the weights as float16: half the size.")
@common.json_option
def command(
    file: str,
    network: str | None,
    output: str | None,
    name: str | None,
    ignore: tuple[str, ...],
    weights: str | None,
    colour: str | None,
    mean: str | None,
    scale: str | None,
    thresholds: tuple[str, ...],
    licence: str | None,
    data: str | None,
    half: bool,
    as_json: bool,
) -> int:
    """Read trained weights, without PyTorch and without running anything from the file.

    FILE is a PyTorch checkpoint (.pt, .pth), a safetensors file of tensors, an ncnn .param or an
    ONNX file; what is in it decides, not its name. Where a file does not say how its pictures
    were prepared, the network's usual way is taken; --colour, --mean and --scale change it.

    \b
    Example:
      tinyface import mobilefacenet.pt --network mobilefacenet-relu6 -o mine.safetensors
      tinyface import retinaface_mnet025.pth
    """
    from tinyface.formats.importer import import_file
    from tinyface.formats.modelfile import save_model

    given = {"colour": colour, "mean": _numbers(mean), "scale": _numbers(scale)}
    limits = _thresholds(thresholds)
    target = None if output is None else _checked(output)
    preprocess = {key: value for key, value in given.items() if value is not None}
    imported = import_file(
        file, network, name=name, ignore=ignore, weights=weights, preprocess=preprocess
    )
    for line in imported.found:
        common.note(line)
    card = replace(
        imported.card,
        licence=licence or imported.card.licence,
        data=data or imported.card.data,
        thresholds=limits or imported.card.thresholds,
    )
    path = target or _own_folder(card.name)
    save_model(path, imported.graph, card, "float16" if half else "float32")
    if as_json:
        document = {"model": str(path), "network": imported.graph.name, "card": card.to_json()}
        common.print_json("import/1", document | {"found": list(imported.found)})
    else:
        click.echo(click.format_filename(path))
    return 0


def _checked(output: str) -> Path:
    from tinyface.modelstore import SUFFIX

    if Path(output).suffix != SUFFIX:
        raise UsageError(f"{output}: name a file that ends with {SUFFIX}")
    return Path(output)


def _own_folder(name: str) -> Path:
    """A file in the user's folder of models, which is made when it is first needed."""
    from tinyface.modelstore import SUFFIX, user_folder

    folder = user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name.replace('/', '-')}{SUFFIX}"


def _numbers(text: str | None) -> tuple[float, ...] | None:
    """ "104,117,123" -> (104.0, 117.0, 123.0)."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r}: give numbers with commas between them, 104,117,123") from None


def _thresholds(pairs: tuple[str, ...]) -> dict[str, float]:
    table: dict[str, float] = {}
    for pair in pairs:
        rate, _, cosine = pair.partition("=")
        try:
            float(rate)
            table[rate] = float(cosine)
        except ValueError:
            raise UsageError(f"--threshold {pair!r}: give FMR=COSINE, like 1e-3=0.31") from None
    return table
