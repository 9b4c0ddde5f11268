"""``tinyface embed`` that was stopped goes on; ``--update`` does what is new."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from command_line import ONE, TWO, leftovers

from tinyface.model import Model

pytestmark = pytest.mark.usefixtures("surroundings")
KILLED = """
import os, signal, sys
from tinyface.cli.main import run
from tinyface.model import Model

looked, real = [], Model.embed_faces

def embed_faces(*args):
    looked.append(args)
    if len(looked) == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)

Model.embed_faces = embed_faces
run(sys.argv[1:])
"""
SUFFIXES = ("npy", "npz", "csv", "jsonl")
REAL = Model.embed_faces


@pytest.fixture
def folder() -> list[str]:
    """Six pictures: four with faces (1, 2, 1 and 2), one without, one broken."""
    names = [f"pictures/{c}.png" for c in "abcdef"]
    Path("pictures").mkdir()
    for name, picture in zip(names, (ONE, TWO, samples.picture(), ONE, None, TWO), strict=True):
        if picture is None:
            Path(name).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        else:
            samples.save_png(Path(name), picture)
    return names


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that are looked at; after ``stop_after`` of them somebody presses Ctrl-C."""
    looked: list[str] = []

    def embed_faces(model: Model, image: Any, limit: int | None = None) -> Any:
        looked.append(image)
        return REAL(model, image, limit)

    monkeypatch.setattr(Model, "embed_faces", embed_faces)
    return looked


def stop(monkeypatch: pytest.MonkeyPatch, after: int, error: type[BaseException]) -> None:
    """Stop the next run behind so many pictures."""
    looked: list[str] = []

    def embed_faces(model: Model, image: Any, limit: int | None = None) -> Any:
        if len(looked) == after:
            monkeypatch.setattr(Model, "embed_faces", before)
            raise error
        looked.append(image)
        return REAL(model, image, limit)

    before = Model.embed_faces
    monkeypatch.setattr(Model, "embed_faces", embed_faces)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("faces", [[], ["--all-faces"]])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tinyface: Any,
    folder: list[str],
    seen: list[str],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    faces: list[str],
) -> None:
    command = ["embed", "pictures", *faces, "--json", "-t", "1", "-o"]
    whole = tinyface(*command, f"whole.{suffix}")
    assert whole.status == 1 and seen == folder
    stop(monkeypatch, 4, KeyboardInterrupt)
    stopped = tinyface(*command, f"faces.{suffix}")
    assert stopped.status == 130 and stopped.json["schema"] == "tinyface.error/1"
    assert "(pictures: 4), and the same command goes on" in stopped.err
    assert Path(f"faces.{suffix}.part").exists() and not Path(f"faces.{suffix}").exists()

    seen.clear()
    done = tinyface(*command, f"faces.{suffix}")
    assert seen == folder[4:]
    assert "goes on where an earlier run was stopped (pictures: 4)" in done.err
    assert done.status == 1 and done.out == whole.out
    messages = whole.err.replace("whole.", "faces.").splitlines()
    assert set(messages) < set(done.err.splitlines())
    assert Path(f"faces.{suffix}").read_bytes() == Path(f"whole.{suffix}").read_bytes()
    assert not leftovers(Path.cwd())


