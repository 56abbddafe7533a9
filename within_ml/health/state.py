"""The files of a saved account health model: which part lies where in its folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from within_ml.errors import ModelFormatError
from within_ml.health.hazard import ChurnHazard
from within_ml.health.risk import RiskModel

if TYPE_CHECKING:
    from within_ml.health.predictor import AccountHealthPredictor

_STATE, _RISK, _CHURN = "account_health.json", "risk", "churn"


def write_state(model: AccountHealthPredictor, folder: Path) -> None:
    """Write the fitted state into an empty folder."""
    (folder / _RISK).mkdir()
    model.risk_.save(folder / _RISK)
    if model.churn_ is not None:
        (folder / _CHURN).mkdir()
        model.churn_.save(folder / _CHURN)
    state = {
        "typical": {name: None if math.isnan(value) else value for name, value in model.typical_.items()},
        "ranges": {name: list(ends) for name, ends in model.ranges_.items()},
        "threshold": None if math.isnan(model.threshold_) else model.threshold_,
    }
    (folder / _STATE).write_text(json.dumps(state, indent=2, allow_nan=False), encoding="utf-8")


def read_state(model: AccountHealthPredictor, folder: Path) -> None:
    """Restore what `write_state` wrote on an unfitted model.

    Raises
    ------
    ModelFormatError
        If a file is missing or is not what `write_state` wrote.
    """
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        model.typical_ = {
            str(name): math.nan if value is None else float(value) for name, value in state["typical"].items()
        }
        model.ranges_ = {str(name): (float(low), float(high)) for name, (low, high) in state["ranges"].items()}
        model.threshold_ = math.nan if state["threshold"] is None else float(state["threshold"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFormatError(f"{folder} must hold a saved {model.model_type}; it does not ({error}).") from error
    model.risk_ = RiskModel.load(folder / _RISK, model.config)
    churn = folder / _CHURN
    model.churn_ = ChurnHazard.load(churn, model.config) if churn.is_dir() else None
