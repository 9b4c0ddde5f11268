"""Downloads, from a server on this machine that misbehaves in every way we could think of."""

from __future__ import annotations

import errno
import hashlib
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface import fetch as module
from tinyface.errors import DownloadError, UsageError
from tinyface.fetch import Failed, Patience, Redirect, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
SIZE, HASH = len(CONTENT), hashlib.sha256(CONTENT).hexdigest()
CALM = Patience(silence=20, window=30, slowest=1)  # this machine may be busy
HURRY = {
    "stalls": Patience(silence=0.5, window=30, slowest=1),
    "drips": Patience(silence=20, window=0.4, slowest=100_000),
}


class Handler(BaseHTTPRequestHandler):
    """Answers /BEHAVIOUR; ``server.log`` has what was asked for, with the Range."""

    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.log.append((self.path, asked))
        self.close_connection = True
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        getattr(self, "answer_" + self.path.strip("/").replace("-", "_"))(start)

    def head(self, status: int, **headers: Any) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, content: bytes, start: int, length: int | None = None) -> None:
        """An honest header, and ``content`` instead of what it announces."""
        span = {"Content_Range": f"bytes {start}-{SIZE - 1}/{SIZE}"} if start else {}
        length = SIZE - start if length is None else length
        self.head(206 if start else 200, Content_Length=length, **span)
        self.wfile.write(content)

    def answer_good(self, start: int) -> None:
        self.body(CONTENT[start:], start)

    def answer_truncates(self, start: int) -> None:
        self.body(CONTENT[start : start + 100_000], start)

    def answer_truncates_and_ignores_range(self, start: int) -> None:
        self.body(CONTENT[:100_000], 0)

    def answer_ignores_range(self, start: int) -> None:
        self.body(CONTENT, 0)

    def answer_corrupts(self, start: int) -> None:
        self.body(b"\0" + CONTENT[start + 1 :], start)

    def answer_stalls(self, start: int) -> None:
        self.body(CONTENT[start : start + 1000] if not start else b"", start)
        self.wfile.flush()
        self.server.hold.wait(20)

    def answer_drips(self, start: int) -> None:
        self.body(b"", start)
        for i in range(200):
            if self.server.hold.wait(0.02):
                break
            self.wfile.write(CONTENT[start + i : start + i + 1])
            self.wfile.flush()

    def answer_sends_too_much(self, start: int) -> None:
        self.head(200, Connection="close")  # no length: until the connection ends
        self.wfile.write(CONTENT + b"and more")

    def answer_announces_too_much(self, start: int) -> None:
        self.body(CONTENT, 0, SIZE + 1)

    def answer_other_part(self, start: int) -> None:
        self.head(206, Content_Range=f"bytes 0-{SIZE - 1}/{SIZE}", Content_Length=SIZE)
        self.wfile.write(CONTENT)

    def answer_has_nothing_there(self, start: int) -> None:
        if start:
            self.head(416, Content_Length=0)
        else:
            self.body(CONTENT, 0)

    def answer_missing(self, start: int) -> None:
        self.head(404, Content_Length=0)

    def answer_hangs_up(self, start: int) -> None:
        self.wfile.write(b"")

    def answer_speaks_nonsense(self, start: int) -> None:
        self.wfile.write(b"\0\1\2 what?\r\n\r\n")

    def answer_redirects(self, start: int) -> None:
        self.head(302, Location="/good", Content_Length=0)

    def answer_redirects_to_a_file(self, start: int) -> None:
        self.head(302, Location="file:///etc/passwd", Content_Length=0)

    def answer_redirects_to_ftp(self, start: int) -> None:
        self.head(302, Location="ftp://127.0.0.1/x", Content_Length=0)

    def answer_redirects_in_circles(self, start: int) -> None:
        self.head(302, Location=f"/redirects-in-circles?{len(self.server.log)}", Content_Length=0)


