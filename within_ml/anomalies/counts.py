"""How far a count lies from what was expected, in standard deviations that small counts share with large ones.

Arrays in, arrays out; where an expectation comes from belongs in `baseline`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]

_TINY = 1e-12


def signed_residual(value: Floats, expected: Floats, unit: Floats, extra: Floats) -> Floats:
    """Return the residual of a negative binomial count as a standard normal deviate.

    A value is counted in units of ``unit`` (1 for clicks, the price of a click for spend): its variance is
    ``unit · expected + extra · expected²``. The residual is the signed root deviance, a half count towards the
    expectation for continuity, and corrected for skewness.

    Parameters
    ----------
    value, expected : array, same shape
        Both in the metric's own unit, 0 or above.
    unit : array
        Amount of one independent event, above 0.
    extra : array
        Relative variance beyond counting, above 0.

    Returns
    -------
    array
        About standard normal where the expectation is right; negative below it, NaN where an input is NaN.

    Notes
    -----
    Pierce and Schafer 1986, "Residuals in generalized linear models", JASA 81: adjusted deviance residuals.

    Examples
    --------
    No conversion where eight were expected: as rare as 3.4 standard deviations (the Poisson probability is .00034).

    >>> signed_residual(np.array([0.0]), np.array([8.0]), np.array([1.0]), np.array([1e-6])).round(1)
    array([-3.4])
    """
    y = value / unit
    mu = np.maximum(expected / unit, _TINY)
    size = 1.0 / np.maximum(extra, _TINY)
    away = y - mu
    y = np.where(np.abs(away) > 0.5, y - 0.5 * np.sign(away), mu)
    own = y * np.log(np.maximum(y, _TINY) / mu)
    deviance = 2.0 * (own - (y + size) * np.log((y + size) / (mu + size)))
    skewness = (1 + 2 * mu / size) / np.sqrt(mu * (1 + mu / size))
    root = np.sign(y - mu) * np.sqrt(np.maximum(deviance, 0.0))
    return np.asarray(root + np.where(np.abs(away) > 0.5, np.minimum(skewness / 6.0, 0.5), 0.0), dtype=np.float64)


def band(expected: Floats, unit: Floats, extra: Floats, tail: float) -> tuple[Floats, Floats]:
    """Return the values between which all but ``tail`` on either side is expected to lie.

    The quantiles are those of the gamma distribution with the count's mean and variance, by the cube-root
    approximation of Wilson and Hilferty 1931.

    Examples
    --------
    >>> low, high = band(np.array([100.0]), np.array([1.0]), np.array([1e-6]), 0.025)
    >>> low.round(1), high.round(1)
    (array([81.4]), array([120.5]))
    """
    mu = np.maximum(expected, _TINY * unit)
    spread = unit / mu + extra
    z = float(ndtri(1.0 - tail))
    centre, root = 1.0 - spread / 9.0, np.sqrt(spread) / 3.0
    low = mu * np.maximum(centre - z * root, 0.0) ** 3
    high = mu * np.maximum(centre + z * root, 0.0) ** 3
    # Of an expectation near zero the cube would fall below one event, which is always possible.
    return low, np.maximum(high, unit)
