"""CalibratedEnsemble: the log-loss-optimal pool, robust rules, members that come and go, state as JSON."""

import json
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from within_ml.ensemble import AggregationMethod, CalibratedEnsemble, CalibrationMethod, simplex_weights
from within_ml.ensemble.fitting import PoolRecipe, pool_gain
from within_ml.ensemble.pooling import LogOddsLine, log_odds, pool
from within_ml.ensemble.weights import PULL, mixture_weights
from within_ml.errors import InputError, ModelFormatError
from within_ml.metrics import log_loss
from within_ml.models.boosted import BoostedRate
from within_ml.models.dynamic_linear import DynamicLinear
from within_ml.models.row_encoding import RowEncoder

RECIPE = PoolRecipe(AggregationMethod.LOG_ODDS, CalibrationMethod.TEMPERATURE)


class Known:
    """A member that sees the truth, column 0 of X, with an error of its own, column ``column``."""

    def __init__(self, column, size=1.0, shift=0.0, slope=1.0):
        self.column, self.size, self.shift, self.slope = column, size, shift, slope

    def predict(self, X):
        return expit(self.shift + self.slope * (X[:, 0] + self.size * X[:, self.column]))


class Random:
    """A poisoned member: scores that know nothing."""

    def predict(self, X):
        return np.random.default_rng(len(X)).random(len(X))


def rows(n=20_000, seed=0, impressions=200):
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.normal(-3, 0.7, n), rng.normal(size=(n, 4))])
    return X, rng.binomial(impressions, expit(X[:, 0])) / impressions, np.full(n, float(impressions))


def loss_of(ensemble, seed=1):
    X, y, w = rows(seed=seed)
    return log_loss(y, ensemble.predict(X), sample_weight=w)


def members():
    return {"sharp": Known(1, 0.3), "blunt": Known(2, 0.6), "other": Known(3, 0.6)}


class TestSimplexWeights:
    def test_two_members_are_weighed_as_a_search_over_the_line_does(self):
        X, y, w = rows()
        margins = np.column_stack(
            [m.slope * (X[:, 0] + m.size * X[:, m.column]) for m in (Known(1, 0.3), Known(2, 0.5))]
        )
        found = simplex_weights(margins, y, w)

        def loss(a):
            return log_loss(y, expit(margins @ [a, 1 - a]), sample_weight=w)

        best = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-8})
        assert found[0] == pytest.approx(best.x, abs=0.005)
        # Errors of variance .09 and .25, independent: the best linear estimator weighs by the inverse of the variance,
        # and the shape of the logistic loss changes little of it.
        assert found[0] == pytest.approx(0.25 / 0.34, abs=0.06)

    def test_it_is_the_optimum_of_what_it_says(self):
        X, y, w = rows(3000)
        margins = np.column_stack([X[:, 0] + s * X[:, k] for k, s in ((1, 0.4), (2, 0.5), (3, 0.6), (4, 3.0))])
        a = simplex_weights(margins, y, w)
        p = expit(margins @ a)
        dispersion = max(1.0, w @ (y - p) ** 2 / (p * (1 - p)).sum())
        gradient = margins.T @ (w / dispersion * (p - y)) + PULL * np.log(a)

        used = a > 1e-4
        assert a.sum() == pytest.approx(1.0)
        assert used[:3].all()
        assert np.ptp(gradient[used]) < 2e-3 * w.sum() / dispersion * 0.05

    def test_what_noise_could_have_done_leaves_equal_weights(self):
        X, y, w = rows(40, impressions=50)
        margins = np.column_stack([X[:, 0] + 0.3 * X[:, 1], X[:, 0] + 0.3 * X[:, 2]])

        assert simplex_weights(margins, y, w) == pytest.approx([0.5, 0.5], abs=0.25)
        assert simplex_weights(margins, y, w, pull=1e6) == pytest.approx([0.5, 0.5], abs=1e-3)
        assert simplex_weights(margins, y, np.zeros(40)).tolist() == [0.5, 0.5]

    def test_a_member_that_knows_nothing_weighs_nothing(self):
        X, y, w = rows()
        margins = np.column_stack([X[:, 0] + 0.2 * X[:, 1], 3 * X[:, 2]])

        assert simplex_weights(margins, y, w)[1] < 1e-3
        assert mixture_weights(expit(margins), y, w)[1] < 5e-3

    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10**6), k=st.integers(1, 6), n=st.integers(1, 60))
    def test_weights_are_weights_and_do_not_depend_on_the_order(self, seed, k, n):
        rng = np.random.default_rng(seed)
        margins, w = rng.normal(-2, 3, (n, k)), rng.integers(0, 500, n)
        y = rng.random(n)
        a = simplex_weights(margins, y, w)
        turned = simplex_weights(margins[:, ::-1], y, w)[::-1]

        assert (a >= 0).all()
        assert a.sum() == pytest.approx(1.0)
        assert turned == pytest.approx(a, abs=1e-3)

    @pytest.mark.parametrize(
        ("margins", "y", "w", "message"),
        [
            ([0.0, 1.0], [0, 1], None, "shape"),
            ([[0.0], [1.0]], [0.0], None, "shape"),
            ([[0.0], [np.inf]], [0, 1], None, "finite"),
            ([[0.0], [1.0]], [0, 2], None, r"\[0, 1\]"),
            ([[0.0], [1.0]], [0, 1], [1, -1], "not negative"),
        ],
    )
    def test_bad_input_is_refused(self, margins, y, w, message):
        with pytest.raises(InputError, match=message):
            simplex_weights(margins, y, w)


