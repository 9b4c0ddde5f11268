"""ncnn's two files of a model, and ncnn itself as the peer that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def write_ncnn(folder: Path, text: str, data: bytes = b"\0" * 4) -> Path:
    """m.param, which is returned, and m.bin beside it."""
    (folder / "m.param").write_text(text)
    (folder / "m.bin").write_bytes(data)
    return folder / "m.param"


def run_ncnn(ncnn: Any, path: Path, x: Any) -> np.ndarray | None:
    """What ncnn makes of its Mat ``x``, from "in" to "out", all of it in float32; None: nothing."""
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = 1
    for option in ("fp16_arithmetic", "fp16_storage", "fp16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        return None
    extractor = net.create_extractor()
    extractor.input("in", x)
    status, found = extractor.extract("out")
    return None if status else np.array(found)
