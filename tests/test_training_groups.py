"""False matches by age and origin: labels, groups, rates, and what a card says of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import samples

from training import groups
from training.alignment import POOL, Face
from training.groups import Label


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("4_1_3_20161219225734881.jpg.webp", Label(4, 1, 3)),
        ("part/60_0_0_2017.jpg", Label(60, 0, 0)),
        ("61_3_20170109150557335.jpg", None),  # a part is missing, as in a few of the set
        ("a_1_3_2016.jpg", None),
        ("photo.jpg", None),
    ],
)
def test_labels(name: str, said: Label | None) -> None:
    assert groups.label(name) == said


def test_groups_by_age_and_adults_by_origin() -> None:
    labels = [
        Label(*x) for x in ((3, 0, 0), (4, 1, 1), (20, 0, 0), (59, 1, 1), (60, 1, 1), (30, 0, 4))
    ]
    found = {name: rows.tolist() for name, rows in groups.members(labels).items()}
    assert found["everyone"] == [0, 1, 2, 3, 4, 5]
    assert (found["0 to 3"], found["4 to 12"], found["20 to 59"]) == ([0], [1], [2, 3, 5])
    assert (found["White men"], found["Black women"], found["Asian men"]) == ([2], [3, 4], [])


def test_false_matches_are_counted_over_pairs() -> None:
    """Two of four vectors are the same: one pair of six."""
    e = np.eye(4)
    e[1] = e[0]
    found = groups.false_matches(e, 0.5)
    assert (found["pictures"], found["pairs"], found["rate"]) == (4, 6, round(1 / 6, 5))
    low, high = found["interval"]
    assert 0 <= low < 1 / 6 < high <= 1
    assert found == groups.false_matches(e, 0.5)
    assert groups.false_matches(e[:1], 0.5) == {
        "pictures": 1, "pairs": 0, "rate": 0.0, "interval": [0.0, 1.0],
    }  # fmt: skip
    assert groups.rows({"men": found})[0][:4] == ["men", "4", "6", "16.67%"]


def test_of_a_small_pool_a_tenth_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same crops that no training learns from, and not of `HELD_OUT` whatever there is."""
    pool = [
        (i, Face(Path("faces_utk.zip"), f"{i}_1_0_2016.jpg", np.zeros((5, 2)))) for i in range(30)
    ]
    monkeypatch.setattr(groups, "shuffled", lambda data: pool)
    assert [said.age for _, said in groups.held_out(Path())] == [0, 1, 2]


@pytest.mark.parametrize(
    ("training", "unseen"),
    [
        (None, True),
        ({"samples": 3}, True),  # of before there were records
        ({"pool": ", ".join(POOL)}, True),
        ({"pool": ", ".join(reversed(POOL))}, False),  # in this order others are held out
        ({"pool": "mine"}, False),
        ({"pool": "not recorded"}, False),
    ],
)
def test_pictures_that_a_training_may_have_seen_are_no_test(
    training: dict[str, object] | None, unseen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {} if training is None else {"training": training}
    card = replace(samples.recogniser()[1], figures=figures)
    assert groups.never_saw(card) is unseen
    if not unseen:
        model = SimpleNamespace(card=card, name="mine")
        monkeypatch.setattr(groups, "load", lambda name, threads: model)
        monkeypatch.setattr(sys, "argv", ["groups", "--data", ".", "mine"])
        with pytest.raises(SystemExit, match="mine: learnt from other sets"):
            groups.main()
