"""Train a face recogniser by distillation from two teachers.

    python -m training.data --data DIR --teachers DIR --work WORK     (once, or beside it)
    python -m training.recogniser --data DIR --work WORK --minutes 120 --resume

The learning rate falls to zero at the end of `--minutes` of training time (or `--samples`),
counted over all resumptions; the checkpoint holds everything that the next step depends on.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from training.data import KINDS, VALIDATION, Pool, held_out, pool_of, progress, validation
from training.live import LOOKS, Live
from training.networks import NETWORKS, WIDTHS
from training.pairs import enough, evaluate
from training.recogniser_export import export
from training.student import Settings, Student, embeddings
from training.teachers import best_device


class Log:
    """Every figure, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **figures: Any) -> None:
        line = json.dumps(
            {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}
        )
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


class Exam:
    """The cosine to the target on held-out crops and, where the set of named people is there and
    large enough, the pair test on them."""

    def __init__(self, data: Path, work: Path, pool: Pool) -> None:
        named = (data / f"{VALIDATION}.zip").exists()
        self.crops, self.people = validation(data) if named else (None, [])
        if not enough(self.people):
            self.crops = None
        whole = Pool(work, ("crops",), width=pool.width)
        count = held_out(work)
        self.held, self.goal = (part[:count] for part in whole.parts["crops"])
        self.pool = pool

    def take(self, student: Student) -> tuple[torch.nn.Module, dict[str, float]]:
        """(the network as it would be exported, its figures)."""
        model = student.settle(self.pool)
        figures: dict[str, float] = {}
        if self.crops is not None:
            figures = evaluate(embeddings(model, self.crops, student.device), self.people)
        if len(self.held):
            found = torch.from_numpy(embeddings(model, self.held, student.device))
            figures["held_out_cosine"] = F.cosine_similarity(found, self.goal).mean().item()
        return model, figures


