"""Make a model of a file that somebody else wrote: what it is, which network, how to feed it.

>>> found = import_file("mobilefacenet.pt")                                    # doctest: +SKIP
>>> save_model("mobilefacenet.safetensors", found.graph, found.card)           # doctest: +SKIP

No format is read by executing anything from it, and all are mapped, not copied.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tinyface.errors import CheckpointError, FormatError, UsageError
from tinyface.formats import detectors, known, safetensors
from tinyface.formats.arrays import Array, map_file
from tinyface.formats.card import Card, Preprocess
from tinyface.formats.freesize import free_size, is_free
from tinyface.formats.ncnn import read_ncnn
from tinyface.formats.onnx import read_onnx
from tinyface.formats.recognise import Match, fit, recognise
from tinyface.formats.sniff import Kind, sniff
from tinyface.formats.state_dict import strip_majority, tidy_keys
from tinyface.formats.torch_checkpoint import open_checkpoint
from tinyface.graph import Graph, Node
from tinyface.networks import Entry, find
from tinyface.ops import Flatten, Transpose
from tinyface.passes import name_patterns
from tinyface.types import TensorType

_WEIGHTS: Final = (Kind.TORCH_ZIP, Kind.TORCH_LEGACY, Kind.SAFETENSORS)
_GRAPHS: Final = (Kind.NCNN_PARAM, Kind.ONNX)
IMPORTED: Final = (*_WEIGHTS, *_GRAPHS)  # what :func:`import_file` reads
_ADVICE: Final = {
    Kind.TINYFACE: "it needs no import: use it with  -m FILE",
    Kind.TORCHSCRIPT: "which holds code; where PyTorch is installed: "
    "torch.save(torch.jit.load(FILE).state_dict(), OUT)",
    Kind.PICKLE: "which may hold code; only checkpoints written by torch.save are read",
    Kind.ZIP: "unpack it first and import what is in it",
    Kind.NUMPY: "save its arrays with safetensors.numpy.save_file and import that",
    Kind.HDF5: "convert it to ONNX with tf2onnx and import that",
    Kind.TFLITE: "convert it to ONNX with tf2onnx and import that",
    Kind.NCNN_BINARY_PARAM: "give the text .param that it was made from",
    Kind.EMPTY: "fetch it again",
    Kind.UNKNOWN: "read are PyTorch checkpoints, safetensors, ncnn .param and ONNX",
}


@dataclass(frozen=True)
class Imported:
    """A network with weights, its card, and what to tell the user about how it was found.

    outputs: tensors that the file itself gives, where the graph's outputs are made of these.
    """

    graph: Graph
    card: Card
    found: tuple[str, ...]
    outputs: tuple[str, ...] = ()


def import_file(
    path: str | os.PathLike[str],
    network: str | None = None,
    *,
    name: str | None = None,
    ignore: Sequence[str] = (),
    weights: str | os.PathLike[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
) -> Imported:
    """Read weights and find their network.

    Args:
        path: a PyTorch checkpoint, a safetensors file of tensors, an ncnn .param or an ONNX
            file; the content decides, not the suffix.
        network: its name in the registry. None: it is recognised from the file's SHA-256, or
            from the names and shapes of the tensors. ncnn and ONNX files describe their network
            themselves; then it says only how to feed it and to read its output.
        name: of the weights, for the card; None: that of the known file, or of the network.
        ignore: tensors to leave out: their names, or beginnings of names.
        weights: the .bin beside an ncnn .param; None: the one of the same name.
        preprocess: fields of :class:`Preprocess` that differ from the network's usual ones,
            such as ``{"colour": "bgr"}``.

    Raises:
        CheckpointError: the tensors fit no network, or several; what differs is named.
        FormatError: of no readable format, damaged, or of an operator that is not known here.
        UsageError: no such network, or options that do not go with the file.
    """
    path = Path(path)
    kind = sniff(path)
    changes = {"preprocess": dict(preprocess or {})} | ({"name": name} if name else {})
    if kind in _WEIGHTS:
        if {"height", "width"} & set(preprocess or ()):
            raise UsageError(f"{path} has tensors alone: the network knows its size (no --size)")
        return _import_weights(path, kind, network, ignore, changes)
    if kind in _GRAPHS:
        if ignore:
            raise UsageError(f"{path} describes its network itself: leave --ignore away")
        return _import_graph(path, kind, network, weights, changes)
    raise FormatError(f"{path} is {kind.value}: {_ADVICE[kind]}")


# -- tensors alone: the network comes from the registry


def _import_weights(
    path: Path, kind: Kind, network: str | None, ignore: Sequence[str], changes: dict[str, Any]
) -> Imported:
    state, found = _read_state(path, kind, ignore)
    checksum = sha256(path)
    public = known.KNOWN.get(checksum)
    if public:
        found.append(f"this is {public.title}")
    entry = find(network) if network else None
    if public and entry and entry.name != public.network:
        raise CheckpointError(
            f"{path} is {public.title}, whose network is {public.network}; as {entry.name} it "
            "would load and give nonsense: leave --network away"
        )
    if public and not entry:
        entry = find(public.network)
    try:
        match = fit(entry, state) if entry else _only(recognise(state))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    found.append(f"network {match.entry.name}, {match.graph.param_count} parameters")
    graph = match.graph.bind(
        {key: _float32(path, key, value) for key, value in match.state.items()}
    )
    fields = {"checksum": checksum, **(public.card if public else {}), **changes}
    usual = match.entry.preprocess(graph)
    fields["preprocess"] = _changed(usual, changes["preprocess"])
    if not public:
        fields.setdefault("notes", f"imported from {path.name}; its licence is not known")
    return Imported(graph, match.entry.card(graph, **fields), tuple(found))


def _read_state(
    path: Path, kind: Kind, ignore: Sequence[str]
) -> tuple[dict[str, Array], list[str]]:
    """The tensors without prefixes and without what is to be ignored; what was found."""
    if kind is Kind.SAFETENSORS:
        state = safetensors.open_file(path).tensors()
        places: tuple[str, ...] = ()
        stripped, state = tidy_keys(path, state)
    else:
        checkpoint = open_checkpoint(path)
        state, places, stripped = checkpoint.tensors, checkpoint.found_at, checkpoint.prefix
    chosen = {k: v for k, v in state.items() if not (ignore and k.startswith(tuple(ignore)))}
    unused = [i for i in ignore if not any(k.startswith(i) for k in state)]
    if unused:
        raise UsageError(f"{path}: no tensor's name begins with {unused[0]!r}; it is not there")
    if ignore:
        more, chosen = tidy_keys(path, chosen)
        stripped += more
    if not chosen:
        raise CheckpointError(f"{path}: no tensors are left")
    some, chosen = strip_majority(chosen)
    stripped += some
    where = f" under {'.'.join(places)}" if places else ""
    prefix = f", without the prefix '{stripped}'" if stripped else ""
    return chosen, [f"{kind.value}: {len(chosen)} tensors{where}{prefix}"]


def _only(matches: list[Match]) -> Match:
    if len(matches) > 1:
        names = " or ".join(match.entry.name for match in matches)
        raise CheckpointError(
            f"names and shapes fit several networks that compute different things: {names}. "
            "Say which one it was trained as with --network NAME; the wrong one gives nonsense"
        )
    return matches[0]


def _float32(path: Path, name: str, value: Array) -> Array:
    if value.dtype.kind != "f":
        raise CheckpointError(
            f"{path}: tensor {name!r} is of type {value.dtype}, not floating point; quantised "
            "weights are not read"
        )
    return np.ascontiguousarray(value, np.float32)


def _changed(usual: Preprocess, changes: Mapping[str, Any]) -> Preprocess:
    fields = {name: getattr(usual, name) for name in usual.__dataclass_fields__}
    unknown = sorted(changes.keys() - fields.keys())
    if unknown:
        raise UsageError(f"preprocessing has no {unknown[0]!r}; it has {', '.join(fields)}")
    return Preprocess(**{**fields, **changes})


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal; the file is mapped, not read into memory."""
    with map_file(path) as data:
        return hashlib.sha256(data).hexdigest()


