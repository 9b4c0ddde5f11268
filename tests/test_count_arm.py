"""The emulated cache counter, on work whose traffic is known."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.networks import random_state

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "count_arm.py"
NEEDED = ("qemu-aarch64", "aarch64-linux-gnu-gcc", "gcc")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_c,
    pytest.mark.skipif(
        not (SCRIPT.exists() and all(map(shutil.which, NEEDED))),
        reason="qemu-user or the cross compiler is absent",
    ),
]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("count_arm", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["count_arm"] = module
    spec.loader.exec_module(module)
    return module


def fully_connected(k: int, o: int) -> Graph:
    b = Builder("fc")
    x = b.input("input", (1, k))
    graph = b.build(y=b.linear(x, o, key="fc"))
    return graph.bind(random_state(graph))


def test_weights_beyond_the_cache_are_read_once(script: ModuleType) -> None:
    """A matrix of 8 MiB times a vector: all of it is filled, and next to nothing else."""
    _, rows = script.count(fully_connected(1024, 2048), script.BOARDS["pi4"])
    whole = script.total(rows)
    assert 8.0 <= whole.fill_mib <= 8.2
    fmas = 1024 * 2048 // 4
    assert fmas < whole.instructions < 3 * fmas


def test_weights_in_the_cache_cost_no_traffic(script: ModuleType) -> None:
    """512 KiB stay in an L2 of 1 MiB between two runs, but not in an L1 of 32 KiB."""
    _, rows = script.count(fully_connected(256, 512), script.BOARDS["pi4"])
    whole = script.total(rows)
    assert whole.fill_mib < 0.02
    lines = 256 * 512 * 4 // 64
    assert lines <= whole.l1d_misses < 1.1 * lines
