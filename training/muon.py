"""Spectral steps for weights in front of a batch normalisation.

The update of a weight matrix is the nearest semi-orthogonal matrix to its momentum (Muon, Jordan
et al. 2024), found by Newton-Schulz steps. Behind every such weight stands a batch normalisation,
so its length means nothing: it is held at its first value, and the learning rate is the relative
size of a step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

# Quintic whose iterates carry singular values into about [0.7, 1.2] (Jordan et al.).
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """The semi-orthogonal factor of g (m, n), roughly: all singular values near one.

    The iterates are polynomials in g g^T times g. The polynomial is built from the small square
    matrix alone, and g multiplied once: half the work where n is several times m.
    """
    tall = g.shape[0] > g.shape[1]
    x = (g.T if tall else g) / (g.norm() + 1e-7)
    gram = x @ x.T
    eye = torch.eye(len(gram), device=g.device)
    whole = eye
    for k in range(steps):
        factor = A * eye + B * gram + C * gram @ gram
        whole = factor @ whole if k else factor
        if k + 1 < steps:
            gram = factor @ gram @ factor
    x = whole @ x
    return x.T if tall else x


class Muon(Optimizer):
    """SGD with Nesterov momentum, orthogonalised, on the sphere of each weight's first length.

    Args:
        params: weights of two or more dimensions; those past the first are joined.
        lr: length of a step relative to the weight's.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None or group["lr"] == 0:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                    state["length"] = p.norm().clone()
                m = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                g = torch.lerp(p.grad, m, group["momentum"]).flatten(1)
                update = orthogonalise(g).view_as(p)
                p.sub_(update * (state["length"] / update.norm()), alpha=group["lr"])
                p.mul_(state["length"] / p.norm())
