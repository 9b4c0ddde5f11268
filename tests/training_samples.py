"""Small things that the tests of training share. Only for tests that have asked for ``torch``."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from training.detector_net import RetinaFace  # noqa: E402


def random_net(seed: int) -> RetinaFace:
    """A detector whose batch norms are not the identity."""
    torch.manual_seed(seed)
    net = RetinaFace()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return net.eval()
