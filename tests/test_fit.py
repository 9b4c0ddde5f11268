"""Least squares, its intervals, and what says how far to trust it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinyface.errors import UsageError
from tinyface.traffic.fit import condition, correlation, least_squares, t_quantile, t_within


@pytest.mark.parametrize(
    ("degrees", "value"),  # two-sided 95 %, as in the printed tables of Student's t
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (6, 2.447), (7, 2.365),
     (10, 2.228), (15, 2.131), (30, 2.042), (60, 2.000), (120, 1.980), (10_000, 1.960)],
)  # fmt: skip
def test_quantiles_of_student(degrees: int, value: float) -> None:
    assert t_quantile(degrees) == pytest.approx(value, abs=6e-4)


def test_quantiles_in_closed_form() -> None:
    assert t_quantile(1, 0.5) == pytest.approx(1, rel=1e-9)  # Cauchy: tan(pi p / 2)
    assert t_quantile(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-9)
    assert t_quantile(2, 0.99) == pytest.approx(0.99 * math.sqrt(2 / (1 - 0.99**2)), rel=1e-9)
    with pytest.raises(UsageError, match="more rows"):
        t_quantile(0)


@pytest.mark.parametrize("degrees", [3, 4, 9, 24])
def test_the_distribution_is_the_integral_of_its_density(degrees: int) -> None:
    x = np.linspace(0, 2.5, 200_001)
    factor = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(math.pi * degrees)
    density = factor * (1 + x * x / degrees) ** (-(degrees + 1) / 2)
    inside = 2 * float(np.sum((density[1:] + density[:-1]) / 2)) * (x[1] - x[0])
    assert t_within(2.5, degrees) == pytest.approx(inside, abs=1e-8)


def test_a_line_by_hand() -> None:
    """x 1, 2, 3, y 2, 4, 7: slope 5/2, constant -2/3; residuals 1/6, -1/3, 1/6."""
    fit = least_squares({"x": [1, 2, 3], "1": [1, 1, 1]}, [2, 4, 7])
    assert fit.coefficients == pytest.approx((2.5, -2 / 3))
    assert fit.r2 == pytest.approx(1 - (1 / 6) / (38 / 3))
    half = t_quantile(1) * math.sqrt(1 / 6 / 2)  # variance 1/6 over 1 degree, sum of squares 2
    assert (fit.low[0], fit.high[0]) == pytest.approx((2.5 - half, 2.5 + half))
    assert not fit.positive("x")
    # left out: 1 from (4, 7), 2 from the middle of 2 and 7, 3 from 2 and 4
    assert sorted((abs(1 - 2) / 2, abs(4.5 - 4) / 4, abs(6 - 7) / 7))[1] == pytest.approx(fit.error)


def test_intervals_cover() -> None:
    """In 400 repetitions about 95 % of the intervals hold the true value."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        x = rng.uniform(1, 5, 8)
        fit = least_squares({"x": x, "1": np.ones(8)}, 3 * x + 20 + rng.normal(0, 1, 8))
        held += fit.low[0] <= 3 <= fit.high[0]
    assert 0.92 <= held / 400 <= 0.98


def test_relative_fits_weigh_small_and_large_alike() -> None:
    x = np.array([1.0, 10, 100, 1000])
    t = 2 * x * np.array([1.1, 0.9, 1.1, 0.9])
    relative = least_squares({"x": x}, t, relative=True)
    b = 1 / np.array([1.1, 0.9, 1.1, 0.9]) / 2
    assert relative.coefficients[0] == pytest.approx(b.sum() / (b @ b))
    assert least_squares({"x": x}, t).coefficients[0] == pytest.approx(float(x @ t / (x @ x)))


def test_no_coefficient_below_zero() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, t = rng.normal(size=(12, 3)), rng.uniform(0.5, 2, 12)
        columns = {name: a[:, i] for i, name in enumerate("abc")}
        beta = np.array(least_squares(columns, t, nonnegative=True).coefficients)
        gradient = a.T @ (t - a @ beta)  # Karush-Kuhn-Tucker conditions
        assert (beta >= 0).all() and (gradient <= 1e-9).all()
        assert np.abs(gradient[beta > 0]).max(initial=0) < 1e-9


def test_groups_are_left_out_together() -> None:
    x = np.array([1.0, 2, 3, 1, 2, 3])
    t = np.array([1.0, 2, 3, 2, 4, 6])  # the second group is twice as slow
    fit = least_squares({"x": x}, t, groups=list("aaabbb"))
    assert fit.error == pytest.approx(0.75)  # predicted 2 for 1 and 1 for 2: errors 1 and 0.5
    assert least_squares({"x": x}, t).worst < 1


def test_too_few_rows_decide_nothing() -> None:
    fit = least_squares({"x": [1.0, 2], "1": [1.0, 1]}, [1.0, 3])
    assert fit.low == (-math.inf,) * 2 and math.isnan(fit.error)
    doc = fit.to_json()
    assert doc["terms"][0]["low"] is None and doc["cross_validated"]["median"] is None
    with pytest.raises(UsageError, match="measure more"):
        least_squares({"x": [1.0], "1": [1.0]}, [1.0])
    with pytest.raises(UsageError, match="above 0"):
        least_squares({"x": [1.0, 2]}, [0.0, 1])
    with pytest.raises(UsageError, match="column"):
        least_squares({}, [1.0])


def test_columns_that_say_the_same_are_noticed() -> None:
    x = np.arange(1.0, 9)
    same = {"x": x, "y": 5 * x + 0.01 * np.cos(x)}
    t = x + np.sin(9 * x) / 10
    assert least_squares(same, t).collinear
    assert not least_squares({"x": x, "y": np.tile([1.0, 3], 4)}, t).collinear
    assert correlation(same)["x", "y"] == pytest.approx(1, abs=1e-4)
    assert correlation({"x": x, "1": np.ones(8)})["x", "1"] == 0
    assert condition(np.eye(3)) == 1
