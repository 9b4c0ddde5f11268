"""Output files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from tinyface.errors import UsageError

UNKNOWN: Final = (0, 0)  # the stamp of what is no file
NAME: Final = 200  # bytes of a name that is added to; file systems take 255


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", **how: Any) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that replaces it when the block ends well.

    After an error, or Ctrl-C, the temporary file is gone and an older file at ``path`` is as
    it was. The new one is on the disk before it takes its place, so that a power cut leaves
    either. Where ``path`` is a link, what it points to is replaced; a device or a pipe
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
    name = target.parent / f".{shortened(target.name)}.{os.urandom(4).hex()}.part"
    try:
        with _create(name, mode, path, how, target.exists()) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(name, target.stat().st_mode & 0o777)
        os.replace(name, target)
    except BaseException as error:
        name.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
            error.filename = os.fspath(path)  # write(2) does not know whose disk is full
        raise


def shortened(name: str) -> str:
    """The start of a file's name to which something is added: ``NAME`` bytes, in whole letters."""
    name = name[:NAME]
    while len(os.fsencode(name)) > NAME:
        name = name[:-1]
    return name


def stamp(source: str | os.PathLike[str]) -> tuple[int, int]:
    """Bytes of a file and the time of its last change, in ns."""
    try:
        found = os.stat(source)
    except (OSError, ValueError):  # no such file; a name with a zero byte
        return UNKNOWN
    is_file = stat.S_ISREG(found.st_mode) and os.fspath(source) != "-"
    return (found.st_size, found.st_mtime_ns) if is_file else UNKNOWN


def lock(file: IO[Any]) -> bool:
    """Have an open file to oneself, until it is closed; False where another process has it.

    True, too, on a file system that knows no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 40)  # a byte that nobody reads
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True


def _create(
    name: Path, mode: str, path: str | os.PathLike[str], how: dict[str, Any], private: bool
) -> IO[Any]:
    """A new file; ``private``: for nobody else to read, until it has the mode of another."""
    rights = 0o600 if private else 0o666  # less what the umask takes away
    try:
        return open(
            name, mode.replace("w", "x"), opener=lambda at, flags: os.open(at, flags, rights), **how
        )
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another") from error
