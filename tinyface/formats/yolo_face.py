"""YOLO detectors of faces, known by their only output: a row for every anchor.

v5: box, sure of an object, five landmarks (x, y), sure of a face. v7: box, object, face, five
landmarks (x, y, sure). v8: box, face, five landmarks (x, y, sure), the rows as columns. All places
are in pixels of the network's picture, boxes by centre and size.
Sources: deepcam-cn/yolov5-face, derronqi/yolov7-face and yolov8-face.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, NamedTuple

from tinyface.formats.detectors import Family
from tinyface.graph import Graph, Node
from tinyface.ops import Mul, Reshape, Slice, Transpose
from tinyface.ops.spec import Op
from tinyface.passes.rewrite import fresh

# Score and overlap are the middle of what their demos take; none was measured here.
_CARD: Final[dict[str, Any]] = {"pixels": True, "score": 0.5, "sure": 0.0, "overlap": 0.5}
_STEPS: Final = ((8, 16, 32), (8, 16, 32, 64))


class _Rows(NamedTuple):
    """numbers: in a row. anchors: at a point. face: place of the second score; 0: there is none.
    first: place of the landmarks, each of ``each`` numbers. turned: rows are columns."""

    numbers: int
    anchors: int
    face: int
    first: int
    each: int
    turned: bool


_VERSIONS: Final = {
    "YOLOv5-face": _Rows(16, 3, 15, 5, 2, False),
    "YOLOv7-face": _Rows(21, 3, 5, 6, 3, False),
    "YOLOv8-face": _Rows(20, 1, 0, 5, 3, True),
}


def rows(graph: Graph) -> tuple[Graph, Family] | None:
    """The graph with outputs ``loc``, ``conf`` and ``landms``, and its family; None for others."""
    kind, *more = graph.inputs.values()
    if more or len(graph.outputs) != 1 or kind.rank != 4 or kind.shape[:2] != (1, 3):
        return None
    if not {"loc", "conf", "landms"}.isdisjoint(graph.types):  # others' tensors have the names
        return None
    shape = graph.types[graph.outputs[0]].shape
    for name, row in _VERSIONS.items():
        for steps in _STEPS:
            family = Family(name, 1, row.anchors, "rgb", 0.0, 1 / 255, _CARD, steps)
            sides = (sum(family.rows(*kind.shape[2:])), row.numbers)
            if shape == (1, *(sides[::-1] if row.turned else sides)):
                return _cut(graph, row), family
    return None


def _cut(graph: Graph, row: _Rows) -> Graph:
    """The columns of the rows as three outputs."""
    nodes = list(graph.nodes)
    whole = given = graph.outputs[0]

    def add(name: str, op: Op, *inputs: str) -> str:
        if name not in ("loc", "conf", "landms"):
            name = fresh(f"{given}:{name}", graph.types)
        nodes.append(Node(name, op, inputs, (name,)))
        return name

    def cut(name: str, start: int, count: int, axis: int = 2, of: str = "") -> str:
        return add(name, Slice.along(axis, start, start + count), of or whole)

    if row.turned:
        whole = add("rows", Transpose((0, 2, 1)), whole)
    cut("loc", 0, 4)
    if row.face:
        add("conf", Mul(), cut("object", 4, 1), cut("face", row.face, 1))
    else:
        cut("conf", 4, 1)
    points = cut("points", row.first, 5 * row.each)
    apart = add("apart", Reshape((0, -1, 5, row.each)), points)
    add("landms", Reshape((0, -1, 10)), cut("places", 0, 2, 3, apart))
    return replace(graph, nodes=tuple(nodes), outputs=("loc", "conf", "landms"))
