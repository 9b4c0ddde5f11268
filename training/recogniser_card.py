"""The figures for a recogniser's card: pair test, thresholds with their intervals, cost of fp16.

    python -m training.recogniser_card --data DIR --work DIR --state X.safetensors --out CARD.json

Thresholds come from two sets of impostor pairs: the labelled pictures, every pair of different
people; and held-out pictures of the pool, which carry no names, so that a pair counts as two
people only where the teachers' cosine stays under `SURELY_SAME`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.data import Pool, held_out, validation
from training.identities import Scores, operating_points, score
from training.networks import NETWORKS, WIDTHS
from training.pairs import all_pairs, best_threshold, evaluate, unit
from training.recogniser_export import replace_text
from training.student import embeddings, read_weights, take_weights
from training.teachers import TEACHERS, embed, load_teacher, targets

SURELY_SAME = 0.5


def labelled(found: NDArray[Any], people: list[str]) -> dict[str, Any]:
    """Threshold table of the labelled pictures and the threshold of the best accuracy."""
    e = unit(found)
    similar = e @ e.T
    same, other = all_pairs(people)
    genuine, impostor = similar[tuple(same.T)], similar[tuple(other.T)]
    half = np.random.default_rng(3).choice(len(impostor), len(genuine), replace=False)
    best = best_threshold(
        np.concatenate([genuine, impostor[half]]), np.arange(2 * len(genuine)) < len(genuine)
    )
    return {
        "genuine_pairs": len(genuine),
        "impostor_pairs": len(impostor),
        "people": len(set(people)),
        "best_accuracy_threshold": best,
        "mean_genuine": float(genuine.mean()),
        "mean_impostor": float(impostor.mean()),
        "rates": operating_points(score(found, people)),
    }


def unlabelled(found: NDArray[Any], goal: NDArray[Any]) -> dict[str, Any]:
    """Threshold table of held-out pool pictures, each taken for a person of its own."""
    e, t = unit(found), unit(goal)
    a, b = np.triu_indices(len(e), 1)
    keep = (t @ t.T)[a, b] < SURELY_SAME
    cosine, owners = (e @ e.T)[a, b][keep], np.stack([a, b], 1)[keep]
    order = np.argsort(-cosine, kind="stable")
    none = np.zeros(0)
    scores = Scores(none, none.astype(np.int64), cosine[order], owners[order], len(e))
    return {
        "impostor_pairs": int(keep.sum()),
        "left_out_as_same": int((~keep).sum()),
        "rates": operating_points(scores),
    }


def teachers(folder: Path, crops: NDArray[np.uint8], people: list[str]) -> dict[str, Any]:
    """The pair test of each teacher and of both together, for comparison."""
    found = {name: torch.cat(list(embed(load_teacher(folder, name), crops))) for name in TEACHERS}
    together = targets(list(found.values()))
    return {name: evaluate(e.numpy(), people) for name, e in found.items()} | {
        "both": evaluate(together.numpy(), people)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the named people")
    parser.add_argument("--work", type=Path, required=True, help="what training.data wrote")
    parser.add_argument("--state", type=Path, required=True, help="the exported .safetensors")
    parser.add_argument("--teachers", type=Path, help="also give the teachers' figures")
    parser.add_argument("--network", choices=sorted(NETWORKS), default="fdfacenet", help="of STATE")
    parser.add_argument("--out", type=Path, required=True, help="the card, JSON")
    args = parser.parse_args()
    model = NETWORKS[args.network]().eval()
    try:
        state = read_weights(args.state)
        take_weights(model, state, args.state)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    crops, people = validation(args.data)
    whole = embeddings(model, crops)
    card: dict[str, Any] = {
        "pair_test": evaluate(whole, people),
        "labelled": labelled(whole, people),
    }
    held, goal = Pool(args.work, ("crops",), width=WIDTHS[args.network]).parts["crops"]
    few = held_out(args.work)
    card["held_out_pool"] = unlabelled(embeddings(model, held[:few]), goal[:few].numpy())
    mirrored = embeddings(model, crops[:, :, ::-1])
    card["pair_test_with_mirror"] = evaluate(unit(whole) + unit(mirrored), people)
    take_weights(model, {k: v.half().float() for k, v in state.items()}, args.state)
    halved = embeddings(model, crops)
    card["pair_test_fp16_storage"] = evaluate(halved, people)
    card["fp16_lowest_cosine"] = float((unit(whole) * unit(halved)).sum(1).min())
    if args.teachers:
        card["teachers"] = teachers(args.teachers, crops, people)
    replace_text(args.out, json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
