"""Merging ad versions and dimension rows."""

from datetime import date, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from within_ml.errors import InputError
from within_ml.lake.contracts import ACCOUNTS, AD_PERFORMANCE, ADS, CAMPAIGNS
from within_ml.lake.versions import merge_rows, merge_versions

START = date(2024, 1, 1)


def ads(*versions: tuple) -> pa.Table:
    """Return versions (day, headline[, ad]) as rows of ads; created on the day they are known."""
    rows = []
    for day, headline, *ad in versions:
        known = START + timedelta(days=day)
        ids = {
            "platform": "p",
            "account_id": "acc",
            "campaign_id": "c",
            "ad_group_id": "g",
            "ad_id": ad[0] if ad else "a",
        }
        rows.append(
            ids
            | {"headline": headline, "audience_age": "unknown", "audience_gender": "unknown"}
            | {"created_at": known, "valid_from": known}
        )
    return pa.Table.from_pylist(rows, schema=pa.schema([(c.name, c.type) for c in ADS.columns]))


def history(table: pa.Table) -> list[tuple]:
    def day(value):
        return None if value is None else (value - START).days

    return [(day(r["valid_from"]), r["headline"], day(r["valid_to"]), day(r["created_at"])) for r in table.to_pylist()]


class TestVersions:
    def test_equal_neighbours_are_one_version_with_the_earliest_day(self):
        merged = merge_versions(ads((3, "A")), ads((1, "A"), (5, "A"), (7, "B")))
        assert history(merged) == [(1, "A", 7, 1), (7, "B", None, 1)]

    def test_the_incoming_version_of_a_day_wins(self):
        assert history(merge_versions(ads((1, "typo")), ads((1, "right")))) == [(1, "right", None, 1)]

    def test_a_late_file_with_a_version_in_between(self):
        merged = merge_versions(merge_versions(None, ads((1, "A"), (9, "C"))), ads((5, "B")))
        assert history(merged) == [(1, "A", 5, 1), (5, "B", 9, 1), (9, "C", None, 1)]

    def test_a_text_that_returns_is_a_version_again(self):
        assert [row[1] for row in history(merge_versions(None, ads((1, "A"), (2, "B"), (3, "A"))))] == ["A", "B", "A"]

    def test_a_version_without_content_counts_only_until_the_first_content(self):
        merged = merge_versions(ads((2, "A")), ads((1, None), (2, None), (4, None)))
        assert history(merged) == [(1, None, 2, 1), (2, "A", None, 1)]

    def test_ads_do_not_mix(self):
        merged = merge_versions(ads((1, "A", "x")), ads((2, "A", "y")))
        assert [(r["ad_id"], r["valid_to"]) for r in merged.to_pylist()] == [("x", None), ("y", None)]

    def test_nothing_known_and_nothing_new(self):
        assert merge_versions(None, ads()).num_rows == 0
        assert merge_versions(None, ads()).schema.equals(ADS.schema)


# An ad whose text never returns to a former one: headline i is valid from a strictly later day than headline i - 1.
rising = st.lists(st.integers(0, 40), max_size=12).map(
    lambda days: [(day, f"text {day // 6}") for day in sorted(set(days))]
)


@settings(max_examples=60, deadline=None)
@given(versions=rising, data=st.data())
def test_the_order_of_arrival_does_not_matter(versions, data):
    whole = merge_versions(None, ads(*versions))
    shuffled = data.draw(st.permutations(versions))
    cut = data.draw(st.integers(0, len(shuffled)))
    merged = merge_versions(merge_versions(None, ads(*shuffled[:cut])), ads(*shuffled[cut:]))
    assert merged.equals(whole)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["A", "B", None])), unique_by=lambda v: v[0], max_size=8))
def test_merging_again_changes_nothing_and_versions_join_without_gap(versions):
    merged = merge_versions(None, ads(*versions))
    assert merge_versions(merged, merged).equals(merged)
    rows = history(merged)
    assert [row[2] for row in rows] == [row[0] for row in rows[1:]] + [None] * bool(rows)


class TestRows:
    def campaign(self, **values):
        base = {"platform": "p", "account_id": "a", "campaign_id": "c", "objective": "unknown", "start_date": START}
        return pa.Table.from_pylist([base | values], schema=pa.schema([(c.name, c.type) for c in CAMPAIGNS.columns]))

    def test_incoming_wins_where_it_knows_and_the_start_is_the_earliest(self):
        old = self.campaign(objective="leads", daily_budget=10.0, start_date=START)
        new = self.campaign(daily_budget=20.0, start_date=START + timedelta(days=30))
        assert merge_rows(old, new, CAMPAIGNS).select(["objective", "daily_budget", "start_date"]).to_pylist() == [
            {"objective": "leads", "daily_budget": 20.0, "start_date": START}
        ]

    def test_new_keys_are_added_and_merging_twice_changes_nothing(self):
        merged = merge_rows(self.campaign(), self.campaign(campaign_id="d"), CAMPAIGNS)
        assert merged["campaign_id"].to_pylist() == ["c", "d"]
        assert merge_rows(merged, self.campaign(campaign_id="d"), CAMPAIGNS).equals(merged)

    def test_an_account_named_by_its_id_keeps_its_real_name(self):
        schema = pa.schema([(c.name, c.type) for c in ACCOUNTS.columns])
        base = {"account_id": "a", "industry": "unknown", "country": "unknown", "onboarded_date": START}
        old = pa.Table.from_pylist([base | {"name": "Acme", "industry": "retail"}], schema=schema)
        new = pa.Table.from_pylist([base | {"name": "a"}], schema=schema)
        row = merge_rows(old, new, ACCOUNTS).to_pylist()[0]
        assert (row["name"], row["industry"]) == ("Acme", "retail")
        assert merge_rows(None, new, ACCOUNTS)["name"].to_pylist() == ["a"]

    def test_partitioned_tables_are_not_merged(self):
        with pytest.raises(InputError, match="ad_performance"):
            merge_rows(None, ads(), AD_PERFORMANCE)
