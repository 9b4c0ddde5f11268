"""``tinyface embed``: pictures to embeddings."""

from __future__ import annotations

import click

from tinyface.cli import common
from tinyface.cli.common import Batch
from tinyface.errors import ImageError, UsageError


@click.command("embed", short_help="Pictures to embeddings.")
@click.argument("images", nargs=-1, required=True, metavar="IMG|DIR|- ...")
@common.model_option
@click.option(
    "-o", "--output", metavar="FILE", default=None,
    help="Write the embeddings to FILE.npy, .npz, .csv or .jsonl; '-' prints them, one JSON "
    "object a line.",
)  # fmt: skip
@common.aligned_option
@click.option("--all-faces", is_flag=True, help="Embed every face of a picture, not the largest.")
@common.recursive_option
@common.detector_option
@common.engine_options
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
    as_json: bool,
) -> int:
    """Turn pictures into face embeddings.

    In each picture the largest face is found, turned upright, and given to the recogniser; the
    result is a vector of length 1. The product of two such vectors is their similarity.
    Folders stand for the pictures in them, '-' for standard input.

    Of one picture, or without -o, a summary line is printed; the vectors go to FILE, or to
    stdout with '-o -' or --json. A picture that fails is reported and counted, and does not
    stop the others. It has no row in FILE.npy; the other formats name the file of every row.

    \b
    Example:
      tinyface embed photo.jpg
      tinyface embed photos/ -r -o faces.npz
      cat photo.jpg | tinyface embed - -o - | jq .embedding
    """
    from tinyface.cli.writers import Row, check, open_writers
    from tinyface.faces.locate import no_face
    from tinyface.vision.image import read_image

    if aligned and all_faces:
        raise UsageError("--aligned pictures hold one face each: leave out --all-faces")
    check(output)
    batch = Batch.gather(images, recursive=recursive)
    recogniser = common.load_model(model, detector, backend, threads)

    with open_writers(output, as_json, recogniser) as writers:

        def work(source: str) -> None:
            rgb = read_image(source)
            if aligned:
                rows = [Row(source, 0, None, recogniser.embed(rgb, aligned=True))]
            else:
                found = recogniser.embed_faces(rgb, None if all_faces else 1)
                rows = [Row(source, i, f.face, f.embedding) for i, f in enumerate(found)]
            if not rows:
                raise no_face(source)
            for writer in writers:
                for row in rows:
                    writer.write(row)

        status = batch.each(work, what="embedding")
        if output not in (None, "-") and not writers[0].rows:
            raise ImageError(f"{output} is not written: no picture could be embedded")
        for writer in writers:
            writer.finish(batch.failures)
    if output not in (None, "-"):
        common.note(f"{output}: {writers[0].rows} embeddings")
    return status
