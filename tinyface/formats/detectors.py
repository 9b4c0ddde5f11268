"""Detectors whose files say by their outputs what they are: SCRFD and YuNet.

Both give, for each of three levels, scores, boxes and landmarks as outputs of their own. Joined
to ``loc``, ``conf`` and ``landms`` they are read like any other detector's, by the numbers in the
card (:class:`tinyface.vision.priors.Priors`).
Sources: deepinsight/insightface, detection/scrfd; ShiqiYu/libfacedetection.train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tinyface.formats.card import Preprocess
from tinyface.formats.freesize import free_size, is_free
from tinyface.graph import Graph, Node
from tinyface.ops import Concat, Mul, Reshape
from tinyface.ops.spec import Op
from tinyface.types import Shape

STEPS: Final = (8, 16, 32)


@dataclass(frozen=True)
class Family:
    """How the detectors of one family are fed and read.

    scores: outputs per level that are multiplied for the score. anchors: answers per point.
    """

    name: str
    scores: int
    anchors: int
    colour: str
    mean: float
    scale: float
    card: Mapping[str, Any]
    steps: tuple[int, ...] = STEPS

    def preprocess(self, graph: Graph) -> Preprocess:
        (kind,) = graph.inputs.values()
        (_, _, height, width) = kind.shape
        return Preprocess(height, width, self.colour, (self.mean,) * 3, (self.scale,) * 3)

    def rows(self, height: int, width: int) -> list[int]:
        """Answers of every level about a picture of this size."""
        return [self.anchors * -(-height // step) * -(-width // step) for step in self.steps]

    def detector(self, graph: Graph) -> dict[str, Any]:
        """The ``detector`` part of the card."""
        (kind,) = graph.inputs.values()
        sizes = [[step] * self.anchors for step in self.steps]
        card = {"steps": list(self.steps), "min_sizes": sizes, "variances": [1.0, 1.0]}
        card |= {"origin": 0.0, "multiple": self.steps[-1], **self.card}
        return card if is_free(graph) else {**card, "canvas": list(kind.shape[2:])}


# How sure YuNet is of upright faces was measured: .907 and more in 104 pictures of uncovered ones,
# up to .912 of the same upside down. SCRFD was not.
_SCRFD: Final = {"edges": True, "score": 0.5, "sure": 0.0}
_YUNET: Final = {"score_power": 0.5, "score": 0.6, "sure": 0.91, "overlap": 0.3}
FAMILIES: Final = (
    Family("SCRFD", 1, 2, "rgb", 127.5, 1 / 128, _SCRFD),
    Family("YuNet", 2, 1, "bgr", 0.0, 1.0, _YUNET),
)


def heads(graph: Graph) -> tuple[Graph, Family] | None:
    """The graph with outputs ``loc``, ``conf`` and ``landms``, and its family; None for all others.

    It is one if its outputs are, for the levels of 8, 16 and 32 pixels, as many rows of 1, 4 and
    10 numbers as the family has answers there, in any order and under any names.
    """
    shapes = {name: graph.types[name].shape for name in graph.outputs}
    kind, *more = graph.inputs.values()
    if more or kind.rank != 4 or kind.shape[:2] != (1, 3):
        return None
    for family in FAMILIES:
        rows = family.rows(*kind.shape[2:])
        found = [[_with(shapes, n, fields) for n in rows] for fields in (1, 4, 10)]
        counts = [[len(names) for names in level] for level in found]
        fits = counts == [[family.scores] * 3, [1] * 3, [1] * 3] and len(set(rows)) == 3
        if fits and len(shapes) == 3 * (family.scores + 2):
            return _joined(graph, found), family
    return None


def _with(shapes: Mapping[str, Shape], rows: int, fields: int) -> list[str]:
    """Outputs of this many rows and numbers in a row: (rows, fields) or (1, rows, fields)."""
    return [name for name, shape in shapes.items() if shape in ((rows, fields), (1, rows, fields))]


def _rows(shape: Shape, fields: int) -> Reshape:
    """(n, rows, fields); without a batch they are of one picture."""
    return Reshape(shape=(0 if len(shape) == 3 else 1, -1, fields))


def _joined(graph: Graph, found: list[list[list[str]]]) -> Graph:
    graph = free_size(graph)
    nodes = list(graph.nodes)

    def add(op: Op, inputs: tuple[str, ...], name: str) -> str:
        nodes.append(Node(name, op, inputs, (name,)))
        return name

    for output, levels, fields in zip(("conf", "loc", "landms"), found, (1, 4, 10), strict=True):
        parts = []
        for i, names in enumerate(levels):
            rows = [
                add(_rows(graph.types[name].shape, fields), (name,), f"{output}:{i}:{j}")
                for j, name in enumerate(names)
            ]
            parts.append(rows[0] if len(rows) == 1 else add(Mul(), tuple(rows), f"{output}:{i}"))
        add(Concat(axis=1), tuple(parts), output)
    return replace(graph, nodes=tuple(nodes), outputs=("loc", "conf", "landms"))
