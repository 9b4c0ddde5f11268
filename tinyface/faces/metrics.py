"""What a verification test counts, from the similarities of pairs.

"The same person" is the answer where ``score >= threshold``. A pair of one person's pictures is
*genuine*, a pair of two people's an *impostor*. Of the impostors, the share that is accepted is
the false-match rate (FMR, or FAR, false-accept rate); of the genuine pairs, the share that is
accepted is the true-accept rate (TAR), and 1 - TAR the false-non-match rate (FNMR).

Sources: G. B. Huang et al., "Labeled Faces in the Wild", UMass Amherst TR 07-49, 2007 (ten
folds, the threshold chosen on nine); T. Fawcett, "An introduction to ROC analysis", Pattern
Recognition Letters 27, 2006 (ROC, AUC); E. B. Wilson, JASA 22, 1927 (interval of a share);
R. S. Woodruff, JASA 47, 1952 (interval of a quantile); ISO/IEC 19795-1 (names, failures).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tinyface.errors import UsageError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

Z95: Final = 1.959963984540054  # of the normal distribution, two-sided 95 %
_TINY: Final = 1e-9  # 1e-3 x 3000 must be 3 whichever way it is rounded


@dataclass(frozen=True)
class Share:
    """``count`` of ``total``, and the Wilson interval of the probability behind it."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """NaN of none."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, for independent pairs; pairs that share a picture make it too narrow."""
        return wilson(self.value, self.total)

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {
            "count": self.count,
            "total": self.total,
            "value": finite(self.value),
            "interval": [low, high],
        }


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold chosen for a false-match rate, and what it does to the pairs it was chosen on.

    Attributes:
        rate: the false-match rate that was asked for.
        threshold: the smallest one that lets at most ``floor(rate x N)`` of the N impostors in.
        interval: 95 % interval of the threshold; its upper end is None where the impostors are
            too few to give one.
        fmr, tar: impostors and genuine pairs accepted.
        resolved: at least one impostor may be accepted. Otherwise the threshold stands just
            above the highest impostor, and says less than ``rate`` promises.
    """

    rate: float
    threshold: float
    interval: tuple[float, float | None]
    fmr: Share
    tar: Share
    resolved: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "rate": self.rate,
            "threshold": finite(self.threshold),
            "interval": [finite(end) for end in self.interval],
            "resolved": self.resolved,
            "fmr": self.fmr.to_json(),
            "tar": self.tar.to_json(),
        }


def finite(value: float | None) -> float | None:
    """JSON has no infinity and no NaN: None stands for them."""
    return value if value is not None and math.isfinite(value) else None


def wilson(share: float, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a probability that was met ``share`` of ``total`` times.

    ``(0, 1)`` of no observations. Source: Wilson 1927, equation for the roots in p of
    ``(share - p)^2 = z^2 p (1 - p) / total``.
    """
    if total <= 0:
        return 0.0, 1.0
    z2 = z * z / total
    middle = share + z2 / 2
    spread = z * math.sqrt(share * (1 - share) / total + z2 / (4 * total))
    low, high = (middle - spread) / (1 + z2), (middle + spread) / (1 + z2)
    # at the ends rounding must not leave 1e-18 where the root is 0
    return (0.0 if share == 0 else max(0.0, low)), (1.0 if share == 1 else min(1.0, high))


def best_threshold(scores: Floats, same: Bools) -> float:
    """The threshold with the most right answers; between the two scores that it separates.

    Of several that are equally good, the lowest. ``scores (n,)``, ``same (n,)``; no NaN.
    """
    if not scores.size:
        raise UsageError("no pairs to choose a threshold on")
    order = np.argsort(scores, kind="stable")
    s, y = scores[order], same[order]
    # right[i]: with the i lowest scores rejected. Equal scores cannot be told apart.
    right = int(y.sum()) + np.concatenate([[0], np.cumsum(np.where(y, -1, 1))])
    possible = np.concatenate([[True], s[1:] > s[:-1], [True]])
    at = int(np.where(possible, right, -1).argmax())
    if at in (0, len(s)):
        return float(s[0] if at == 0 else np.nextafter(s[-1], np.inf))
    middle = (s[at - 1] + s[at]) / 2
    return float(middle if middle > s[at - 1] else s[at])


