"""What an agency could change in an account, each change shown to lower the predicted risk.

A counterfactual of the model: the same account with the indicators that one change would move, all of them together and
within bounds, predicted again. It says what the model expects, which is no experiment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Row = Mapping[str, FloatArray]
Edit = Callable[[Row, Mapping[str, tuple[float, float]], float], dict[str, FloatArray]]

_SAME = 1e-9

LARGEST_STEP = 0.3
"""Spend moves by no more than this share at a time: platforms learn anew after larger steps."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A change, the probability of a bad state without and with it, and the indicators that it was predicted with.

    ``change_in_risk`` is below 0; ``changes`` maps an indicator to its value now and then.
    """

    action: str
    text: str
    risk: float
    new_risk: float
    change_in_risk: float
    changes: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Action:
    """One kind of change, in one or more strengths.

    Attributes
    ----------
    name, text : str
        What to do; ``text`` may contain ``{strength}``, in percent.
    needs : tuple of str
        Indicators without which the change means nothing.
    edit : callable
        Columns, their plausible ranges and the strength → the columns that differ.
    strengths : tuple of float
    """

    name: str
    text: str
    needs: tuple[str, ...]
    edit: Edit
    strengths: tuple[float, ...] = (1.0,)


def recommend(
    X: pd.DataFrame,
    predict: Callable[[pd.DataFrame], FloatArray],
    ranges: Mapping[str, tuple[float, float]],
    *,
    min_effect: float,
    k: int | None = None,
) -> list[tuple[Recommendation, ...]]:
    """Return each row's changes that lower its risk by at least ``min_effect``, the strongest first.

    Parameters
    ----------
    X : DataFrame, shape (n, …)
        Features as ``predict`` takes them; it is not changed.
    predict : callable
        Frame → probability of a bad state, shape (n,).
    ranges : mapping of str to (low, high)
        Where the indicators of most accounts lie. No change leads out of it, but for a value that is outside already.
    """
    frame = X.reset_index(drop=True)
    found: list[list[Recommendation]] = [[] for _ in range(len(frame))]
    if not len(frame):
        return []
    now = predict(frame)
    numbers = {str(c): _numbers(frame, str(c)) for c in frame.columns if pd.api.types.is_numeric_dtype(frame[c])}
    for action in ACTIONS:
        if any(name not in numbers for name in action.needs):
            continue
        best = np.full(len(frame), np.inf)
        chosen: list[Recommendation | None] = [None] * len(frame)
        for strength in action.strengths:
            edited = _bounded(numbers, action.edit(numbers, ranges, strength), ranges)
            moved = _moved(numbers, edited, action.needs)
            if not moved.any():
                continue
            rows = np.flatnonzero(moved)
            then = predict(frame.iloc[rows].assign(**{name: values[rows] for name, values in edited.items()}))
            for row, risk in zip(rows.tolist(), then.tolist(), strict=True):
                if risk < min(best[row], now[row]) and now[row] - risk >= min_effect:
                    best[row] = risk
                    chosen[row] = _recommendation(action, strength, row, float(now[row]), risk, numbers, edited)
        for row, one in enumerate(chosen):
            if one is not None:
                found[row].append(one)
    return [tuple(sorted(row, key=lambda one: one.new_risk)[:k]) for row in found]


def _recommendation(
    action: Action, strength: float, row: int, risk: float, then: float, numbers: Row, edited: Row
) -> Recommendation:
    changes = {
        name: (round(float(numbers[name][row]), 6), round(float(values[row]), 6))
        for name, values in edited.items()
        if abs(values[row] - numbers[name][row]) > _SAME
    }
    return Recommendation(action.name, action.text.format(strength=f"{strength:.0%}"), risk, then, then - risk, changes)


def recommendations_json(found: Sequence[Sequence[Recommendation]]) -> list[str]:
    """Return each row's recommendations as a JSON list of objects."""
    dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    rounded = [
        [
            {**asdict(one), **{n: round(getattr(one, n), 6) for n in ("risk", "new_risk", "change_in_risk")}}
            for one in row
        ]
        for row in found
    ]
    return [dumps(row) for row in rounded]


