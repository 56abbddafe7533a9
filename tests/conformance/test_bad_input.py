"""What every estimator says of input that cannot be right: the argument, the rule, and what came.

The estimators are in `cases`. Each message is searched for the argument's name and for what was given.
"""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from within_ml.ad_score import AdScorePredictor
from within_ml.errors import InputError, NotFittedError

_spec = importlib.util.spec_from_file_location("conformance_cases", Path(__file__).with_name("cases.py"))
cases = sys.modules.setdefault(_spec.name, importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(cases)

ALL = list(cases.CASES)
TARGET, WEIGHT = r"\b(y|y_true|ctr)\b", r"\b(sample_weight|impressions)\b"


def at(values, row, value):
    changed = values.astype(float)
    changed[row] = value
    return changed


TARGETS = {
    "above 1": (lambda y: at(y, 5, 1.5), r"1\.5"),
    "below 0": (lambda y: at(y, 5, -0.25), r"-0\.25"),
    "NaN": (lambda y: at(y, 5, np.nan), r"(?i)nan"),
    "one too few": (lambda y: y[:-1], "319"),
    "two columns": (lambda y: np.column_stack([y, y, y]), r"\(320, 3\)"),
}
WEIGHTS = {
    "all zero": (np.zeros_like, "zero"),
    "one negative": (lambda w: at(w, 5, -7.0), r"-7\.0"),
    "one NaN": (lambda w: at(w, 5, np.nan), r"(?i)nan"),
    "one infinite": (lambda w: at(w, 5, np.inf), r"(?i)inf"),
    "one too few": (lambda w: w[:-1], "319"),
    "two columns": (lambda w: np.column_stack([w, w, w]), r"\(320, 3\)"),
}


def assert_said(error, argument, came):
    message = str(error.value)
    assert re.search(argument, message), message
    assert re.search(came, message), message
    assert len(message) > 40


@pytest.mark.parametrize("defect", TARGETS)
@pytest.mark.parametrize("name", [name for name in ALL if cases.CASES[name].takes_y])
def test_targets_that_are_no_rates_of_the_rows(name, defect):
    case, (X, y, w) = cases.CASES[name], cases.rows()
    change, came = TARGETS[defect]
    with pytest.raises(InputError) as error:
        case.fit(case.make(), X, change(y), w)

    assert_said(error, TARGET, came)


@pytest.mark.parametrize("defect", WEIGHTS)
@pytest.mark.parametrize("name", [name for name in ALL if cases.CASES[name].takes_weight])
def test_weights_that_are_no_impressions_of_the_rows(name, defect):
    case, (X, y, w) = cases.CASES[name], cases.rows()
    change, came = WEIGHTS[defect]
    with pytest.raises(InputError) as error:
        case.fit(case.make(), X, y, change(w))

    assert_said(error, WEIGHT, came)


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_fitted_neither_answers_nor_saves(name, tmp_path):
    case, (X, _, _) = cases.CASES[name], cases.rows()
    with pytest.raises(NotFittedError, match="fit"):
        case.apply(case.make(), X)
    with pytest.raises(NotFittedError, match="fit"):
        case.save(case.make(), tmp_path)


X, Y, W = cases.rows()
P, SHORT = X["prior_ctr"].to_numpy(copy=True), X[:-1]
MISSHAPED = {
    "groups of HierarchicalCalibrator.fit": (
        lambda: cases.HierarchicalCalibrator(cases.LEVELS).fit(P, Y, SHORT, W),
        ("groups", "319", "320"),
    ),
    "levels of HierarchicalCalibrator.fit": (
        lambda: cases.HierarchicalCalibrator(cases.LEVELS).fit(P, Y, np.zeros((320, 3)), W),
        ("groups", r"\(n, 4\)", r"\(320, 3\)"),
    ),
    "column of HierarchicalCalibrator.fit": (
        lambda: cases.HierarchicalCalibrator(cases.LEVELS).fit(P, Y, X.drop(columns="ad_id"), W),
        ("groups", "hierarchy_levels", "ad_id"),
    ),
    "regions of GeospatialCalibrator.fit": (
        lambda: cases.GeospatialCalibrator().fit(P, Y, X["region"][:-1], W, region_table=cases.REGIONS),
        ("regions", r"\(320,\)", r"\(319,\)"),
    ),
    "groups of RateIntervals.fit": (
        lambda: cases.RateIntervals().fit(P, Y, W, X["account_id"][:-1]),
        ("groups", r"\(320,\)", r"\(319,\)"),
    ),
    "groups of TextScore.fit": (
        lambda: cases.TextScore().fit(X, Y, sample_weight=W, groups=X["campaign_id"][:-1]),
        ("groups", "320", r"\(319,\)"),
    ),
    "keys of SimilarAds.fit": (
        lambda: cases.SimilarAds().fit(X["headline"].tolist(), Y, W, SHORT, X["date"]),
        ("keys", "320", "319"),
    ),
    "dates of SimilarAds.fit": (
        lambda: cases.SimilarAds().fit(X["headline"].tolist(), Y, W, X, X["date"][:-1]),
        ("dates", "320", "319"),
    ),
    "y_pred of SplineCalibrator.fit": (
        lambda: cases.SplineCalibrator().fit(P[:-1], Y, W),
        ("y_p", r"\(320,\)", r"\(319,\)"),
    ),
    "y_pred outside of [0, 1]": (
        lambda: cases.SplineCalibrator().fit(P + 2, Y, W),
        ("y_pr", r"\[0, 1\]", r"2\.0"),
    ),
    **{
        f"X of {kind.__name__}.fit": (lambda kind=kind: kind().fit(P, Y, W), ("X|1D|2D", "320|1D"))
        for kind in (cases.BoostedRate, cases.NetworkRate, cases.DynamicLinear)
    },
    "X of CalibratedEnsemble.fit": (lambda: cases.CASES["CalibratedEnsemble"].make().fit(P, Y, W), ("X", r"\(320,\)")),
    "infinite X of BoostedRate.fit": (lambda: cases.BoostedRate().fit(np.full((320, 2), np.inf), Y, W), ("X", "inf")),
    "infinite X of NetworkRate.fit": (lambda: cases.NetworkRate().fit(np.full((320, 2), np.inf), Y, W), ("X", "inf")),
    "infinite X of DynamicLinear.fit": (
        lambda: cases.DynamicLinear().fit(np.full((320, 2), np.inf), Y, W),
        ("X", "inf"),
    ),
    "text in X of BoostedRate.fit": (
        lambda: cases.BoostedRate().fit(X[["headline"]], Y, W),
        ("X", "Great|Dull"),
    ),
    "base_margin of BoostedRate.fit": (
        lambda: cases.BoostedRate().fit(X[cases.NUMBERS], Y, W, base_margin=P[:-1]),
        ("base_margin", r"\(320,\)", r"\(319,\)"),
    ),
    "offset of DynamicLinear.fit": (
        lambda: cases.DynamicLinear().fit(X[cases.NUMBERS], Y, W, offset=P[:-1]),
        ("offset", r"\(320,\)", r"\(319,\)"),
    ),
    "n_features of DynamicLinear": (
        lambda: cases.DynamicLinear(n_features=9).fit(X[cases.NUMBERS], Y, W),
        ("n_features", "9", r"\(320, 4\)"),
    ),
    "type of AdScorePredictor": (
        lambda: AdScorePredictor(model_type="forest"),
        ("model_type", "'ensemble', 'linear', 'nn'", "'forest'"),
    ),
    "column of AdScorePredictor.fit": (
        lambda: AdScorePredictor().fit(X.drop(columns="campaign_id"), Y, sample_weight=W),
        ("columns", "campaign_id"),
    ),
    "frame of AdScorePredictor.fit": (
        lambda: AdScorePredictor().fit(X[cases.NUMBERS].to_numpy(), Y, sample_weight=W),
        ("X", "DataFrame", "ndarray"),
    ),
}


@pytest.mark.parametrize("name", MISSHAPED)
def test_arguments_that_do_not_fit_each_other(name):
    call, said = MISSHAPED[name]
    with pytest.raises(InputError) as error:
        call()

    for part in said:
        assert_said(error, part, part)


CHOICES = {
    "calibration_method of HierarchicalCalibrator": lambda value: cases.HierarchicalCalibrator(
        cases.LEVELS, calibration_method=value
    ).fit(P, Y, X, W),
    "geo_level": lambda value: cases.GeospatialCalibrator(value).fit(P, Y, X["region"], W, region_table=cases.REGIONS),
    "fallback_strategy": lambda value: cases.GeospatialCalibrator(fallback_strategy=value).fit(
        P, Y, X["region"], W, region_table=cases.REGIONS
    ),
    "calibration_method of CalibratedEnsemble": lambda value: cases.CalibratedEnsemble(
        {"one": cases.BoostedRate()}, calibration_method=value
    ).fit(X[cases.NUMBERS], Y, W),
    "aggregation_method": lambda value: cases.CalibratedEnsemble(
        {"one": cases.BoostedRate()}, aggregation_method=value
    ).fit(X[cases.NUMBERS], Y, W),
    "knot_spacing": lambda value: cases.SplineCalibrator(knot_spacing=value).fit(P, Y, W),
    "out_of_range": lambda value: cases.BetaCalibrator(out_of_range=value).fit(P, Y, W),
    "text_model": lambda value: cases.MultiModalFeatureExtractor(text_model=value).fit(X, Y, W),
    "image_model": lambda value: cases.MultiModalFeatureExtractor(image_model=value).fit(X, Y, W),
    "selection": lambda value: cases.MultiModalFeatureExtractor(selection=value).fit(X, Y, W),
    "noise_type": lambda value: cases.NetworkRate(enable_quantum_noise=True, noise_type=value).fit(
        X[cases.NUMBERS], Y, W
    ),
    "annealing_schedule": lambda value: cases.NetworkRate(enable_quantum_noise=True, annealing_schedule=value).fit(
        X[cases.NUMBERS], Y, W
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_there_is_not(name):
    with pytest.raises(InputError) as error:
        CHOICES[name]("tarot")

    assert_said(error, name.split(maxsplit=1)[0], "tarot")
