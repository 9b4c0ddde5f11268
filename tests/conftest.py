"""For every test, Hypothesis without a deadline: a small board or a busy machine is slow, not
wrong. And the fixtures that several files ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import samples
from command_line import ONE, TWO, Outcome
from hypothesis import settings

pytest.register_assert_rewrite("attacks.checkpoints", "detections", "onnx_models")
settings.register_profile(
    "tinyface", deadline=None, max_examples=int(os.environ.get("TINYFACE_EXAMPLES", "100"))
)
settings.load_profile("tinyface")


def pytest_runtest_setup(item: pytest.Item) -> None:
    from tinyface.backends import c

    if item.get_closest_marker("needs_c") and not c.available():
        pytest.skip(c.missing())


@pytest.fixture(autouse=True)
def silent_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no C engine, tests of what is said do not expect to read so."""
    from tinyface.backends import c

    if not c.available():
        monkeypatch.setattr("tinyface.cli.common.note_numpy", lambda: None)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample models."""
    return samples.install(tmp_path_factory.mktemp("models"))


@pytest.fixture
def only_samples(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample models and no others: those of the machine must not decide what is tested."""
    monkeypatch.setenv("TINYFACE_CACHE", str(models))
    for name in ("TINYFACE_MODEL", "TINYFACE_DETECTOR", "TINYFACE_THREADS", "TINYFACE_ISA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def surroundings(only_samples: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own, with pictures; the sample models and no others."""
    monkeypatch.chdir(tmp_path)
    samples.save_png(tmp_path / "one.png", ONE)
    samples.save_png(tmp_path / "two.png", TWO)
    samples.save_png(tmp_path / "night.png", samples.picture())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")


@pytest.fixture
def tinyface(capsys: pytest.CaptureFixture[str]) -> Any:
    """``tinyface("embed", "one.png")`` runs that command line."""
    return lambda *args: Outcome(capsys, *map(str, args))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch with one thread: its sums, and so a training's steps, repeat."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
