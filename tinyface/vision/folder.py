"""The pictures of a folder."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tinyface.errors import ImageError
from tinyface.vision import foreign

SUFFIXES: Final = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp")


def collect_images(path: str | os.PathLike[str], recursive: bool = False) -> list[Path]:
    """The pictures a path stands for: itself if it is a file, else those in the directory.

    Files are chosen by their suffix (``SUFFIXES``, in upper or lower case); hidden ones are
    left out. They are in natural order (``2.jpg`` before ``10.jpg``), directory by directory.
    Pictures of other formats, and directories that may not be read, are passed over with a
    warning: a folder of a phone's HEIC files must not look as if nobody were in it.

    Raises:
        ImageError: there is nothing at ``path``, it may not be read, or no picture is in it.
    """
    root, shown = Path(path), os.fspath(path)  # as it was written: "./a.jpg", "photos/"
    if not shown:  # Path("") is the current folder
        raise ImageError(foreign.missing('""', "file or directory"))
    if not root.exists():
        raise ImageError(foreign.missing(shown, "file or directory"))
    if not root.is_dir():
        return [root]
    files = list(_walk(root, recursive))
    found = sorted((p for p in files if _ends_with(p, SUFFIXES)), key=_natural_key)
    other = [p for p in files if _ends_with(p, foreign.SUFFIXES)]
    kinds = ", ".join(sorted({p.suffix.lower() for p in other}))
    if not found:
        where = "" if recursive else ", or ask for its sub-directories too (-r)"
        there = f"; {kinds} is not read, {foreign.CONVERT}" if other else ""
        raise ImageError(
            f"{shown}: no picture in this directory ({', '.join(SUFFIXES)}){there}; "
            f"name another{where}"
        )
    if other:
        what = f"{shown}: {len(other)} of other formats ({kinds}) left out"
        warnings.warn(f"{what}; to have one, {foreign.CONVERT}", stacklevel=2)
    return found


def _walk(root: Path, recursive: bool) -> Iterator[Path]:
    """The files of a directory that are not hidden."""

    def closed(error: OSError) -> None:
        if error.filename == str(root):
            raise ImageError(f"{root}: may not be read; name a directory that you may read")
        warnings.warn(f"{error.filename}: may not be read and is left out", stacklevel=4)

    for folder, children, files in os.walk(root, onerror=closed):
        children[:] = [c for c in children if recursive and not c.startswith(".")]
        yield from (Path(folder, name) for name in files if not name.startswith("."))


def _ends_with(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)


def _natural_key(path: Path) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """Digits compare as numbers: (kind, number, text) for every run of digits or other text."""

    def key(part: str) -> tuple[tuple[int, int, str], ...]:
        runs = re.findall(r"[0-9]+|[^0-9]+", part)
        return tuple((0, int(r), r) if r[0] in "0123456789" else (1, 0, r.lower()) for r in runs)

    return (*map(key, path.parent.parts), key(path.name))
