"""One training step of a student, and everything a checkpoint must hold to repeat the next one."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.augment import augment, centre
from training.data import KINDS, Pool
from training.fused import use_fused
from training.gemm import use_gemm
from training.live import Live
from training.muon import Muon
from training.networks import NETWORKS, ConvUnit, has_depthwise, stages


@dataclass(frozen=True)
class Settings:
    """What decides a run, besides its length. `chunk`: samples that pass the convolutions at a
    time, so that their maps stay in the cache; the loss sees the whole batch. `small`: up to
    this share of the run pictures are 97x97, the smallest that end in the same 4x4 map. `half`:
    convolutions in bfloat16, for processors that multiply it in hardware (AVX-512 BF16, AMX).
    `fused`: normalisation and activation in one compiled pass; `half` implies it.
    `frozen`: layers that keep the weights the run begins with; worth it for the first ones of a
    network that has learnt before, where most of the time goes and the least is left to learn.
    `seldom`: the layers that come to rest early learn in one step of so many, for the same reason.
    `live`: this share of every batch is mixed in the step, and the teachers look at it, `looks`
    times each (`live.py`). `kinds`: arrays that the rows are from.
    """

    network: str = "fdfacenet"
    batch: int = 128
    chunk: int = 32
    muon: float = 0.025
    adam: float = 2e-3
    relation: float = 20.0
    average: float = 0.995
    strength: float = 0.7
    rest: bool = True
    small: float = 0.25
    seed: int = 0
    half: bool = False
    fused: bool = False
    frozen: tuple[str, ...] = ()
    seldom: int = 1
    live: float = 0.0
    looks: int = 1
    kinds: tuple[str, ...] = KINDS

    # What may differ where a run goes on: how a machine computes, not what.
    FREE: ClassVar = frozenset({"chunk", "half", "fused"})
    # What may not, whoever asks for it: the optimisers' state is of these weights.
    BOUND: ClassVar = frozenset({"network", "frozen"})

    def differing(self, saved: dict[str, Any]) -> list[str]:
        """In words, what a checkpoint's settings say otherwise; an older version's lack some."""
        own, usual = vars(self), vars(Settings(kinds=self.kinds))
        was = {name: saved.get(name, usual[name]) for name in own if name not in self.FREE}
        return [
            f"{name} {value} (now {own[name]})"
            for name, value in was.items()
            if (tuple(value) if isinstance(value, list) else value) != own[name]
        ]


def shape(progress: float) -> float:
    """Learning rate over a run, 0..1 -> 0..1: a short rise, level, then straight down to 0."""
    return min(1.0, 0.05 + progress / 0.015, (1 - progress) / 0.75) if progress < 1 else 0.0


def distance(student: Tensor, target: Tensor, relation: float) -> tuple[Tensor, Tensor]:
    """(loss, mean cosine): 1 - cosine, plus the similarity matrices' squared difference."""
    s = F.normalize(student, dim=1)
    cosine = (s * target).sum(1).mean()
    return 1 - cosine + relation * F.mse_loss(s @ s.T, target @ target.T), cosine


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, float32.

    Raises:
        ValueError: it is none.
        OSError: it cannot be read.
    """
    try:
        return {name: value.float() for name, value in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"{path}: no safetensors file ({error}); name an export") from None


def take_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Let the model have the weights of a file, all of them.

    Raises:
        ValueError: their names or shapes are not those of the model's.
    """
    own, given = (
        {name: value.shape for name, value in of.items() if not name.endswith("_tracked")}
        for of in (model.state_dict(), weights)
    )
    wrong = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if wrong:
        raise ValueError(f"{path}: not this network's weights: {', '.join(wrong[:4])}; "
                         "name its --network")  # fmt: skip
    model.load_state_dict(weights, strict=False)


