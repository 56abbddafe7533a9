"""Positive slopes of a map on the log-odds by penalised binomial likelihood, the strength of the penalty included.

Arrays only: which basis the slopes belong to, and what becomes of the map, is the calibrators'.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

FloatArray = NDArray[np.float64]

ROUGHNESS = (2.0, 16.0, 128.0, 1024.0, 8192.0, 65536.0)
"""Candidates for the strength against slopes that differ from their neighbours."""

DISTANCE = (0.05, 0.5, 5.0, 20.0)
"""Candidates for the strength against slopes that differ from 1, in clicks."""

_MAX_BINS = 2_000
_MOST_STEPS = 200
_LARGEST_STEP = 5.0
_LEAST_FALL = 1e-4
_SMALLEST_STEP = 1e-10
_SETTLED = 1e-9
_SHARE_OF_DISTANCE = 0.1
_LEVEL_CLICKS = 1.0
"""Strength against moving the level again, which is right before the shape is fitted."""
_PRIOR_CLICKS = 0.5
"""What the level was given where clicks were few; the shape must not take it back."""


@dataclass(frozen=True, slots=True)
class SlopeFit:
    """``logit(p) = level + start + basis @ slopes``; ``roughness`` and ``distance`` are the strengths that were used.

    With several candidates all of it is their mean by evidence (of the strengths the geometric one).
    """

    start: float
    slopes: FloatArray
    roughness: float
    distance: float


def fit_slopes(
    basis: FloatArray,
    x: FloatArray,
    y: FloatArray,
    w: FloatArray,
    *,
    level: float = 0.0,
    regularization: float | None = None,
    min_slope: float | None = 0.01,
) -> SlopeFit:
    """Fit slopes that are 1 where nothing speaks against it.

    Parameters
    ----------
    basis : shape (n, k)
        Functions of x that add up to x plus a constant, so that slopes of 1 are the identity.
    x, y, w : shape (n,)
        Log-odds, observed rates, impressions over dispersion.
    level : float
        What makes the level of x right; the fit hardly moves it.
    regularization : float, optional
        Strength r of ``r · (Σ (sₖ - sₖ₊₁)² + 0.1 Σ (sₖ - 1)²)``. None weighs a grid of
        ``a · Σ (sₖ - sₖ₊₁)² + b · mean (sₖ - 1)²`` by evidence.
    min_slope : float, optional
        None leaves slopes free.

    Notes
    -----
    The evidence of a candidate is Laplace's approximation of its marginal likelihood (MacKay 1992, "Bayesian
    Interpolation", Neural Computation 4); the maps are averaged with it as weights, on the log-odds. Averaging keeps
    slopes positive, and data that cannot tell candidates apart are not made to choose. Deviation: a slope at its bound
    counts in the determinants as if it were free.

    Examples
    --------
    >>> x = np.linspace(-6, -2, 50)
    >>> fit = fit_slopes(x[:, None], x, expit(-2 + 0.5 * x), np.full(50, 1e5))
    >>> round(fit.start, 2), fit.slopes.round(2)
    (-2.0, array([0.5]))
    """
    p = expit(x + level)
    y = _with_prior_clicks(p, y, w)
    information = w * np.maximum(p * (1 - p), 1e-300)
    centre = information @ basis / information.sum()
    middle = float(information @ x / information.sum())
    origin = level + middle
    columns = np.column_stack([np.ones(len(x)), basis - centre])
    candidates = _candidates(regularization)
    theta = np.concatenate([[0.0], np.ones(basis.shape[1])])
    thetas, losses = [], []
    for roughness, distance in candidates:
        penalty = _penalty(basis.shape[1], roughness, distance, fixed=regularization is not None)
        problem = _Problem(columns, origin, y, w, penalty)
        theta = _minimum(problem, theta, min_slope)
        thetas.append(theta)
        losses.append(problem.loss(theta) + _occam(problem, theta))
    share = softmax(-np.array(losses))
    mean = share @ np.array(thetas)
    roughness, distance = np.exp(share @ np.log(np.array(candidates)))
    return SlopeFit(middle + float(mean[0] - centre @ mean[1:]), mean[1:], float(roughness), float(distance))


def _with_prior_clicks(p: FloatArray, y: FloatArray, w: FloatArray) -> FloatArray:
    """Share of clicks after the part of a click that the level p has and y has not, spread where p expects it."""
    given = float(np.clip(w @ (p - y), -_PRIOR_CLICKS, _PRIOR_CLICKS))
    # Only what was missed can still be clicked, and the reverse: a share beyond 1 would have no largest likelihood.
    room = p * (1 - y) if given > 0 else y * (1 - p)
    result: FloatArray = y + given * room / max(float(w @ room), abs(given), 1e-300)
    return result


def _candidates(regularization: float | None) -> list[tuple[float, float]]:
    if regularization is not None:
        return [(regularization, _SHARE_OF_DISTANCE * regularization)]
    # The strictest first: each candidate starts from the one before, and the first from the identity.
    return [(rough, far) for far, rough in product(DISTANCE[::-1], ROUGHNESS[::-1])]


def _penalty(count: int, roughness: float, distance: float, *, fixed: bool) -> FloatArray:
    """Second derivative of the penalty on (level, slopes), shape (count + 1, count + 1)."""
    steps = np.diff(np.eye(count), axis=0)
    each = distance if fixed else distance / count
    penalty = np.zeros((count + 1, count + 1))
    penalty[0, 0] = _LEVEL_CLICKS
    penalty[1:, 1:] = 2 * (roughness * steps.T @ steps + each * np.eye(count))
    return penalty


@dataclass(frozen=True, slots=True)
class _Problem:
    """Penalised loss of (level, slopes), shape (k + 1,); ``columns``, shape (n, k + 1), begin with ones."""

    columns: FloatArray
    origin: float
    y: FloatArray
    w: FloatArray
    penalty: FloatArray

    def loss(self, theta: FloatArray) -> float:
        eta = self.origin + self.columns @ theta
        away = theta - self.identity()
        return float(self.w @ (np.logaddexp(0.0, eta) - self.y * eta) + away @ self.penalty @ away / 2)

    def derivatives(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient, shape (k + 1,), and second derivative, shape (k + 1, k + 1)."""
        p = expit(self.origin + self.columns @ theta)
        gradient = self.columns.T @ (self.w * (p - self.y)) + self.penalty @ (theta - self.identity())
        return gradient, (self.columns.T * (self.w * p * (1 - p))) @ self.columns + self.penalty

    def identity(self) -> FloatArray:
        return np.concatenate([[0.0], np.ones(self.columns.shape[1] - 1)])


