"""Output files appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tinyface.errors import UsageError


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", **how: Any) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that replaces it when the block ends well.

    After an error, or Ctrl-C, the temporary file is gone and an older file at ``path`` is as
    it was. Where ``path`` is a link, what it points to is replaced; a device or a pipe
    (``/dev/stdout``) is written to directly.

    Args:
        path: the file to write.
        mode: "wb" or "w".
        how: further arguments of :func:`open`.

    Raises:
        UsageError: the folder does not exist, ``path`` is a folder, or may not be written.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise UsageError(f"{path}: is a folder; name a file in it")
    if not target.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {target.parent}; make it first")
    if target.exists() and not target.is_file():
        with open(target, mode, **how) as file:
            yield file
        return
    # The name first: Ctrl-C may come as soon as the file is there.
    name = target.parent / f".{target.name[:200]}.{os.urandom(4).hex()}.part"
    try:
        with _create(name, mode, path, how) as file:
            yield file
        os.chmod(name, _permissions(target))
        os.replace(name, target)
    except BaseException as error:
        name.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
            error.filename = os.fspath(path)  # write(2) does not know whose disk is full
        raise


def _create(name: Path, mode: str, path: str | os.PathLike[str], how: dict[str, Any]) -> IO[Any]:
    """A new file, for nobody else to read."""
    try:
        return open(
            name, mode.replace("w", "x"), opener=lambda at, flags: os.open(at, flags, 0o600), **how
        )
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another") from error


def _permissions(target: Path) -> int:
    """Those of the file that is replaced, else what the umask leaves of rw-rw-rw-."""
    if target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