class TestLine:
    def test_it_takes_back_a_shift_and_a_temperature(self):
        X, y, w = rows()
        line = LogOddsLine.fit(1 + 2 * X[:, 0], y, w)

        assert (line.shift, line.slope) == pytest.approx((-0.5, 0.5), abs=0.02)

    def test_little_evidence_moves_it_little(self):
        line = LogOddsLine.fit(np.array([-2.0, -2.5]), np.array([0.0, 0.0]), np.ones(2))
        chance = LogOddsLine.fit(np.full(200, -2.0), np.full(200, expit(-2.0) * 1.02), np.full(200, 10.0))
        flat = LogOddsLine.fit(np.full(50, -2.0), np.full(50, 0.1), np.full(50, 100.0))

        assert line == chance == LogOddsLine()
        assert flat.slope == pytest.approx(1.0)
        assert expit(flat.apply(np.array([-2.0])))[0] == pytest.approx(0.1, abs=0.004)

    def test_a_claim_of_certainty_is_not_believed(self):
        X, y, w = rows()
        margin = np.where(np.arange(len(y)) % 50 == 0, -16.0, X[:, 0])
        line = LogOddsLine.fit(margin, y, w, reaches=(17.0, 6.0))

        assert line.apply(np.array([-16.0, -9.5])) == pytest.approx([line.shift + line.slope * line.low] * 2)
        assert line.low == pytest.approx(logit(np.average(y, weights=w)) - 6, abs=1e-4)
        assert line.slope > LogOddsLine.fit(margin, y, w).slope
        assert LogOddsLine.fit(X[:, 0], y, w, reaches=(17.0, 3.0)) == LogOddsLine.fit(X[:, 0], y, w)

    def test_order_is_never_turned_around(self):
        X, y, w = rows(2000)
        line = LogOddsLine.fit(-X[:, 0], y, w)

        assert line.slope == 0
        assert expit(line.apply(-X[:5, 0])) == pytest.approx(np.average(y, weights=w), rel=0.01)

    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 50), top=st.sampled_from([1, 1000, 10**7]))
    def test_it_is_finite_and_no_worse_than_nothing(self, seed, scale, top):
        rng = np.random.default_rng(seed)
        margin = np.clip(rng.normal(0, scale, 30), -16, 16)
        y, w = np.round(rng.random(30)), rng.integers(1, top + 1, 30).astype(float)
        line = LogOddsLine.fit(margin, y, w)

        after = line.apply(margin)
        assert np.isfinite(after).all()
        assert w @ (np.logaddexp(0, after) - y * after) <= w @ (np.logaddexp(0, margin) - y * margin) + 1e-6


