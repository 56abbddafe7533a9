"""The ad score on an agency whose truth is known, and on the awkward ones."""

import importlib.util
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from within_ml.ad_score import AdScoreConfig, AdScorePredictor
from within_ml.base import ModelType
from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.metrics import calibration_ratio, log_loss

_spec = importlib.util.spec_from_file_location("agency_rows", Path(__file__).with_name("conftest.py"))
_rows = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_rows)
agency, labels = _rows.agency, _rows.labels

QUICK = {"n_estimators": 30, "learning_rate": 0.1, "n_threads": 1}


def fitted_on(frame, config=None, **options):
    y, w = labels(frame)
    rows = frame.drop(columns="true_ctr", errors="ignore")
    return AdScorePredictor({**QUICK, **(config or {})}, **options).fit(rows, y, sample_weight=w)


@pytest.fixture(scope="module")
def model(training_rows):
    return fitted_on(training_rows)


@pytest.fixture(scope="module")
def later():
    """The weeks after the training rows, of the same agency."""
    return agency(n_weeks=40).query("date > '2024-08-04'")


def test_later_clicks_are_predicted_nearly_as_by_the_truth(model, later):
    y, w = labels(later)
    p = model.predict(later)

    assert log_loss(y, p, sample_weight=w) < 1.02 * log_loss(y, later["true_ctr"], sample_weight=w)
    assert log_loss(y, p, sample_weight=w) < log_loss(y, later["prior_ctr"], sample_weight=w)
    assert 0.9 < calibration_ratio(y, p, sample_weight=w) < 1.1


def test_the_better_text_of_a_campaign_scores_higher(model, later):
    new = later.assign(ad_impressions_28d=0.0, prior_impressions=0.0, prior_ctr=0.02)
    strong = new["headline"].str.startswith("Amazing").to_numpy()
    scored = model.score(new)

    assert scored["engagement_score"][strong].min() > scored["engagement_score"][~strong].max()
    assert model.predict(new)[strong].mean() / model.predict(new)[~strong].mean() == pytest.approx(
        np.exp(0.6), rel=0.25
    )
    assert scored["topics"][strong].str.contains("amazing", case=False).mean() > 0.9


def test_a_score_is_a_percentile_of_its_platform(model, training_rows):
    scored = model.score(training_rows)

    for platform in ("meta", "google"):
        rows = (training_rows["platform"] == platform).to_numpy()
        assert scored["ad_score"][rows].mean() == pytest.approx(50, abs=5)
        order = np.argsort(scored["predicted_ctr"].to_numpy()[rows])
        assert (np.diff(scored["ad_score"].to_numpy()[rows][order]) >= 0).all()


def test_each_score_has_the_range_of_its_contract(model, later):
    from within_ml.lake.contracts import AD_SCORES

    scored = model.score(later.assign(readability=np.linspace(-50, 150, len(later))))
    assert scored.index.equals(later.index)
    for name in (
        "predicted_ctr",
        "ad_score",
        "engagement_score",
        "sentiment_score",
        "complexity_score",
        "confidence_score",
    ):
        column = AD_SCORES.column(name)
        assert scored[name].between(column.minimum, column.maximum).all(), name


def test_confidence_grows_with_what_has_been_seen(model, later):
    seen = model.score(later.assign(prior_impressions=np.linspace(0, 9_000, len(later))))["confidence_score"]

    assert seen.iloc[0] == 0
    assert seen.is_monotonic_increasing
    assert seen.iloc[-1] == pytest.approx(0.9)


def test_an_unknown_platform_is_measured_by_all(model, later):
    scored = model.score(later.assign(platform="tiktok"))

    assert scored["ad_score"].between(0, 100).all()
    assert scored["ad_score"].std() > 5


def test_importance_names_where_the_prediction_comes_from(model):
    importance = model.get_feature_importance()

    assert sum(importance.values()) == pytest.approx(1.0)
    assert {"prior_ctr", "text_score"} <= set(list(importance)[:3])


def test_it_survives_saving(model, later, tmp_path):
    model.metadata |= {"trained_at": "2024-08-05T00:00:00Z", "lake_versions": {"ad_features": 3}}
    model.save(tmp_path / "model")
    again = AdScorePredictor.load(tmp_path / "model")

    pd.testing.assert_frame_equal(again.score(later), model.score(later))
    assert again.get_feature_importance() == model.get_feature_importance()
    assert again.metadata == model.metadata
    assert again.feature_config == model.feature_config
    assert again.model_type is ModelType.AD_SCORE


