"""Metrics against scikit-learn, scipy, and a row per impression."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from within_ml import metrics
from within_ml.errors import InputError


@pytest.fixture
def counts():
    rng = np.random.default_rng(3)
    impressions = rng.integers(1, 30, 120)
    p = np.round(rng.uniform(0.05, 0.6, 120), 2)
    clicks = rng.binomial(impressions, np.clip(p * rng.uniform(0.5, 1.5, 120), 0, 1))
    return p, clicks, impressions


@pytest.fixture
def expanded(counts):
    """One row per impression, clicked or not, as scikit-learn wants it."""
    p, clicks, impressions = counts
    click = np.concatenate([np.repeat([1, 0], [k, n - k]) for k, n in zip(clicks, impressions, strict=True)])
    return click, np.repeat(p, impressions)


@pytest.mark.parametrize(
    ("ours", "peer"),
    [
        (metrics.log_loss, sklearn.metrics.log_loss),
        (metrics.brier, sklearn.metrics.brier_score_loss),
        (metrics.auc, sklearn.metrics.roc_auc_score),
    ],
)
def test_weighted_rates_equal_a_row_per_impression_in_scikit_learn(counts, expanded, ours, peer):
    p, clicks, impressions = counts

    assert ours(clicks / impressions, p, sample_weight=impressions) == pytest.approx(peer(*expanded), rel=1e-12)


def test_ece_equals_the_definition_written_out(counts, expanded):
    p, clicks, impressions = counts
    click, expected = expanded
    order = np.unique(expected)
    share = np.array([(expected == value).mean() for value in order])
    bins = np.minimum(((np.cumsum(share) - share / 2) * 5).astype(int), 4)
    total = 0.0
    for b in range(5):
        rows = np.isin(expected, order[bins == b])
        total += rows.mean() * abs(click[rows].mean() - expected[rows].mean())

    assert metrics.ece(clicks / impressions, p, sample_weight=impressions, bins=5) == pytest.approx(total)


def test_reliability_interval_is_wilsons():
    curve = metrics.reliability_curve([0.2], [0.25], sample_weight=[50])

    # 10 of 50: R's prop.test(10, 50, correct = FALSE) gives 0.1124 to 0.3304
    assert (curve.lower[0], curve.upper[0]) == pytest.approx((0.1124, 0.3304), abs=1e-4)
    assert curve.impressions == (50.0,)


def test_calibration_ratio_counts_clicks():
    assert metrics.calibration_ratio([0.1, 0.0], [0.1, 0.2], sample_weight=[100, 50]) == pytest.approx(20 / 10)


@pytest.mark.parametrize("metric", [metrics.auc, metrics.calibration_ratio])
def test_without_a_click_there_is_no_answer(metric):
    assert np.isnan(metric([0.0, 0.0], [0.1, 0.2], sample_weight=[5, 5]))


def test_without_impressions_there_is_no_answer():
    assert np.isnan(metrics.log_loss([], []))
    assert np.isnan(metrics.ece([0.1], [0.1], sample_weight=[0]))
    assert metrics.reliability_curve([], []).predicted == ()


@pytest.mark.parametrize(
    ("y", "p", "w", "message"),
    [
        ([0.1, 0.2], [0.1], None, "one shape"),
        ([1.2], [0.1], None, "y_true must be in"),
        ([0.1], [float("nan")], None, "y_prob must be in"),
        ([0.1], [0.1], [-1], "not negative"),
        ([0.1], [0.1], [float("inf")], "finite"),
    ],
)
def test_input_that_is_no_rate_is_refused(y, p, w, message):
    with pytest.raises(InputError, match=message):
        metrics.log_loss(y, p, sample_weight=w)


def slow_pairs(p, clicks, impressions, groups, significant):
    right, pairs = 0.0, 0
    for i in range(len(p)):
        for j in range(i):
            if groups[i] != groups[j] or clicks[i] * impressions[j] == clicks[j] * impressions[i]:
                continue
            pooled = (clicks[i] + clicks[j]) / (impressions[i] + impressions[j])
            se = np.sqrt(pooled * (1 - pooled) * (1 / impressions[i] + 1 / impressions[j]))
            gap = clicks[i] / impressions[i] - clicks[j] / impressions[j]
            if significant and abs(gap) <= 1.96 * se:
                continue
            pairs += 1
            right += 0.5 if p[i] == p[j] else float((p[i] > p[j]) == (gap > 0))
    return right / pairs, pairs


@pytest.mark.parametrize("significant", [False, True])
def test_pair_accuracy_equals_two_loops(counts, significant):
    p, clicks, impressions = counts
    groups = np.random.default_rng(0).integers(0, 12, p.size)

    result = metrics.pair_accuracy(p, clicks, impressions, groups, significant=significant)
    expected, pairs = slow_pairs(p, clicks, impressions, groups, significant)
    assert result.pairs == pairs
    assert result.accuracy == pytest.approx(expected)


def test_significance_is_the_two_proportion_z_test():
    # 40 of 1000 against 60 of 1000: prop.test(c(40, 60), c(1000, 1000), correct = FALSE) gives p = 0.0404; 42: p = 0.0659
    assert metrics.pair_accuracy([1, 2], [40, 60], [1000, 1000], [0, 0], significant=True).pairs == 1
    assert metrics.pair_accuracy([1, 2], [42, 60], [1000, 1000], [0, 0], significant=True).pairs == 0


def test_a_constant_score_orders_half_the_pairs(counts):
    _, clicks, impressions = counts

    assert metrics.pair_accuracy(np.zeros(120), clicks, impressions, np.zeros(120)).accuracy == 0.5
    assert np.isnan(metrics.pair_accuracy([1.0], [1], [2], ["alone"]).accuracy)


def test_large_groups_are_sampled_without_bias():
    rng = np.random.default_rng(0)
    p = np.sort(rng.uniform(0.1, 0.9, 3000))
    clicks = rng.binomial(20, p)

    result = metrics.pair_accuracy(p, clicks, np.full(3000, 20), np.zeros(3000))
    # Kendall's tau-b over all pairs, ties of clicks left out as here: concordant share = (1 + Goodman-Kruskal gamma) / 2
    concordant = sum(int((clicks[i + 1 :] > clicks[i]).sum()) for i in range(3000))
    discordant = sum(int((clicks[i + 1 :] < clicks[i]).sum()) for i in range(3000))
    assert result.accuracy == pytest.approx(concordant / (concordant + discordant), abs=0.005)


def test_spearman_within_groups_is_the_mean_of_scipys():
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 8, 90)
    y, p = rng.integers(0, 6, 90) / 10, rng.normal(size=90)

    expected = np.mean([spearmanr(y[groups == g], p[groups == g]).statistic for g in range(8)])
    assert metrics.within_group_spearman(y, p, groups) == pytest.approx(expected)
    assert np.isnan(metrics.within_group_spearman([0.1, 0.2], [1, 2], ["a", "b"]))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.floats(0, 1)), min_size=1, max_size=30))
def test_the_observed_rate_is_the_best_prediction(rows):
    clicks, misses, p = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    n = clicks + misses
    y = np.divide(clicks, n, out=np.zeros_like(n), where=n > 0)

    own, other = metrics.log_loss(y, y, sample_weight=n), metrics.log_loss(y, p, sample_weight=n)
    assert n.sum() == 0 or own <= other + 1e-9
