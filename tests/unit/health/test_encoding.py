"""Tables of any columns as numbers."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from within_ml.errors import InputError
from within_ml.health.encoding import MAX_LEVELS, TableEncoder, as_table

N = 60


def table():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "tenure": np.arange(N)[::-1] % 17,
            "charges": rng.uniform(0, 9, N),
            "amount": [str(v) if v % 5 else " " for v in range(N)],
            "plan": ["a", "b", "c"] * 20,
            "paperless": ["Yes", "No"] * 30,
            "senior": [True, False, True] * 20,
            "joined": pd.date_range("2024-01-01", periods=N),
            "segment": pd.Categorical(["x", None, "y", "y"] * 15),
            "customerID": [f"{i:04d}-ABC" for i in range(N)],
            "RowNumber": np.arange(1, N + 1),
            "CustomerId": rng.permutation(10**6)[:N],
            "country": "US",
            "nothing": np.nan,
        }
    )


def test_each_column_is_what_it_is():
    encoder = TableEncoder().fit(table())

    assert encoder.left_out_ == ["CustomerId", "RowNumber", "country", "customerID", "nothing"]
    assert [name for name in encoder.features_ if name.startswith(("plan", "paperless", "segment"))] == [
        "paperless=Yes", "plan=a", "plan=b", "plan=c", "segment=missing", "segment=x", "segment=y",
    ]  # fmt: skip
    assert {"amount", "charges", "joined", "senior", "tenure"} < set(encoder.features_)


def test_gaps_stay_gaps_and_new_levels_have_no_flag():
    encoder = TableEncoder().fit(table())
    row = table()[:1].assign(amount="n/a", plan="new", senior=None, charges=np.inf)
    found = dict(zip(encoder.features_, encoder.transform(row)[0], strict=True))

    assert np.isnan([found["amount"], found["senior"], found["charges"]]).all()
    assert found["plan=a"] == found["plan=b"] == found["plan=c"] == 0


def test_rare_levels_share_the_absence_of_a_flag():
    frame = pd.DataFrame({"city": [f"c{i % 50}" for i in range(400)] + ["c0"] * 10, "x": np.arange(410) % 7})
    encoder = TableEncoder().fit(frame)

    assert len([name for name in encoder.features_ if name.startswith("city=")]) == MAX_LEVELS
    assert "city=c0" in encoder.features_


def test_order_of_columns_does_not_matter():
    frame = table()
    turned = frame[frame.columns[::-1]]
    encoder = TableEncoder().fit(frame)

    assert np.array_equal(encoder.transform(turned), encoder.transform(frame), equal_nan=True)
    assert TableEncoder().fit(turned).features_ == encoder.features_


def test_state_is_json():
    encoder = TableEncoder().fit(table())
    again = TableEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))

    assert np.array_equal(again.transform(table()), encoder.transform(table()), equal_nan=True)
    assert again.sources == encoder.sources


def test_missing_and_repeated_columns_are_named():
    encoder = TableEncoder().fit(table())
    with pytest.raises(InputError, match="'plan'"):
        encoder.transform(table().drop(columns="plan"))
    with pytest.raises(InputError, match="'plan' more than once"):
        TableEncoder().fit(pd.concat([table(), table()[["plan"]]], axis=1))
    with pytest.raises(InputError, match="shape"):
        as_table([1, 2, 3])


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=3), st.booleans()), min_size=2, max_size=30))
def test_any_values_become_numbers(values):
    frame = pd.DataFrame({"any": pd.Series(values, dtype=object), "x": np.arange(len(values)) % 2})
    encoder = TableEncoder().fit(frame)
    numbers = encoder.transform(frame)

    assert numbers.shape == (len(values), len(encoder.features_))
    assert not np.isinf(numbers).any()
