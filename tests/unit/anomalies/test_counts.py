"""Residuals against SciPy's distributions, bands that hold what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from within_ml.anomalies.counts import band, signed_residual


def one(value, expected, unit=1.0, extra=1e-9):
    return float(signed_residual(*(np.array([x], dtype=float) for x in (value, expected, unit, extra)))[0])


@pytest.mark.parametrize("mean", [3.0, 10.0, 100.0])
@pytest.mark.parametrize("extra", [1e-9, 0.04])
def test_the_residual_is_the_normal_deviate_of_the_tail(mean, extra):
    distribution = stats.poisson(mean) if extra < 1e-6 else stats.nbinom(1 / extra, 1 / (1 + extra * mean))
    for q in (1e-5, 1e-3, 0.999, 0.99999):
        value = float(distribution.ppf(q))
        below = value < mean
        # The probability of the value or beyond, with half of its own for continuity.
        tail = distribution.cdf(value) if below else distribution.sf(value - 1)
        exact = stats.norm.ppf(tail) if below else stats.norm.isf(tail)
        assert one(value, mean, extra=extra) == pytest.approx(exact, abs=0.25)


@given(st.integers(0, 10_000), st.floats(0.1, 10_000), st.floats(0.01, 100), st.floats(1e-6, 1.0), st.floats(0.1, 1000))
def test_the_scale_of_money_does_not_matter(value, mean, unit, extra, scale):
    assert one(value, mean, unit, extra) == pytest.approx(
        one(value * scale, mean * scale, unit * scale, extra), abs=1e-6
    )


@given(st.floats(0.1, 1e6), st.floats(1e-6, 1.0))
def test_farther_is_odder(mean, extra):
    values = mean * np.array([0.0, 0.2, 0.5, 0.9, 1.0, 1.5, 3.0, 10.0])
    z = signed_residual(values, np.full(8, mean), np.ones(8), np.full(8, extra))

    assert np.isfinite(z).all()
    assert (np.diff(z) >= -0.5).all()
    assert z[0] <= 0.5
    assert z[-1] > 0


@pytest.mark.parametrize(("mean", "extra"), [(30.0, 1e-6), (500.0, 0.02), (20_000.0, 0.01)])
def test_the_band_holds_what_it_says(mean, extra):
    rng = np.random.default_rng(0)
    values = rng.poisson(mean * rng.gamma(1 / extra, extra, 200_000) if extra > 1e-5 else mean, 200_000)

    low, high = band(np.array([mean]), np.ones(1), np.array([extra]), 0.005)

    assert np.mean(values < low) == pytest.approx(0.005, abs=0.003)
    assert np.mean(values > high) == pytest.approx(0.005, abs=0.003)
