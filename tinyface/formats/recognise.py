"""Which network of the registry do these tensors belong to? Names and shapes tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tinyface.errors import CheckpointError, GraphError, TinyfaceError, UsageError
from tinyface.formats.arrays import Array
from tinyface.graph import Graph
from tinyface.networks import REGISTRY, Entry
from tinyface.networks.signatures import SIGNATURES, signature

_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Match:
    """How far a network's parameters and some tensors agree.

    graph: the network, in the size that fits best. state: the tensors under its names.
    """

    entry: Entry
    graph: Graph
    state: Mapping[str, Array]
    missing: Sequence[str]
    extra: Sequence[str]
    misshapen: Sequence[str]

    @property
    def exact(self) -> bool:
        return not (self.missing or self.extra or self.misshapen)

    @property
    def agreement(self) -> float:
        """Tensors that fit, out of all that there are on either side: 0...1."""
        fitting = len(self.graph.params) - len(self.missing) - len(self.misshapen)
        return fitting / (len(self.graph.params) + len(self.extra))

    def explain(self) -> str:
        """What does not agree, with names, in one line."""
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({_some(self.missing)})")
        if self.extra:
            parts.append(f"{len(self.extra)} not in it ({_some(self.extra)})")
        if self.misshapen:
            shapes = [
                f"{name!r} is {_shape(self.state[name])}, should be "
                f"{_shape(self.graph.params[name])}"
                for name in self.misshapen[:_SHOWN]
            ]
            more = ", ..." if len(self.misshapen) > _SHOWN else ""
            parts.append(f"{len(self.misshapen)} of another shape ({', '.join(shapes)}{more})")
        return "; ".join(parts)


@cache
def _default(name: str) -> Graph:
    """The network in its usual size; building all of them takes a second or two."""
    return REGISTRY[name].build()


def _resized(match: Match, state: Mapping[str, Array]) -> Match:
    """The same network at another embedding size, where that is all that differs.

    The last layer's length is a free choice of whoever trained it.
    """
    if match.missing or not match.misshapen:
        return match
    last = match.state[match.misshapen[-1]].shape
    for option in ("embedding", "classes"):
        try:
            graph = match.entry.build(**{option: last[0]})
        except (UsageError, GraphError, IndexError):
            continue
        other = _compare(match.entry, state, graph)
        if len(other.misshapen) < len(match.misshapen):
            return other
    return match


def _compare(entry: Entry, state: Mapping[str, Array], graph: Graph) -> Match:
    """Hold the tensors against one network."""
    fitted = entry.fit(state, graph)
    return Match(
        entry,
        graph,
        fitted,
        missing=[name for name in graph.params if name not in fitted],
        extra=[name for name in fitted if name not in graph.params],
        misshapen=[
            name
            for name, own in graph.params.items()
            if name in fitted and fitted[name].shape != own.shape
        ],
    )


def _likely(state: Mapping[str, Array]) -> list[Entry]:
    """The networks whose parameters have these names, found without building all of them."""
    found: dict[Any, set[str]] = {}  # by what tells an entry's reading of names from another's

    def signatures(entry: Entry) -> set[str]:
        kept = (name for name in state if not name.endswith(entry.ignore))
        renamed = {signature(entry.rename(state))} if entry.rename else set()
        return {signature(state), signature(kept), *renamed}

    likely = []
    for entry in REGISTRY.values():
        reading = (entry.ignore, entry.rename)
        if reading not in found:
            found[reading] = signatures(entry)
        if SIGNATURES.get(entry.name) in found[reading]:
            likely.append(entry)
    return likely


def _search(
    state: Mapping[str, Array], entries: Iterable[Entry]
) -> tuple[list[Match], list[Match]]:
    """Those that fit, if any: in their usual size, else in another; and all that were tried."""
    usual = [_compare(entry, state, _default(entry.name)) for entry in entries]
    exact = [match for match in usual if match.exact]
    if exact:
        return exact, usual
    matches = [_resized(match, state) for match in usual]
    return [match for match in matches if match.exact], matches


def recognise(state: Mapping[str, Array]) -> list[Match]:
    """All networks of the registry that have exactly these tensors, in its order.

    Raises:
        CheckpointError: there is none. Where one comes close, the message says what differs.
    """
    exact, _ = _search(state, _likely(state))
    if exact:
        return exact
    exact, matches = _search(state, REGISTRY.values())
    if exact:
        return exact
    best = max(matches, key=lambda match: match.agreement)
    if best.agreement < 0.5:
        raise CheckpointError(
            f"its {len(state)} tensors ({_some(list(state))}) are those of no network here; "
            "the networks are listed by  tinyface models; to have another, export it as ONNX where "
            "it was trained (torch.onnx.export), and import that"
        )
    raise CheckpointError(
        f"the closest network is {best.entry.name}, but the tensors differ: {best.explain()}. "
        "Tensors that are not part of the network are left out with --ignore NAME"
    )


def fit(entry: Entry, state: Mapping[str, Array]) -> Match:
    """The tensors as weights of this network.

    Raises:
        CheckpointError: a tensor is missing, not in it, or of another shape; each is named, and
            so is the network that they do fit.
    """
    match = _resized(_compare(entry, state, _default(entry.name)), state)
    if match.exact:
        return match
    try:
        others = f"; they fit {_names(recognise(state))}"
    except TinyfaceError:
        others = ""
    raise CheckpointError(f"these tensors do not fit {entry.name}: {match.explain()}{others}")


def _names(matches: Sequence[Match]) -> str:
    return " or ".join(match.entry.name for match in matches)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:100]) for name in names[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown


def _shape(array: Array) -> str:
    return "x".join(map(str, array.shape)) or "scalar"
