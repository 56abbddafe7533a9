"""The calibrator corrects what is wrong, keeps the order, and does not learn noise."""

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from within_ml.calibration.scaling import BetaCalibrator
from within_ml.calibration.spline import CalibrationMethod, SplineCalibrator
from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.metrics import log_loss

GRID = np.linspace(0.0005, 0.3, 2000)


def sample(n, *, truth, impressions=2000, seed=0, spread=0.0):
    """Predictions, observed rates and impressions where the true rate is ``truth(prediction)``."""
    rng = np.random.default_rng(seed)
    p = expit(rng.normal(-4, 0.7, n))
    rate = expit(logit(truth(p)) + spread * rng.normal(size=n))
    w = np.full(n, impressions)
    return p, rng.binomial(w, rate) / w, w


@pytest.mark.parametrize(
    "truth",
    [
        pytest.param(lambda p: p, id="already calibrated"),
        pytest.param(lambda p: p / 2, id="level"),
        pytest.param(lambda p: expit(-2 + 0.5 * logit(p)), id="too spread"),
        pytest.param(lambda p: expit(4 + 2 * logit(p)), id="too narrow"),
        pytest.param(lambda p: np.where(p < 0.02, p, 0.02 + 0.3 * (p - 0.02)), id="bent"),
    ],
)
def test_the_true_rate_is_recovered(truth):
    p, y, w = sample(4000, truth=truth)
    calibrated = SplineCalibrator().fit(p, y, w).transform(p)

    assert w @ calibrated == pytest.approx(w @ y, rel=0.01)
    inner = (p > np.quantile(p, 0.05)) & (p < np.quantile(p, 0.95))
    assert np.abs(calibrated[inner] / truth(p[inner]) - 1).max() < 0.1