class TestPool:
    margins = np.array([[-4.0, -3.0, -2.0, -1.0, 50.0]])

    @pytest.mark.parametrize(
        ("method", "expected"),
        [
            ("log_odds", 8.0),
            ("linear", logit((expit([-4.0, -3.0, -2.0, -1.0]).sum() + 1) / 5)),
            ("trimmed_mean", -2.0),
            ("median", -2.0),
        ],
    )
    def test_each_rule_on_one_row(self, method, expected):
        assert pool(self.margins, np.full(5, 0.2), AggregationMethod(method))[0] == pytest.approx(expected)

    @pytest.mark.parametrize("k", [1, 2])
    def test_nothing_is_trimmed_of_two(self, k):
        assert pool(self.margins[:, :k], np.full(k, 1 / k), AggregationMethod.TRIMMED_MEAN) == pytest.approx(
            self.margins[:, :k].mean()
        )


class TestEnsemble:
    @pytest.mark.parametrize("aggregation", list(AggregationMethod))
    @pytest.mark.parametrize("calibration", ["temperature", "spline"])
    def test_it_is_better_than_its_best_member(self, aggregation, calibration):
        ensemble = CalibratedEnsemble(members(), None, calibration, aggregation).calibrate(*rows())
        X, y, w = rows(seed=1)
        alone = [log_loss(y, m.predict(X), sample_weight=w) for m in members().values()]

        weighted = ensemble.get_model_weights()
        if AggregationMethod(aggregation).is_weighted:
            assert loss_of(ensemble) < min(alone)
            assert weighted["sharp"] > 2 * weighted["blunt"] > 0
        else:
            assert loss_of(ensemble) < sorted(alone)[1]
            assert set(weighted.values()) == {1 / 3}
        assert sum(weighted.values()) == pytest.approx(1.0)

    @pytest.mark.parametrize("aggregation", list(AggregationMethod))
    def test_a_poisoned_member_changes_next_to_nothing(self, aggregation):
        clean = CalibratedEnsemble(members(), aggregation_method=aggregation).calibrate(*rows())
        poisoned = CalibratedEnsemble({"poison": Random(), **members()}, aggregation_method=aggregation)

        assert loss_of(poisoned.calibrate(*rows())) == pytest.approx(loss_of(clean), rel=0.01)

    @pytest.mark.parametrize("aggregation", ["trimmed_mean", "median"])
    def test_robust_rules_hold_when_a_member_goes_wrong_later(self, aggregation):
        good = {f"m{k}": Known(k, 0.4) for k in (1, 2, 3, 4)}
        ensemble = CalibratedEnsemble(good, aggregation_method=aggregation).calibrate(*rows())
        before = loss_of(ensemble)
        ensemble.models_["m4"].shift = 9.0

        assert loss_of(ensemble) < before * 1.02

    def test_members_of_different_temperature_are_made_alike_first(self):
        loud = {"loud": Known(1, 0.4, shift=4.0, slope=3.0), "even": Known(2, 0.4)}
        ensemble = CalibratedEnsemble(loud).calibrate(*rows())
        plain = CalibratedEnsemble(loud, calibration_method="none").calibrate(*rows())

        assert ensemble.get_model_weights()["loud"] == pytest.approx(0.5, abs=0.05)
        assert loss_of(ensemble) < loss_of(plain)
        assert plain.pool_.lines == (LogOddsLine(), LogOddsLine())

    def test_given_weights_are_taken(self):
        ensemble = CalibratedEnsemble(members(), {"blunt": 3, "sharp": 1, "other": 0}).calibrate(*rows())

        assert dict(ensemble.get_model_weights()) == {"sharp": 0.25, "blunt": 0.75, "other": 0.0}
        with pytest.raises(TypeError):
            ensemble.get_model_weights()["sharp"] = 1

    def test_spread_tells_where_the_members_are_apart(self):
        X, y, w = rows()
        ensemble = CalibratedEnsemble({"a": Known(1, 0.4), "b": Known(2, 0.4)}).calibrate(X, y, w)
        error = np.abs(logit(ensemble.predict(X)) - X[:, 0])
        spread = ensemble.spread(X)

        assert (spread >= 0).all()
        assert np.corrcoef(spread, np.abs(X[:, 1] - X[:, 2]))[0, 1] > 0.99
        assert error[spread > np.median(spread)].mean() > 0.9 * error[spread <= np.median(spread)].mean()


