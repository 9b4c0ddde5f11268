"""Linear models of time: least squares, with everything that says how far to trust them.

A model is T = Σ coefficient · column. :func:`least_squares` gives the coefficients with their 95 %
intervals (Student's t, the usual assumptions), R², the error on what was left out of the fit, and
the condition number of the columns: where two columns say nearly the same, their coefficients
mean little, however good the fit.

``relative=True`` minimises Σ ((fitted − T) / T)², least squares on rows divided by their time. It
is right where the noise is a share of the time, as it is between networks of 0.1 and 100 ms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from tinyface.errors import UsageError
from tinyface.ops.spec import Array

CONFIDENCE = 0.95
COLLINEAR = 30.0  # condition number of scaled columns; Belsley, Kuh and Welsch 1980: 30 is strong


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    names: of the columns. coefficients: time per unit of each column. low, high: 95 % interval
        of each; infinite where there are no more rows than columns.
    rows: that were fitted. r2: of the unscaled times around their mean, 1 is perfect.
    error, mean, worst: median, mean and largest relative error on groups left out of the fit
        (nan where leaving one out leaves too few). condition: of the columns, scaled to length 1.
    """

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    rows: int
    r2: float
    error: float
    mean: float
    worst: float
    condition: float

    @property
    def collinear(self) -> bool:
        """Do some columns say nearly the same?"""
        return self.condition > COLLINEAR

    def coefficient(self, name: str) -> float:
        return self.coefficients[self.names.index(name)]

    def positive(self, name: str) -> bool:
        """Does the interval of this coefficient lie above 0?"""
        return self.low[self.names.index(name)] > 0

    def predict(self, columns: Mapping[str, Any]) -> Array:
        """Fitted times of rows, shape (rows,)."""
        values: Array = matrix(columns, self.names) @ np.array(self.coefficients)
        return values

    def to_json(self) -> dict[str, Any]:
        """For JSON, which has no infinity and no nan: null stands for them."""
        rows = zip(self.names, self.coefficients, self.low, self.high, strict=True)
        return {
            "terms": [
                {"name": n, "value": c, "low": finite(a), "high": finite(b)} for n, c, a, b in rows
            ],
            "rows": self.rows,
            "r2": finite(self.r2),
            "cross_validated": {
                "median": finite(self.error),
                "mean": finite(self.mean),
                "worst": finite(self.worst),
            },
            "condition": finite(self.condition),
            "collinear": self.collinear,
        }


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def matrix(columns: Mapping[str, Any], names: Sequence[str]) -> Array:
    """Columns side by side, shape (rows, columns), float64."""
    return np.stack([np.asarray(columns[name], np.float64) for name in names], axis=1)


def least_squares(
    columns: Mapping[str, Any],
    times: Any,
    *,
    relative: bool = False,
    nonnegative: bool = False,
    groups: Sequence[Any] | None = None,
    validate: bool = True,
) -> Fit:
    """Fit ``times`` (rows,) by ``columns``, each (rows,); a column of ones is the constant.

    Args:
        relative: minimise relative errors.
        nonnegative: no coefficient below 0. The intervals are those of the free columns; a
            column held at 0 has the interval 0…0.
        groups: of each row; a whole group is left out at a time (default: single rows).
        validate: find the errors on what is left out.

    Raises:
        UsageError: no columns, fewer rows than columns, a time that is not positive, or a
            figure that is not finite.
    """
    names = tuple(columns)
    x, t = _checked(columns, names, times)
    scale = t if relative else np.ones_like(t)
    a, b = x / scale[:, None], t / scale
    solve = _nonnegative if nonnegative else _free
    beta = solve(a, b)
    low, high = _intervals(a, b, beta, held=nonnegative)
    total = float(np.sum((t - t.mean()) ** 2))
    r2 = 1 - float(np.sum((t - x @ beta) ** 2)) / total if total else math.nan
    errors = np.empty(0)
    if validate:
        errors = left_out(a, b, solve, list(range(len(t))) if groups is None else list(groups))
    median, mean, worst = (
        (float(f(errors)) for f in (np.median, np.mean, np.max)) if len(errors) else (math.nan,) * 3
    )
    coefficients = tuple(map(float, beta))
    return Fit(names, coefficients, low, high, len(t), r2, median, mean, worst, condition(a))


