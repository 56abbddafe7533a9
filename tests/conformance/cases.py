"""Every estimator of the library with rows to fit it on, and how it is fitted, asked, saved and loaded.

The rows of all cases are one frame of ads; each case takes of it what its estimator is given in the ad score. What all
of them must hold to stands in `test_estimators`. A promise that cannot hold for a case is in its ``exempt``, with the
reason.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import expit, logit

from within_ml.ad_score import AdScorePredictor
from within_ml.ad_score.config import ScoreModelType
from within_ml.calibration.geospatial import GeospatialCalibrator
from within_ml.calibration.hierarchical import HierarchicalCalibrator
from within_ml.calibration.scaling import BetaCalibrator, PlattCalibrator
from within_ml.calibration.spline import SplineCalibrator
from within_ml.ensemble import CalibratedEnsemble
from within_ml.explain.similar import SimilarAds, similar_json
from within_ml.features.multimodal import MultiModalFeatureExtractor
from within_ml.features.text_score import TextScore
from within_ml.health import AccountHealthPredictor
from within_ml.lake.simulation.tables import regions_table
from within_ml.models.audience import AudienceMatch
from within_ml.models.boosted import BoostedRate
from within_ml.models.dynamic_linear import DynamicLinear
from within_ml.models.network_rate import NetworkRate
from within_ml.models.row_encoding import RowEncoder
from within_ml.uncertainty.intervals import RateIntervals

LEVELS = ("account_id", "campaign_id", "ad_group_id", "ad_id")
NUMBERS = ["prior_ctr", "prior_impressions", "ad_impressions_28d", "sentiment"]
GAPS = ("prior_impressions", "ad_impressions_28d", "sentiment")
REGIONS = regions_table().to_pandas()

UNTOUCHED, ORDER, EMPTY, ONE_ROW = "inputs untouched", "column order", "empty input", "one row"
UNSEEN, MISSING, ONE_CLASS = "unseen categories", "all-missing columns", "one class"
MISSING_IN_FIT = "all-missing columns of fit"
PROPERTIES = {UNTOUCHED, ORDER, EMPTY, ONE_ROW, UNSEEN, MISSING, MISSING_IN_FIT, ONE_CLASS}


def _png(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (12, 12, 3)).astype(np.uint8)).save(file, format="PNG")
    return file.getvalue()


@cache
def _rows(n: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    good = rng.random(n) < 0.5
    images = np.array([_png(rng) for _ in range(6)], dtype=object)
    raw = expit(rng.normal(-3.8, 0.5, n))
    frame = pd.DataFrame(
        {
            "date": pd.date_range("2024-01-01", periods=n // 4).repeat(4),
            "platform": rng.choice(["meta", "google"], n),
            "account_id": rng.choice(["a", "b", "c"], n),
            "campaign_id": (np.arange(n) // 8).astype(str),
            "ad_group_id": (np.arange(n) // 4).astype(str),
            "ad_id": np.arange(n).astype(str),
            "region": rng.choice(["US-CA", "US-NV", "US-NY", "US-NJ"], n),
            "audience_age": rng.choice(["18-24", "35-44"], n),
            "audience_gender": rng.choice(["female", "male"], n),
            "interests": rng.choice(["sports", "home"], n),
            "headline": [f"{'Great' if g else 'Dull'} thing number {i % 30}" for i, g in enumerate(good)],
            "body": ["Read it all." if i % 3 else None for i in range(n)],
            "image_path": images[rng.integers(0, 6, n)],
            "prior_ctr": raw,
            "prior_impressions": rng.integers(0, 5000, n).astype(float),
            "ad_impressions_28d": rng.integers(0, 5000, n).astype(float),
            "sentiment": rng.normal(size=n),
        }
    )
    w = rng.integers(500, 3000, n).astype(float)
    return frame, rng.binomial(w.astype(int), expit(logit(raw) + np.where(good, 0.4, -0.4))) / w, w


def rows(n: int = 320) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Rows in the order of time, their rates and their impressions, each a copy."""
    frame, y, w = _rows(n)
    return frame.copy(), y.copy(), w.copy()


def _save(model: Any, folder: Path) -> None:
    """By whatever the estimator has: its folder, or JSON of its state."""
    if hasattr(model, "save"):
        model.save(folder)
    else:
        (folder / "state.json").write_text(json.dumps(model.to_dict(), allow_nan=False))


def _load(kind: type) -> Callable[[Path], Any]:
    def load(folder: Path) -> Any:
        if hasattr(kind, "save"):
            return kind.load(folder)
        return kind.from_dict(json.loads((folder / "state.json").read_text()))

    return load


@dataclass(frozen=True)
class Case:
    """How one estimator is made and used; ``gaps`` may be null throughout, ``categories`` hold ids that may be new."""

    make: Callable[[], Any]
    fit: Callable[[Any, pd.DataFrame, Any, Any], Any]
    apply: Callable[[Any, pd.DataFrame], np.ndarray]
    gaps: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    exempt: Mapping[str, str] = field(default_factory=dict)
    save: Callable[[Any, Path], None] = _save
    load: Callable[[Path], Any] | None = None
    takes_y: bool = True
    takes_weight: bool = True

    def loaded(self, folder: Path) -> Any:
        return (self.load or _load(type(self.make())))(folder)