def fold_accuracies(
    scores: Floats, same: Bools, folds: Ints, failed: Bools | None = None
) -> tuple[Floats, Floats]:
    """Accuracy on each fold, under the threshold that is best on all the others.

    Args:
        scores, same, folds: ``(n,)``, one of each per pair.
        failed: pairs without a score: always wrong, and no threshold is chosen on them.

    Returns:
        accuracies and thresholds, ``(f,)`` each, in the order of the folds' numbers.

    Raises:
        UsageError: fewer than two folds.
    """
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise UsageError(
            "one fold: the threshold is chosen on some folds and tried on the others; give more "
            "pairs, or two folds and more (a column 'fold')"
        )
    failed = np.zeros(len(scores), bool) if failed is None else failed
    accuracies, thresholds = [], []
    for number in numbers:
        test = folds == number
        rest = ~test & ~failed
        threshold = best_threshold(scores[rest], same[rest])
        right = ((scores[test] >= threshold) == same[test]) & ~failed[test]
        accuracies.append(right.mean())
        thresholds.append(threshold)
    return np.array(accuracies), np.array(thresholds)


def roc(genuine: Floats, impostor: Floats) -> tuple[Floats, Floats, Floats]:
    """The ROC: false-accept rates, true-accept rates and thresholds, ``(m,)`` each.

    From the strictest threshold, infinity, at (0, 0) to the lowest score at (1, 1); one point
    for every different score, so that equal scores give one sloping line (Fawcett 2006, sec. 5).
    A genuine score of -inf is never accepted, and the last point then lies below (1, 1).
    """
    scores = np.unique(np.concatenate([genuine, impostor]))
    thresholds = np.concatenate([[np.inf], scores[scores > -np.inf][::-1]])
    far, tar = (_accepted(scores, thresholds) / len(scores) for scores in (impostor, genuine))
    return far, tar, thresholds


def _accepted(scores: Floats, thresholds: Floats) -> NDArray[np.intp]:
    """How many scores reach each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, "left")


def area_under_roc(genuine: Floats, impostor: Floats) -> float:
    """P(genuine score > impostor score), ties counted half: the area under the ROC.

    This is the Mann-Whitney statistic (Fawcett 2006, section 7); genuine scores may be -inf.
    """
    s = np.sort(impostor)
    twice = np.searchsorted(s, genuine, "left") + np.searchsorted(s, genuine, "right")
    return float(twice.mean() / (2 * len(s)))


def equal_error_rate(genuine: Floats, impostor: Floats) -> tuple[float, float]:
    """The error rate where FMR and FNMR meet, and the threshold there.

    At the threshold where they differ least, their mean; the lowest where several do.
    """
    far, tar, thresholds = roc(genuine, impostor)
    # Both as shares of one number, and so whole: equal gaps are equal.
    n, m = len(genuine), len(impostor)
    gap = np.abs(np.rint(far * m) * n - np.rint((1 - tar) * n) * m)
    at = len(gap) - 1 - int(gap[::-1].argmin())
    return float((far[at] + 1 - tar[at]) / 2), float(thresholds[at])


def threshold_at(impostor: Floats, rate: float) -> float:
    """The smallest threshold that at most ``floor(rate x N)`` of the ``(N,)`` impostors reach.

    So the set of accepted impostors is the largest one that the rate allows; equal scores are
    accepted together or not at all. ``-inf`` for a rate of 1.
    """
    allowed = math.floor(rate * len(impostor) + _TINY)
    if allowed >= len(impostor):
        return -math.inf
    first_refused = np.partition(impostor, len(impostor) - 1 - allowed)[len(impostor) - 1 - allowed]
    return float(np.nextafter(first_refused, np.inf))


def operating_point(genuine: Floats, impostor: Floats, rate: float) -> OperatingPoint:
    """The threshold for a false-match rate, with intervals (see :class:`OperatingPoint`).

    The interval of the threshold is Woodruff's: the thresholds for both ends of the Wilson
    interval around ``rate``.

    Raises:
        UsageError: a rate that is not between 0 and 1, or no impostors at all.
    """
    if not 0 < rate < 1:
        raise UsageError(f"a false-match rate of {rate:g}: give one between 0 and 1")
    if not len(impostor):
        raise UsageError("no pairs of different people: thresholds cannot be measured")
    total = len(impostor)
    threshold = threshold_at(impostor, rate)
    low, high = wilson(rate, total)
    upper = threshold_at(impostor, low) if low * total >= 1 else None
    return OperatingPoint(
        rate=rate,
        threshold=threshold,
        interval=(threshold_at(impostor, high), upper),
        fmr=Share(int((impostor >= threshold).sum()), total),
        tar=Share(int((genuine >= threshold).sum()), len(genuine)),
        resolved=rate * total + _TINY >= 1,
    )
