"""A small binomial regression: a few terms on top of a given level, by Newton's method.

For tens of terms, dense. Sparse text has its own linear model, trees theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from within_ml.errors import InputError

FloatArray = NDArray[np.float64]

_RIDGE_ON_NOTHING = 1e-9
_LARGEST_STEP = 2.0


@dataclass(frozen=True, slots=True)
class BinomialFit:
    """``coefficients``, shape (k,), on the log-odds scale; ``dispersion`` ≥ 1, variance over the binomial one."""

    coefficients: FloatArray
    dispersion: float


def fit_binomial(
    terms: FloatArray, y: FloatArray, w: FloatArray, *, offset: FloatArray, ridge: FloatArray
) -> BinomialFit:
    """Fit ``logit(rate) = offset + terms @ coefficients``.

    Parameters
    ----------
    terms : shape (n, k)
    y, w, offset : shape (n,)
        Rates in [0, 1], impressions, log-odds.
    ridge : shape (k,)
        Penalty of each coefficient, in clicks.

    Notes
    -----
    Quasi-likelihood (McCullagh and Nelder 1989, chapter 9): the dispersion, Pearson's estimate from the rows, divides
    the weights, so that a ridge of one click means one click's worth of evidence however unlike the ads are.

    Raises
    ------
    InputError
        If the shapes do not fit.

    Examples
    --------
    >>> fit = fit_binomial(np.ones((2, 1)), np.array([0.2, 0.2]), np.array([50.0, 50.0]),
    ...                    offset=np.zeros(2), ridge=np.zeros(1))
    >>> fit.coefficients.round(3)
    array([-1.386])
    """
    n, k = terms.shape
    if not y.shape == w.shape == offset.shape == (n,) or ridge.shape != (k,):
        raise InputError(f"terms have shape {terms.shape}, however: y {y.shape}, w {w.shape}, ridge {ridge.shape}.")
    beta, dispersion = np.zeros(k), 1.0
    penalty = np.diag(ridge + _RIDGE_ON_NOTHING)
    for _ in range(50):
        p = expit(offset + terms @ beta)
        variance = np.maximum(p * (1 - p), 1e-12)
        dispersion = max(1.0, float((w * (y - p) ** 2 / variance).sum()) / max(n - k, 1))
        scaled = w / dispersion
        gradient = terms.T @ (scaled * (y - p)) - penalty @ beta
        step = np.linalg.solve((terms.T * (scaled * variance)) @ terms + penalty, gradient)
        beta = beta + np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        if np.abs(step).max() < 1e-9:
            break
    return BinomialFit(beta, dispersion)
