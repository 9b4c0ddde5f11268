"""Same person or not: what a verification test counts, from embeddings and names.

The protocol is LFW's (Huang et al. 2007): ten folds without a person in common, the threshold
chosen on nine and applied to the tenth. The same definitions hold for LFW's own pairs file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def unit(embeddings: NDArray[Any]) -> Floats:
    """Rows brought to length one, float64."""
    e = np.asarray(embeddings, np.float64)
    return e / np.linalg.norm(e, axis=1, keepdims=True)


def best_threshold(scores: Floats, same: NDArray[np.bool_]) -> float:
    """The cosine with the most correct answers, "same" being score >= threshold."""
    order = np.argsort(scores, kind="stable")
    s, y = scores[order], same[order]
    # Threshold below everything, then above the first, the second, ...
    correct = y.sum() + np.concatenate([[0], np.cumsum(np.where(y, -1, 1))])
    at = int(correct.argmax())
    below = s[at - 1] if at else s[0] - 1e-6
    above = s[at] if at < len(s) else s[-1] + 1e-6
    return float((below + above) / 2)


def fold_accuracy(scores: Floats, same: NDArray[np.bool_], folds: NDArray[np.int64]) -> Floats:
    """Accuracy on each fold under the threshold that is best on the others."""
    result = []
    for fold in np.unique(folds):
        test = folds == fold
        threshold = best_threshold(scores[~test], same[~test])
        result.append(((scores[test] >= threshold) == same[test]).mean())
    return np.array(result)


def area(genuine: Floats, impostor: Floats) -> float:
    """Area under the ROC: P(genuine > impostor), ties counted by half (Mann-Whitney)."""
    s = np.sort(impostor)
    below = np.searchsorted(s, genuine, "left") + np.searchsorted(s, genuine, "right")
    return float(below.mean() / (2 * len(s)))


def threshold_at(impostor: Floats, rate: float) -> float:
    """The smallest threshold that at most `rate` of the impostor scores reach."""
    s = np.sort(impostor)[::-1]
    return float(np.nextafter(s[int(np.floor(rate * len(s)))], np.inf))


def all_pairs(people: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index pairs (g, 2) of one person's pictures and (i, 2) of different people's."""
    names = np.array(people)
    a, b = np.triu_indices(len(names), 1)
    same = names[a] == names[b]
    pairs = np.stack([a, b], 1)
    return pairs[same], pairs[~same]


def folds_of(people: list[str], count: int = 10) -> NDArray[np.int64]:
    """A fold for each picture, by person, in a fixed random order."""
    order = np.random.default_rng(5).permutation(sorted(set(people)))
    place = {name: i % count for i, name in enumerate(order)}
    return np.array([place[name] for name in people])


def enough(people: list[str]) -> bool:
    """Whether `evaluate` has what it needs: pairs of one person in two folds at least, and so
    pairs of two people, too."""
    genuine, _ = all_pairs(people)
    return len(np.unique(folds_of(people)[genuine[:, 0]])) > 1


def evaluate(embeddings: NDArray[Any], people: list[str]) -> dict[str, float]:
    """The pair test: accuracy over ten folds by person (as many different as same pairs, both
    within a fold), its deviation over the folds, and over all pairs AUC and TAR at FMR 1e-2
    and 1e-3.
    """
    e = unit(embeddings)
    genuine, impostor = all_pairs(people)
    scores_g = (e[genuine[:, 0]] * e[genuine[:, 1]]).sum(1)
    scores_i = np.concatenate(
        [(e[part[:, 0]] * e[part[:, 1]]).sum(1) for part in np.array_split(impostor, 40)]
    )
    folds = folds_of(people)
    rng = np.random.default_rng(6)
    score, same, fold = [scores_g], [np.ones(len(scores_g), bool)], [folds[genuine[:, 0]]]
    within = folds[impostor[:, 0]] == folds[impostor[:, 1]]
    for f in range(10):
        choice = np.flatnonzero(within & (folds[impostor[:, 0]] == f))
        pick = rng.choice(choice, min(len(choice), int((fold[0] == f).sum())), replace=False)
        score.append(scores_i[pick])
        same.append(np.zeros(len(pick), bool))
        fold.append(np.full(len(pick), f))
    by_fold = fold_accuracy(np.concatenate(score), np.concatenate(same), np.concatenate(fold))
    result = {
        "accuracy": float(by_fold.mean()),
        "deviation": float(by_fold.std(ddof=1)),
        "auc": area(scores_g, scores_i),
    }
    for rate in (1e-2, 1e-3):
        result[f"tar@{rate:.0e}"] = float((scores_g >= threshold_at(scores_i, rate)).mean())
    return result | {"genuine": len(genuine), "impostor": len(impostor)}
