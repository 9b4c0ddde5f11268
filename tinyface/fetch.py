"""Download one file whose size and SHA-256 are known beforehand; the standard library does it.

What comes over the network is not trusted: nothing appears under the final name before its size
and hash were right, no more is written than was announced, a redirect never leads to a less safe
scheme, and a server that stops sending is given up. What arrived stays in ``NAME.part``, and the
next attempt asks for the rest only.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

from tinyface.errors import DownloadError, UsageError

OFFLINE: Final = "TINYFACE_OFFLINE"
Progress = Callable[[int], object]  # called with the bytes that are there

_CHUNK: Final = 1 << 16
_OF_A_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


@dataclass(frozen=True)
class Patience:
    """When a server is given up.

    silence: seconds without a byte. window, slowest: after each ``window`` seconds at least
    ``slowest`` bytes per second must have come. attempts: connections for one address, as long
    as each of them brings something.
    """

    silence: float = 20.0
    window: float = 30.0
    slowest: int = 1000
    attempts: int = 5


USUAL: Final = Patience()


class Failed(Exception):
    """One address did not work out. ``again``: what came is good, ask for the rest."""

    def __init__(self, message: str, again: bool = False) -> None:
        printable = "".join(c if c.isprintable() else "?" for c in message)  # a server said it
        super().__init__(printable[:300])
        self.again = again


def offline() -> bool:
    """Whether the user forbids downloads: ``TINYFACE_OFFLINE`` is set, and not to 0."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def fetch(
    addresses: Sequence[str],
    target: Path,
    *,
    size: int,
    sha256: str,
    progress: Progress = lambda there: None,
    patience: Patience = USUAL,
) -> Path:
    """Have the file at ``target``; nothing is downloaded where it is there already.

    Args:
        addresses: http or https, tried in order until one gives the file with this hash.
        target: where it goes; its folder is made. ``TARGET.part`` holds what is on its way.
        size: of the file, bytes.
        sha256: in hexadecimal.

    Raises:
        DownloadError: no address gave the file, or the user forbids it; says why, and how to
            get it by hand.
        UsageError: an address of another scheme.
    """
    if is_file(target, size, sha256):
        return target
    for address in addresses:
        if urlsplit(address).scheme not in ("http", "https"):
            raise UsageError(f"{address[:200]!r}: only https and http addresses are fetched")
    by_hand = (
        f"by hand:  curl -fL --create-dirs -o '{target}' '{addresses[0]}'  "
        f"({size} bytes, SHA-256 {sha256}), then the same command again"
    )
    if offline():
        raise DownloadError(f"{OFFLINE} is set, so {target.name} is not fetched; {by_hand}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    problems = []
    for address in addresses:
        try:
            _from(address, part, size, sha256, progress, patience)
            os.replace(part, target)
            return target
        except (Failed, FileNotFoundError) as error:
            if is_file(target, size, sha256):  # another process was faster
                return target
            problems.append(f"{address}: {error}")
    raise DownloadError(f"{'; '.join(problems)}; {by_hand}")


def is_file(path: Path, size: int, sha256: str) -> bool:
    """Whether there is a file of this size and hash."""
    return path.is_file() and path.stat().st_size == size and _hash(path) == sha256


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _from(
    address: str, part: Path, size: int, sha256: str, progress: Progress, patience: Patience
) -> None:
    """Fill ``part`` from one address, resuming what is there, until size and hash are right."""
    resumed = _there(part) > 0
    for attempt in range(patience.attempts):
        before = _there(part)
        try:
            if before < size:
                _receive(address, part, size, progress, patience)
            if _there(part) == size and _hash(part) == sha256:
                return
            got = f"SHA-256 {_hash(part)}" if _there(part) == size else f"{_there(part)} bytes"
            part.unlink()
            if not resumed:
                raise Failed(f"it is another file, of {got}; it was thrown away")
            resumed = False  # what was there before may have been the damaged half
        except Failed as error:
            last = attempt == patience.attempts - 1
            if last or not error.again or _there(part) == before:
                raise
    raise Failed("what came did not fit what was there already")


def _there(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _receive(address: str, part: Path, size: int, progress: Progress, patience: Patience) -> None:
    """One connection: append to ``part`` what the server sends.

    Raises:
        Failed: a refusal, a file of another size, too few or too many bytes, or silence.
    """
    have = _there(part)
    headers = {"User-Agent": "tinyface"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(address, headers=headers)
    try:
        with _opener().open(request, timeout=patience.silence) as response:
            start = _start(response, have, size)
            with open(part, "r+b" if start else "wb") as file:
                file.truncate(start)
                file.seek(start)
                _copy(response, file, start, size, progress, patience)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # nothing from there on: what is here is not its beginning
                part.unlink(missing_ok=True)
            message = f"HTTP {error.code} {error.reason}"
            raise Failed(message, again=error.code == 416) from None
    except TimeoutError:
        raise Failed(f"silent for {patience.silence:g} seconds", again=True) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if isinstance(error, OSError) and error.errno in _OF_A_DISK:
            error.filename = error.filename or os.fspath(part)
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of our own file, not of the network
        reason = getattr(error, "reason", None) or error
        raise Failed(f"{type(error).__name__}: {reason}", again=True) from None
    if _there(part) < size:
        raise Failed(f"it ended after {_there(part)} of {size} bytes", again=True)


def _start(response: Any, have: int, size: int) -> int:
    """At which byte of the file the answer begins: ``have`` if the server resumes, else 0."""
    start = 0
    if response.status == 206:
        unit, _, span = (response.headers.get("Content-Range") or "").partition(" ")
        if unit != "bytes" or not span.startswith(f"{have}-"):
            raise Failed(f"it answers with another part than asked for ({span[:40]!r})")
        start = have
    elif response.status != 200:
        raise Failed(f"HTTP {response.status}")
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and start + int(length[:20]) != size:
        raise Failed(f"it is another file, of {start + int(length[:20])} bytes, not {size}")
    return start


def _copy(
    response: Any, file: IO[bytes], there: int, size: int, progress: Progress, patience: Patience
) -> None:
    """From the connection to the file, no more than ``size`` in all, and not too slowly."""
    since, then = time.monotonic(), there
    progress(there)
    while chunk := response.read1(_CHUNK):
        there += len(chunk)
        if there > size:
            file.truncate(0)
            raise Failed(f"it sends more than the {size} bytes that it should have")
        file.write(chunk)
        progress(there)
        now = time.monotonic()
        if now - since >= patience.window:
            if there - then < patience.slowest * (now - since):
                raise Failed(f"only {there - then} bytes in {now - since:.0f} seconds", again=True)
            since, then = now, there


class Redirect(urllib.request.HTTPRedirectHandler):
    """Follow redirects to https; to http only from http; never to a file or anything else."""

    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        new = urlsplit(newurl).scheme
        if new != "https" and (new, req.type) != ("http", "http"):
            raise Failed(f"it redirects to {newurl[:100]!r}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS and nothing else: urllib's usual opener would follow file: and ftp:, too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        Redirect(),
    ):
        opener.add_handler(handler)
    return opener
