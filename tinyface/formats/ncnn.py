"""Read an ncnn model (.param and .bin) as a Graph.

ncnn has no batch axis: its vectors are (n, w) here, its maps (n, c, h, w), and an axis a >= 0
of its parameters is axis a + 1. One function per layer type; :data:`LAYERS` is the whole list.
Source: Tencent/ncnn, docs/developer-guide/operators.md and operation-param-weight-table.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from tinyface import limits
from tinyface.builder import Builder
from tinyface.errors import MISFITS, FormatError, GraphError, cause
from tinyface.formats import (
    ncnn_eltwise,
    ncnn_layers,
    ncnn_matmul,
    ncnn_moves,
    ncnn_norms,
    ncnn_transposed,
    ncnn_windows,
)
from tinyface.formats.arrays import Array
from tinyface.formats.fixsize import hold_size
from tinyface.formats.formulas import Formulas
from tinyface.formats.ncnn_expression import evaluate
from tinyface.formats.ncnn_file import Layer, Weights, read_layers
from tinyface.graph import Graph
from tinyface.ops import Op, Reshape
from tinyface.ops.conv import Pair
from tinyface.types import Shape

SLACK: Final = 64  # bytes that may follow the last weight: some converters leave a few


class Converter:
    """Turns layers into nodes, in order.

    blobs: ncnn's name of a tensor -> the graph's. hint: what to do where maps do not fit each other
    and their size was our choice. computed: whether sizes of maps have become numbers of the graph.
    forced: whether the size counts where the file names one.
    """

    def __init__(self, name: str, weights: Weights, size: Pair, forced: bool = False) -> None:
        self.builder = Builder(name)
        self.weights = weights
        self.size, self.forced = size, forced
        self.hint = ""
        self.channels = 3  # of a picture of which the file does not say it
        self.computed = False
        self.count = 0  # of nodes
        self.written = 0  # bytes of weights that are in no file
        self.blobs: dict[str, str] = {}
        self.state: dict[str, Array] = {}

    def shape(self, tensor: str) -> Shape:
        return self.builder.shape(tensor)

    def param(self, layer: Layer, part: str, value: Array) -> str:
        """A weight of the graph: ``layer.part``."""
        name = f"{layer.name}.{part}"
        self.state[name] = value
        return self.builder.param(name, value.shape)

    def constant(self, layer: Layer, part: str, value: float) -> str:
        return self.formulas(layer).number(part, value)

    def apply(self, op: Op, *inputs: str, layer: Layer, part: str = "") -> str:
        """A node named after the layer; ``part`` tells apart several nodes of one layer.

        A reshape that names two sides, or more, may take a map of as many numbers for another.
        """
        if isinstance(op, Reshape) and sum(side > 1 for side in op.shape) > 1:
            self.computed = True
        return self.node(op, *inputs, layer=layer, part=part)

    def node(self, op: Op, *inputs: str, layer: Layer, part: str = "") -> str:
        self.count += 1
        if self.count > limits.MAX_NODES:
            raise layer.refuse(f"there are more than {limits.MAX_NODES} operators up to here")
        return self.builder.apply(op, *inputs, name=f"{layer.name}:{part}" if part else layer.name)

    def formulas(self, layer: Layer) -> Formulas:
        """Writes what has no operator of ours, as nodes and weights of this layer."""

        def step(op: Op, *inputs: str, part: str = "") -> str:
            return self.node(op, *inputs, layer=layer, part=part)

        def weight(part: str, value: Array) -> str:
            self.written += 4 * value.size
            if self.written > limits.MAX_WRITTEN_BYTES:
                raise layer.refuse("constants computed up to here take too much memory")
            return self.param(layer, part, np.ascontiguousarray(value, np.float32))

        return Formulas(step, weight)

    def sizes(self, layer: Layer, key: int, blobs: Sequence[str]) -> list[int]:
        """What the expressions of a text parameter are for these blobs."""
        self.computed = True
        return evaluate(layer.texts[key], [self.shape(blob) for blob in blobs])

    def convert(self, layer: Layer) -> None:
        """Add one layer.

        Raises:
            FormatError: its type is not known, a blob is, or it does not fit; with its place.
        """
        make = LAYERS.get(layer.kind)
        if make is None:
            left = "." in layer.kind  # torch.unbind, Tensor.reshape, pnnx.Expression
            raise layer.refuse(
                "what pnnx could not convert, and ncnn cannot run, either; write it otherwise in "
                "front of the export"
                if left
                else "layers of this type are not known here"
            )
        for blob in layer.inputs:
            if blob not in self.blobs:
                raise layer.refuse(f"reads {blob!r}, which no earlier layer makes")
        try:
            made = make(self, layer, [self.blobs[blob] for blob in layer.inputs])
        except MISFITS as error:
            raise layer.refuse(f"{cause(error)}{self.hint}") from None
        if len(made) != len(layer.outputs):
            raise layer.refuse(f"makes {len(made)} blobs, not {len(layer.outputs)}")
        for blob, tensor in zip(layer.outputs, made, strict=True):
            if blob in self.blobs:
                raise layer.refuse(f"makes {blob!r}, which an earlier layer made")
            self.blobs[blob] = tensor

    def finish(self, path: Path, layers: Sequence[Layer]) -> Graph:
        """The graph; its outputs are the blobs that no layer reads."""
        read = {blob for layer in layers for blob in layer.inputs}
        outputs = [blob for layer in layers for blob in layer.outputs if blob not in read]
        try:
            graph = self.builder.build(*(self.blobs[blob] for blob in outputs))
            return graph.bind(self.state)
        except GraphError as error:
            raise FormatError(f"{path}: {error}") from None


Make = Callable[[Converter, Layer, list[str]], list[str]]
_MODULES: Final = (
    ncnn_eltwise,
    ncnn_layers,
    ncnn_matmul,
    ncnn_moves,
    ncnn_norms,
    ncnn_transposed,
    ncnn_windows,
)
LAYERS: Final[dict[str, Make]] = {
    name.removeprefix("make_"): getattr(module, name)
    for module in _MODULES
    for name in dir(module)
    if name.startswith("make_")
}


_BEFORE: Final = ("Input", "Split", "BinaryOp", "Scale", "Bias", "BatchNorm", "Padding", "Noop")


def picture_channels(layers: Sequence[Layer]) -> int:
    """Those that the first convolution's weights are for, 3 if none comes first: pnnx does not
    write how many channels an input has."""
    first = next((layer for layer in layers if layer.kind not in _BEFORE), None)
    if first is None or first.kind != "Convolution":
        return 3
    kernel = first.whole(1, 0) * first.whole(11, first.whole(1, 0))
    return max(1, first.whole(6, 0) // max(1, first.whole(0, 0) * kernel))


def read_ncnn(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    size: tuple[int, int] = (112, 112),
) -> Graph:
    """The network of an ncnn model.

    Args:
        path: the text .param file.
        weights: the .bin file; None: the one beside it, with ``.bin`` for ``.param``.
        size: height and width of the input where the file does not say.

    Returns:
        a graph whose outputs are what no layer reads, named after the layers that make it.

    Raises:
        FormatError: a damaged file, a layer type or parameter that is not known here, weights
            that are quantised or do not belong to this .param; layer and line are named.
    """
    path = Path(path)
    layers = read_layers(path)
    beside = path.with_suffix(".bin")
    if weights is None and not beside.is_file():
        raise FormatError(f"{path}: there is no {beside.name} beside it; name it with --weights")
    source = Path(weights) if weights else beside
    channels = picture_channels(layers)

    def read(size: Pair, forced: bool = True) -> tuple[Graph, bool]:
        converter = Converter(path.stem, Weights(source), size, forced)
        converter.channels = channels
        for layer in layers:
            converter.convert(layer)
        if converter.weights.left > SLACK:
            raise FormatError(
                f"{source}: {converter.weights.left} bytes are left over; it belongs to another "
                f".param than {path.name}"
            )
        return converter.finish(path, layers), converter.computed

    graph, computed = read(size, forced=False)
    maps = [t.shape for t in graph.inputs.values() if t.rank == 4]
    if not computed or not maps:
        return graph
    return hold_size(graph, lambda other: read(other)[0], (maps[0][2], maps[0][3]))
