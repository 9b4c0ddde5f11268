"""The pool of training faces: aligned crops, the teachers' embeddings of them, and mixtures.

    python -m training.data --data DIR --teachers DIR --work DIR

Everything is computed once and kept as plain arrays in the work folder, so that a training step
only reads memory:

    crops.npy                  (n, 128, 128, 3) uint8, the 112x112 template in the middle
    crops.txt                  the sets that they are of
    crops_<teacher>_<view>.npy (n, 128) float32, one embedding per crop, NaN where not yet computed
    mixed.npy, mixed_<teacher>_<view>.npy   the same for pictures made of two faces

Rows stand in random order, so that a training may start on the rows that are ready. A teacher's
answer also depends on what tells nothing about a person: two of its embeddings of one face, moved
by a pixel or mirrored, have a cosine of .94 to .97. So it may look several times (`--views`), and
its target is the mean direction. At its first look the first teacher sees a picture as it is and
the second the mirror image, at the second look the other way about; further looks are moved.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from multiprocessing import Pool as Workers
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from training.alignment import POOL, Face, crop, faces, kept, open_face, shuffled
from training.augment import middle, move
from training.mixing import CROP, ramps
from training.teachers import (
    TARGET_WIDTH,
    TEACHERS,
    best_device,
    embed,
    fast,
    load_teacher,
    targets,
)

VALIDATION = "validation_identities"
MOST_VIEWS = 8
UNKNOWN = "not recorded"
KINDS = ("crops", "mixed", "made")


def progress() -> Progress:
    """A bar with counts and the time that is left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )


def _aligned(job: tuple[int, Face]) -> NDArray[np.uint8]:
    index, face = job
    # What lies outside a picture is black in a user's crop; in most training crops it is the
    # picture's edge drawn out, since a hard black border says nothing about a face.
    return crop(open_face(face), face.points, CROP, "zero" if index % 3 == 0 else "edge")


def build_crops(data: Path, work: Path, processes: int, names: Sequence[str] = POOL) -> None:
    """Align every face of the archives, in a fixed random order, into `crops.npy`.

    Raises:
        ValueError: there is none, or `crops.npy` is there and of other sets.
    """
    pool = shuffled(data, names)
    if not pool:
        raise ValueError(f"no faces in {', '.join(names)} of {data}; name other sets with --pool")
    record, said = work / "crops.txt", ", ".join(names)
    if (work / "crops.npy").exists():
        there, was = len(np.load(work / "crops.npy", mmap_mode="r")), pool_of(work)
        if there != len(pool) or was not in (UNKNOWN, said):
            raise ValueError(
                f"{work / 'crops.npy'} holds {there} faces, the archives {len(pool)} "
                f"(sets: {was}; now {said}): it was made of others; choose another --work"
            )
        record.write_text(said, encoding="utf-8")  # an older version did not
        return
    record.write_text(said, encoding="utf-8")
    out = open_memmap(work / "crops.part.npy", "w+", np.uint8, (len(pool), CROP, CROP, 3))
    with progress() as bar, Workers(processes) as workers:
        task = bar.add_task("aligning", total=len(pool))
        for row, pixels in enumerate(workers.imap(_aligned, pool, 32)):
            out[row] = pixels
            bar.advance(task)
    out.flush()
    os.replace(work / "crops.part.npy", work / "crops.npy")


def pool_of(work: Path) -> str:
    """The sets that the crops of the work folder are of."""
    record = work / "crops.txt"
    return record.read_text(encoding="utf-8") if record.exists() else UNKNOWN


