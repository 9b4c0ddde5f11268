"""The command as a process: closed pipes, Ctrl-C, no streams at all."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import leftovers

pytestmark = pytest.mark.usefixtures("surroundings")


def spawn(*args: str, **how: Any) -> subprocess.Popen[bytes]:
    """Start a command as a terminal does: what a script starts in its background would be born
    with Ctrl-C ignored, and behind nohup with SIGHUP ignored."""

    def give_back() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    command = [sys.executable, "-m", "tinyface", *args]
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
@pytest.mark.parametrize(
    ("threads", "number"),
    [("1", signal.SIGINT), ("2", signal.SIGINT), ("2", signal.SIGTERM), ("2", signal.SIGHUP)],
)
def test_ctrl_c_leaves_nothing_behind_but_the_journal(
    tmp_path: Path, threads: str, number: signal.Signals
) -> None:
    process = spawn("embed", *["two.png"] * 50_000, "-o", "faces.csv", "-t", threads)
    part, deadline = tmp_path / "faces.csv.part", time.monotonic() + 60
    # Not while modules are imported, where Python may lose it; test_interrupted has the beginning.
    while not (part.exists() and b"\n" in part.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert b"Traceback" not in err and b"faces.csv.part keeps what is done" in err
    assert leftovers(tmp_path) == ["faces.csv.part"] and not Path("faces.csv").exists()


@pytest.mark.usefixtures("as_process")
def test_closed_output_streams_are_no_reason_to_fail() -> None:
    """As a daemon's children are born: Python has no sys.stdout then, and no sys.stderr."""
    script = '"$0" -m tinyface embed two.png -o faces.npy >&- 2>&-'
    assert subprocess.run(["sh", "-c", script, sys.executable], check=False).returncode == 0
    assert Path("faces.npy").exists()
