"""The benchmark of the calibrators runs at a tiny size, and its peers are what their names say."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

# The benchmarks are no installed package: they run from the repository's root, which pytest does not put on the path.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import calibration


@pytest.mark.parametrize("name", sorted(calibration.ALL))
def test_each_calibrator_repairs_what_is_wrong_with_the_level(name):
    draw = calibration.simulated("level wrong", 4000, seed=0)
    p = calibration.ALL[name](draw.p, draw.y, draw.new)

    assert p.shape == draw.new.shape
    if name != "raw":
        assert p.mean() == pytest.approx(calibration.CTR, rel=0.2)


@pytest.mark.parametrize("shape", sorted(calibration.SHAPES))
def test_three_in_a_hundred_are_clicked(shape):
    draw = calibration.simulated(shape, 1000, seed=1)

    assert draw.rate.mean() == pytest.approx(calibration.CTR, rel=0.05)
    assert set(draw.y) == {0.0, 1.0}


def test_the_beta_peer_drops_a_factor_that_is_negative():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.01, 0.99, 5000)
    y = (rng.random(5000) < expit(1 + 2 * np.log(p) + 0.5 * np.log1p(-p))).astype(float)

    assert (np.diff(calibration.beta(p, y, np.linspace(0.01, 0.99, 500))) > 0).all()


@pytest.mark.slow
def test_all_of_it_at_a_tiny_size(tmp_path):
    page = calibration.run(1, 1, large=2000, small=500, results=tmp_path).read_text()

    assert "| simulated, wiggly |" in page
    assert "| CIFAR-10, 1,000 rows |" in page
    assert page.count("splinecalib") >= 5
    again = calibration.run(1, 1, large=2000, small=500, only=3, results=tmp_path).read_text()
    assert [line for line in again.splitlines() if line.startswith("## ")] == [
        "## 1. Simulated, 2,000 rows", "## 2. Real, 2,000 rows", "## 3. 500 rows", "## 4. Several classes",
    ]  # fmt: skip