class Run:
    """A student and its clock: trains, looks, saves."""

    def __init__(self, args: argparse.Namespace) -> None:
        device = best_device()
        self.args, self.ended = args, False
        settings = Settings(
            args.network,
            args.batch,
            args.chunk,
            args.muon,
            args.adam,
            args.relation,
            strength=args.strength,
            rest=not args.no_rest,
            small=args.small,
            seed=args.seed,
            half=args.bfloat16,
            fused=args.fused,
            frozen=tuple(args.frozen),
            seldom=args.seldom,
            live=args.live,
            looks=args.looks,
            kinds=tuple(args.kinds),
        )
        self.student = Student(settings, device)
        self.folder = args.work / args.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.folder / "checkpoint.pt"
        if args.resume and self.checkpoint.exists():
            self.student.load(self.checkpoint, args.changed)
        elif args.weights:
            self.student.start_from(args.weights)
        self.pool = Pool(args.work, args.kinds, held_out(args.work), WIDTHS[args.network], device)
        if args.live:
            rows = np.arange(1024) % len(self.pool)
            sample = None if device == "cpu" else self.pool.batch(rows)[0]
            self.student.live = Live(
                args.teachers, args.live, args.looks, self.pool.narrow, sample, device
            )
        self.exam = Exam(args.data, args.work, self.pool)
        self.log = Log(self.folder / "log.jsonl")
        self.log.write(
            event="start",
            threads=torch.get_num_threads(),
            device=device,
            rows=len(self.pool),
            samples=self.student.samples,
            teachers=self.student.live.rates if self.student.live else {},
            **vars(settings),
        )

    def progress(self) -> float:
        """How much of the run is done, 0..1."""
        if self.args.samples:
            return self.student.samples / self.args.samples
        return self.student.seconds / (60 * self.args.minutes)

    def look(self) -> None:
        """Take the exam, log it and export the network."""
        start = time.monotonic()
        model, figures = self.exam.take(self.student)
        figures |= {"samples": self.student.samples, "minutes": self.student.seconds / 60}
        figures["made"] = len(self.pool.parts["made"][1]) if "made" in self.pool.parts else 0
        self.log.write(event="exam", took=time.monotonic() - start, **figures)
        if self.args.export:
            export(model, self.args.export, figures | {"pool": pool_of(self.args.work)})

    def train(self) -> None:
        """Step until the run's length is reached, `--stop-after` minutes are over, or a signal
        to end has come; then save, look and export.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        begin = saved = looked = time.monotonic()
        with progress() as bar:
            task = bar.add_task("training", total=1000)
            while self.progress() < 1 and not self.ended:
                mean, rate = self._steps(self.args.log_every)
                bar.update(
                    task,
                    completed=int(1000 * self.progress()),
                    description=f"{mean['cosine']:.3f} cosine, {rate:.0f}/s",
                )
                now = time.monotonic()
                if now - saved > 60 * self.args.save_every:
                    self.student.save(self.checkpoint)
                    saved = now
                if now - looked > 60 * self.args.look_every:
                    self.look()
                    looked = time.monotonic()
                if self.args.stop_after and now - begin > 60 * self.args.stop_after:
                    break
        self.student.save(self.checkpoint)
        if not self.ended:
            self.look()

    def _steps(self, count: int) -> tuple[dict[str, float], float]:
        """Up to `count` steps; logs and returns their mean figures and samples a second."""
        total: dict[str, float] = {}
        done, first, begin = 0, self.student.samples, time.monotonic()
        while done < count and self.progress() < 1 and not self.ended:
            start = time.monotonic()
            for key, value in self.student.step(self.pool, self.progress()).items():
                total[key] = total.get(key, 0.0) + value
            self.student.seconds += time.monotonic() - start
            done += 1
        rate = (self.student.samples - first) / (time.monotonic() - begin)
        mean = {key: value / done for key, value in total.items()}
        self.log.write(
            event="step",
            samples=self.student.samples,
            rate=rate,
            progress=self.progress(),
            rows=len(self.pool),
            **mean,
        )
        return mean, rate

    def _end(self, *_: Any) -> None:
        self.ended = True


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the pictures' .zip and .csv")
    add("--work", type=Path, required=True, help="what training.data wrote; checkpoints and logs")
    add("--name", default="fdfacenet", help="folder of this run inside the work folder")
    add("--network", choices=sorted(NETWORKS), default="fdfacenet", help="what learns")
    add("--minutes", type=float, default=120, help="length of the run")
    add("--samples", type=int, help="length of the run in samples, in place of --minutes")
    add("--stop-after", type=float, help="end this call after so many minutes")
    add("--resume", action="store_true", help="go on from the run's checkpoint, if there is one")
    add("--changed", action="store_true", help="go on though settings are not the checkpoint's")
    add("--weights", type=Path, help="begin with the weights of this model file or export")
    add("--threads", type=int, default=1, help="of the CPU")
    add("--export", type=Path, help="write the averaged weights here at every exam")
    add("--batch", type=int, default=128, help="samples to a step")
    add("--chunk", type=int, default=32, help="samples that a CPU's convolutions see at a time")
    add("--muon", type=float, default=0.025, help="highest learning rate of the dense weights")
    add("--adam", type=float, default=2e-3, help="highest learning rate of all others")
    add("--relation", type=float, default=20.0, help="weight of the similarity matrices")
    add("--strength", type=float, default=0.7, help="of the augmentation, 0..1")
    add("--no-rest", action="store_true", help="train the first layers to the end")
    add("--small", type=float, default=0.25, help="share of the run at 97x97 pixels")
    add("--seed", type=int, default=0, help="of first weights, order, and what is drawn")
    add("--bfloat16", action="store_true", help="convolutions in bfloat16, where it is fast")
    add("--fused", action="store_true", help="normalisation and activation in one compiled pass")
    add("--frozen", nargs="*", default=[], metavar="LAYER", help="layers not trained: conv1 conv2")
    add("--seldom", type=int, default=1, help="the first layers learn in one step of so many")
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, help="arrays of the work folder to use")
    add("--live", type=float, default=0.0, metavar="SHARE",
        help="mix this share of every batch in the step, and ask the teachers then")  # fmt: skip
    add("--teachers", type=Path, help="folder of the teachers' weights, for --live")
    add("--looks", type=int, choices=LOOKS, default=1, help="of each teacher at a live mixture")
    add("--log-every", type=int, default=10, help="steps")
    add("--save-every", type=float, default=4, help="minutes")
    add("--look-every", type=float, default=12, help="minutes")
    args = parser.parse_args()
    for name in ("minutes", "samples", "batch", "chunk", "seldom", "log_every", "threads"):
        given = getattr(args, name)
        if given is not None and not given > 0:
            parser.error(f"--{name.replace('_', '-')} {given:g}: give more than 0")
    if not 0 <= args.live <= 1:
        parser.error(f"--live {args.live:g} is no share; give 0 to 1")
    if args.live and not args.teachers:
        parser.error("--live needs the teachers; name the folder of their weights: --teachers DIR")
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if best_device() != "cpu":
        torch.backends.cudnn.benchmark = True  # its convolutions have one shape each
        torch.set_float32_matmul_precision("high")  # TF32
    np.seterr(all="raise", under="ignore")
    try:
        run = Run(args)
    except (ValueError, OSError) as error:  # a file that is not there, or does not fit
        sys.exit(f"training.recogniser: {error}")
    run.train()


if __name__ == "__main__":
    main()
