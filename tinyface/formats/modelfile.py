"""The model file: a safetensors file with the graph and the card as JSON in its metadata.

One file, memory-mapped, without code in it. The metadata has one key, ``tinyface``, whose text
is ``{"format": 1, "graph": ..., "card": ...}``; see :meth:`tinyface.graph.Graph.to_json` and
:class:`Card`. The tensors are the graph's parameters, float32 or float16, in the graph's order.
Nothing in a file is trusted: each rule has its own error and its own test.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tinyface import limits
from tinyface.errors import FormatError, GraphError
from tinyface.files import atomic_write
from tinyface.formats import safetensors
from tinyface.formats.arrays import ITEMSIZE, Array
from tinyface.formats.card import Card, Preprocess
from tinyface.formats.safetensors import TensorFile, parse_json
from tinyface.graph import Graph

FORMAT: Final = 1
KEY: Final = "tinyface"
_STORED: Final = ("float32", "float16")

__all__ = ["FORMAT", "KEY", "Card", "Preprocess", "load_model", "read_card", "save_model"]


def load_model(path: str | os.PathLike[str]) -> tuple[Graph, Card]:
    """Read a model file.

    Returns:
        the network and its card. The parameters are float32: read-only views of the mapped
        file, or copies where the file stores float16 (``card.stored`` says so). Do not shorten
        or overwrite the file in place while they are used; replacing it by a new one is fine.

    Raises:
        FormatError: the file breaks a rule of the format, or a weight is not finite.
        GraphError: what it describes is not a valid network.
    """
    file = safetensors.open_file(Path(path))
    document = _document(file)
    card = _card(file, document)
    params = {name: _param(file, name) for name in file.entries}
    try:
        graph = Graph.from_json(document["graph"], params)
    except GraphError as error:
        raise type(error)(f"{path}: {error}") from None
    used = {name for node in graph.nodes for name in node.inputs}
    for name in params:
        if name not in used:
            raise FormatError(f"{path}: no operator of the network reads the tensor {name!r}")
    return graph, card


def read_card(path: str | os.PathLike[str]) -> Card:
    """The card alone: quick, whatever the size of the model. Raises as :func:`load_model`."""
    file = safetensors.open_file(Path(path))
    return _card(file, _document(file))


def save_model(
    path: str | os.PathLike[str], graph: Graph, card: Card, dtype: str = "float32"
) -> None:
    """Write a model file: whole or not at all, the same bytes for the same model.

    Args:
        dtype: how weights are stored, "float32", or "float16" for half the size and a
            relative rounding of 2**-11.

    Raises:
        FormatError: a weight is not finite or does not fit into ``dtype``; nothing is written.
        UsageError: the path cannot be written.
    """
    if dtype not in _STORED:
        raise FormatError(f"weights are stored as {' or '.join(_STORED)}, not {dtype!r}")
    params: dict[str, Array] = {}
    for name, value in graph.params.items():
        with np.errstate(over="ignore"):
            params[name] = value.astype(dtype, copy=False)
        _check_finite(f"{path}: tensor {name!r} as {dtype}", params[name])
    document = {"format": FORMAT, "graph": graph.to_json(), "card": card.to_json()}
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    if len(text) > limits.MAX_HEADER_BYTES // 2:
        raise FormatError(f"{path}: the graph and the card take {len(text)} bytes as JSON")
    with atomic_write(path) as file:
        safetensors.write(file, params, {KEY: text})


def _document(file: TensorFile) -> dict[str, Any]:
    """The JSON under the metadata key, its outermost level checked."""
    if KEY not in file.metadata:
        raise FormatError(
            f"{file.path}: holds tensors but no network; make a model of it with  "
            f"tinyface import {file.path.name} --network NAME -o OUT.safetensors"
        )
    document = parse_json(file.metadata[KEY], f"{file.path}: the description", True)
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise FormatError(f"{file.path}: the description names no format")
    if document["format"] != FORMAT:
        raise FormatError(
            f"{file.path}: format {document['format']}, and this tinyface reads {FORMAT}; "
            "install a newer one"
        )
    if document.keys() != {"format", "graph", "card"}:
        raise FormatError(
            f"{file.path}: the description has the fields {str(sorted(document))[:120]}, "
            "expected are format, graph and card"
        )
    return document


def _card(file: TensorFile, document: dict[str, Any]) -> Card:
    try:
        card = Card.from_json(document["card"])
    except FormatError as error:
        raise FormatError(f"{file.path}: {error}") from None
    halves = any(entry.dtype == "float16" for entry in file.entries.values())
    return replace(card, stored="float16" if halves else "float32")


def _param(file: TensorFile, name: str) -> Array:
    entry = file.entries[name]
    where = f"{file.path}: tensor {name!r}"
    if entry.dtype not in _STORED:
        raise FormatError(f"{where} is {entry.dtype}; a model has {' or '.join(_STORED)}")
    if entry.start % ITEMSIZE[entry.dtype]:
        raise FormatError(f"{where} begins at byte {entry.start}, which is not aligned")
    array = file.tensor(name).astype(np.float32, copy=False)
    _check_finite(where, array)  # behind the widening: NumPy compares fp16 one by one
    return array


def _check_finite(where: str, array: Array) -> None:
    """NaN and infinity show in the extremes, so no array of flags is needed."""
    if array.size and not (np.isfinite(array.max()) and np.isfinite(array.min())):
        raise FormatError(f"{where} has a value that is not finite (NaN, infinity, or too large)")
