"""Write the detector's weights and the card that goes with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .detector_net import ANCHORS, MEAN_BGR, NMS_IOU, STRIDES, VARIANCES, RetinaFace

THRESHOLD = 0.6


def half_cost(net: RetinaFace) -> float:
    """Largest relative change of a weight when stored as fp16 (subnormals lose most)."""
    worst = 0.0
    for value in net.state_dict().values():
        if value.is_floating_point():
            gap = (value.half().float() - value).abs().max() / value.abs().max().clamp_min(1e-12)
            worst = max(worst, float(gap))
    return worst


def export(net: RetinaFace, folder: Path, figures: dict[str, Any], run: dict[str, Any]) -> None:
    """Write detector_state.safetensors (float32) and its card, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.detach().cpu().float().contiguous()
        for key, value in net.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    part = folder / "detector_state.safetensors.part"
    save_file(state, part, metadata={"network": "retinaface_mnet025", "format": "pt"})
    part.chmod(0o644)
    os.replace(part, folder / "detector_state.safetensors")
    card = {
        "network": "RetinaFace, MobileNetV1x0.25, three levels, five landmarks",
        "input": {"channels": "BGR", "mean": MEAN_BGR, "scale": 1, "size": "any"},
        "anchors": {"strides": STRIDES, "sides": ANCHORS, "variances": VARIANCES},
        "activation": "LeakyReLU 0.1; ReLU behind each SSH module; batch norm eps 1e-5",
        "threshold": THRESHOLD,
        "nms_iou": NMS_IOU,
        "training": run,
        "figures": figures,
        "fp16_largest_relative_change": half_cost(net),
        "torch": torch.__version__,
    }
    part = folder / "detector_card.json.part"
    part.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / "detector_card.json")
