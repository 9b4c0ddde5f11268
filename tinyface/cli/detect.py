"""``tinyface detect``: where the faces are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyface.cli import common
from tinyface.cli.batch import Batch, shares
from tinyface.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from tinyface.vision.detect import Face
    from tinyface.vision.image import RGB

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@click.command("detect", short_help="Find the faces in pictures.")
@click.argument("images", nargs=-1, required=True, metavar="IMG|DIR|- ...")
@click.option("--draw", metavar="OUT.png", help="Write the picture with boxes and landmarks.")
@click.option(
    "--score", type=click.FloatRange(0, 1, max_open=True), metavar="S",
    help="Keep faces with more than this, 0 to 1; by default what the detector's card says.",
)  # fmt: skip
@common.recursive_option
@common.detector_option
@common.engine_options
@common.json_option
def command(
    images: tuple[str, ...],
    draw: str | None,
    score: float | None,
    recursive: bool,
    detector: str | None,
    backend: str,
    threads: int | None,
    as_json: bool,
) -> int:
    """Find faces: a box, a score and five landmarks each, the largest face first.

    Coordinates are pixels of the picture, turned as its EXIF data say: left, top, right, bottom;
    landmarks are the left eye, the right eye, the nose, and the corners of the mouth, left as
    seen in the picture. A picture without a face counts as failed (exit status 1). A lower
    --score finds smaller and half-hidden faces, and more that are none. A picture that lies on
    its side or stands on its head is looked at turned upright, which is said on stderr (--json:
    "turned", in degrees clockwise); coordinates stay those of the picture as it is.

    \b
    Example:
      tinyface detect group.jpg --draw marked.png
      tinyface detect photos/ --json
    """
    from tinyface.faces.locate import load_detector, no_face
    from tinyface.vision.draw import draw_faces
    from tinyface.vision.image import read_image

    batch = Batch.gather(images, recursive=recursive)
    if draw:
        picture_format(draw)
        if len(batch.sources) > 1:
            raise UsageError("--draw takes one picture; name only one")
        common.check_kept(batch.sources, draw)
    at_once, each = shares(len(batch.sources), backend, threads)
    finder = load_detector(detector, backend, each)
    results: list[dict[str, Any]] = []

    def look(source: str) -> tuple[RGB | None, list[Face]]:
        rgb = read_image(source)
        return (rgb if draw else None), finder.detect(rgb, score)

    def take(source: str, found: tuple[RGB | None, list[Face]]) -> None:
        rgb, faces = found
        common.note_turn(source, faces)
        results.append({"file": source, "faces": [face.to_json() for face in faces]})
        if not as_json:
            _print(source, faces)
        if draw and rgb is not None:
            save_picture(draw, draw_faces(rgb, faces))
        if not faces:
            raise no_face(source, ", or a lower --score")

    status = batch.each(look, take, what="detecting", at_once=at_once)
    if as_json:
        failed = common.failed(batch.failures)
        common.print_json("detect/1", {"results": results, "failed": failed})
    return status


def _print(source: str, faces: list[Face]) -> None:
    """file, then left,top,right,bottom, the score, and the landmarks of a face a line."""
    for face in faces:
        box = ",".join(f"{v:.0f}" for v in face.box)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in face.landmarks)
        common.print_line(f"{common.one_line(source)}\t{box}\t{face.score:.4f}\t{points}")


def save_picture(path: str, picture: Image) -> None:
    """Write a Pillow image as its suffix says (.png, .jpg), whole or not at all."""
    from tinyface.files import atomic_write

    with atomic_write(path) as stream:
        picture.save(stream, format=picture_format(path))


def picture_format(path: str) -> str:
    """Pillow's name of the format. Raises UsageError for a suffix that stands for none."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{path}: name a file that ends with {', '.join(FORMATS)}")
    return FORMATS[suffix]
