"""``tinyface align``: faces as upright crops."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyface.cli import common
from tinyface.cli.batch import Batch, shares
from tinyface.errors import UsageError
from tinyface.files import shortened

if TYPE_CHECKING:
    from tinyface.vision.detect import Face
    from tinyface.vision.image import RGB


@click.command("align", short_help="Cut faces out, upright.")
@click.argument("images", nargs=-1, required=True, metavar="IMG|DIR|- ...")
@click.option(
    "-o", "--output", "folder", required=True, metavar="DIR",
    help="Folder for the crops; made if it does not exist.",
)  # fmt: skip
@click.option(
    "--size", type=click.IntRange(1, 4096), default=112, show_default=True,
    help="Side of the crops in pixels: a multiple of 112 or 128.",
)  # fmt: skip
@click.option("--largest", is_flag=True, help="Only the largest face of each picture.")
@common.recursive_option
@common.detector_option
@common.engine_options
@common.json_option
def command(
    images: tuple[str, ...],
    folder: str,
    size: int,
    largest: bool,
    recursive: bool,
    detector: str | None,
    backend: str,
    threads: int | None,
    as_json: bool,
) -> int:
    """Turn every face upright and cut it out, eyes and mouth where recognisers expect them.

    The crops are PNG files named after the picture and the face's place in it, the largest
    first: photo_0.png, photo_1.png. Their names are printed. 'tinyface embed --aligned' takes
    them as they are.

    \b
    Example:
      tinyface align group.jpg -o crops/
    """
    from PIL import Image

    from tinyface.cli.detect import save_picture
    from tinyface.faces.locate import load_detector, no_face
    from tinyface.vision.align import align, template
    from tinyface.vision.image import read_image

    template(size)  # refuses a size that it does not know, before any work
    out = _folder(folder)
    batch = Batch.gather(images, recursive=recursive)
    at_once, each = shares(len(batch.sources), backend, threads)
    finder = load_detector(detector, backend, each)
    results: list[dict[str, Any]] = []
    taken: set[str] = set()
    kept = {os.path.realpath(source) for source in batch.sources}

    def look(source: str) -> list[tuple[Face, RGB]]:
        rgb = read_image(source)
        faces = finder.detect(rgb)[: 1 if largest else None]
        return [(face, align(rgb, face.landmarks, size)) for face in faces]

    def take(source: str, found: list[tuple[Face, RGB]]) -> None:
        if not found:
            raise no_face(source, "")
        common.note_turn(source, [found[0][0]])
        paths = _paths(out, source, len(found), taken, kept)
        for i, ((face, crop), path) in enumerate(zip(found, paths, strict=True)):
            save_picture(path, Image.fromarray(crop))
            results.append({"file": source, "face": i, "crop": path, **face.to_json()})
            if not as_json:
                common.print_line(click.format_filename(path))

    status = batch.each(look, take, what="aligning", at_once=at_once)
    if as_json:
        failed = common.failed(batch.failures)
        common.print_json("align/1", {"results": results, "failed": failed})
    return status


def _folder(name: str) -> Path:
    if not name:  # Path("") is the current folder
        raise UsageError('-o "": an empty name; name a folder for the crops')
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"no folder can be made here ({error.strerror})"
        raise UsageError(f"{name}: {why}; name another") from error
    return path


def _paths(out: Path, source: str, count: int, taken: set[str], kept: set[str]) -> list[str]:
    """Files for the crops: the picture's name without suffix, numbered where two pictures of a
    run share it, or where a crop would take the place of a picture that is read (``kept``); a long
    name is cut, to have room for that."""
    base = "stdin" if source == "-" else shortened(Path(source).stem)
    stem, number = base, 2
    while True:
        paths = [str(out / f"{stem}_{i}.png") for i in range(count)]
        if stem not in taken and kept.isdisjoint(map(os.path.realpath, paths)):
            taken.add(stem)
            return paths
        stem, number = f"{base}-{number}", number + 1