def plausible_ranges(X: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return where nine tenths of the rows lie, for each column of numbers that has any."""
    found = {}
    for name in X.columns:
        if not pd.api.types.is_numeric_dtype(X[name]):
            continue
        values = X[name].to_numpy(np.float64, na_value=np.nan)
        if np.isfinite(values).any():
            low, high = np.nanquantile(values, [0.05, 0.95])
            found[str(name)] = (float(low), float(high))
    return found


def _numbers(frame: pd.DataFrame, name: str) -> FloatArray:
    return np.asarray(frame[name].to_numpy(np.float64, na_value=np.nan))


def _bounded(
    now: Row, edited: Mapping[str, FloatArray], ranges: Mapping[str, tuple[float, float]]
) -> dict[str, FloatArray]:
    """Keep new values in the plausible range, extended to the value that is there; what is not known stays so."""
    found = {}
    for name, values in edited.items():
        if name not in now or name not in ranges:
            continue
        low, high = np.fmin(ranges[name][0], now[name]), np.fmax(ranges[name][1], now[name])
        found[name] = np.where(np.isnan(now[name]) | np.isnan(values), now[name], np.clip(values, low, high))
    return found


def _moved(now: Row, edited: Row, needs: Sequence[str]) -> NDArray[np.bool_]:
    known = np.all([~np.isnan(now[name]) for name in needs], axis=0)
    moved = [np.abs(values - now[name]) > _SAME for name, values in edited.items()]
    return np.asarray(known & np.any(moved, axis=0)) if moved else np.zeros(known.shape, dtype=bool)


# ---- the table


def _add(columns: Row, name: str, difference: FloatArray | float) -> dict[str, FloatArray]:
    return {name: columns[name] + difference} if name in columns else {}


def _times(columns: Row, name: str, factor: FloatArray | float) -> dict[str, FloatArray]:
    return {name: columns[name] * factor} if name in columns else {}


def _paced(columns: Row, pace: FloatArray, wanted: FloatArray) -> dict[str, FloatArray]:
    """Spend of the last week at another pace, and what of a month's sums and of the volume follows it.

    Volume follows spend, but no further than to what it was in the weeks before: more money does not heal what made
    an account lose more than that.
    """
    target = np.clip(wanted, pace / (1 + LARGEST_STEP), pace * (1 + LARGEST_STEP))
    ratio = np.log(np.maximum(target, 1e-3) / np.maximum(pace, 1e-3))
    changed = {"budget_pacing_7d": target}
    changed |= _add(columns, "budget_pacing_28d", (target - pace) / 4)
    for metric in ("spend", "impressions", "clicks"):
        for name, moved in _add(columns, f"{metric}_7d_vs_28d", ratio).items():
            changed[name] = np.where(ratio > 0, np.minimum(moved, np.maximum(columns[name], 0.0)), moved)
    return changed


def _slow_down(columns: Row, ranges: Mapping[str, tuple[float, float]], strength: float) -> dict[str, FloatArray]:
    pace = columns["budget_pacing_7d"]
    return _paced(columns, pace, np.minimum(pace, 1.0))


def _spend_up(columns: Row, ranges: Mapping[str, tuple[float, float]], strength: float) -> dict[str, FloatArray]:
    """Never above the budget: where the month's spend is above it already there is nothing to add."""
    pace = columns["budget_pacing_7d"]
    month = columns.get("budget_pacing_28d", pace)
    room = np.maximum(1.0 - np.fmax(month, 0.0), 0.0) * 4
    return _paced(columns, pace, np.maximum(np.minimum(pace + room, 1.0), pace))


def _refresh(columns: Row, ranges: Mapping[str, tuple[float, float]], strength: float) -> dict[str, FloatArray]:
    share = columns["creative_refresh"]
    changed = {"creative_refresh": np.maximum(share, strength)}
    if "newest_ad_days" in columns:
        changed["newest_ad_days"] = np.minimum(columns["newest_ad_days"], 0.0)
    if "fatigue" in columns:
        # New ads have not worn out: the loss is that of the impressions that stay on old ones.
        old = np.clip((1.0 - changed["creative_refresh"]) / np.maximum(1.0 - share, 0.01), 0.0, 1.0)
        changed["fatigue"] = np.where(columns["fatigue"] < 0, columns["fatigue"] * old, columns["fatigue"])
    return changed


def _separate(columns: Row, ranges: Mapping[str, tuple[float, float]], strength: float) -> dict[str, FloatArray]:
    overlap = columns["audience_overlap"]
    return {"audience_overlap": overlap * (1.0 - strength)} | (
        _times(columns, "audience_concentration", 1.0 - strength / 2)
    )


def _lower_bids(columns: Row, ranges: Mapping[str, tuple[float, float]], strength: float) -> dict[str, FloatArray]:
    step = float(np.log1p(-strength))
    changed = _times(columns, "cpc_28d", 1.0 - strength) | _add(columns, "cpc_28d_vs_90d", step)
    changed |= _add(columns, "cpa_28d_vs_90d", step) | _returns(columns, -step)
    return changed


def _better_page(columns: Row, ranges: Mapping[str, tuple[float, float]], strength: float) -> dict[str, FloatArray]:
    step = float(np.log1p(strength))
    changed = _times(columns, "cvr_28d", 1.0 + strength) | _add(columns, "cvr_28d_vs_90d", step)
    changed |= _add(columns, "cpa_28d_vs_90d", -step) | _returns(columns, step)
    return changed


def _returns(columns: Row, step: float) -> dict[str, FloatArray]:
    """More revenue from the same spend; of an account whose revenue is not known the efficiency is its click rate."""
    changed = _times(columns, "roas_28d", float(np.exp(step))) | _add(columns, "roas_28d_vs_90d", step)
    if "roas_28d" in columns and "spend_efficiency" in columns:
        priced = ~np.isnan(columns["roas_28d"])
        changed["spend_efficiency"] = columns["spend_efficiency"] + np.where(priced, step, 0.0)
    return changed


ACTIONS = (
    Action("slow_spend", "slow spend towards the budget's pace, by 30% at most", ("budget_pacing_7d",), _slow_down),
    Action("use_budget", "raise spend towards the budget's pace, by 30% at most", ("budget_pacing_7d",), _spend_up),
    Action(
        "refresh_creatives", "bring {strength} of the impressions onto new ads", ("creative_refresh",), _refresh,
        (0.2, 0.35, 0.5),
    ),
    Action(
        "separate_audiences", "lower the overlap of the ads' audiences by {strength}", ("audience_overlap",), _separate,
        (0.25, 0.5),
    ),
    Action("lower_bids", "lower the cost per click by {strength}", ("cpc_28d",), _lower_bids, (0.1, 0.2)),
    Action(
        "improve_landing_page", "raise the conversions per click by {strength}", ("cvr_28d",), _better_page, (0.1, 0.2)
    ),
)  # fmt: skip
"""What an agency can change."""
