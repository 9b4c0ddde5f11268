"""RetinaFace-MobileNetV1x0.25 in PyTorch, its anchors, and the way from its outputs to faces.

The network is that of Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the
Wild", with the MobileNetV1x0.25 body and three levels (strides 8, 16, 32) of the public PyTorch
implementation, whose state-dict keys are kept so that one importer reads both.

Shapes: input (N, 3, H, W) float32, BGR 0..255 minus `MEAN_BGR`; outputs box (N, A, 4), class
logits (N, A, 2) and landmarks (N, A, 10), where A = 2 x sum of ceil(H/s) x ceil(W/s) over strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinyface.vision.priors import shared, suppress

MEAN_BGR = (104.0, 117.0, 123.0)
STRIDES = (8, 16, 32)
ANCHORS = ((16, 32), (64, 128), (256, 512))  # two square anchors to a cell, in pixels
VARIANCES = (0.1, 0.2)
SLOPE = 0.1  # LeakyReLU, everywhere but behind the SSH modules
NMS_IOU = 0.4


class Output(NamedTuple):
    """What one forward pass gives: heads of all levels, and the maps used as hints."""

    box: Tensor  # (N, A, 4)
    logits: Tensor  # (N, A, 2), index 1 = face
    landmarks: Tensor  # (N, A, 10)
    body: tuple[Tensor, ...]  # after each of the body's five parts, at strides 4, 8, 16, 16, 32
    fpn: tuple[Tensor, ...]  # 64 channels each
    ssh: tuple[Tensor, ...]  # 64 channels each


def _conv_bn(inp: int, out: int, kernel: int = 3, stride: int = 1, act: bool = True) -> nn.Module:
    conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out)]
    return (
        nn.Sequential(*layers, nn.LeakyReLU(SLOPE, inplace=True)) if act else nn.Sequential(*layers)
    )


def _separable(inp: int, out: int, stride: int = 1) -> nn.Module:
    """Depthwise 3x3 and pointwise 1x1, each with batch norm and LeakyReLU (indices 0..5)."""
    return nn.Sequential(
        nn.Conv2d(inp, inp, 3, stride, 1, groups=inp, bias=False),
        nn.BatchNorm2d(inp),
        nn.LeakyReLU(SLOPE, inplace=True),
        nn.Conv2d(inp, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


class Body(nn.Module):
    """MobileNetV1 at a quarter of its width, seen as five parts of two or three blocks.

    Returns the map after each part; `LEVELS` are those at strides 8, 16 and 32.
    """

    LEVELS = (1, 3, 4)

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            _conv_bn(3, 8, stride=2),
            _separable(8, 16),
            _separable(16, 32, 2),
            _separable(32, 32),
            _separable(32, 64, 2),
            _separable(64, 64),
        )
        self.stage2 = nn.Sequential(
            _separable(64, 128, 2), *[_separable(128, 128) for _ in range(5)]
        )
        self.stage3 = nn.Sequential(_separable(128, 256, 2), _separable(256, 256))

    def forward(self, x: Tensor, given: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        parts = (self.stage1[:3], self.stage1[3:], self.stage2[:3], self.stage2[3:], self.stage3)
        maps: list[Tensor] = []
        for part in parts:
            maps.append(part(x))
            x = given[len(maps) - 1] if given else maps[-1]
        return tuple(maps)


class Fpn(nn.Module):
    """Feature pyramid: 1x1 to 64 channels, nearest upsampling, 3x3 after each sum."""

    def __init__(self) -> None:
        super().__init__()
        self.output1 = _conv_bn(64, 64, 1)
        self.output2 = _conv_bn(128, 64, 1)
        self.output3 = _conv_bn(256, 64, 1)
        self.merge1 = _conv_bn(64, 64)
        self.merge2 = _conv_bn(64, 64)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        levels = (maps[i] for i in Body.LEVELS)
        outputs = (self.output1, self.output2, self.output3)
        one, two, three = (layer(level) for layer, level in zip(outputs, levels, strict=True))
        two = self.merge2(two + F.interpolate(three, size=two.shape[2:], mode="nearest"))
        one = self.merge1(one + F.interpolate(two, size=one.shape[2:], mode="nearest"))
        return one, two, three


class Ssh(nn.Module):
    """Context module of SSH: receptive fields of 3, 5 and 7 cells side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3X3 = _conv_bn(64, 32, act=False)
        self.conv5X5_1 = _conv_bn(64, 16)
        self.conv5X5_2 = _conv_bn(16, 16, act=False)
        self.conv7X7_2 = _conv_bn(16, 16)
        self.conv7x7_3 = _conv_bn(16, 16, act=False)  # the public checkpoints spell it so

    def forward(self, x: Tensor) -> Tensor:
        shared = self.conv5X5_1(x)
        parts = (self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared)))
        return F.relu(torch.cat(parts, 1))


