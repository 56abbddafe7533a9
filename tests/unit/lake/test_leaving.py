"""Accounts that leave of their own in the simulated agency."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from within_ml.lake.simulation import Agency, SimulationConfig, simulate, write_truth
from within_ml.lake.simulation.leaving import MOST_HAZARD, NOTICE_DAYS, Drivers, discontent_of, grievance

CONFIG = SimulationConfig(
    accounts=120,
    days=250,
    campaigns_per_account=2,
    ads_per_campaign=2,
    regions_per_campaign=1,
    max_images=1,
    churn_model="hazard",
    seed=5,
)


@pytest.fixture(scope="module")
def agency() -> Agency:
    return simulate(CONFIG)


@pytest.fixture(scope="module")
def rows(agency: Agency) -> pd.DataFrame:
    return pa.concat_tables(agency.performance(days_per_chunk=50)).to_pandas()


def drivers(*, efficiency: float = 0.0, refresh: float = 0.5, pacing: float = 1.0, age: float = 900.0) -> Drivers:
    return Drivers(*(np.array([[value]]) for value in (efficiency, refresh, pacing, age)))


class TestLeaving:
    def test_nothing_is_served_after_an_account_left_and_all_until_then(self, agency: Agency, rows: pd.DataFrame):
        left = agency.churn.to_pandas().set_index("account_id")["churned_date"]
        last = rows.groupby("account_id")["date"].max()[left.index]
        assert len(left) > 15
        assert (last < left).all()
        # An account of few ads has days without any.
        assert ((left - last) <= timedelta(days=1)).mean() > 0.8
        assert agency.churn["decline_start"].null_count == agency.churn.num_rows

    def test_as_many_leave_as_the_hazard_says(self):
        leavers, expected = [], []
        for seed in range(4):
            agency = simulate(dataclasses.replace(CONFIG, seed=seed))
            told = agency.hazards.to_pandas()
            # Weeks under notice, and those whose notice would end beyond the last day, are no chances to leave.
            left = agency.churn.to_pandas().set_index("account_id")["churned_date"]
            end = told["account_id"].map(left).fillna(CONFIG.last_date + timedelta(days=1))
            chances = told["date"] <= end - timedelta(days=NOTICE_DAYS)
            leavers.append(len(left))
            expected.append(told["hazard"][chances].sum())
        # Sum of Bernoulli draws: variance at most their mean.
        assert abs(sum(leavers) - sum(expected)) < 3 * np.sqrt(sum(expected))

    def test_days_of_the_others_do_not_depend_on_who_left(self, agency: Agency):
        stayed = dataclasses.replace(
            agency.process,
            world=dataclasses.replace(
                agency.process.world,
                accounts=dataclasses.replace(
                    agency.process.world.accounts, churned=np.full(CONFIG.accounts, 10**6, dtype=np.int64)
                ),
            ),
        )
        day = 200
        mine, everyone = agency.process.cells(day), stayed.cells(day)
        kept = np.isin(everyone.ad, mine.ad)
        assert mine.ad.size < everyone.ad.size
        np.testing.assert_array_equal(mine.impressions, everyone.impressions[kept])
        np.testing.assert_array_equal(mine.ctr, everyone.ctr[kept])

    def test_drivers_are_what_performance_shows(self, agency: Agency, rows: pd.DataFrame):
        told = agency.hazards.to_pandas()
        day = told["date"].max()
        month = rows[(rows["date"] < day) & (rows["date"] >= day - timedelta(days=28))]
        month = month.groupby("account_id")[["spend", "revenue"]].sum()
        budget = agency.accounts.to_pandas().set_index("account_id")["monthly_budget"]
        now = told[told["date"] == day].set_index("account_id")
        pacing = (month["spend"] / (budget * 28 / (365.25 / 12)))[now.index]
        # Expected and drawn spend differ by the draws' noise.
        assert (pacing / now["pacing"] - 1).abs().median() < 0.02

    def test_ads_and_campaigns_of_the_future_of_those_who_left_are_not_there(self, agency: Agency):
        left = agency.churn.to_pandas().set_index("account_id")["churned_date"]
        for table, column, slack in ((agency.ads, "valid_from", 0), (agency.campaigns, "start_date", -1)):
            frame = table.to_pandas()
            ends = frame["account_id"].map(left)
            there = ends.notna()
            assert (frame[column][there] <= ends[there] + timedelta(days=slack)).all()

    def test_truth_is_written_beside_the_rest(self, agency: Agency, tmp_path: Path):
        write_truth(agency, tmp_path)
        assert pq.read_table(tmp_path / "hazards.parquet").num_rows == agency.hazards.num_rows


class TestGrievance:
    def test_poor_efficiency_matters_where_creatives_are_stale_or_the_account_is_young(self):
        poor = grievance(drivers(efficiency=-0.5))[0, 0]
        stale = grievance(drivers(refresh=0.1))[0, 0]
        both = grievance(drivers(efficiency=-0.5, refresh=0.1))[0, 0]
        assert both > 5 * (poor + stale)
        assert grievance(drivers(efficiency=-0.5, age=60.0))[0, 0] > 5 * poor

    def test_pacing_is_wrong_on_both_sides_unless_efficiency_is_good(self):
        under, right, over = (grievance(drivers(pacing=p))[0, 0] for p in (0.3, 1.0, 3.0))
        assert min(under, over) > right == 0
        assert grievance(drivers(pacing=3.0, efficiency=0.4))[0, 0] < 0

    def test_a_week_of_grievance_is_not_enough_and_three_months_are(self):
        bad, good = (drivers(efficiency=e, refresh=0.1) for e in (-0.5, 0.0))
        weeks = Drivers(*(np.hstack([getattr(good, n)] * 4 + [getattr(bad, n)] * 12) for n in Drivers.__slots__))
        _, hazard = discontent_of(weeks, seed=1)
        assert hazard[0, 4] < 0.1 * MOST_HAZARD
        assert hazard[0, -1] > 0.9 * MOST_HAZARD


def test_options_that_came_later_leave_older_simulations_as_they_are():
    # The fingerprint that folders of the default agency were stamped with before there was a choice of churn.
    assert SimulationConfig().fingerprint() == "e29af08feb868fd04abd5e945895120cd8da837af7484ba7cf705370f5a7f34e"
    assert SimulationConfig(churn_model="hazard").fingerprint() != SimulationConfig().fingerprint()
    assert simulate(SimulationConfig(accounts=2, days=3)).hazards.num_rows == 0


@pytest.mark.parametrize("days", [1, 7, 30])
def test_short_histories_are_drawn_too(days: int):
    agency = simulate(SimulationConfig(accounts=3, days=days, churn_model="hazard", max_images=1))
    assert sum(day.num_rows for day in agency.performance()) > 0
    assert agency.hazards.num_rows <= 3 * (days // 7 + 1)
