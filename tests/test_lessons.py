"""The lessons: all that they print is what comes out."""

import doctest
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "docs" / "lessons").glob("[0-9]*.md"))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_says_what_comes_out(
    lesson: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path))  # the weights that ship
    for name in ("TINYFACE_MODEL", "TINYFACE_DETECTOR"):
        monkeypatch.delenv(name, raising=False)
    found = doctest.testfile(str(lesson), module_relative=False, encoding="utf-8")
    assert found.attempted > 10 and not found.failed


def test_the_lessons_are_listed() -> None:
    index = (ROOT / "docs" / "lessons" / "README.md").read_text(encoding="utf-8")
    assert LESSONS and all(f"({lesson.name})" in index for lesson in LESSONS)
