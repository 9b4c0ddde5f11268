"""Figures of verification against brute force and closed forms."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tinyface.errors import UsageError
from tinyface.faces import metrics

# Few different values, so that many scores are equal.
COARSE = st.integers(-8, 8).map(lambda i: i / 8)
FINE = st.floats(-1, 1, allow_subnormal=False)
SCORES = st.one_of(*(st.lists(v, min_size=1, max_size=40) for v in (COARSE, FINE))).map(np.array)
RATES = st.sampled_from([1e-3, 1e-2, 0.1, 0.25, 1 / 3, 0.5, 0.9])


@given(SCORES, st.randoms(use_true_random=False))
def test_no_threshold_is_better_than_the_best(scores: Any, random: Any) -> None:
    same = np.array([random.random() < 0.5 for _ in scores])
    candidates = [*scores, np.inf]  # the accuracy changes at scores only
    most = max(int(((scores >= t) == same).sum()) for t in candidates)
    found = metrics.best_threshold(scores, same)
    assert int(((scores >= found) == same).sum()) == most


@given(SCORES, SCORES)
def test_the_area_counts_pairs_of_pairs(genuine: Any, impostor: Any) -> None:
    won = sum((g > i) + Fraction(int(g == i), 2) for g in genuine for i in impostor)
    expected = Fraction(won) / (len(genuine) * len(impostor))
    assert metrics.area_under_roc(genuine, impostor) == pytest.approx(float(expected), abs=1e-12)


@given(SCORES, SCORES)
def test_the_roc_encloses_the_area(genuine: Any, impostor: Any) -> None:
    far, tar, thresholds = metrics.roc(genuine, impostor)
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)
    assert (np.diff(far) >= 0).all() and (np.diff(tar) >= 0).all()
    assert (np.diff(thresholds) < 0).all()
    for f, t, threshold in zip(far, tar, thresholds, strict=True):
        assert f == (impostor >= threshold).mean() and t == (genuine >= threshold).mean()
    area = (np.diff(far) * (tar[1:] + tar[:-1]) / 2).sum()
    assert metrics.area_under_roc(genuine, impostor) == pytest.approx(area, abs=1e-9)


@given(SCORES, RATES)
def test_the_largest_set_that_the_rate_allows(impostor: Any, rate: float) -> None:
    threshold = metrics.threshold_at(impostor, rate)
    allowed = math.floor(Fraction(rate).limit_denominator(10**6) * len(impostor))
    accepted = int((impostor >= threshold).sum())
    assert accepted <= allowed
    # the next lower score would let in too many
    refused = impostor[impostor < threshold]
    assert refused.size
    assert int((impostor >= refused.max()).sum()) > allowed


def test_a_thousandth_of_three_thousand_is_three() -> None:
    impostor = np.linspace(-1, 1, 3000)
    for rate, allowed in ((1e-2, 30), (1e-3, 3), (1e-4, 0)):
        point = metrics.operating_point(impostor, impostor, rate)
        assert (point.fmr.count, point.resolved) == (allowed, allowed > 0)
    assert metrics.operating_point(impostor, impostor[:1000], 1e-3).resolved  # one is enough
    for total in range(1000, 60_000, 1000):  # some products fall just below the whole number
        assert (np.arange(total) >= metrics.threshold_at(np.arange(total) * 1.0, 1e-3)).sum() == (
            total // 1000
        )


@given(SCORES, SCORES)
def test_equal_error(genuine: Any, impostor: Any) -> None:
    def errors(t: float) -> tuple[float, float]:
        return float((impostor >= t).mean()), float((genuine < t).mean())

    rate, threshold = metrics.equal_error_rate(genuine, impostor)
    fmr, fnmr = errors(threshold)
    assert rate == pytest.approx((fmr + fnmr) / 2)
    least = min(abs(a - b) for a, b in map(errors, [*genuine, *impostor, np.inf]))
    assert abs(fmr - fnmr) == pytest.approx(least, abs=1e-12)


def test_of_equal_gaps_the_lowest_threshold_counts() -> None:
    """1/6 and 2/15 lie as far apart as 1/6 and 1/5, but not as floats."""
    genuine = np.array([0.7, 0.9, 0.9, 0.9, 0.9, 0.9])
    impostor = np.array([0.8, 0.8, 0.75, *[0.1] * 12])
    rates = {
        t: (float((impostor >= t).mean()), float((genuine < t).mean()))
        for t in (0.7, 0.75, 0.8, 0.9)
    }
    gaps = {t: round(abs(a - b) * 90) for t, (a, b) in rates.items()}
    lowest = min(t for t, gap in gaps.items() if gap == min(gaps.values()))
    assert metrics.equal_error_rate(genuine, impostor)[1] == lowest


def test_normal_scores_have_the_figures_of_the_closed_form() -> None:
    """Two normal distributions of deviation 1, d apart: AUC = Phi(d/sqrt 2), EER = Phi(-d/2)."""
    from statistics import NormalDist

    normal, d, n = NormalDist(), 2.5, 20_000
    grid = np.array([normal.inv_cdf((i + 0.5) / n) for i in range(n)])
    genuine, impostor = grid + d, grid
    assert metrics.area_under_roc(genuine, impostor) == pytest.approx(
        normal.cdf(d / math.sqrt(2)), abs=1e-4
    )
    rate, threshold = metrics.equal_error_rate(genuine, impostor)
    assert rate == pytest.approx(normal.cdf(-d / 2), abs=1e-4)
    assert threshold == pytest.approx(d / 2, abs=1e-3)
    for fmr in (1e-1, 1e-2, 1e-3):
        point = metrics.operating_point(genuine, impostor, fmr)
        t = normal.inv_cdf(1 - fmr)
        assert point.threshold == pytest.approx(t, abs=0.02)
        assert point.tar.value == pytest.approx(1 - normal.cdf(t - d), abs=0.01)
        assert point.interval[1] is not None
        assert point.interval[0] < point.threshold < point.interval[1]


@given(st.integers(0, 500), st.integers(1, 500))
@example(0, 300)
@example(300, 300)
def test_wilson_solves_its_equation(count: int, extra: int) -> None:
    total = count + extra if count != 300 else 300
    share = count / total
    low, high = metrics.wilson(share, total)
    assert 0 <= low <= share <= high <= 1
    for p in (low, high):
        assert (share - p) ** 2 == pytest.approx(metrics.Z95**2 * p * (1 - p) / total, abs=1e-12)
    if count == 0:  # closed form: z^2 / (n + z^2)
        assert high == pytest.approx(metrics.Z95**2 / (total + metrics.Z95**2))
    assert metrics.wilson(float("nan"), 0) == (0, 1)


def test_wilson_against_a_printed_value() -> None:
    """10 of 100: 5.52 % to 17.44 % (Brown, Cai, DasGupta 2001 print such intervals)."""
    low, high = metrics.Share(10, 100).interval
    assert (round(low, 4), round(high, 4)) == (0.0552, 0.1744)


@given(
    arrays(np.float64, 40, elements=COARSE),
    arrays(np.bool_, 40),
    arrays(np.bool_, 40),
)
def test_folds_one_by_one(scores: Any, same: Any, failed: Any) -> None:
    folds = np.arange(40) // 4
    failed[:2] = False  # something to choose a threshold on, whichever fold is tested
    failed[-2:] = False
    accuracies, thresholds = metrics.fold_accuracies(scores, same, folds, failed)
    for fold, accuracy, threshold in zip(range(10), accuracies, thresholds, strict=True):
        others = [i for i in range(40) if folds[i] != fold and not failed[i]]
        assert threshold == metrics.best_threshold(scores[others], same[others])
        right = sum(
            not failed[i] and (scores[i] >= threshold) == same[i]
            for i in range(40)
            if folds[i] == fold
        )
        assert accuracy == right / 4


def test_two_folds_are_enough() -> None:
    accuracies, thresholds = metrics.fold_accuracies(
        np.array([0.1, 0.9, 0.2, 0.6]), np.array([False, True] * 2), np.array([0, 0, 1, 1])
    )
    assert accuracies.tolist() == [1, 1] and thresholds.tolist() == [0.4, 0.5]


def test_documents_hold_numbers_that_json_has() -> None:
    found = [metrics.finite(value) for value in (0.5, math.inf, -math.inf, math.nan, None)]
    assert found == [0.5, None, None, None, None]


def test_a_threshold_is_never_chosen_on_its_own_fold() -> None:
    """Nine folds separate at 0.5, the tenth at 0.9: there half of the answers must be wrong."""
    scores = np.array([0.6, 0.4] * 9 + [0.95, 0.85])
    same = np.array([True, False] * 10)
    accuracies, _ = metrics.fold_accuracies(scores, same, np.arange(20) // 2)
    assert accuracies.tolist() == [1] * 9 + [0.5]
    with pytest.raises(UsageError, match="one fold"):
        metrics.fold_accuracies(scores, same, np.zeros(20, int))
