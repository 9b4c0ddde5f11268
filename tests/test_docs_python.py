"""docs/python.md, whose code is run, and docs/commands.md, whose lists are complete."""

import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tinyface.vision.image import read_image

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
IMAGES = {
    "anna.jpg": "docs/images/portrait_a.jpg",
    "anna_later.jpg": "docs/images/portrait_a_changed.jpg",
    "group.jpg": "tests/images/group_of_four.jpg",
    "people/anna/1.jpg": "docs/images/portrait_a.jpg",
    "people/anna/2.jpg": "docs/images/portrait_a_changed.jpg",
    "people/ben/1.jpg": "docs/images/portrait_b.jpg",
    "people/ben/2.jpg": "docs/images/portrait_b.jpg",
    "photos/a.jpg": "docs/images/portrait_b.jpg",
    "photos/b.jpg": "tests/images/group_of_four.jpg",
}

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="not a checkout")


class Camera:
    """One frame, BGR, as OpenCV gives it, and then no more."""

    def __init__(self, number: int) -> None:
        self.frames: list[Any] = [read_image("group.jpg")[..., ::-1].copy()]

    def read(self) -> tuple[bool, Any]:
        return (True, self.frames.pop()) if self.frames else (False, None)

    def release(self) -> None:
        pass


def opencv(drawn: list[tuple[str, Any]]) -> ModuleType:
    """What the page uses of cv2; texts and boxes go to ``drawn``."""
    module = ModuleType("cv2")
    what: dict[str, Any] = {
        "VideoCapture": Camera,
        "rectangle": lambda frame, a, b, colour, width: drawn.append(("box", (*a, *b))),
        "putText": lambda frame, text, *how: drawn.append(("text", text)),
        "imshow": lambda title, frame: drawn.append(("shown", frame.shape)),
        "waitKey": lambda ms: -1,
    }
    module.__dict__.update(what)
    return module


@pytest.mark.needs_c
def test_the_code_for_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path / "none"))
    for name, source in IMAGES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, name)
    Path("photos/c.jpg").write_bytes(b"no picture")
    drawn: list[tuple[str, Any]] = []
    monkeypatch.setitem(sys.modules, "cv2", opencv(drawn))
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    said = {}
    for title, code in re.findall(r"^## ([^\n]+)\n.*?```python\n(.*?)```", page, re.M | re.S):
        exec(compile(code, title, "exec"), names)
        said[title] = capsys.readouterr().out
    assert said["Two photographs"].startswith("True 0.9")
    folder = said["A folder, in which some pictures have no face"].splitlines()
    assert "c.jpg: not a JPEG" in folder[0] and folder[1].endswith("b.jpg")
    assert "('anna', " in said["Who is this?"] and "('unknown', " in said["Who is this?"]
    assert [kind for kind, _ in drawn] == ["box", "text"] * 4 + ["shown"]
    assert any(kind == "text" and text.startswith("anna 0.9") for kind, text in drawn)
    service = said["A web service"].splitlines()
    assert service[0].startswith('[{"box"') and "not a JPEG" in service[1]
    assert float(said["Aligned crops of your own"]) > 0.99999
    assert names["crop"].shape == (112, 96, 3) and np.isfinite(names["table"]).all()


def test_the_lists_for_programs() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tinyface").rglob("*.py"))
    variables = set(re.findall(r'"(TINYFACE_[A-Z]+)"', source)) | {"TINYFACE_EXTENSION"}
    assert set(re.findall(r"TINYFACE_[A-Z]+", page)) == variables
    for schema in re.findall(r'print_json\(\s*"([\w-]+/\d)"', source):
        assert f"`tinyface.{schema}`" in page or f'"tinyface.{schema}"' in page, schema
