"""Small models and pictures of their own, so that the way from photo to embedding is tested
without trained weights; and networks of the catalogue with random ones.

The detector is a real one, run by the real engine, that takes white squares for faces: one
convolution averages 64x64 pixels, and a softmax says whether that is bright. Its priors are
64 pixels apart, so that :func:`picture` knows which faces must be found.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyface.builder import Builder
from tinyface.formats.modelfile import Card, Preprocess, save_model
from tinyface.graph import Graph
from tinyface.networks import find, random_state
from tinyface.ops import Concat, Reshape, Softmax, Transpose
from tinyface.passes import optimise
from tinyface.vision.align import TEMPLATE

CELL = 64


def picture(*cells: tuple[int, int], size: tuple[int, int] = (256, 256)) -> NDArray[np.uint8]:
    """A dark picture (H, W, 3) with a "face" in each of the given cells (column, row).

    A face looks different in every cell.
    """
    height, width = size
    rgb = np.zeros((height, width, 3), np.uint8)
    for column, row in cells:
        noise = np.random.default_rng([column, row]).integers(120, 256, (8, 8, 3))
        y, x = row * CELL, column * CELL
        rgb[y : y + CELL, x : x + CELL] = np.kron(noise, np.ones((8, 8, 1)))
    return rgb


@cache
def network(name: str) -> Graph:
    """Of the catalogue, optimised, with the random weights that belong to it."""
    graph = find(name).build()
    return optimise(graph.bind(random_state(graph)))


def save_png(path: Path, rgb: NDArray[np.uint8]) -> Path:
    from PIL import Image

    Image.fromarray(rgb).save(path)
    return path


def recogniser(
    size: tuple[int, int] = (112, 112), embedding: int = 16, colour: str = "rgb", seed: int = 0
) -> tuple[Graph, Card]:
    """A small network with random weights; it knows no faces, but tells pictures apart."""
    channels = 1 if colour == "gray" else 3
    b = Builder("sample")
    x = b.input("input", (1, channels, *size))
    x = b.conv(x, 8, 5, stride=4, pad=2, key="conv1", bias=True)
    x = b.prelu(x, key="act1")
    x = b.conv(x, 12, 3, stride=2, pad=1, key="conv2")
    x = b.prelu(b.batch_norm(x, key="bn2"), key="act2")
    x = b.apply(Reshape(shape=(0, -1)), x, name="rows")
    graph = b.build(embedding=b.linear(x, embedding, key="fc"))
    card = Card(
        "sample",
        "embed",
        Preprocess(*size, colour, (127.5,) * channels, (1 / 127.5,) * channels),
        embedding_size=embedding,
        thresholds={"1e-2": 0.3, "1e-3": 0.5},
        licence="CC0-1.0",
        data="random numbers",
    )
    return graph.bind(random_state(graph, seed)), card


def detector() -> tuple[Graph, Card]:
    """A network that takes white squares of 64x64 pixels for faces."""
    b = Builder("squares")
    x = b.input("input", (1, 3, 256, 256))
    rows = []
    for name, fields in (("loc", 4), ("conf", 2), ("landms", 10)):
        # the padding makes room for a last cell that the picture fills only in part
        pad = (0, 0, CELL - 1, CELL - 1)
        y = b.conv(x, fields, CELL, stride=CELL, pad=pad, key=f"{name}_head", bias=True)
        y = b.apply(Transpose(perm=(0, 2, 3, 1)), y, name=f"{name}.nhwc")
        rows.append(b.apply(Reshape(shape=(0, -1, fields)), y, name=f"{name}.rows"))
    loc, conf, landms = (b.apply(Concat(axis=1), r, name=f"{r}.all") for r in rows)
    graph = b.build(loc=loc, conf=b.apply(Softmax(axis=-1), conf, name="prob"), landms=landms)
    state = {name: np.zeros(value.shape, np.float32) for name, value in graph.params.items()}
    # brightness 0..1 -> logit 20 * (brightness - 1/2)
    state["conf_head.weight"][1] = 20 / (3 * CELL * CELL * 255)
    state["conf_head.bias"][1] = -10
    # the template's points, from the prior's centre, in units of variance * side
    state["landms_head.bias"][:] = ((TEMPLATE / 112 - 0.5) / 0.1).ravel()
    card = Card(
        "squares",
        "detect",
        Preprocess(256, 256, "rgb", (0, 0, 0), (1, 1, 1)),
        detector={"min_sizes": [[CELL]], "steps": [CELL]},
        licence="CC0-1.0",
    )
    return graph.bind(state), card


def install(folder: Path) -> Path:
    """Both models in a folder, under the names that are the defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "fdfacenet.safetensors", *recogniser())
    save_model(folder / "detector.safetensors", *detector())
    return folder
