"""Scores of risks under censoring against hand calculations and scikit-learn; the benchmark's own arithmetic."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

# The benchmarks are no installed package: they run from the repository's root, which pytest does not put on the path.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import health
from benchmarks.survival import auc, brier, calibration_line, censoring_survival, integrated

TIME = np.array([1.0, 2.0, 3.0, 4.0])
EVENT = np.array([True, False, True, False])


class TestScores:
    def test_brier_by_hand(self):
        risk = np.array([0.9, 0.5, 0.6, 0.1])
        # One of the three in sight on day 2 is lost: G = 2/3 after it. The second row counts nothing on day 3.
        expected = (0.1**2 + (0.4**2 + 0.1**2) / (2 / 3)) / 4
        assert brier(TIME, EVENT, risk, 3.0) == pytest.approx(expected)

    def test_who_leaves_on_the_day_another_is_lost_left_first(self):
        time, event = np.array([2.0, 2.0, 5.0]), np.array([True, False, False])
        assert censoring_survival(time, event, np.array([2.0]), before=True)[0] == 1
        assert censoring_survival(time, event, np.array([2.0]), before=False)[0] == pytest.approx(1 / 2)

    def test_staying_in_sight_is_what_lifelines_estimates(self):
        rng = np.random.default_rng(0)
        time = np.minimum(np.ceil(rng.exponential(30, 500)), np.ceil(rng.exponential(40, 500)))
        event = rng.random(500) < 0.5
        # lifelines 0.30.3: KaplanMeierFitter().fit(numpy.where(event, time - 0.25, time), ~event)
        expected = [0.92381459, 0.74780302, 0.52373725, 0.30299104]
        found = censoring_survival(time, event, np.array([3.0, 10.0, 25.0, 40.0]), before=False)
        assert found == pytest.approx(expected, abs=1e-8)

    def test_auc_by_hand(self):
        risk = np.array([0.3, 0.9, 0.1, 0.2])
        # Leavers weigh 1 and 3/2; the first is above the one that stayed, the second is not.
        assert auc(TIME, EVENT, risk, 3.0) == pytest.approx(1 / 2.5)
        assert auc(TIME, EVENT, np.full(4, 0.5), 3.0) == 0.5
        assert np.isnan(auc(TIME, EVENT, risk, 0.5))

    def test_without_censoring_they_are_the_usual_scores(self):
        rng = np.random.default_rng(0)
        time, risk = rng.exponential(30, 500), rng.random(500)
        left = time <= 20
        everyone = np.ones(500, dtype=bool)
        assert brier(time, everyone, risk, 20.0) == pytest.approx(brier_score_loss(left, risk))
        assert auc(time, everyone, risk, 20.0) == pytest.approx(roc_auc_score(left, risk))

    def test_weights_make_up_for_those_who_were_lost(self):
        rng = np.random.default_rng(1)
        time, lost, risk = rng.exponential(30, 60_000), rng.exponential(40, 60_000), 0.3 * rng.random(60_000)
        seen, event = np.minimum(np.ceil(time), np.ceil(lost)), np.ceil(time) <= np.ceil(lost)
        whole = np.mean(((np.ceil(time) <= 20) - risk) ** 2)
        kept = event | (seen > 20)
        naive = np.mean(((event & (seen <= 20)) - risk)[kept] ** 2)
        assert brier(seen, event, risk, 20.0) == pytest.approx(whole, abs=0.006)
        assert abs(naive - whole) > 0.03

    def test_a_mean_over_days_and_a_true_probability(self):
        assert integrated(np.array([1.0, 3.0, 3.0]), np.array([0.0, 1.0, 3.0])) == pytest.approx(8 / 3)
        rng = np.random.default_rng(2)
        p = rng.beta(2, 5, 20_000)
        slope, intercept = calibration_line(rng.random(20_000) < p, p)
        assert slope == pytest.approx(1, abs=0.06)
        assert intercept == pytest.approx(0, abs=0.08)


class TestWarnings:
    def test_leads_are_days_from_the_first_warning_to_the_end(self):
        days = pd.date_range("2024-01-01", periods=40)
        rows = pd.DataFrame({"account_id": np.repeat(["gone", "here"], 40), "date": np.tile(days, 2)})
        rows = rows[(rows["account_id"] == "here") | (rows["date"] < "2024-01-31")].reset_index(drop=True)
        end = np.where(rows["account_id"] == "gone", 30, 39)
        since = (rows["date"] - days[0]).dt.days.to_numpy()
        event = (rows["account_id"] == "gone").to_numpy()
        # The one that stays is under warning on 4 of its 40 days, the other from day 10 on.
        risk = np.where(event, np.where(since >= 10, 0.8, 0.1), np.where(since < 4, 0.9, 0.1))
        told = health.warned(risk, rows, (end - since).astype(float), event, date(2024, 2, 9), {"own": 0.5})
        assert told["own"]["leads"] == [20.0]
        assert told["own"]["false_days"] == pytest.approx(0.1)
        assert told["own"]["false_accounts"] == 1
        assert told["day"]["false_days"] <= 0.1

    def test_a_constant_risk_warns_of_nobody(self):
        rows = pd.DataFrame({"account_id": ["a", "b"], "date": pd.Timestamp("2024-01-01")})
        told = health.warned(
            np.full(2, 0.3), rows, np.array([5.0, 39.0]), np.array([True, False]), date(2024, 2, 9), {}
        )
        assert told["account"]["detected"] == told["day"]["detected"] == 0


def test_history_is_cut_where_training_ends():
    past = health.history(seed=1, accounts=12, days=160)
    performance, accounts = past.known()
    assert performance["date"].max() == past.as_of
    assert performance["date"].min() == past.first
    known = pd.to_datetime(accounts["churned_date"]).dropna()
    assert (known <= pd.Timestamp(past.as_of)).all()
    rows = pd.DataFrame({"account_id": past.accounts["account_id"], "date": pd.Timestamp(past.as_of)})
    time, event = past.outcomes(rows, past.last)
    assert (time[~event] == health.TEST_DAYS).all()
    assert (time[event] <= health.TEST_DAYS).all()


def test_without_lifelines_it_says_where_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        health.main(["--lifelines", str(tmp_path)])
    assert "peers.txt" in capsys.readouterr().err