class Student:
    """A network, the running average of its weights, its optimisers and random states."""

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.device = settings, device
        model = NETWORKS[settings.network]()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.25, mode="fan_in")
        layers = [name for name, _ in model.named_children()]
        for name in set(settings.frozen).difference(layers):
            raise ValueError(f"no layer {name} to be frozen; {settings.network} has "
                             f"{', '.join(layers)}")  # fmt: skip
        for name, p in model.named_parameters():
            p.requires_grad_(name.split(".")[0] not in settings.frozen)
        # On a GPU, gradients of depthwise convolutions are fast with channels first alone.
        first = device != "cpu" and has_depthwise(model)
        self.layout = torch.contiguous_format if first else torch.channels_last
        self.model = model.to(device).to(memory_format=self.layout)
        if device == "cpu" and not settings.half:
            use_gemm(self.model)
        if device == "cpu" and (settings.half or settings.fused):
            use_fused(self.model, ConvUnit)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimisers = [
            Muon(self._groups(True), settings.muon),
            torch.optim.AdamW(
                self._groups(False), settings.adam, betas=(0.9, 0.99), weight_decay=0.0
            ),
        ]
        self.live: Live | None = None
        self.numbers = torch.Generator(device).manual_seed(settings.seed)
        self.epoch, self.position, self.rows = -1, 0, 0
        self.steps, self.samples, self.seconds = 0, 0, 0.0

    def _groups(self, spectral: bool) -> list[dict[str, Any]]:
        """Parameters by the time they come to rest; dense weights are Muon's, the rest AdamW's."""
        by_rest: dict[float, list[Tensor]] = {}
        for name, p in self.model.named_parameters():
            dense = p.dim() > 1 and p.shape[1] > 1
            if p.requires_grad and dense == spectral:
                rest = stages(self.settings.network, name)
                by_rest.setdefault(rest, []).append(p)
        return [{"params": params, "rest": rest} for rest, params in sorted(by_rest.items())]

    def rows_of(self, pool: Pool) -> np.ndarray:
        """The next batch's rows: every row once in an epoch, in a seeded order."""
        size = self.settings.batch
        # Of other kinds than before, a pool may have fewer rows than the epoch was begun with.
        if self.epoch < 0 or self.position + size > self.rows or self.rows > len(pool):
            self.epoch, self.position, self.rows = self.epoch + 1, 0, pool.refresh()
        if self.position == 0 or not hasattr(self, "order"):
            seed = (self.settings.seed, self.epoch)
            self.order = np.random.default_rng(seed).permutation(self.rows)
        self.position += size
        return self.order[self.position - size : self.position]

    def step(self, pool: Pool, progress: float) -> dict[str, float]:
        """One update at `progress` (0..1) of the run."""
        pixels, target = (x.to(self.device) for x in pool.batch(self.rows_of(pool)))
        mixed = None if self.live is None else self.live(pixels, target, self.numbers)
        size = 97 if progress < self.settings.small else 112
        strength = self.settings.strength
        chunk = self.settings.chunk if self.device == "cpu" else len(pixels)
        parts = pixels.split(chunk)
        seen = [augment(part, self.numbers, strength, size) for part in parts]
        self._set_rates(progress)
        self.model.train()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.settings.half):
            maps = [
                self.model.features(part.contiguous(memory_format=self.layout)) for part in seen
            ]
        output = self.model.head(torch.cat(maps).float())
        loss, cosine = distance(output, target, self.settings.relation)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        self.steps += 1
        self.samples += len(target)
        self._follow()
        figures = {"loss": loss, "cosine": cosine}
        if mixed is not None:
            figures["live"] = F.cosine_similarity(output.detach()[mixed], target[mixed]).mean()
        return dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))

    def _set_rates(self, progress: float) -> None:
        for optimiser, base in zip(
            self.optimisers, (self.settings.muon, self.settings.adam), strict=True
        ):
            for group in optimiser.param_groups:
                rest = group["rest"] if self.settings.rest else 1.0
                skipped = group["rest"] < 1 and self.steps % self.settings.seldom
                group["lr"] = 0.0 if skipped else base * shape(progress / rest)
                for p in group["params"]:
                    p.requires_grad_(group["lr"] > 0)

    @torch.no_grad()
    def _follow(self) -> None:
        weight = max(1 - self.settings.average, 1 / (1 + self.steps / 4))
        own = self.model.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(own[name], weight)
            else:
                value.copy_(own[name])

    @torch.no_grad()
    def settle(self, pool: Pool, samples: int = 2048) -> nn.Module:
        """The averaged network with its batch statistics computed anew, from clean crops of the
        pool: what it will meet in use, not what it learnt from.
        """
        model = copy.deepcopy(self.average).train()
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain mean over the batches
        rows = np.random.default_rng(7).choice(len(pool), samples, replace=len(pool) < samples)
        for part in np.array_split(rows, max(1, samples // 128)):
            model(centre(pool.batch(part)[0].to(self.device)))
        for norm in norms:
            norm.momentum = 0.1
        return model.eval()

    def start_from(self, path: Path) -> None:
        """Take the weights of a safetensors file whose names are this network's."""
        weights = read_weights(path)
        for model in (self.model, self.average):
            take_weights(model, weights, path)

    def save(self, path: Path) -> None:
        """Write a checkpoint; the file appears whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "numbers": self.numbers.get_state(),
            "settings": vars(self.settings),
            "counts": {
                k: getattr(self, k)
                for k in ("epoch", "position", "rows", "steps", "samples", "seconds")
            },
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, path)

    def load(self, path: Path, changed: bool = False) -> None:
        """Go on from a checkpoint of `save`.

        Raises:
            ValueError: its settings or its kind of machine are others, and `changed` does not
                say that they may be.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        others = self.settings.differing(state["settings"])
        way = "another --name, or --changed to go on with the new ones"
        if changed:
            others = [text for text in others if text.split()[0] in Settings.BOUND]
            way = "or another --name and --weights"
        if others:
            raise ValueError(f"{path} was made with {', '.join(others)}; give the same settings, "
                             f"{way}")  # fmt: skip
        numbers = state["numbers"].cpu()
        same = len(numbers) == len(self.numbers.get_state())  # a GPU's are of another kind
        if not same and not changed:
            raise ValueError(f"{path} was made on a GPU or a CPU, and here is the other, with "
                             "other random numbers; --changed goes on with these")  # fmt: skip
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        for key, value in state["counts"].items():
            setattr(self, key, value)
        if same:
            self.numbers.set_state(numbers)
        else:
            seed = np.random.SeedSequence((self.settings.seed, self.steps))
            self.numbers.manual_seed(int(seed.generate_state(1)[0]))
        if hasattr(self, "order"):
            del self.order


@torch.inference_mode()
def embeddings(
    model: nn.Module, crops: Iterable[np.ndarray], device: str = "cpu", batch: int = 32
) -> np.ndarray:
    """Embeddings (n, d) of clean uint8 crops (n, s, s, 3)."""
    pixels = np.asarray(crops)
    found = []
    for start in range(0, len(pixels), batch):
        x = torch.from_numpy(np.array(pixels[start : start + batch])).permute(0, 3, 1, 2).float()
        found.append(model(centre(x.to(device))).cpu())
    return torch.cat(found).numpy()
