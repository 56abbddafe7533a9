"""The ad score: the click-through rate an ad will have in the coming week, how sure that is, and what is told about it.

A composition. How each part works stands in its own module; here stands what they are given, in which order they are
fitted, and what a row of ``ad_scores`` says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from within_ml import metrics
from within_ml.ad_score import terms, told
from within_ml.ad_score.backtest import ExpectedImpressions, backtest
from within_ml.ad_score.calibrating import calibrate
from within_ml.ad_score.config import AdScoreConfig, Modality, ScoreModelType
from within_ml.ad_score.corrections import Corrections, rows_of
from within_ml.ad_score.ctr_intervals import CtrIntervals
from within_ml.ad_score.explanation import Explainer, explained
from within_ml.ad_score.level_text import LevelAndText
from within_ml.ad_score.outcomes import Outcomes
from within_ml.ad_score.state import read_state, write_state
from within_ml.ad_score.terms import REQUIRED_COLUMNS
from within_ml.base import BaseMLModel, ModelType
from within_ml.calibration.percentile import PercentileScale
from within_ml.errors import InputError, NotFittedError
from within_ml.explain.contributions import Contributions
from within_ml.explain.reasons import Reasons
from within_ml.features.labels import LABEL_COLUMNS, observed_rates
from within_ml.splits import OutOfTimeSplit, to_days

if TYPE_CHECKING:
    from within_ml.calibration.hierarchical import HierarchicalCalibrator
    from within_ml.model_folder import ModelMetadata
    from within_ml.models.audience import AudienceMatch

FloatArray = NDArray[np.float64]
logger = logging.getLogger(__name__)

_BACKTEST_FOLDS = 2


class AdScorePredictor(BaseMLModel):
    """Predict the click-through rate of each ad in the seven days after its row's date, and score it.

    The log-odds are a sum, each term fitted on top of the ones before::

        logit(prior_ctr)               level: what ad, campaign, account and platform have shown, as of the day
        + text                         text score beside the account's usual one (`LevelAndText`)
        + Σ weight · member            what is left within weeks: trees, linear model or network (`Corrections`)
        → spline, groups               calibration on rows later than all of these: a monotone spline, and an offset of
                                       account, campaign, ad group and ad as far as their clicks show one

    ``prior_ctr`` is a feature of the day, so that the level follows a drifting audience between two trainings.

    Parameters
    ----------
    feature_config : AdScoreConfig or mapping, optional
        Hyperparameters; the defaults are meant to be used.
    model_type : {"ensemble", "nn", "linear"}
        Which members are fitted, see `ScoreModelType`.
    calibration : bool
        Whether `fit` keeps the last days for the calibrator and `predict` applies it.
    explainable : bool
        Whether `score` gives ``topics`` and ``top_reasons`` (null otherwise).
    uncertainty : bool
        Whether predictions have intervals and `score` the column ``confidence_score``.
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
        self.kind = ScoreModelType.of(model_type)
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
        """Fit level, text and corrections; the calibrator, if there is one, is dropped.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        validation : tuple (X, y, sample_weight), optional
            Later rows that say when the members stop and how much each counts; without them the last days of X do, and
            the members are then fitted again on all of X.
        """
        started = time.perf_counter()
        y, w = self._checked(X, y, sample_weight)
        rows = terms.training_order(X, w, self.feature_config.max_rows)
        if not rows.size:
            raise InputError(
                f"The ad score is fitted on rows with impressions; sample_weight is zero in all {len(X)} rows."
            )
        X, y, w = X.iloc[rows].reset_index(drop=True), y[rows], w[rows]
        decay = terms.decay(X["date"], self.feature_config.half_life_days)
        self.feature_names = self.feature_names or terms.numeric_columns(X)
        self.calibrator_: HierarchicalCalibrator | None = None
        self.intervals_: CtrIntervals | None = None
        self.expected_ = ExpectedImpressions.fit(X, w)
        self.base_ = LevelAndText(self.feature_config)
        margin = self.base_.fit(X, y, w * decay)
        self._fit_corrections(X, y, w * decay, margin, validation)
        margin = margin + self.corrections_.of(X)
        self.margin_scale_ = PercentileScale().fit(margin, groups=X["platform"], sample_weight=decay)
        self.text_scale_ = PercentileScale().fit(self.base_.text_, sample_weight=decay)
        self.spread_ = (*self.base_.spread_, float(np.std(self.corrections_.of(X))))
        self.explainer_ = Explainer().fit(self.base_, self.corrections_, X, y, w) if self.explainable else None
        self.audience_ = self._fit_audience(X, y, w, margin) if self.explainable else None
        self.outcomes_ = self._backtested(X, y, w) if self.uncertainty else None
        self.metadata["training_duration"] = round(time.perf_counter() - started, 3)
        logger.info(
            "ad score fitted on %d rows in %.1f s: text effect %.2f, weights %s",
            len(X), self.metadata["training_duration"], self.base_.coefficients_[0], self.corrections_.weights_,
        )  # fmt: skip
        return self

    def fit_calibration(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the calibrator on rows later than those of `fit_model`.

        Raises
        ------
        NotFittedError
            If `fit_model` was not called before.
        """
        y, w = self._checked(X, y, sample_weight)
        new = Outcomes.of(X, self._margin(X), y, w, self.expected_.predict(X))
        return self._calibrate_on(new if self.outcomes_ is None else self.outcomes_.with_more(new))

    def update(self, new_data: pd.DataFrame) -> Self:
        """Take in rows whose outcome has become known since the last fit or update.

        The linear member goes on learning from days later than those it has seen; the outcomes of the last
        ``outcome_days`` are kept, and calibrator and intervals are fitted again on them. Trees, text and network stay
        as they are until the next training.

        Parameters
        ----------
        new_data : DataFrame, shape (n, …)
            Rows of ``ad_training_set``: what `predict` needs, and ``label_impressions`` and ``label_clicks``. Days that
            are known already are replaced by theirs; their ads keep the predictions made before the outcome was known.

        Raises
        ------
        NotFittedError
            If the model is not fitted, or was never calibrated.
        InputError
            If a column is missing or a label is wrong.
        """
        if getattr(self, "calibrator_", None) is None or self.outcomes_ is None:
            raise NotFittedError(f"{self.model_name} must be fitted and calibrated before it is updated; call fit.")
        self.require_columns(new_data, LABEL_COLUMNS)
        shown = new_data[new_data["label_impressions"] > 0]
        y, w = self._checked(shown, *observed_rates(shown))
        new = Outcomes.of(shown, self._margin(shown), y, w, self.expected_.predict(shown))
        if not len(new):
            return self
        later = to_days(shown["date"]) > self.outcomes_.day.max()
        if later.any():
            rows = shown[later].reset_index(drop=True)
            self.corrections_.update(rows_of(rows, y[later], w[later], self.base_.margin(rows), self.base_.dispersion_))
        return self._calibrate_on(self.outcomes_.renewed(new))

    def predict(self, X: pd.DataFrame) -> FloatArray:
        """Return the predicted click-through rate of each row, a fraction in (0, 1), shape (n,).

        Raises
        ------
        InputError
            If a column the model was fitted on is missing.
        NotFittedError
            If the model is not fitted.
        """
        return self._calibrated(self._margin(X), X)

    def predict_with_intervals(
        self, X: pd.DataFrame, *, impressions: ArrayLike | None = None, confidence: float | None = None
    ) -> pd.DataFrame:
        """Return predictions with the interval that the observed click-through rate of the seven days will lie in.

        The interval holds for clicks / impressions, chance included: an ad with few impressions has a wide one, however
        well its true rate is known.

        Parameters
        ----------
        X : DataFrame, shape (n, …)
        impressions : array-like, shape (n,), optional
            Impressions that are planned. Without them those to be expected by the ad's and its account's history are
            taken, and the interval covers the error of that expectation too.
        confidence : float, optional
            Share of outcomes to be inside, 0.9 if not given.

        Returns
        -------
        DataFrame, shape (n, 4)
            ``predicted_ctr``, ``ctr_lower``, ``ctr_upper`` and ``interval_impressions``, with X's index and the
            confidence in ``attrs``; the last three are NaN where the history was too short to learn intervals from.

        Raises
        ------
        NotFittedError
            If the model is not fitted, or was made with ``uncertainty=False``.
        """
        if not self.uncertainty:
            raise NotFittedError(f"{self.model_name} was made with uncertainty=False; make it with True for intervals.")
        planned = None if impressions is None else np.asarray(impressions, dtype=np.float64)
        return told.with_intervals(self, X, self.predict(X), planned, confidence)

    def explain(self, X: pd.DataFrame) -> Contributions:
        """Return the exact SHAP values of each row's log-odds before calibration, beside the average training row.

        Names are features; ``prior_ctr`` is the level, ``text_…`` the parts of the text score, ``text_wording`` all of
        its words. Base and values add up to the margin of every row within 1e-4.
        """
        self._margin(X[:0])
        return explained(self.base_, self.corrections_, X).contributions

    def reasons(self, X: pd.DataFrame, k: int = 3) -> Reasons:
        """Return the ``k`` strongest reasons of each row, beside what is usual for its account.

        Raises
        ------
        NotFittedError
            If the model is not fitted, or was made with ``explainable=False``.
        """
        explainer = self.explainer
        self._margin(X[:0])
        return explainer.reasons(explained(self.base_, self.corrections_, X), X, self.to_rate(X), k)

    @property
    def explainer(self) -> Explainer:
        """What is usual for each account, for `reasons` and similar ads; errors as in `reasons`."""
        self._require_fitted()
        if self.explainer_ is None:
            raise NotFittedError(f"{self.model_name} was made with explainable=False; make it with True for reasons.")
        return self.explainer_

    def score(self, X: pd.DataFrame) -> pd.DataFrame:
        """Return the columns of ``ad_scores`` that the model knows, one row per row of X, with X's index.

        ``ad_score`` is the percentile of the prediction among the platform's training rows (all platforms' for one
        not seen in training), ``engagement_score`` that of the text score; both 0 to 100. ``sentiment_score`` is the
        feature, ``complexity_score`` 100 minus the reading ease, and null without text. ``confidence_score`` is the
        effective sample size as a share, n / (n + ``confidence_impressions``): it says how much the ad and its campaign
        have shown so far, not how wide an interval is.
        """
        return told.scores(self, X)

    def analyse(self, X: pd.DataFrame) -> pd.DataFrame:
        """Return the columns of ``ad_score_analysis`` that the model knows, one row per row of X, with X's index.

        ``base_ctr`` is the prediction of the account's usual ad, ``predicted_ctr`` that of the ad; ``reasons`` tell
        what lies between, ``similar_ads`` are past ads with the nearest text that did well, ``suggestions`` changes of
        the text or of the day of the start that raise the prediction. The lists are JSON text.

        Raises
        ------
        NotFittedError
            If the model is not fitted, or was made with ``explainable=False``.
        """
        return told.analysis(self, X)

    def validate(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> dict[str, float]:
        """Return log-loss, Brier score, AUC, ECE and predicted/actual clicks of the predictions on these rows."""
        y, w = self._checked(X, y, sample_weight)
        p = self.predict(X)
        judges = (metrics.log_loss, metrics.brier, metrics.auc, metrics.ece, metrics.calibration_ratio)
        return {judge.__name__: judge(y, p, sample_weight=w) for judge in judges}

    def training_curve(self) -> pd.DataFrame:
        """Return the log-loss by epoch of the members that are trained in epochs; no row where there is none.

        Columns: ``member``, ``epoch``, ``train``, ``validation``.
        """
        self._require_fitted()
        rows = [
            {"member": name, "epoch": point.epoch, "train": point.train, "validation": point.validation}
            for name, member in self.corrections_.members_.items()
            for point in member.training_curve()
        ]
        return pd.DataFrame(rows, columns=["member", "epoch", "train", "validation"])

    def get_feature_importance(self) -> dict[str, float]:
        """Share of the spread of the training predictions' log-odds by source, in falling order; sums to 1.

        ``prior_ctr`` and ``text_score`` stand for the first two terms; the corrections' share is divided among the
        features by what the members say of them.
        """
        self._require_fitted()
        shares = {"prior_ctr": self.spread_[0], "text_score": self.spread_[1]}
        for name, share in self.corrections_.importance().items():
            shares[name] = shares.get(name, 0.0) + share * self.spread_[2]
        total = sum(shares.values()) or 1.0
        return dict(sorted(((name, value / total) for name, value in shares.items()), key=lambda item: -item[1]))

    # ---- parts

    def _fit_corrections(
        self,
        X: pd.DataFrame,
        y: FloatArray,
        w: FloatArray,
        margin: FloatArray,
        validation: tuple[pd.DataFrame, ArrayLike, ArrayLike] | None,
    ) -> None:
        dispersion = self.base_.dispersion_
        later = None
        if validation is not None:
            later_y, later_w = self._checked(*validation)
            later = rows_of(validation[0], later_y, later_w, self.base_.margin(validation[0]), dispersion)
        self.corrections_ = Corrections(self.kind, self.feature_config, self._correcting_features())
        self.corrections_.fit(rows_of(X, y, w, margin, dispersion), later)

    def _correcting_features(self) -> list[str]:
        """Return the features of the modalities, without those of the text where the text score has a say.

        The text score is learned between ads of one campaign. Models of features of the same text learn between
        campaigns too, and what campaigns differ by would then reorder the ads within them.
        """
        allowed = set(self.feature_config.modalities)
        if self.base_.coefficients_.any():
            allowed -= {Modality.TEXT}
        return [name for name in self.feature_names if terms.modality(name) in allowed]

    @staticmethod
    def _fit_audience(X: pd.DataFrame, y: FloatArray, w: FloatArray, margin: FloatArray) -> AudienceMatch | None:
        """What fits which audience; None where no ad names one or no ad has a text."""
        known = [name for name in terms.AUDIENCE if name in X.columns]
        if len(known) < len(terms.AUDIENCE) or not X[known].notna().any(axis=None):
            return None
        if not X[["headline", "body"]].notna().any(axis=None):
            return None
        from within_ml.models.audience import AudienceMatch

        return AudienceMatch().fit(X, y, w, base_margin=margin)

    def _backtested(self, X: pd.DataFrame, y: FloatArray, w: FloatArray) -> Outcomes | None:
        """Outcomes of the last weeks, predicted by models of their time."""
        config = replace(self.feature_config, folds=_BACKTEST_FOLDS, refit=False)

        def make() -> AdScorePredictor:
            return AdScorePredictor(
                config, self.kind, calibration=False, explainable=False, uncertainty=False,
                feature_names=self.feature_names,
            )  # fmt: skip

        found = backtest(make, X, y, w, days=config.outcome_days)
        rows = found["row"].to_numpy()
        if not rows.size:
            return None
        known = X.iloc[rows].reset_index(drop=True)
        return Outcomes.of(
            known, logit(found["prediction"].to_numpy()), y[rows], w[rows], self.expected_.predict(known)
        )

    def _calibrate_on(self, outcomes: Outcomes) -> Self:
        recent = outcomes.last(self.feature_config.outcome_days)
        confidence = told.CONFIDENCE if self.uncertainty else None
        found = calibrate(recent, period_sd=self.base_.period_sd_, confidence=confidence)
        self.outcomes_, self.calibrator_, self.intervals_ = recent, found.calibrator, found.intervals
        method = found.calibrator.global_calibrator_.method_
        logger.info("ad score calibrated on %d outcomes: %s", len(recent), method)
        return self

    def _margin(self, X: pd.DataFrame, text: FloatArray | None = None) -> FloatArray:
        """Log-odds before calibration; ``text`` are the text scores, where they are known already."""
        self._require_fitted()
        self.require_columns(X, [*REQUIRED_COLUMNS, *self.feature_names])
        return self.base_.margin(X, text) + self.corrections_.of(X)

    def _text(self, X: pd.DataFrame) -> FloatArray:
        self._require_fitted()
        self.require_columns(X, REQUIRED_COLUMNS)
        return self.base_.text_score(X)

    def _calibrated(self, margin: FloatArray, X: pd.DataFrame) -> FloatArray:
        rates: FloatArray = expit(margin)
        return rates if self.calibrator_ is None else self.calibrator_.transform(rates, terms.hierarchy(X))

    def to_rate(self, X: pd.DataFrame) -> Callable[[FloatArray], FloatArray]:
        """Return the map from the rows' log-odds to their calibrated rates; their groups are looked up once."""
        if self.calibrator_ is None:
            return lambda margin: np.asarray(expit(margin), dtype=np.float64)
        calibrate, offset = self.calibrator_.global_calibrator_.transform, self.calibrator_.offsets(terms.hierarchy(X))
        return lambda margin: np.asarray(expit(logit(calibrate(expit(margin))) + offset), dtype=np.float64)

    def _require_fitted(self) -> None:
        if not hasattr(self, "corrections_"):
            raise NotFittedError(f"{self.model_name} must be fitted or loaded first; call fit or load.")

    def _checked(
        self, X: pd.DataFrame, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[FloatArray, FloatArray]:
        self.require_columns(X, [*REQUIRED_COLUMNS, *self.feature_names])
        rate, _, weight = metrics.check_rates(y, np.zeros(len(X)), sample_weight, names=("y", "X", "sample_weight"))
        return rate, weight

    # ---- save format

    def hyperparameters(self) -> dict[str, Any]:
        """Return the constructor's own arguments as JSON values."""
        return {
            "feature_config": asdict(self.feature_config),
            "model_type": str(self.kind),
            "calibration": self.calibration,
            "explainable": self.explainable,
            "uncertainty": self.uncertainty,
        }

    def _write_state(self, folder: Path) -> None:
        write_state(self, folder)

    def _read_state(self, folder: Path, metadata: ModelMetadata) -> None:
        read_state(self, folder)
