"""``tinyface embed``: pictures to embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tinyface.cli import common
from tinyface.cli.batch import Batch, load_model
from tinyface.errors import ImageError, UsageError

if TYPE_CHECKING:
    from tinyface.cli.writers import Row
    from tinyface.model import FaceEmbedding, Floats


@click.command("embed", short_help="Pictures to embeddings.")
@click.argument("images", nargs=-1, required=True, metavar="IMG|DIR|- ...")
@common.model_option
@click.option(
    "-o", "--output", metavar="FILE", default=None,
    help="Write the embeddings to FILE.npy, .npz, .csv or .jsonl; '-' prints them, one JSON "
    "object a line. Without it a summary is printed.",
)  # fmt: skip
@common.aligned_option
@click.option("--all-faces", is_flag=True, help="Embed every face of a picture, not the largest.")
@common.recursive_option
@common.detector_option
@common.engine_options
@common.weights_option
@common.json_option
def command(
    images: tuple[str, ...],
    model: str | None,
    output: str | None,
    aligned: bool,
    all_faces: bool,
    recursive: bool,
    detector: str | None,
    backend: str,
    threads: int | None,
    weights: str,
    as_json: bool,
) -> int:
    """Turn pictures into face embeddings.

    In each picture the largest face is found, turned upright, and given to the recogniser; the
    result is a vector of length 1. The product of two such vectors is their similarity.
    Folders stand for the pictures in them, '-' for standard input.

    A picture that fails is reported and counted, and does not stop the others. It has no row
    in FILE.npy; the other formats name the file of every row.

    \b
    Example:
      tinyface embed photo.jpg
      tinyface embed photos/ -r -o faces.npz
      cat photo.jpg | tinyface embed - -o - | jq .embedding
    """
    from tinyface.cli.writers import check, open_writers

    if aligned and all_faces:
        raise UsageError("--aligned pictures hold one face each: leave out --all-faces")
    check(output)
    batch = Batch.gather(images, recursive=recursive)
    count = len(batch.sources)
    recogniser, at_once = load_model(count, model, detector, backend, threads, weights)
    _ = aligned or recogniser.detector  # loaded once, before several threads ask for it

    def look(source: str) -> list[FaceEmbedding] | Floats:
        if aligned:
            return recogniser.embed(source, aligned=True)
        return recogniser.embed_faces(source, None if all_faces else 1)

    with open_writers(output, as_json, recogniser) as writers:

        def take(source: str, found: list[FaceEmbedding] | Floats) -> None:
            for row in _rows(source, found, all_faces):
                for writer in writers:
                    writer.write(row)

        status = batch.each(look, take, what="embedding", at_once=at_once)
        to_file = output not in (None, "-")
        empty = to_file and not writers[0].rows
        for writer in writers[1:] if empty else writers:
            writer.finish(batch.failures)
        if empty:
            raise ImageError(f"{output} is not written: no picture could be embedded")
    if to_file:
        common.note(f"{output}: {writers[0].rows} embeddings")
    return status


def _rows(source: str, found: list[FaceEmbedding] | Floats, all_faces: bool) -> list[Row]:
    """What the writers write: of each face, or of a crop's embedding."""
    from tinyface.cli.writers import Row
    from tinyface.faces.locate import no_face

    if not isinstance(found, list):
        return [Row(source, 0, None, found)]
    if not found:
        raise no_face(source)
    if all_faces:
        common.note_turn(source, [found[0].face])
    else:
        common.note_choice(source, found[0])
    return [Row(source, i, f.face, f.embedding, f.of) for i, f in enumerate(found)]
