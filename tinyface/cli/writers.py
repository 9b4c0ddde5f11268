"""The forms in which ``tinyface embed`` hands over its vectors."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinyface.cli.common import failed, one_line, place, print_json, print_line
from tinyface.errors import UsageError
from tinyface.files import atomic_write

if TYPE_CHECKING:
    from tinyface.model import Floats, Model
    from tinyface.vision.detect import Face


@dataclass(frozen=True)
class Row:
    """One embedded face: the picture, its place there (0 is the largest) among how many, the
    vector (D,), and the picture's size in bytes and time of change in ns (0, 0: not known)."""

    file: str
    index: int
    face: Face | None  # None where the picture was an aligned crop
    embedding: Floats
    of: int = 1
    stamp: tuple[int, int] = (0, 0)

    def place(self) -> str:
        """Which face of the picture, and where it is."""
        if not self.face:
            return "aligned crop"
        return f"face {self.index} at {place(self.face)}"

    def to_json(self, vectors: bool = True) -> dict[str, Any]:
        document: dict[str, Any] = {"file": self.file, "face": self.index}
        document |= {"of": self.of, **self.face.to_json()} if self.face else {}
        return document | ({"embedding": exact(self.embedding)} if vectors else {})


def exact(vector: Floats) -> list[float]:
    """The shortest decimals that give the same float32 again."""
    return [float(f"{value:.9g}") for value in vector]


class Writer:
    """Takes rows one by one; ``finish`` is called once, when all pictures have had their turn."""

    text: ClassVar[bool] = True
    names_weights: ClassVar[bool] = False  # does it say of which weights the vectors are?

    def __init__(self, stream: IO[Any], model: Model, recipe: str = "") -> None:
        self.stream = stream
        self.model = model
        self.recipe = recipe
        self.rows = 0
        # Now, before the first picture: the model's file may be another one in the end.
        self.fingerprint = model.fingerprint if self.names_weights else ""

    def write(self, row: Row) -> None:
        self.rows += 1
        self.put(row)

    def put(self, row: Row) -> None:
        raise NotImplementedError

    def finish(self, failures: Mapping[str, str]) -> None:
        """``failures``: why each picture that failed did."""


class Summary(Writer):
    """A line for people."""

    def put(self, row: Row) -> None:
        where = row.place() + (f" (score {row.face.score:.3f})" if row.face else "")
        start = " ".join(f"{value:+.4f}" for value in row.embedding[:4])
        print_line(f"{one_line(row.file)}: {where}, {row.embedding.size} values: {start} …")


class Document(Writer):
    """One JSON document on stdout, at the end."""

    vectors = True

    def __init__(self, stream: IO[Any], model: Model, recipe: str = "") -> None:
        super().__init__(stream, model, recipe)
        self.results: list[dict[str, Any]] = []

    def put(self, row: Row) -> None:
        self.results.append(row.to_json(self.vectors))

    def finish(self, failures: Mapping[str, str]) -> None:
        document = {"model": self.model.name, "results": self.results, "failed": failed(failures)}
        print_json("embed/1", document)


class Index(Document):
    """The same without the vectors, which are in a file: which row is which face."""

    vectors = False

    def put(self, row: Row) -> None:
        self.results.append({"row": len(self.results), **row.to_json(vectors=False)})


class JsonLines(Writer):
    """One object a line; a picture that failed has one with ``error``."""

    names_weights = True

    def put(self, row: Row) -> None:
        origin = {"model": self.model.name, "fingerprint": self.fingerprint}
        self._line(origin | row.to_json())

    def finish(self, failures: Mapping[str, str]) -> None:
        for document in failed(failures):
            self._line(document)

    def _line(self, document: dict[str, Any]) -> None:
        self.stream.write(json.dumps({"schema": "tinyface.embed/1", **document}) + "\n")


class Csv(Writer):
    """file, face, score, the box, then the vector, a value a column."""

    def put(self, row: Row) -> None:
        writer = csv.writer(self.stream, lineterminator="\n")
        if self.rows == 1:
            box = ["left", "top", "right", "bottom"]
            values = [f"e{i}" for i in range(row.embedding.size)]
            writer.writerow(["file", "face", "score", *box, *values])
        found = [""] * 5
        if row.face:
            found = [f"{v:.6g}" for v in (row.face.score, *row.face.box)]
        vector = [f"{value:.9g}" for value in row.embedding]
        writer.writerow([row.file, row.index, *found, *vector])


class Plain:
    """A stream that NumPy does not take for a file: into one of those it writes by itself, and of a
    disk that is full for the last bytes it says nothing."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def write(self, data: bytes) -> int:
        return self.stream.write(data)


class Npy(Writer):
    """One array (N, D), float32. Which row is which picture is not in it."""

    text = False

    def __init__(self, stream: IO[Any], model: Model, recipe: str = "") -> None:
        super().__init__(stream, model, recipe)
        self.kept: list[Row] = []

    def put(self, row: Row) -> None:
        self.kept.append(row)

    def finish(self, failures: Mapping[str, str]) -> None:
        np.save(Plain(self.stream), self.embeddings(), allow_pickle=False)

    def embeddings(self) -> Floats:
        return np.stack([row.embedding for row in self.kept])


class Npz(Npy):
    """Arrays of N rows: embeddings, files, faces, scores, boxes, landmarks, turned, of, stamps (see
    ``Row``); and the model's name and fingerprint, and the recipe (see ``journal``)."""

    names_weights = True

    def finish(self, failures: Mapping[str, str]) -> None:
        faces = [row.face for row in self.kept]
        np.savez(
            self.stream,
            embeddings=self.embeddings(),
            files=np.array([row.file for row in self.kept]),
            faces=np.array([row.index for row in self.kept]),
            scores=np.array([face.score if face else np.nan for face in faces]),
            boxes=np.array([face.box if face else [np.nan] * 4 for face in faces]),
            landmarks=np.array([face.landmarks if face else [[np.nan] * 2] * 5 for face in faces]),
            turned=np.array([face.turned if face else 0 for face in faces]),
            of=np.array([row.of for row in self.kept]),
            stamps=np.array([row.stamp for row in self.kept], np.int64),
            model=np.array(self.model.name),
            fingerprint=np.array(self.fingerprint),
            recipe=np.array(self.recipe),
        )


FILES: dict[str, type[Writer]] = {".npy": Npy, ".npz": Npz, ".csv": Csv, ".jsonl": JsonLines}


def check(output: str | None, as_json: bool) -> None:
    """Refuse what cannot be printed, or a file of unknown form, before any work is done for it."""
    if output == "-" and as_json:
        raise UsageError("--json prints one document, and -o - one for each face: give either")
    if output not in (None, "-") and Path(str(output)).suffix not in FILES:
        raise UsageError(
            f"{output}: name a file that ends with {', '.join(FILES)} (--json prints one document)"
        )


@contextmanager
def open_writers(
    output: str | None, as_json: bool, model: Model, recipe: str = ""
) -> Iterator[list[Writer]]:
    """What a row must be given to. A file is moved into place when the block ends well."""
    if output is None:
        yield [(Document if as_json else Summary)(sys.stdout, model)]
    elif output == "-":
        yield [JsonLines(sys.stdout, model)]
    else:
        kind = FILES[Path(output).suffix]
        how = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
        mode, options = ("w", how) if kind.text else ("wb", {})
        with atomic_write(output, mode, **options) as stream:
            writers: list[Writer] = [kind(stream, model, recipe)]
            yield [*writers, Index(sys.stdout, model)] if as_json else writers
