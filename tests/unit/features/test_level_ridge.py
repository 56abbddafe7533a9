from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from within_ml.features.level_ridge import Evidence, slope, solve


def random_rows(seed: int, *, n: int = 60, groups: int = 12, level_variance: float = 0.4) -> Evidence:
    rng = np.random.default_rng(seed)
    group = np.sort(rng.integers(groups, size=n))
    return Evidence(np.arange(n), group, rng.normal(size=n), rng.uniform(0.5, 8, size=n), level_variance)


def covariance(rows: Evidence) -> np.ndarray:
    return np.diag(1 / rows.weight) + rows.level_variance * (rows.group[:, None] == rows.group)


def test_solution_is_generalised_least_squares_with_the_dense_covariance() -> None:
    rows = random_rows(0)
    matrix = np.random.default_rng(1).normal(size=(60, 5))
    precision = np.linalg.inv(covariance(rows))
    # The intercept is not penalised: solve for it together with the coefficients.
    design = np.column_stack([np.ones(60), matrix])
    penalty = np.diag([0.0] + [3.0] * 5)
    expected = np.linalg.solve(design.T @ precision @ design + penalty, design.T @ precision @ rows.y)[1:]
    found = solve(csr_array(matrix), rows, alpha=3.0)
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-3)


def test_large_level_variance_is_centring_within_groups() -> None:
    rows = random_rows(2, level_variance=1e9)
    matrix = np.random.default_rng(3).normal(size=(60, 4))

    def centred(values: np.ndarray) -> np.ndarray:
        means = [np.average(values[rows.group == g], axis=0, weights=rows.weight[rows.group == g]) for g in rows.group]
        return values - np.array(means)

    x, w = centred(matrix), rows.weight[:, None]
    expected = np.linalg.solve(x.T @ (w * x) + np.eye(4), x.T @ (rows.weight * centred(rows.y)))
    np.testing.assert_allclose(solve(csr_array(matrix), rows, alpha=1.0), expected, rtol=5e-3, atol=1e-3)


def test_a_row_without_weight_changes_nothing() -> None:
    rows = random_rows(4)
    matrix = csr_array(np.random.default_rng(5).normal(size=(60, 4)))
    seen = np.arange(60) % 3 > 0
    wild = Evidence(rows.text, rows.group, np.where(seen, rows.y, 1e6), rows.weight, rows.level_variance)
    np.testing.assert_allclose(solve(matrix, rows.only(seen), alpha=1.0), solve(matrix, wild.only(seen), alpha=1.0))


def test_slope_finds_the_scale_and_is_never_negative() -> None:
    rng = np.random.default_rng(6)
    group = np.repeat(np.arange(500), 4)
    score = rng.normal(scale=0.3, size=2000)
    noise = rng.normal(scale=0.3, size=2000)
    rows = Evidence(np.arange(2000), group, 2.5 * score + noise, np.full(2000, 10.0), 0.3)
    assert slope(score, rows) == pytest.approx(2.5, abs=0.1)
    assert slope(-score, rows) == 0.0
    assert slope(np.zeros(2000), rows) == 1.0


def test_level_variance_is_estimated_from_the_levels() -> None:
    rng = np.random.default_rng(7)
    group = np.repeat(np.arange(3000), 3)
    rate = 0.02 * np.exp(rng.normal(scale=0.6, size=3000))[group] * np.exp(rng.normal(scale=0.3, size=9000))
    impressions = np.full(9000, 5000.0)
    rows = Evidence.from_counts(
        np.arange(9000), group, clicks=rng.binomial(5000, rate).astype(float), impressions=impressions,
        residual_variance=0.09, level_variance=None,
    )  # fmt: skip
    assert rows.level_variance == pytest.approx(0.36, rel=0.15)


def test_few_impressions_say_little() -> None:
    rows = Evidence.from_counts(
        np.arange(3), np.zeros(3, dtype=np.int64), clicks=np.array([0.0, 100.0, 0.0]),
        impressions=np.array([10.0, 5000.0, 0.0]), residual_variance=0.1, level_variance=1.0,
    )  # fmt: skip
    assert rows.weight[2] == 0
    assert rows.weight[0] < 0.05 * rows.weight[1]
    assert np.isfinite(rows.y).all()
    assert abs(rows.y[0]) < 0.2
