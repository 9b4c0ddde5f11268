"""``tinyface import``: weights that somebody else trained become a model file."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyface.cli import common
from tinyface.errors import ModelError, UsageError

if TYPE_CHECKING:
    from tinyface.crosscheck import Check
    from tinyface.formats.importer import Imported


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
@click.option("--force", is_flag=True, help="Take the place of a model of that name.")
@click.option(
    "--ignore", multiple=True, metavar="PREFIX",
    help="Leave out tensors whose names begin so (a classifier's, say). May be repeated.",
)  # fmt: skip
@click.option(
    "--until", multiple=True, metavar="TENSOR",
    help="Make this tensor of an ONNX file its output, and leave out what lies behind: a "
    "classifier, a choice among boxes. May be repeated.",
)  # fmt: skip
@click.option("--weights", metavar="FILE.bin", help="The weights beside an ncnn .param file.")
@click.option(
    "--size", metavar="HEIGHTxWIDTH",
    help="Of the picture, where an ncnn or ONNX file leaves it open.  [default: 112x112]",
)  # fmt: skip
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
@click.option(
    "--verify", is_flag=True,
    help="Compare with onnxruntime, ncnn or PyTorch, where these are installed.",
)  # fmt: skip
@common.json_option
def command(
    file: str,
    output: str | None,
    force: bool,
    half: bool,
    verify: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Read trained weights, without PyTorch and without running anything from the file.

    FILE is a PyTorch checkpoint (.pt, .pth), a safetensors file of tensors, an ncnn .param or an
    ONNX file; what is in it decides, not its name. Without -o, the model goes to your own; where
    one of that name is installed already, yours or one that ships, that needs --force. Where a
    file does not say how its pictures were prepared, the network's usual way is taken; --colour,
    --mean and --scale change it.

    \b
    Example:
      tinyface import mobilefacenet.pt --network mobilefacenet-relu6 -o mine.safetensors
      tinyface import retinaface_mnet025.pth
      tinyface import recogniser.onnx --verify
      tinyface import classifier.onnx --until /fc/Gemm_output_0
    """
    from tinyface import modelstore
    from tinyface.formats.modelfile import save_model

    target = None if output is None else _checked(output)
    common.check_kept([file], output)
    goes = modelstore.place if force else modelstore.new_place
    if options["name"] and not target:
        goes(options["name"])  # refused before the work, if it is
    imported = _read(file, **options)
    for line in imported.found:
        common.note(line)
    path = target or goes(imported.card.name)
    checks = _verify(file, imported, options["weights"]) if verify else []
    save_model(path, imported.graph, imported.card, "float16" if half else "float32")
    if as_json:
        document = {
            "model": str(path),
            "network": imported.graph.name,
            "card": imported.card.to_json(),
            "found": list(imported.found),
            "verified": [asdict(check) for check in checks],
        }
        common.print_json("import/1", document)
    else:
        click.echo(click.format_filename(path))
    return 0


def _read(file: str, network: str | None, **options: Any) -> Imported:
    """The file as a network, its card changed as the options say."""
    from tinyface.formats.importer import import_file

    given = {"colour": options["colour"]} | {k: _numbers(options[k]) for k in ("mean", "scale")}
    given |= _size(options["size"])
    limits = _thresholds(options["thresholds"])
    imported = import_file(
        file,
        network,
        name=options["name"],
        ignore=options["ignore"],
        weights=options["weights"],
        preprocess={key: value for key, value in given.items() if value is not None},
        until=options["until"],
    )
    card = imported.card
    card = replace(
        card,
        licence=options["licence"] or card.licence,
        data=options["data"] or card.data,
        thresholds=limits or card.thresholds,
    )
    return replace(imported, card=card)


def _verify(file: str, imported: Imported, weights: str | None) -> list[Check]:
    """Compare with other runtimes and say so.

    Raises:
        ModelError: one computes something else.
    """
    from tinyface.crosscheck import crosscheck

    checks = crosscheck(file, imported, weights)
    for check in checks:
        if not check.good:
            raise ModelError(f"{file}: {check}; no model was written: please report this file")
        common.note(str(check))
    return checks


def _checked(output: str) -> Path:
    from tinyface.modelstore import SUFFIX

    if Path(output).suffix != SUFFIX:
        raise UsageError(f"{output}: name a file that ends with {SUFFIX}")
    return Path(output)


def _size(text: str | None) -> dict[str, int]:
    """ "112x96" -> {"height": 112, "width": 96}."""
    if text is None:
        return {}
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(s.isdecimal() and 1 <= int(s) <= 4096 for s in sides):
        raise UsageError(f"--size {text}: give height and width in pixels, like 112x96")
    return {"height": int(sides[0]), "width": int(sides[1])}


def _numbers(text: str | None) -> tuple[float, ...] | None:
    """ "104,117,123" -> (104.0, 117.0, 123.0)."""
    if text is None:
        return None
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"{text!r}: give three numbers, 104,117,123 for instance") from None
    return red, green, blue


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
