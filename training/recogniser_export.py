"""A trained student as plain safetensors, with its figures beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn


def export(model: nn.Module, path: Path, figures: dict[str, Any]) -> None:
    """Write float32 tensors under PyTorch's names to `path`, and `figures` to its .json.

    Both files appear whole or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().to("cpu", torch.float32).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    part = path.with_suffix(".part")
    save_file(tensors, part)
    os.replace(part, path)
    replace_text(path.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path`; the file appears whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
