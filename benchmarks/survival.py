"""How good predicted risks of leaving are when not everyone is followed to the end.

All functions take one row per account and day of prediction: ``time`` in days until the account left or was last seen,
``event`` whether it left. Who was last seen before the horizon counts by inverse probability of censoring weights
(IPCW), with the Kaplan-Meier estimate of staying in sight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def censoring_survival(time: FloatArray, event: NDArray[np.bool_], at: FloatArray, *, before: bool) -> FloatArray:
    """Kaplan-Meier estimate of G(t) = P(censored after t); with ``before`` of G(t-), just before t."""
    censored = np.sort(np.unique(time[~event]))
    at_risk = (time[:, None] >= censored).sum(axis=0)
    # Who leaves on the day on which another is censored left first.
    at_risk = at_risk - (event[:, None] & (time[:, None] == censored)).sum(axis=0)
    lost = ((~event)[:, None] & (time[:, None] == censored)).sum(axis=0)
    curve = np.append(1.0, np.cumprod(1 - lost / np.maximum(at_risk, 1)))
    return curve[np.searchsorted(censored, at, side="left" if before else "right")]


def _weights(time: FloatArray, event: NDArray[np.bool_], day: float) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Weights of rows whose state at ``day`` is known (0 otherwise), and whether they had left by then."""
    left = event & (time <= day)
    there = time > day
    seen = censoring_survival(time, event, np.minimum(time, day), before=True)
    at_day = censoring_survival(time, event, np.array([day]), before=False)[0]
    weight = np.where(left, 1 / np.maximum(seen, 1e-12), np.where(there, 1 / max(at_day, 1e-12), 0.0))
    return weight, left


def brier(time: FloatArray, event: NDArray[np.bool_], risk: FloatArray, day: float) -> float:
    """Brier score of P(left by ``day``) (Graf et al. 1999, Statistics in Medicine 18, equation 6)."""
    weight, left = _weights(time, event, day)
    return float((weight * (left - risk) ** 2).sum() / time.size)


def auc(time: FloatArray, event: NDArray[np.bool_], risk: FloatArray, day: float) -> float:
    """Cumulative/dynamic AUC: P(risk of one that left by ``day`` > risk of one still there) (Hung and Chiang 2010)."""
    weight, left = _weights(time, event, day)
    there = time > day
    order = np.sort(risk[there])
    below = np.searchsorted(order, risk[left], side="left")
    ties = np.searchsorted(order, risk[left], side="right") - below
    if not there.any() or not left.any():
        return float("nan")
    return float((weight[left] * (below + 0.5 * ties)).sum() / (weight[left].sum() * there.sum()))


def integrated(values: FloatArray, days: FloatArray) -> float:
    """Mean over the days by the trapezoidal rule."""
    return float(np.trapezoid(values, days) / (days[-1] - days[0]))


def calibration_line(y: FloatArray, risk: FloatArray) -> tuple[float, float]:
    """Slope and intercept of the logistic regression of outcomes on the log-odds of the predictions (Cox 1958)."""
    from sklearn.linear_model import LogisticRegression

    p = np.clip(risk, 1e-6, 1 - 1e-6)
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(np.log(p / (1 - p))[:, None], y)
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])
