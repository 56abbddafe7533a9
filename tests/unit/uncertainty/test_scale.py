"""The stabilised scale is what Anscombe says, inverts exactly, and the spread is found."""

import numpy as np
import pytest
from scipy.special import expit, logit

from within_ml.uncertainty.scale import fit_spread, history_difficulty, rate_of, sigma, stabilised, with_further_period


@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
def test_chance_has_the_same_size_everywhere(p):
    n = np.full(200_000, 1000)
    y = np.random.default_rng(0).binomial(n, p) / n

    assert stabilised(y, n).var() == pytest.approx(1 / 4002, rel=0.03)


@pytest.mark.parametrize("n", [1.0, 30.0, 10_000.0, np.inf])
def test_the_scale_inverts(n):
    rates = np.array([0.0, 1e-5, 0.02, 0.5, 1.0])

    assert rate_of(stabilised(rates, np.full(5, n)), np.full(5, n)) == pytest.approx(rates, abs=1e-12)


def test_far_out_is_clipped():
    assert rate_of(np.array([-1e9, 1e9]), np.array([0.0, 100.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("sd", [0.05, 0.3])
def test_the_spread_of_the_log_odds_is_found(sd):
    rng = np.random.default_rng(0)
    p, n = expit(rng.normal(-4, 0.5, 20_000)), rng.integers(20_000, 80_000, 20_000).astype(float)
    hard = rng.uniform(0, 1, (20_000, 1))
    truth = expit(logit(p) + np.sqrt(sd**2 + 0.25 * hard[:, 0] ** 2) * rng.normal(size=20_000))
    y = rng.binomial(n.astype(int), truth) / n
    gap = stabilised(y, n) - stabilised(p, n)
    spread, slopes = fit_spread(gap, p, n, hard)

    assert spread == pytest.approx(sd**2, rel=0.1, abs=0.002)
    assert slopes == pytest.approx([0.25], rel=0.1)
    assert (gap / sigma(p, n, hard, spread, slopes)).std() == pytest.approx(1.0, abs=0.05)


def test_a_few_wild_ads_do_not_widen_the_rest():
    rng = np.random.default_rng(0)
    p, n, none = np.full(2000, 0.02), np.full(2000, 50_000.0), np.zeros((2000, 0))
    gap = 0.01 * rng.normal(size=2000)
    wild = np.where(np.arange(2000) < 20, 0.5, gap)

    assert fit_spread(wild, p, n, none)[0] < 1.4 * fit_spread(gap, p, n, none)[0]


def test_periods_deviate_as_a_further_one_will():
    """Period means of variance 1: a further one deviates from the mean of m by √(1 + 1/m), the stretched ones too."""
    rng = np.random.default_rng(0)
    variances = []
    for _ in range(2000):
        z = with_further_period(rng.normal(size=5), np.arange(5))
        variances.append(np.mean((z - z.mean()) ** 2))

    assert np.mean(variances) == pytest.approx(1 + 1 / 5, rel=0.05)
    assert with_further_period(np.arange(3.0), np.zeros(3, int)).tolist() == [0, 1, 2]


def test_history_makes_it_easier():
    found = history_difficulty([0.01] * 4, [np.nan, 0, 10_000, 10**8])

    assert found[0] == found[1] == 1
    assert (np.diff(found[1:]) < 0).all()
