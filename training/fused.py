"""What PyTorch does slowly on a CPU in bfloat16, done another way for training.

Batch normalisation and PReLU: their own backward passes take as long as all convolutions of
FDFaceNet together: per 128 samples, on one Zen 5 core, 480 ms for PReLU and 95 ms for the
normalisation, beside 650 ms for the convolutions. Joined by Inductor they take 100 ms.

Depthwise convolutions of stride 2: the gradient of their input takes 78 ms (32 maps of 128
channels, 56x56); from a gradient with zeros between its pixels, at stride 1, 6 ms.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
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
    torch._dynamo.config.recompile_limit = 64  # one for every shape of map
    return torch.compile(norm_prelu, dynamic=False)


class _Strided(torch.autograd.Function):
    """Depthwise convolution, 3x3, stride 2, padding 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, None, 2, 1, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        # stride 2 is stride 1 with every second output thrown away: their gradient is zero
        dense = torch.zeros_like(x)
        dense[:, :, ::2, ::2] = grad
        pads, channels = [1, 1], len(weight)

        def back(g: Tensor, stride: int, wanted: list[bool]) -> Any:
            return torch.ops.aten.convolution_backward(
                g, x, weight, None, [stride] * 2, pads, [1, 1], False, [0, 0], channels, wanted
            )

        gx = back(dense, 1, [True, False, False])[0]
        return gx, back(grad, 2, [False, True, False])[1].float()


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution of stride 2 with a fast backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        result: Tensor = _Strided.apply(x, self.weight)
        return result


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


def _strided(module: nn.Module) -> bool:
    """A 3x3 depthwise convolution of stride 2?"""
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels
        and (module.kernel_size, module.stride, module.padding) == ((3, 3), (2, 2), (1, 1))
        and module.bias is None
    )


def use_fused(model: nn.Module, unit: type[nn.Module]) -> None:
    """Let every `unit` of the model, and its depthwise convolutions of stride 2, work that way."""
    fused = type(f"Fused{unit.__name__}", (FusedTail, unit), {})
    for module in model.modules():
        if type(module) is unit:
            module.__class__ = fused
        elif _strided(module):
            module.__class__ = StridedDepthwise
