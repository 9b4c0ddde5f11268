"""Dense 3x3 convolutions by im2col and matrix products, where that is faster on a CPU.

Measured with 32 samples, channels last. On one AVX-512 core the weight gradient of FDFaceNet's
conv8 takes 16 ms this way and 39 ms by oneDNN's own kernel, its forward pass 16 against 22 ms; for
conv4 to conv7 only the weight gradient gains, by 15 to 30 %. On one Zen 3 core, with the columns
of a few samples at a time: conv2 66 to 49 ms, conv3 39 to 28, conv4 17 to 13, conv5 10 to 7.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COLUMN = 1 << 18


def im2col(x: Tensor, kernel: int, stride: int, pad: int, side: int) -> Tensor:
    """(n,c,h,w) channels last -> (n*side*side, kernel*kernel*c), c fastest."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad))
    n, h, w, c = padded.shape
    # A kernel's row is contiguous in memory: kernel*c numbers in one copy.
    strides = (h * w * c, stride * w * c, stride * c, w * c, 1)
    return padded.as_strided((n, side, side, kernel, kernel * c), strides).reshape(
        n * side * side, kernel * kernel * c
    )


def weight_gradient(x: Tensor, grad: Tensor, kernel: int, stride: int, pad: int) -> Tensor:
    """Map (n,c,h,w) and its output's gradient (n,o,s,s), channels last -> (o, kernel*kernel*c).

    As many samples at a time as leave their columns in the cache (`COLUMN` numbers).
    """
    out, side = grad.shape[1], grad.shape[2]
    block = max(1, COLUMN // (kernel * kernel * x.shape[1] * side * side))
    total = x.new_zeros(out, kernel * kernel * x.shape[1])
    for part, g in zip(x.split(block), grad.split(block), strict=True):
        column = im2col(part, kernel, stride, pad, side)
        total.addmm_(g.permute(0, 2, 3, 1).reshape(-1, out).T, column)
    return total


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, pad: int, product: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.pad = stride, pad
        if not product:
            return F.conv2d(x, weight, None, stride, pad)
        k = weight.shape[2]
        side = (x.shape[2] + 2 * pad - k) // stride + 1
        flat = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
        y = im2col(x, k, stride, pad, side) @ flat.T
        return y.view(len(x), side, side, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        out, inp, k, _ = weight.shape
        gx = gw = None
        if ctx.needs_input_grad[0]:
            gx = torch.ops.aten.convolution_backward(
                grad,
                x,
                weight,
                None,
                [ctx.stride] * 2,
                [ctx.pad] * 2,
                [1, 1],
                False,
                [0, 0],
                1,
                [True, False, False],
            )[0]
        if ctx.needs_input_grad[1]:
            flat = weight_gradient(x, grad, k, ctx.stride, ctx.pad)
            gw = flat.view(out, k, k, inp).permute(0, 3, 1, 2)
        return gx, gw, None, None, None


class GemmConv2d(nn.Conv2d):
    """A dense square convolution without bias whose weight gradient is a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        product = x.shape[2] <= 4 and self.in_channels >= 256
        return _Conv.apply(x, self.weight, self.stride[0], self.padding[0], product)


def use_gemm(model: nn.Module) -> None:
    """Let the dense 3x3 convolutions (48 channels in and more) work that way."""
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == (3, 3)
            and module.groups == 1
            and module.in_channels >= 48
            and module.bias is None
        ):
            module.__class__ = GemmConv2d
