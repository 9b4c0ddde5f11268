"""``tinyface search``: which of these is that person?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from tinyface.cli import common
from tinyface.cli.batch import Batch, load_model

if TYPE_CHECKING:
    from tinyface.cli.writers import Row
    from tinyface.model import FaceEmbedding, Model

NONE = 10  # exit status


@dataclass(frozen=True)
class Match:
    """A face, and how much it resembles the one that is looked for."""

    cosine: float
    row: Row

    def to_json(self, limit: float | None) -> dict[str, Any]:
        """Of aligned crops there is no box; of how many faces it is one, files do not say."""
        same = None if limit is None else self.cosine >= limit
        document = {"cosine": self.cosine, "same": same, **self.row.to_json(vectors=False)}
        document.pop("of", None)
        return document

    def line(self, limit: float | None) -> str:
        """For people."""
        verdict = "" if limit is None else f"{'same' if self.cosine >= limit else 'different':11}"
        where = self.row.place()
        return f"{verdict}{self.cosine:7.4f}  {common.one_line(self.row.file)}: {where}"


@click.command("search", short_help="Which of these pictures show that person?")
@click.argument("query", metavar="QUERY")
@click.argument("places", nargs=-1, required=True, metavar="IMG|DIR|FILE.npz ...")
@click.option(
    "--top", type=click.IntRange(1), default=10, show_default=True, metavar="N",
    help="Print the N faces that are most alike.",
)  # fmt: skip
@common.model_option
@common.decision_options
@common.recursive_option
@common.detector_option
@common.engine_options
@common.weights_option
@common.json_option
def command(
    query: str,
    places: tuple[str, ...],
    top: int,
    model: str | None,
    fmr: float | None,
    threshold: float | None,
    recursive: bool,
    detector: str | None,
    backend: str,
    threads: int | None,
    weights: str,
    as_json: bool,
) -> int:
    """Rank the faces in pictures by how much they resemble the largest face of QUERY.

    Every face of a picture counts. Folders stand for the pictures in them; a file that 'tinyface
    embed -o' wrote (.npz or .jsonl, best with --all-faces) stands for its faces, so that a large
    folder is embedded once. QUERY itself is left out where it is among them.

    Those above the threshold are marked "same". The more faces are compared, the more of others
    are among them: at a false-match rate of 0.001 one of a thousand. Exit status: 0 if a face is
    above it, 10 if none is; 1 if pictures failed.

    \b
    Example:
      tinyface search her.jpg photos/ -r
      tinyface embed photos/ -r --all-faces -o faces.npz
      tinyface search her.jpg faces.npz --top 3
    """
    from tinyface.cli.readers import is_embeddings
    from tinyface.faces.verify import choose_threshold

    rate = common.decisive_rate(fmr, threshold)
    files = [place for place in places if is_embeddings(place)]
    batch = Batch.gather((p for p in places if p not in files), recursive=recursive)
    count = len(batch.sources)
    recogniser, at_once = load_model(count, model, detector, backend, threads, weights)
    asked = fmr is not None or threshold is not None
    decides = asked or recogniser.card.thresholds  # else faces are ranked only
    limits = choose_threshold(recogniser.card, rate, threshold) if decides else (None, None)
    search = Search(recogniser, query, *limits)
    status = search.all(files, batch, at_once)
    search.report(top, as_json)
    if status or search.limit is None:
        return status
    return 0 if any(match.cosine >= search.limit for match in search.found) else NONE


class Search:
    """One face that is looked for, and those that were found, as they come.

    Raises:
        ImageError: the query cannot be read, or there is no face in it.
    """

    def __init__(self, model: Model, query: str, rate: float | None, limit: float | None) -> None:
        from tinyface.faces.verify import largest_face

        self.model, self.query, self.rate, self.limit = model, query, rate, limit
        self.found: list[Match] = []
        self.pictures = self.faceless = 0
        self.failures: dict[str, str] = {}
        self.wanted = largest_face(model, query, "")  # there is no --aligned here
        common.note_choice(query, self.wanted.face, self.wanted.of)

    def all(self, files: list[str], batch: Batch, at_once: int) -> int:
        """Compare all faces in files of embeddings and in pictures, the most alike first; returns
        the exit status."""
        from tinyface.cli.readers import read_embeddings

        batch.sources = [source for source in batch.sources if not self._is_query(source)]
        for path in files:
            rows = [r for r in read_embeddings(path, self.model) if not self._is_query_row(r)]
            self.pictures += len({row.file for row in rows})
            for row in rows:
                self._compare(row)
        status = batch.each(self._look, self._take, what="searching", at_once=at_once)
        self.found.sort(key=lambda match: -match.cosine)
        self.failures = batch.failures
        return status

    def _look(self, source: str) -> list[FaceEmbedding]:
        return self.model.embed_faces(source)

    def _take(self, source: str, faces: list[FaceEmbedding]) -> None:
        from tinyface.cli.writers import Row

        common.note_turn(source, [taken.face for taken in faces])
        self.pictures += 1
        self.faceless += not faces
        for i, taken in enumerate(faces):
            self._compare(Row(source, i, taken.face, taken.embedding, taken.of))

    def _compare(self, row: Row) -> None:
        from tinyface.faces.verify import cosine

        self.found.append(Match(cosine(self.wanted.embedding, row.embedding), row))

    def _is_query(self, file: str) -> bool:
        return os.path.realpath(file) == os.path.realpath(self.query)

    def _is_query_row(self, row: Row) -> bool:
        """The name may be that of another picture, in the folder where the file was written."""
        from tinyface.files import stamp

        same = row.file != "-" and self._is_query(row.file)
        return same and row.stamp in ((0, 0), stamp(self.query))

    def report(self, top: int, as_json: bool) -> None:
        """The ``top`` faces on stdout, and on stderr what they were chosen from and by."""
        shown = self.found[:top]
        if as_json:
            failed = common.failed(self.failures)
            document = {
                "query": {"file": self.query, "of": self.wanted.of, **self.wanted.face.to_json()},
                "model": self.model.name, "threshold": self.limit, "fmr": self.rate,
                "compared": len(self.found),
                "results": [match.to_json(self.limit) for match in shown], "failed": failed,
            }  # fmt: skip
            common.print_json("search/1", document)
        else:
            for match in shown:
                click.echo(match.line(self.limit))
        common.note(self._basis())

    def _basis(self) -> str:
        faces, pictures = len(self.found), self.pictures
        basis = f"{faces} face{'s' * (faces != 1)} in {pictures} picture{'s' * (pictures != 1)}"
        if not pictures:
            basis += " (QUERY itself is left out)"
        if self.faceless:
            basis += f", no face in {self.faceless} of them"
        if self.limit is None:
            return f"{basis}; {self.model.name} carries no threshold (--threshold, --fmr)"
        rate = "yours" if self.rate is None else f"false-match rate {self.rate:g}"
        basis += f"; threshold {self.limit:.4f} ({rate}, {self.model.name})"
        expected = len(self.found) * (self.rate or 0)
        if expected >= 0.5:
            basis += f": of so many other people {expected:.0f} would be above it"
        return basis
