"""The project's shared material: public weights, golden files, pictures. Most checkouts lack it."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs the project's shared material in ../shared"
)
