"""Risks within horizons, from hazards of intervals."""

import numpy as np
import pandas as pd
import pytest

from within_ml.errors import InputError
from within_ml.health.config import HORIZONS, HealthConfig
from within_ml.health.hazard import BOUNDS, ChurnHazard, Spells, _within
from within_ml.health.labels import NEVER
from within_ml.health.risk import Evidence
from within_ml.health.warnings import alarm_threshold, warning_report

CONFIG = HealthConfig(n_estimators=40, folds=3, n_threads=1, max_depth=2)


def constant(rate, seed=0):
    """Accounts that leave at a constant rate per day, seen for 10 to 120 days."""
    rng, n = np.random.default_rng(seed), len(rate)
    until = np.ceil(rng.exponential(1 / rate)).astype(np.int64)
    seen = rng.integers(10, 121, n)
    gone = until <= seen
    spells = Spells(np.arange(n).astype(object), np.where(gone, until, NEVER), seen, seen)
    return pd.DataFrame({"x": np.log(rate), "noise": rng.normal(size=n)}), spells


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(1)
    rate = np.exp(rng.choice([-6.0, -4.0, -3.0], 1500))
    X, spells = constant(rate)
    return ChurnHazard(config=CONFIG).fit(X, spells), X, spells, rate


def test_censored_accounts_do_not_make_leaving_look_rare(fitted):
    churn, X, _, rate = fitted
    p = churn.probability(X, HORIZONS)
    for i, days in enumerate(HORIZONS):
        truth = 1 - np.exp(-rate * days)
        for level in np.unique(rate):
            assert p[rate == level, i].mean() == pytest.approx(truth[rate == level].mean(), abs=0.07)


def test_more_days_are_more_risk(fitted):
    churn, X, _, _ = fitted
    p = churn.probability(X[:100], [1, 5, 14, 22, 30, 47, 90, 120])

    assert (np.diff(p, axis=1) >= 0).all()
    assert ((p > 0) & (p < 1)).all()


def test_hazards_compose_to_the_chance_not_to_stay():
    hazards = np.array([[0.1, 0.1, 0.2, 0.3, 0.0]])

    assert _within(hazards, 7)[0] == pytest.approx(0.1)
    assert _within(hazards, 30)[0] == pytest.approx(1 - 0.9 * 0.9 * 0.8)
    assert _within(hazards, 22)[0] == pytest.approx(1 - 0.9 * 0.9 * np.sqrt(0.8))


def test_rows_enter_only_intervals_whose_end_is_known():
    spells = Spells(
        np.array(["a", "b", "c"], dtype=object),
        np.array([10, NEVER, NEVER]), np.array([10, 30, 12]), np.array([40, 40, 12]),
    )  # fmt: skip
    rows, ahead, left = ChurnHazard(config=CONFIG)._repeated(spells)
    found = sorted(zip(rows.tolist(), ahead.tolist(), left.tolist(), strict=True))

    assert found == [(0, 7, 0.0), (0, 14, 1.0), (1, 7, 0.0), (1, 14, 0.0), (1, 30, 0.0), (2, 7, 0.0)]


def test_intervals_are_wider_with_fewer_who_left():
    X, spells = constant(np.full(200, 0.002))
    few = ChurnHazard(config=CONFIG).fit(X.assign(x=X["noise"]), spells)
    p, lower, upper = few.intervals(X.assign(x=X["noise"]))

    assert ((lower <= p) & (p <= upper)).all()
    many, spells = constant(np.full(1500, 0.002))
    narrow = ChurnHazard(config=CONFIG).fit(many.assign(x=many["noise"]), spells).intervals(X.assign(x=X["noise"]))
    assert np.median(upper[:, 1] / lower[:, 1]) > 1.3 * np.median(narrow[2][:, 1] / narrow[1][:, 1])


def test_nobody_left():
    X, spells = constant(np.full(50, 1e-9))
    churn = ChurnHazard(config=CONFIG).fit(X, spells)
    p = churn.probability(X, HORIZONS)

    assert churn.model_.evidence_ is Evidence.LEVEL
    assert (p < 0.05).all()
    assert (np.diff(p, axis=1) > 0).all()
    assert alarm_threshold(churn, X, spells, 0.1) > p[0, 1]


def test_state_comes_back(fitted, tmp_path):
    churn, X, _, _ = fitted
    churn.save(tmp_path)
    again = ChurnHazard.load(tmp_path, CONFIG)

    assert np.array_equal(again.probability(X, BOUNDS), churn.probability(X, BOUNDS))
    assert all(np.array_equal(a, b) for a, b in zip(again.intervals(X), churn.intervals(X), strict=True))


@pytest.mark.parametrize("days", [[0], [-3, 5], [30, 14], [np.nan], [14, 14]])
def test_impossible_days_are_refused(fitted, days):
    with pytest.raises(InputError, match="days must"):
        fitted[0].probability(fitted[1][:2], days)


class TestWarnings:
    def test_a_tenth_of_the_days_of_those_who_stay(self, fitted):
        churn, X, spells, _ = fitted
        threshold = alarm_threshold(churn, X, spells, 0.1)
        report = warning_report(
            churn.probability(X, [30])[:, 0], spells, pd.Series(pd.Timestamp("2024-01-01"), index=X.index), threshold
        )

        assert report.false_alarm_rate <= 0.15

    def test_lead_is_from_the_first_warning_of_the_last_90_days(self):
        day = pd.Timestamp("2024-06-01")
        dates = pd.Series([day - pd.Timedelta(days=k) for k in (200, 40, 5, 40, 5, 3, 2)])
        account = np.array(["a", "a", "a", "b", "b", "c", "c"], dtype=object)
        until = np.array([200, 40, 5, 40, 5, NEVER, NEVER])
        risk = np.array([0.9, 0.8, 0.1, 0.1, 0.2, 0.7, 0.1])
        report = warning_report(risk, Spells(account, until, until, until), dates, 0.5)

        assert report.leads["lead_days"].tolist() == [40.0, 0.0]
        assert (report.detected, report.median_lead_days) == (0.5, 20.0)
        assert (report.false_alarm_rate, report.ever_alarmed) == (0.5, 1.0)
