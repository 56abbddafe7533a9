"""The basis of a monotone spline: integrals of B-splines between knots, and where the knots stand.

Coefficients, penalties and data are elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.special import expit

FloatArray = NDArray[np.float64]

_CLOSEST_KNOTS = 1e-6
"""Knots nearer than this share of the range would make slopes that nothing can tell apart."""


def integrated_basis(x: FloatArray, knots: FloatArray, order: int) -> FloatArray:
    """Integral from the first knot to x of each B-spline of the slope, shape (n, knots + order - 3).

    With all coefficients 1 the sum over columns is ``x - knots[0]``. Outside the knots the ends go on as straight
    lines. Ramsay 1988, "Monotone Regression Splines in Action", Statistical Science 3.

    >>> integrated_basis(np.array([-1.0, 0.0, 0.5, 3.0]), np.array([0.0, 1.0, 2.0]), 3).sum(axis=1)
    array([-1. ,  0. ,  0.5,  3. ])
    """
    degree = order - 2
    count = knots.size + order - 3
    padded = np.concatenate([np.repeat(knots[0], degree), knots, np.repeat(knots[-1], degree)])
    inside = np.clip(x, knots[0], knots[-1])
    basis = np.empty((x.size, count))
    for k, unit in enumerate(np.eye(count)):
        integral = BSpline(padded, unit, degree).antiderivative()
        basis[:, k] = integral(inside) - integral(knots[0])
    basis[:, 0] += np.minimum(x - knots[0], 0.0)
    basis[:, -1] += np.maximum(x - knots[-1], 0.0)
    return basis


def quantile_knots(x: FloatArray, w: FloatArray, n_knots: int, *, level: float) -> FloatArray:
    """Knots where the predictions x are (log-odds, in rising order); with ``level`` added their level is right.

    A third by impressions; a third by information, of which an impression holds p (1 - p): most predictions of a sharp
    model tell next to nothing, and knots among them alone would leave none for the few that do; a third evenly over the
    range, since a model that is far too sure has much of it where its own p says that there is nothing to learn.
    """
    information = w * np.maximum(expit(x + level) * expit(-x - level), 1e-300)
    share = (np.cumsum(w / w.sum() + information / information.sum()) + (x - x[0]) / (x[-1] - x[0])) / 3
    inner = np.interp(np.linspace(0, 1, n_knots)[1:-1], share, x)
    return _apart(np.concatenate([x[:1], inner, x[-1:]]))


def _apart(knots: FloatArray) -> FloatArray:
    knots = np.unique(knots)
    kept = np.concatenate([[True], np.diff(knots) > _CLOSEST_KNOTS * (knots[-1] - knots[0])])
    kept[-1] = True
    if kept.sum() > 2 and knots[-1] - knots[kept][-2] <= _CLOSEST_KNOTS * (knots[-1] - knots[0]):
        kept[np.flatnonzero(kept)[-2]] = False
    result: FloatArray = knots[kept]
    return result
