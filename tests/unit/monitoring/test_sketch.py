"""Sketches count what is there, add up, and survive JSON."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from within_ml.errors import InputError
from within_ml.monitoring.sketch import OTHER, Bins, Sketch

VALUES = st.lists(st.one_of(st.none(), st.floats(-100, 100), st.just(0.0)), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES, st.integers(2, 12))
def test_sketches_of_parts_add_up_to_the_whole(first, second, bins):
    one, two = (pd.DataFrame({"x": pd.Series(v, dtype="float64")}) for v in (first, second))
    placed = (Bins.of(one["x"], "x", bins=bins),)
    both = Sketch.of(pd.concat([one, two]), placed)
    added = Sketch.of(one, placed) + Sketch.of(two, placed)
    assert added.counts[0].tolist() == both.counts[0].tolist()
    assert added.rows == both.rows == both.counts[0].sum()


def test_ties_have_a_bin_of_their_own():
    values = pd.Series([0.0] * 70 + list(range(1, 31)))
    bins = Bins.of(values, "clicks", bins=10)
    counts = bins.counts(pd.Series([-1e-9, 0.0, 0.0, 0.5]))
    assert counts[bins.labels.index("≤ 0", 1)] == 2
    assert counts.sum() == 4


def test_counts_agree_with_numpy():
    rng = np.random.default_rng(1)
    bins = Bins.of(pd.Series(rng.normal(size=1000)), "x", bins=10)
    night = rng.normal(size=500)
    edges = [-np.inf, *bins.cuts, np.inf]
    assert bins.counts(pd.Series(night))[:-1].tolist() == np.histogram(night, edges)[0].tolist()


def test_levels_are_the_most_frequent_and_the_rest_is_other():
    bins = Bins.of(pd.Series(["b"] * 3 + ["a"] * 3 + ["c", None]), "platform", bins=2)
    assert bins.labels == ("a", "b", OTHER)
    assert bins.counts(pd.Series(["a", "new", None, "c"])).tolist() == [1, 0, 2, 1]


@pytest.mark.parametrize("values", [[None, None], [float("nan")], [5.0, 5.0, 5.0]])
def test_columns_without_spread_work(values):
    bins = Bins.of(pd.Series(values, dtype="float64"), "x")
    assert bins.counts(pd.Series([5.0, 6.0, 4.0, None, np.inf])).sum() == 5


def test_weights_are_counted():
    bins = (Bins.of(pd.Series([1.0, 2, 3, 4]), "x", bins=2),)
    sketch = Sketch.of(pd.DataFrame({"x": [1.0, 4.0, None]}), bins, weights=np.array([2.0, 3.0, 5.0]))
    assert sketch.counts[0].tolist() == [2, 3, 5]
    assert sketch.missing_share("x") == 0.5


def test_json_keeps_everything():
    frame = pd.DataFrame({"x": [0.1, 0.2, 1 / 3], "kind": ["é", None, "b"], "flag": [True, False, True]})
    sketch = Sketch.of(frame, [Bins.of(frame[name], name, bins=3) for name in frame])
    back = Sketch.from_json(sketch.to_json())
    assert back.bins == sketch.bins
    assert [c.tolist() for c in back.counts] == [c.tolist() for c in sketch.counts]
    assert back.rows == 3


def test_an_empty_night_is_all_zero():
    bins = (Bins.of(pd.Series([1.0, 2]), "x"),)
    night = Sketch.of(pd.DataFrame({"x": pd.Series([], dtype="float64")}), bins)
    assert night.counts[0].sum() == 0
    assert night.missing_share("x") == 0


def test_bad_input():
    bins = (Bins.of(pd.Series([1.0, 2]), "x"),)
    with pytest.raises(InputError, match="missing: 'x'"):
        Sketch.of(pd.DataFrame({"y": [1.0]}), bins)
    with pytest.raises(InputError, match="must be numeric"):
        Sketch.of(pd.DataFrame({"x": ["text"]}), bins)
    with pytest.raises(InputError, match="weights must be 1"):
        Sketch.of(pd.DataFrame({"x": [1.0]}), bins, weights=np.array([-1.0]))
    with pytest.raises(InputError, match="same bins"):
        Sketch.of(pd.DataFrame({"x": [1.0]}), bins) + Sketch.of(pd.DataFrame({"x": [1.0]}), (Bins("x", (7.0,)),))
