"""The small numbers that the ad score's terms are made of: weights in time, weeks, levels, the usual text.

Functions of frames and arrays; what is fitted on them, and in which order, is in `predictor`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from within_ml.ad_score.config import Modality
from within_ml.base import HORIZON_DAYS
from within_ml.calibration.level import estimate_level
from within_ml.errors import InputError, shown
from within_ml.splits import to_days

FloatArray = NDArray[np.float64]

REQUIRED_COLUMNS = ("date", "platform", "account_id", "campaign_id", "ad_id", "headline", "body", "prior_ctr")
"""What every frame must have, beside the numeric features the model was fitted on."""

HIERARCHY = ("account", "campaign_id", "ad_group_id", "ad_id")
"""Levels of the groups that have something in common beyond what the features say, from the widest down."""

AUDIENCE = ("audience_age", "audience_gender", "interests")
_NOT_FEATURES = frozenset({*REQUIRED_COLUMNS, *AUDIENCE, "ad_group_id", "image_path"} - {"prior_ctr"})
_RATE_FLOOR = 1e-6
_PRIOR_WEEKS = 4
_CENTRE_STRENGTH = 20.0


def numeric_columns(X: pd.DataFrame) -> list[str]:
    """Return the columns that are features: numbers that are no key, day, text or label; all-null columns stay."""
    return [
        str(name)
        for name in X.columns
        if name not in _NOT_FEATURES
        and not str(name).startswith("label_")
        and (pd.api.types.is_numeric_dtype(X[name]) or X[name].isna().all())
    ]


def modality(feature: str) -> Modality:
    """Return what a feature is about: the text alone, the image alone, or what has been shown and when."""
    if feature.startswith("text_") or feature in ("sentiment", "readability"):
        return Modality.TEXT
    return Modality.IMAGE if feature.startswith("image_") else Modality.TABULAR


def optional(X: pd.DataFrame, column: str) -> FloatArray:
    """Return a numeric column, shape (n,); NaN throughout where the frame has none of that name."""
    return X[column].to_numpy(np.float64, na_value=np.nan) if column in X.columns else np.full(len(X), np.nan)


def level(X: pd.DataFrame) -> FloatArray:
    """Return the log-odds of ``prior_ctr``, shape (n,).

    Raises
    ------
    InputError
        If one is missing or no rate.
    """
    prior = X["prior_ctr"].to_numpy(np.float64, na_value=np.nan)
    if not ((prior >= 0) & (prior <= 1)).all():
        wrong = prior[~((prior >= 0) & (prior <= 1))]
        raise InputError(f"prior_ctr must be a rate in [0, 1] on every row, however: {shown(wrong[:3].tolist())}.")
    result: FloatArray = logit(np.clip(prior, _RATE_FLOOR, 1 - _RATE_FLOOR))
    return result


def hierarchy(X: pd.DataFrame) -> pd.DataFrame:
    """Return each row's account, campaign, ad group and ad as text, shape (n, 4); no ad group is a group of its own."""
    columns = [account_names(X), *(_text(X, name) for name in HIERARCHY[1:])]
    return pd.DataFrame(dict(zip(HIERARCHY, columns, strict=True)))


def _text(X: pd.DataFrame, column: str) -> NDArray[np.object_]:
    if column not in X.columns:
        return np.full(len(X), "", dtype=object)
    names: NDArray[np.object_] = X[column].astype("string").fillna("").to_numpy(dtype=object)
    return names


def campaigns(X: pd.DataFrame) -> NDArray[np.int64]:
    """Return the number of each row's campaign, shape (n,)."""
    keys = ["platform", "account_id", "campaign_id"]
    codes: NDArray[np.int64] = X.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    return codes


def n_ads(X: pd.DataFrame) -> int:
    """Return how many different ads the rows are of."""
    return int(X.groupby(["platform", "account_id", "ad_id"], sort=False, dropna=False).ngroups)


def weeks(dates: ArrayLike) -> NDArray[np.int64]:
    """Return the number of each date's period of one label horizon, counted back from the last date."""
    days = to_days(dates)
    if not days.size:
        return np.zeros(0, np.int64)
    result: NDArray[np.int64] = (days.max() - days).astype(np.int64) // HORIZON_DAYS
    return result