class TestFallback:
    """Whether the pool, or the best member as it is, predicts."""

    alone: ClassVar = {"poison": Random(), "sharp": Known(1, 0.02), "blunt": Known(2, 1.5)}

    @staticmethod
    def few(seed=4):
        return rows(6000, seed, impressions=20)

    def test_chance_seldom_makes_a_pool(self):
        fallbacks = [CalibratedEnsemble(self.alone).calibrate(*self.few(seed)).fallback_ for seed in range(10)]

        assert set(fallbacks) <= {"sharp", None}
        assert fallbacks.count("sharp") >= 8

    @pytest.mark.parametrize("calibration", list(CalibrationMethod))
    @pytest.mark.parametrize("aggregation", ["log_odds", "linear"])
    def test_a_member_far_ahead_predicts_alone_as_it_is(self, aggregation, calibration, caplog):
        caplog.set_level("INFO")
        ensemble = CalibratedEnsemble(self.alone, None, calibration, aggregation).calibrate(*self.few())
        X, _, _ = rows(seed=1)

        assert ensemble.fallback_ == "sharp"
        assert "'sharp' predicts alone" in caplog.text
        assert dict(ensemble.get_model_weights()) == {"poison": 0.0, "sharp": 1.0, "blunt": 0.0}
        assert np.array_equal(ensemble.predict(X), self.alone["sharp"].predict(X))

    def test_members_that_know_different_things_are_pooled(self):
        ensemble = CalibratedEnsemble(members()).calibrate(*rows())

        assert ensemble.fallback_ is None
        assert min(ensemble.get_model_weights().values()) > 0

    def test_a_level_that_is_wrong_is_put_right(self):
        ensemble = CalibratedEnsemble({"one": Known(1, 0.02, shift=0.5)}).calibrate(*rows())

        assert ensemble.fallback_ is None
        assert loss_of(ensemble) < loss_of(Known(1, 0.02, shift=0.5))

    @pytest.mark.parametrize(("weights", "aggregation"), [({"sharp": 1, "poison": 0, "blunt": 0}, "log_odds"),
                                                          (None, "median"), (None, "trimmed_mean")])  # fmt: skip
    def test_weights_that_are_not_fitted_stay(self, weights, aggregation):
        ensemble = CalibratedEnsemble(self.alone, weights, aggregation_method=aggregation).calibrate(*rows(2000))

        assert ensemble.fallback_ is None

    def test_spread_is_the_pools(self):
        X, y, w = self.few()
        ensemble = CalibratedEnsemble(self.alone).calibrate(X, y, w)
        lined = ensemble.pool_.lined(log_odds(np.column_stack([m.predict(X) for m in self.alone.values()])))
        mean = lined @ ensemble.pool_.weights

        assert ensemble.fallback_ == "sharp"
        assert ensemble.spread(X) == pytest.approx(np.sqrt((lined - mean[:, None]) ** 2 @ ensemble.pool_.weights))

    def test_its_state_is_kept_and_a_change_of_members_ends_it(self, caplog):
        X, y, w = self.few()
        ensemble = CalibratedEnsemble(self.alone).calibrate(X, y, w)
        state = json.loads(json.dumps(ensemble.to_dict()))
        again = CalibratedEnsemble.from_dict(state, self.alone)

        assert np.array_equal(again.predict(X), ensemble.predict(X))
        assert again.to_dict() == state
        assert ensemble.remove_model("blunt").fallback_ == "sharp"
        assert again.remove_model("sharp").fallback_ is None
        with pytest.raises(ModelFormatError, match="nobody"):
            CalibratedEnsemble.from_dict({**state, "fallback": "nobody"}, self.alone)

    def test_the_gain_is_what_the_truth_says_it_is(self):
        X, y, w = rows()
        margin = X[:, :1] + 0.2
        gain = pool_gain(RECIPE, margin, y, w)
        p, q = expit(X[:, 0]), expit(margin[:, 0])
        divergence = w @ (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))

        assert gain.is_sure
        assert gain.total == pytest.approx(divergence, abs=3 * gain.error)
        # Of one row: w² Var(y) (log-odds of the truth less the member's)².
        assert gain.error == pytest.approx(np.sqrt(w @ (p * (1 - p)) * 0.2**2), rel=0.05)

    def test_a_member_that_knows_nothing_does_not_change_the_gain(self):
        X, y, w = self.few()
        margins = log_odds(np.column_stack([m.predict(X) for m in members().values()]))
        poisoned = np.column_stack([log_odds(Random().predict(X)), margins])
        gain, again = pool_gain(RECIPE, margins, y, w), pool_gain(RECIPE, poisoned, y, w)

        assert (again.total, again.error, again.member) == (gain.total, gain.error, gain.member + 1)

    def test_rows_without_weight_tell_nothing_and_a_few_tell_too_little(self):
        X, y, w = rows(300)
        margins = log_odds(np.column_stack([m.predict(X) for m in members().values()]))
        silent = np.concatenate([w, np.zeros(100)])
        again = pool_gain(RECIPE, np.vstack([margins, 9 * margins[:100]]), np.concatenate([y, 1 - y[:100]]), silent)

        assert again == pool_gain(RECIPE, margins, y, w)
        assert pool_gain(RECIPE, margins[:9], y[:9], w[:9]) is None
        assert CalibratedEnsemble(members()).calibrate(X[:9], y[:9]).fallback_ is None


