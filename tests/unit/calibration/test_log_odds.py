"""What all calibrators on the log-odds promise: order, ranges, classes, state, errors, scikit-learn's conventions."""

import json
import logging
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from within_ml.calibration.log_odds import CalibrationMethod, OutOfRange
from within_ml.calibration.scaling import BetaCalibrator, PlattCalibrator
from within_ml.calibration.spline import SplineCalibrator
from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.metrics import auc, log_loss

KINDS = [SplineCalibrator, BetaCalibrator, PlattCalibrator]
each_kind = pytest.mark.parametrize("kind", KINDS)


def clicks(n, *, seed=0, slope=0.6, spread=1.2):
    """One impression by row, about 12 % clicked; the predictions are too sure."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-3, spread, n)
    return expit(x), (rng.random(n) < expit(-0.6 + slope * x)).astype(float)


class TestOrder:
    @given(
        kind=st.sampled_from(KINDS),
        pairs=st.lists(
            st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.3, 1.0]), st.integers(1, 10**6)), min_size=1, max_size=60
        ),
        monotone_truth=st.booleans(),
    )
    @settings(max_examples=60, deadline=None)
    def test_it_rises_strictly_whatever_the_data(self, kind, pairs, monotone_truth):
        p, y, w = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
        y = np.sort(y)[np.argsort(np.argsort(p))] if monotone_truth else y
        calibrator = kind().fit(p, y, w)

        grid = np.unique(np.concatenate([np.geomspace(1e-9, 0.5, 3000), 1 - np.geomspace(1e-6, 0.5, 3000)]))
        calibrated = calibrator.transform(grid)
        assert ((calibrated > 0) & (calibrated < 1)).all()
        # Near 1 floats are 1e-16 apart, and below 1e-308 there are few: there a steep map has no room for all of them.
        told = (calibrated > 1e-300) & (calibrated < 1 - 1e-9)
        assert (np.diff(calibrated[told]) > 0).all()
        assert (np.diff(calibrated) >= 0).all()

    @pytest.mark.parametrize("impressions", [1, 500])
    @each_kind
    def test_auc_stays_and_nothing_is_tied(self, kind, impressions):
        p, y = clicks(4000)
        fresh, outcome = clicks(20_000, seed=1)
        fresh = np.concatenate([fresh, fresh[:5000]])
        outcome = np.concatenate([outcome, outcome[:5000]])
        calibrated = kind().fit(p, y, np.full(4000, impressions)).transform(fresh)

        assert auc(outcome, calibrated) == pytest.approx(auc(outcome, fresh), abs=1e-12)
        assert np.unique(calibrated).size == np.unique(fresh).size

    @each_kind
    def test_a_row_is_the_same_alone_and_among_others(self, kind):
        p, y = clicks(2000)
        calibrator = kind().fit(p, y)
        together = calibrator.transform(p)

        assert np.array_equal(together[:50], [calibrator.transform([one])[0] for one in p[:50]])
        assert calibrator.transform([]).shape == (0,)


class TestFit:
    @each_kind
    @pytest.mark.parametrize("seed", range(3))
    def test_what_is_calibrated_stays(self, kind, seed):
        rng = np.random.default_rng(seed)
        p = expit(rng.normal(-3, 1, 8000))
        calibrator = kind().fit(p, (rng.random(8000) < p).astype(float))

        grid = np.quantile(p, np.linspace(0.02, 0.98, 50))
        # 600 clicks know the level to 4 %.
        assert np.abs(logit(calibrator.transform(grid)) - logit(grid)).max() < 0.25

    @each_kind
    def test_a_line_is_found(self, kind):
        p, y = clicks(20_000, slope=0.6)
        fresh, _ = clicks(20_000, seed=9)
        truth = expit(-0.6 + 0.6 * logit(fresh))

        gained = log_loss(truth, fresh) - log_loss(truth, kind().fit(p, y).transform(fresh))
        assert gained > 0.97 * (log_loss(truth, fresh) - log_loss(truth, truth))

    @each_kind
    def test_weights_are_repeated_rows(self, kind):
        p, y = clicks(600)
        times = np.random.default_rng(2).integers(0, 4, 600)
        calibrator = kind(overdispersion=False)
        weighted = clone(calibrator).fit(p, y, times).transform(p)
        repeated = clone(calibrator).fit(np.repeat(p, times), np.repeat(y, times)).transform(p)

        assert weighted == pytest.approx(repeated, rel=1e-4)

    @each_kind
    def test_rates_are_shares_of_clicks(self, kind):
        p, _ = clicks(400)
        rate = np.random.default_rng(0).binomial(20, p) / 20
        calibrator = kind(overdispersion=False)
        by_rate = clone(calibrator).fit(p, rate, np.full(400, 20)).transform(p)
        both = np.concatenate([p, p]), np.repeat([1.0, 0.0], 400), 20 * np.concatenate([rate, 1 - rate])

        assert by_rate == pytest.approx(clone(calibrator).fit(*both).transform(p), rel=1e-4)

    def test_what_the_map_explains_is_no_dispersion(self):
        p = expit(np.linspace(-6, -1, 400))
        y = expit(-2 + 0.3 * logit(p))
        calibrator = SplineCalibrator().fit(p, y, np.full(400, 10**5))

        assert calibrator.dispersion_ == pytest.approx(1.0)
        assert calibrator.transform(p) == pytest.approx(y, rel=0.02)

    def test_one_absurd_row_does_not_stop_the_fit(self):
        p, y = clicks(5000, slope=0.5)
        calm = SplineCalibrator().fit(p, y).transform(p)
        shaken = SplineCalibrator().fit(np.append(p, 1e-300), np.append(y, 1.0)).transform(p)

        assert np.abs(logit(shaken) - logit(calm)).mean() < 0.1

    @each_kind
    def test_inputs_are_not_touched_and_twice_is_the_same(self, kind):
        p, y = clicks(1000)
        copies = p.copy(), y.copy()
        first, second = (kind().fit(p, y).transform(p) for _ in range(2))

        assert np.array_equal(first, second)
        assert np.array_equal(p, copies[0])
        assert np.array_equal(y, copies[1])

    @each_kind
    @pytest.mark.parametrize("rate", [0.0, 1.0])
    def test_clicks_alone_or_none_at_all_stay_finite(self, kind, rate):
        calibrated = kind().fit(np.linspace(0.01, 0.9, 300), np.full(300, rate)).transform([0.01, 0.5, 0.9])

        assert ((calibrated > 0) & (calibrated < 1)).all()
        assert (np.diff(calibrated) > 0).all()

    def test_a_series_with_any_index_is_an_array(self):
        p, y = clicks(500)
        rows = pd.DataFrame({"p": p, "y": y}, index=np.arange(500)[::-1])

        assert np.array_equal(
            SplineCalibrator().fit(rows["p"], rows["y"]).transform(p), SplineCalibrator().fit(p, y).transform(p)
        )


class TestOutOfRange:
    def fitted(self, policy):
        p, y = clicks(2000)
        inside = (p > 0.01) & (p < 0.3)
        return SplineCalibrator(out_of_range=policy).fit(p[inside], y[inside])

    def test_clip_takes_the_end(self):
        calibrator = self.fitted(OutOfRange.CLIP)

        assert calibrator.transform([0.001, 0.9]) == pytest.approx(
            calibrator.transform([calibrator.low_, calibrator.high_])
        )

    def test_extrapolation_is_the_default_and_keeps_the_order(self):
        assert (np.diff(self.fitted("extrapolate").transform([0.0, 1e-200, 0.001, 0.2, 0.9, 1.0])) > 0).all()
        assert SplineCalibrator().out_of_range is OutOfRange.EXTRAPOLATE

    def test_raise_names_what_came(self):
        calibrator = self.fitted("raise")

        assert calibrator.transform([0.02]).shape == (1,)
        with pytest.raises(InputError, match=r"out_of_range.*0\.9"):
            calibrator.transform([0.02, 0.9])


def classes(n, seed=0):
    """Four classes; the model is sure of twice what it knows."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 4))
    truth = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    label = (rng.random((n, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    said = np.exp(2 * scores) / np.exp(2 * scores).sum(axis=1, keepdims=True)
    return said, label


class TestClasses:
    @each_kind
    def test_each_class_gets_its_map_and_rows_sum_to_one(self, kind):
        said, label = classes(3000)
        fresh, outcome = classes(5000, seed=1)
        calibrator = kind().fit(said, label)
        shares = calibrator.transform(fresh)

        assert shares.sum(axis=1) == pytest.approx(1)
        rows = np.arange(5000)
        before, after = (-np.log(p[rows, outcome]).mean() for p in (fresh, shares))
        assert after < before - 0.1
        assert len(calibrator.calibrators_) == 4

    def test_labels_may_be_names_numbers_or_rates(self):
        said, label = classes(1200)
        names = np.array(["a", "b", "c", "d"])[label]
        by_number = SplineCalibrator().fit(said, label)
        by_name, by_rate = SplineCalibrator().fit(said, names), SplineCalibrator().fit(said, np.eye(4)[label])

        assert np.array_equal(by_number.transform(said), by_name.transform(said))
        assert np.array_equal(by_number.transform(said), by_rate.transform(said))
        assert by_name.classes_.tolist() == ["a", "b", "c", "d"]

    def test_a_class_that_never_came_has_its_column_still(self):
        said, label = classes(600)
        shares = SplineCalibrator().fit(said, np.minimum(label, 2)).transform(said)

        assert shares.shape == (600, 4)
        assert shares[:, 3].mean() < said[:, 3].mean() / 5

    def test_two_columns_are_one_map(self):
        p, y = clicks(3000)
        one = SplineCalibrator().fit(p, y)
        two = SplineCalibrator().fit(np.column_stack([1 - p, p]), y)

        assert np.array_equal(two.transform(np.column_stack([1 - p, p]))[:, 1], one.transform(p))

    def test_the_least_method_is_told(self):
        said, label = classes(2000)
        rare = np.where((label == 3) & (np.arange(2000) % 20 > 0), 0, label)

        calibrator = SplineCalibrator().fit(said, rare)
        assert calibrator.method_ is CalibrationMethod.BETA
        assert [c.method_ for c in calibrator.calibrators_[:3]] == [CalibrationMethod.SPLINE] * 3
        assert calibrator.get_spline_parameters(column=3).knots == ()

    @pytest.mark.parametrize(
        ("label", "message"),
        [([0, 1, 4], "numbers of the 4 columns"), (["a", "b", "b"], "4 different labels"), ([[0, 1]], "labels of")],
    )
    def test_labels_that_fit_no_column_are_refused(self, label, message):
        with pytest.raises(InputError, match=message):
            SplineCalibrator().fit(np.full((3, 4), 0.25), label)

    def test_other_columns_than_in_fit_are_refused(self):
        said, label = classes(200)
        calibrator = SplineCalibrator().fit(said, label)

        with pytest.raises(InputError, match=r"\(n, 4\)"):
            calibrator.transform(said[:, :3])
        with pytest.raises(InputError, match="k of 2 or more"):
            SplineCalibrator().fit(said[:, :1], label)
        with pytest.raises(InputError, match="column must be 0 to 3"):
            calibrator.get_spline_parameters(column=4)


class TestState:
    def test_a_fresh_process_gives_the_same_bits(self, tmp_path):
        p, y = clicks(1500)
        fitted = [kind(out_of_range=OutOfRange.CLIP).fit(p, y) for kind in KINDS]
        (tmp_path / "state.json").write_text(json.dumps([calibrator.to_dict() for calibrator in fitted]))
        np.save(tmp_path / "p.npy", p)
        code = (
            "import json, sys, numpy as np\n"
            "from within_ml.calibration.scaling import BetaCalibrator, PlattCalibrator\n"
            "from within_ml.calibration.spline import SplineCalibrator\n"
            "folder, p = sys.argv[1], np.load(sys.argv[1] + '/p.npy')\n"
            "kinds = [SplineCalibrator, BetaCalibrator, PlattCalibrator]\n"
            "states = json.load(open(folder + '/state.json'))\n"
            "np.save(folder + '/q.npy', [k.from_dict(s).transform(p) for k, s in zip(kinds, states)])\n"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)

        assert np.array_equal(np.load(tmp_path / "q.npy"), [calibrator.transform(p) for calibrator in fitted])

    def test_several_classes_are_restored(self):
        said, label = classes(900)
        calibrator = SplineCalibrator().fit(said, np.array(list("abcd"))[label])
        again = SplineCalibrator.from_dict(json.loads(json.dumps(calibrator.to_dict())))

        assert np.array_equal(again.transform(said), calibrator.transform(said))
        assert again.classes_.tolist() == list("abcd")
        assert again.get_spline_parameters(column=2) == calibrator.get_spline_parameters(column=2)
        assert again.calibrators_[0].curve_ == calibrator.calibrators_[0].curve_

    @each_kind
    def test_a_damaged_state_is_refused(self, kind):
        state = kind().fit(*clicks(300)).to_dict()

        for field in state:
            with pytest.raises(ModelFormatError):
                kind.from_dict({key: value for key, value in state.items() if key != field})


class TestCurve:
    def test_the_figure_shows_before_and_after(self):
        p, y = clicks(5000)
        figure = SplineCalibrator().fit(p, y).plot_calibration_curve()

        assert [axis.get_title() for axis in figure.axes] == ["before calibration", "after calibration"]
        assert "spline" in figure.get_suptitle()
        figure.canvas.draw()

    def test_after_is_nearer_to_the_line(self):
        p, y = clicks(10_000)
        curve = SplineCalibrator().fit(p, y).curve_
        gap = [np.abs(np.subtract(c.predicted, c.observed)).mean() for c in (curve.before, curve.after)]

        assert gap[1] < gap[0] / 3
        assert sum(curve.before.impressions) == 10_000

    def test_a_class_is_drawn_by_its_number(self):
        said, label = classes(800)
        calibrator = BetaCalibrator().fit(said, label)

        assert len(calibrator.plot_calibration_curve(column=3).axes) == 2
        with pytest.raises(InputError, match="column"):
            calibrator.plot_calibration_curve(column=4)


class TestMisuse:
    @each_kind
    def test_unfitted_use_is_refused(self, kind):
        for use in (lambda c: c.transform([0.1]), lambda c: c.to_dict(), lambda c: c.plot_calibration_curve()):
            with pytest.raises(NotFittedError, match="call fit"):
                use(kind())

    @pytest.mark.parametrize(
        ("y_pred", "y_true", "weight", "message"),
        [
            ([0.1, 0.2], [0.1], None, r"one shape \(n,\)"),
            ([0.1, 1.2], [0.0, 1.0], None, r"y_pred must be in \[0, 1\]"),
            ([0.1, 0.2], [0.0, 2.0], None, r"y_true must be in \[0, 1\]"),
            ([0.1, np.nan], [0.0, 1.0], None, "y_pred"),
            ([0.1, 0.2], [0.0, 1.0], [1, -1], "not negative"),
            ([0.1, 0.2], [0.0, 1.0], [1, np.nan], "finite"),
            ([0.1, 0.2], [0.0, 1.0], [0, 0], "all 2 weights are zero"),
            ([[[0.1]]], [0.0], None, "shape"),
        ],
    )
    @each_kind
    def test_bad_rows_are_refused(self, kind, y_pred, y_true, weight, message):
        with pytest.raises(InputError, match=message):
            kind().fit(y_pred, y_true, weight)

    def test_periods_of_another_length_are_refused(self):
        with pytest.raises(InputError, match="periods must have the shape"):
            SplineCalibrator().fit([0.1, 0.2], [0.0, 1.0], periods=[1])

    @pytest.mark.parametrize("arguments", [{"regularization": 0}, {"min_slope": 0}, {"out_of_range": "wrap"}])
    @each_kind
    def test_impossible_arguments_are_refused(self, kind, arguments):
        with pytest.raises(InputError, match=next(iter(arguments))):
            kind(**arguments).fit([0.1], [0.1])

    def test_no_rows_are_no_calibration_and_it_says_so(self, caplog):
        with caplog.at_level(logging.WARNING):
            calibrator = SplineCalibrator().fit([], [])

        assert calibrator.method_ is CalibrationMethod.IDENTITY
        assert calibrator.transform([0.2]) == pytest.approx([0.2])
        assert "no rows" in caplog.text


class FirstColumn(TransformerMixin, BaseEstimator):
    """A calibrator of the first column of any numbers, with any targets squeezed into rates.

    The calibrators declare one-dimensional input, as isotonic regression does, and scikit-learn has no checks for that;
    so its checks for tables run on this.
    """

    def __init__(self, *, calibrator=None):
        self.calibrator = calibrator

    def fit(self, X, y=None, sample_weight=None):
        if y is None:
            raise ValueError("FirstColumn requires y to be passed, but the target y is None.")
        X, y = validate_data(self, X, y, y_numeric=True, dtype=float)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=float)
        self.calibrator_ = clone(self.calibrator).fit(expit(X[:, 0]), expit(y), sample_weight)
        return self

    def transform(self, X):
        check_is_fitted(self)
        return self.calibrator_.transform(expit(validate_data(self, X, reset=False, dtype=float)[:, 0]))


# A row of weight 2 is two rows only where rows differ by no more than chance.
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([FirstColumn(calibrator=kind(overdispersion=False)) for kind in KINDS])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@each_kind
def test_it_declares_one_dimension_as_isotonic_regression_does(kind):
    tags = kind().__sklearn_tags__().input_tags

    assert tags.one_d_array
    assert not tags.two_d_array
    assert clone(kind(min_slope=0.2)).get_params()["min_slope"] == 0.2