def test_aligned_crops_go_on_too(
    tinyface: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = [f"{i}.png" for i in range(3)]
    for i, name in enumerate(names):
        samples.save_png(tmp_path / name, ONE[i : i + 64, :64])
    command = ["embed", *names, "--aligned", "-t", "1", "-o"]
    assert tinyface(*command, "whole.npz").status == 0
    embed, calls = Model.embed, []

    def stopped(model: Model, image: Any, aligned: bool = False) -> Any:
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(model, image, aligned)

    monkeypatch.setattr(Model, "embed", stopped)
    assert tinyface(*command, "faces.npz").status == 130
    calls.clear()
    assert tinyface(*command, "faces.npz").status == 0 and calls == ["2.png"]
    assert Path("faces.npz").read_bytes() == Path("whole.npz").read_bytes()


@pytest.mark.parametrize(
    "option",
    [
        ("--all-faces",),
        ("--weights", "fp16"),
        pytest.param(("--backend", "numpy"), marks=pytest.mark.needs_c),
    ],
    ids="-".join,
)
def test_other_options_begin_anew(
    tinyface: Any,
    folder: list[str],
    seen: list[str],
    monkeypatch: pytest.MonkeyPatch,
    option: tuple[str, ...],
) -> None:
    stop(monkeypatch, 3, KeyboardInterrupt)
    assert tinyface("embed", "pictures", "-o", "faces.csv", "-t", "1").status == 130
    seen.clear()
    done = tinyface("embed", "pictures", "-o", "faces.csv", "-t", "1", *option)
    assert seen == folder and "begun anew" in done.err
    assert not leftovers(Path.cwd())


def test_changed_pictures_are_looked_at_again(
    tinyface: Any, folder: list[str], seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(monkeypatch, 5, KeyboardInterrupt)
    tinyface("embed", "pictures", "-o", "faces.npz", "-t", "1")
    os.utime(folder[0], ns=(1, 1))  # of the same size, but of another time
    samples.save_png(Path(folder[2]), TWO)
    Path(folder[3]).unlink()
    seen.clear()
    done = tinyface("embed", "pictures", "-o", "faces.npz", "-t", "1")
    # what is broken may have been mended; a picture without a face has none
    assert seen == [folder[0], folder[2], folder[4], folder[5]]
    assert done.status == 1 and f"{folder[4]}: " in done.err  # still broken
    with np.load("faces.npz", allow_pickle=False) as stored:
        assert stored["files"].tolist() == [folder[i] for i in (0, 1, 2, 5)]


def test_lines_that_are_no_pictures_are_passed_over(
    tinyface: Any, folder: list[str], seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tinyface("embed", "pictures", "-o", "whole.npz", "-t", "1")
    stop(monkeypatch, 3, KeyboardInterrupt)
    tinyface("embed", "pictures", "-o", "faces.npz", "-t", "1")
    part = Path("faces.npz.part")
    recipe, first, second, third = part.read_bytes().split(b"\n")
    face = json.loads(first)
    bad = [b"", b"[]", b"{", b'{"file": 1}', b"\xff" * 9, json.dumps(face | {"stamp": 3}).encode()]
    for key, value in {"embedding": "AAAA", "turned": 45, "box": [1], "face": "x"}.items():
        bad.append(json.dumps(face | {"faces": [face["faces"][0] | {key: value}]}).encode())
    part.write_bytes(b"\n".join([recipe, *bad, second, third[:-1]]))  # the last was cut off
    seen.clear()
    tinyface("embed", "pictures", "-o", "faces.npz", "-t", "1")
    assert seen == [folder[0], *folder[2:]]
    assert Path("faces.npz").read_bytes() == Path("whole.npz").read_bytes()


def test_another_file_of_that_name_is_no_journal(tinyface: Any, folder: list[str]) -> None:
    Path("faces.npz.part").write_bytes(b"\0" * 1000)
    done = tinyface("embed", "pictures", "-o", "faces.npz")
    assert "begun anew" in done.err and Path("faces.npz").exists()
    assert not leftovers(Path.cwd())


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="this system has no O_NOFOLLOW")
def test_no_link_is_followed(tinyface: Any, folder: list[str]) -> None:
    Path("victim").write_text("as it was")
    Path("faces.npz.part").symlink_to("victim")
    done = tinyface("embed", "pictures", "-o", "faces.npz")
    assert done.status == 1 and "faces.npz.part: " in done.err
    assert Path("victim").read_text() == "as it was" and not Path("faces.npz").exists()


def test_one_picture_and_standard_output_need_no_journal(
    tinyface: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(monkeypatch, 0, KeyboardInterrupt)
    done = tinyface("embed", "one.png", "-o", "faces.npz")
    assert done.status == 130 and "nothing half-done" in done.err
    stop(monkeypatch, 1, KeyboardInterrupt)
    assert tinyface("embed", "one.png", "two.png", "-o", "-", "-t", "1").status == 130
    stop(monkeypatch, 0, KeyboardInterrupt)  # before anything was done
    done = tinyface("embed", "one.png", "two.png", "-o", "faces.npz", "-t", "1")
    assert done.status == 130 and "nothing half-done" in done.err
    assert not leftovers(Path.cwd())


def test_where_nothing_has_a_face_nothing_is_left(tinyface: Any) -> None:
    done = tinyface("embed", "night.png", "broken.jpg", "-o", "faces.npz")
    assert done.status == 1 and "is not written" in done.err
    assert not leftovers(Path.cwd())


def test_a_full_disk_keeps_what_is_done(
    tinyface: Any, folder: list[str], seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(monkeypatch, 4, OSError)
    assert tinyface("embed", "pictures", "-o", "faces.npz", "-t", "1").status == 1
    seen.clear()
    tinyface("embed", "pictures", "-o", "faces.npz", "-t", "1")
    assert seen == folder[4:]


def test_update_does_what_is_new(
    tinyface: Any, folder: list[str], seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["embed", "pictures", "--all-faces", "--update", "-t", "1", "-o", "faces.npz"]
    tinyface(*command)
    assert seen == folder
    samples.save_png(Path("pictures/new.png"), ONE)
    samples.save_png(Path(folder[0]), TWO)
    Path(folder[1]).unlink()
    seen.clear()
    done = tinyface(*command, "--json")
    # what failed is tried again, since the file does not speak of it
    assert seen == [folder[0], folder[2], folder[4], "pictures/new.png"]
    whole = tinyface("embed", "pictures", "--all-faces", "-o", "whole.npz", "--json")
    assert done.out == whole.out
    assert Path("faces.npz").read_bytes() == Path("whole.npz").read_bytes()

    samples.save_png(Path("pictures/newer.png"), ONE)
    stop(monkeypatch, 2, KeyboardInterrupt)
    assert tinyface(*command).status == 130  # two that failed; then what is newer
    seen.clear()
    tinyface(*command)
    assert seen == [folder[4], "pictures/newer.png"]


def test_update_of_a_picture_that_was_named_twice(tinyface: Any, folder: list[str]) -> None:
    both = ["embed", folder[1], folder[0], folder[1], "--all-faces", "-o", "faces.npz", "--update"]
    for _ in range(3):
        assert "faces.npz: 5 embeddings" in tinyface(*both).err  # 2, 1, 2
    assert "faces.npz: 3 embeddings" in tinyface(*both[:3], *both[4:]).err


def test_update_of_another_make_is_made_anew(
    tinyface: Any, folder: list[str], seen: list[str]
) -> None:
    tinyface("embed", "pictures", "-o", "faces.npz")
    seen.clear()
    done = tinyface("embed", "pictures", "--all-faces", "-o", "faces.npz", "--update", "-t", "1")
    assert seen == folder and "made anew" in done.err
    with np.load("faces.npz", allow_pickle=False) as stored:  # as an older version wrote it
        arrays = {k: stored[k] for k in stored.files if k not in ("recipe", "stamps", "of")}
    np.savez("faces.npz", **arrays)
    assert tinyface("search", "one.png", "faces.npz").status == 0
    assert "made anew" in tinyface("embed", "pictures", "-o", "faces.npz", "--update").err


@pytest.mark.parametrize("output", [(), ("-o", "-"), ("-o", "faces.csv")], ids="".join)
def test_update_needs_a_file_that_says_what_is_in_it(
    tinyface: Any, folder: list[str], output: tuple[str, ...]
) -> None:
    done = tinyface("embed", "pictures", "--update", *output)
    assert done.status == 2 and "-o FILE.npz" in done.err
    assert not leftovers(Path.cwd())


def test_a_killed_process_leaves_what_is_done(
    tinyface: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    Path("many").mkdir()
    for i in range(120):
        Path(f"many/{i:03}.png").hardlink_to("two.png")
    command = ["embed", "many", "-o", "faces.csv", "-t", "2"]
    process = subprocess.run([sys.executable, "-c", KILLED, *command], check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    part = Path("faces.csv.part")
    assert part.exists() and not Path("faces.csv").exists()
    done = tinyface(*command)
    assert done.status == 0 and "goes on where" in done.err
    assert len(Path("faces.csv").read_text().splitlines()) == 121
    assert not part.exists()