# ---- how each is given the rows

NO_COLUMNS = "takes arrays, which have no order of columns"
ONE_ARRAY = "takes one array of predictions: there is no other column that could be missing or new"
NEEDS_FINITE = "asks for finite numbers; gaps become columns of their own in RowEncoder, which stands before it"
NO_CATEGORIES = "takes numbers alone; the ids are encoded before"
NO_TARGET = "learns nothing from the rates"


def _numbers(X: pd.DataFrame) -> pd.DataFrame:
    return X[[name for name in X.columns if name in {*NUMBERS, "surprise"}]]


def _calibrator(make: Callable[[], Any]) -> Case:
    return Case(
        make,
        lambda model, X, y, w: model.fit(X["prior_ctr"].to_numpy(copy=True), y, w),
        lambda model, X: model.transform(X["prior_ctr"].to_numpy(copy=True)),
        exempt={ORDER: NO_COLUMNS, UNSEEN: ONE_ARRAY, MISSING: ONE_ARRAY, MISSING_IN_FIT: ONE_ARRAY},
    )


def _fit_in_order(model: Any, X: pd.DataFrame, y: Any, w: Any) -> Any:
    return model.fit(_numbers(X), y, w)


def _predicted(model: Any, X: pd.DataFrame) -> np.ndarray:
    return model.predict(_numbers(X))


def _fit_intervals(model: RateIntervals, X: pd.DataFrame, y: Any, w: Any) -> RateIntervals:
    weeks = (X["date"] - X["date"].min()).dt.days // 7
    return model.fit(X["prior_ctr"], y, w, X["account_id"], periods=weeks, difficulty=X["prior_ctr"])


def _bounds(model: RateIntervals, X: pd.DataFrame) -> np.ndarray:
    impressions = np.full(len(X), 800.0)
    found = model.predict(X["prior_ctr"], impressions, X["account_id"], difficulty=X["prior_ctr"])
    return np.column_stack([found.lower, found.upper])


def _save_ensemble(model: CalibratedEnsemble, folder: Path) -> None:
    state = model.to_dict()
    (folder / "state.json").write_text(json.dumps(state, allow_nan=False))
    for name in state["members"]:
        (folder / name).mkdir()
        model.models_[name].save(folder / name)


def _load_ensemble(folder: Path) -> CalibratedEnsemble:
    state = json.loads((folder / "state.json").read_text())
    return CalibratedEnsemble.from_dict(state, {name: BoostedRate.load(folder / name) for name in state["members"]})


def _fit_similar(model: SimilarAds, X: pd.DataFrame, y: Any, w: Any) -> SimilarAds:
    w = np.ones(len(X)) if w is None else w
    return model.fit(X["headline"].tolist(), y, w, X, X["date"])


def _similar(model: SimilarAds, X: pd.DataFrame) -> np.ndarray:
    return np.array(similar_json(model.find(X["headline"].tolist(), keys=X, within="account")), dtype=object)


def _fit_score(model: AdScorePredictor, X: pd.DataFrame, y: Any, w: Any) -> AdScorePredictor:
    return model.fit(X.drop(columns="image_path"), y, sample_weight=w)


def _boosted(**options: Any) -> BoostedRate:
    return BoostedRate(**{"n_estimators": 20, "min_child_weight": 1.0, "n_threads": 1, **options})


def _ensemble() -> CalibratedEnsemble:
    return CalibratedEnsemble({"deep": _boosted(max_depth=4), "flat": _boosted(max_depth=1)})


def _ad_score(kind: ScoreModelType) -> Case:
    settings = {"n_estimators": 20, "n_threads": 1, "epochs": 2, "early_stopping_days": 14}
    return Case(
        lambda: AdScorePredictor(settings, str(kind)),
        _fit_score,
        lambda model, X: model.predict(X),
        gaps=(*GAPS, "body", "headline"),
        categories=("platform", *LEVELS),
        save=lambda model, folder: model.save(folder / "model"),
        load=lambda folder: AdScorePredictor.load(folder / "model"),
    )


def _customers(X: pd.DataFrame) -> pd.DataFrame:
    """The rows as a table of customers; whose account it is stays a category like any other."""
    wanted = {*NUMBERS, "platform", "account_id", "region", "surprise"}
    return X[[name for name in X.columns if name in wanted]].rename(columns={"account_id": "account"})


def _fit_health(model: AccountHealthPredictor, X: pd.DataFrame, y: Any, w: Any) -> AccountHealthPredictor:
    # Outcomes are yes or no: the middle rate tells them apart; what is no rate stays what it is.
    rates = np.asarray(y, dtype=float)
    outcomes = np.where((rates >= 0) & (rates <= 1), rates > np.nanmedian(rates), rates)
    return model.fit(_customers(X), outcomes, sample_weight=w)


