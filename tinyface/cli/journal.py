"""What of a long ``tinyface embed`` is done, so that no run need do it again.

While pictures are embedded into FILE, FILE.part has a line of JSON for each that is done: the faces
found there, or why there are none. It goes when FILE appears. A run that was stopped (Ctrl-C, a
closed connection, no power) leaves it, and the next one goes on from there, to the same bits as if
nothing had happened. Its first line is the recipe, all that decides about the result beside the
pictures; one of another recipe is begun anew. A picture counts as done while its size and the time
of its last change are the same.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from tinyface import limits
from tinyface.cli.common import note, origin
from tinyface.cli.readers import DAMAGE, check_embedding, read_embeddings, recipe_of, to_face
from tinyface.cli.writers import Row
from tinyface.errors import ImageError, UsageError
from tinyface.files import UNKNOWN, lock, stamp
from tinyface.formats.safetensors import parse_json

if TYPE_CHECKING:
    from tinyface.model import Model

MAX_LINE: Final = 16 * limits.MiB  # bytes of a picture of 750 faces, and more


@dataclass(frozen=True)
class Done:
    """A picture's faces, or why there are none."""

    source: str
    stamp: tuple[int, int]
    rows: list[Row]
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Exact: the numbers of :func:`from_json` are these, to the bit."""
        head = {"file": self.source, "stamp": self.stamp, "error": self.error}
        return head | {"faces": [_row_to_json(row) for row in self.rows]}

    @staticmethod
    def from_json(document: Any, width: int) -> Done:
        """What :meth:`to_json` gave, of embeddings of ``width`` values.

        Raises:
            those of ``DAMAGE``: it is something else.
        """
        source, error = document["file"], document["error"]
        size, time = map(int, document["stamp"])
        if not isinstance(source, str) or not isinstance(error, str):
            raise TypeError("a name that is no text")
        rows = [_row(source, (size, time), face, width) for face in document["faces"]]
        return Done(source, (size, time), rows, error)


def recipe(model: Model, names: tuple[str | None, str | None], **options: Any) -> str:
    """A line of JSON: version, engine, checksums of both models, and options that matter.

    Args:
        names: of recogniser and detector, as the command line has them.
    """
    made = origin(*names, bool(options["aligned"]))
    sums = {role: file["sha256"] for role, file in made["files"].items()}
    head = {"schema": "tinyface.embed-part/1", "tinyface": made["tinyface"]}
    return json.dumps(head | sums | {"backend": model.session.backend} | options)


class Journal:
    """What earlier runs did, and what this one does."""

    def __init__(self, model: Model, recipe: str, output: str | None, path: str | None) -> None:
        self.model, self.recipe, self.output, self.path = model, recipe, output, path
        self.past: dict[str, Done] = {}
        self.count = 0  # of pictures that the file at ``path`` has
        self.fresh = False  # whether nothing of an earlier run is in that file
        self.stream: IO[bytes] | None = None

    def first(self, look: Callable[[str], Done]) -> Callable[[str], Done]:
        """``look``, but for pictures that are as they were when an earlier run found something."""

        def known_or_new(source: str) -> Done:
            done = self.past.get(source)
            return done if done and done.stamp == stamp(source) != UNKNOWN else look(source)

        return known_or_new

    def keep(self, done: Done) -> None:
        """Write down what was found in a picture, where the journal does not have it yet."""
        if self.stream and done.stamp != UNKNOWN and self.past.get(done.source) is not done:
            line = json.dumps(done.to_json(), separators=(",", ":"))
            self.stream.write(f"\n{line}".encode())  # behind what may have been cut off
            self.stream.flush()
            self.count += 1

    def begin(self, update: bool) -> None:
        """Read what is done, and open the file for what will be.

        Args:
            update: count what an older file of embeddings has, too.

        Raises:
            UsageError: that is damaged, or its form does not say what is in it; or the journal is
                another user's.
        """
        if update:
            self._take_over()
        if self.path is None:
            return
        self.fresh = not os.path.lexists(self.path)  # now: Ctrl-C may come as soon as it is there
        stream = self.stream = open(self.path, "a+b", opener=_no_link)  # noqa: SIM115
        if hasattr(os, "geteuid") and os.fstat(stream.fileno()).st_uid != os.geteuid():
            self._leave("is another user's")
        if not lock(stream):
            self._leave("is what another run is writing now")
        stream.seek(0)
        head = stream.readline(MAX_LINE)
        if head.strip() == self.recipe.encode():
            self._read(stream)
            note(f"{self.path}: goes on where an earlier run was stopped (pictures: {self.count})")
            return
        if head:
            note(f"{self.path}: of other options, weights or another version; begun anew")
        self.fresh = True
        stream.truncate(0)
        stream.write(self.recipe.encode())
        stream.flush()

    def _leave(self, why: str) -> NoReturn:
        path, self.path = self.path, None  # nothing happens to it
        raise UsageError(f"{path}: {why}; choose another -o FILE")

    def _take_over(self) -> None:
        """Count as done what an older file of embeddings has."""
        output = self.output
        if not output or not output.endswith(".npz"):
            raise UsageError("--update brings a .npz up to date: name one, with -o FILE.npz")
        if not os.path.exists(output):
            return
        if recipe_of(output) != self.recipe:
            note(f"{output}: made with other options, weights or by another version; made anew")
            return
        faces: dict[str, list[Row]] = {}
        for row in read_embeddings(output, self.model):
            if row.index == 0:  # of a picture that was named twice, once
                faces[row.file] = []
            faces.setdefault(row.file, []).append(row)
        for source, found in faces.items():
            self.past[source] = Done(source, found[0].stamp, found)

    def _read(self, stream: IO[bytes]) -> None:
        count = 0
        for line in iter(lambda: stream.readline(MAX_LINE), b""):
            try:
                document = parse_json(line, str(self.path))
                done = Done.from_json(document, self.model.card.embedding_size)
            except DAMAGE:  # cut off in the middle: not done, then
                continue
            self.past[done.source] = done
            count += 1
        self.count = count

    def close(self, remove: bool = False) -> None:
        """The end of the run; ``remove``: there is nothing to go on with."""
        if self.stream:
            self.stream.close()
        if self.path and (remove or (self.fresh and not self.count)):
            with suppress(FileNotFoundError):
                os.unlink(self.path)

    def stopped(self) -> str:
        """What to say of the file after Ctrl-C; "" where none is left."""
        if not self.path or not self.stream or not os.path.exists(self.path):
            return ""
        count = f" (pictures: {self.count})" if self.count else ""
        return f"stopped; {self.path} keeps what is done{count}, and the same command goes on there"


@contextmanager
def journal(model: Model, recipe: str, output: str | None, pictures: int) -> Iterator[Journal]:
    """A journal beside ``output``, while the block lasts: for several pictures into a file."""
    to_file = output not in (None, "-") and (os.path.isfile(output) or not os.path.exists(output))
    kept = Journal(model, recipe, output, f"{output}.part" if to_file and pictures > 1 else None)
    try:
        yield kept
        kept.close(remove=True)
    except KeyboardInterrupt:
        kept.close()
        if said := kept.stopped():
            raise KeyboardInterrupt(said) from None
        raise
    except BaseException as error:
        kept.close(remove=isinstance(error, ImageError))  # no picture had a face
        raise


def _no_link(path: str, flags: int) -> int:
    """In a folder of many people nobody shall choose which file grows."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _row_to_json(row: Row) -> dict[str, Any]:
    vector = base64.b64encode(row.embedding.astype("<f4").tobytes()).decode()
    document: dict[str, Any] = {"face": row.index, "of": row.of, "embedding": vector}
    if row.face:
        document["score"], document["turned"] = row.face.score, row.face.turned
        document["box"], document["landmarks"] = row.face.box.tolist(), row.face.landmarks.tolist()
    return document


def _row(source: str, stamp: tuple[int, int], document: Any, width: int) -> Row:
    packed = base64.b64decode(document["embedding"], validate=True)
    vector = np.frombuffer(packed, "<f4").astype(np.float32)
    check_embedding(vector, width)
    face = None
    if "box" in document:
        face = to_face(*(document[key] for key in ("box", "score", "landmarks", "turned")))
    return Row(source, int(document["face"]), face, vector, int(document["of"]), stamp)
