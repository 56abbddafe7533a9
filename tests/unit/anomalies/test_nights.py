"""The arithmetic of nights: ads, runs, peers, new levels."""

from __future__ import annotations

import numpy as np
import pytest

from within_ml.anomalies.baseline import ACCEPTED_AFTER, MIN_DAYS, Expected
from within_ml.anomalies.creatives import NEW_AD_SPREAD, AdDay, Creatives
from within_ml.anomalies.metrics import FACTS, NAMES
from within_ml.anomalies.nights import Layout, Memory, judge, take_in
from within_ml.anomalies.peers import common_factor
from within_ml.anomalies.runs import Runs

IMPRESSIONS, CTR, CVR = (NAMES.index(name) for name in ("impressions", "ctr", "cvr"))


def expected(value, mean, unit=1.0, extra=0.01):
    arrays = [np.full((8, 1), float(x)) for x in (value, 1.0, mean, unit, extra, 0.0)]
    return Expected(*arrays)


def nights(facts, *, split=False):
    """Judge and learn days of one account's series, facts of shape (days, 5, n); yield each night."""
    memory, n = Memory.empty(), facts.shape[2]
    layout = Layout(
        np.zeros(n, dtype=np.int64) if split else np.arange(n), 1 if split else n, np.zeros(n, dtype=np.int64), split
    )
    for day, values in enumerate(facts):
        memory.grow(layout, 0)
        night = judge(memory, layout, values, day % 7, 0.01)
        take_in(memory, layout, night, values, day % 7, 28)
        yield memory, night


def steady(days, n=1, *, impressions=10_000, seed=0):
    rng = np.random.default_rng(seed)
    facts = np.zeros((days, len(FACTS), n))
    facts[:, 0] = rng.poisson(impressions, (days, n))
    facts[:, 1] = rng.binomial(facts[:, 0].astype(int), 0.02)
    facts[:, 2] = facts[:, 1] * 1.0
    facts[:, 3] = rng.binomial(facts[:, 1].astype(int), 0.1)
    facts[:, 4] = facts[:, 3] * 40.0
    return facts


def test_nothing_is_judged_before_there_is_a_history():
    judged = [night for _, night in nights(steady(MIN_DAYS + 2))]

    assert all(np.isnan(night.p).all() for night in judged[:MIN_DAYS])
    assert not np.isnan(judged[MIN_DAYS].p).any()


def test_the_level_follows_a_trend_and_forgets_a_spike():
    facts = steady(60)
    growth = 1.02 ** np.arange(60)
    facts[:, :, 0] *= growth[:, None]
    facts[30, :, 0] *= 5

    judged = [night for _, night in nights(facts)]

    ratio = np.array([night.series.mean[IMPRESSIONS, 0] for night in judged[25:]]) / (10_000 * growth[25:])
    assert judged[30].flagged[IMPRESSIONS, 0]
    assert np.abs(np.log(ratio)).max() < 0.25
    assert not any(night.flagged[IMPRESSIONS, 0] for night in judged[31:])


def test_a_new_level_is_accepted_after_a_week():
    facts = steady(50)
    facts[25:, :, 0] *= 0.3

    flagged = [bool(night.flagged[IMPRESSIONS, 0]) for _, night in nights(facts)]

    assert all(flagged[25 : 25 + ACCEPTED_AFTER])
    assert not any(flagged[25 + ACCEPTED_AFTER + 1 :])


def test_days_without_conversions_add_up_and_the_days_before_the_verdict_are_unlearnt():
    facts = steady(60, impressions=2_000)
    facts[:, 3, 0] = np.random.default_rng(1).poisson(4.0, 60)
    facts[40:44, 3, 0] = 0

    told = [(memory.levels.rate[CVR, 0], night) for memory, night in nights(facts)]

    assert not told[40][1].flagged[CVR, 0]
    assert told[43][1].flagged[CVR, 0]
    assert told[43][0] == pytest.approx(told[39][0], rel=0.1)
    assert not told[44][1].flagged[CVR, 0]


def test_runs_go_on_only_with_days_like_those_before():
    runs = Runs.empty(8)
    runs.grow(1)
    for value, days, total in ((1, -1, 1), (0, -2, 1), (4, 0, 0), (0, -1, 0)):
        runs = runs.with_night(expected(value, 5.0))
        assert (runs.days[CVR, 0], runs.value[CVR, 0]) == (days, total)

    # Of counts, and of what is so large that its noise is not that of counting, no run is told.
    assert runs.days[IMPRESSIONS, 0] == 0
    assert runs.with_night(expected(100, 10_000.0)).days[CVR, 0] == 0


def test_a_new_ad_widens_the_band_and_is_known_soon():
    creatives, rate, factor, calm = Creatives.empty(), np.array([0.02]), np.ones(1), np.zeros(1, dtype=bool)
    creatives.grow(2)
    old = AdDay(np.array([0]), np.array([0]), np.array([10_000.0]), np.array([200.0]))
    for _ in range(20):
        creatives.learn(old, rate, factor, calm)
    both = AdDay(np.array([0, 1]), np.array([0, 0]), np.array([5_000.0, 5_000.0]), np.array([100.0, 200.0]))

    _, before = creatives.expect(old, rate, factor)
    mean, first = creatives.expect(both, rate, factor)
    for _ in range(5):
        creatives.learn(both, rate, factor, calm)
    later, _ = creatives.expect(both, rate, factor)

    assert before[0] < 0.1**2 < first[0] <= NEW_AD_SPREAD**2
    assert mean[0] == pytest.approx(200, rel=0.02)
    assert later[0] == pytest.approx(300, rel=0.05)


@pytest.mark.parametrize(("series", "factor"), [(20, 0.5), (3, 1.0)])
def test_what_many_share_is_nobodys(series, factor):
    mean = np.full((8, series), 1000.0)
    value = mean * 0.5
    value[:, 0] = 4000.0

    common = common_factor(value, mean, np.ones_like(mean), np.zeros(series, dtype=np.int64))

    assert common[IMPRESSIONS] == pytest.approx(np.full(series, factor), rel=0.05)


def test_few_conversions_each_tell_together_what_has_not_arrived():
    rng = np.random.default_rng(0)
    mean = np.full((8, 60), 2.0)
    late = np.tile(rng.poisson(0.9, 60).astype(float), (8, 1))
    one_out = np.tile(rng.poisson(2.0, 60).astype(float), (8, 1))
    one_out[:, 0] = 0.0
    peers = np.zeros(60, dtype=np.int64)

    assert common_factor(late, mean, np.ones_like(mean), peers)[CVR, 0] == pytest.approx(0.45, abs=0.12)
    assert common_factor(one_out, mean, np.ones_like(mean), peers)[CVR, 0] == 1.0
    # Few impressions are a small account, not a late one.
    assert common_factor(late, mean, np.ones_like(mean), peers)[CTR, 0] == 1.0
