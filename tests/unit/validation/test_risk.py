"""Evaluation of risks; expected numbers are scikit-learn's, statsmodels-free hand calculations, or planted truth."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from within_ml.errors import InputError, NotFittedError
from within_ml.validation.gate import PromotionGate, joined
from within_ml.validation.risk import (
    RISK_CRITERIA,
    OneFeatureLogit,
    calibration_slope,
    cross_fitted_risk_baselines,
    evaluate_risk,
    fit_risk_baselines,
)


def planted(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    risk = rng.beta(1, 6, n)
    return risk, (rng.random(n) < risk).astype(float), np.arange(n) // 10


def test_numbers_are_those_of_scikit_learn():
    risk, left, accounts = planted()
    judged = evaluate_risk(risk, {}, left, accounts).model
    assert judged.log_loss.value == pytest.approx(log_loss(left, risk))
    assert judged.brier == pytest.approx(brier_score_loss(left, risk))
    assert judged.auc == pytest.approx(roc_auc_score(left, risk))
    assert judged.average_precision == pytest.approx(average_precision_score(left, risk))
    assert judged.log_loss.lower < judged.log_loss.value < judged.log_loss.upper


@pytest.mark.parametrize(("factor", "slope"), [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0)])
def test_the_slope_says_how_much_too_extreme_predictions_are(factor, slope):
    risk, left, _ = planted(40_000)
    distorted = 1 / (1 + np.exp(-factor * np.log(risk / (1 - risk))))
    assert calibration_slope(left, distorted) == pytest.approx(slope, rel=0.06)


def test_a_report_is_flat_for_the_registry_and_json_for_people():
    risk, left, accounts = planted(400)
    report = evaluate_risk(risk, {"global_rate": np.full(400, left.mean())}, left, accounts, n_bootstrap=100)
    assert report.metrics()["test_auc"] == report.model.auc
    assert "global_rate_calibration_slope" not in report.metrics()
    told = json.loads(report.to_json())
    assert told["baselines"]["global_rate"]["calibration_slope"] is None
    assert told["n_accounts"] == 40
    assert report.to_markdown().count("\n") == 3


def test_one_outcome_only_has_no_ranking_and_no_rows_are_refused():
    report = evaluate_risk([0.1, 0.2], {}, [0, 0], ["a", "b"], n_bootstrap=10)
    assert math.isnan(report.model.auc)
    assert math.isnan(report.model.calibration_slope)
    with pytest.raises(InputError, match="at least one row"):
        evaluate_risk([], {}, [], [])


def test_the_baseline_of_one_feature_finds_a_planted_rule_and_lives_with_gaps():
    rng = np.random.default_rng(3)
    trend = rng.normal(size=4000)
    left = rng.random(4000) < 1 / (1 + np.exp(2 + 1.5 * trend))
    X = pd.DataFrame({"trend": np.where(rng.random(4000) < 0.1, np.nan, trend)})
    baselines = fit_risk_baselines(X, left, feature="trend")
    p = baselines["trend_logit"].predict(pd.DataFrame({"trend": [-2.0, 0.0, 2.0, np.nan]}))
    assert p[:3] == pytest.approx([0.73, 0.12, 0.007], abs=0.06)
    assert p[0] > p[3] > p[2]
    assert OneFeatureLogit("trend").fit(X, np.zeros(4000)).predict(X[:2]).tolist() == [0.0, 0.0]
    with pytest.raises(NotFittedError):
        OneFeatureLogit("trend").predict(X)


def test_the_gate_speaks_of_accounts():
    risk, left, accounts = planted(600)
    gate = PromotionGate(RISK_CRITERIA)
    level = np.full(600, left.mean())
    decision = gate.decide(risk, None, {"global_rate": level}, left, np.ones(600), accounts)
    assert decision.approved
    assert "log-loss per account-week" in decision.reasons[0]
    few = gate.decide(risk[:20], None, {}, left[:20], np.ones(20), accounts[:20])
    assert not few.approved
    assert any("Too few accounts to decide" in reason for reason in few.reasons)


def test_cross_fitted_baselines_have_not_seen_the_account():
    left = np.array([1.0] * 10 + [0.0] * 90)
    accounts = np.repeat(np.arange(10), 10)
    X = pd.DataFrame({"trend": np.zeros(100)})
    p = cross_fitted_risk_baselines(X, left, accounts, feature="trend", folds=10)["global_rate"]
    assert set(p[:10].round(9)) == {0.0}
    assert p[10:] == pytest.approx(np.full(90, 1 / 9))


def test_a_challenger_needs_every_decision():
    risk, left, accounts = planted(600)
    gate = PromotionGate(RISK_CRITERIA)
    good = gate.decide(risk, None, {"global_rate": np.full(600, left.mean())}, left, np.ones(600), accounts)
    few = gate.decide(risk[:20], risk[:20], {}, left[:20], np.ones(20), accounts[:20])
    both = joined([few, good])
    assert (good.approved, few.approved, both.approved) == (True, False, False)
    assert both.reasons == few.reasons
    assert both.n_rows == 600
    assert joined([good, good]).approved