def with_week_shifts(margin: FloatArray, y: FloatArray, w: FloatArray, dates: ArrayLike) -> FloatArray:
    """Return log-odds with each week's own shift added; what is left then is differences between ads of one week."""
    return margin + estimate_level(margin, y, w, weeks(dates)).by_row


def decay(dates: ArrayLike, half_life_days: float) -> FloatArray:
    """Return weights in (0, 1] that halve with each ``half_life_days`` before the last date."""
    days = to_days(dates)
    age = (days.max() - days).astype(np.float64) if days.size else np.zeros(0)
    weight: FloatArray = 0.5 ** (age / half_life_days)
    return weight


def training_order(X: pd.DataFrame, w: FloatArray, max_rows: int) -> NDArray[np.int64]:
    """Return the positions of the rows to fit on, by day and ad, so that the order of the frame does not matter.

    Rows without impressions are left out. Of more than ``max_rows`` those with the smallest hashes of day and ad are
    taken: the same ones in every run.
    """
    rows = np.flatnonzero(w > 0)
    key = X[["platform", "account_id", "ad_id"]].iloc[rows].astype(str)
    key.insert(0, "date", to_days(X["date"])[rows])
    if rows.size > max_rows:
        hashes = pd.util.hash_pandas_object(key, index=False).to_numpy()
        kept = np.argsort(hashes, kind="stable")[:max_rows]
        rows, key = rows[kept], key.iloc[kept]
    codes = [pd.factorize(key[name], sort=True)[0] for name in reversed(key.columns)]
    return rows[np.lexsort(codes)]


@dataclass(frozen=True, slots=True)
class TextCentre:
    """The usual text score of each account's recent ads, which its ``prior_ctr`` already contains.

    Only the difference from it says how a new ad will do beside them: an account whose texts have always been good has
    a high prior for that reason. ``overall`` stands for accounts not seen in training.

    Examples
    --------
    >>> X = pd.DataFrame({"date": pd.to_datetime(["2024-01-01", "2024-01-08"]), "platform": "meta", "account_id": "a"})
    >>> centre, of_row = TextCentre.fit(X, np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    >>> of_row, centre.overall
    (array([0., 1.]), 2.0)
    """

    overall: float
    accounts: dict[str, float]

    @classmethod
    def fit(cls, X: pd.DataFrame, text: FloatArray, w: FloatArray) -> tuple[TextCentre, FloatArray]:
        """Return the centre after the last week, and for each row, shape (n,), the one of the weeks before its own.

        An account's mean is drawn towards the overall one by `_CENTRE_STRENGTH` average ads' worth of impressions.
        """
        week, account = -weeks(X["date"]), account_names(X)
        sums = pd.DataFrame({"week": week, "account": account, "w": w, "ws": w * text})
        by_week = sums.groupby(["week", "account"])[["w", "ws"]].sum().unstack("account", fill_value=0.0)  # noqa: PD010
        by_week = by_week.reindex(range(int(week.min()), 1), fill_value=0.0)
        recent = by_week.rolling(_PRIOR_WEEKS, min_periods=1).sum()
        overall = (recent["ws"].sum(axis=1) / recent["w"].sum(axis=1)).ffill()
        strength = _CENTRE_STRENGTH * float(w.mean())
        centres = recent["ws"].add(strength * overall, axis=0) / (recent["w"] + strength)
        before = centres.shift(1).fillna(0.0)
        rows, columns = week - int(week.min()), before.columns.get_indexer(pd.Index(account))
        last = centres.iloc[-1]
        return cls(float(overall.iloc[-1]), {str(k): float(v) for k, v in last.items()}), before.to_numpy()[
            rows, columns
        ]

    def of(self, X: pd.DataFrame) -> FloatArray:
        """Return the centre of each row's account, shape (n,)."""
        return np.array([self.accounts.get(name, self.overall) for name in account_names(X)], dtype=np.float64)


def account_names(X: pd.DataFrame) -> NDArray[np.object_]:
    """Return one name per row for its platform and account; ids hold no slash, so that it is unique."""
    names: NDArray[np.object_] = (X["platform"].astype(str) + "/" + X["account_id"].astype(str)).to_numpy(dtype=object)
    return names