# -- files that describe their network


def _import_graph(
    path: Path,
    kind: Kind,
    network: str | None,
    weights: str | os.PathLike[str] | None,
    changes: dict[str, Any],
) -> Imported:
    given = changes["preprocess"]
    size = (int(given.get("height", 112)), int(given.get("width", 112)))
    if kind is Kind.NCNN_PARAM:
        graph = read_ncnn(path, weights, size)
        checksum = sha256(Path(weights) if weights else path.with_suffix(".bin"))
    else:
        graph, checksum = read_onnx(path, size), sha256(path)
    public = known.KNOWN.get(checksum)
    entry = find(network) if network else None
    found = [f"{kind.value}: {len(graph.nodes)} operators, {graph.param_count} parameters"]
    found += [f"this is {public.title}"] if public else []
    read = _read_outputs(path, name_patterns(graph), entry)
    graph, task, usual = read.graph, read.task, read.usual
    found += [read.note] if read.note else []
    if task == "detect" and not is_free(graph):
        height, width = next(iter(graph.inputs.values())).shape[2:]
        found.append(
            f"it takes pictures of {width}x{height} only"
            + (": others are scaled into that" if "canvas" in read.detector else "")
            + "; export it with the size left free"
        )
    if not public and not entry and not given.keys() - {"height", "width"} and not read.note:
        guess = f"(x - {usual.mean[0]:g}) x {usual.scale[0]:.6g}, {usual.colour}"
        found.append(f"it does not say how pixels go in; taken is {guess}")
    fields = {
        "name": graph.name[:200] or "imported",
        "task": task,
        "embedding_size": graph.types[graph.outputs[0]].shape[1] if task == "embed" else 0,
        "detector": read.detector,
        "notes": f"imported from {path.name}; its licence is not known",
        "checksum": checksum,
        **(public.card if public else {}),
        **changes,
    }
    shape = next(iter(graph.inputs.values())).shape
    told = {**(public.preprocess if public else {}), **given}
    fields["preprocess"] = _changed(usual, {**told, "height": shape[2], "width": shape[3]})
    return Imported(graph, Card(**fields), tuple(found), read.outputs)


