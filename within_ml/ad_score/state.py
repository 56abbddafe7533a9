"""The files of a saved ad score: which part lies where in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from within_ml.ad_score.backtest import ExpectedImpressions
from within_ml.ad_score.corrections import Corrections
from within_ml.ad_score.ctr_intervals import CtrIntervals
from within_ml.ad_score.explanation import Explainer
from within_ml.ad_score.level_text import LevelAndText
from within_ml.ad_score.outcomes import Outcomes
from within_ml.calibration.percentile import ALL_GROUPS, PercentileScale
from within_ml.errors import ModelFormatError

if TYPE_CHECKING:
    from within_ml.ad_score.predictor import AdScorePredictor

_STATE, _QUANTILES, _OUTCOMES = "ad_score.json", "quantiles.npz", "outcomes.npz"
_LEVEL_TEXT, _CORRECTIONS, _CALIBRATOR, _EXPLAINER, _AUDIENCE = (
    "level_text", "corrections", "calibrator", "explainer", "audience",
)  # fmt: skip


def write_state(model: AdScorePredictor, folder: Path) -> None:
    """Write the fitted state into an empty folder; a part that the model does not have has no file."""
    platforms, margins = model.margin_scale_.to_arrays()
    state = {
        "spread": model.spread_,
        "platforms": platforms,
        "correcting_features": model.corrections_.features,
        "expected_impressions": model.expected_.to_dict(),
        "intervals": model.intervals_.to_dict() if model.intervals_ is not None else None,
    }
    (folder / _STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    np.savez(folder / _QUANTILES, margin=margins, text=model.text_scale_.to_arrays()[1])
    parts: dict[str, Any] = {
        _LEVEL_TEXT: model.base_,
        _CORRECTIONS: model.corrections_,
        _CALIBRATOR: model.calibrator_,
        _EXPLAINER: model.explainer_,
        _AUDIENCE: model.audience_,
    }
    for name, part in parts.items():
        if part is not None:
            (folder / name).mkdir()
            part.save(folder / name)
    if model.outcomes_ is not None:
        model.outcomes_.save(folder / _OUTCOMES)


def read_state(model: AdScorePredictor, folder: Path) -> None:
    """Restore what `write_state` wrote on an unfitted model.

    Raises
    ------
    ModelFormatError
        If a file is missing or is not what `write_state` wrote.
    """
    try:
        _restore(model, folder, json.loads((folder / _STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFormatError(f"{folder} must hold a saved {model.model_type}; it does not ({error}).") from error


def _restore(model: AdScorePredictor, folder: Path, state: Mapping[str, Any]) -> None:
    from within_ml.calibration.hierarchical import HierarchicalCalibrator
    from within_ml.models.audience import AudienceMatch

    model.base_ = LevelAndText.load(folder / _LEVEL_TEXT, model.feature_config)
    model.corrections_ = Corrections.load(
        folder / _CORRECTIONS, model.kind, model.feature_config, list(state["correcting_features"])
    )
    model.spread_ = tuple(state["spread"])
    with np.load(folder / _QUANTILES, allow_pickle=False) as arrays:
        model.text_scale_ = PercentileScale.from_arrays([ALL_GROUPS], arrays["text"])
        model.margin_scale_ = PercentileScale.from_arrays(state["platforms"], arrays["margin"])
    model.expected_ = ExpectedImpressions.from_dict(state["expected_impressions"])
    model.intervals_ = CtrIntervals.from_dict(state["intervals"]) if state["intervals"] else None
    calibrator, explainer, audience, outcomes = (
        folder / name for name in (_CALIBRATOR, _EXPLAINER, _AUDIENCE, _OUTCOMES)
    )
    model.calibrator_ = HierarchicalCalibrator.load(calibrator) if calibrator.is_dir() else None
    model.explainer_ = Explainer.load(explainer) if explainer.is_dir() else None
    model.audience_ = AudienceMatch.load(audience) if audience.is_dir() else None
    model.outcomes_ = Outcomes.load(outcomes) if outcomes.is_file() else None