class TestMembersComeAndGo:
    @pytest.fixture
    def ensemble(self):
        return CalibratedEnsemble(members()).calibrate(*rows())

    def test_one_added_is_like_one_that_was_there(self, ensemble):
        ensemble.remove_model("sharp")
        without = loss_of(ensemble)
        ensemble.add_model("sharp", members()["sharp"])
        order = ["blunt", "other", "sharp"]
        whole = CalibratedEnsemble({name: members()[name] for name in order}).calibrate(*rows())

        assert list(ensemble.get_model_weights()) == order
        assert ensemble.get_model_weights() == whole.get_model_weights()
        assert loss_of(ensemble) == loss_of(whole) < without
        assert list(ensemble.base_models) == order

    def test_without_rows_weights_are_scaled_and_it_is_said(self, ensemble, caplog):
        again = CalibratedEnsemble.from_dict(ensemble.to_dict(), members())
        before = again.get_model_weights()
        again.add_model("late", Known(4, 0.5))
        grown = again.get_model_weights()
        again.remove_model("late")

        assert "call calibrate" in caplog.text
        assert grown["late"] == 0.25
        assert grown["sharp"] / grown["blunt"] == pytest.approx(before["sharp"] / before["blunt"])
        assert dict(again.get_model_weights()) == pytest.approx(dict(before))

    def test_given_weights_make_room(self):
        ensemble = CalibratedEnsemble(members(), {"sharp": 2, "blunt": 1, "other": 1}).calibrate(*rows())
        ensemble.add_model("late", Known(4, 0.5))

        assert list(ensemble.get_model_weights().values()) == pytest.approx([0.375, 0.1875, 0.1875, 0.25])
        assert list(ensemble.remove_model("late").get_model_weights().values()) == pytest.approx([0.5, 0.25, 0.25])

    def test_names_must_make_sense(self, ensemble):
        with pytest.raises(InputError, match="'sharp'; remove it first"):
            ensemble.add_model("sharp", Known(1))
        with pytest.raises(InputError, match="'nobody'"):
            ensemble.remove_model("nobody")
        ensemble.remove_model("blunt").remove_model("other")
        with pytest.raises(InputError, match="several members"):
            ensemble.remove_model("sharp")


def people(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"a": rng.normal(size=n), "b": rng.integers(0, 3, n).astype(float), "noise": rng.normal(size=n)})
    return X, rng.binomial(1, expit(-1 + X["a"] + (X["b"] == 2))).astype(float)


