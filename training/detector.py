"""Train the face detector by dense distillation from a public RetinaFace-MobileNetV1x0.25.

    python -m training.detector --data DIR --teachers DIR --work DIR --minutes 60 --threads 2

The student starts from random weights. The learning rate follows the clock, so that it has come
down when the minutes are over; a run that was stopped goes on with ``--resume``.
"""

from __future__ import annotations

import copy
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.progress import Progress
from safetensors.torch import load_file
from torch import Tensor

from .detector_data import HELD_OUT, POOLS, Pool, Portraits, batch, is_held_out
from .detector_eval import Evaluation, evaluate, summary
from .detector_export import export
from .detector_loss import Weights, distillation_loss, quieten
from .detector_net import RetinaFace, load_teacher, split_parameters, to_input
from .muon import Muon
from .teachers import best_device

TEACHER = "retinaface_mnet025.pth"
# Width, height, pictures to a batch, share of the batches. Close-ups need large pictures, odd
# sizes the upsampling of maps that do not divide.
SIZES = (
    (256, 256, 8, 0.45),
    (192, 192, 14, 0.12),
    (330, 250, 6, 0.13),
    (384, 384, 4, 0.15),
    (512, 512, 2, 0.1),
    (640, 640, 1, 0.05),
)
HINT_JOINED = 0.4  # weight of the hints from then on, when the outputs themselves are what counts
RENEWED = 6  # portraits exchanged with every batch
REPLAY = 48  # batches that wait to be seen once more, mirrored; making one costs a third of a step
PLATEAU = 0.2  # share of the run at the full learning rate
FORCED = 0.5  # share of the run in which each part of the network reads the teacher's maps


@dataclass(frozen=True)
class Options:
    """One run, as asked for."""

    data: Path
    teachers: Path
    images: Path | None
    work: Path
    export_to: Path
    minutes: float
    threads: int
    seed: int
    cache: int
    lr: float
    device: str
    weights: Path | None = None
    pool: tuple[str, ...] = POOLS

    def lasting(self) -> dict[str, Any]:
        """What must be the same where a run goes on."""
        given = {"seed": self.seed, "lr": self.lr, "weights": bool(self.weights)}
        return given | {"pool": list(self.pool)}

    @property
    def forced(self) -> float:
        """Share of the run in which parts learn apart: none where they have learnt before."""
        return 0.0 if self.weights else FORCED


@dataclass
class State:
    """Everything that a checkpoint holds."""

    net: RetinaFace
    ema: RetinaFace
    optimizers: list[torch.optim.Optimizer]
    rng: np.random.Generator
    step: int = 0
    pictures: int = 0
    seconds: float = 0.0
    base: list[float] = field(default_factory=list)
    lasting: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the checkpoint whole or not at all."""
        content = {
            "net": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "rng": json.dumps(self.rng.bit_generator.state),
            "counts": (self.step, self.pictures, self.seconds),
            "lasting": self.lasting,
        }
        torch.save(content, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def load(self, path: Path, device: str) -> None:
        """Continue from `path`.

        Raises:
            click.ClickException: it was made with other options that decide what is learnt.
        """
        content = torch.load(path, map_location=device, weights_only=True)
        was = content.get("lasting", {})  # an older version did not say
        others = [
            f"{k} {v} (now {self.lasting[k]})" for k, v in was.items() if v != self.lasting[k]
        ]
        if others:
            raise click.ClickException(
                f"{path} was made with {', '.join(others)}; give the same, or another --work"
            )
        self.net.load_state_dict(content["net"])
        self.ema.load_state_dict(content["ema"])
        for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.rng.bit_generator.state = json.loads(content["rng"])
        self.step, self.pictures, self.seconds = content["counts"]


def new_state(options: Options) -> State:
    """Random weights (He), their average, and the optimizers."""
    torch.manual_seed(options.seed)
    net = RetinaFace()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_out")
            if module.groups > 1:  # fan_out counts all channels, a depthwise filter has one
                torch.nn.init.normal_(module.weight, std=1 / 3)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
                torch.nn.init.normal_(module.weight, std=0.01)
    for stage in (net.body.stage1, net.body.stage2):
        torch.nn.init.constant_(stage[-1][4].weight, 0.25)  # the spread of the hints, roughly
    net = net.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    matrices, rest = split_parameters(net)
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=options.lr),
        torch.optim.AdamW(rest, lr=options.lr / 3, betas=(0.9, 0.99), weight_decay=0.0),
    ]
    if options.weights:
        missing, extra = net.load_state_dict(load_file(options.weights), strict=False)
        if extra or any(not key.endswith("num_batches_tracked") for key in missing):
            raise click.ClickException(f"{options.weights}: not this network's weights")
    base = [group["lr"] for o in optimizers for group in o.param_groups]
    rng = np.random.default_rng(options.seed)
    ema = copy.deepcopy(net).requires_grad_(False)
    return State(net, ema, optimizers, rng, base=base, lasting=options.lasting())


def learning_rate(done: float) -> float:
    """Factor of the base rate at the share `done` of the run: rise, plateau, then a square."""
    return max(0.002, min(1.0, done / 0.01 + 0.05, ((1 - done) / (1 - PLATEAU)) ** 2))


def train_step(
    state: State,
    teacher: RetinaFace,
    made: tuple[np.ndarray, np.ndarray],
    done: float,
    forced: float = FORCED,
) -> dict[str, Tensor]:
    """One update from (N, H, W, 3) uint8 pictures and their marks; returns the loss's terms."""
    pictures, empty = made
    for group, base in zip(
        (g for o in state.optimizers for g in o.param_groups), state.base, strict=True
    ):
        group["lr"] = base * learning_rate(done)
    x = to_input(torch.from_numpy(pictures).to(next(state.net.parameters()).device))
    with torch.no_grad():
        target = quieten(teacher(x), torch.from_numpy(empty).to(x.device))
    guess = state.net(x, given=target if done < forced else None)
    hint = 1.0 if done < forced else HINT_JOINED
    total, terms = distillation_loss(guess, target, Weights(), hint)
    for optimizer in state.optimizers:
        optimizer.zero_grad()
    total.backward()
    if torch.isfinite(total):  # a broken batch must not end a long run
        for optimizer in state.optimizers:
            optimizer.step()
    state.step += 1
    state.pictures += len(pictures)
    decay = min(0.998, state.step / (state.step + 10))
    with torch.no_grad():
        for slow, fast in zip(state.ema.parameters(), state.net.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)
    return terms | {"total": total.detach()}


