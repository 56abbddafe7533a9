"""p-values that past nights vouch for, and false discovery control that keeps its promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from within_ml.anomalies.discovery import Tails, false_discovery, selected_families, simes


def test_q_values_are_those_of_scipy():
    p = np.random.default_rng(0).uniform(size=50) ** 3

    np.testing.assert_allclose(false_discovery(p), stats.false_discovery_control(p), rtol=1e-12)


@given(arrays(float, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.floats(0, 1) | st.just(float("nan"))))
def test_columns_are_families_of_their_own(p):
    np.testing.assert_array_equal(false_discovery(p), np.stack([false_discovery(column) for column in p.T], axis=1))
    q, found = selected_families(p, 0.1)
    assert not found[np.isnan(p)].any()
    assert ((q <= 0.1) == found)[~np.isnan(p)].all()


def test_families_without_anything_are_rarely_found():
    rng = np.random.default_rng(0)
    nights = [selected_families(rng.uniform(size=(8, 40)), 0.05)[1].any() for _ in range(1000)]

    # Under the null a night has any discovery with probability of at most the level.
    assert np.mean(nights) == pytest.approx(0.05, abs=0.02)


def test_simes_leaves_uniform_values_uniform():
    p = np.random.default_rng(0).uniform(size=5000)

    whole = simes(p, np.arange(5000) // 5, 1000)

    assert stats.kstest(whole, "uniform").pvalue > 0.01


@pytest.mark.parametrize(("df", "scale"), [(1000, 1.0), (1000, 1.5), (5, 1.0)])
def test_p_values_are_calibrated_on_past_nights(df, scale):
    rng = np.random.default_rng(0)
    tails = Tails.normal(1)
    for _ in range(100):
        night = scale * rng.standard_t(df, size=(1, 300))
        tails.add(night, np.ones_like(night, dtype=bool), 0.98)

    p = tails.p_values(scale * rng.standard_t(df, size=(1, 100_000)))[0]

    for level in (0.2, 0.01):
        assert np.mean(p <= level) == pytest.approx(level, rel=0.3)
    assert 0.0003 < np.mean(p <= 0.001) < 0.002


def test_past_anomalies_do_not_hide_the_next():
    rng = np.random.default_rng(0)
    clean, dirty = Tails.normal(1), Tails.normal(1)
    for _ in range(60):
        night = rng.normal(size=(1, 300))
        clean.add(night, np.ones_like(night, dtype=bool), 0.98)
        night[0, 0] = 9.0
        dirty.add(night, np.ones_like(night, dtype=bool), 0.98)

    assert dirty.p_values(np.array([[9.0]]))[0, 0] < 1e-5
    assert dirty.p_values(np.array([[2.0]]))[0, 0] == pytest.approx(clean.p_values(np.array([[2.0]]))[0, 0], rel=0.4)