@pytest.fixture(scope="module")
def running() -> Iterator[ThreadingHTTPServer]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.log, server.hold = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(running: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(module.OFFLINE, raising=False)
    running.log.clear()
    return running


def address(server: Any, behaviour: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{behaviour}"


def get(server: Any, target: Path, *behaviours: str, **more: Any) -> Path:
    addresses = [address(server, b) for b in behaviours]
    patience = HURRY.get(behaviours[0], CALM)
    return fetch(addresses, target, size=SIZE, sha256=HASH, patience=patience, **more)


def test_a_file_comes_once(server: Any, tmp_path: Path) -> None:
    seen: list[int] = []
    target = tmp_path / "cache" / "x.bin"
    assert get(server, target, "good", progress=seen.append) == target
    assert target.read_bytes() == CONTENT
    assert seen[0] == 0 and seen[-1] == SIZE and seen == sorted(seen)
    get(server, target, "good")
    assert server.log == [("/good", "")]
    assert [p.name for p in target.parent.iterdir()] == ["x.bin"]


def test_a_damaged_file_of_that_name_is_replaced(server: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\0" * SIZE)
    assert get(server, tmp_path / "x", "good").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("corrupts", "another file, of SHA-256"),
        ("stalls", "silent for 0.5 seconds"),
        ("drips", r"only \d+ bytes in \d seconds"),
        ("sends-too-much", "more than the 300000 bytes"),
        ("announces-too-much", "of 300001 bytes, not 300000"),
        ("truncates-and-ignores-range", "ended after 100000 of 300000 bytes"),
        ("missing", "HTTP 404"),
        ("hangs-up", "closed connection"),
        ("speaks-nonsense", "BadStatusLine"),
        ("redirects-to-a-file", "HTTP 302.*not allowed"),
        ("redirects-to-ftp", "which is not https"),
    ],
)
def test_what_is_wrong_is_said(server: Any, tmp_path: Path, behaviour: str, says: str) -> None:
    before = time.monotonic()
    with pytest.raises(DownloadError, match=says) as caught:
        get(server, tmp_path / "x", behaviour)
    assert time.monotonic() - before < 20
    assert not (tmp_path / "x").exists()
    recipe = f"curl -fL --create-dirs -o '{tmp_path / 'x'}' '{address(server, behaviour)}'"
    assert recipe in str(caught.value) and HASH in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    if behaviour == "corrupts":
        assert not list(tmp_path.iterdir())


def test_a_redirect_is_followed(server: Any, tmp_path: Path) -> None:
    assert get(server, tmp_path / "x", "redirects").read_bytes() == CONTENT
    assert [path for path, _ in server.log] == ["/redirects", "/good"]


def test_redirects_end(server: Any, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        get(server, tmp_path / "x", "redirects-in-circles")
    assert len(server.log) < 10


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ("https://a/x", "https://b/x", True),
        ("http://a/x", "https://b/x", True),
        ("http://a/x", "http://b/x", True),
        ("https://a/x", "http://b/x", False),
        ("https://a/x", "ftp://b/x", False),
        ("http://a/x", "file:///x", False),
    ],
)
def test_no_redirect_to_a_less_safe_scheme(old: str, new: str, allowed: bool) -> None:
    request = urllib.request.Request(old, headers={"Range": "bytes=7-"})
    arguments = (request, None, 302, "Found", {}, new)
    if allowed:
        followed = Redirect().redirect_request(*arguments)
        assert followed is not None
        assert followed.full_url == new and followed.get_header("Range") == "bytes=7-"
    else:
        with pytest.raises(Failed, match="not https"):
            Redirect().redirect_request(*arguments)


def test_only_the_rest_is_asked_for(server: Any, tmp_path: Path) -> None:
    """Cut off twice in one call; then a call that goes on where an earlier one ended."""
    assert get(server, tmp_path / "x", "truncates").read_bytes() == CONTENT
    assert [span for _, span in server.log] == ["", "bytes=100000-", "bytes=200000-"]
    server.log.clear()
    (tmp_path / "y.part").write_bytes(CONTENT[:12345])
    assert get(server, tmp_path / "y", "good").read_bytes() == CONTENT
    assert server.log == [("/good", "bytes=12345-")]
    server.log.clear()
    (tmp_path / "z.part").write_bytes(CONTENT)  # ended between the last byte and the renaming
    assert get(server, tmp_path / "z", "good").read_bytes() == CONTENT
    assert server.log == []


@pytest.mark.parametrize("behaviour", ["good", "ignores-range", "has-nothing-there"])
@pytest.mark.parametrize("left", [b"\0" * 5, b"\0" * SIZE, b"\0" * (SIZE + 5), CONTENT[:7]])
def test_what_was_left_is_no_obstacle(
    server: Any, tmp_path: Path, behaviour: str, left: bytes
) -> None:
    """A beginning of some other file, a server that cannot resume, or has nothing there."""
    (tmp_path / "x.part").write_bytes(left)
    assert get(server, tmp_path / "x", behaviour).read_bytes() == CONTENT
    assert not (tmp_path / "x.part").exists()


def test_another_part_than_asked_for(server: Any, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(CONTENT[:7])
    with pytest.raises(DownloadError, match="another part"):
        get(server, tmp_path / "x", "other-part")


def test_the_next_address_is_tried(server: Any, tmp_path: Path) -> None:
    got = get(server, tmp_path / "x", "missing", "corrupts", "good")
    assert got.read_bytes() == CONTENT
    with pytest.raises(DownloadError, match=r"/missing: HTTP 404.*/corrupts: it is another file"):
        get(server, tmp_path / "y", "missing", "corrupts")


def test_nobody_there(server: Any, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and nobody listens
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        with pytest.raises(DownloadError, match="refused"):
            fetch([nobody], tmp_path / "x", size=1, sha256="", patience=CALM)


def test_another_process_was_faster(server: Any, tmp_path: Path) -> None:
    """It has put the file there, and what it shared with this one is gone."""

    def other(there: int) -> None:
        (tmp_path / "x.part").unlink(missing_ok=True)
        (tmp_path / "x").write_bytes(CONTENT)

    assert get(server, tmp_path / "x", "truncates", progress=other) == tmp_path / "x"
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_full_disk_is_not_the_servers_fault(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_copy", full)
    with pytest.raises(OSError, match="No space") as caught:
        get(server, tmp_path / "x", "good", "good")
    assert caught.value.filename == str(tmp_path / "x.part") and len(server.log) == 1


def test_offline(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.OFFLINE, "1")
    with pytest.raises(DownloadError, match="TINYFACE_OFFLINE is set.*by hand:  curl"):
        get(server, tmp_path / "x", "good")
    assert server.log == [] and not list(tmp_path.iterdir())
    (tmp_path / "x").write_bytes(CONTENT)  # as the recipe says
    assert get(server, tmp_path / "x", "good") == tmp_path / "x"
    monkeypatch.setenv(module.OFFLINE, "0")
    assert not module.offline()


@pytest.mark.parametrize("bad", ["file:///etc/passwd", "ftp://a/b", "data:,x", "/etc/passwd"])
def test_other_schemes(tmp_path: Path, bad: str) -> None:
    with pytest.raises(UsageError, match="only https and http"):
        fetch([bad], tmp_path / "x", size=1, sha256="")
