"""Segments: planted groups are found, named and kept from night to night."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from within_ml.errors import InputError, NotFittedError
from within_ml.health.recency import SEGMENT_FEATURES, segment_features
from within_ml.health.segment_names import ORDINARY, WORDS, named
from within_ml.health.segments import Segmentation
from within_ml.lake.contracts import CONTRACTS

DAY = date(2024, 5, 1)
# Recency in days, frequency, log monetary, growth, log ctr of three kinds of accounts.
KINDS = np.array([[0.0, 1.0, 11.0, 0.3, -4.0], [0.0, 0.9, 7.0, 0.0, -3.0], [30.0, 0.4, 8.0, -1.0, -4.0]])


def planted(rng: np.random.Generator, size: int = 40) -> tuple[pd.DataFrame, np.ndarray]:
    kind = np.repeat(np.arange(3), size)
    values = KINDS[kind] + rng.normal(0, [0.5, 0.05, 0.3, 0.08, 0.15], (kind.size, 5))
    frame = pd.DataFrame(values, columns=list(SEGMENT_FEATURES))
    frame["recency_days"] = frame["recency_days"].clip(lower=0).round()
    frame["frequency"] = frame["frequency"].clip(0, 1)
    frame["monetary"], frame["ctr"] = np.exp(frame["monetary"]), np.exp(frame["ctr"])
    frame.insert(0, "entity_id", [f"acc-{n:03d}" for n in range(kind.size)])
    return frame, kind


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("method", ["kmeans", "hdbscan"])
class TestFinding:
    def test_planted_groups_are_found_and_named_by_what_is_notable(self, rng: np.random.Generator, method: str):
        frame, kind = planted(rng)
        fitted = Segmentation(method=method).fit(frame)
        assert adjusted_rand_score(kind, fitted.labels_) > 0.95
        assert fitted.silhouette_ > 0.5
        names = fitted.rows(DAY)["segment"].to_numpy()
        assert "growing" in names[kind == 0][0]
        assert "large" in names[kind == 0][0]
        assert "shrinking" in names[kind == 2][0]
        assert "dormant" in names[kind == 2][0]

    def test_order_of_rows_is_irrelevant(self, rng: np.random.Generator, method: str):
        frame, _ = planted(rng)
        shuffled = frame.sample(frac=1, random_state=1)
        once = Segmentation(method=method).fit(frame).rows(DAY).set_index("entity_id")["segment"]
        again = Segmentation(method=method).fit(shuffled).rows(DAY).set_index("entity_id")["segment"]
        assert again[once.index].tolist() == once.tolist()

    @pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
    def test_few_entities_are_served_too(self, rng: np.random.Generator, method: str, count: int):
        frame = planted(rng, 2)[0].head(count)
        rows = Segmentation(method=method).fit(frame).rows(DAY)
        assert len(rows) == count
        assert np.isfinite(rows["distance"]).all()
        assert rows["size"].sum() == (rows.groupby("segment_id")["size"].first() ** 2).sum()


class TestNights:
    def test_numbers_and_names_stay_while_features_are_noisy(self, rng: np.random.Generator):
        frame, _ = planted(rng)
        rows = Segmentation().fit(frame).rows(DAY)
        first = rows
        changed = 0
        for night in range(15):
            noisy = frame.copy()
            for name in ("monetary", "ctr"):
                noisy[name] = frame[name] * rng.lognormal(0, 0.1, len(frame))
            noisy["growth"] = frame["growth"] + rng.normal(0, 0.05, len(frame))
            told = Segmentation(random_state=night).fit(noisy, previous=rows).rows(DAY)
            changed += int((told["segment_id"].to_numpy() != rows["segment_id"].to_numpy()).sum())
            rows = told
        assert changed <= 0.01 * 15 * len(frame)
        assert rows.groupby("segment_id")["segment"].first().equals(first.groupby("segment_id")["segment"].first())

    def test_numbers_of_the_night_before_are_taken_over_whatever_they_were(self, rng: np.random.Generator):
        frame, _ = planted(rng)
        rows = Segmentation().fit(frame).rows(DAY)
        relabelled = rows.assign(segment_id=rows["segment_id"].map({0: 17, 1: 4, 2: 9}))
        told = Segmentation().fit(frame, previous=relabelled).rows(DAY)
        assert told["segment_id"].tolist() == relabelled["segment_id"].tolist()
        assert told["segment"].tolist() == rows["segment"].tolist()

    def test_a_new_kind_gets_a_number_that_is_not_in_use(self, rng: np.random.Generator):
        frame, kind = planted(rng)
        rows = Segmentation().fit(frame[kind < 2]).rows(DAY)
        told = Segmentation().fit(frame, previous=rows).rows(DAY)
        assert set(told["segment_id"][kind < 2]) == set(rows["segment_id"])
        assert set(told["segment_id"][kind == 2]) == {2}

    def test_entities_that_are_gone_and_other_types_do_not_matter(self, rng: np.random.Generator):
        frame, _ = planted(rng)
        rows = Segmentation().fit(frame).rows(DAY)
        gone = rows.assign(entity_id="gone-" + rows["entity_id"])
        audiences = rows.assign(entity_type="audience", segment_id=50)
        told = Segmentation().fit(frame, previous=pd.concat([rows, gone, audiences])).rows(DAY)
        assert told["segment_id"].tolist() == rows["segment_id"].tolist()


class TestRows:
    def test_rows_have_the_columns_of_the_table(self, rng: np.random.Generator):
        rows = Segmentation().fit(planted(rng)[0]).rows(DAY)
        contract = CONTRACTS["account_segments"]
        assert list(rows.columns) == [c.name for c in contract.columns if c.name != "run_id"]
        assert not rows.duplicated(["date", "entity_type", "entity_id"]).any()

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(
            st.tuples(*[st.one_of(st.none(), st.floats(0, 1e6))] * 3, st.floats(-3, 3), st.floats(0, 1)), max_size=9
        )
    )
    def test_any_numbers_give_one_segment_per_entity(self, values: list[tuple]):
        frame = pd.DataFrame(values, columns=list(SEGMENT_FEATURES)).astype(float)
        frame["entity_id"] = [str(n) for n in range(len(values))]
        rows = Segmentation(max_segments=3).fit(frame).rows(DAY)
        assert rows["entity_id"].tolist() == frame["entity_id"].tolist()
        assert rows.groupby("segment_id")["segment"].nunique().le(1).all()
        assert rows["segment"].nunique() == rows["segment_id"].nunique()

    @pytest.mark.parametrize(
        ("parameters", "change"),
        [
            ({"method": "dbscan"}, {}),
            ({"entity_type": "campaign"}, {}),
            ({"max_segments": 0}, {}),
            ({}, {"entity_id": "same"}),
            ({}, {"ctr": None}),
        ],
    )
    def test_bad_input_is_told(self, rng: np.random.Generator, parameters: dict, change: dict):
        frame = planted(rng, 3)[0]
        for name, value in change.items():
            frame = frame.drop(columns=name) if value is None else frame.assign(**{name: value})
        with pytest.raises(InputError, match=r"must|needs"):
            Segmentation(**parameters).fit(frame)
        with pytest.raises(NotFittedError):
            Segmentation().rows(DAY)


class TestFeatures:
    def test_features_are_those_of_the_last_90_days(self):
        days = pd.date_range("2024-01-01", "2024-04-30")
        rows = pd.DataFrame({"date": days, "account_id": "a", "impressions": 100, "clicks": 5, "spend": 2.0})
        rows.loc[rows["date"] >= "2024-04-03", "impressions"] = 200
        told = segment_features(rows.iloc[:-3], as_of=date(2024, 4, 30)).iloc[0]
        assert told["recency_days"] == 3
        assert told["frequency"] == pytest.approx(87 / 90)
        assert told["monetary"] == pytest.approx(87 * 2.0)
        # 25 of the last 28 days at 200 against 62 days at 100.
        assert told["growth"] == pytest.approx(np.log((25 * 200 / 28 + 1) / (100 + 1)))

    def test_later_rows_are_not_read(self):
        days = pd.date_range("2024-01-01", "2024-04-30")
        rows = pd.DataFrame({"date": days, "account_id": "a", "impressions": np.arange(len(days)) + 1, "clicks": 1})
        known = segment_features(rows[rows["date"] <= "2024-03-15"], as_of=date(2024, 3, 15))
        pd.testing.assert_frame_equal(segment_features(rows, as_of=date(2024, 3, 15)), known)
        assert known["monetary"].iloc[0] == rows["impressions"][:75].sum()

    def test_audiences_are_ages_and_genders_of_the_whole_agency(self):
        rows = pd.DataFrame(
            {
                "date": pd.Timestamp("2024-04-30"),
                "account_id": ["a", "b", "b"],
                "audience_age": ["25-34", "25-34", None],
                "audience_gender": ["all", "all", "female"],
                "impressions": [10, 20, 30],
                "clicks": [1, 1, 1],
            }
        )
        told = segment_features(rows, as_of=date(2024, 4, 30), entity_type="audience")
        assert told["entity_id"].tolist() == ["25-34 all", "unknown female"]
        assert told["monetary"].tolist() == [30, 30]
        with pytest.raises(InputError, match="audience_age"):
            segment_features(rows.drop(columns="audience_age"), as_of=DAY, entity_type="audience")


class TestNames:
    ordinary = dict.fromkeys(SEGMENT_FEATURES, 0.0)

    def test_a_word_stays_until_the_centre_is_clearly_back(self):
        at = [{**self.ordinary, "growth": value} for value in (0.15, 0.15, 0.05)]
        assert named(at[:1], [None]) == [ORDINARY]
        assert named(at[:1], ["growing"]) == ["growing"]
        assert named(at[2:], ["growing"]) == [ORDINARY]

    def test_names_differ_and_those_with_a_number_keep_it(self):
        assert named([self.ordinary] * 2, [None, None]) == [ORDINARY, f"{ORDINARY} #2"]
        assert named([self.ordinary] * 2, [f"{ORDINARY} #2", None]) == [f"{ORDINARY} #2", ORDINARY]

    @pytest.mark.parametrize("word", WORDS)
    def test_it_takes_more_to_get_a_word_than_to_keep_it(self, word):
        assert abs(word.stay) < abs(word.enter)
        assert np.sign(word.stay) == np.sign(word.enter)
