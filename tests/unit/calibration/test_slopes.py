"""Slopes by penalised likelihood: the minimum is found, wherever the start is, and clicks stay shares."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from within_ml.calibration.slopes import fit_slopes


def beta_basis(x):
    return np.column_stack([-np.logaddexp(0.0, -x), np.logaddexp(0.0, x)])


def sharp(n=1000, seed=0, slope=0.6):
    """Predictions of a model that is far too sure, up to log-odds of ±25."""
    rng = np.random.default_rng(seed)
    x = np.sort(np.clip(rng.normal(-8, 10, n), -25, 25))
    return x, (rng.random(n) < expit(slope * x)).astype(float)


@pytest.mark.parametrize("level", [0.0, 3.0, -3.0])
@pytest.mark.parametrize("regularization", [1e-3, 1.0, 100.0])
def test_the_minimum_is_scipys(level, regularization):
    x, y = sharp()
    basis, w = beta_basis(x), np.ones(x.size)
    fit = fit_slopes(basis, x, y, w, level=level, regularization=regularization, min_slope=None)

    def loss(theta):
        eta = level + theta[0] + basis @ theta[1:]
        a, b = theta[1:]
        return w @ (np.logaddexp(0, eta) - y * eta) + regularization * (
            (a - b) ** 2 + 0.1 * ((a - 1) ** 2 + (b - 1) ** 2)
        )

    found = np.array([fit.start, *fit.slopes])
    best = minimize(
        loss, [0.0, 0.6, 0.6], method="Nelder-Mead", options={"maxiter": 5000, "xatol": 1e-8, "fatol": 1e-10}
    )
    # Ours has a click's worth of penalty on its level, and half a click of prior besides.
    assert loss(found) <= best.fun + 1.0


def test_a_slope_at_its_bound_is_the_best_there():
    x, y = sharp(slope=-0.5)
    fit = fit_slopes(beta_basis(x), x, y, np.ones(x.size), regularization=0.1, min_slope=0.05)

    assert fit.slopes == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_are_sure_and_right_pull_no_further(seed):
    """A share of clicks above 1 would have no largest likelihood: slopes would grow with every certain row."""
    x, y = sharp(slope=1.0, seed=seed)
    fit = fit_slopes(beta_basis(x), x, y, np.ones(x.size), level=0.5, regularization=1e-3)

    assert fit.slopes.max() < 3


def test_no_clicks_leave_the_identity():
    x = np.linspace(-5, -3, 40)
    level = -0.4
    few = np.full(40, 0.5 / expit(x + level).sum())
    fit = fit_slopes(beta_basis(x), x, np.zeros(40), few, level=level)

    # The level was given half a click, and half a click is expected of it.
    assert fit.start == pytest.approx(0, abs=0.05)
    assert fit.slopes == pytest.approx([1, 1], abs=0.05)


def test_evidence_tells_a_line_from_a_wave():
    x = np.linspace(-6, -1, 2000)
    hats = np.maximum(1 - np.abs(x[:, None] - np.linspace(-6, -1, 9)) / 0.625, 0)
    basis = np.cumsum(hats, axis=0) * (x[1] - x[0])
    basis *= (x[-1] - x[0]) / basis[-1].sum()
    w = np.full(x.size, 100.0)
    line, wave = (fit_slopes(basis, x, expit(truth), w) for truth in (x, x + 0.4 * np.sin(3 * x)))

    assert line.roughness > 100 * wave.roughness
    assert np.ptp(line.slopes) < 0.05 < np.ptp(wave.slopes)
