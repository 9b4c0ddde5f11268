"""A trained network with its preprocessing: from pictures to embeddings."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from tinyface import modelstore
from tinyface.errors import GraphError, ImageError, ModelError, UsageError
from tinyface.faces.locate import largest, load_detector, name_of
from tinyface.files import UNKNOWN, stamp
from tinyface.formats.modelfile import Card, load_model
from tinyface.graph import Graph
from tinyface.once import once
from tinyface.runtime import Session
from tinyface.vision import align as alignment
from tinyface.vision.detect import Detector, Face
from tinyface.vision.image import RGB, Source, read_image, resize

Floats = NDArray[np.float32]
ODD_SIZE: Final = (
    "pictures of no size that aligned crops have (112x112, 112x96, 128x128, multiples) are scaled; "
    "LFW's own, 250x250, are no aligned crops, deep-funneled or not: leave out --aligned "
    "(aligned=True)"
)
LARGE: Final = (
    "pictures of {}x{} are taken as aligned crops of one face each; if they are photographs, leave "
    "out --aligned (aligned=True)"
)

BATCH: Final = 32  # crops that the network sees at once: more gain nothing, and their maps are kept


@dataclass(frozen=True, eq=False)
class FaceEmbedding:
    """A face that was found in a picture, and its embedding, L2-normalised, ``(D,)``.

    of: how many faces were found there.
    """

    face: Face
    embedding: Floats
    of: int = 1


class Model:
    """A recogniser, ready to run. Made by :func:`load`.

    Attributes:
        name: of the weights.
        card: preprocessing, thresholds, licence, and what the weights were trained on.
        graph: the network, as it stands in the file (and read from there again, for a model that
            was loaded: the engine has the weights in a form of its own).
        session: the engine that runs it (``session.backend``, ``session.threads``).

    Safe to use from several threads at once.
    """

    def __init__(
        self,
        graph: Graph,
        card: Card,
        *,
        backend: str = "auto",
        threads: int | None = None,
        detector: Detector | str | os.PathLike[str] | None = None,
        weights: str = "fp32",
    ) -> None:
        self.name = card.name or graph.name
        self.card = card
        self._graph: Graph | Path = graph
        self.session = Session(graph, backend, threads, weights)
        self._detector = detector
        self._file = UNKNOWN  # the stamp of what the graph is read from again
        self._loaded: tuple[Any, ...] | None = None  # the arguments of load() that made it

    @property
    def graph(self) -> Graph:
        if not isinstance(self._graph, Path):
            return self._graph
        if self._file != stamp(self._graph):
            raise ModelError(f"{self._graph}: is another file now than was loaded; load it again")
        return load_model(self._graph)[0]

    @once
    def fingerprint(self) -> str:
        """16 hexadecimal digits of a checksum of the weights and of how pictures are prepared:
        embeddings can be compared where it is the same, whatever the models' names are.
        """
        from hashlib import blake2b  # 5 ms that only files of embeddings are worth

        p = self.card.preprocess
        prepared = (p.height, p.width, p.colour, *map(float, (*p.mean, *p.scale)))
        found = blake2b(repr(prepared).encode(), digest_size=8)
        for name, value in sorted(self.graph.params.items()):
            found.update(f"{name} {value.dtype} {value.shape}\n".encode())
            found.update(np.ascontiguousarray(value).data)
        return found.hexdigest()

    def __repr__(self) -> str:
        p = self.card.preprocess
        return (
            f"<tinyface.Model {self.name}: {p.height}x{p.width} {p.colour} -> "
            f"{self.card.embedding_size}, {self.session.backend} engine>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and multiprocessing: the other process loads the same file."""
        if self._loaded is None:
            raise TypeError("a Model made of a graph cannot be pickled; load() it from a file")
        return load, self._loaded

    @property
    def detector(self) -> Detector:
        """What finds faces for :meth:`embed`; loaded on first use."""
        if not isinstance(self._detector, Detector):
            session = self.session
            self._detector = load_detector(self._detector, session.backend, session.threads)
        return self._detector

    # ------------------------------------------------------------------------- raw

    def run(self, x: Any) -> Floats | dict[str, Floats]:
        """The network alone.

        Args:
            x: ``(N, C, H, W)``, float32, already normalised as the card's preprocessing says
                (:meth:`prepare` does that); a dict by name for a network of several inputs.

        Returns:
            the raw output, ``(N, D)`` for a recogniser; a dict by name where there are several.

        Raises:
            GraphError: a shape that the network cannot take.
        """
        outputs = self.session.run(x if isinstance(x, Mapping) else self._checked(x))
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _checked(self, x: Any) -> Floats:
        array = np.asarray(x)
        wanted = next(iter(self.session.graph.inputs.values())).shape
        if array.dtype.kind != "f":
            raise GraphError(
                f"{self.name}: input of type {array.dtype}; give float32, already normalised "
                "(Model.embed takes pictures)"
            )
        if array.ndim != len(wanted) or (len(wanted) == 4 and array.shape[1] != wanted[1]):
            expected = ", ".join(["N", *map(str, wanted[1:])])
            raise GraphError(f"{self.name}: input of shape {array.shape}; give ({expected})")
        return np.ascontiguousarray(array, dtype=np.float32)

    # -------------------------------------------------------------------- pictures

    def embed(self, images: Source | Iterable[Source], aligned: bool = False) -> Floats:
        """From pictures to embeddings, of the largest face of each.

        Args:
            images: a path, encoded bytes, a binary file, a Pillow image, a uint8 array (H, W, 3)
                in RGB order (of OpenCV's BGR: ``frame[..., ::-1]``), or a list or an iterator of
                them (a uint8 array (N, H, W, 3) is such a list).
            aligned: the pictures are aligned crops already, so nothing is detected. Crops of
                112x112, 112x96, 128x128 and multiples are cut or filled up with black as the
                network wants them; others are scaled (their middle, where proportions differ).

        Returns:
            float32, L2-normalised: ``(D,)`` for one picture, ``(N, D)`` for a list. The
            product of two embeddings is their cosine similarity.

        Raises:
            ImageError: a picture cannot be read; NoFaceError: no face was found in one.
            UsageError: no detector is installed.
        """
        many = isinstance(images, list | tuple)
        if (isinstance(images, np.ndarray) and images.ndim == 4) or (
            isinstance(images, Iterator) and not hasattr(images, "read")
        ):
            many, images = True, list(images)
        pictures = cast("Sequence[Source]", images if many else [images])
        if not pictures:
            return np.empty((0, self.card.embedding_size), np.float32)
        crops = [self._crop(picture, aligned) for picture in pictures]
        embeddings = self.embed_crops(np.stack(crops))
        return embeddings if many else embeddings.reshape(-1)

    def embed_faces(self, image: Source, limit: int | None = None) -> list[FaceEmbedding]:
        """The faces of one picture with their embeddings, the largest first; maybe none.

        Args:
            image: as for :meth:`embed`.
            limit: take no more than this many, the largest.

        Raises:
            ImageError: the picture cannot be read.
            UsageError: a limit below 0.
        """
        if limit is not None and limit < 0:
            raise UsageError(f"a limit of {limit}: give 0 or more, or None for all faces")
        rgb = read_image(image)
        found = self.detector.detect(rgb)
        faces = found[:limit]
        if not faces:
            return []
        crops = [alignment.align(rgb, face.landmarks, self._size) for face in faces]
        embeddings = self.embed_crops(np.stack(crops))
        return [FaceEmbedding(f, e, len(found)) for f, e in zip(faces, embeddings, strict=True)]

    def embed_crops(self, crops: NDArray[np.uint8]) -> Floats:
        """Embeddings ``(N, D)`` of aligned crops, ``uint8 (N, H, W, 3)`` RGB.

        Of many crops the network sees 32 at a time, so that memory does not grow with N.

        Raises:
            ImageError: crops of another type, or not of the network's own size.
        """
        crops, prepare = self._checked_crops(crops), self.card.preprocess.apply
        found = [np.empty((0, self.card.embedding_size), np.float32)]
        for begin in range(0, len(crops), BATCH):
            output = self.run(prepare(crops[begin : begin + BATCH]))
            if isinstance(output, dict) or output.ndim != 2:
                raise ModelError(f"{self.name} gives no embeddings; name a recogniser")
            found.append(l2_normalise(output))
        return found[1] if len(found) == 2 else np.concatenate(found)

    def prepare(self, crops: NDArray[np.uint8]) -> Floats:
        """``uint8 (N, H, W, 3)`` RGB to the network's input, ``float32 (N, C, H, W)``.

        Raises:
            ImageError: crops of another type, or not of the network's own size.
        """
        return self.card.preprocess.apply(self._checked_crops(crops))

    def _checked_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
        crops = np.asarray(crops)
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (*self._size, 3):
            height, width = self._size
            raise ImageError(
                f"crops of type {crops.dtype} and shape {crops.shape}; give uint8 RGB of shape "
                f"(N, {height}, {width}, 3), or embed(..., aligned=True), which scales"
            )
        return crops

    @property
    def _size(self) -> tuple[int, int]:
        return self.card.preprocess.height, self.card.preprocess.width

    def _crop(self, image: Source, aligned: bool) -> RGB:
        rgb = read_image(image)
        if aligned:
            return fit(rgb, *self._size)
        face = largest(self.detector.detect(rgb), name_of(image))
        return alignment.align(rgb, face.landmarks, self._size)


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    backend: str = "auto",
    threads: int | None = None,
    detector: Detector | str | os.PathLike[str] | None = None,
    weights: str = "fp32",
) -> Model:
    """Load a recogniser.

    Args:
        name_or_path: installed weights by name, or a model file; None for the default one.
        backend: "c" (compiled), "numpy" (readable), or "auto": the first that is there.
        threads: of the C engine; None for one for each fast core that the process may keep busy
            (:mod:`tinyface.cpus`). The result does not depend on it, to the bit.
        detector: what finds faces for :meth:`Model.embed`, by name or path, or from
            :func:`load_detector`; None for the default one, loaded when it is first needed.
        weights: how the recogniser's are kept in memory: "fp32", or "fp16" for half the bytes,
            with every weight of a convolution rounded to 11 bits.

    Raises:
        UsageError: there is no such model or detector; what there is is listed.
        BackendError: the C engine was asked for and was not built.
        ModelError: the file is malformed, or holds no recogniser.
    """
    path = modelstore.chosen(name_or_path, "embed")
    file = stamp(path)
    graph, card = load_model(path)
    made = {graph.types[name].shape[1:] for name in graph.outputs}
    if card.embedding_size and made != {(card.embedding_size,)}:
        raise ModelError(
            f"{path}: its card says embeddings of {card.embedding_size} values, and its network "
            "gives others; import it again"
        )
    if card.task != "embed":
        raise ModelError(
            f"{path}: gives no embeddings (its task is {card.task!r}); name a recogniser"
        )
    if isinstance(detector, (str, os.PathLike)):  # read later, perhaps in another folder
        detector = modelstore.find(detector).absolute()
    model = Model(graph, card, backend=backend, threads=threads, detector=detector, weights=weights)
    model._graph, model._file = path.absolute(), file  # the weights need not be in memory twice
    model._loaded = (model._graph, backend, threads, detector, weights)
    return model


