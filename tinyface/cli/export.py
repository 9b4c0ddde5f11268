"""``tinyface export``: a model as ONNX."""

from __future__ import annotations

import click

from tinyface.cli import common


@click.command("export", short_help="Write a model as ONNX.")
@click.argument("model", metavar="MODEL")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False), help="The file, .onnx."
)
@click.option("--optimised", is_flag=True, help="As it runs: batch norm folded, branches merged.")
@common.json_option
def command(model: str, output: str, optimised: bool, as_json: bool) -> int:
    """Write a model as ONNX (opset 17, float32), for any other runtime.

    MODEL is a model file or the name of installed weights. The preprocessing is not part of
    the ONNX graph; it is printed, so that you can do it yourself. The card (preprocessing,
    thresholds, licence) goes along as JSON in the file's metadata, under "tinyface.card", where
    'tinyface import' finds it again. Needs the package onnx.

    \b
    Example:
      tinyface export fdfacenet -o fdfacenet.onnx
    """
    from tinyface import modelstore
    from tinyface.errors import UsageError
    from tinyface.formats.modelfile import load_model
    from tinyface.formats.onnx_export import OPSET, export_onnx
    from tinyface.passes import optimise

    if not output.endswith(".onnx"):
        raise UsageError(f"{output}: give the output a name that ends with .onnx")
    graph, card = load_model(modelstore.find(model))
    export_onnx(optimise(graph) if optimised else graph, output, card)
    p = card.preprocess
    if as_json:
        document = {"file": output, "opset": OPSET, "card": card.to_json()}
        common.print_json("export/1", document)
        return 0
    click.echo(f"{output}: {graph.name}, opset {OPSET}")
    click.echo(
        f"input: {p.colour} {p.height}x{p.width}, (x - {list(p.mean)}) * "
        f"{[round(s, 8) for s in p.scale]}, NCHW, x from 0 to 255"
    )
    return 0