def test_another_product_is_not_loaded(model, tmp_path):
    class Health(AdScorePredictor):
        model_type = ModelType.ACCOUNT_HEALTH

    model.save(tmp_path / "model")
    with pytest.raises(ModelFormatError, match="account_health"):
        Health.load(tmp_path / "model")


def test_fit_is_fit_model_on_the_early_and_fit_calibration_on_the_last_rows(training_rows, model, later):
    y, w = labels(training_rows)
    # 30 Sundays to 2024-07-28: the last 14 days hold 07-21 and 07-28, and the label of 07-14 reaches into them.
    early = (training_rows["date"] < "2024-07-14").to_numpy()
    late = (training_rows["date"] > "2024-07-14").to_numpy()
    by_hand = AdScorePredictor(QUICK).fit_model(training_rows[early], y[early], sample_weight=w[early])
    by_hand.fit_calibration(training_rows[late], y[late], sample_weight=w[late])

    assert np.array_equal(by_hand.predict(later), model.predict(later))


def test_later_rows_may_say_how_many_trees(training_rows):
    y, w = labels(training_rows)
    early = (training_rows["date"] < "2024-06-01").to_numpy()
    held = training_rows[~early], y[~early], w[~early]
    model = AdScorePredictor(QUICK).fit_model(training_rows[early], y[early], sample_weight=w[early], validation=held)

    assert all(0 <= weight <= 1 for weight in model.corrections_.weights_.values())
    assert np.isfinite(model.predict(training_rows)).all()


@pytest.mark.parametrize("kind", ["ensemble", "linear"])
def test_each_model_type_predicts(training_rows, later, kind, tmp_path):
    model = fitted_on(training_rows, model_type=kind)
    model.save(tmp_path / "model")
    y, w = labels(later)

    assert np.array_equal(AdScorePredictor.load(tmp_path / "model").predict(later), model.predict(later))
    assert log_loss(y, model.predict(later), sample_weight=w) < log_loss(y, later["prior_ctr"], sample_weight=w)


@pytest.mark.parametrize("left_out", ["tabular", "text"])
def test_a_modality_can_be_left_out(training_rows, left_out, tmp_path):
    rest = [name for name in ("tabular", "text", "image") if name != left_out]
    model = fitted_on(training_rows, {"modalities": rest})
    importance = model.get_feature_importance()

    assert (importance["text_score"] > 0) == (left_out != "text")
    assert ("ad_impressions_28d" in importance) == (left_out != "tabular")


def test_parts_of_the_score_can_be_left_out(training_rows):
    model = fitted_on(training_rows, calibration=False, explainable=False, uncertainty=False)
    scored = model.score(training_rows)

    assert model.calibrator_ is None
    assert scored["topics"].isna().all()
    assert "confidence_score" not in scored


def small(**changes):
    return agency(**{"n_weeks": 14, "accounts": 2, **changes})


