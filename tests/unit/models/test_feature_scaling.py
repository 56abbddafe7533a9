"""Scaling of a network's input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from within_ml.models.feature_scaling import FeatureScaling


def test_columns_have_unit_scale_and_flags():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(5, 3, 4000), np.exp(rng.normal(8, 3, 4000)), rng.normal(size=4000)])
    X[::4, 2] = np.nan
    scaled = FeatureScaling.fit(X).transform(X)

    assert scaled.shape == (4000, 4)
    assert scaled[:, :2].mean(0) == pytest.approx([0, 0], abs=0.01)
    assert scaled[:, :2].std(0) == pytest.approx([1, 1], abs=0.01)
    assert scaled[:, 3].tolist() == np.isnan(X[:, 2]).astype(float).tolist()
    assert np.abs(scaled).max() < 8  # the log-normal column is no longer heavy


def test_constant_and_empty_columns_say_nothing():
    X = np.column_stack([np.full(10, 0.1), np.full(10, np.nan)])
    assert np.abs(FeatureScaling.fit(X).transform(X)).max() < 1e-12


@given(arrays(np.float64, (7, 3), elements=st.floats(-1e12, 1e12) | st.just(np.nan)))
def test_whatever_comes_is_finite_and_bounded(X):
    scaling = FeatureScaling.fit(X[:5])
    scaled = scaling.transform(X)

    assert scaled.shape == (7, scaling.width)
    assert (np.abs(scaled) <= 8).all()
    again = FeatureScaling.from_arrays(scaling.to_arrays())
    assert np.array_equal(again.transform(X), scaled)
