"""Feature maps of a picture, layer by layer, as small PNGs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyface.backends.numpy import NumpyExecutable, run_graph
from tinyface.errors import ModelError
from tinyface.faces.locate import largest, load_detector, name_of
from tinyface.formats.modelfile import Card, Preprocess
from tinyface.graph import Graph, Node
from tinyface.model import fit
from tinyface.types import Shape
from tinyface.vision import align as alignment
from tinyface.vision.image import RGB, read_image

CHANNELS = 8  # shown of each operator
SIDE = 56  # pixels of a tile, about
GAP = 2
LONGEST = 512  # values shown of a vector
MAX_MAPS = 250  # operators shown: a report should stay a file that a browser opens


@dataclass(frozen=True)
class FeatureMap:
    """What one operator wrote.

    shape: of its first output. channels: numbers of those shown. low, high: least and largest
    value of the whole output. image: a PNG, gray with alpha.
    """

    name: str
    kind: str
    shape: Shape
    channels: tuple[int, ...]
    low: float
    high: float
    image: bytes

    @property
    def uri(self) -> str:
        return data_uri(self.image)


def picture_crop(
    graph: Graph, card: Card | None, picture: str, aligned: bool, detector: str | None
) -> RGB:
    """The picture as the network wants it, uint8 (H, W, 3): its largest face, aligned.

    A detector, and with ``aligned`` every network, gets the whole picture, scaled.

    Raises:
        ModelError: the network takes no pictures.
        ImageError: the picture cannot be read; NoFaceError: there is no face in it.
        UsageError: no detector is installed.
    """
    shapes = [t.shape for t in graph.inputs.values()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
        raise ModelError(f"{graph.name} takes no pictures; leave out --picture")
    size = shapes[0][2], shapes[0][3]
    rgb = read_image(picture)
    if aligned or (card is not None and card.task == "detect"):
        return fit(rgb, *size)
    face = largest(load_detector(detector).detect(rgb), name_of(picture))
    return alignment.align(rgb, face.landmarks, size)


def network_input(graph: Graph, card: Card | None, crop: RGB) -> dict[str, Any]:
    """A crop as the network's input, by the card's preprocessing or, without one, the usual."""
    ((name, wanted),) = graph.inputs.items()
    preprocess = card.preprocess if card else _usual(wanted.shape)
    return {name: preprocess.apply(crop[np.newaxis])}


def _usual(shape: Shape) -> Preprocess:
    if shape[1] == 1:
        return Preprocess(shape[2], shape[3], "gray", (127.5,), (1 / 128,))
    return Preprocess(shape[2], shape[3])


def feature_maps(graph: Graph, inputs: Mapping[str, Any]) -> list[FeatureMap]:
    """Run the NumPy engine and draw what every operator writes, up to MAX_MAPS of them.

    Raises:
        BackendError: an operator needs more memory than the limit.
    """
    found: list[FeatureMap] = []

    def draw(node: Node, outputs: tuple[NDArray[Any], ...]) -> None:
        if len(found) < MAX_MAPS and outputs[0].size:
            found.append(tiles(node.name, node.op.kind, outputs[0]))

    run_graph(NumpyExecutable(graph).graph, inputs, hook=draw)
    return found


def tiles(name: str, kind: str, output: NDArray[Any]) -> FeatureMap:
    """The channels that vary most of ``(N, C, H, W)``, side by side, each from its least value
    (black) to its largest (white); a vector as one strip. Of a batch, the first."""
    first = np.atleast_1d(output)[0]  # a single number has no batch
    values = np.nan_to_num(np.asarray(first, np.float32)).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if values.ndim == 3 and values.shape[1] * values.shape[2] > 1:
        order = np.argsort(-values.std(axis=(1, 2)), kind="stable")[:CHANNELS]
        pictures = [_tile(values[channel]) for channel in order]
        channels = tuple(int(channel) for channel in order)
    else:
        vector = values.reshape(1, -1)[:, :LONGEST]
        pictures, channels = [np.repeat(_gray(vector), 16, axis=0)], tuple(range(vector.size))
    return FeatureMap(name, kind, output.shape, channels, low, high, encode_png(_beside(pictures)))


def _tile(channel: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One channel ``(H, W)``, averaged or repeated by a whole number to about SIDE pixels."""
    h, w = channel.shape
    if (by := -(-max(h, w) // SIDE)) > 1:
        padded = np.pad(channel, ((0, -h % by), (0, -w % by)), mode="edge")
        ph, pw = padded.shape
        channel = padded.reshape(ph // by, by, pw // by, by).mean(axis=(1, 3))
    times = max(1, SIDE // max(channel.shape))
    return np.repeat(np.repeat(_gray(channel), times, axis=0), times, axis=1)


def _gray(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    low, high = values.min(), values.max()
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.asarray((values - low) / (high - low) * 255 + 0.5).astype(np.uint8)


def _beside(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Tiles ``(h, w)`` in a row with transparent gaps, gray and alpha ``(h, sum of w, 2)``."""
    height = pictures[0].shape[0]
    parts = []
    for number, picture in enumerate(pictures):
        if number:
            parts.append(np.zeros((height, GAP, 2), np.uint8))
        parts.append(np.stack([picture, np.full_like(picture, 255)], axis=2))
    return np.concatenate(parts, axis=1)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """``uint8 (H, W, 3)`` as RGB, or ``(H, W, 2)`` as gray with alpha."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


def data_uri(png: bytes) -> str:
    """A PNG as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
