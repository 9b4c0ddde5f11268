"""Figures of pairs during training: areas, thresholds, folds, pictures of nobody known."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import pairs  # noqa: E402
from training.recogniser_card import unlabelled  # noqa: E402


def test_area_is_the_share_of_ordered_pairs():
    genuine, impostor = np.array([0.9, 0.5, 0.3]), np.array([0.5, 0.1])
    # 0.9 beats both; 0.5 beats one and ties; 0.3 beats one: (2 + 1.5 + 1) / 6
    assert pairs.area(genuine, impostor) == pytest.approx(4.5 / 6)


def test_best_threshold_lies_between_the_classes():
    scores = np.array([0.1, 0.7, 0.2, 0.9, 0.65])
    same = np.array([False, True, False, True, False])
    assert pairs.best_threshold(scores, same) == pytest.approx((0.65 + 0.7) / 2)
    assert pairs.best_threshold(scores, np.ones(5, bool)) < 0.1
    assert pairs.best_threshold(scores, np.zeros(5, bool)) > 0.9


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.25])
def test_threshold_at_lets_no_more_than_the_rate_pass(rate):
    scores = np.random.default_rng(1).normal(size=400)
    at = pairs.threshold_at(scores, rate)
    assert (scores >= at).sum() == int(rate * 400)


def test_fold_accuracy_does_not_see_the_fold_it_judges():
    scores = np.array([0.9, 0.8, 0.2, 0.1, 0.1, 0.2])
    same = np.array([True, True, False, False, True, False])
    folds = np.array([0, 0, 0, 0, 1, 1])
    by_fold = pairs.fold_accuracy(scores, same, folds)
    assert by_fold[1] == 0.5  # the genuine 0.1 is refused by the threshold from fold 0


def test_pair_test_of_perfect_and_of_random_embeddings():
    rng = np.random.default_rng(2)
    people = [f"p{i // 4}" for i in range(160)]
    centres = rng.normal(size=(40, 32)).repeat(4, 0)
    good = pairs.evaluate(centres + 0.05 * rng.normal(size=centres.shape), people)
    assert good["accuracy"] == 1 and good["auc"] == 1 and good["tar@1e-03"] == 1
    assert good["genuine"] == 40 * 6 and good["impostor"] == 160 * 159 // 2 - 240
    bad = pairs.evaluate(rng.normal(size=centres.shape), people)
    assert 0.35 < bad["accuracy"] < 0.65 and 0.4 < bad["auc"] < 0.6


def test_folds_have_no_person_in_common():
    people = [f"p{i // 3}" for i in range(90)]
    folds = pairs.folds_of(people)
    assert all(len(set(folds[np.array(people) == p])) == 1 for p in set(people))
    assert sorted(set(folds)) == list(range(10))


def test_unlabelled_pictures_give_thresholds_whose_intervals_shrink_with_their_number():
    rng = np.random.default_rng(3)

    def of(count):
        goal = rng.normal(size=(count, 64))
        goal[1] = goal[0]  # surely the same person: left out
        figures = unlabelled(rng.normal(size=(count, 8)), goal)
        assert figures["left_out_as_same"] == 1
        assert figures["impostor_pairs"] == count * (count - 1) // 2 - 1
        point = figures["rates"]["1e-2"]
        low, high = point["interval"]
        assert low <= point["threshold"] <= high + 1e-4 and "tar" not in point
        return high - low

    assert of(300) < of(40)
