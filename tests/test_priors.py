"""The detector's arithmetic by definition: priors, decoding, suppression; cards that are none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from detections import RETINAFACE, USUAL, encode
from hypothesis import given
from hypothesis import strategies as st

from tinyface.errors import FormatError
from tinyface.networks import REGISTRY
from tinyface.vision.priors import Priors, decode_boxes, decode_landmarks, shared, suppress

DETECTORS = sorted(name for name, entry in REGISTRY.items() if entry.task == "detect")


# --- the lattice ------------------------------------------------------------------------------


@given(st.sampled_from(DETECTORS), st.integers(1, 300), st.integers(1, 300))
def test_count_and_place_of_the_priors(name, height, width):
    priors = Priors.from_card(REGISTRY[name].detector)
    lattice = priors.lattice(height, width)
    cells = [math.ceil(height / s) * math.ceil(width / s) for s in priors.steps]
    sizes = [len(row) for row in priors.min_sizes]
    assert lattice.shape == (sum(c * n for c, n in zip(cells, sizes, strict=True)), 3)
    assert (lattice > 0).all()
    # No centre lies further outside than half a cell.
    assert (lattice[:, 0] < width + priors.steps[-1] / 2).all()
    assert (lattice[:, 1] < height + priors.steps[-1] / 2).all()


def test_priors_by_the_public_definition():
    """Loops over rows, columns and sizes, relative to the picture, as public code has them."""
    height, width = 50, 75
    expected = []
    for step, sizes in zip(RETINAFACE.steps, RETINAFACE.min_sizes, strict=True):
        for i in range(math.ceil(height / step)):
            for j in range(math.ceil(width / step)):
                for size in sizes:
                    x, y = (j + 0.5) * step / width, (i + 0.5) * step / height
                    expected.append((x * width, y * height, size))
    np.testing.assert_allclose(RETINAFACE.lattice(height, width), expected)


@pytest.mark.parametrize("size", [(64, 64), (33, 70), (1, 1), (95, 129)])
@pytest.mark.parametrize("name", DETECTORS)
def test_networks_give_one_answer_per_prior(name, size):
    """At sizes that no step divides, too. Shapes only: nothing is computed."""
    rows = len(Priors.from_card(REGISTRY[name].detector).lattice(*size))
    graph = REGISTRY[name].build(size=size)
    types = [graph.types[output].shape for output in ("loc", "conf", "landms")]
    assert types == [(1, rows, 4), (1, rows, 2), (1, rows, 10)]


# --- decoding ---------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_decoding_undoes_encoding(seed):
    rng = np.random.default_rng(seed)
    lattice = RETINAFACE.lattice(64, 96)
    low = rng.uniform(-50, 50, (len(lattice), 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 300, low.shape)], axis=1)
    marks = rng.uniform(-50, 200, (len(lattice), 5, 2))
    loc, landms = encode(boxes, marks, lattice, RETINAFACE.variances)
    np.testing.assert_allclose(
        decode_boxes(loc, lattice, RETINAFACE.variances), boxes, atol=1e-9, rtol=1e-9
    )
    np.testing.assert_allclose(decode_landmarks(landms, lattice, 0.1), marks, atol=1e-9)


def test_distances_of_the_edges_are_in_sides_of_the_square():
    priors = replace(RETINAFACE, edges=True)
    lattice, answers = np.array([[10.0, 20, 8], [0, 0, 2]]), np.array([[1, 0.5, 2, 0.25], [0] * 4])
    assert priors.decode(answers, lattice).tolist() == [[2, 16, 26, 22], [0, 0, 0, 0]]


# --- suppression ------------------------------------------------------------------------------


def overlap(a, b):
    """Intersection over union of two boxes that hold pixels, by counting."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    area = [(x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b)]
    return width * height / (sum(area) - width * height)


def random_boxes(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (n, 2))
    return np.concatenate([low, low + rng.uniform(0, 40, (n, 2))], axis=1), rng.permutation(n) / n