def draw_batch(rng: np.random.Generator, portraits: Portraits) -> tuple[np.ndarray, np.ndarray]:
    """One batch of a random size, (N, H, W, 3) uint8, and (N,) whether a picture is faceless."""
    w, h, count, _ = SIZES[int(rng.choice(len(SIZES), p=[s[3] for s in SIZES]))]
    return batch(rng, count, w, h, portraits)


class Batches:
    """Training batches; each is seen twice, the second time mirrored and some time later."""

    def __init__(self, rng: np.random.Generator, portraits: Portraits) -> None:
        self.rng, self.portraits = rng, portraits
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """The next batch, (N, H, W, 3) uint8, and (N,) whether a picture is faceless."""
        if len(self.waiting) == REPLAY:
            pictures, empty = self.waiting.pop(int(self.rng.integers(REPLAY)))
            return np.ascontiguousarray(pictures[:, :, ::-1]), empty
        self.portraits.renew(2 * RENEWED)
        self.waiting.append(draw_batch(self.rng, self.portraits))
        return self.waiting[-1]


@torch.no_grad()
def refresh_batchnorm(net: RetinaFace, portraits: Portraits, seed: int, batches: int) -> None:
    """Recompute the batch norms' statistics, as plain means over fresh compositions.

    The average of the weights never saw a batch of its own, and 512-pixel batches of two give
    statistics too noisy for a running mean.
    """
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
    net.train()
    rng = np.random.default_rng(seed)
    device = next(net.parameters()).device
    for _ in range(batches):
        net(to_input(torch.from_numpy(draw_batch(rng, portraits)[0]).to(device)))
    for norm in norms:
        norm.momentum = 0.1
    net.eval()


