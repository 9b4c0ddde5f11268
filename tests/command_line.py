"""The command line within a test: pictures to call it on, and what a call did."""

import json
from pathlib import Path
from typing import Any

import pytest
import samples

from tinyface.cli.main import run

ONE = samples.picture((1, 2))
TWO = samples.picture((0, 0), (2, 1))


class Outcome:
    """What a command did."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *args: str) -> None:
        capsys.readouterr()
        self.status = run(args)
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".") or ".part" in p.name]
