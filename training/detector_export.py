"""Write the detector's weights and the card that goes with them."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from .detector_net import ANCHORS, MEAN_BGR, NMS_IOU, STRIDES, VARIANCES, RetinaFace

THRESHOLD = 0.7
DOUBT = (0.05, 0.95)  # scores that a close look decides about (training/HISTORY.md)


@torch.no_grad()
def tame_variances(net: RetinaFace, most: float = 1e3) -> None:
    """Bring running variances above `most` near one, in place, so that fp16 (to 65504) holds them.

    Pixels are not scaled, so that the first layers see variances of 1e5. Dividing a channel's
    filter and mean by c and its variance by c * c changes nothing but the weight of eps (1e-5).
    """
    for block in [m for m in net.modules() if isinstance(m, nn.Sequential)]:
        for conv, norm in pairwise(block):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                c = torch.exp2(norm.running_var.log2().div(2).round())  # exact in any float
                c = torch.where(norm.running_var > most, c, torch.ones_like(c))
                conv.weight /= c[:, None, None, None]
                norm.running_mean /= c
                norm.running_var /= c * c


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
    tame_variances(net)
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
        "doubt": DOUBT,
        "nms_iou": NMS_IOU,
        "training": run,
        "figures": figures,
        "fp16_largest_relative_change": half_cost(net),
        "torch": torch.__version__,
    }
    part = folder / "detector_card.json.part"
    part.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / "detector_card.json")
