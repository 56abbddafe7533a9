"""The ad score: the click-through rate an ad will have in the coming week, and what is told about it.

A composition: level from the features, a text score, boosted trees, a calibrator. How each of them works stands in its
own module; here stands what they are given, in which order they are fitted, and what a row of ``ad_scores`` says.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from within_ml import metrics
from within_ml.ad_score import terms
from within_ml.ad_score.config import AdScoreConfig, AdScoreParts
from within_ml.ad_score.terms import REQUIRED_COLUMNS
from within_ml.base import BaseMLModel, ModelType
from within_ml.calibration.level import estimate_level
from within_ml.calibration.percentile import ALL_GROUPS, PercentileScale
from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.models.binomial import fit_binomial
from within_ml.splits import OutOfTimeSplit

if TYPE_CHECKING:
    from within_ml.calibration.spline import SplineCalibrator
    from within_ml.features.text_score import TextScore
    from within_ml.model_folder import ModelMetadata
    from within_ml.models.boosted import BoostedRate

FloatArray = NDArray[np.float64]
logger = logging.getLogger(__name__)

CTR_DECIMALS = 12
"""Scores are rounded to these: the last bit of a float depends on where in memory an array lies, and a night that is
scored again must give the same scores."""


class AdScorePredictor(BaseMLModel):
    """Predict the click-through rate of each ad in the seven days after its row's date, and score it.

    The log-odds are a sum, each term fitted on top of the ones before::

        logit(prior_ctr)                       level: what ad, campaign, account and platform have shown, as of the day
        + b0 + b1·text·(1-h) + b2·text·h       text score beside the account's usual one, which the level contains; h
                                               grows with the ad's own impressions, which know it better
        + trees(numeric features)              what is left, stopped early on later rows, possibly nothing; not from
                                               features of the text where the text score has a say
        → monotone spline                      calibration on rows later than all of these

    Effects of text and features are fitted within weeks, each week's own shift taken out, since all ads of a week share
    what it did to the audience; the level is moved only as far as the weeks agree on it.
    ``prior_ctr`` is a feature of the day, so that the level follows a drifting audience between two trainings.

    Parameters
    ----------
    feature_config : AdScoreConfig or mapping, optional
        Hyperparameters; the defaults are meant to be used.
    model_type : {"ensemble", "text", "boosted"}
        Which terms are fitted.
    calibration : bool
        Whether `fit` keeps the last days for the calibrator and `predict` applies it.
    explainable : bool
        Whether `score` names the ``topics`` (null otherwise).
    uncertainty : bool
        Whether `score` has the column ``confidence_score``.
    model_name, feature_names, model_version, metadata
        As in `BaseMLModel`; ``feature_names`` None takes every numeric column of the training frame that is no key or
        label.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = pd.DataFrame({
    ...     "date": pd.date_range("2024-01-01", periods=600).repeat(2), "platform": "meta", "account_id": "a",
    ...     "campaign_id": np.arange(1200) // 2, "ad_id": np.arange(1200), "body": None, "prior_ctr": 0.02,
    ...     "headline": [f"{word} news of day {day}" for day in range(600) for word in ("Great", "Old")],
    ...     "prior_impressions": 500.0})
    >>> impressions = np.full(1200, 2000)
    >>> clicks = rng.binomial(impressions, np.tile([0.03, 0.01], 600))
    >>> model = AdScorePredictor().fit(X, clicks / impressions, sample_weight=impressions)
    >>> model.predict(X[:2]).round(2)
    array([0.03, 0.01])
    >>> (model.score(X[:2])["ad_score"] > 50).tolist()
    [True, False]
    """

    model_type: ClassVar[str] = ModelType.AD_SCORE

    def __init__(  # noqa: PLR0913 - the product's vocabulary, and what every model has
        self,
        feature_config: AdScoreConfig | Mapping[str, Any] | None = None,
        model_type: str = "ensemble",
        calibration: bool = True,
        explainable: bool = True,
        uncertainty: bool = True,
        *,
        model_name: str = ModelType.AD_SCORE,
        feature_names: list[str] | None = None,
        model_version: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(str(model_name), feature_names or [], model_version, metadata)
        self.feature_config = AdScoreConfig.of(feature_config)
        self.parts = AdScoreParts.of(model_type)
        self.calibration = calibration
        self.explainable = explainable
        self.uncertainty = uncertainty

    def fit(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the model on the earlier part of the rows and the calibrator on the last part.

        A history too short to be split is used whole, and the prediction stays uncalibrated.

        Parameters
        ----------
        X : DataFrame, shape (n, …)
            Rows of ``ad_training_set``: `REQUIRED_COLUMNS` and numeric features. Null features are fine, also columns
            that are null throughout.
        y : array-like, shape (n,)
            Clicks / impressions of the label's days.
        sample_weight : array-like, shape (n,), optional
            Impressions of the label's days.

        Raises
        ------
        InputError
            If a required column is missing or a shape or range is wrong.
        """
        y, w = self._checked(X, y, sample_weight)
        if not self.calibration:
            return self.fit_model(X, y, sample_weight=w)
        try:
            split = OutOfTimeSplit(self.feature_config.calibration_days, 0).split(X["date"])
        except InputError:
            logger.warning("ad score: %d rows are too short a history to calibrate on later rows", len(X))
            return self.fit_model(X, y, sample_weight=w)
        early, late = split.train, split.validation
        self.fit_model(X[early], y[early], sample_weight=w[early])
        return self.fit_calibration(X[late], y[late], sample_weight=w[late])

    def fit_model(
        self,
        X: pd.DataFrame,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        validation: tuple[pd.DataFrame, ArrayLike, ArrayLike] | None = None,
    ) -> Self:
        """Fit level, text score and trees; the calibrator, if there is one, is dropped.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        validation : tuple (X, y, sample_weight), optional
            Later rows that say how many trees are worth having; without them the last days of X do, and the trees are
            then fitted again on all of X.
        """
        started = time.perf_counter()
        y, w = self._checked(X, y, sample_weight)
        rows = terms.training_order(X, w, self.feature_config.max_rows)
        if not rows.size:
            raise InputError(f"The ad score is fitted on rows with impressions; of {len(X)} rows none has any.")
        X, y, w = X.iloc[rows].reset_index(drop=True), y[rows], w[rows]
        w = w * terms.decay(X["date"], self.feature_config.half_life_days)
        self.feature_names = self.feature_names or terms.numeric_columns(X)
        self.calibrator_: SplineCalibrator | None = None
        self.boosted_: BoostedRate | None = None
        text = self._fit_text(X, y, w)
        margin = self._fit_linear(X, y, w, text)
        if self.parts is not AdScoreParts.TEXT and self._tree_columns():
            self._fit_trees(X, y, w, margin, validation)
            margin = self._add_trees(X, margin)
        weight = terms.decay(X["date"], self.feature_config.half_life_days)
        self.margin_scale_ = PercentileScale().fit(margin, groups=X["platform"], sample_weight=weight)
        self.text_scale_ = PercentileScale().fit(text, sample_weight=weight)
        self.metadata["training_duration"] = round(time.perf_counter() - started, 3)
        logger.info(
            "ad score fitted on %d rows in %.1f s: text effect %.2f, %d trees",
            len(X), self.metadata["training_duration"], self.coefficients_[0], self.n_trees_,
        )  # fmt: skip
        return self

    def fit_calibration(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the calibrator on rows later than those of `fit_model`.

        Raises
        ------
        NotFittedError
            If `fit_model` was not called before.
        """
        from within_ml.calibration.spline import SplineCalibrator

        y, w = self._checked(X, y, sample_weight)
        raw = expit(self._margin(X))
        self.calibrator_ = SplineCalibrator().fit(
            raw, y, sample_weight=w, periods=terms.weeks(X["date"]), period_sd=self.period_sd_
        )
        logger.info("ad score calibrated on %d rows: %s", len(X), self.calibrator_.method_)
        return self

    def predict(self, X: pd.DataFrame) -> FloatArray:
        """Return the predicted click-through rate of each row, a fraction in (0, 1), shape (n,).

        Raises
        ------
        InputError
            If a column the model was fitted on is missing.
        NotFittedError
            If the model is not fitted.
        """
        return self._calibrated(self._margin(X))

    def score(self, X: pd.DataFrame) -> pd.DataFrame:
        """Return the columns of ``ad_scores`` that the model knows, one row per row of X, with X's index.

        ``ad_score`` is the percentile of the prediction among the platform's training rows (all platforms' for one
        not seen in training), ``engagement_score`` that of the text score; both 0 to 100. ``sentiment_score`` is the
        feature, ``complexity_score`` 100 minus the reading ease, and null without text. ``confidence_score`` is the
        effective sample size as a share, n / (n + ``confidence_impressions``): it says how much the ad and its campaign
        have shown so far, not how wide an interval is.
        """
        text = self._text(X)
        margin = self._margin(X, text)
        has_text = (X["headline"].notna() | X["body"].notna()).to_numpy()
        reading_ease = self._optional(X, "readability")
        scores = {
            "predicted_ctr": np.round(self._calibrated(margin), CTR_DECIMALS),
            "ad_score": self.margin_scale_.transform(margin, groups=X["platform"]),
            "engagement_score": np.where(has_text, self.text_scale_.transform(text), np.nan),
            "sentiment_score": self._optional(X, "sentiment"),
            "complexity_score": 100 - np.clip(reading_ease, 0, 100),
            "topics": self._topics(X),
        }
        if self.uncertainty:
            n = np.nan_to_num(self._optional(X, "prior_impressions"))
            scores["confidence_score"] = n / (n + self.feature_config.confidence_impressions)
        return pd.DataFrame(scores, index=X.index)

    def validate(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> dict[str, float]:
        """Return log-loss, Brier score, AUC, ECE and predicted/actual clicks of the predictions on these rows."""
        y, w = self._checked(X, y, sample_weight)
        p = self.predict(X)
        judges = (metrics.log_loss, metrics.brier, metrics.auc, metrics.ece, metrics.calibration_ratio)
        return {judge.__name__: judge(y, p, sample_weight=w) for judge in judges}

    def get_feature_importance(self) -> dict[str, float]:
        """Share of the spread of the training predictions' log-odds by source, in falling order; sums to 1.

        ``prior_ctr`` and ``text_score`` stand for the first two terms; the trees' share is divided among the features
        by loss reduction.
        """
        self._require_fitted()
        shares = {"prior_ctr": self.spread_[0], "text_score": self.spread_[1]}
        if self.boosted_ is not None:
            for name, share in self.boosted_.feature_importance().items():
                shares[name] = shares.get(name, 0.0) + share * self.spread_[2]
        total = sum(shares.values()) or 1.0
        return dict(sorted(((name, value / total) for name, value in shares.items()), key=lambda item: -item[1]))

    @property
    def n_trees_(self) -> int:
        """Trees that the prediction uses."""
        return self.boosted_.n_trees_ if self.boosted_ is not None else 0

    # ---- fitting

    def _fit_text(self, X: pd.DataFrame, y: FloatArray, w: FloatArray) -> FloatArray:
        """Fit the text score; return the out-of-fold score of each row."""
        self.text_score_: TextScore | None = None
        if self.parts is AdScoreParts.BOOSTED or not (X["headline"].notna() | X["body"].notna()).any():
            return np.zeros(len(X))
        from within_ml.features.text_score import TextScore

        self.text_score_ = TextScore(**(self.feature_config.text or {}))
        return self.text_score_.fit_predict_out_of_fold(
            X[["headline", "body"]], y, sample_weight=w, groups=terms.campaigns(X), folds=self.feature_config.folds
        )

    def _fit_linear(self, X: pd.DataFrame, y: FloatArray, w: FloatArray, text: FloatArray) -> FloatArray:
        """Fit intercept and the text's two effects on top of the level; return the log-odds of the training rows."""
        level, weeks = terms.level(X), terms.weeks(X["date"])
        self.text_centre_, usual = terms.TextCentre.fit(X, text, w)
        columns = self._linear_terms(X, text - usual)
        # The text's effect is what it says within a week; what a whole week did is no ad's merit.
        first = estimate_level(level, y, w, weeks)
        fit = fit_binomial(columns, y, w, offset=level + first.by_row, ridge=np.ones(columns.shape[1]))
        after = estimate_level(level + columns @ fit.coefficients, y, w, weeks)
        self.intercept_, self.coefficients_ = after.shrunk, fit.coefficients
        self.dispersion_, self.period_sd_ = after.dispersion, after.period_sd
        self.spread_ = [float(np.std(level)), float(np.std(columns @ self.coefficients_)), 0.0]
        return level + self.intercept_ + columns @ self.coefficients_

    def _fit_trees(
        self,
        X: pd.DataFrame,
        y: FloatArray,
        w: FloatArray,
        margin: FloatArray,
        validation: tuple[pd.DataFrame, ArrayLike, ArrayLike] | None,
    ) -> None:
        """Fit trees on what is left within weeks, in units of clicks after division by the dispersion between ads."""
        features = self._features(X)[self._tree_columns()]
        w = w / self.dispersion_
        base = terms.with_week_shifts(margin, y, w, X["date"])
        p = expit(base)
        self.clicks_per_ad_ = float(w @ (p * (1 - p))) / max(terms.n_ads(X), 1)
        if validation is not None:
            later, later_y, later_w = validation[0], *self._checked(*validation)
            later_base = terms.with_week_shifts(self._linear_margin(later), later_y, later_w, later["date"])
            held = (self._features(later), later_y, later_w / self.dispersion_, later_base)
            self.boosted_ = self._trees().fit(features, y, w, base_margin=base, validation=held)
        else:
            self.boosted_ = self._trees_by_own_split(X, features, y, w, base)
        if self.boosted_ is not None:
            self.spread_[2] = float(np.std(self._add_trees(X, margin) - margin))

    def _trees_by_own_split(
        self, X: pd.DataFrame, features: pd.DataFrame, y: FloatArray, w: FloatArray, base: FloatArray
    ) -> BoostedRate | None:
        try:
            split = OutOfTimeSplit(self.feature_config.early_stopping_days, 0).split(X["date"])
        except InputError:
            logger.warning("ad score: no later rows to stop the trees on, so none are fitted")
            return None
        a, b = split.train, split.validation
        held = (features[b], y[b], w[b], base[b])
        trial = self._trees().fit(features[a], y[a], w[a], base_margin=base[a], validation=held)
        if trial.n_trees_ == 0:
            return trial
        return self._trees(n_estimators=trial.n_trees_).fit(features, y, w, base_margin=base)

    def _tree_columns(self) -> list[str]:
        """Return all features, or those not of the text where the text score has a say.

        The text score is learned between ads of one campaign. Trees on features of the same text learn between
        campaigns too, and what campaigns differ by would then reorder the ads within them.
        """
        if not self.coefficients_.any():
            return self.feature_names
        return [name for name in self.feature_names if not terms.is_content(name)]

    def _trees(self, n_estimators: int | None = None) -> BoostedRate:
        from within_ml.models.boosted import BoostedRate

        config = self.feature_config
        return BoostedRate(
            n_estimators=n_estimators or config.n_estimators,
            learning_rate=config.learning_rate,
            max_depth=config.max_depth,
            min_child_weight=max(config.min_child_weight, config.min_leaf_ads * self.clicks_per_ad_),
            reg_lambda=config.reg_lambda,
            n_threads=config.n_threads,
            random_state=config.random_state,
        )

    # ---- predicting

    def _margin(self, X: pd.DataFrame, text: FloatArray | None = None) -> FloatArray:
        """Log-odds before calibration."""
        return self._add_trees(X, self._linear_margin(X, text))

    def _linear_margin(self, X: pd.DataFrame, text: FloatArray | None = None) -> FloatArray:
        self._require_fitted()
        self.require_columns(X, [*REQUIRED_COLUMNS, *self.feature_names])
        text = self._text(X) if text is None else text
        columns = self._linear_terms(X, text - self.text_centre_.of(X))
        margin: FloatArray = terms.level(X) + self.intercept_ + columns @ self.coefficients_
        return margin

    def _add_trees(self, X: pd.DataFrame, margin: FloatArray) -> FloatArray:
        if self.boosted_ is None or not len(X):
            return margin
        return self.boosted_.predict_margin(self._features(X), base_margin=margin)

    def _text(self, X: pd.DataFrame) -> FloatArray:
        self._require_fitted()
        self.require_columns(X, REQUIRED_COLUMNS)
        if self.text_score_ is None or not len(X):
            return np.zeros(len(X))
        return np.asarray(self.text_score_.predict(X[["headline", "body"]]), dtype=np.float64)

    def _linear_terms(self, X: pd.DataFrame, text: FloatArray) -> FloatArray:
        """Return the text of an ad without history and of one with much, shape (n, 2)."""
        n = np.nan_to_num(self._optional(X, "ad_impressions_28d"))
        history = n / (n + self.feature_config.text_history_impressions)
        return np.column_stack([text * (1 - history), text * history])

    def _features(self, X: pd.DataFrame) -> pd.DataFrame:
        return X[self.feature_names].astype(np.float64)

    def _calibrated(self, margin: FloatArray) -> FloatArray:
        rates: FloatArray = expit(margin)
        return rates if self.calibrator_ is None else self.calibrator_.transform(rates)

    def _topics(self, X: pd.DataFrame) -> list[str | None]:
        if self.text_score_ is None or not self.explainable or not len(X):
            return [None] * len(X)
        return [
            words or None for words in self.text_score_.top_words(X[["headline", "body"]], self.feature_config.topics)
        ]

    @staticmethod
    def _optional(X: pd.DataFrame, column: str) -> FloatArray:
        return X[column].to_numpy(np.float64, na_value=np.nan) if column in X.columns else np.full(len(X), np.nan)

    def _require_fitted(self) -> None:
        if not hasattr(self, "coefficients_"):
            raise NotFittedError(f"{self.model_name} must be fitted or loaded first; call fit or load.")

    def _checked(
        self, X: pd.DataFrame, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[FloatArray, FloatArray]:
        self.require_columns(X, [*REQUIRED_COLUMNS, *self.feature_names])
        rate, _, weight = metrics.check_rates(y, np.zeros(len(X)), sample_weight)
        return rate, weight

    # ---- save format

    def hyperparameters(self) -> dict[str, Any]:
        """Return the constructor's own arguments as JSON values."""
        return {
            "feature_config": asdict(self.feature_config),
            "model_type": str(self.parts),
            "calibration": self.calibration,
            "explainable": self.explainable,
            "uncertainty": self.uncertainty,
        }

    @classmethod
    def _from_metadata(cls, metadata: ModelMetadata) -> Self:
        return cls(
            **metadata.hyperparameters,
            model_name=metadata.name,
            feature_names=list(metadata.feature_columns),
            model_version=metadata.version,
            metadata=metadata.details,
        )

    def _write_state(self, folder: Path) -> None:
        platforms, margins = self.margin_scale_.to_arrays()
        state = {
            "intercept": self.intercept_,
            "coefficients": self.coefficients_.tolist(),
            "dispersion": self.dispersion_,
            "period_sd": self.period_sd_,
            "spread": self.spread_,
            "platforms": platforms,
            "text_centre": asdict(self.text_centre_),
            "calibrator": self.calibrator_.to_dict() if self.calibrator_ is not None else None,
        }
        (folder / "ad_score.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        np.savez(folder / "quantiles.npz", margin=margins, text=self.text_scale_.to_arrays()[1])
        for name, part in (("text_score", self.text_score_), ("boosted", self.boosted_)):
            if part is not None:
                (folder / name).mkdir()
                part.save(folder / name)

    def _read_state(self, folder: Path, metadata: ModelMetadata) -> None:
        try:
            self._restore(folder, json.loads((folder / "ad_score.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelFormatError(f"{folder} must hold a saved {self.model_type}; it does not ({error}).") from error

    def _restore(self, folder: Path, state: Mapping[str, Any]) -> None:
        from within_ml.calibration.spline import SplineCalibrator
        from within_ml.features.text_score import TextScore
        from within_ml.models.boosted import BoostedRate

        self.intercept_ = state["intercept"]
        self.coefficients_ = np.array(state["coefficients"], dtype=np.float64)
        self.dispersion_, self.period_sd_ = state["dispersion"], state["period_sd"]
        self.spread_, self.text_centre_ = state["spread"], terms.TextCentre(**state["text_centre"])
        with np.load(folder / "quantiles.npz", allow_pickle=False) as arrays:
            self.text_scale_ = PercentileScale.from_arrays([ALL_GROUPS], arrays["text"])
            self.margin_scale_ = PercentileScale.from_arrays(state["platforms"], arrays["margin"])
        calibrator = state["calibrator"]
        self.calibrator_ = SplineCalibrator.from_dict(calibrator) if calibrator is not None else None
        self.text_score_ = TextScore.load(folder / "text_score") if (folder / "text_score").is_dir() else None
        self.boosted_ = BoostedRate.load(folder / "boosted") if (folder / "boosted").is_dir() else None
