"""Make faces of people who do not exist for a recogniser to learn from, as many as are wanted.

    pip install --no-deps random_face
    python -m training.generate --teachers DIR --work DIR --count 40000

What `training.data` does for pictures it does for those of `generator.py`: finds each face (with
the teacher of the detector), aligns it, and asks the recognisers' teachers. In the work folder:

    made.npy               (count, 128, 128, 3) uint8
    made_<teacher>_0.npy   (count, 128) float32, NaN where not yet computed

A picture depends on the seed and its row alone, so that a run may stop, go on, and have a larger
count; a training that is under way takes in new rows at its next epoch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.alignment import crop
from training.data import grown, look, progress, ready
from training.detector_net import RetinaFace, decode, to_input
from training.detector_net import load_teacher as load_detector
from training.generator import Generator, package_folder
from training.mixing import CROP
from training.teachers import TEACHERS, best_device, embed, fast, load_teacher

KIND = "made"
SURE = 0.8  # score of a face; most have .99
ATTEMPTS = 20
AT_ONCE = {"cpu": 1, "cuda": 64}  # pictures: on a CPU one's maps are more than its cache
PART = 64  # rows between two writes
Network = Callable[[Tensor], Tensor]


class Recipe(NamedTuple):
    """What a picture is made of: noise of two people (2, width); how far from the mean face, .75 to
    1.15 times as far as drawn; and the level from which on the second one's style holds, for
    one picture in two past the last.
    """

    noise: NDArray[np.float32]
    far: float
    second: int


def recipe(seed: int, row: int, attempt: int, width: int, levels: int) -> Recipe:
    """Hangs on its arguments alone."""
    rng = np.random.default_rng((seed, row, attempt))
    noise = rng.standard_normal((2, width)).astype(np.float32)
    far, second = rng.uniform(0.75, 1.15), int(rng.integers(1, levels))
    return Recipe(noise, far, second if rng.random() < 0.5 else levels)


def pictures(generator: Generator, recipes: list[Recipe]) -> Tensor:
    """(recipes, side, side, 3) uint8."""
    noise = torch.from_numpy(np.concatenate([r.noise for r in recipes]))
    two = generator.styles(noise).view(len(recipes), 2, 1, -1)
    levels = torch.arange(generator.levels, device=two.device)
    begins = torch.tensor([r.second for r in recipes], device=two.device)
    first = (levels < begins[:, None])[:, :, None]
    styles = torch.where(first, two[:, 0], two[:, 1])
    far = torch.tensor([r.far for r in recipes], dtype=torch.float32, device=two.device)
    return generator.pictures(torch.lerp(generator.mean, styles, far[:, None, None]))


@torch.inference_mode()
def landmarks(detector: RetinaFace, made: Tensor) -> list[NDArray[np.float64] | None]:
    """Five points (5, 2) of the surest face in each of (n, h, w, 3) uint8; None without one."""
    answer = detector(to_input(made))
    found = [decode(answer, i, *made.shape[1:3], SURE) for i in range(len(made))]
    return [faces.points[0].astype(np.float64) if len(faces) else None for faces in found]


def crops(
    generator: Generator, detector: RetinaFace, seed: int, rows: Sequence[int]
) -> NDArray[np.uint8]:
    """Aligned faces (rows, 128, 128, 3); a row whose picture shows none is drawn again.

    Raises:
        ValueError: one shows none time and again.
    """
    out = np.zeros((len(rows), CROP, CROP, 3), np.uint8)
    left = list(range(len(rows)))
    for attempt in range(ATTEMPTS):
        recipes = [recipe(seed, rows[i], attempt, generator.width, generator.levels) for i in left]
        made = pictures(generator, recipes)
        points = landmarks(detector, made)
        for i, picture, at in zip(left, made.cpu().numpy(), points, strict=True):
            if at is not None:
                border = "zero" if rows[i] % 3 == 0 else "edge"
                out[i] = crop(Image.fromarray(picture), at, CROP, border)
        left = [i for i, at in zip(left, points, strict=True) if at is None]
        if not left:
            return out
    raise ValueError(f"no face in {ATTEMPTS} pictures for row {rows[left[0]]}; look at --model")


class Making:
    """The arrays of the work folder, and the networks that fill them."""

    def __init__(self, work: Path, teachers: Path, folder: Path, count: int, threads: int) -> None:
        self.device, self.count = best_device(), count
        self.at_once = AT_ONCE[self.device]
        self.generator = Generator(folder, self.device)
        self.detector = load_detector(teachers / "retinaface_mnet025.pth").to(self.device)
        models = {name: load_teacher(teachers, name).to(self.device) for name in TEACHERS}
        self.teachers: dict[str, Network] = {
            name: fast(model, threads) if self.device == "cpu" else model
            for name, model in models.items()
        }
        self.pixels = grown(work / f"{KIND}.npy", (count, CROP, CROP, 3), np.uint8, 0)
        self.answers = {
            name: grown(work / f"{KIND}_{name}_0.npy", (count, 128), np.float32, np.nan)
            for name in TEACHERS
        }

    def run(self, seed: int) -> Iterator[int]:
        """Fill what is missing; the number of rows that are ready, again and again."""
        done = min(ready(answer) for answer in self.answers.values())
        yield done
        while done < self.count:
            end = min(done + PART, self.count)
            for start in range(done, end, self.at_once):
                rows = range(start, min(start + self.at_once, end))
                self.pixels[start : rows.stop] = crops(self.generator, self.detector, seed, rows)
            for name, teacher in self.teachers.items():
                seen, size = (
                    partial(look, teacher=name, view=0),
                    4 if self.device == "cpu" else PART,
                )
                found = embed(teacher, self.pixels[:end], seen, done, size, self.device)
                self.answers[name][done:end] = torch.cat(list(found)).numpy()
            done = end
            yield done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teachers", type=Path, required=True, help="folder of their weights")
    parser.add_argument("--work", type=Path, required=True, help="the arrays go here")
    parser.add_argument("--count", type=int, default=40_000, help="faces, with those there are")
    parser.add_argument("--model", type=Path, help="folder of MappingNetwork.xml, "
                        "SynthesisNetwork.xml and their .bin (default: random_face's)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="other faces")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    try:
        folder = args.model or package_folder()
        making = Making(args.work, args.teachers, folder, args.count, args.threads)
        with progress() as bar:
            task = bar.add_task("making faces", total=args.count)
            for done in making.run(args.seed):
                bar.update(task, completed=done)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
