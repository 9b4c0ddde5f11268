"""``tinyface embed``: pictures to embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tinyface.cli import common
from tinyface.cli.batch import Batch, load_model
from tinyface.errors import ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyface.cli.journal import Done, Journal
    from tinyface.cli.writers import Writer
    from tinyface.model import Model


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
@click.option(
    "--update", is_flag=True,
    help="Take over from FILE.npz, where it exists, what it has of pictures that did not change.",
)  # fmt: skip
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
    update: bool,
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

    What is done is kept in FILE.part until FILE is there. If a long run is stopped, by Ctrl-C or
    a power cut, the same command goes on where it was. With --update, a folder to which
    pictures came is brought up to date.

    \b
    Example:
      tinyface embed photo.jpg
      tinyface embed photos/ -r -o faces.npz
      tinyface embed photos/ -r -o faces.npz --update
      cat photo.jpg | tinyface embed - -o - | jq .embedding
    """
    from tinyface.cli.journal import journal, recipe
    from tinyface.cli.writers import check, open_writers

    if aligned and all_faces:
        raise UsageError("--aligned pictures hold one face each: leave out --all-faces")
    check(output, as_json)
    batch = Batch.gather(images, recursive=recursive)
    count = len(batch.sources)
    recogniser, at_once = load_model(count, model, detector, backend, threads, weights)
    _ = aligned or recogniser.detector  # loaded once, before several threads ask for it
    to_file = output not in (None, "-")
    options = {"aligned": aligned, "all_faces": all_faces, "weights": weights}
    made_by = recipe(recogniser, (model, detector), **options) if to_file else ""
    embed = _embedder(recogniser, aligned, all_faces)
    with (
        journal(recogniser, made_by, output, count) as done,
        open_writers(output, as_json, recogniser, made_by) as writers,
    ):
        done.begin(update)
        take = _taker(done, writers, all_faces)
        look = done.first(embed)
        status = batch.each(look, take, what="embedding", at_once=at_once)
        _finish(writers, batch.failures, str(output) if to_file else "")
    if to_file:
        _tell(writers, batch.failures, str(output))
    return status


def _embedder(model: Model, aligned: bool, all_faces: bool) -> Callable[[str], Done]:
    """What finds the faces of a picture, or why there are none."""
    from tinyface.cli.journal import Done
    from tinyface.cli.writers import Row
    from tinyface.faces.locate import no_face
    from tinyface.files import stamp

    def embed(source: str) -> Done:
        when = stamp(source)  # before it is read: it may change meanwhile
        if aligned:
            crop = model.embed(source, aligned=True)
            return Done(source, when, [Row(source, 0, None, crop, stamp=when)])
        found = model.embed_faces(source, None if all_faces else 1)
        if not found:  # other errors are not kept: a disk may be mended, a permission given
            return Done(source, when, [], str(no_face(source)))
        faces = enumerate(found)
        rows = [Row(source, i, f.face, f.embedding, f.of, when) for i, f in faces]
        return Done(source, when, rows)

    return embed


def _taker(done: Journal, writers: list[Writer], all_faces: bool) -> Callable[[str, Done], None]:
    """What writes down a picture's faces, and says on stderr which one was taken."""

    def take(source: str, found: Done) -> None:
        done.keep(found)
        if found.error:
            raise ImageError(found.error)
        first = found.rows[0]
        if first.face and all_faces:
            common.note_turn(source, [first.face])
        elif first.face:
            common.note_choice(source, first.face, first.of)
        for row in found.rows:
            for writer in writers:
                writer.write(row)

    return take


def _finish(writers: list[Writer], failures: dict[str, str], file: str) -> None:
    """Write what is written at the end: to ``file`` only if there is something."""
    if not file or writers[0].rows:
        writers[0].finish(failures)
        return
    for index in writers[1:]:
        index.finish(failures)
    error = ImageError(f"{file} is not written: no picture could be embedded")
    error.documented = len(writers) > 1
    raise error


def _tell(writers: list[Writer], failures: dict[str, str], file: str) -> None:
    """Print what is in the ``file``, now that it is in its place."""
    for index in writers[1:]:
        index.finish(failures)
    common.note(f"{file}: {writers[0].rows} embeddings")