def _minimum(problem: _Problem, theta: FloatArray, min_slope: float | None) -> FloatArray:
    """Newton's method; a slope that meets its bound stays there as long as the loss would fall beyond it.

    Where predictions are far too sure the loss has next to no curvature and a full step would lead anywhere; so none
    moves a row's log-odds by more than `_LARGEST_STEP`.
    """
    lowest = np.full(theta.size, -np.inf if min_slope is None else min_slope)
    lowest[0] = -np.inf
    loss = problem.loss(theta)
    for _ in range(_MOST_STEPS):
        gradient, hessian = problem.derivatives(theta)
        step = _direction(gradient, hessian, theta <= lowest)
        fall = -float(gradient @ step)
        if fall < _SETTLED:
            break
        down = step < 0
        room = float(((lowest - theta)[down] / step[down]).min(initial=np.inf))
        size = min(1.0, room, _LARGEST_STEP / float(np.abs(problem.columns @ step).max()))
        while problem.loss(theta + size * step) > loss - _LEAST_FALL * size * fall and size > _SMALLEST_STEP:
            size /= 2
        theta = np.maximum(theta + size * step, lowest)
        theta = np.where(theta < lowest + _SMALLEST_STEP, lowest, theta)
        loss = problem.loss(theta)
    return theta


def _direction(gradient: FloatArray, hessian: FloatArray, bound: NDArray[np.bool_]) -> FloatArray:
    """Newton's step, zero for what is at its bound and would pass it."""
    free = ~bound | (gradient < 0)
    while True:
        step = np.zeros(gradient.size)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], -gradient[free])
        passing = free & bound & (step < 0)
        if not passing.any():
            return step
        free &= ~passing


def _occam(problem: _Problem, theta: FloatArray) -> float:
    """What Laplace's approximation adds to the penalised loss: how much of the prior's room the data rule out."""
    hessian = problem.derivatives(theta)[1]
    return float(np.linalg.slogdet(hessian)[1] - np.linalg.slogdet(problem.penalty)[1]) / 2


def binned(x: FloatArray, y: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sum equal predictions, then neighbours into at most `_MAX_BINS` rows, in rising order of x.

    The map is smooth, so that nothing but time is lost.

    >>> binned(np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.1, 0.2]), np.array([1.0, 4.0, 2.0]))
    (array([0., 1.]), array([0.1, 0.3]), array([4., 3.]))
    """
    values, place = np.unique(x, return_inverse=True)
    weight: FloatArray = np.bincount(place, weights=w).astype(np.float64)
    clicks = np.bincount(place, weights=w * y)
    if values.size > _MAX_BINS:
        starts = np.linspace(0, values.size, _MAX_BINS, endpoint=False).astype(np.int64)
        sums = np.add.reduceat(weight * values, starts)
        weight, clicks = np.add.reduceat(weight, starts), np.add.reduceat(clicks, starts)
        values = sums / weight
    return values, clicks / weight, weight