CASES: dict[str, Case] = {
    "SplineCalibrator": _calibrator(SplineCalibrator),
    "SplineCalibrator of few knots": _calibrator(lambda: SplineCalibrator(n_knots=4, min_clicks=1.0)),
    "BetaCalibrator": _calibrator(BetaCalibrator),
    "PlattCalibrator": _calibrator(PlattCalibrator),
    "HierarchicalCalibrator": Case(
        lambda: HierarchicalCalibrator(LEVELS),
        # The whole frame: the calibrator picks its levels by name.
        lambda model, X, y, w: model.fit(X["prior_ctr"], y, X, w),
        lambda model, X: model.transform(X["prior_ctr"], X),
        gaps=LEVELS,
        categories=LEVELS,
    ),
    "GeospatialCalibrator": Case(
        GeospatialCalibrator,
        lambda model, X, y, w: model.fit(X["prior_ctr"], y, X["region"], w, region_table=REGIONS, dates=X["date"]),
        lambda model, X: model.transform(X["prior_ctr"], X["region"], dates=X["date"]),
        gaps=("region",),
        categories=("region",),
        exempt={ORDER: NO_COLUMNS},
    ),
    "CalibratedEnsemble": Case(
        _ensemble,
        _fit_in_order,
        _predicted,
        gaps=GAPS,
        exempt={UNSEEN: NO_CATEGORIES},
        save=_save_ensemble,
        load=_load_ensemble,
    ),
    "BoostedRate": Case(_boosted, _fit_in_order, _predicted, gaps=GAPS, exempt={UNSEEN: NO_CATEGORIES}),
    "NetworkRate": Case(
        lambda: NetworkRate(hidden_dims=(8,), epochs=2, attention_dim=4, attention_heads=2, device="cpu"),
        _fit_in_order,
        _predicted,
        gaps=GAPS,
        exempt={UNSEEN: NO_CATEGORIES},
    ),
    "DynamicLinear": Case(
        lambda: DynamicLinear(time_decay=0.001),
        _fit_in_order,
        _predicted,
        exempt={UNSEEN: NO_CATEGORIES, MISSING: NEEDS_FINITE, MISSING_IN_FIT: NEEDS_FINITE},
    ),
    "RowEncoder": Case(
        lambda: RowEncoder(256, categorical=("platform", "account_id")),
        lambda model, X, y, w: model.fit(X[[*NUMBERS, "platform", "account_id"]]),
        lambda model, X: model.transform(X).toarray(),
        gaps=(*GAPS, "platform"),
        categories=("platform", "account_id"),
        exempt={ONE_CLASS: NO_TARGET},
        takes_y=False,
        takes_weight=False,
    ),
    "TextScore": Case(
        TextScore,
        lambda model, X, y, w: model.fit(X, y, sample_weight=w, groups=X["campaign_id"]),
        lambda model, X: model.predict(X),
        gaps=("headline", "body"),
        categories=("headline", "body"),
    ),
    "MultiModalFeatureExtractor": Case(
        lambda: MultiModalFeatureExtractor(output_dim=12),
        lambda model, X, y, w: model.fit(X, y, w),
        lambda model, X: model.transform(X),
        gaps=(*GAPS, "headline", "body", "image_path", "platform"),
        categories=("platform", "account_id", "headline"),
    ),
    "AudienceMatch": Case(
        lambda: AudienceMatch(components=4),
        lambda model, X, y, w: model.fit(X, y, w),
        lambda model, X: model.score(X),
        gaps=("headline", "body", "interests", "audience_age"),
        categories=("headline", "interests", "audience_age", "audience_gender"),
        exempt={
            MISSING_IN_FIT: "matches contents with audiences: rows without any content are refused, with a message"
        },
    ),
    "RateIntervals": Case(
        lambda: RateIntervals(min_rows=40),
        _fit_intervals,
        _bounds,
        gaps=("account_id",),
        categories=("account_id",),
        exempt={ORDER: NO_COLUMNS},
    ),
    "SimilarAds": Case(
        SimilarAds,
        _fit_similar,
        _similar,
        gaps=("headline",),
        categories=("headline", "account_id", "platform", "campaign_id", "ad_id"),
    ),
    "AccountHealthPredictor of a table": Case(
        lambda: AccountHealthPredictor(config={"n_estimators": 20, "n_threads": 1}),
        _fit_health,
        lambda model, X: model.predict(_customers(X)),
        gaps=(*GAPS, "region"),
        categories=("platform", "account_id", "region"),
        save=lambda model, folder: model.save(folder / "model"),
        load=lambda folder: AccountHealthPredictor.load(folder / "model"),
        exempt={ONE_CLASS: "refuses a table with one outcome, with a message: nothing tells its rows apart"},
    ),
    **{f"AdScorePredictor of {kind}": _ad_score(kind) for kind in ScoreModelType},
}