@dataclass(frozen=True)
class _Reading:
    """What a network that came with its file is for, and how it is fed and read.

    note: a line for the user about it. outputs: see :class:`Imported`.
    """

    graph: Graph
    task: str
    usual: Preprocess
    detector: dict[str, Any]
    note: str = ""
    outputs: tuple[str, ...] = ()


def _read_outputs(path: Path, graph: Graph, entry: Entry | None) -> _Reading:
    """From the network that was named, else from the shapes of the outputs."""
    if entry is None and (found := detectors.heads(graph)):
        joined, family = found
        note = f"its outputs are those of {family.name}, so it is fed and read as such"
        usual, detector = family.preprocess(joined), family.detector(joined)
        return _Reading(joined, "detect", usual, detector, note, graph.outputs)
    graph, task = with_task(path, graph, entry.task if entry else None)
    if entry and task == "detect":
        _check_priors(path, graph, entry)
        return _Reading(graph, task, entry.preprocess(graph), dict(entry.detector))
    note = ""
    if task == "other":
        note = "neither a recogniser nor a known detector: it can be run and profiled"
    usual = entry.preprocess(graph) if entry else usual_preprocess(graph)
    return _Reading(graph, task, usual, {}, note)


def with_task(path: Path, graph: Graph, wanted: str | None) -> tuple[Graph, str]:
    """The graph with the outputs that its task asks for, and the task.

    A recogniser has one output, flattened to (n, d). A detector has three, of 4, 2 and 10 numbers
    for each of the same priors, which are named loc, conf and landms; because others have these,
    too, it is one only where ``wanted`` says so.

    Raises:
        FormatError: not one picture goes in, or the outputs are not those of ``wanted``.
    """
    graph = channels_first(graph)
    inputs = list(graph.inputs.values())
    if len(inputs) != 1 or inputs[0].rank != 4 or inputs[0].shape[1] not in (1, 3):
        raise FormatError(f"{path}: takes {', '.join(map(str, inputs))}, not one picture")
    shapes = {name: graph.types[name].shape for name in graph.outputs}
    if wanted == "detect":
        named = {shape[-1]: name for name, shape in shapes.items() if len(shape) == 3}
        if len(shapes) != 3 or named.keys() != {4, 2, 10}:
            raise FormatError(f"{path}: its outputs {shapes} are not boxes, scores and landmarks")
        new = {named[4]: "loc", named[2]: "conf", named[10]: "landms"}
        return free_size(rename(graph, new)), "detect"
    (last, shape), *more = shapes.items()
    if more or len(shape) < 2 or any(side != 1 for side in shape[2:]):
        if wanted:
            raise FormatError(f"{path}: its outputs {shapes} are not one embedding")
        return graph, "other"
    if len(shape) > 2:
        node = Node(f"{last}:flatten", Flatten(), (last,), (f"{last}:flatten",))
        graph = replace(graph, nodes=(*graph.nodes, node), outputs=node.outputs)
    return graph, "embed"


def _check_priors(path: Path, graph: Graph, entry: Entry) -> None:
    """Refuse a detector whose rows are not as many as the priors of ``entry``."""
    (kind,) = graph.inputs.values()
    height, width = kind.shape[2:]
    steps, sizes = entry.detector["steps"], entry.detector["min_sizes"]
    priors = sum(
        -(-height // step) * -(-width // step) * len(row)
        for step, row in zip(steps, sizes, strict=True)
    )
    rows = [graph.types[name].shape[1] for name in graph.outputs]
    if rows != [priors] * 3:
        raise FormatError(
            f"{path}: gives {rows[0]} boxes, {rows[1]} scores and {rows[2]} sets of landmarks for "
            f"a picture of {width}x{height}; {entry.name} has {priors} priors there, so it is "
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

    Pixels as they are where the graph itself subtracts from or scales its input first, else
    (x - 127.5) / 128; RGB.
    """
    name, kind = next(iter(graph.inputs.items()))
    _, channels, height, width = kind.shape
    colour = "rgb" if channels == 3 else "gray"
    first = [node.op.kind for node in graph.readers[name]]
    if first and all(op in ("sub", "mul", "div", "add", "batch_norm") for op in first):
        mean, scale = 0.0, 1.0
    else:
        mean, scale = 127.5, 1 / 128
    return Preprocess(height, width, colour, (mean,) * channels, (scale,) * channels)
