"""Every network by name: how to build it, where it comes from, how to feed it.

Status of a network:

- ``public``: its layers are those of the authors' or of well-known code;
- ``pinned``: there is no public code, but the published figures single its layers out;
- ``reconstruction``: chosen to meet the published figures, which leave room.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tinyface.errors import UsageError
from tinyface.formats.card import Card, Preprocess
from tinyface.graph import Graph
from tinyface.ops.spec import Array

Triple = tuple[float, ...]

HALF: Triple = (127.5,) * 3
BY_127: Triple = (1 / 127.5,) * 3
BY_128: Triple = (1 / 128,) * 3

COUNTER = "num_batches_tracked"  # of PyTorch's batch norm: not a weight


@dataclass(frozen=True)
class Entry:
    """A network of the registry.

    Attributes:
        name: what ``tinyface import --network`` and ``tinyface models`` call it.
        family: the module of :mod:`tinyface.networks` that defines it.
        make: returns its graph; keyword arguments change it (embedding, size, width …).
        status: "public", "pinned" or "reconstruction".
        source: paper, and repository with commit where there is one.
        task: "embed", "detect" or "classify" (a classifier's last layer can be read as an
            embedding when it was trained as one).
        colour, mean, scale: preprocessing that its public weights expect, as in
            :class:`tinyface.formats.card.Preprocess`.
        detector: priors of a detector, for its card.
        figures: what was printed, as text: ``params_M``, ``macs_M`` (millions), ``fmap_MB``.
        ignore: endings of checkpoint keys that are not part of the network.
        rename: turns another framework's names into this network's, if there is one.
        notes: what the published figures do not decide, and other warnings.
    """

    name: str
    family: str
    make: Callable[..., Graph]
    status: str
    source: str
    task: str = "embed"
    colour: str = "rgb"
    mean: Triple = HALF
    scale: Triple = BY_127
    detector: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = (COUNTER,)
    rename: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None
    notes: str = ""

    def build(self, **options: Any) -> Graph:
        """The network, its weights being zeros that take no memory.

        ``options`` go to the family's function: ``embedding=128``, ``size=224``, ``width=0.5``…

        Raises:
            UsageError: the family has no such option.
            GraphError: the options do not give a network.
        """
        try:
            return self.make(**{"name": self.name, **options})
        except TypeError as error:
            raise UsageError(f"{self.name} cannot be built with {options}: {error}") from None

    def bind(self, state: Mapping[str, Array], **options: Any) -> Graph:
        """The network with the weights of a public checkpoint.

        Keys that are not part of the network (step counters, classifiers) are passed over;
        sides of 1 at the end of a shape may differ, as between a 1-d convolution over one
        position and a fully connected layer.

        Raises:
            GraphError: a tensor is missing, superfluous or misshapen; each is named.
        """
        graph = self.build(**options)
        return graph.bind(self.fit(state, graph))

    def fit(self, state: Mapping[str, Array], graph: Graph) -> dict[str, Array]:
        """``state`` under the graph's names and shapes, without what is to be ignored."""
        if self.rename is not None and not any(key in graph.params for key in state):
            state = self.rename(state)
        result = {}
        for key, value in state.items():
            own = graph.params.get(key)
            if own is None and key.endswith(self.ignore):
                continue
            if own is not None and _stripped(own.shape) == _stripped(tuple(value.shape)):
                value = value.reshape(own.shape)
            result[key] = value
        return result

    def preprocess(self, graph: Graph) -> Preprocess:
        """How to feed it, for the input size of ``graph``."""
        (_, _, height, width) = next(iter(graph.inputs.values())).shape
        return Preprocess(height, width, self.colour, self.mean, self.scale)

    def card(self, graph: Graph, **fields: Any) -> Card:
        """A card for weights of this network; ``fields`` go on top (licence, thresholds …)."""
        detects = self.task == "detect"
        size = 0 if detects else graph.types[graph.outputs[0]].shape[1]
        defaults: dict[str, Any] = {
            "name": self.name,
            "task": "detect" if detects else "embed",
            "preprocess": self.preprocess(graph),
            "embedding_size": size,
            "detector": dict(self.detector),
            "source": self.source,
        }
        return Card(**{**defaults, **fields})


def _stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones at its end, the first side excepted."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def spelling(name: str) -> str:
    """One spelling for names that differ in case, in - and _, in * and "star", in × and x."""
    name = name.strip().lower().replace("×", "-x").replace("*", "-star")
    return name.replace("_", "-").replace("--", "-")


def lookup(registry: Mapping[str, Entry], aliases: Mapping[str, str], name: str) -> Entry:
    """The entry of that name (see :func:`spelling`) or alias.

    Raises:
        UsageError: there is none; the closest names are given.
    """
    key = spelling(name)
    key = aliases.get(key, key)
    if key in registry:
        return registry[key]
    close = difflib.get_close_matches(key, registry, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise UsageError(f"there is no network {name!r}; {hint}see  tinyface models")
