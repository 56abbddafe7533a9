"""Quantiles of groups: the ranks are the conformal ones, and the mixture is what the groups deserve."""

import numpy as np
import pytest

from within_ml.uncertainty.conformal import UNBOUNDED, conformal_quantiles, lasting_strength, mixed_quantiles, thinned


@pytest.mark.parametrize(
    ("rows", "confidence", "ranks"),
    [(19, 0.9, (1, 19)), (99, 0.9, (5, 95)), (199, 0.99, (1, 199)), (200, 0.9, (10, 191)), (39, 0.95, (1, 39))],
)
def test_the_ranks_are_those_of_the_finite_sample(rows, confidence, ranks):
    """By hand: floor(α/2 (n+1)) and ceil((1-α/2)(n+1)), Lei et al. 2018, "Distribution-Free Predictive Inference"."""
    low, high = conformal_quantiles({"a": np.arange(1.0, rows + 1)}, confidence)

    assert (low[0], high[0]) == ranks


def test_groups_do_not_see_each_other():
    apart = conformal_quantiles({"a": np.arange(100.0), "b": np.arange(1000.0, 1100.0)}, 0.8)
    alone = conformal_quantiles({"b": np.arange(1000.0, 1100.0)}, 0.8)

    assert (apart[0][1], apart[1][1]) == (alone[0][0], alone[1][0])


def test_too_few_rows_have_no_bound():
    low, high = conformal_quantiles({"a": np.arange(18.0)}, 0.9)

    assert (low[0], high[0]) == (-UNBOUNDED, UNBOUNDED)


@pytest.mark.parametrize(("strength", "share"), [(0.0, 1.0), (199.0, 0.5), (1e12, 0.0)])
def test_a_group_counts_by_its_rows(strength, share):
    own, pooled = np.arange(1.0, 200.0), np.arange(1.0, 200.0) * 10
    table = mixed_quantiles({"a": own}, pooled, np.array([199.0]), strength=strength, confidence=0.9)

    assert table[0] == pytest.approx([100.0, 1900.0])
    assert table[1] == pytest.approx([share * 10 + (1 - share) * 100, share * 190 + (1 - share) * 1900], rel=1e-6)


def test_a_confidence_beyond_the_group_takes_the_wider_of_pooled_and_worst_row():
    pooled = np.linspace(-1, 1, 9999)
    table = mixed_quantiles({"a": np.linspace(-5, 0, 50)}, pooled, np.array([50.0]), strength=0.0, confidence=0.99)

    assert table[1] == pytest.approx([-5.0, table[0, 1]])


def test_thinning_keeps_the_quantiles():
    z = np.random.default_rng(0).normal(size=50_001)
    kept = thinned(z, 2000)

    assert kept.size == 2000
    assert np.quantile(kept, [0.05, 0.5, 0.95]) == pytest.approx(np.quantile(z, [0.05, 0.5, 0.95]), abs=0.005)
    assert np.array_equal(thinned(z[:10], 10), np.sort(z[:10]))


def residuals(spread_sd, *, groups=60, rows=400, seed=0, alike=1):
    """Residuals of eight periods whose groups' log-widths differ by ``spread_sd``; ``alike`` copies of each row."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rows)
    drawn = rng.normal(size=(groups * rows) // alike).repeat(alike)
    return drawn * np.exp(rng.normal(0, spread_sd, groups))[group], group, np.tile(np.arange(rows) * 8 // rows, groups)


def test_the_strength_is_what_the_groups_show():
    unlike, alike = (lasting_strength(*residuals(sd)) for sd in (0.5, 0.0))

    # For independent normal residuals V is 2.5 · 0.57 (the delta method on the mean of |z|), B is sd²; near 6.
    assert unlike == pytest.approx(2.5 * 0.57 / 0.25, rel=0.5)
    assert alike > 10 * unlike


def test_rows_that_repeat_each_other_count_less():
    assert lasting_strength(*residuals(0.3, alike=10)) > 4 * lasting_strength(*residuals(0.3))


def test_too_few_groups_tell_nothing():
    assert lasting_strength(*residuals(0.5, groups=7)) == 500
    assert lasting_strength(*residuals(0.5)[:2], None) == 500