def l2_normalise(x: Floats) -> Floats:
    """Rows of ``(N, D)`` scaled to length 1; a row of zeros stays one."""
    length = np.sqrt(np.sum(np.square(x, dtype=np.float64), axis=1, keepdims=True))
    scaled: Floats = (x / np.maximum(length, 1e-12)).astype(np.float32)
    return scaled


def fit(crop: RGB, height: int, width: int) -> RGB:
    """An aligned crop of any size as one of ``(height, width, 3)``.

    Where both sizes have a template (see ``vision.align.template``), what one shows beside the
    other is cut off, or black, so that eyes and mouth are where they belong. Any other size is
    scaled, with a warning, and only the middle is kept where proportions differ.
    """
    if crop.shape[:2] == (height, width):
        return crop
    known, wanted = alignment.frame(*crop.shape[:2]), alignment.frame(height, width)
    if known is None:
        warnings.warn(ODD_SIZE, stacklevel=2)
    elif known.scale > 2:  # 384x384, 512x512: many photographs have such a size
        warnings.warn(LARGE.format(crop.shape[1], crop.shape[0]), stacklevel=2)
    if known is None or wanted is None:
        crop = _middle(crop, height, width)
    else:
        beside, below = wanted.beside - known.beside, wanted.below - known.below
        crop = _reframed(crop, known.scale * beside, known.scale * below)
    return resize(np.ascontiguousarray(crop), height, width)


def _middle(crop: RGB, height: int, width: int) -> RGB:
    """The largest part in the middle with the proportions of ``height`` to ``width``."""
    h, w = crop.shape[:2]
    if h * width > w * height:  # too tall
        h = max(1, round(w * height / width))
    else:
        w = max(1, round(h * width / height))
    top, left = (crop.shape[0] - h) // 2, (crop.shape[1] - w) // 2
    return crop[top : top + h, left : left + w]


def _reframed(crop: RGB, beside: int, below: int) -> RGB:
    """So many black pixels more on the left, on the right and below; fewer where negative."""
    h, w = crop.shape[0] + min(below, 0), crop.shape[1] + 2 * min(beside, 0)
    left = max(-beside, 0)
    more, low = max(beside, 0), max(below, 0)
    return np.pad(crop[:h, left : left + w], ((0, low), (more, more), (0, 0)))


__all__ = ["Face", "FaceEmbedding", "ImageError", "Model", "UsageError", "fit", "load"]
