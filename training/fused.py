"""Batch normalisation and PReLU in one compiled pass, for training on a CPU in bfloat16.

PyTorch's own backward passes of the two take as long as all convolutions of FDFaceNet together:
per 128 samples, on one Zen 5 core, 480 ms for PReLU and 95 ms for the normalisation, beside 650
ms for the convolutions. Joined by Inductor they take 100 ms.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def norm_prelu(
    x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(n, c, h, w), three vectors (c,) -> PReLU of the normalised map, its mean and variance.

    Sums in float32 whatever the map's type. Without `slope` there is no activation.
    """
    wide = x.float()
    mean = wide.mean((0, 2, 3))
    variance = (wide * wide).mean((0, 2, 3)) - mean * mean
    scale = weight * torch.rsqrt(variance + eps)
    z = wide * scale.view(1, -1, 1, 1) + (bias - mean * scale).view(1, -1, 1, 1)
    if slope is not None:
        z = torch.where(z > 0, z, z * slope.view(1, -1, 1, 1))
    return z.to(x.dtype), mean.detach(), variance.detach()


@cache
def _compiled() -> Any:
    return torch.compile(norm_prelu, dynamic=False)


class FusedTail(nn.Module):
    """A `ConvUnit` whose normalisation and activation are one compiled function in training."""

    conv: nn.Module
    bn: nn.BatchNorm2d
    act_name: str | None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        act = getattr(self, self.act_name) if self.act_name else None
        if not self.training or self.bn.momentum is None:  # examined, or statistics taken anew
            x = self.bn(x)
            return x if act is None else act(x)
        slope = None if act is None else act.weight
        y, mean, variance = _compiled()(x, self.bn.weight, self.bn.bias, slope, self.bn.eps)
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            self.bn.running_mean.lerp_(mean, self.bn.momentum)
            self.bn.running_var.lerp_(variance * (count / (count - 1)), self.bn.momentum)
            self.bn.num_batches_tracked += 1
        return y


def use_fused(model: nn.Module, unit: type[nn.Module]) -> None:
    """Let every `unit` of the model work that way."""
    fused = type(f"Fused{unit.__name__}", (FusedTail, unit), {})
    for module in model.modules():
        if type(module) is unit:
            module.__class__ = fused
