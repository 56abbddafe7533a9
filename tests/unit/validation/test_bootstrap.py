"""Intervals by campaign: as wide as they must be, paired, and quick."""

import time

import numpy as np
import pytest

from within_ml.errors import InputError
from within_ml.validation.bootstrap import MAX_CLUSTERS, ClusterBootstrap


def test_the_interval_has_the_width_of_the_clusters_own_spread():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), 10)
    values = rng.normal(0, 1, 300)[groups] + rng.normal(0, 0.1, 3000)
    interval = ClusterBootstrap(groups, n_bootstrap=4000).interval(values, np.ones(3000))

    means = values.reshape(300, 10).mean(axis=1)
    assert (interval.upper - interval.lower) / 2 == pytest.approx(1.96 * means.std(ddof=1) / np.sqrt(300), rel=0.08)


def test_merging_many_clusters_keeps_the_width():
    rng = np.random.default_rng(0)
    n = 5 * MAX_CLUSTERS
    interval = ClusterBootstrap(np.arange(n), n_bootstrap=4000).interval(rng.normal(size=n), np.ones(n))

    assert (interval.upper - interval.lower) / 2 == pytest.approx(1.96 / np.sqrt(n), rel=0.08)


def test_nine_in_ten_intervals_hold_the_truth():
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(150):
        groups = np.repeat(np.arange(60), 5)
        values = 0.3 + rng.normal(0, 1, 60)[groups]
        interval = ClusterBootstrap(groups, n_bootstrap=400, random_state=seed).interval(
            values, np.ones(300), confidence=0.9
        )
        held += interval.lower <= 0.3 <= interval.upper
    assert 0.82 <= held / 150 <= 0.96


def test_the_same_draws_serve_every_statistic():
    bootstrap = ClusterBootstrap(np.arange(50), random_state=3)
    a = np.random.default_rng(0).normal(size=50)

    assert bootstrap.draws(a, np.ones(50)) - bootstrap.draws(a - 1, np.ones(50)) == pytest.approx(np.ones(1000))


def test_nothing_to_divide_by_is_nan():
    assert np.isnan(ClusterBootstrap(["a", "b"]).interval([1.0, 2.0], [0.0, 0.0]).value)
    assert np.isnan(ClusterBootstrap([]).interval([], []).value)
    with pytest.raises(InputError):
        ClusterBootstrap(["a"], n_bootstrap=0)


def test_a_thousand_draws_of_a_hundred_thousand_rows_take_under_a_second_of_cpu():
    groups = np.arange(100_000) // 3
    started = time.process_time()
    ClusterBootstrap(groups).interval(np.ones(100_000), np.ones(100_000))

    assert time.process_time() - started < 1.5
