"""``tinyface detect``: where the faces are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tinyface.cli import common
from tinyface.cli.common import Batch
from tinyface.errors import UsageError

if TYPE_CHECKING:
    from tinyface.vision.detect import Face
    from tinyface.vision.image import RGB


@click.command("detect", short_help="Find the faces in pictures.")
@click.argument("images", nargs=-1, required=True, metavar="IMG|DIR|- ...")
@click.option("--draw", metavar="OUT.png", help="Write the picture with boxes and landmarks.")
@common.recursive_option
@common.detector_option
@common.engine_options
@common.json_option
def command(
    images: tuple[str, ...],
    draw: str | None,
    recursive: bool,
    detector: str | None,
    backend: str,
    threads: int | None,
    as_json: bool,
) -> int:
    """Find faces: a box, a score and five landmarks each, the largest face first.

    Coordinates are pixels of the upright picture: left, top, right, bottom; landmarks are the
    left eye, the right eye, the nose, and the corners of the mouth, left as seen in the
    picture. A picture without a face counts as failed (exit status 1).

    \b
    Example:
      tinyface detect group.jpg --draw marked.png
      tinyface detect photos/ --json
    """
    from tinyface.faces.locate import load_detector, no_face
    from tinyface.vision.image import read_image

    batch = Batch.gather(images, recursive=recursive)
    if draw and len(batch.sources) > 1:
        raise UsageError("--draw takes one picture; name only one")
    finder = load_detector(detector, backend, threads)
    results: list[dict[str, Any]] = []

    def work(source: str) -> None:
        rgb = read_image(source)
        faces = finder.detect(rgb)
        results.append({"file": source, "faces": [face.to_json() for face in faces]})
        if not as_json:
            _print(source, faces)
        if draw:
            save_png(draw, marked(rgb, faces))
        if not faces:
            raise no_face(source)

    status = batch.each(work, what="detecting")
    if as_json:
        failed = [{"file": file, "error": why} for file, why in batch.failures.items()]
        common.print_json("detect/1", {"results": results, "failed": failed})
    return status


def _print(source: str, faces: list[Face]) -> None:
    """file, then left,top,right,bottom, the score, and the landmarks of a face a line."""
    for face in faces:
        box = ",".join(f"{v:.0f}" for v in face.box)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in face.landmarks)
        click.echo(f"{click.format_filename(source)}\t{box}\t{face.score:.4f}\t{points}")


def marked(rgb: RGB, faces: list[Face]) -> RGB:
    """A copy of the picture with boxes and landmarks drawn in."""
    import numpy as np
    from PIL import Image, ImageDraw

    picture = Image.fromarray(rgb)
    pen = ImageDraw.Draw(picture)
    width = max(2, max(picture.size) // 300)
    for face in faces:
        pen.rectangle([float(v) for v in face.box], outline=(0, 220, 90), width=width)
        for x, y in face.landmarks:
            r = 1.5 * width
            pen.ellipse([x - r, y - r, x + r, y + r], fill=(255, 70, 50))
    return np.asarray(picture)


def save_png(path: str, rgb: RGB) -> None:
    """Write a picture, whole or not at all."""
    from PIL import Image

    from tinyface.files import atomic_write

    with atomic_write(path) as stream:
        Image.fromarray(rgb).save(stream, format="PNG")
