"""docs/profile.md: the network that is written down there is profiled and predicted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tinyface.cli.main import run as cli
from tinyface.traffic.device import SHIPPED

PAGE = Path(__file__).parents[1] / "docs" / "profile.md"


@pytest.mark.skipif(not PAGE.exists(), reason="not a checkout")
def test_a_network_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.search(r"```python\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code
    monkeypatch.chdir(tmp_path)
    exec(compile(code[1], str(PAGE), "exec"), {})
    assert cli(["profile", "mine.safetensors", "--runs", "1", "--json"]) == 0
    profiled = json.loads(capsys.readouterr().out)
    for device in SHIPPED:
        assert cli(["predict", "mine.safetensors", "--device", device, "--json"]) == 0
        predicted = json.loads(capsys.readouterr().out)
        assert predicted["network"] == profiled["network"] == "mine" and predicted["time_ns"] > 0
        sums = sum(row["macs"] for row in predicted["operators"])
        assert sums == profiled["totals"]["macs"]
