"""How the detector is judged: held-out portraits, crowds and pictures without a face.

The teacher sees the same pictures, so that every figure of the student stands beside the teacher's.
Landmark errors are mean distances of the five points over the distance of the reference's eyes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .detector_data import Pool, Portraits, is_held_out, scattered
from .detector_export import THRESHOLD
from .detector_net import Faces, RetinaFace, decode, iou, to_input
from .detector_noface import no_face_pictures

THRESHOLDS = (0.5, 0.6, 0.7)
MATCH_IOU = 0.4  # least overlap of two boxes taken for the same face
FLOOR = 0.1  # scores below are not kept
PICTURES = 600  # composed and faceless pictures in a full evaluation
Sample = tuple[np.ndarray, np.ndarray]  # (H, W, 3) uint8 and csv faces (F, 14), perhaps none


class Evaluation:
    """The sets, and the teacher's answer to each, kept for the next time."""

    def __init__(
        self, data: Path, images: Path | None, pools: Sequence[Pool], teacher: RetinaFace
    ) -> None:
        self.pools, self.images, self.teacher = pools, images, teacher
        path = data / "validation_identities.zip"
        self.identities = Pool(data, path.stem) if path.exists() else None
        self.answers: dict[tuple[str, int], list[Faces]] = {}

    def sets(self) -> dict[str, Callable[[int], Iterator[Sample]]]:
        """Name of each set, and how to draw its first pictures."""
        out: dict[str, Callable[[int], Iterator[Sample]]] = {}
        if self.images:
            out["portraits"] = self._portraits
        if self.identities:
            out["identities"] = lambda n: _spread(self.identities, self.identities.names, n)
        for pool in self.pools:
            names = [name for name in pool.names if is_held_out(name)]
            if not names:
                continue
            out[pool.label] = lambda n, p=pool, names=names: _spread(p, names, n)
        out["composed"] = self._composed
        out["no_face"] = self._no_face
        return out

    def answer(self, name: str, count: int, samples: list[Sample]) -> list[Faces]:
        """The teacher's faces of a set."""
        key = (name, count)
        if key not in self.answers:
            self.answers[key] = find(self.teacher, samples)
        return self.answers[key]

    def _portraits(self, _: int) -> Iterator[Sample]:
        assert self.images
        for path in sorted(self.images.glob("portrait_*.jpg")):
            yield np.array(Image.open(path).convert("RGB")), np.zeros((0, 14))

    def _composed(self, count: int) -> Iterator[Sample]:
        rng = np.random.default_rng(77)
        held = Portraits(self.pools, 400, rng, held_out=True)
        for _ in range(count):
            w, h = (int(v) for v in rng.integers(200, 640, 2))
            yield np.array(scattered(rng, w, h, held, most=8)), np.zeros((0, 14))

    def _no_face(self, count: int) -> Iterator[Sample]:
        pools = [*self.pools, *([self.identities] if self.identities else [])]
        for picture in no_face_pictures(pools, count, seed=78):
            yield picture, np.zeros((0, 14))


