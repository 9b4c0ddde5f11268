"""A network laid out as rows and lanes: one row per operator, one lane per map that is alive.

The operators stand below each other in the order in which they run. A map goes down its lane
from the operator that writes it to the last that reads it, so that a branch is a second lane
and a shortcut a long straight line, as in the drawing of a version history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyface.graph import Graph


@dataclass(frozen=True)
class LaneRow:
    """One operator, or one input of the network.

    name, kind, shape: of the operator and its first output. outputs: names of what it writes.
    reads: names of the rows whose maps it reads. lane: where its dot stands. through: lanes that
    pass by. into: lanes that end or branch off into the dot. out: lanes that begin at it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    reads: tuple[str, ...]
    lane: int
    through: tuple[int, ...]
    into: tuple[int, ...]
    out: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """What a machine may want of it: who reads whom."""
        return {"name": self.name, "op": self.kind, "reads": list(self.reads)}


def lane_rows(graph: Graph) -> list[LaneRow]:
    """The rows of a graph, its inputs first.

    A network's output ends at the operator that writes it, unless another one reads it, too.
    """
    last_reader: dict[str, int] = {}
    for number, node in enumerate(graph.nodes):
        for name in node.inputs:
            if name and name not in graph.params:
                last_reader[name] = number
    lanes: dict[str, int] = {}  # map that is alive -> its lane
    writer: dict[str, str] = {}  # map -> name of the row that writes it
    rows = []

    def add(
        name: str, kind: str, reads: list[str], ending: list[str], outputs: tuple[str, ...]
    ) -> None:
        into = tuple(lanes[tensor] for tensor in reads)
        freed = sorted(lanes.pop(tensor) for tensor in ending)
        through = tuple(sorted(lanes.values()))
        alive = [tensor for tensor in outputs if tensor in last_reader]
        for tensor in alive:  # goes on in a lane that ends here, else in the first free one
            lanes[tensor] = _free(lanes, freed)
        out = tuple(lanes[tensor] for tensor in alive)
        lane = out[0] if out else min(into, default=0)
        if not out and lane in through:
            lane = _free(lanes, [])
        sources = tuple(dict.fromkeys(writer[tensor] for tensor in reads))
        writer.update(dict.fromkeys(outputs, name))
        shape = graph.types[outputs[0]].shape
        rows.append(LaneRow(name, kind, shape, outputs, sources, lane, through, into, out))

    for name in graph.inputs:
        add(name, "input", [], [], (name,))
    for number, node in enumerate(graph.nodes):
        reads = list(dict.fromkeys(n for n in node.inputs if n and n not in graph.params))
        ending = [name for name in reads if last_reader[name] == number]
        add(node.name, node.op.kind, reads, ending, node.outputs)
    return rows


def _free(lanes: dict[str, int], preferred: list[int]) -> int:
    taken = set(lanes.values())
    for lane in preferred:
        if lane not in taken:
            return lane
    return next(lane for lane in range(len(taken) + 1) if lane not in taken)