class Head(nn.Module):
    """A 1x1 convolution with bias; (N, 64, h, w) to (N, h*w*2, values)."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(64, 2 * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1x1(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class RetinaFace(nn.Module):
    """The whole detector: 0.4266 M parameters, random weights when built."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.fpn = Fpn()
        self.ssh1, self.ssh2, self.ssh3 = Ssh(), Ssh(), Ssh()
        self.ClassHead = nn.ModuleList(Head(2) for _ in STRIDES)
        self.BboxHead = nn.ModuleList(Head(4) for _ in STRIDES)
        self.LandmarkHead = nn.ModuleList(Head(10) for _ in STRIDES)

    def forward(self, x: Tensor, given: Output | None = None) -> Output:
        """All outputs and maps of (N, 3, H, W) pictures.

        With `given`, another network's output for `x`, each part reads that network's maps instead
        of those of the part before it, so that all parts can learn at once.
        """
        body = self.body(x, given and given.body)
        fpn = self.fpn(given.body if given else body)
        level = given.fpn if given else fpn
        ssh = (self.ssh1(level[0]), self.ssh2(level[1]), self.ssh3(level[2]))
        level = given.ssh if given else ssh
        heads = (self.BboxHead, self.ClassHead, self.LandmarkHead)
        box, logits, marks = (
            torch.cat([head(m) for head, m in zip(kind, level, strict=True)], 1) for kind in heads
        )
        return Output(box, logits, marks, body, fpn, ssh)


def load_teacher(path: Path) -> RetinaFace:
    """Read a public checkpoint (state dict, perhaps with a ``module.`` prefix), for inference.

    Batch norms are folded into the convolutions before them: the teacher runs on every picture.
    Raises `RuntimeError` when a key or a shape does not fit.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    net = RetinaFace()
    net.load_state_dict(state)
    return fold_batchnorm(net.eval()).requires_grad_(False)


def fold_batchnorm(net: RetinaFace) -> RetinaFace:
    """Fold, in place, each batch norm that follows a convolution of the same `Sequential`."""
    for block in [m for m in net.modules() if isinstance(m, nn.Sequential)]:
        for i in range(len(block) - 1):
            conv, norm = block[i], block[i + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block[i] = fuse_conv_bn_eval(conv, norm)
                block[i + 1] = nn.Identity()
    return net


def to_input(pictures: Tensor) -> Tensor:
    """(N, H, W, 3) RGB uint8 to (N, 3, H, W) BGR float32 minus the mean, channels last."""
    mean = torch.tensor(MEAN_BGR, device=pictures.device)
    return (pictures.flip(3).float() - mean).permute(0, 3, 1, 2)


def anchors(height: int, width: int) -> Tensor:
    """(A, 3) anchors in pixels: centre x, centre y, side; level by level, row by row."""
    levels = []
    for stride, sizes in zip(STRIDES, ANCHORS, strict=True):
        rows, cols = -(-height // stride), -(-width // stride)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
        centres = (torch.stack((x, y), -1) + 0.5).reshape(-1, 1, 2).expand(-1, 2, -1) * stride
        side = torch.tensor(sizes, dtype=torch.float32).expand(rows * cols, 2)[..., None]
        levels.append(torch.cat((centres, side), 2).reshape(-1, 3))
    return torch.cat(levels)


@dataclass(frozen=True)
class Faces:
    """Faces of one picture, best first: boxes (F, 4) x1 y1 x2 y2, scores (F,), points (F, 5, 2)."""

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


def decode(out: Output, index: int, height: int, width: int, threshold: float) -> Faces:
    """Faces of picture `index` above `threshold`, after non-maximum suppression at IoU 0.4.

    The anchors are square in pixels only where offsets are scaled back by width and height
    alike; working in pixels throughout is the same formula with the division cancelled.
    """
    scores = out.logits[index].softmax(-1)[:, 1]
    keep = (scores > threshold).nonzero()[:, 0]
    keep = keep[scores[keep].argsort(descending=True)][:5000]
    prior = anchors(height, width).to(scores.device)[keep]
    centre, side = prior[:, :2], prior[:, 2:]
    box = out.box[index, keep]
    mid = centre + box[:, :2] * VARIANCES[0] * side
    size = side * torch.exp(box[:, 2:] * VARIANCES[1])
    corners = torch.cat((mid - size / 2, mid + size / 2), 1)
    marks = out.landmarks[index, keep].reshape(-1, 5, 2)
    points = centre[:, None] + marks * VARIANCES[0] * side[:, None]
    boxes, best = corners.cpu().numpy(), scores[keep].cpu().numpy()
    kept = suppress(boxes, best, NMS_IOU)
    return Faces(boxes[kept], best[kept], points.cpu().numpy()[kept])


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Overlap of one box (4,) with many (F, 4); areas count border pixels, as RetinaFace does."""
    both, either = shared(box, boxes, edge=1)
    return both / either


def split_parameters(net: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Dense convolutions in front of a batch norm (for Muon), and all the rest (for AdamW)."""
    matrices = [
        m.weight
        for m in net.modules()
        if isinstance(m, nn.Conv2d) and m.groups == 1 and m.bias is None
    ]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in net.parameters() if id(p) not in chosen]
