"""The benchmark of churn tables: its rows, its arithmetic, and that it runs."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

# The benchmarks are no installed package: they run from the repository's root, which pytest does not put on the path.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import churn


def test_the_table_is_the_published_one():
    X, y = churn.customers()

    assert X.shape == (7043, 20)
    assert y.sum() == 1869
    assert X["TotalCharges"].isna().sum() == 11


def test_the_slope_tells_too_sure_from_too_timid():
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 1.5, 20_000)
    y = (rng.random(20_000) < expit(margin)).astype(float)

    assert churn.slope(y, expit(margin)) == pytest.approx(1.0, abs=0.05)
    assert churn.slope(y, expit(2 * margin)) == pytest.approx(0.5, abs=0.05)


def test_the_page_is_written(monkeypatch, tmp_path):
    X, y = churn.customers()
    few = np.random.default_rng(0).permutation(len(y))[:400]
    monkeypatch.setattr(churn, "customers", lambda: (X.iloc[few], y[few]))
    churn.main(["--repeats", "1"], folder=tmp_path)
    page = (tmp_path / "churn.md").read_text(encoding="utf-8")

    assert all(name in page for name in churn.PREDICTORS)
    assert "400 customers" in page