def validation(data: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """Crops (n, 112, 112, 3) of the labelled pictures, as a user's would be, and their people."""
    people = list(faces(data / f"{VALIDATION}.zip"))
    crops = [crop(open_face(face), face.points, 112) for face in people]
    return np.stack(crops), [face.name.split("/")[0] for face in people]


def held_out(work: Path) -> int:
    """How many crops of the work folder, the first ones, are never trained on."""
    path = work / "crops.npy"
    if not path.exists():
        raise ValueError(f"{path}: no such file; let training.data run first")
    return kept(len(np.load(path, mmap_mode="r")))


def mixtures(crops: NDArray[np.uint8], count: int, seed: int = 2) -> Iterator[NDArray[np.uint8]]:
    """Two aligned faces in one picture: blended evenly, or one passing into the other.

    The share of the second face is a logistic function of a random direction, steep or flat; its
    middle goes through the middle of the face.
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        first, second = rng.integers(len(crops), size=2)
        angle, steep, centre = rng.uniform(0, 2 * np.pi), rng.uniform(0, 8), rng.normal(0, 0.15)
        ramp = ramps(*(torch.tensor([v], dtype=torch.float32) for v in (angle, steep, centre)))
        share = ramp[0, 0, :, :, None].numpy()
        mixed = crops[first] * (1 - share) + crops[second] * share
        yield (mixed + 0.5).astype(np.uint8)


def build_mixtures(work: Path, count: int) -> None:
    """Write `count` mixtures of the faces that are learnt from into `mixed.npy`.

    Raises:
        ValueError: it is there with another number of them.
    """
    if (work / "mixed.npy").exists():
        there = len(np.load(work / "mixed.npy", mmap_mode="r"))
        if there != count:
            raise ValueError(f"{work / 'mixed.npy'} holds {there} mixtures, not {count}: give "
                             f"--mixtures {there}, or remove {work}/mixed*.npy")  # fmt: skip
        return
    crops = np.load(work / "crops.npy", mmap_mode="r")
    made = mixtures(crops[kept(len(crops)) :], count)
    out = open_memmap(work / "mixed.part.npy", "w+", np.uint8, (count, CROP, CROP, 3))
    for row, pixels in enumerate(made):
        out[row] = pixels
    out.flush()
    os.replace(work / "mixed.part.npy", work / "mixed.npy")


def look(x: Tensor, row: int, teacher: str, view: int) -> Tensor:
    """What a teacher sees of crops (n, 3, 128, 128) from `row` on: (n, 3, 112, 112)."""
    if view > 1:
        return move(x, torch.Generator(x.device).manual_seed(row + view), 0.5)
    x = middle(x)
    return x.flip(3) if (view + TEACHERS.index(teacher)) % 2 else x


def grown(path: Path, shape: tuple[int, ...], dtype: type, fill: float) -> NDArray[Any]:
    """The array of `path`, made or made longer where it has fewer rows than `shape`.

    It appears whole: rows of zeros that wait to be filled would pass for computed ones.
    """
    old = np.load(path, mmap_mode="r") if path.exists() else np.zeros((0, *shape[1:]), dtype)
    if len(old) < shape[0]:
        part = path.with_suffix(".part.npy")
        out = open_memmap(part, "w+", dtype, shape)
        out[: len(old)] = old
        if fill:  # a new file is of zeros, and should not be written twice
            out[len(old) :] = fill
        out.flush()
        part.replace(path)
    return open_memmap(path, "r+")


def build_embeddings(
    work: Path, kind: str, teacher: str, view: int, folder: Path, threads: int
) -> None:
    """Run one teacher over `<kind>.npy`; goes on where an earlier run stopped."""
    crops = np.load(work / f"{kind}.npy", mmap_mode="r")
    path = work / f"{kind}_{teacher}_{view}.npy"
    out = grown(path, (len(crops), 128), np.float32, np.nan)
    start = ready(out)
    model, device = load_teacher(folder, teacher), best_device()
    run = model.to(device) if device != "cpu" else fast(model, threads)
    seen = partial(look, teacher=teacher, view=view)
    with progress() as bar:
        task = bar.add_task(f"{kind}: {teacher}, {view}", total=len(crops), completed=start)
        for part in embed(run, crops, seen, start, 4 if device == "cpu" else 512, device):
            out[start : start + len(part)] = part.numpy()
            start += len(part)
            bar.advance(task, len(part))
    out.flush()


def teacher_embeddings(work: Path, kind: str, teacher: str) -> NDArray[np.float32] | None:
    """Mean of the unit embeddings of all looks at the rows that are ready; None without any.

    A look that has not got as far as the first one counts where it has been.
    """
    total: NDArray[np.float32] | None = None
    for view in range(MOST_VIEWS):
        path = work / f"{kind}_{teacher}_{view}.npy"
        if not path.exists():
            break
        found = np.load(path, mmap_mode="r")
        found = np.array(found[: ready(found)])
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        if total is None:
            total = found
        else:
            rows = min(len(total), len(found))
            total[:rows] += found[:rows]
    return total


def ready(embeddings: NDArray[np.float32]) -> int:
    """How many leading rows are computed."""
    missing = np.isnan(embeddings[:, 0])
    return int(missing.argmax()) if missing.any() else len(embeddings)


class Pool:
    """The rows that are ready: `batch` gives crops and unit targets.

    On a GPU all of them lie there, as they were when the pool was made: a copy of each batch would
    take longer than a step.
    """

    def __init__(
        self,
        work: Path,
        kinds: Sequence[str] = KINDS,
        held_out: int = 0,
        width: int = TARGET_WIDTH,
        device: str = "cpu",
    ) -> None:
        self.work, self.kinds, self.held_out, self.width = work, kinds, held_out, width
        self.resident: tuple[Tensor, Tensor] | None = None
        self.axes: Tensor | None = None
        if not self.refresh():
            raise ValueError(f"{work}: no row of {', '.join(kinds)} is ready to learn from; "
                             "let training.data run first")  # fmt: skip
        if device != "cpu":
            pixels = [
                torch.from_numpy(np.array(crops)).to(device) for crops, _ in self.parts.values()
            ]
            goals = torch.cat([goal for _, goal in self.parts.values()])
            self.resident = torch.cat(pixels), goals.to(device)

    def refresh(self) -> int:
        """Take in what the teachers have finished since; the number of rows."""
        if self.resident:
            return len(self)
        self.parts: dict[str, tuple[NDArray[np.uint8], Tensor]] = {}
        for kind in self.kinds:
            found = [teacher_embeddings(self.work, kind, teacher) for teacher in TEACHERS]
            rows = min(0 if e is None else len(e) for e in found)
            skip = self.held_out if kind == "crops" else 0
            if rows > skip:
                goal = targets([torch.from_numpy(e[skip:rows]) for e in found if e is not None])
                goal = self.narrow(goal)
                crops = np.load(self.work / f"{kind}.npy", mmap_mode="r")[skip:rows]
                self.parts[kind] = crops, goal
        return len(self)

    def narrow(self, goal: Tensor) -> Tensor:
        """Unit targets (n, 512) -> (n, width)."""
        if self.width == TARGET_WIDTH:
            return goal
        return F.normalize(goal @ self._axes(goal), dim=1)

    def _axes(self, goal: Tensor) -> Tensor:
        """(512, width): the targets' main directions, for a student of fewer dimensions.

        Found once and kept, so that a later call with more rows aims at the same targets.
        """
        if self.axes is None:
            path = self.work / f"axes_{self.width}.npy"
            if not path.exists():
                axes = torch.linalg.eigh(goal.T @ goal).eigenvectors[:, -self.width :]
                np.save(path, axes.numpy())
            self.axes = torch.from_numpy(np.load(path))
        self.axes = self.axes.to(goal.device)
        return self.axes

    def __len__(self) -> int:
        return sum(len(goal) for _, goal in self.parts.values())

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Crops (b, 3, 128, 128) float in 0..255, channels last, and targets (b, 512)."""
        if self.resident:
            every, goal = self.resident
            at = torch.from_numpy(rows).to(every.device)
            return every[at].permute(0, 3, 1, 2).float(), goal[at]
        pixels, goals = [], []
        for row in rows:
            for crops, goal in self.parts.values():
                if row < len(goal):
                    pixels.append(crops[row])
                    goals.append(goal[row])
                    break
                row -= len(goal)
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float(), torch.stack(goals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the .zip and .csv")
    parser.add_argument("--teachers", type=Path, required=True, help="folder of their weights")
    parser.add_argument("--work", type=Path, required=True, help="the arrays go here")
    parser.add_argument("--pool", nargs="+", default=POOL, metavar="NAME",
                        help="sets to learn from: NAME.zip and NAME.csv in DATA "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--mixtures", type=int, default=0, help="pictures made of two faces")
    parser.add_argument("--views", type=int, choices=range(1, MOST_VIEWS + 1), default=2,
                        metavar="N", help="looks that each teacher takes at a picture")  # fmt: skip
    parser.add_argument("--teacher", choices=TEACHERS, action="append", help="only this one")
    parser.add_argument("--threads", type=int, default=1, help="that align, and of the CPU")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    try:
        build_crops(args.data, args.work, args.threads, args.pool)
        if args.mixtures:
            build_mixtures(args.work, args.mixtures)
    except ValueError as error:
        parser.error(str(error))
    for kind in ("crops", "mixed") if args.mixtures else ("crops",):
        for view, teacher in product(range(args.views), args.teacher or TEACHERS):
            build_embeddings(args.work, kind, teacher, view, args.teachers, args.threads)


if __name__ == "__main__":
    main()
