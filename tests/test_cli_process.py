"""The command as a process: closed pipes, Ctrl-C, no streams at all."""

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import leftovers

pytestmark = pytest.mark.usefixtures("surroundings")


def spawn(*args: str, **how: Any) -> subprocess.Popen[bytes]:
    """Start a command as a terminal does: what a script starts in its background would be born
    with Ctrl-C ignored."""
    command = [sys.executable, "-m", "tinyface", *args]
    give_back = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, preexec_fn=give_back, **how)


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))


@pytest.mark.needs_c
@pytest.mark.usefixtures("as_process")
def test_a_closed_pipe_is_no_drama() -> None:
    process = spawn("embed", *["two.png"] * 200, "--all-faces", "-o", "-")
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 141
    assert process.stderr.read() == b""


@pytest.mark.usefixtures("as_process")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_ctrl_c_leaves_nothing_behind_but_the_journal(tmp_path: Path, threads: str) -> None:
    process = spawn("embed", *["two.png"] * 50_000, "-o", "faces.csv", "-t", threads)
    deadline = time.monotonic() + 60
    while not leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in err and b"stopped" in err
    some_done = b"keeps what is done" in err
    assert leftovers(tmp_path) == ["faces.csv.part"] * some_done and not Path("faces.csv").exists()


@pytest.mark.usefixtures("as_process")
def test_closed_output_streams_are_no_reason_to_fail() -> None:
    """As a daemon's children are born: Python has no sys.stdout then, and no sys.stderr."""
    script = '"$0" -m tinyface embed two.png -o faces.npy >&- 2>&-'
    assert subprocess.run(["sh", "-c", script, sys.executable], check=False).returncode == 0
    assert Path("faces.npy").exists()
