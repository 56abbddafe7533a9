"""Why an account has its risk: the exact parts of its log-odds, in groups, worded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.explain.contributions import Contributions
from within_ml.health.wording import phrase, points_of_risk

FloatArray = NDArray[np.float64]

MIN_LOG_ODDS = 1e-4


@dataclass(frozen=True, slots=True)
class Factor:
    """A group of features and its part in an account's risk.

    ``log_odds`` is the exact part of the log-odds before calibration; ``points`` what the risk would lose without it,
    in percentage points; ``feature`` the one of the group that says most, ``value`` and ``usual`` its value and that of
    a typical account (None if not known, or no number).
    """

    group: str
    text: str
    log_odds: float
    points: float
    feature: str
    value: float | None
    usual: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """An account's risk and all its factors, the strongest first.

    ``base`` and the factors' ``log_odds`` add up to ``log_odds``, which calibration maps to ``probability``. ``date``
    is None of a table without one.
    """

    account_id: str
    date: str | None
    probability: float
    log_odds: float
    base: float
    factors: tuple[Factor, ...]


def factors_of(
    parts: Contributions,
    X: pd.DataFrame,
    typical: Mapping[str, float],
    to_probability: Callable[[FloatArray], FloatArray],
    *,
    k: int | None = None,
) -> list[tuple[Factor, ...]]:
    """Return each row's factors, the strongest first; all of them, or those ``k`` that move the risk most."""
    told = [phrase(name) for name in parts.names]
    grouped = parts.grouped({name: one.group for name, one in zip(parts.names, told, strict=True)})
    members = {group: [i for i, one in enumerate(told) if one.group == group] for group in grouped.names}
    count = len(grouped.names) if k is None else min(k, len(grouped.names))
    order = np.argsort(-np.abs(grouped.values), axis=1, kind="stable")[:, :count]
    p = to_probability(parts.margin)
    points = np.empty(order.shape)
    for rank in range(count):
        points[:, rank] = 100 * (p - to_probability(parts.margin - grouped.values[np.arange(len(p)), order[:, rank]]))
    values = _numbers(X, parts.names)
    found: list[tuple[Factor, ...]] = []
    for row in range(len(p)):
        one = []
        for rank, group in enumerate(order[row]):
            part = float(grouped.values[row, group])
            if k is not None and abs(part) < MIN_LOG_ODDS:
                break
            columns = members[grouped.names[group]]
            lead = columns[int(np.argmax(parts.values[row, columns] * np.sign(part)))]
            one.append(_factor(grouped.names[group], parts.names[lead], X, row, values[row, lead], typical, part,
                               float(points[row, rank])))  # fmt: skip
        found.append(tuple(one))
    return found


def _factor(
    group: str,
    feature: str,
    X: pd.DataFrame,
    row: int,
    value: float,
    typical: Mapping[str, float],
    part: float,
    points: float,
) -> Factor:
    usual = typical.get(feature, float("nan"))
    raw = X[feature].iloc[row] if feature in X.columns else None
    if np.isnan(value) and isinstance(raw, str):
        said = f"{phrase(feature).subject} is {raw}"
    else:
        said = phrase(feature).told(value, usual)
    return Factor(
        group, f"{said}: {points_of_risk(points)}", part, round(points, 4), feature, _known(value), _known(usual)
    )


def factors_json(found: list[tuple[Factor, ...]]) -> list[str]:
    """Return each row's factors as a JSON list of objects, ``text`` the sentence."""
    dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    return [dumps([{**asdict(one), "log_odds": round(one.log_odds, 6)} for one in row]) for row in found]


def typical_values(X: pd.DataFrame) -> dict[str, float]:
    """Return the median of each column of numbers, NaN for one without any."""
    return {
        str(name): float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")
        for name in X.columns
        if pd.api.types.is_numeric_dtype(X[name])
        for values in [X[name].to_numpy(np.float64, na_value=np.nan)]
    }


def _numbers(X: pd.DataFrame, names: tuple[str, ...]) -> FloatArray:
    found = np.full((len(X), len(names)), np.nan)
    for i, name in enumerate(names):
        if name in X.columns and pd.api.types.is_numeric_dtype(X[name]):
            found[:, i] = X[name].to_numpy(np.float64, na_value=np.nan)
    return found


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
