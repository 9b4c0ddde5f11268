"""Weights between two runs of one network: where a run began, say, and where it ended.

    python -m training.soup BEGAN ENDED --data DIR --work WORK --export mean_state.safetensors

Two runs from the same weights end in one basin, and between them lies a point that generalises
better than either (Wortsman et al. 2022, "Model soups"). Every share that is named is examined;
the one with the highest cosine to the targets of crops never seen is exported. The pair test has
no say in that: it is what the result is judged by.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data import KINDS, Pool, held_out, pool_of
from training.networks import NETWORKS, WIDTHS
from training.recogniser import Exam
from training.recogniser_export import export
from training.student import Settings, Student


def between(a: Mapping[str, Tensor], b: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """State dicts of one network -> that which lies `share` of the way from `a` to `b`."""
    return {
        name: torch.lerp(value, b[name], share) if value.is_floating_point() else b[name]
        for name, value in a.items()
    }


def begin(network: str, path: Path) -> Student:
    """A student with the weights of a model file or an export."""
    student = Student(Settings(network=network))
    student.start_from(path)
    return student


def stir(args: argparse.Namespace) -> dict[str, Any]:
    """Examine every share; export the best and return its figures."""
    student, other = begin(args.network, args.began), begin(args.network, args.ended)
    pool = Pool(args.work, args.kinds, held_out(args.work), WIDTHS[args.network])
    exam = Exam(args.data, args.work, pool)
    a = {name: value.clone() for name, value in student.average.state_dict().items()}
    b = other.average.state_dict()
    best: dict[str, Any] = {"held_out_cosine": -1.0}
    for share in args.share:
        student.average.load_state_dict(between(a, b, share))
        model, figures = exam.take(student)
        print(share, {name: round(value, 4) for name, value in figures.items()}, flush=True)
        if figures["held_out_cosine"] > best["held_out_cosine"]:
            best = figures | {"share": share, "pool": pool_of(args.work)}
            export(model, args.export, best)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("began", type=Path, metavar="BEGAN", help="model file or export")
    add("ended", type=Path, metavar="ENDED", help="another of the same network")
    add("--data", type=Path, required=True, help="folder of the pictures' .zip and .csv")
    add("--work", type=Path, required=True, help="what training.data wrote")
    add("--network", choices=sorted(NETWORKS), default="fdfacenet", help="of both")
    add(
        "--share", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0], help="0..1, of ENDED"
    )
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, help="as the runs had them")
    add("--export", type=Path, required=True, help="where the best goes")
    add("--threads", type=int, default=1, help="of the CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stir(args)


if __name__ == "__main__":
    main()
