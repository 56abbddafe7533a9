"""What is told of each ad: the columns of ``ad_scores`` and of ``ad_score_analysis`` that a predictor knows.

Nothing here is fitted; the numbers come from the predictor's parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import expit, logit

from within_ml.ad_score import terms
from within_ml.ad_score.config import Modality
from within_ml.ad_score.outcomes import difficulty
from within_ml.calibration.percentile import PercentileScale
from within_ml.explain.reasons import reasons_json
from within_ml.explain.similar import similar_json
from within_ml.explain.suggestions import TEXT_CHANGES, suggest, suggestions_json, weekday_changes

if TYPE_CHECKING:
    from within_ml.ad_score.predictor import AdScorePredictor

FloatArray = NDArray[np.float64]

CTR_DECIMALS = 12
"""Scores are rounded to these: the last bit of a float depends on where in memory an array lies, and a night that is
scored again must give the same scores."""

CONFIDENCE = 0.9
"""Of the intervals that are told where no other is asked for."""

TOP_REASONS = 3
ALL_REASONS = 8
SIMILAR_ADS = 3
SUGGESTIONS = 3


def scores(predictor: AdScorePredictor, X: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of ``ad_scores``, see `AdScorePredictor.score`."""
    text = predictor._text(X)
    predicted = predictor._calibrated(predictor._margin(X, text), X)
    has_text = (X["headline"].notna() | X["body"].notna()).to_numpy()
    columns = {
        "predicted_ctr": np.round(predicted, CTR_DECIMALS),
        "ad_score": _scale(predictor).transform(logit(predicted), groups=X["platform"]),
        "engagement_score": np.where(has_text, predictor.text_scale_.transform(text), np.nan),
        "sentiment_score": terms.optional(X, "sentiment"),
        "complexity_score": 100 - np.clip(terms.optional(X, "readability"), 0, 100),
        "topics": _topics(predictor, X),
    }
    if predictor.explainable:
        columns["top_reasons"] = reasons_json(predictor.reasons(X, TOP_REASONS))
        columns["target_audience_match"] = _audience_match(predictor, X)
    if predictor.uncertainty:
        intervals = with_intervals(predictor, X, np.round(predicted, CTR_DECIMALS))
        columns |= {name: intervals[name].to_numpy() for name in intervals.columns}
        n = np.nan_to_num(terms.optional(X, "prior_impressions"))
        columns["confidence_score"] = n / (n + predictor.feature_config.confidence_impressions)
    return pd.DataFrame(columns, index=X.index)


def analysis(predictor: AdScorePredictor, X: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of ``ad_score_analysis``, see `AdScorePredictor.analyse`."""
    reasons = predictor.reasons(X, ALL_REASONS)
    changes = (*TEXT_CHANGES, *weekday_changes())
    columns = {
        "base_ctr": np.round(reasons.base_rate, CTR_DECIMALS),
        "predicted_ctr": np.round(predictor.predict(X), CTR_DECIMALS),
        "reasons": reasons_json(reasons, detailed=True),
        "similar_ads": similar_json(predictor.explainer.similar(X, SIMILAR_ADS)),
        "suggestions": suggestions_json(
            suggest(X, lambda changed: predictor.predict(_with_content(predictor, changed)), changes, k=SUGGESTIONS)
        ),
    }
    return pd.DataFrame(columns, index=X.index)


def with_intervals(
    predictor: AdScorePredictor,
    X: pd.DataFrame,
    predicted: FloatArray,
    planned: FloatArray | None = None,
    confidence: float | None = None,
) -> pd.DataFrame:
    """Return predictions with their intervals, see `AdScorePredictor.predict_with_intervals`."""
    lower, upper, impressions = (np.full(len(X), np.nan) for _ in range(3))
    if predictor.intervals_ is not None:
        expected = predictor.expected_.predict(X)
        impressions = expected if planned is None else planned
        found = predictor.intervals_.at(
            predicted, terms.account_names(X), difficulty(X), expected, planned=planned, confidence=confidence
        )
        lower, upper = np.round(found.lower, CTR_DECIMALS), np.round(found.upper, CTR_DECIMALS)
    columns = {"ctr_lower": lower, "ctr_upper": upper, "interval_impressions": impressions}
    frame = pd.DataFrame({"predicted_ctr": predicted, **columns}, index=X.index)
    frame.attrs["confidence"] = CONFIDENCE if confidence is None else confidence
    return frame


def _scale(predictor: AdScorePredictor) -> PercentileScale:
    """Return the distribution of calibrated log-odds over the training rows."""
    if predictor.calibrator_ is None:
        return predictor.margin_scale_
    calibrate = predictor.calibrator_.global_calibrator_.transform
    return predictor.margin_scale_.mapped(lambda margin: logit(calibrate(expit(margin))))


def _topics(predictor: AdScorePredictor, X: pd.DataFrame) -> list[str | None]:
    model = predictor.base_.text_model_
    if model is None or not predictor.explainable or not len(X):
        return [None] * len(X)
    return [words or None for words in model.top_words(X[["headline", "body"]], predictor.feature_config.topics)]


def _audience_match(predictor: AdScorePredictor, X: pd.DataFrame) -> FloatArray:
    known = all(name in X.columns for name in terms.AUDIENCE)
    if predictor.audience_ is None or not known or not len(X):
        return np.full(len(X), np.nan)
    return predictor.audience_.score(X)


def _with_content(predictor: AdScorePredictor, X: pd.DataFrame) -> pd.DataFrame:
    """Return rows whose text may have been edited with the features of that text, where the model reads them."""
    read = [name for name in predictor.corrections_.features if terms.modality(name) is Modality.TEXT]
    if not read:
        return X
    from within_ml.features.content import text_features

    lines = {name: pa.array(X[name], pa.string(), from_pandas=True) for name in ("headline", "body")}
    made = text_features(lines["headline"], lines["body"])
    return X.assign(**{name: made[name].to_numpy(zero_copy_only=False) for name in read if name in made.column_names})
