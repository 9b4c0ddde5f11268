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
from tinyface.formats import known, onnx_file, safetensors
from tinyface.formats.arrays import Array, map_file
from tinyface.formats.card import Card, Preprocess
from tinyface.formats.described import carried, read_by_card, read_outputs
from tinyface.formats.freesize import is_free
from tinyface.formats.ncnn import read_ncnn
from tinyface.formats.onnx import to_graph
from tinyface.formats.onnx_file import OnnxFile, open_onnx
from tinyface.formats.recognise import Match, fit, recognise
from tinyface.formats.sniff import Kind, sniff
from tinyface.formats.state_dict import strip_majority, tidy_keys
from tinyface.formats.torch_checkpoint import open_checkpoint
from tinyface.graph import Graph
from tinyface.networks import find
from tinyface.passes import name_patterns

_WEIGHTS: Final = (Kind.TORCH_ZIP, Kind.TORCH_LEGACY, Kind.SAFETENSORS)
_GRAPHS: Final = (Kind.NCNN_PARAM, Kind.ONNX)
IMPORTED: Final = (*_WEIGHTS, *_GRAPHS)  # what :func:`import_file` reads
_ADVICE: Final = {
    Kind.TINYFACE: "it needs no import: use it with  -m FILE",
    Kind.TORCHSCRIPT: "it holds code; where PyTorch is installed: "
    "torch.save(torch.jit.load(FILE).state_dict(), OUT)",
    Kind.PICKLE: "it may hold code; only checkpoints written by torch.save are read",
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
    until: those that were made its outputs.
    """

    graph: Graph
    card: Card
    found: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    until: tuple[str, ...] = ()


def import_file(
    path: str | os.PathLike[str],
    network: str | None = None,
    *,
    name: str | None = None,
    ignore: Sequence[str] = (),
    weights: str | os.PathLike[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    until: Sequence[str] = (),
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
        until: tensors of an ONNX file that become its outputs; what lies behind is left out.

    Raises:
        CheckpointError: the tensors fit no network, or several; what differs is named.
        FormatError: of no readable format, damaged, or of an operator that is not known here.
        UsageError: no such network, or options that do not go with the file.
    """
    path = Path(path)
    kind = sniff(path)
    changes = {"preprocess": dict(preprocess or {})} | ({"name": name} if name else {})
    if weights and kind in IMPORTED and kind is not Kind.NCNN_PARAM:
        raise UsageError(f"{path} is {kind.value}, whose weights are in it: leave --weights away")
    if until and kind in IMPORTED and kind is not Kind.ONNX:
        raise UsageError(f"{path} is {kind.value}: --until is for ONNX files")
    if kind in _WEIGHTS:
        if {"height", "width"} & set(preprocess or ()):
            raise UsageError(f"{path} has tensors alone: the network knows its size (no --size)")
        return _import_weights(path, kind, network, ignore, changes)
    if kind in _GRAPHS:
        if ignore:
            raise UsageError(f"{path} describes its network itself: leave --ignore away")
        return _import_graph(path, kind, network, weights, changes, tuple(until))
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
    until: tuple[str, ...],
) -> Imported:
    given = changes["preprocess"]
    file = open_onnx(path) if kind is Kind.ONNX else None
    if file and until:
        file = onnx_file.until(file, until)
    card = carried(file) if file else None
    size = (112, 112) if card is None else (card.preprocess.height, card.preprocess.width)
    size = (int(given.get("height", size[0])), int(given.get("width", size[1])))
    if file:
        graph, checksum = to_graph(file, size), sha256(path)
    else:
        graph = read_ncnn(path, weights, size)
        checksum = sha256(Path(weights) if weights else path.with_suffix(".bin"))
    public = known.KNOWN.get(checksum)
    entry = find(network) if network else None
    found = [f"{kind.value}: {len(graph.nodes)} operators, {graph.param_count} parameters"]
    found += [f"this is {public.title}"] if public else []
    if card and entry:
        found.append(f"its card, of {card.name}, is left aside: {entry.name} was asked for")
        card = None
    graph = name_patterns(graph)
    if "name" in changes and not card:  # the file is all that there is of this network
        graph = replace(graph, name=changes["name"])
    read = read_by_card(path, graph, card) if card else read_outputs(path, graph, entry)
    graph, task, usual = read.graph, read.task, read.usual
    found += [read.note] if read.note else []
    if file and file.pixels:  # bytes cannot have been shifted or scaled
        usual = replace(usual, mean=(0.0,) * len(usual.mean), scale=(1.0,) * len(usual.scale))
    if task == "detect" and not is_free(graph):
        found.append(_one_size(graph, "canvas" in read.detector, file))
    if not public and not entry and not given.keys() - {"height", "width"} and not read.note:
        guess = f"(x - {usual.mean[0]:g}) x {usual.scale[0]:.6g}, {usual.colour}"
        found.append(
            f"it does not say how pixels go in; taken is {guess} (--colour, --mean and --scale "
            "change it)"
        )
    fields = {
        "name": graph.name[:200] or "imported",
        "task": task,
        "embedding_size": graph.types[graph.outputs[0]].shape[1] if task == "embed" else 0,
        "detector": read.detector,
        "notes": f"imported from {path.name}; its licence is not known",
        **(vars(card) if card else {}),
        "checksum": checksum,
        **(public.card if public else {}),
        **changes,
    }
    shape = next(iter(graph.inputs.values())).shape
    told = {**(public.preprocess if public else {}), **given}
    fields["preprocess"] = _changed(usual, {**told, "height": shape[2], "width": shape[3]})
    return Imported(graph, Card(**fields), tuple(found), read.outputs, until)


def _one_size(graph: Graph, scaled: bool, file: OnnxFile | None) -> str:
    """What to tell about a detector that takes pictures of one size. scaled: into that."""
    height, width = next(iter(graph.inputs.values())).shape[2:]
    left_open = file and any(None in shape[1:] for shape in file.inputs.values())
    advice = "--size chooses another" if left_open else "export it with the size left free"
    return (
        f"it takes pictures of {width}x{height} only"
        f"{': others are scaled into that' if scaled else ''}; {advice}"
    )
