"""Platt scaling and beta calibration find the numbers that made the data."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from within_ml.calibration.log_odds import CalibrationMethod
from within_ml.calibration.scaling import BetaCalibrator, PlattCalibrator
from within_ml.metrics import log_loss


def draw(n, *, a, b, c, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 2, n).clip(0.001, 0.999)
    truth = expit(c + a * np.log(p) - b * np.log1p(-p))
    return p, (rng.random(n) < truth).astype(float), truth


def test_platt_with_many_clicks_is_logistic_regression():
    p, y, _ = draw(50_000, a=0.6, b=0.6, c=-0.4)
    calibrator = PlattCalibrator().fit(p, y)
    reference = LogisticRegression(C=1e10).fit(logit(p)[:, None], y)

    assert calibrator.slopes_[0] == pytest.approx(reference.coef_[0, 0], abs=0.005)
    assert calibrator.start_ + calibrator.shift_ == pytest.approx(reference.intercept_[0], abs=0.01)
    assert calibrator.method_ is CalibrationMethod.PLATT


@pytest.mark.parametrize(("a", "b", "c"), [(0.5, 2.0, 0.3), (1.0, 1.0, 0.0), (1.5, 0.3, -0.5)])
def test_beta_finds_its_three_numbers(a, b, c):
    p, y, _ = draw(100_000, a=a, b=b, c=c)
    calibrator = BetaCalibrator().fit(p, y)

    assert calibrator.slopes_ == pytest.approx([a, b], abs=0.1)
    assert calibrator.start_ + calibrator.shift_ == pytest.approx(c, abs=0.1)
    assert calibrator.method_ is CalibrationMethod.BETA


def test_beta_bends_where_platt_cannot():
    p, y, truth = draw(20_000, a=0.3, b=3.0, c=1.0)
    platt, beta = (kind().fit(p, y).transform(p) for kind in (PlattCalibrator, BetaCalibrator))

    assert log_loss(truth, beta) < log_loss(truth, platt) - 0.002
    assert log_loss(truth, beta) < log_loss(truth, truth) + 0.0005


def test_a_falling_truth_gives_the_smallest_slope():
    p, y, _ = draw(20_000, a=-1.0, b=-1.0, c=0.0)

    assert PlattCalibrator(min_slope=0.05).fit(p, y).slopes_ == pytest.approx([0.05])
    assert BetaCalibrator(min_slope=0.05).fit(p, y).slopes_.min() == pytest.approx(0.05, abs=0.01)


def test_a_strong_penalty_leaves_the_identity():
    p, y, _ = draw(2000, a=0.5, b=2.0, c=0.3)

    assert BetaCalibrator(regularization=1e6).fit(p, y).slopes_ == pytest.approx([1.0, 1.0], abs=0.01)
    assert PlattCalibrator(regularization=1e-6).fit(p, y).slopes_[0] != pytest.approx(1.0, abs=0.01)
