"""What a row of ``account_health`` says, column by column, and the checks of a table's outcome."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError, shown
from within_ml.explain.contributions import Contributions
from within_ml.health.actions import recommend, recommendations_json
from within_ml.health.config import HORIZONS, RiskLevel
from within_ml.health.explanation import Explanation, Factor, factors_json, factors_of
from within_ml.health.history import GONE, LABEL, NO_HISTORY
from within_ml.health.warnings import WARNED_DAYS

if TYPE_CHECKING:
    from within_ml.health.predictor import AccountHealthPredictor

FloatArray = NDArray[np.float64]

NO_FEATURES = ("account_id", "date", LABEL, GONE, NO_HISTORY)
TOLD = ("engagement_trend", "spend_efficiency", "reach_saturation", "frequency", "fatigue")
LEFT = Factor("presence", "the account has left", 0.0, 0.0, GONE, None, None)
NEW = Factor("presence", "no performance yet: the risk of the average account", 0.0, 0.0, NO_HISTORY, None, None)
NOTHING = "[]"
LABEL_WIDTH, WATERFALL_FACTORS = 44, 8


def health(model: AccountHealthPredictor, X: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of ``account_health`` for rows of features, with X's index."""
    gone, new = flags(X)
    known = ~gone & ~new
    p = np.where(gone, 1.0, model.risk_model.average)
    left, without = factors_json([(LEFT,), (NEW,)])
    factors = np.where(gone, left, without).astype(object)
    actions = np.full(len(X), NOTHING, dtype=object)
    if known.any():
        rows = X[known].reset_index(drop=True)
        parts = model.explain(rows)
        # Not of the parts' margin: trees' parts are summed in single precision.
        p[known] = model.predict(rows)
        told = factors_of(parts, rows, model.typical_, model.risk_model.calibrated, k=model.config.factors)
        factors[known] = factors_json(told)
        offered = recommend(
            rows, model.predict, model.ranges_, min_effect=model.config.min_effect, k=model.config.actions
        )
        actions[known] = recommendations_json(offered)
    frame = pd.DataFrame({"account_id": X["account_id"], "date": X["date"]}, index=X.index)
    frame["health_score"] = 100.0 * (1.0 - p)
    frame["risk_level"] = np.where(gone, str(RiskLevel.CRITICAL), model.risk_thresholds.levels(p))
    frame["bad_state_probability"] = p
    churn = churn_columns(model, X)
    frame = pd.concat([frame, churn], axis=1)
    for name in TOLD:
        frame[name] = X[name].astype(np.float64) if name in X.columns else np.nan
    frame["segment"] = X["segment"].astype(object) if "segment" in X.columns else None
    frame["early_warning"] = ~gone & (churn[f"churn_risk_{WARNED_DAYS}d"].to_numpy() >= model.threshold_)
    frame["contributing_factors"] = factors
    frame["recommended_actions"] = actions
    return frame


def explanation(model: AccountHealthPredictor, row: pd.DataFrame, account_id: str, day: str | None) -> Explanation:
    """Return why the account of one row has its risk; one that has left, or without history, has no other reason."""
    gone, new = flags(row)
    parts = model.explain(row)
    margin, base = float(parts.margin[0]), float(parts.base[0])
    if gone[0] or new[0]:
        only, p = (LEFT, 1.0) if gone[0] else (NEW, model.risk_model.average)
        return Explanation(account_id, day, p, base, base, (only,))
    factors = factors_of(parts, row, model.typical_, model.risk_model.calibrated)[0]
    return Explanation(account_id, day, float(model.predict(row)[0]), margin, base, factors)


def churn_columns(model: AccountHealthPredictor, X: pd.DataFrame) -> pd.DataFrame:
    """Return the risks of churn with their intervals: 1 for an account that has left."""
    gone, new = flags(X)
    known = ~gone & ~new
    names = [f"churn_risk_{days}d" for days in HORIZONS]
    if model.churn_ is None:
        columns = [f"{name}{end}" for name in names for end in ("", "_lower", "_upper")]
        return pd.DataFrame(np.nan, index=X.index, columns=columns)
    found = {"": np.ones((len(X), len(HORIZONS))), "_lower": np.ones((len(X), len(HORIZONS)))}
    found["_upper"] = found[""].copy()
    for rows, values in ((new, model.churn_.average()), (known, None)):
        if rows.any():
            told = values if values is not None else model.churn_.intervals(X.loc[rows, model.feature_names])
            for end, one in zip(("", "_lower", "_upper"), told, strict=True):
                found[end][rows] = one
    return pd.DataFrame(
        {f"{name}{end}": found[end][:, i] for i, name in enumerate(names) for end in ("", "_lower", "_upper")},
        index=X.index,
    )


def flags(X: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows are of accounts that have left, and which of accounts without history."""
    gone, new = (
        X[name].to_numpy(dtype=bool) if name in X.columns else np.zeros(len(X), dtype=bool)
        for name in (GONE, NO_HISTORY)
    )
    return gone, new & ~gone


def waterfall(model: AccountHealthPredictor, row: pd.DataFrame) -> bytes:
    """Draw one row's parts by group of features, each named by what its strongest feature says, as PNG."""
    from within_ml.explain.plots import waterfall_plot

    parts = model.explain(row)
    factors = factors_of(parts, row, model.typical_, model.risk_model.calibrated)[0]
    names = [fill(factor.text.rsplit(": ", 1)[0], LABEL_WIDTH) for factor in factors]
    values = [[factor.log_odds for factor in factors]]
    said = Contributions.of(names, values, base=parts.base)
    return waterfall_plot(said, pd.DataFrame(index=row.index), 0, max_features=WATERFALL_FACTORS)


def binary(y: ArrayLike, rows: int) -> FloatArray:
    """Return outcomes as 0 and 1, shape (rows,).

    Raises
    ------
    InputError
        If the length is another, or there are not two different values that can be 0 and 1.
    """
    outcome = outcomes(y, rows)
    if np.unique(outcome).size < 2:
        raise InputError(f"y must hold both outcomes, 0 and 1, however: only {shown(np.unique(outcome).tolist())}.")
    return outcome


def outcomes(y: ArrayLike, rows: int) -> FloatArray:
    """Return outcomes as 0 and 1, shape (rows,); all may be the same.

    Raises
    ------
    InputError
        If the length is another, or a value is neither 0 nor 1.
    """
    values = np.asarray(y)
    if values.shape != (rows,):
        raise InputError(f"y must have one outcome for each of the {rows} rows, however: shape {values.shape}.")
    try:
        numbers = values.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"y must be 0 and 1, or False and True, however: {shown(pd.unique(pd.Series(values)))}."
        ) from error
    wrong = numbers[~np.isin(numbers, (0.0, 1.0))]
    if wrong.size:
        raise InputError(f"y must be 0 and 1, or False and True, however: {shown(np.unique(wrong).tolist())}.")
    return numbers