AWKWARD = {
    "one account": lambda: small(accounts=1),
    "one ad per campaign": lambda: small(campaigns=8, ads=1),
    "one week": lambda: agency(n_weeks=1, accounts=8, campaigns=4),
    "three weeks": lambda: agency(n_weeks=3, accounts=8, campaigns=4),
    "300 rows": lambda: agency(n_weeks=25, accounts=1),
    "only new ads": lambda: small(history=False),
    "no text": lambda: small().assign(headline=None, body=None),
    "one text": lambda: small().assign(headline="Same for all"),
    "text in another script": lambda: small().assign(headline="靴のセール 🎉"),
    "no click at all": lambda: small().assign(label_clicks=0),
    "every impression clicked": lambda: small().assign(label_clicks=lambda f: f["label_impressions"]),
    "features of text alone": lambda: small().drop(columns=["ad_impressions_28d", "ad_spend_28d", "prior_impressions"]),
    "null features": lambda: small().assign(sentiment=None, readability=None, ad_impressions_28d=np.nan),
    "prior of nought": lambda: small().assign(prior_ctr=0.0),
    "arrow strings": lambda: small().astype({"headline": "string[pyarrow]", "platform": "category"}),
    "dates of day": lambda: small().assign(date=lambda f: f["date"].dt.date),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_agencies_are_scored(name, tmp_path):
    frame = AWKWARD[name]()
    model = fitted_on(frame)
    scored = model.score(frame)
    model.save(tmp_path / "model")

    assert scored["predicted_ctr"].between(0, 1).all()
    assert scored[["ad_score", "confidence_score"]].notna().all(axis=None)
    assert np.array_equal(AdScorePredictor.load(tmp_path / "model").predict(frame), model.predict(frame))


def test_too_short_a_history_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        model = fitted_on(agency(n_weeks=1, accounts=8, campaigns=4))

    assert model.calibrator_ is None
    assert "too short" in caplog.text


def test_a_large_set_is_sampled_the_same_way_whatever_its_order(training_rows, later):
    shuffled = training_rows.sample(frac=1.0, random_state=1)
    first, second = (fitted_on(rows, {"max_rows": 700, "modalities": ["text"]}) for rows in (training_rows, shuffled))

    assert first.predict(later) == pytest.approx(second.predict(later), rel=1e-6)


def test_recent_weeks_count_more():
    """The taste turns: in the old half the better headline is called ordinary and the worse one amazing."""
    frame = agency(n_weeks=40, history=False, week_sd=0.0)
    old = frame["date"] < "2024-05-26"
    other = {"Amazing": "Ordinary", "Ordinary": "Amazing"}
    turned = frame["headline"].str.split(n=1).map(lambda words: f"{other[words[0]]} {words[1]}")
    frame["headline"] = turned.where(old, frame["headline"])
    asked = frame[-2:].assign(headline=["Amazing shoes", "Ordinary shoes"], prior_ctr=0.02)

    ratios = []
    for days in (20, 10_000):
        model = fitted_on(frame.drop(columns="sentiment"), {"half_life_days": days, "modalities": ["text"]})
        ratios.append(np.divide(*model.predict(asked)))
    # The calibrator has seen the last weeks only, and stretches what little an undecided text score says.
    assert ratios[0] > 1.3
    assert ratios[1] < 1.25


@pytest.mark.parametrize("column", ["date", "platform", "campaign_id", "headline", "prior_ctr", "sentiment"])
def test_a_missing_column_is_named(model, later, column):
    with pytest.raises(InputError, match=f"lacks '{column}'"):
        model.predict(later.drop(columns=column))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior_ctr": np.nan}, "prior_ctr must be a rate"),
        ({"prior_ctr": 2.0}, "prior_ctr must be a rate"),
        ({"date": None}, "must have a date"),
    ],
)
def test_bad_rows_are_refused(training_rows, change, message):
    with pytest.raises(InputError, match=message):
        fitted_on(training_rows.assign(**change))


def test_bad_targets_are_refused(training_rows):
    y, w = labels(training_rows)
    with pytest.raises(InputError, match="y must be in"):
        AdScorePredictor().fit(training_rows, y * 100, sample_weight=w)
    with pytest.raises(InputError, match="with impressions"):
        AdScorePredictor().fit(training_rows, y, sample_weight=w * 0)
    with pytest.raises(InputError, match="one shape"):
        AdScorePredictor().fit(training_rows, y[:-1], sample_weight=w)


def test_misuse_is_refused(later):
    with pytest.raises(NotFittedError):
        AdScorePredictor().predict(later)
    with pytest.raises(NotFittedError):
        AdScorePredictor().fit_calibration(later, *labels(later)[:1])
    with pytest.raises(InputError, match="above 0"):
        AdScoreConfig(half_life_days=0)
    with pytest.raises(InputError, match="model_type"):
        AdScorePredictor(model_type="neural")
    with pytest.raises(InputError, match="max_depht"):
        AdScorePredictor({"max_depht": 3})


def test_an_empty_day_is_scored(model, later):
    scored = model.score(later[:0])

    assert len(scored) == 0
    assert list(scored.columns)[:2] == ["predicted_ctr", "ad_score"]


def test_metrics_of_validate(model, later):
    y, w = labels(later)
    result = model.validate(later, y, sample_weight=w)

    assert set(result) == {"log_loss", "brier", "auc", "ece", "calibration_ratio"}
    assert result["auc"] > 0.55
