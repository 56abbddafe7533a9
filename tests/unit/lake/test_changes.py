"""Which accounts a restatement changes: by the contents of their rows, whatever their order and origin."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from within_ml.lake.changes import changed_accounts
from within_ml.lake.contracts import AD_PERFORMANCE

ROW = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from(["ad-1", "ad-2"]),
    st.integers(0, 2),
    st.sampled_from([None, 0.0, 1.5]),
)


def rows(*given: tuple[str, str, int, float | None], source_file: str = "f.csv") -> pa.Table:
    """Rows of ad_performance: account, ad, clicks, spend."""
    same = {name: ["x"] * len(given) for name in ("platform", "campaign_id", "ad_group_id", "region")}
    values = {
        **same,
        "account_id": [r[0] for r in given],
        "ad_id": [r[1] for r in given],
        "impressions": [100] * len(given),
        "clicks": [r[2] for r in given],
        "spend": [r[3] for r in given],
        "source_file": [source_file] * len(given),
    }
    schema = AD_PERFORMANCE.schema
    return pa.table({f.name: pa.array(values.get(f.name, [None] * len(given)), f.type) for f in schema})


CASES = {
    "nothing": ([], [], ()),
    "the same": ([("a", "ad-1", 1, 1.5)], [("a", "ad-1", 1, 1.5)], ()),
    "a new account": ([], [("a", "ad-1", 1, 1.5)], ("a",)),
    "an account that is gone": ([("a", "ad-1", 1, 1.5), ("b", "ad-1", 1, None)], [("b", "ad-1", 1, None)], ("a",)),
    "another value": ([("a", "ad-1", 1, 1.5), ("b", "ad-1", 1, 1.5)], [("a", "ad-1", 1, 1.5), ("b", "ad-1", 2, 1.5)], ("b",)),
    "unknown money becomes none": ([("a", "ad-1", 1, None)], [("a", "ad-1", 1, 0.0)], ("a",)),
    "values that change places": ([("a", "ad-1", 1, None), ("a", "ad-2", 2, None)], [("a", "ad-1", 2, None), ("a", "ad-2", 1, None)], ("a",)),
    "a row twice": ([("a", "ad-1", 1, None)], [("a", "ad-1", 1, None)] * 2, ("a",)),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "expected"), CASES.values(), ids=CASES.keys())
def test_accounts_with_other_rows_are_named(before, after, expected):
    assert changed_accounts(rows(*before), rows(*after, source_file="g.csv"), AD_PERFORMANCE) == expected
    assert changed_accounts(rows(*after), rows(*before), AD_PERFORMANCE) == expected


@given(st.lists(ROW), st.lists(ROW))
def test_an_account_changes_when_its_rows_as_a_multiset_do(before, after):
    def of(given, account):
        return sorted((r for r in given if r[0] == account), key=repr)

    expected = tuple(account for account in "abc" if of(before, account) != of(after, account))
    assert changed_accounts(rows(*before), rows(*after), AD_PERFORMANCE) == expected
    assert changed_accounts(rows(*before), rows(*reversed(before)), AD_PERFORMANCE) == ()
