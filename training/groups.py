"""Who is taken for another: false matches among people of one age, or of one origin and sex.

    python -m training.groups --data DIR MODEL ...

The pictures are those of UTKFace among the held-out ones of the pool; their names say age, sex and
origin (Z. Zhang, Y. Song, H. Qi, "Age progression/regression by conditional adversarial
autoencoder", CVPR 2017; the labels are estimates, checked by people). They carry no names of
people, so that two pictures count as two people: the few that show one make a rate a little too
high. Crops are cut by the landmarks of the set's table. Intervals: pictures drawn with
replacement, as people are in `training.identities`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyface import load
from tinyface.formats.card import Card
from tinyface.model import Model
from tinyface.vision.align import align
from training.alignment import POOL, Face, kept, open_face, shuffled
from training.identities import REPLICATES, embed
from training.pairs import unit

AGES = {"0 to 3": (0, 3), "4 to 12": (4, 12), "13 to 19": (13, 19), "20 to 59": (20, 59),
        "60 and older": (60, 200)}  # fmt: skip
ORIGINS = ("White", "Black", "Asian", "Indian")  # the set's own terms; "other" is left out
SEXES = ("men", "women")
ADULT = 20
RATE = "1e-3"


class Label(NamedTuple):
    """Age in years; 0 for a man, 1 for a woman; the place in the set's list of origins."""

    age: int
    sex: int
    origin: int


def label(name: str) -> Label | None:
    """What the name of a picture says; None where a part of it is missing."""
    parts = Path(name).name.split("_")
    if len(parts) < 4 or not all(part.isdigit() for part in parts[:3]):
        return None
    return Label(*map(int, parts[:3]))


def held_out(data: Path) -> list[tuple[Face, Label]]:
    """The pictures that no training saw and that have labels."""
    pool = shuffled(data)
    found = ((face, label(face.name)) for _, face in pool[: kept(len(pool))]
             if face.archive.stem == "faces_utk")  # fmt: skip
    return [(face, said) for face, said in found if said]


def never_saw(card: Card) -> bool:
    """Whether the model's training kept `held_out` aside, as far as its card says: it learnt from
    the same sets in the same order."""
    training = card.figures.get("training")
    record = training.get("pool") if isinstance(training, Mapping) else None
    return record in (None, ", ".join(POOL))


def members(labels: Sequence[Label]) -> dict[str, NDArray[np.intp]]:
    """Name of each group -> numbers of its pictures."""
    groups = {"everyone": np.arange(len(labels))}
    for name, (low, high) in AGES.items():
        groups[name] = np.flatnonzero([low <= x.age <= high for x in labels])
    for number, origin in enumerate(ORIGINS):
        for sex, word in enumerate(SEXES):
            chosen = [x.age >= ADULT and (x.sex, x.origin) == (sex, number) for x in labels]
            groups[f"{origin} {word}"] = np.flatnonzero(chosen)
    return groups


def false_matches(e: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    """Of unit vectors (n, d), each a person's own: the share of pairs at the threshold or above."""
    n = len(e)
    a, b = np.triu_indices(n, 1)
    accepted = (e @ e.T >= threshold)[a, b]
    rng, rates = np.random.default_rng(13), []
    for _ in range(REPLICATES if n > 1 else 0):
        w = np.bincount(rng.integers(n, size=n), minlength=n)
        weights = (w[a] * w[b]).astype(np.float64)
        rates.append(float(accepted @ weights / max(weights.sum(), 1)))
    low, high = np.percentile(rates, [2.5, 97.5]) if rates else (0.0, 1.0)
    rate = float(accepted.mean()) if n > 1 else 0.0
    return {"pictures": n, "pairs": len(a), "rate": round(rate, 5),
            "interval": [round(float(low), 5), round(float(high), 5)]}  # fmt: skip


def examine(model: Model, data: Path, threshold: float) -> dict[str, dict[str, Any]]:
    """False-match rates by group at the threshold that the pair test gives for 1e-3."""
    size = (model.card.preprocess.height, model.card.preprocess.width)
    pictures = held_out(data)
    crops = [align(np.asarray(open_face(face)), face.points, size) for face, _ in pictures]
    e = unit(embed(model, np.stack(crops)))
    groups = members([said for _, said in pictures])
    return {name: false_matches(e[rows], threshold) for name, rows in groups.items()}


def rows(groups: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line for each group: name, pictures, pairs, rate, interval."""
    return [[name, str(g["pictures"]), f"{g['pairs']:,}", f"{g['rate']:.2%}",
             " – ".join(f"{end:.2%}" for end in g["interval"])]
            for name, g in groups.items()]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the pool's archives")
    parser.add_argument("models", nargs="+", help="names or files of recognisers")
    args = parser.parse_args()
    for name in args.models:
        model = load(name, threads=1)
        if not never_saw(model.card):
            raise SystemExit(f"{name}: learnt from other sets than {', '.join(POOL)}, so that "
                             "nothing says which pictures it has not seen")  # fmt: skip
        threshold = float(model.card.thresholds[RATE])
        print(f"{model.name}: at {threshold:.4f}, the threshold for a false-match rate of {RATE}")
        for row in rows(examine(model, args.data, threshold)):
            print("{:16} {:>5} pictures {:>8} pairs {:>8}  ({})".format(*row))


if __name__ == "__main__":
    main()