def _spread(pool: Pool | None, names: list[str], count: int) -> Iterator[Sample]:
    """At most `count` pictures, evenly from the list."""
    assert pool
    for name in names[:: max(1, len(names) // count)][:count]:
        picture, faces = pool.read(name)
        yield np.array(picture), faces


@torch.inference_mode()
def find(net: RetinaFace, samples: list[Sample], floor: float = FLOOR) -> list[Faces]:
    """Faces of each picture with scores above `floor`."""
    device = next(net.parameters()).device
    answers = []
    for picture, _ in samples:
        out = net(to_input(torch.tensor(picture, device=device)[None]))
        answers.append(decode(out, 0, *picture.shape[:2], floor))
    return answers


def match(box: np.ndarray, faces: Faces, threshold: float) -> int | None:
    """Index of the face above `threshold` that overlaps `box` (4,) most, or None."""
    chosen = np.flatnonzero(faces.scores >= threshold)
    if not chosen.size:
        return None
    overlap = iou(box, faces.boxes[chosen])
    best = int(overlap.argmax())
    return int(chosen[best]) if overlap[best] >= MATCH_IOU else None


def landmark_error(points: np.ndarray, reference: np.ndarray) -> float:
    """Mean distance of (5, 2) points over the distance of the reference's eyes."""
    eyes = float(np.linalg.norm(reference[0] - reference[1]))
    return float(np.linalg.norm(points - reference, axis=1).mean()) / max(eyes, 1e-6)


def _against_teacher(
    student: list[Faces], teacher: list[Faces], threshold: float
) -> dict[str, Any]:
    """Of the faces the teacher finds at 0.5: the share found, and how far the points are off."""
    found = faces = extra = 0
    errors = []
    for s, t in zip(student, teacher, strict=True):
        sure = np.flatnonzero(t.scores >= 0.5)
        faces += len(sure)
        hits = [(i, match(t.boxes[i], s, threshold)) for i in sure]
        found += sum(j is not None for _, j in hits)
        errors += [landmark_error(s.points[j], t.points[i]) for i, j in hits if j is not None]
        known = [match(s.boxes[j], t, 0.3) for j in np.flatnonzero(s.scores >= threshold)]
        extra += sum(i is None for i in known)
    return {
        "teacher_faces": faces,
        "found": round(found / max(faces, 1), 5),
        "not_in_teacher": extra,
        "error_mean": round(float(np.mean(errors)) if errors else 1.0, 5),
        "error_median": round(float(np.median(errors)) if errors else 1.0, 5),
        "error_p95": round(float(np.percentile(errors, 95)) if errors else 1.0, 5),
    }


def _against_csv(answers: list[Faces], samples: list[Sample], threshold: float) -> dict[str, Any]:
    """Recall of the largest face of each csv entry (by YuNet), and the error of its points."""
    found, errors = 0, []
    for faces, (picture, rows) in zip(answers, samples, strict=True):
        row = rows[int(np.argmax(rows[:, 2] * rows[:, 3]))]
        edge = np.array(picture.shape[1::-1] * 2) - 1
        box = np.clip(np.concatenate((row[:2], row[:2] + row[2:4])), 0, edge)
        inside = Faces(np.clip(faces.boxes, 0, edge), faces.scores, faces.points)
        hit = match(box, inside, threshold)
        found += hit is not None
        if hit is not None:
            errors.append(landmark_error(faces.points[hit], row[4:14].reshape(5, 2)))
    error = float(np.mean(errors)) if errors else 1.0
    return {"recall": round(found / len(samples), 5), "error_mean": round(error, 5)}


def _alarms(answers: list[Faces], threshold: float) -> int:
    """Pictures with a detection above `threshold`."""
    return sum(bool((faces.scores >= threshold).any()) for faces in answers)


def evaluate(net: RetinaFace, evaluation: Evaluation, limit: int | None) -> dict[str, Any]:
    """All figures of `net` beside the teacher's, by set and threshold; `limit` pictures a set."""
    figures: dict[str, Any] = {}
    for name, draw in evaluation.sets().items():
        count = limit or (PICTURES if name in ("composed", "no_face") else 10**6)
        samples = list(draw(count))
        teacher, student = evaluation.answer(name, count, samples), find(net, samples)
        entry: dict[str, Any] = {"pictures": len(samples)}
        for threshold in THRESHOLDS:
            at: dict[str, Any] = {}
            if name == "no_face":
                at = {
                    "alarms": _alarms(student, threshold),
                    "teacher_alarms": _alarms(teacher, threshold),
                }
            else:
                at = _against_teacher(student, teacher, threshold)
                one = [len(f.scores[f.scores >= 0.5]) > 0 for f in student]
                at["pictures_with_a_face"] = round(sum(one) / len(samples), 5)
            if samples[0][1].size:
                at["csv"] = _against_csv(student, samples, threshold)
                at["csv_teacher"] = _against_csv(teacher, samples, threshold)
            entry[str(threshold)] = at
        figures[name] = entry
    return figures


def summary(figures: dict[str, Any], threshold: str = str(THRESHOLD)) -> str:
    """A line for each set."""
    lines = []
    for name, entry in figures.items():
        at = entry[threshold]
        if name == "no_face":
            text = f"alarms {at['alarms']} (teacher {at['teacher_alarms']})"
        else:
            text = (
                f"found {at['found']:.4f} of {at['teacher_faces']}, extra {at['not_in_teacher']},"
                f" error {100 * at['error_mean']:.2f} % (median {100 * at['error_median']:.2f})"
            )
        if "csv" in at:
            mine, its = at["csv"], at["csv_teacher"]
            text += f"; csv recall {mine['recall']:.4f} (teacher {its['recall']:.4f})"
            text += f" error {100 * mine['error_mean']:.2f} ({100 * its['error_mean']:.2f}) %"
        lines.append(f"{name:>12} {entry['pictures']:5d} pictures: {text}")
    return "\n".join(lines)