def real_members():
    return {
        "boosted": BoostedRate(n_estimators=50, n_threads=1, min_child_weight=5),
        "linear": DynamicLinear(alpha=0.3),
        "logistic": LogisticRegression(),
        "forest": RandomForestClassifier(30, min_samples_leaf=10, random_state=0),
        "neighbours": KNeighborsClassifier(30),
    }


@pytest.fixture(scope="module")
def fitted():
    return CalibratedEnsemble(real_members()).fit(*people())


class TestFit:
    def test_real_models_of_all_kinds(self, fitted):
        X, y = people(20_000, seed=1)
        alone = [
            log_loss(y, m.predict_proba(X)[:, 1] if hasattr(m, "predict_proba") else m.predict(X))
            for m in fitted.models_.values()
        ]

        assert log_loss(y, fitted.predict(X)) < min(alone) * 1.01
        assert fitted.spread(X).shape == (20_000,)

    def test_the_last_rows_calibrate_and_do_not_fit(self):
        X, y = people(1000)
        shares = CalibratedEnsemble({"one": DynamicLinear()}, calibration_share=0.3).fit(X, y)
        told = CalibratedEnsemble({"one": DynamicLinear()}).fit(X[:700], y[:700], calibration=(X[700:], y[700:], None))

        assert np.array_equal(shares.predict(X), told.predict(X))
        assert np.array_equal(shares.models_["one"].predict(X), DynamicLinear().fit(X[:700], y[:700]).predict(X))

    def test_models_that_were_given_stay_unfitted(self, fitted):
        assert not hasattr(fitted.base_models["linear"], "accumulators_")
        assert fitted.models_["linear"] is not fitted.base_models["linear"]

    def test_a_classifier_is_fitted_on_rates(self):
        X, y = people(2000)
        rate = np.round(0.1 + 0.5 * y, 1)
        w = np.full(2000, 40.0)
        p = CalibratedEnsemble({"tree": DecisionTreeClassifier(max_depth=4, random_state=0)}).fit(X, rate, w).predict(X)

        assert p.mean() == pytest.approx(rate.mean(), abs=0.02)

    def test_the_last_step_of_a_pipeline_gets_the_weights(self):
        X, _ = people(4000)
        y, w = np.where(np.arange(4000) % 2, 0.1, 0.3), np.where(np.arange(4000) % 2, 3000.0, 1000.0)
        encoded = make_pipeline(RowEncoder(16), DynamicLinear())
        p = CalibratedEnsemble({"one": encoded}, calibration_method="none").fit(X, y, w).predict(X)

        assert p.mean() == pytest.approx(0.15, abs=0.01)

    def test_inputs_stay_as_they_were(self):
        X, y = people(600)
        before = X.copy(), y.copy()
        model = CalibratedEnsemble({"trees": BoostedRate(n_estimators=5, n_threads=1)}).fit(X, y)
        again = CalibratedEnsemble({"trees": BoostedRate(n_estimators=5, n_threads=1)}).fit(X, y)

        assert np.array_equal(model.predict(X), again.predict(X))
        pd.testing.assert_frame_equal(X, before[0])
        assert np.array_equal(y, before[1])

    def test_an_empty_day_and_one_row(self, fitted):
        X, _ = people(5)

        assert fitted.predict(X[:0]).shape == fitted.spread(X[:0]).shape == (0,)
        assert fitted.predict(X[:1]) == pytest.approx(fitted.predict(X)[:1])


