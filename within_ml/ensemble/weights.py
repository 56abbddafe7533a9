"""Weights of an ensemble: those on the simplex with which its log-loss is smallest, drawn a little to equal ones.

Arrays of predictions only; whose they are is in `calibrated`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit

from within_ml.ensemble.pooling import dispersion
from within_ml.errors import InputError
from within_ml.metrics import check_rates

FloatArray = NDArray[np.float64]

PULL = 2.0
"""Strength of the pull to equal weights, in clicks: two members whose log-likelihoods differ by less get about equal
weights, whatever noise says."""

_SMALLEST_WEIGHT = 1e-12
_ROUNDS = 3
_TOLERANCE = 1e-14

LossAndGradient = Callable[[FloatArray], tuple[float, FloatArray]]


def simplex_weights(margins: ArrayLike, y: ArrayLike, w: ArrayLike | None = None, *, pull: float = PULL) -> FloatArray:
    """Return the weights, shape (k,), that make the logarithmic pool of k members most likely.

    Parameters
    ----------
    margins : array-like, shape (n, k)
        Log-odds that each member predicted, on rows that it was not fitted on.
    y : array-like, shape (n,)
        Observed rates in [0, 1].
    w : array-like, shape (n,), optional
        Impressions.
    pull : float
        Strength of the pull to equal weights, in clicks.

    Returns
    -------
    array, shape (k,)
        Not negative, sum 1. Equal where there are no impressions.

    Raises
    ------
    InputError
        If shapes differ or a range is wrong.

    Notes
    -----
    Minimises the convex ``Σ w/φ · log-loss(σ(margins @ a)) + pull · Σ aⱼ log(k aⱼ)`` over the simplex. The pool of
    log-odds is the logarithmic opinion pool (Genest and Zidek 1986). φ is the dispersion of the rows about the pool,
    at least 1: without it a few hundred rows of many impressions would look like certainty.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(-3, 1, 5000)
    >>> y = rng.binomial(100, expit(truth)) / 100
    >>> members = truth[:, None] + rng.normal(0, [0.1, 0.2], (5000, 2))
    >>> simplex_weights(members, y, np.full(5000, 100)).round(1)
    array([0.8, 0.2])
    """
    m, y, w = checked_members(margins, y, w)

    def loss(a: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        pooled = m @ a
        p = expit(pooled)
        return p, np.logaddexp(0.0, pooled) - y * pooled, p - y

    def problem(scaled: FloatArray) -> LossAndGradient:
        def value(a: FloatArray) -> tuple[float, FloatArray]:
            _, row_loss, slope = loss(a)
            return float(scaled @ row_loss), m.T @ (scaled * slope)

        return value

    return _solve(m.shape[1], lambda a: loss(a)[0], problem, y, w, pull)


def mixture_weights(
    probabilities: ArrayLike, y: ArrayLike, w: ArrayLike | None = None, *, pull: float = PULL
) -> FloatArray:
    """Return the weights, shape (k,), that make the mean of k members' probabilities, shape (n, k), most likely.

    As `simplex_weights`, for the linear opinion pool.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    if not ((given > 0) & (given < 1)).all():
        raise InputError("probabilities must lie between 0 and 1, without the two.")
    p, y, w = checked_members(given, y, w)

    def problem(scaled: FloatArray) -> LossAndGradient:
        def value(a: FloatArray) -> tuple[float, FloatArray]:
            q = np.clip(p @ a, _SMALLEST_WEIGHT, 1 - _SMALLEST_WEIGHT)
            row_loss = -(y * np.log(q) + (1 - y) * np.log1p(-q))
            return float(scaled @ row_loss), p.T @ (scaled * (q - y) / (q * (1 - q)))

        return value

    return _solve(p.shape[1], lambda a: p @ a, problem, y, w, pull)


def checked_members(values: ArrayLike, y: ArrayLike, w: ArrayLike | None) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return members' values (n, k), rates (n,) and weights (n,) as float arrays.

    Raises
    ------
    InputError
        If shapes differ, a value is not finite or a range is wrong.
    """
    members = np.asarray(values, dtype=np.float64)
    rates = np.asarray(y, dtype=np.float64)
    if members.ndim != 2 or not members.shape[1] or members.shape[:1] != rates.shape:
        raise InputError(
            f"Members' predictions must have shape (n, k), y (n,), however: {members.shape}, {rates.shape}."
        )
    if not np.isfinite(members).all():
        raise InputError("Members' predictions must be finite.")
    rates, _, weight = check_rates(rates, np.zeros_like(rates), w)
    return members, rates, weight


def _solve(
    k: int,
    predicted: Callable[[FloatArray], FloatArray],
    problem: Callable[[FloatArray], LossAndGradient],
    y: FloatArray,
    w: FloatArray,
    pull: float,
) -> FloatArray:
    """Minimise, with the dispersion about the weights found before."""
    a = np.full(k, 1 / k)
    if k == 1 or not w.sum() > 0:
        return a
    for _ in range(_ROUNDS):
        found = _minimised(problem(w / dispersion(predicted(a), y, w)), k, pull)
        moved, a = float(np.abs(found - a).max()), found
        if moved < 1e-6:
            break
    return a


def _minimised(loss: LossAndGradient, k: int, pull: float) -> FloatArray:
    equal = np.full(k, 1 / k)
    size = abs(loss(equal)[0]) + pull

    def objective(a: FloatArray) -> tuple[float, FloatArray]:
        # The solver steps a hair outside its bounds when it probes.
        a = np.maximum(a, _SMALLEST_WEIGHT)
        value, gradient = loss(a)
        logs = np.log(k * a)
        return (value + pull * float(a @ logs)) / size, (gradient + pull * (logs + 1)) / size

    result = minimize(
        objective,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(_SMALLEST_WEIGHT, 1.0)] * k,
        constraints=[{"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like}],
        options={"maxiter": 500, "ftol": _TOLERANCE},
    )
    a = np.maximum(result.x, 0.0)
    weights: FloatArray = a / a.sum()
    return weights
