"""The time axis of one series: causal, blind to unit and origin, quick to alarm at a change and to learn a new level."""

import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from within_ml.anomalies.series import (
    DEFAULT_EVIDENCE,
    DEFAULT_THRESHOLD,
    SeriesBaseline,
    SeriesSettings,
    score_series,
)
from within_ml.errors import InputError

FIELDS = ("expected", "lower", "upper", "score", "is_anomaly")


def times(n, minutes=60, start="2024-01-01"):
    return np.datetime64(start, "m") + minutes * np.arange(n)


def daily_wave(n, per_day, seed, *, noise=3.0):
    t = np.arange(n)
    return 100 + 20 * np.sin(2 * np.pi * t / per_day) + np.random.default_rng(seed).normal(0, noise, n)


def equal(a, b, rows=slice(None)):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name)[rows], getattr(b, name)[rows], err_msg=name)


class TestCausal:
    @given(st.integers(0, 10_000), st.integers(1, 299))
    @settings(max_examples=25, deadline=None)
    def test_later_points_change_nothing(self, seed, known):
        rng = np.random.default_rng(seed)
        x = rng.standard_t(2, 300).cumsum() if seed % 2 else rng.lognormal(0, 1, 300)
        gaps = rng.integers(1, 200, 300)
        at = np.datetime64("2024-01-01", "m") + np.cumsum(gaps)
        whole, part = score_series(at, x), score_series(at[:known], x[:known])
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(whole, name)[:known], getattr(part, name), err_msg=name)

    def test_night_by_night_is_the_same_as_at_once(self):
        at, x = times(600), daily_wave(600, 24, 0)
        x[400:410] += 60
        baseline = SeriesBaseline()
        parts = [baseline.update(at[i : i + 37], x[i : i + 37]) for i in range(0, 600, 37)]
        whole = score_series(at, x)
        for name in FIELDS:
            np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name))

    def test_a_stored_baseline_goes_on_as_if_it_had_stayed(self):
        at, x = times(400), daily_wave(400, 24, 1)
        stays = SeriesBaseline()
        stays.update(at[:300], x[:300])
        stored = SeriesBaseline.from_dict(json.loads(json.dumps(stays.to_dict())))
        equal(stays.update(at[300:], x[300:]), stored.update(at[300:], x[300:]))

    def test_twice_the_same(self):
        at, x = times(500, 5), daily_wave(500, 288, 2)
        kept = x.copy()
        equal(score_series(at, x), score_series(at, x))
        np.testing.assert_array_equal(x, kept)


class TestInvariant:
    @pytest.mark.parametrize(("factor", "shift"), [(1e-6, 0.0), (1e6, 0.0), (4.0, 1000.0), (-1.0, 0.0)])
    def test_unit_and_origin_change_no_score(self, factor, shift):
        at, x = times(400), daily_wave(400, 24, 3)
        x[300] += 80
        found, other = score_series(at, x), score_series(at, factor * x + shift)
        np.testing.assert_allclose(other.score, found.score, atol=1e-4)
        np.testing.assert_allclose(other.expected[20:], factor * found.expected[20:] + shift, rtol=1e-6)

    @given(st.integers(0, 10_000))
    @settings(max_examples=25, deadline=None)
    def test_answers_stay_in_range(self, seed):
        rng = np.random.default_rng(seed)
        x = rng.choice([0.0, 1.0, 1e9, -5.0, np.nan], 200) * rng.choice([1.0, rng.normal()], 200)
        found = score_series(times(200, 1440), x)
        assert ((found.score >= 0) & (found.score <= 1)).all()
        np.testing.assert_array_equal(found.is_anomaly, found.score >= DEFAULT_THRESHOLD)
        banded = ~np.isnan(found.lower)
        assert (found.lower[banded] <= found.upper[banded]).all()


