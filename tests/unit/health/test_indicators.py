"""Indicators of account health against hand calculations, and that they never look ahead."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress
from sklearn.linear_model import LinearRegression

from within_ml.errors import InputError
from within_ml.health.indicator_names import INDICATORS
from within_ml.health.indicators import QUIET_DAYS, account_indicators
from within_ml.health.windows import entity_windows, trailing_percentile, trailing_slope
from within_ml.lake.simulation import SimulationConfig, simulate

NAMES = list(INDICATORS)


def daily(days: int = 120, **columns: object) -> pd.DataFrame:
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=days), "account_id": "a"})
    given = {"impressions": 1000, "clicks": 20, "spend": 10.0, "conversions": 2.0, "revenue": 30.0, **columns}
    return frame.assign(**given)


def last(performance: pd.DataFrame, accounts: pd.DataFrame | None = None, **arguments) -> pd.Series:
    return account_indicators(performance, accounts, **arguments).iloc[-1]


@pytest.fixture(scope="module")
def agency() -> tuple[pd.DataFrame, pd.DataFrame]:
    agency = simulate(SimulationConfig(accounts=5, days=130, ads_per_campaign=2, max_images=1, seed=4))
    rows = pa.concat_tables(agency.performance(days_per_chunk=30)).to_pandas()
    ads = agency.ads.to_pandas()[["platform", "account_id", "ad_id", "audience_age", "audience_gender"]]
    return rows.merge(ads), agency.accounts.to_pandas()


class TestTime:
    @settings(max_examples=12, deadline=None)
    @given(st.integers(1, 128))
    def test_days_to_come_change_no_bit_of_earlier_rows(self, agency, days: int):
        rows, accounts = agency
        until = rows["date"].min() + pd.Timedelta(days=days)
        known = account_indicators(rows[rows["date"] <= until], accounts)
        later = account_indicators(rows, accounts)
        there = later[later["date"] <= pd.Timestamp(until)].reset_index(drop=True)
        pd.testing.assert_frame_equal(known, there, check_exact=True)

    def test_last_is_the_day_on_which_knowledge_ends(self, agency):
        rows, accounts = agency
        until = date(2024, 3, 20)
        known = account_indicators(rows[rows["date"] <= until], accounts)
        pd.testing.assert_frame_equal(account_indicators(rows, accounts, last=until), known)

    def test_other_accounts_and_the_order_of_columns_do_not_matter(self, agency):
        rows, accounts = agency
        one = rows["account_id"] == "acc-0002"
        alone = account_indicators(rows[one][rows.columns[::-1]], accounts, last=date(2024, 5, 9))
        among = account_indicators(rows, accounts, last=date(2024, 5, 9))
        among = among[among["account_id"] == "acc-0002"].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, among, rtol=1e-9)

    def test_rows_begin_with_the_account_and_end_when_it_has_been_quiet_for_long(self):
        told = account_indicators(daily(40), last=date(2024, 12, 31))
        assert len(told) == 40 + QUIET_DAYS
        assert told["days_since_served"].iloc[-1] == QUIET_DAYS
        assert told["idle_share"].iloc[-1] == 1
        assert told["clicks_7d_vs_28d"].iloc[46] == pytest.approx(np.log(0.5 / 20.5))


class TestValues:
    def test_a_steady_account_has_nothing_to_tell(self):
        told = last(daily(), pd.DataFrame({"account_id": ["a"], "monthly_budget": [365.25 / 12 * 10]}))
        for name in NAMES:
            if name.endswith(("trend", "_vs_28d", "_vs_90d", "efficiency")) and not np.isnan(told[name]):
                assert told[name] == pytest.approx(0, abs=1e-9), name
        assert told[["budget_pacing_7d", "budget_pacing_28d"]].tolist() == pytest.approx([1, 1])
        assert told[["ctr_28d", "cpc_28d", "cvr_28d", "roas_28d"]].tolist() == pytest.approx([0.02, 0.5, 0.1, 3.0])
        assert told["ctr_percentile_90d"] == 0.5
        assert told["account_days"] == 119

    def test_efficiency_is_beside_the_own_days_before(self):
        frame = daily()
        frame.loc[frame.index >= 92, "revenue"] = 15.0
        told = last(frame)
        # 28 days of 15 beside the usual 3, both with one conversion more at the usual worth of 15.
        expected = np.log((28 * 15 + 15) / (28 * 10 + 15 / 3) / 3)
        assert told["spend_efficiency"] == pytest.approx(expected)
        assert told["spend_efficiency"] == pytest.approx(np.log(0.5), abs=0.03)
        assert told["roas_percentile_90d"] < 0.5

    def test_clicks_stand_in_where_money_is_unknown(self):
        frame = daily().drop(columns=["spend", "conversions", "revenue"])
        frame.loc[frame.index >= 92, "clicks"] = 10
        told = last(frame)
        assert told["spend_efficiency"] == told["ctr_28d_vs_90d"] == pytest.approx(np.log(0.5), abs=0.01)
        assert np.isnan(told[["roas_28d", "cpc_28d", "budget_pacing_28d", "spend_7d_vs_28d"]].astype(float)).all()

    def test_engagement_trend_is_the_slope_of_log_clicks(self):
        rng = np.random.default_rng(0)
        frame = daily(60, clicks=rng.poisson(20, 60))
        slope = linregress(np.arange(28), np.log1p(frame["clicks"].tail(28))).slope
        assert last(frame)["engagement_trend"] == pytest.approx(7 * slope)

    def test_saturation_is_seen_where_more_impressions_bring_no_more_clicks(self):
        rng = np.random.default_rng(0)
        shown = rng.integers(20_000, 200_000, 60)
        told = [last(daily(60, impressions=shown, clicks=clicks)) for clicks in (shown // 100, np.full(60, 1000))]
        assert told[0]["reach_saturation"] == pytest.approx(0, abs=0.02)
        assert told[1]["reach_saturation"] > 0.8

    def test_a_restless_account_is_volatile(self):
        calm, restless = daily(), daily(impressions=np.where(np.arange(120) % 2, 500, 2000))
        assert last(calm)["volatility"] == 0
        assert last(restless)["volatility"] == pytest.approx(np.log(2001 / 501))


class TestAudience:
    def rows(self, days: int = 60, **clicks: np.ndarray) -> pd.DataFrame:
        """Two ads of one audience and one of another, with 300, 100 and 100 impressions a day."""
        parts = []
        for ad, age, impressions in (("x", "18-24", 300), ("y", "18-24", 100), ("z", "25-34", 100)):
            part = daily(days, impressions=impressions, clicks=clicks.get(ad, impressions // 50))
            parts.append(part.assign(ad_id=ad, audience_age=age, audience_gender="all", region="US-CA"))
        return pd.concat(parts)

    def test_shares_of_audiences(self):
        told = last(self.rows())
        assert told["audience_concentration"] == pytest.approx(0.8**2 + 0.2**2)
        assert told["region_concentration"] == 1
        # Pairs of different ads by impressions: x·y twice, x·z and y·z twice.
        assert told["audience_overlap"] == pytest.approx(300 * 100 / (300 * 100 + 300 * 100 + 100 * 100))
        assert told["frequency"] == pytest.approx((400 + 100) / 2)
        assert told["active_ads"] == 3

    def test_fatigue_is_the_slope_within_ads(self):
        rng = np.random.default_rng(1)
        age = np.arange(60)
        clicks = {"x": rng.poisson(30 - 0.3 * age), "y": rng.poisson(5, 60), "z": rng.poisson(4, 60)}
        rows = self.rows(**clicks)
        recent = rows.groupby("ad_id").tail(28).reset_index()
        design = pd.get_dummies(recent["ad_id"]).astype(float).assign(age=recent["index"].astype(float))
        fit = LinearRegression(fit_intercept=False)
        fit.fit(design, recent["clicks"] / recent["impressions"], sample_weight=recent["impressions"])
        expected = 7 * fit.coef_[-1] / (recent["clicks"].sum() / recent["impressions"].sum())
        assert last(rows)["fatigue"] == pytest.approx(expected)
        assert expected < -0.03

    def test_fresh_ads_are_those_that_began_while_one_looked(self):
        rows = self.rows(100)
        assert last(rows)["creative_refresh"] == 0
        assert last(rows)["newest_ad_days"] == 99
        fresh = rows[(rows["ad_id"] != "z") | (rows["date"] >= "2024-04-03")]  # 7 days before the last
        assert last(fresh)["creative_refresh"] == pytest.approx(7 * 100 / (28 * 400 + 7 * 100))
        assert last(fresh)["newest_ad_days"] == 6
        assert np.isnan(account_indicators(rows)["creative_refresh"].iloc[13])

    def test_finer_rows_are_summed(self):
        rows = self.rows()
        together = rows.groupby(["account_id", "date"], as_index=False)[["impressions", "clicks", "spend"]].sum()
        fine, coarse = last(rows.drop(columns=["conversions", "revenue"])), last(together)
        known = [n for n in NAMES if not np.isnan(coarse[n])]
        assert len(known) > 15
        assert fine[known].astype(float).tolist() == pytest.approx(coarse[known].astype(float).tolist())
        assert np.isnan(coarse[["fatigue", "audience_overlap", "frequency"]].astype(float)).all()


class TestInput:
    def test_no_rows_give_no_rows(self):
        told = account_indicators(daily(0))
        assert list(told.columns) == ["account_id", "date", *NAMES]
        assert len(told) == 0

    def test_one_day_and_nothing_but_zeros_are_answered(self):
        assert len(account_indicators(daily(1))) == 1
        zeros = account_indicators(daily(60, impressions=0, clicks=0, spend=0.0, conversions=0.0, revenue=0.0))
        assert len(zeros) == 60
        assert zeros["idle_share"].iloc[-1] == 1
        assert not np.isinf(zeros[NAMES].to_numpy(float)).any()

    def test_the_frame_stays_as_it_was(self, agency):
        rows, accounts = agency
        before = rows.copy(), accounts.copy()
        account_indicators(rows, accounts)
        pd.testing.assert_frame_equal(rows, before[0])
        pd.testing.assert_frame_equal(accounts, before[1])

    @settings(max_examples=20, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from("ab"),
                st.integers(0, 70),
                st.sampled_from(["x", "y", None]),
                st.integers(0, 500),
                st.one_of(st.none(), st.floats(0, 1e4)),
                st.one_of(st.none(), st.floats(0, 1e4)),
            ),
            min_size=1,
            max_size=60,
        )
    )
    def test_gaps_duplicates_and_unknown_money_give_numbers_or_nothing(self, rows: list[tuple]):
        frame = pd.DataFrame(rows, columns=["account_id", "day", "audience_age", "impressions", "spend", "revenue"])
        frame["date"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(frame.pop("day"), unit="D")
        frame = frame.assign(clicks=frame["impressions"] // 7, ad_id=frame["audience_age"])
        told = account_indicators(frame, pd.DataFrame({"account_id": ["a"], "monthly_budget": [0.0]}))
        assert not np.isinf(told[NAMES].to_numpy(float)).any()
        assert not told.duplicated(["account_id", "date"]).any()
        for name in ("audience_overlap", "audience_concentration", "creative_refresh", "idle_share"):
            assert told[name].dropna().between(0, 1 + 1e-12).all(), name

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"clicks": -1}, "clicks must be 0 or more"),
            ({"impressions": np.nan}, "impressions must not be null"),
            ({"spend": np.inf}, "spend must be 0 or more and finite"),
            ({"date": "soon"}, "date of performance"),
            ({"date": pd.NaT}, "date of performance must not be null"),
            ({"account_id": None}, "account_id must not be null"),
            ({"revenue": "much"}, "revenue must be numbers"),
        ],
    )
    def test_what_is_no_performance_is_refused(self, change: dict, told: str):
        with pytest.raises(InputError, match=told):
            account_indicators(daily(5).assign(**change))

    def test_missing_columns_are_named(self):
        with pytest.raises(InputError, match="'clicks'"):
            account_indicators(daily(5).drop(columns="clicks"))
        with pytest.raises(InputError, match="account_id"):
            account_indicators(daily(5), pd.DataFrame({"account": ["a"]}))


class TestWindows:
    @given(
        st.lists(st.lists(st.integers(0, 5), min_size=12, max_size=12), min_size=1, max_size=4),
        st.integers(1, 15),
        st.integers(12, 16),
    )
    def test_entity_windows_are_sums_over_days(self, counts: list[list[int]], window: int, days: int):
        dense = np.zeros((len(counts), days), dtype=np.int64)
        dense[:, :12] = counts
        dense = dense[dense.any(axis=1)]
        entity, day = np.nonzero(dense)
        told = entity_windows(entity, day, (dense[entity, day],), window=window, days=days)
        got = np.zeros_like(dense)
        got[told.entity, told.day] = told.sums[0]
        expected = [[row[max(0, d - window + 1) : d + 1].sum() for d in range(days)] for row in dense]
        assert got.tolist() == np.array(expected).reshape(got.shape).tolist()

    @given(st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=20), st.integers(2, 25))
    def test_percentiles_and_slopes_are_those_of_the_known_days(self, values: list, window: int):
        row = np.array([[np.nan if v is None else v for v in values]], dtype=float)
        got = trailing_percentile(row, window, at_least=1)[0, -1]
        past = row[0, max(0, len(values) - window) : -1]
        past = past[~np.isnan(past)]
        if past.size and values[-1] is not None:
            assert got == pytest.approx(((past < values[-1]).sum() + 0.5 * (past == values[-1]).sum()) / past.size)
        else:
            assert np.isnan(got)
        recent = row[0, -window:]
        known = ~np.isnan(recent)
        slope = trailing_slope(np.nan_to_num(row), ~np.isnan(row), window, at_least=2)[0, -1]
        if known.sum() >= 2:
            assert slope == pytest.approx(np.polyfit(np.flatnonzero(known), recent[known], 1)[0], abs=1e-9)
        else:
            assert np.isnan(slope)