class Run:
    """A training run: its pictures, its teacher, its log."""

    def __init__(self, options: Options, resume: bool) -> None:
        torch.set_num_threads(options.threads)
        options.work.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.teacher = load_teacher(options.teachers / TEACHER).to(
            options.device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        self.state = new_state(options)
        self.checkpoint = options.work / "checkpoint.pt"
        if resume and self.checkpoint.exists():
            self.state.load(self.checkpoint, options.device)
        self.pools = [Pool(options.data, name) for name in options.pool]
        if len({is_held_out(name) for pool in self.pools for name in pool.names}) < 2:
            raise ValueError(
                f"{', '.join(options.pool)}: one picture in {HELD_OUT}, chosen by its name, is for "
                "the exam, and here all are or none is; add pictures, or give some other names"
            )
        self.portraits = Portraits(self.pools, options.cache, self.state.rng)
        self.batches = Batches(self.state.rng, self.portraits)
        self.evaluation: Evaluation | None = None
        self.started = time.monotonic() - self.state.seconds

    def log(self, kind: str, content: dict[str, Any]) -> None:
        """Append one line to log.jsonl."""
        line = {"kind": kind, "step": self.state.step, "pictures": self.state.pictures}
        line |= {"seconds": round(self.state.seconds, 1)} | content
        with open(self.options.work / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def train(
        self, log_every: int = 50, save_every: float = 120, export_every: float = 720
    ) -> None:
        """Until the minutes are over; exports on the way and at the end."""
        total = self.options.minutes * 60
        sums: dict[str, float] = {}
        saved = exported = self.state.seconds
        with Progress() as progress:
            bar = progress.add_task("training", total=total, completed=self.state.seconds)
            while self.state.seconds < total:
                done = self.state.seconds / total
                made = self.batches.draw()
                terms = train_step(self.state, self.teacher, made, done, self.options.forced)
                self.state.seconds = time.monotonic() - self.started
                for key, value in terms.items():
                    sums[key] = sums.get(key, 0.0) + float(value) / log_every
                progress.update(bar, completed=self.state.seconds)
                if self.state.step % log_every == 0:
                    self.log("train", {key: round(v, 5) for key, v in sums.items()})
                    progress.console.print(
                        f"{self.state.seconds:6.0f} s  step {self.state.step}  "
                        + "  ".join(f"{key} {value:.4f}" for key, value in sums.items())
                    )
                    sums = {}
                if self.state.seconds - saved > save_every:
                    self.state.save(self.checkpoint)
                    saved = self.state.seconds
                if self.state.seconds - exported > export_every:
                    progress.console.print(self.export(limit=40))
                    exported = self.state.seconds
        self.state.save(self.checkpoint)

    def export(self, limit: int | None) -> str:
        """Evaluate the averaged weights (on `limit` pictures a set) and write them with a card."""
        net = copy.deepcopy(self.state.ema)
        refresh_batchnorm(net, self.portraits, self.options.seed + 1, batches=60)
        if self.evaluation is None:
            self.evaluation = Evaluation(
                self.options.data, self.options.images, self.pools, self.teacher
            )
        figures = evaluate(net, self.evaluation, limit)
        self.log("evaluation", figures)
        run = {k: str(v) for k, v in asdict(self.options).items() if isinstance(v, int | float)}
        run |= {"steps": self.state.step, "pictures": self.state.pictures, "sizes": SIZES}
        run["pool"] = ", ".join(self.options.pool)
        export(net, self.options.export_to, figures, run)
        return summary(figures)


@click.command(context_settings={"show_default": True})
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Folder of the sets' .zip and .csv files.",
)
@click.option(
    "--pool",
    multiple=True,
    default=POOLS,
    metavar="NAME",
    help="A set to learn from: NAME.zip and NAME.csv in DATA; once for each.",
)
@click.option(
    "--teachers",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help=f"Folder with {TEACHER}.",
)
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="Folder of whole portraits, for evaluation only.",
)
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Checkpoint and log go here."
)
@click.option(
    "--export",
    "export_to",
    type=click.Path(path_type=Path),
    help="Folder for detector_state.safetensors and its card. [default: WORK]",
)
@click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Begin with the weights of this model file or export; all parts then learn joined.",
)
@click.option("--minutes", default=60.0, help="Length of the whole run; the rate follows it.")
@click.option("--threads", default=1, help="Threads of PyTorch.")
@click.option("--seed", default=1, help="Of the first weights and of what is drawn.")
@click.option("--cache", default=8000, help="Portraits held in memory (120 to 800 kB each).")
@click.option("--lr", default=0.02, help="Rate of the convolutions, relative to their norm.")
@click.option("--device", default=best_device(), help="PyTorch's name of it.")
@click.option("--resume", is_flag=True, help="Go on from WORK/checkpoint.pt, if there is one.")
@click.option(
    "--limit", type=int, help="Pictures of each set in the last evaluation.  [default: all]"
)
@click.option("--evaluate-only", is_flag=True, help="Evaluate and export the checkpoint as it is.")
def main(resume: bool, evaluate_only: bool, limit: int | None, **options: Any) -> None:
    """Train the detector.

    Example: python -m training.detector --data ../shared/data --teachers ../shared/weights
    --work /tmp/detector --minutes 60
    """
    options["export_to"] = options["export_to"] or options["work"]
    if evaluate_only and not (options["work"] / "checkpoint.pt").is_file():
        raise click.ClickException(
            f"{options['work'] / 'checkpoint.pt'}: no such file; train first, or name its --work"
        )
    try:
        run = Run(Options(**options), resume or evaluate_only)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    if not evaluate_only:
        run.train()
    click.echo(run.export(limit))


if __name__ == "__main__":
    main()
