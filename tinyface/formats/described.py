"""What a network that came with its file is for, and how it is fed and read.

The user names a network, the card in the file says it (one that tinyface wrote), or else the
shapes of the outputs do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinyface.errors import FormatError
from tinyface.formats import detectors, yolo_face
from tinyface.formats.card import CHANNELS, Card, Preprocess
from tinyface.formats.freesize import free_size
from tinyface.formats.onnx_file import OnnxFile
from tinyface.formats.safetensors import parse_json
from tinyface.graph import Graph, Node
from tinyface.networks import Entry
from tinyface.ops import Concat, Flatten, Identity, Pad, Reshape, Resize, Slice, Split, Transpose
from tinyface.types import TensorType


def carried(file: OnnxFile) -> Card | None:
    """The card that tinyface wrote into an ONNX file; None for files of others.

    Raises:
        FormatError: it is damaged, or breaks a rule of cards.
    """
    if file.card is None:
        return None
    document = parse_json(file.card, f"{file.path}: its card", printable=True)
    try:
        return Card.from_json(document)
    except FormatError as error:
        raise FormatError(f"{file.path}: {error}") from None


@dataclass(frozen=True)
class Reading:
    """What a network is for, and how it is fed and read.

    note: a line for the user about it. outputs: see :class:`tinyface.formats.importer.Imported`.
    """

    graph: Graph
    task: str
    usual: Preprocess
    detector: dict[str, Any]
    note: str = ""
    outputs: tuple[str, ...] = ()


def read_outputs(path: Path, graph: Graph, entry: Entry | None) -> Reading:
    """From the network that was named, else from the shapes of the outputs."""
    if entry is None and (found := detectors.heads(graph) or yolo_face.rows(graph)):
        joined, family = found
        note = f"its outputs are those of {family.name}, so it is fed and read as such"
        usual, detector = family.preprocess(joined), in_steps(joined, family.detector(joined))
        return Reading(joined, "detect", usual, detector, note, graph.outputs)
    graph, task = with_task(path, graph, entry.task if entry else None)
    if entry and task == "detect":
        _check_priors(path, graph, entry.name, entry.detector)
        return Reading(graph, task, entry.preprocess(graph), in_steps(graph, entry.detector))
    note = ""
    if task == "other":
        note = "neither a recogniser nor a known detector: it can be run and profiled"
    usual = entry.preprocess(graph) if entry else usual_preprocess(graph)
    return Reading(graph, task, usual, {}, note)


def read_by_card(path: Path, graph: Graph, card: Card) -> Reading:
    """As the card in the file says, which must fit the network.

    Raises:
        FormatError: it does not; says in what.
    """
    graph, task = with_task(path, graph, card.task)
    (kind,) = graph.inputs.values()
    size = graph.types[graph.outputs[0]].shape[1] if task == "embed" else 0
    if (size, kind.shape[1]) != (card.embedding_size, CHANNELS[card.preprocess.colour]):
        raise FormatError(
            f"{path}: its card is of an embedding of {card.embedding_size} values from "
            f"{card.preprocess.colour}; the network makes {size} of {kind.shape[1]} channels"
        )
    if task == "detect":
        _check_priors(path, graph, "the detector in its card", card.detector)
    note = f"it carries the card of {card.name}: how it is fed and read, thresholds, licence"
    return Reading(graph, task, card.preprocess, dict(card.detector), note)


def with_task(path: Path, graph: Graph, wanted: str | None) -> tuple[Graph, str]:
    """The graph with the outputs that its task asks for, and the task.

    A recogniser has one output, flattened to (n, d). A detector has three, of 4, 2 (or 1) and 10
    numbers for each of the same priors, which are named loc, conf and landms; because others have
    these, too, it is one only where ``wanted`` says so.

    Raises:
        FormatError: not one picture goes in, or the outputs are not those of ``wanted``.
    """
    graph = channels_first(graph)
    inputs = list(graph.inputs.values())
    if len(inputs) != 1 or inputs[0].rank != 4 or inputs[0].shape[1] not in (1, 3):
        raise FormatError(
            f"{path}: takes {', '.join(map(str, inputs))}, not one picture, which is "
            "(n, 3, h, w) or (n, h, w, 3), or of one colour; export the part of it that takes one"
        )
    shapes = {name: graph.types[name].shape for name in graph.outputs}
    if wanted == "detect":
        named = {shape[-1]: name for name, shape in shapes.items() if len(shape) == 3}
        if len(shapes) != 3 or named.keys() not in ({4, 2, 10}, {4, 1, 10}):
            raise FormatError(f"{path}: its outputs {shapes} are not boxes, scores and landmarks")
        new = {named[4]: "loc", named[min(named)]: "conf", named[10]: "landms"}
        return free_size(rename(graph, new)), "detect"
    (last, shape), *more = shapes.items()
    if wanted == "other":
        return graph, wanted
    if more or len(shape) < 2 or any(side != 1 for side in shape[2:]):
        if wanted:
            raise FormatError(f"{path}: its outputs {shapes} are not one embedding")
        return graph, "other"
    if len(shape) > 2:
        node = Node(f"{last}:flatten", Flatten(), (last,), (f"{last}:flatten",))
        graph = replace(graph, nodes=(*graph.nodes, node), outputs=node.outputs)
    return graph, "embed"


def in_steps(graph: Graph, detector: Mapping[str, Any]) -> dict[str, Any]:
    """A detector, fed pictures of whole steps where pads were made for one size of picture: what
    holds for a multiple of its largest step holds for all."""
    if all(getattr(node.op, "made_for", (0, 0)) == (0, 0) for node in graph.nodes):
        return dict(detector)
    return {**detector, "multiple": math.lcm(detector.get("multiple", 1), *detector["steps"])}


def _check_priors(path: Path, graph: Graph, name: str, detector: Mapping[str, Any]) -> None:
    """Refuse a detector whose rows are not as many as the priors that it is said to have."""
    (kind,) = graph.inputs.values()
    height, width = kind.shape[2:]
    try:
        steps, sizes = detector["steps"], detector["min_sizes"]
        priors = sum(
            -(-height // step) * -(-width // step) * len(row)
            for step, row in zip(steps, sizes, strict=True)
        )
    except (KeyError, TypeError, ValueError, ArithmeticError):
        raise FormatError(f"{path}: its card does not describe a detector") from None
    rows = [graph.types[name].shape[1] for name in graph.outputs]
    if rows != [priors] * 3:
        raise FormatError(
            f"{path}: gives {rows[0]} boxes, {rows[1]} scores and {rows[2]} sets of landmarks for "
            f"a picture of {width}x{height}; {name} has {priors} priors there, so it is "
            "another network"
        )


def channels_first(graph: Graph) -> Graph:
    """A network of pictures (n, h, w, c), as Keras has them, with a transposition in front."""
    (name, kind), *more = graph.inputs.items()
    if more or kind.rank != 4 or kind.shape[1] in (1, 3) or kind.shape[3] not in (1, 3):
        return graph
    n, h, w, c = kind.shape
    first = Node(f"{name}:nchw", Transpose(perm=(0, 2, 3, 1)), (f"{name}:nchw",), (name,))
    inputs = {f"{name}:nchw": TensorType((n, c, h, w))}
    return replace(graph, inputs=inputs, nodes=(first, *graph.nodes))


def rename(graph: Graph, new: Mapping[str, str]) -> Graph:
    """The same graph with other names for some tensors, outputs in the order of ``new``.

    A tensor in between that has one of these names already gives way.
    """
    held = {name for name in new.values() if name in graph.types and name not in new}
    new = {**new, **{name: f"{name}:inner" for name in held}}
    wanted = tuple(new[name] for name in new if name not in held)

    def renamed(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(new.get(name, name) for name in names)

    nodes = tuple(
        replace(node, inputs=renamed(node.inputs), outputs=renamed(node.outputs))
        for node in graph.nodes
    )
    inputs = {new.get(name, name): kind for name, kind in graph.inputs.items()}
    params = {new.get(name, name): value for name, value in graph.params.items()}
    return replace(graph, inputs=inputs, params=params, nodes=nodes, outputs=wanted)


def usual_preprocess(graph: Graph) -> Preprocess:
    """What a network that says nothing about it most likely expects.

    Pixels as they are where the graph itself subtracts from or scales its input first, or after
    it has changed the order of its colours, else (x - 127.5) / 128; RGB.
    """
    name, kind = next(iter(graph.inputs.items()))
    _, channels, height, width = kind.shape
    colour = "rgb" if channels == 3 else "gray"
    first = _first(graph, name)
    if first and first <= {"sub", "mul", "div", "add", "batch_norm"}:
        mean, scale = 0.0, 1.0
    else:
        mean, scale = 127.5, 1 / 128
    return Preprocess(height, width, colour, (mean,) * channels, (scale,) * channels)


_MOVES = (Concat, Identity, Pad, Resize, Slice, Split, Transpose)  # pixels, as they are


def _same_sides(graph: Graph, node: Node) -> bool:
    """Whether it is a reshape that leaves all sides above 1 as they are."""
    shapes = (graph.types[name].shape for name in (node.inputs[0], node.outputs[0]))
    old, new = ([side for side in shape if side > 1] for shape in shapes)
    return isinstance(node.op, Reshape) and old == new


def _first(graph: Graph, name: str) -> set[str]:
    """The kinds of operators that read the input, or what was cut of it, joined, turned, scaled and
    padded; axes of one element may come and go."""
    seen, waiting, kinds = {name}, [name], set()
    while waiting:
        for node in graph.readers.get(waiting.pop(), ()):
            moved = isinstance(node.op, _MOVES)
            if not moved and not _same_sides(graph, node):
                kinds.add(node.op.kind)
                continue
            waiting += {*node.outputs} - seen
            seen |= {*node.outputs}
    return kinds
