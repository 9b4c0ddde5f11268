"""What the student detector is asked to copy: every output of the teacher, and its feature maps.

Scores are copied as logits, with most of the weight on anchors that the teacher calls a face and on
those where the two disagree most; boxes and landmarks only where the teacher sees a face, since
elsewhere they mean nothing. Student and teacher have one topology, so maps can be compared channel
by channel (hints in the sense of FitNets, Romero et al. 2015), which shortens the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .detector_net import Output

LOGIT_RANGE = 10.0  # beyond this difference of logits a score is 0 or 1 to four digits
FACE_FROM = 0.1  # teacher scores from here on make an anchor count for box and landmarks
EMPTY_MARGIN = 3.0  # log-odds against a face that a faceless picture is given at least
HARD_SHARE = 4  # hard negatives to an anchor with a face
HARD_LEAST = 16  # ... and to a picture, also where there is none


@dataclass(frozen=True)
class Weights:
    """Weight of each term in the total."""

    score: float = 1.0
    hard: float = 1.0
    box: float = 1.0
    landmarks: float = 2.0
    body: float = 0.5
    fpn: float = 0.5
    ssh: float = 1.0


def margin(logits: Tensor) -> Tensor:
    """(N, A, 2) logits to (N, A) log-odds of a face."""
    return logits[..., 1] - logits[..., 0]


def quieten(target: Output, empty: Tensor) -> Output:
    """The teacher's output without its false alarms: `empty` (N,) marks pictures without a face."""
    logits = target.logits.clone()
    no, yes = logits[empty].unbind(-1)
    logits[empty] = torch.stack((no, torch.minimum(yes, no - EMPTY_MARGIN)), -1)
    return target._replace(logits=logits)


def score_loss(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """(N, A, 2) logits of both; returns the dense term and that of faces and hard negatives."""
    s, t = margin(student), margin(teacher)
    face = torch.sigmoid(t)
    dense = F.smooth_l1_loss(s.clamp(-LOGIT_RANGE, LOGIT_RANGE), t.clamp(-LOGIT_RANGE, LOGIT_RANGE))
    # Cross entropy less the teacher's own entropy: zero where the two agree.
    gap = F.softplus(s) - face * s - (F.softplus(t) - face * t)
    found = face > FACE_FROM
    faces = found.sum()
    hard = int(HARD_SHARE * faces + HARD_LEAST * len(s))
    negative = gap.masked_fill(found, 0).flatten().topk(min(hard, gap.numel())).values
    return dense, (gap[found].sum() + negative.sum()) / (faces + HARD_LEAST * len(s))


def regression_loss(student: Tensor, teacher: Tensor, face: Tensor) -> Tensor:
    """(N, A, K) offsets of both and (N, A) teacher scores: L1 weighted by score where faces are."""
    found = face > FACE_FROM
    weight = face[found]
    gap = F.smooth_l1_loss(student[found], teacher[found], beta=0.02, reduction="none").mean(-1)
    return (weight * gap).sum() / (weight.sum() + 1)


def hint_loss(student: Tensor, teacher: Tensor, focus: Tensor | None = None) -> Tensor:
    """Unexplained share of the teacher's variance, mean over channels of maps (N, C, h, w).

    `focus` (N, 1, h, w) weighs places; by default all alike.
    """
    spread = teacher.var((0, 2, 3), keepdim=True)
    spread = spread + 0.1 * spread.mean()  # channels that hardly vary must not rule the rest
    gap = (student - teacher).square() / spread
    return gap.mean() if focus is None else (gap * focus).mean() / focus.mean()


def distillation_loss(
    student: Output, teacher: Output, weights: Weights, hint: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total to descend and its terms, detached; `hint` in 0..1 scales the feature terms."""
    face = torch.sigmoid(margin(teacher.logits))
    dense, hard = score_loss(student.logits, teacher.logits)
    terms = {
        "score": dense,
        "hard": hard,
        "box": regression_loss(student.box, teacher.box, face),
        "landmarks": regression_loss(student.landmarks, teacher.landmarks, face),
    }
    focus = _focus(face, [tuple(m.shape[2:]) for m in teacher.ssh])
    hints = {
        "body": [hint_loss(s, t) for s, t in zip(student.body, teacher.body, strict=True)],
        "fpn": [
            hint_loss(s, t, f) for s, t, f in zip(student.fpn, teacher.fpn, focus, strict=True)
        ],
        "ssh": [
            hint_loss(s, t, f) for s, t, f in zip(student.ssh, teacher.ssh, focus, strict=True)
        ],
    }
    terms |= {key: torch.stack(value).mean() for key, value in hints.items()}
    scale = {key: hint if key in hints else 1.0 for key in terms}
    total = sum(getattr(weights, key) * scale[key] * value for key, value in terms.items())
    assert isinstance(total, Tensor)
    return total, {key: value.detach() for key, value in terms.items()}


def _focus(face: Tensor, sizes: list[tuple[int, ...]]) -> list[Tensor]:
    """Weights (N, 1, h, w) of each level: 1, and up to 9 where an anchor of the cell has a face."""
    cells = face.reshape(len(face), -1, 2).amax(2)  # two anchors to a cell
    parts = cells.split([h * w for h, w in sizes], dim=1)
    return [1 + 8 * p.reshape(-1, 1, h, w) for p, (h, w) in zip(parts, sizes, strict=True)]
