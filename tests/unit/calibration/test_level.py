"""What of a level seen in a few weeks will last."""

import numpy as np
import pytest
from scipy.special import expit

from within_ml.calibration.level import LASTING_SD, estimate_level


def history(shifts, *, rows=200, impressions=5000, seed=0):
    rng = np.random.default_rng(seed)
    weeks = np.repeat(np.arange(len(shifts)), rows)
    margin = rng.normal(-4, 0.3, weeks.size)
    w = np.full(weeks.size, impressions)
    return margin, rng.binomial(w, expit(margin + np.array(shifts)[weeks])) / w, w.astype(float), weeks


def test_each_weeks_shift_makes_its_clicks_right():
    margin, y, w, weeks = history([0.3, -0.2, 0.0])
    level = estimate_level(margin, y, w, weeks)

    for week in range(3):
        rows = weeks == week
        assert w[rows] @ expit(margin + level.by_row)[rows] == pytest.approx(w[rows] @ y[rows], rel=1e-3)
    assert level.dispersion == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    ("shifts", "kept"),
    [
        ([0.2] * 8, (0.99, 1.0)),
        ([0.2], (0.99, 1.0)),
        ([0.9, -0.5, 0.8, -0.7], (0.0, 0.2)),
        ([0.6] * 4 + [0.2], (0.8, 1.0)),
    ],
)
def test_a_shift_is_believed_as_far_as_the_weeks_agree(shifts, kept):
    level = estimate_level(*history(shifts))

    assert kept[0] <= level.shrunk / level.pooled <= kept[1]


def test_the_spread_of_weeks_is_found():
    rng = np.random.default_rng(5)
    level = estimate_level(*history(rng.normal(0, 0.3, 80), rows=60))

    assert level.period_sd == pytest.approx(0.3, rel=0.35)


def test_alike_neighbours_count_as_fewer_weeks():
    wave = np.repeat([0.3, -0.3, 0.3, -0.3], 5)
    mixed = np.tile([0.3, -0.3], 10)

    assert estimate_level(*history(wave)).period_sd > 1.5 * estimate_level(*history(mixed)).period_sd


def test_a_long_history_warns_of_few_weeks_that_agree():
    arrays = history([0.1] * 4)

    assert estimate_level(*arrays).shrunk == pytest.approx(0.1, abs=0.02)
    # Standard error .3 / √4 = .15 against a lasting bias of .1: 1 / (1 + 2.25) of it is left.
    assert LASTING_SD == 0.1
    assert estimate_level(*arrays, period_sd=0.3).shrunk == pytest.approx(0.1 / 3.25, abs=0.005)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_only_clicks_or_none_stay_finite(rate):
    level = estimate_level(np.zeros(5), np.full(5, rate), np.full(5, 10.0), np.arange(5))

    assert np.isfinite([level.pooled, level.shrunk, level.period_sd, level.dispersion]).all()
    assert np.isfinite(level.by_row).all()