def _checked(columns: Mapping[str, Any], names: Sequence[str], times: Any) -> tuple[Array, Array]:
    if not names:
        raise UsageError("a model needs at least one column; name some")
    x, t = matrix(columns, names), np.asarray(times, np.float64)
    if len(t) < len(names):
        raise UsageError(
            f"{len(t)} rows cannot decide {len(names)} coefficients: measure more networks"
        )
    if not (np.isfinite(x).all() and np.isfinite(t).all() and (t > 0).all()):
        raise UsageError("times must be above 0 and all figures finite; measure again")
    return x, t


def _free(a: Array, b: Array) -> Array:
    """Ordinary least squares; columns scaled to length 1 first, so that units do not matter."""
    lengths = np.linalg.norm(a, axis=0)
    lengths[lengths == 0] = 1
    beta: Array = np.linalg.lstsq(a / lengths, b, rcond=None)[0] / lengths
    return beta


def _nonnegative(a: Array, b: Array) -> Array:
    """The best fit without a negative coefficient, by trying every subset of the columns.

    At the optimum the free columns are an ordinary least-squares fit; there are few columns.
    """
    count = a.shape[1]
    best, least = np.zeros(count), float(b @ b)
    for size in range(1, count + 1):
        for subset in combinations(range(count), size):
            chosen = list(subset)
            beta = _free(a[:, chosen], b)
            if (beta < 0).any():
                continue
            residual = b - a[:, chosen] @ beta
            if residual @ residual < least * (1 - 1e-12):
                best, least = np.zeros(count), float(residual @ residual)
                best[chosen] = beta
    return best


def _intervals(
    a: Array, b: Array, beta: Array, *, held: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """95 % intervals: beta ± t · s · sqrt(diag((AᵀA)⁻¹)), s² = residuals / degrees of freedom."""
    free = beta != 0 if held else np.ones(len(beta), bool)
    degrees = len(b) - int(free.sum())
    half = np.where(free, math.inf, 0.0)
    if degrees > 0 and free.any():
        chosen = a[:, free]
        lengths = np.linalg.norm(chosen, axis=0)
        lengths[lengths == 0] = 1
        residual = b - a @ beta
        inverse = np.linalg.pinv((chosen / lengths).T @ (chosen / lengths))
        variance = float(residual @ residual) / degrees * np.diag(inverse) / lengths**2
        half[free] = t_quantile(degrees) * np.sqrt(np.maximum(variance, 0))
    return tuple(map(float, beta - half)), tuple(map(float, beta + half))


def left_out(a: Array, b: Array, solve: Any, groups: Sequence[Any]) -> Array:
    """Relative error of every row, predicted by a fit that has not seen its group."""
    labels = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    index = np.array([labels[group] for group in groups])
    errors = []
    for label in range(len(labels)):
        out = index == label
        if (~out).sum() < a.shape[1]:
            return np.empty(0)
        beta = solve(a[~out], b[~out])
        errors.append(np.abs(a[out] @ beta - b[out]) / b[out])
    return np.concatenate(errors)


def condition(a: Array) -> float:
    """Largest by smallest singular value of the columns scaled to length 1; 1 is orthogonal."""
    lengths = np.linalg.norm(a, axis=0)
    if not lengths.all():
        return math.inf
    values = np.linalg.svd(a / lengths, compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 0 else math.inf


def correlation(columns: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Pearson's r of every pair of columns; 0 where one of them is constant."""
    found = {}
    for one, other in combinations(columns, 2):
        x, y = (np.asarray(columns[n], np.float64) - np.mean(columns[n]) for n in (one, other))
        length = math.sqrt(float(x @ x) * float(y @ y))
        found[one, other] = float(x @ y) / length if length else 0.0
    return found


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| ≤ t) = confidence, for Student's T of so many degrees of freedom.

    By bisection on the finite series of the distribution for whole degrees of freedom
    (Abramowitz & Stegun 26.7.3 and 26.7.4); good to 9 digits.
    """
    if degrees < 1:
        raise UsageError("an interval needs more rows than coefficients")
    low, high = 0.0, 1.0
    while t_within(high, degrees) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, degrees) < confidence else (low, middle)
    return (low + high) / 2


def t_within(t: float, degrees: int) -> float:
    """P(|T| ≤ t)."""
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1 if odd else degrees, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
