"""New faces while a student learns: part of every batch is mixed, and the teachers look at it then.

What a student of a fixed pool learns by heart in a long run it cannot learn of pictures that are
never the same twice; teacher and student see the same mixed picture ("function matching", Beyer
et al. 2022), the student as `augment` spoils it. The targets follow the pool's convention
(`data.py`): the mean direction of each teacher's looks, and of two teachers with one look each
the first sees the picture and the second its mirror image.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from training.data import look
from training.mixing import mix
from training.teachers import TEACHERS, fast, load_teacher, targets

LOOKS = (1, 2)  # as it is and mirrored; a mixture is moved anyhow
AT_ONCE = {"cpu": 4, "cuda": 1024}  # pictures: their maps fit a core's cache, or a GPU's memory
Network = Callable[[Tensor], Tensor]


def _speed(run: Network, x: Tensor, repeats: int = 4) -> float:
    """Pictures a second."""

    def wait() -> None:
        if x.is_cuda:
            torch.cuda.synchronize(x.device)

    run(x)
    run(x)
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        run(x)
    wait()
    return repeats * len(x) / (time.perf_counter() - start)


def _as(model: nn.Module, kind: torch.dtype, layout: torch.memory_format) -> Network:
    """A copy of `model` that computes in `kind` on maps of one layout, from and to float32."""
    own = copy.deepcopy(model).to(kind).to(memory_format=layout)
    return lambda x: own(x.to(kind).contiguous(memory_format=layout)).float()


@torch.no_grad()
def quickest(model: nn.Module, x: Tensor, least: float = 0.999) -> tuple[Network, dict[str, Any]]:
    """`model` as it runs fastest on pictures like `x` (n,3,112,112), and what was measured.

    Normalisations are folded into convolutions; float16 (bfloat16 is as fast and less exact:
    cosines of .9986 against .99997) and float32, channels first and last, are timed where every
    cosine to `model` itself is at least `least`.
    """
    folded, wanted = fuse(model.eval()), model(x)
    found: list[tuple[float, str, Network]] = []
    for kind in (torch.float16, torch.float32):
        for layout in (torch.contiguous_format, torch.channels_last):
            run = _as(folded, kind, layout)
            cosine = F.cosine_similarity(run(x), wanted).min().item()
            if cosine >= least or (kind, layout) == (torch.float32, torch.channels_last):
                found.append((_speed(run, x), f"{kind}, {layout}", run))
    rates = {name.replace("torch.", ""): round(rate) for rate, name, _ in found}
    return max(found, key=lambda f: f[0])[2], rates


class Live:
    """Mixes a share of a batch and asks the teachers anew.

    Args:
        folder: of the teachers' weights.
        share: of the batch, 0..1.
        looks: that each teacher takes, 1 or 2.
        narrow: brings targets (n, 512) to the student's width, as `Pool.narrow` does.
        sample: crops (n,3,128,128) in 0..255 that the teachers are timed with, on a GPU.
    """

    def __init__(
        self,
        folder: Path,
        share: float,
        looks: int = 1,
        narrow: Callable[[Tensor], Tensor] = lambda goal: goal,
        sample: Tensor | None = None,
        device: str = "cpu",
    ) -> None:
        self.share, self.looks, self.narrow, self.device = share, looks, narrow, device
        self.rates: dict[str, dict[str, Any]] = {}
        self.teachers: dict[str, Network] = {}
        for name in TEACHERS:
            model = load_teacher(folder, name).requires_grad_(False)
            if device == "cpu":
                self.teachers[name] = fast(model, torch.get_num_threads())
            else:
                assert sample is not None
                x = look(sample.to(device), 0, name, 0).contiguous()
                self.teachers[name], self.rates[name] = quickest(model.to(device), x)

    @torch.no_grad()
    def targets(self, x: Tensor) -> Tensor:
        """Crops (n,3,128,128) in 0..255 -> unit targets (n, width of the student)."""
        found = []
        for name, teacher in self.teachers.items():
            total: Tensor | float = 0.0
            for view in range(self.looks):
                seen = look(x, 0, name, view)
                parts = seen.split(AT_ONCE[self.device])
                answer = torch.cat([teacher(part.contiguous()) for part in parts])
                total = total + F.normalize(answer.float(), dim=1)
            found.append(total)
        return self.narrow(targets(found))

    def rows(self, n: int) -> Tensor:
        """Which of a batch's `n` rows are mixed: evenly spread, since what a student sees of a
        batch is spoilt in parts that stand together.
        """
        count = round(self.share * n)
        return torch.arange(count, device=self.device) * n // max(1, count)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, goal: Tensor, gen: torch.Generator) -> Tensor:
        """Crops (n,3,128,128) in 0..255 and targets, of which a share is changed in place to
        mixtures with other crops of the batch and to their targets; the rows they stand in.
        """
        n = len(pixels)
        rows = self.rows(n)
        if not len(rows):
            return rows
        away = torch.randint(1, max(2, n), (len(rows),), generator=gen, device=gen.device)
        others = (rows + away) % n
        size = 32 if self.device == "cpu" else len(rows)  # for the cache
        mixed = [
            mix(pixels[a], pixels[b], gen)
            for a, b in zip(rows.split(size), others.split(size), strict=True)
        ]
        new = torch.cat(mixed)
        pixels[rows], goal[rows] = new, self.targets(new)
        return rows
