"""``tinyface info``: a network, operator by operator."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tinyface.cli import common
from tinyface.cli.common import si
from tinyface.errors import UsageError

if TYPE_CHECKING:
    from tinyface.formats.modelfile import Card
    from tinyface.graph import Graph


@click.command("info", short_help="A network, operator by operator.")
@click.argument("model", metavar="MODEL")
@click.option("--optimised", is_flag=True, help="As it runs: batch norm folded, operators fused.")
@common.json_option
def command(model: str, optimised: bool, as_json: bool) -> int:
    """Print a network as a table: operator, output shape, parameters, MACs, bytes.

    MODEL is a model file (one of another format that 'tinyface import' reads will do), the name of
    installed weights, or a network from 'tinyface models'. The bytes are compulsory traffic, every
    operand once: feature maps read, feature maps written, and weights. MACs are
    multiply-accumulates; FLOPs are twice as many.

    \b
    Example:
      tinyface info fdfacenet
      tinyface info mine.safetensors --json
    """
    from tinyface.passes import optimise

    graph, card = open_model(model)
    if optimised:
        graph = optimise(graph)
    rows = operators(graph)
    if as_json:
        total = asdict(graph.cost) | {"parameters": graph.param_count, "operators": len(rows)}
        document = {"name": graph.name, "operators": rows, "total": total}
        common.print_json("info/1", document | ({"card": card.to_json()} if card else {}))
        return 0
    for line in headline(graph, card):
        common.print_text(line)
    print_operators(graph, rows)
    return 0


def open_model(name: str) -> tuple[Graph, Card | None]:
    """A trained model with its card, a file of another format that can be imported, as it is, or a
    network of the registry, without weights.

    Raises:
        UsageError: none of them is called that.
        FormatError, CheckpointError: a file that cannot be imported; with the reason.
    """
    from pathlib import Path

    from tinyface import modelstore, networks
    from tinyface.formats.modelfile import load_model

    installed = name in modelstore.installed()
    if not installed and Path(name).is_file():
        from tinyface.formats.importer import IMPORTED, import_file
        from tinyface.formats.sniff import sniff

        if sniff(name) in IMPORTED:
            imported = import_file(name)
            return imported.graph, imported.card
    if installed or Path(name).exists():
        return load_model(modelstore.find(name))
    if Path(name).suffix == modelstore.SUFFIX:
        return load_model(modelstore.find(name))  # says that there is none
    if os.sep in name or Path(name).suffix[1:].isalpha():  # cnn-8-fd-x0.5 is a network
        raise UsageError(f"{name}: no such file; check the spelling")
    return networks.find(name).build(), None


def operators(graph: Graph) -> list[dict[str, Any]]:
    """One row per operator: what it is and what it costs."""
    rows = []
    for node in graph.nodes:
        cost = graph.node_cost(node)
        weights = {name for name in node.inputs if name in graph.params}
        rows.append(
            {
                "name": node.name,
                "op": node.op.kind,
                "attributes": {k: v for k, v in node.op.to_json().items() if k != "kind"},
                "output_shape": list(graph.types[node.outputs[0]].shape),
                "parameters": sum(graph.types[name].size for name in weights),
                "macs": cost.macs,
                "feature_read_bytes": cost.feature_read,
                "feature_write_bytes": cost.feature_write,
                "weight_bytes": cost.weight,
            }
        )
    return rows


def headline(graph: Graph, card: Card | None) -> list[str]:
    """What the model is, in a few lines."""
    inputs = ", ".join(f"{name} {t}" for name, t in graph.inputs.items())
    outputs = ", ".join(f"{name} {graph.types[name]}" for name in graph.outputs)
    lines = [f"{graph.name}: {inputs} -> {outputs}"]
    if card:
        p = card.preprocess
        lines += [
            f"input: {p.colour}, (x - {list(p.mean)}) * {[round(s, 6) for s in p.scale]}",
            f"licence: {card.licence or 'not stated'}",
            f"trained on: {card.data or 'not stated'}",
        ]
        if card.thresholds:
            pairs = (f"{value:.3f} at FMR {rate}" for rate, value in card.thresholds.items())
            lines.append(f"thresholds: {', '.join(pairs)}")
        if card.notes:
            lines.append(f"notes: {card.notes}")
    return lines


def print_operators(graph: Graph, rows: list[dict[str, Any]]) -> None:
    """The table for people, with sums."""
    figures = ("parameters", "macs", "feature_read_bytes", "feature_write_bytes", "weight_bytes")
    body = []
    for row, node in zip(rows, graph.nodes, strict=True):
        shape = "x".join(map(str, row["output_shape"]))
        body.append([row["name"], str(node.op), shape, *(_figure(row[key]) for key in figures)])
    cost = graph.cost
    sums = (graph.param_count, cost.macs, cost.feature_read, cost.feature_write, cost.weight)
    common.print_table(
        ["operator", "kind", "output", "params", "MACs", "read B", "written B", "weights B"],
        body,
        right=range(2, 8),
        footer=[f"{len(rows)} operators", "", "", *map(si, sums)],
    )


def _figure(value: int) -> str:
    return f"{value:,}" if value else "-"