@given(seed=st.integers(0, 50), monotone_truth=st.booleans(), order=st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_the_order_is_kept_whatever_the_data_say(seed, monotone_truth, order):
    p, y, w = sample(400, truth=(lambda p: p) if monotone_truth else (lambda p: 0.0004 / p), seed=seed)
    calibrator = SplineCalibrator(spline_order=order).fit(p, np.clip(y, 0, 1), w)

    grid = np.geomspace(1e-6, 0.999, 5000)
    assert (np.diff(calibrator.transform(grid)) > 0).all()


def test_outside_the_data_the_line_goes_on():
    p, y, w = sample(3000, truth=lambda p: expit(-1 + 0.8 * logit(p)))
    calibrator = SplineCalibrator().fit(p, y, w)

    far = logit(p).max() + np.array([1.0, 2.0, 3.0])
    steps = np.diff(logit(calibrator.transform(expit(far))))
    assert steps[0] == pytest.approx(steps[1])
    assert steps[0] == pytest.approx(calibrator.slopes_[-1])


@pytest.mark.parametrize("seed", range(3))
def test_three_hundred_rows_are_not_overfitted(seed):
    """Ads differ by more than chance; the calibrated predictions may lose at most a hair to the calibrated truth."""
    p, y, w = sample(300, truth=lambda p: p, impressions=4000, seed=seed, spread=0.4)
    fresh_p, fresh_y, fresh_w = sample(10_000, truth=lambda p: p, impressions=4000, seed=seed + 100, spread=0.4)
    calibrator = SplineCalibrator().fit(p, y, w)

    loss = log_loss(fresh_y, calibrator.transform(fresh_p), sample_weight=fresh_w)
    reference = SplineCalibrator().fit(fresh_p, fresh_y, fresh_w).transform(fresh_p)
    assert loss / log_loss(fresh_y, reference, sample_weight=fresh_w) < 1.002
    assert calibrator.dispersion_ > 5


@pytest.mark.parametrize(
    ("n", "impressions", "method"),
    [(2000, 1000, CalibrationMethod.SPLINE), (50, 100, CalibrationMethod.BETA), (0, 10, CalibrationMethod.IDENTITY)],
)
def test_it_says_what_the_evidence_allowed(n, impressions, method):
    p, y, w = sample(n, truth=lambda p: p / 2, impressions=impressions)

    assert SplineCalibrator().fit(p, y, w).method_ is method


def test_few_clicks_get_beta_calibration_and_a_line_in_the_log(caplog):
    p, y, w = sample(50, truth=lambda p: p / 2, impressions=100)
    with caplog.at_level(logging.WARNING):
        beta = SplineCalibrator().fit(p, y, w)
        level = SplineCalibrator(fallback="level").fit(p, y, w)

    assert "58 clicks or misses (a spline needs 150)" in caplog.text
    assert "beta calibration instead" in caplog.text
    assert np.array_equal(beta.transform(GRID), BetaCalibrator().fit(p, y, w).transform(GRID))
    assert level.method_ is CalibrationMethod.LEVEL
    assert np.ptp(logit(level.transform(GRID)) - logit(GRID)) == pytest.approx(0, abs=1e-9)


def test_enough_clicks_are_nothing_to_log(caplog):
    with caplog.at_level(logging.WARNING):
        SplineCalibrator().fit(*sample(2000, truth=lambda p: p))

    assert caplog.text == ""


@pytest.mark.parametrize("weeks", [None, 4])
def test_few_clicks_of_calibrated_ads_lose_little_to_the_level_alone(weeks):
    """What beta calibration may spoil with 60 clicks that a shift would not."""
    lost = []
    for seed in range(20):
        p, y, w = sample(60, truth=lambda p: p, impressions=50, seed=seed)
        periods = None if weeks is None else np.arange(60) % weeks
        fresh = expit(np.random.default_rng(seed).normal(-4, 0.7, 5000))
        losses = [
            log_loss(fresh, SplineCalibrator(fallback=name).fit(p, y, w, periods=periods).transform(fresh))
            for name in ("beta", "level")
        ]
        lost.append(losses[0] - losses[1])

    assert np.mean(lost) < 2e-4


def test_a_record_tells_the_map():
    p, y, w = sample(3000, truth=lambda p: expit(-1 + 0.8 * logit(p)))
    calibrator = SplineCalibrator().fit(p, y, w)
    record = calibrator.get_spline_parameters()

    knots, degree = np.array(record.knots), record.slope_order - 1
    padded = np.concatenate([np.repeat(knots[0], degree), knots, np.repeat(knots[-1], degree)])
    integral = BSpline(padded, np.array(record.slopes), degree).antiderivative()
    x = np.linspace(knots[0], knots[-1], 50)[1:-1]
    by_hand = expit(record.shift + record.start + integral(x) - integral(knots[0]))
    assert calibrator.transform(expit(x)) == pytest.approx(by_hand, rel=1e-9)
    assert record.method is CalibrationMethod.SPLINE
    with pytest.raises(AttributeError):
        record.shift = 0.0


def test_straight_data_are_fitted_stiffly_and_wiggly_data_are_not():
    wave = SplineCalibrator().fit(*sample(3000, truth=lambda p: expit(logit(p) + 0.4 * np.sin(3 * logit(p)))))
    line = SplineCalibrator().fit(*sample(3000, truth=lambda p: expit(-1 + 0.8 * logit(p))))

    assert line.get_spline_parameters().roughness > 50 * wave.get_spline_parameters().roughness
    assert np.ptp(line.slopes_) < 0.1
    assert np.ptp(wave.slopes_) > 1


@pytest.mark.parametrize(("wave", "least"), [(0.5, 40e-5), (0.0, -5e-5)])
def test_300_clicks_in_10000_impressions_are_worth_a_spline(wave, least):
    """Against a line fitted by scikit-learn: much better where the truth is wiggly, hardly worse where it is a line."""
    gained = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, fresh = rng.normal(-4, 0.9, 10_000), rng.normal(-4, 0.9, 50_000)
        y = rng.random(10_000) < expit(x + wave * np.sin(2 * x))
        line = LogisticRegression(C=1e10).fit(x[:, None], y).predict_proba(fresh[:, None])[:, 1]
        ours = SplineCalibrator().fit(expit(x), y).transform(expit(fresh))
        truth = expit(fresh + wave * np.sin(2 * fresh))
        gained.append(log_loss(truth, line) - log_loss(truth, ours))

    assert np.mean(gained) > least


def test_a_constant_prediction_gets_its_level():
    calibrator = SplineCalibrator().fit(np.full(500, 0.02), np.full(500, 0.04), np.full(500, 10_000))

    assert calibrator.method_ is CalibrationMethod.LEVEL
    assert calibrator.transform([0.02]) == pytest.approx([0.04], rel=0.01)


def test_few_clicks_move_the_level_little():
    calibrator = SplineCalibrator().fit([0.01, 0.02], [0.0, 0.0], [20, 20])

    # 0.6 clicks were expected and none came: next to no evidence.
    assert calibrator.transform([0.02])[0] == pytest.approx(0.02, rel=0.05)


def test_weeks_that_disagree_move_the_level_less_than_weeks_that_agree():
    p, y, w = sample(4000, truth=lambda p: p * 0.8)
    weeks = np.arange(4000) % 4
    agreeing = SplineCalibrator().fit(p, y, w, periods=weeks)
    shaken = np.clip(y * np.array([0.6, 1.6, 0.7, 1.3])[weeks], 0, 1)
    disagreeing = SplineCalibrator().fit(p, shaken, w, periods=weeks)

    assert agreeing.shift_ == pytest.approx(np.log(0.8), abs=0.03)
    assert abs(disagreeing.shift_) < 0.1


def test_state_survives_json_bit_by_bit():
    p, y, w = sample(2000, truth=lambda p: p / 3)
    calibrator = SplineCalibrator().fit(p, y, w)
    again = SplineCalibrator.from_dict(json.loads(json.dumps(calibrator.to_dict())))

    assert np.array_equal(again.transform(GRID), calibrator.transform(GRID))
    assert again.method_ is calibrator.method_


def test_without_monotone_a_falling_map_is_possible():
    p, y, w = sample(4000, truth=lambda p: 0.0004 / p)

    assert (np.diff(SplineCalibrator(monotone=False, regularization=0.01).fit(p, y, w).transform(GRID)) < 0).any()


def test_uniform_knots_are_even_on_the_log_odds():
    p, y, w = sample(2000, truth=lambda p: p)
    knots = SplineCalibrator(knot_spacing="uniform", n_knots=5).fit(p, y, w).knots_

    assert np.diff(knots) == pytest.approx(np.full(4, np.ptp(knots) / 4))


@pytest.mark.parametrize(
    "arguments",
    [
        {"knot_spacing": "random"},
        {"n_knots": 1},
        {"spline_order": 1},
        {"regularization": 0},
        {"min_slope": 0},
        {"fallback": "spline"},
    ],
)
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(InputError):
        SplineCalibrator(**arguments).fit([0.1], [0.1])


def test_misuse_is_refused():
    with pytest.raises(NotFittedError):
        SplineCalibrator().transform([0.1])
    with pytest.raises(InputError, match="probabilities"):
        SplineCalibrator().fit([0.1], [0.1]).transform([1.5])
    with pytest.raises(ModelFormatError):
        SplineCalibrator.from_dict({"method": "spline"})


def test_zero_and_one_stay_inside():
    result = SplineCalibrator().fit([0.1], [0.1]).transform([0.0, 1.0])

    assert (result > 0).all()
    assert (result < 1).all()
    assert SplineCalibrator().fit([0.1], [0.1]).transform([]).shape == (0,)