@pytest.mark.parametrize("calibration", list(CalibrationMethod))
def test_it_survives_saving_into_a_fresh_process(tmp_path, calibration):
    X, y = people(3000)
    models = {"trees": BoostedRate(n_estimators=20, n_threads=1), "linear": DynamicLinear()}
    ensemble = CalibratedEnsemble(models, None, calibration).fit(X, y)
    for name, model in ensemble.models_.items():
        (tmp_path / name).mkdir()
        model.save(tmp_path / name)
    (tmp_path / "ensemble.json").write_text(json.dumps(ensemble.to_dict()))
    X.to_parquet(tmp_path / "X.parquet")
    np.save(tmp_path / "p.npy", ensemble.predict(X))
    script = f"""
import json, pathlib, numpy as np, pandas as pd
from within_ml.ensemble import CalibratedEnsemble
from within_ml.models.boosted import BoostedRate
from within_ml.models.dynamic_linear import DynamicLinear
folder = pathlib.Path({str(tmp_path)!r})
members = {{"trees": BoostedRate.load(folder / "trees"), "linear": DynamicLinear.load(folder / "linear")}}
again = CalibratedEnsemble.from_dict(json.loads((folder / "ensemble.json").read_text()), members)
assert np.array_equal(again.predict(pd.read_parquet(folder / "X.parquet")), np.load(folder / "p.npy"))
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("missing", ["weights", "lines", "calibrator", "fallback", "members"])
def test_a_damaged_state_is_refused(missing):
    state = CalibratedEnsemble(members()).calibrate(*rows(500)).to_dict()
    with pytest.raises(ModelFormatError, match="not as it was saved"):
        CalibratedEnsemble.from_dict({key: value for key, value in state.items() if key != missing}, members())
    with pytest.raises(ModelFormatError, match="blunt"):
        CalibratedEnsemble.from_dict(state, {"sharp": Known(1)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_models": {}}, "base_models"),
        ({"base_models": [Known(1)]}, "base_models"),
        ({"calibration_method": "isotonic"}, "calibration_method"),
        ({"aggregation_method": "vote"}, "aggregation_method"),
        ({"calibration_share": 1.0}, "calibration_share"),
        ({"weights": {"sharp": 1}}, "weights"),
        ({"weights": {"sharp": 0, "blunt": 0, "other": 0}}, "weights"),
        ({"weights": {"sharp": -1, "blunt": 1, "other": 1}}, "weights"),
    ],
)
def test_bad_parameters_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        CalibratedEnsemble(**{"base_models": members(), **settings}).calibrate(*rows(100))


@pytest.mark.parametrize(
    ("y", "w", "message"),
    [
        ([0.1, 1.5], None, r"y must hold rates in \[0, 1\]"),
        ([0.1], None, "one rate for each of 2 rows"),
        ([0.1, 0.2], [1.0], "one weight for each of 2 rows"),
        ([0.1, 0.2], [0, 0], "zero in all 2 rows"),
        ([0.1, 0.2], [1, -1], "not negative"),
        ([0.1, 0.2], [1, np.nan], "finite"),
        (None, None, "y to be passed"),
    ],
)
def test_bad_input_is_refused(y, w, message):
    with pytest.raises(InputError, match=message):
        CalibratedEnsemble(members()).calibrate(np.zeros((2, 5)), y, w)


def test_misuse_is_refused():
    class Wrong:
        def predict(self, X):
            return np.full(len(X), 2.0)

    with pytest.raises(InputError, match="Member 'wrong' must predict rates"):
        CalibratedEnsemble({"wrong": Wrong()}).calibrate(*rows(10))
    with pytest.raises(NotFittedError):
        CalibratedEnsemble(members()).predict(np.zeros((2, 5)))
    with pytest.raises(NotFittedError):
        CalibratedEnsemble({"one": DynamicLinear()}).calibrate(*rows(10))
    with pytest.raises(InputError, match="n_samples = 1"):
        CalibratedEnsemble({"one": DynamicLinear()}).fit([[0.0]], [0.5])


class UnitTarget(CalibratedEnsemble):
    """Squeezes any number into [0, 1], since scikit-learn's checks use targets that are no rates."""

    def fit(self, X, y, sample_weight=None):
        if y is not None and np.asarray(y).dtype.kind in "fiuO":
            numbers = np.asarray(y).astype(float)
            y = expit(numbers) if np.isfinite(numbers).all() else numbers
        return super().fit(X, y, sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags


SPLIT = "which rows calibrate depends on their number: a row of weight 2 is one row, not two"
EXCEPTIONS = {f"check_sample_weight_equivalence_on_{kind}_data": SPLIT for kind in ("dense", "sparse")}
TREES = {f"depth {depth}": DecisionTreeRegressor(max_depth=depth, random_state=0) for depth in (1, 3)}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([UnitTarget(TREES)], expected_failed_checks=lambda estimator: EXCEPTIONS)
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def test_a_neighbour_that_is_never_wrong_stays_finite():
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