@given(st.integers(0, 10**6), st.integers(0, 40), st.floats(0.05, 1))
def test_suppression_keeps_what_nothing_better_overlaps(seed, n, limit):
    boxes, scores = random_boxes(seed, n)
    kept = suppress(boxes, scores, limit).tolist()
    assert scores[kept].tolist() == sorted(scores[kept], reverse=True)
    for i in range(n):
        rivals = [k for k in kept if scores[k] > scores[i] and overlap(boxes[k], boxes[i]) > limit]
        assert (i in kept) == (not rivals)


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_suppression_does_not_depend_on_the_order(seed, n):
    boxes, scores = random_boxes(seed, n)
    order = np.random.default_rng(seed + 1).permutation(n)
    again = order[suppress(boxes[order], scores[order], 0.4)]
    assert again.tolist() == suppress(boxes, scores, 0.4).tolist()


def test_suppression_counts_pixels():
    """Boxes 0..9 and 5..14 share 5 of 15 pixels per row: 1/3, not (10-5)/(9+9-4)."""
    boxes = np.array([[0, 0, 9, 9], [5, 0, 14, 9.0]])
    assert suppress(boxes, np.array([0.9, 0.8]), 0.34).tolist() == [0, 1]
    assert suppress(boxes, np.array([0.9, 0.8]), 0.33).tolist() == [0]
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.4).tolist() == []


def test_boxes_that_overlap_by_just_the_limit_stay():
    boxes = np.array([[0.0, 0, 9, 9], [0, 0, 9, 4]])  # 100 and 50 pixels
    assert suppress(boxes, np.array([0.9, 0.8]), 0.5).tolist() == [0, 1]


def test_what_boxes_share_between_pixels_and_in_pixels():
    box, others = np.array([0, 0, 4, 2.0]), np.array([[2, 1, 6, 5], [4, 0, 8, 2], [5, 5, 4, 4.0]])
    for edge, both, either in ((0, [2, 0, 0], [22, 16, 8]), (1, [6, 3, 0], [34, 27, 15])):
        intersection, union = shared(box, others, edge)
        assert intersection.tolist() == both and union.tolist() == either


# --- the card ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": None}, {"steps": [8, 16]}, {"steps": [0, 16, 32]}, {"steps": [8, 16, 10**6]},
        {"min_sizes": []}, {"min_sizes": [[], [1], [2]]}, {"min_sizes": [[-1], [1], [2]]},
        {"min_sizes": [[math.inf], [1], [2]]}, {"min_sizes": "abc"}, {"min_sizes": 5},
        {"steps": [1, 1, 1]}, {"variances": [0.1]}, {"variances": [0, 0.2]}, {"score": "high"},
        {"score": 1.5}, {"overlap": -1}, {"max_side": 10**6}, {"max_side": 1}, {"scores": 0.5},
        {"sure": 2}, {"sure": math.nan}, {"overlap": 0}, {"overlap": 1.01}, {"score": 1},
        {"steps": [1024] * 17, "min_sizes": [[1]] * 17}, {"steps": [1024], "min_sizes": [[1] * 65]},
        {"steps": [1025, 16, 32]}, {"variances": [0.1, 1.01]}, {"origin": 1.01}, {"origin": -0.01},
        {"score_power": 0}, {"score_power": 1.01}, {"multiple": 0}, {"multiple": 257},
        {"canvas": [320]}, {"canvas": [31, 320]}, {"canvas": [320, 4097]}, {"max_side": 31},
        {"pixels": "false"}, {"pixels": []}, {"edges": 1},
    ],
)  # fmt: skip
def test_cards_that_describe_no_detector(bad):
    detector = {**USUAL, **bad}
    with pytest.raises(FormatError, match="card") as caught:
        Priors.from_card(detector)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "good",
    [
        {"steps": [1024], "min_sizes": [[1e5]]}, {"steps": [2], "min_sizes": [[1]]},
        {"steps": [1024] * 16, "min_sizes": [[1] * 4] * 16}, {"score": 0, "sure": 0},
        {"variances": [1, 1]},
        {"sure": 1, "overlap": 1}, {"origin": 0}, {"origin": 1, "score_power": 1},
        {"multiple": 1}, {"multiple": 256}, {"canvas": [32, 4096], "max_side": 4096},
        {"max_side": 32}, {"pixels": True}, {"edges": False},
    ],
)  # fmt: skip
def test_cards_at_the_edge_of_what_is_allowed(good):
    priors = Priors.from_card({**USUAL, **good})
    for key, value in good.items():
        if key != "min_sizes":
            assert getattr(priors, key) == (tuple(value) if isinstance(value, list) else value)


def test_an_empty_card_is_refused():
    with pytest.raises(FormatError):
        Priors.from_card({})
