"""A score is the share of the group's training predictions below it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import percentileofscore

from within_ml.calibration.percentile import PercentileScale
from within_ml.errors import InputError, ModelFormatError


def test_percentiles_are_scipys():
    rng = np.random.default_rng(0)
    values, asked = rng.normal(size=5000), rng.normal(size=50)

    expected = percentileofscore(values, asked, kind="mean")
    assert PercentileScale().fit(values).transform(asked) == pytest.approx(expected, abs=0.3)


def test_groups_have_their_own_scale_and_strangers_the_common_one():
    values = np.concatenate([np.linspace(0, 1, 101), np.linspace(10, 11, 101)])
    scale = PercentileScale().fit(values, groups=["a"] * 101 + ["b"] * 101)

    asked = scale.transform([0.5, 10.5, 10.5], groups=["a", "b", "new"])
    assert asked == pytest.approx([50, 50, 75], abs=0.5)


def test_weights_count():
    scale = PercentileScale().fit([1.0, 2.0, 3.0], sample_weight=[1, 1, 8])

    assert scale.transform([3.0])[0] == pytest.approx(60, abs=1)


def test_a_shared_value_stands_in_its_middle():
    assert PercentileScale().fit(np.full(100, 7.0)).transform([6.0, 7.0, 8.0]).tolist() == [0.0, 50.0, 100.0]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.lists(st.floats(-2e6, 2e6), min_size=2, max_size=20))
def test_percentiles_rise_with_the_value(values, asked):
    result = PercentileScale().fit(values).transform(np.sort(asked))

    assert ((result >= 0) & (result <= 100)).all()
    assert (np.diff(result) >= 0).all()


def test_arrays_bring_it_back():
    scale = PercentileScale().fit([1.0, 2.0, 3.0, 4.0], groups=["a", "a", "b", "b"])
    again = PercentileScale.from_arrays(*scale.to_arrays())

    assert np.array_equal(
        again.transform([1.5, 3.5], groups=["a", "b"]), scale.transform([1.5, 3.5], groups=["a", "b"])
    )
    with pytest.raises(ModelFormatError):
        PercentileScale.from_arrays(["a"], np.zeros((1, 3)))


def test_nothing_has_no_percentiles():
    with pytest.raises(InputError, match="at least one value"):
        PercentileScale().fit([])