class TestFinds:
    @pytest.mark.parametrize(("minutes", "n"), [(5, 4000), (60, 1200), (1440, 120)])
    def test_a_spike_at_any_cadence(self, minutes, n):
        x = daily_wave(n, 1440 / minutes if minutes < 1440 else 7, 4)
        x[-10:-7] += 90
        found = score_series(times(n, minutes), x)
        assert found.is_anomaly[-10:-4].any()
        assert found.is_anomaly[n // 5 : -10].mean() < 0.01

    def test_a_shift_at_its_onset_and_not_for_ever(self):
        x = daily_wave(1500, 24, 5)
        x[1000:] += 60
        found = score_series(times(1500), x)
        assert found.is_anomaly[1000:1012].any()
        assert found.is_anomaly[1060:].sum() <= 1
        assert abs((found.expected - x)[1400:]).mean() < 8

    def test_a_missing_daily_peak(self):
        x = 100 + 40 * (np.arange(2000) % 24 >= 12) + np.random.default_rng(6).normal(0, 2, 2000)
        x[1812:1824] = 100
        found = score_series(times(2000), x)
        assert found.is_anomaly[1812:1824].any()

    def test_an_alarm_is_followed_by_a_cool_down(self):
        x = daily_wave(1200, 24, 7)
        x[900:930] += np.linspace(100, 110, 30)
        assert 1 <= score_series(times(1200), x).is_anomaly[900:930].sum() <= 4

    def test_a_series_that_cries_wolf_is_heard_less(self):
        x = np.random.default_rng(14).standard_t(2, 4000)
        at = times(4000, 5)
        patient, deaf = SeriesSettings(repeats=0.0, fatigue=0.0), SeriesSettings(repeats=1.0)
        assert (
            score_series(at, x, settings=patient).is_anomaly.sum()
            > 2 * score_series(at, x, settings=deaf).is_anomaly.sum()
        )

    @pytest.mark.parametrize(("n", "most"), [(90, 1.0), (365, 4.0)])
    def test_days_without_anomalies(self, n, most):
        draws = [np.random.default_rng(seed).poisson(200, n).astype(float) for seed in range(20)]
        assert np.mean([score_series(times(n, 1440), x).is_anomaly.sum() for x in draws]) < most

    def test_heavy_tails_are_the_series_own(self):
        noise = np.random.default_rng(8)
        found = score_series(times(5000, 5), noise.standard_t(2, 5000))
        assert found.is_anomaly[500:].mean() < 0.004

    def test_the_band_holds_what_it_says(self):
        x = daily_wave(3000, 24, 9)
        found = score_series(times(3000), x, settings=SeriesSettings(coverage=0.9))
        inside = (x >= found.lower) & (x <= found.upper)
        assert inside[500:].mean() == pytest.approx(0.9, abs=0.03)

    def test_the_threshold_is_what_sensitivity_means(self):
        at, x = times(2000), np.random.default_rng(10).normal(size=2000)
        counts = [
            score_series(at, x, settings=SeriesSettings(threshold=e)).is_anomaly.sum()
            for e in (0.8 * DEFAULT_EVIDENCE, DEFAULT_EVIDENCE, 2 * DEFAULT_EVIDENCE)
        ]
        assert counts[0] > counts[1] >= counts[2]


class TestOddInput:
    @pytest.mark.parametrize("value", [0.0, 7.25, -1e12])
    def test_a_constant_series_is_never_odd(self, value):
        found = score_series(times(300), np.full(300, value))
        assert not found.is_anomaly.any()
        np.testing.assert_allclose(found.expected[1:], value)

    def test_what_breaks_a_constant_is_odd(self):
        x = np.zeros(300)
        x[250] = 1e-3
        assert score_series(times(300), x).is_anomaly[250]

    def test_missing_points_are_no_points(self):
        x = daily_wave(400, 24, 11)
        x[100:150] = np.nan
        found = score_series(times(400), x)
        assert (found.score[100:150] == 0).all()
        assert np.isnan(found.lower[100:150]).all()
        assert not np.isnan(found.expected[150:]).any()

    @pytest.mark.parametrize("n", [0, 1, 2, 5])
    def test_short_series_have_answers(self, n):
        found = score_series(times(n), np.arange(n, dtype=float) ** 5)
        assert found.score.shape == (n,)
        assert not found.is_anomaly.any()

    def test_all_missing(self):
        found = score_series(times(10), np.full(10, np.nan))
        assert not found.is_anomaly.any()
        assert np.isnan(found.expected).all()

    def test_enormous_and_tiny_numbers(self):
        x = np.where(np.arange(200) % 3 == 0, 1e150, -1e-150)
        found = score_series(times(200), x)
        assert np.isfinite(found.score).all()
        assert np.isfinite(found.expected[1:]).all()

    @pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
    def test_frames_go_in_as_they_are(self, zone):
        frame = pd.DataFrame({"timestamp": pd.date_range("2024-01-01", periods=300, freq="h", tz=zone)})
        frame["value"] = daily_wave(300, 24, 15)
        plain = np.asarray(frame["timestamp"].dt.tz_convert(None) if zone else frame["timestamp"])
        equal(score_series(frame["timestamp"], frame["value"]), score_series(plain, frame["value"].to_numpy()))

    def test_gaps_repeats_and_a_clock_set_back(self):
        at = times(300)
        at[100:] += 60 * 24 * 9
        at[200:] -= 60
        at[250] = at[249]
        assert np.isfinite(score_series(at, daily_wave(300, 24, 12)).expected[1:]).all()

    @pytest.mark.parametrize(
        ("at", "x", "said"),
        [
            (times(3), [1.0, 2.0], "shape"),
            (times(2), [[1.0], [2.0]], "shape"),
            (times(2), [1.0, np.inf], "infinite"),
            (times(2), [1.0, -1e200], "larger"),
            (np.array(["2024-01-01", "NaT"], dtype="datetime64[s]"), [1.0, 2.0], "missing"),
            (["today", "now?"], [1.0, 2.0], "timestamps"),
            (times(2), ["one", "two"], "values"),
        ],
    )
    def test_bad_input_is_named(self, at, x, said):
        with pytest.raises(InputError, match=said):
            score_series(at, x)


def test_ten_thousand_points_in_a_second():
    at, x = times(10_000, 5), daily_wave(10_000, 288, 13)
    score_series(at[:50], x[:50])
    begin = time.process_time()
    score_series(at, x)
    assert time.process_time() - begin < 1.0
