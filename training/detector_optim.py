"""Muon for convolutions: momentum whose update is made orthogonal (Jordan et al. 2024).

A weight (out, in, k, k) is taken as an (out, in*k*k) matrix; the update has all singular values
near one, so that rare directions are learnt as fast as frequent ones. Depthwise weights, batch
norms and biases have no such matrix and go to AdamW.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients of the Muon reference


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, to within 30 %, by Newton-Schulz iterations."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is matrix else x.T


class Muon(torch.optim.Optimizer):
    """Steepest descent under the spectral norm; each step is `lr` times the weight's own norm."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                past = self.state[p].setdefault("momentum", torch.zeros_like(p))
                past.lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(past, group["momentum"])  # Nesterov
                update = orthogonal(ahead.reshape(len(p), -1)).reshape(p.shape)
                p.sub_(update, alpha=group["lr"] * float(p.norm() / (update.norm() + 1e-7)))


def split_parameters(net: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Full convolutions (for Muon), and everything else (for AdamW)."""
    matrices = [
        m.weight
        for m in net.modules()
        if isinstance(m, nn.Conv2d) and m.groups == 1 and m.bias is None
    ]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in net.parameters() if id(p) not in chosen]
