"""From contributions to reasons: the few groups of features that move a prediction most, worded.

Which features are one group and how a value is said is in `wording`; contributions are made in `contributions`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError, ModelFormatError
from within_ml.explain.contributions import Contributions
from within_ml.explain.wording import Meaning, meaning, points_said

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]

MIN_LOG_ODDS = 1e-4
"""A part smaller than the sums are exact is no reason."""

_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class UsualValues:
    """The median of each feature over each account's rows; over all rows for an account that has none.

    Attributes
    ----------
    features : tuple of str, length d
    accounts : tuple of str
    table : shape (n_accounts + 1, d)
        The last row is of all accounts. NaN where nothing is known.

    Examples
    --------
    >>> X = pd.DataFrame({"text_words": [8.0, 10.0, 20.0]})
    >>> usual = UsualValues.fit(X, ["a", "a", "b"])
    >>> usual.of(["b", "new"], "text_words").tolist()
    [20.0, 10.0]
    """

    features: tuple[str, ...]
    accounts: tuple[str, ...]
    table: FloatArray

    @classmethod
    def fit(cls, X: pd.DataFrame, accounts: ArrayLike) -> Self:
        """Take the medians of the columns of X, shape (n, d), by account, shape (n,).

        Raises
        ------
        InputError
            If ``accounts`` has another length than X.
        """
        names = np.asarray(accounts, dtype=object)
        if names.shape != (len(X),):
            raise InputError(
                f"accounts must have one value for each of the {len(X)} rows of X, however: {names.shape}."
            )
        numbers = X.astype(np.float64)
        by_account = numbers.groupby(names, sort=True).median()
        table = np.vstack([by_account.to_numpy(np.float64), numbers.median().to_numpy(np.float64)[None, :]])
        return cls(tuple(map(str, X.columns)), tuple(map(str, by_account.index)), table)

    def rows(self, accounts: ArrayLike) -> Integers:
        """Return the row of ``table`` of each account, shape (n,); the last for one that is not known."""
        found: Integers = pd.Index(self.accounts, dtype=object).get_indexer(
            pd.Index(np.asarray(accounts, dtype=object).astype(str), dtype=object)
        )
        return np.where(found < 0, len(self.accounts), found).astype(np.int64)

    def of(self, accounts: ArrayLike, feature: str) -> FloatArray:
        """Return the usual value of a feature for each account, shape (n,); NaN for a feature that is not known."""
        if feature not in self.features:
            return np.full(len(np.asarray(accounts, dtype=object)), np.nan)
        values: FloatArray = self.table[self.rows(accounts), self.features.index(feature)]
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values; null is not known."""
        table = [[None if math.isnan(value) else value for value in row] for row in self.table.tolist()]
        return {"features": list(self.features), "accounts": list(self.accounts), "table": table}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` gave.

        Raises
        ------
        ModelFormatError
            If a field is missing or of the wrong kind.
        """
        try:
            features, accounts = tuple(map(str, state["features"])), tuple(map(str, state["accounts"]))
            table = np.array(state["table"], dtype=np.float64).reshape(len(accounts) + 1, len(features))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"The state of UsualValues is not as it was saved ({error}).") from error
        return cls(features, accounts, table)


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason of one prediction.

    ``points`` is what the click rate loses without it, in percentage points; ``log_odds`` its exact part of the margin;
    ``feature`` the one of its group that says most, with its value and the account's usual one (None if not known).
    """

    group: str
    text: str
    points: float
    log_odds: float
    feature: str
    value: float | None
    usual: float | None


@dataclass(frozen=True, slots=True)
class Reasons:
    """The strongest reasons of each row, in columns; a row with fewer has empty texts at the end.

    Attributes
    ----------
    groups, features : names that ``group`` and ``feature`` are positions of
    group, feature : shape (n, k)
        -1 where there is no reason.
    log_odds, points, value, usual : shape (n, k)
    texts : k lists of n sentences
    base_rate : shape (n,)
        The click rate of the base, without any contribution.
    """

    groups: tuple[str, ...]
    features: tuple[str, ...]
    group: Integers
    feature: Integers
    log_odds: FloatArray
    points: FloatArray
    value: FloatArray
    usual: FloatArray
    texts: tuple[list[str], ...]
    base_rate: FloatArray

    def of(self, row: int) -> tuple[Reason, ...]:
        """Return one row's reasons, the strongest first."""
        return tuple(
            Reason(
                self.groups[self.group[row, k]],
                self.texts[k][row],
                float(self.points[row, k]),
                float(self.log_odds[row, k]),
                self.features[self.feature[row, k]],
                _known(self.value[row, k]),
                _known(self.usual[row, k]),
            )
            for k in range(self.group.shape[1])
            if self.group[row, k] >= 0
        )


def reasons(
    contributions: Contributions,
    X: pd.DataFrame,
    accounts: ArrayLike,
    usual: UsualValues,
    to_rate: Callable[[FloatArray], FloatArray],
    *,
    k: int = 3,
    words: Sequence[str] | None = None,
) -> Reasons:
    """Return the ``k`` groups of features with the largest parts of each row's margin.

    Parameters
    ----------
    contributions : Contributions
        Of n rows; its names are features.
    X : DataFrame, shape (n, …)
        Values of the features; one that it does not have is said to be not known (but for wording).
    accounts : shape (n,)
        Whose usual values each row is said beside.
    usual : UsualValues
    to_rate : callable
        Margin, shape (n,), log-odds → calibrated click rate, row by row, not falling.
    words : sequence of str, length n, optional
        Words to name where the wording is the reason.

    Raises
    ------
    InputError
        If numbers of rows differ or ``k`` is below 1.
    """
    n = len(contributions.margin)
    account = np.asarray(accounts, dtype=object)
    if len(X) != n or account.shape != (n,) or (words is not None and len(words) != n):
        raise InputError(f"X, accounts and words must have a row for each of the {n} of contributions.")
    if k < 1:
        raise InputError(f"k must be at least 1, however: {k}.")
    told = [meaning(name) for name in contributions.names]
    grouped = contributions.grouped({name: m.group for name, m in zip(contributions.names, told, strict=True)})
    group, log_odds = _strongest(grouped.values, k)
    feature = _leaders(contributions.values, _members(told, grouped.names), group, log_odds)
    rate = to_rate(contributions.margin)
    points = np.zeros(group.shape)
    for rank in range(group.shape[1]):
        points[:, rank] = 100 * (rate - to_rate(contributions.margin - log_odds[:, rank]))
    points = np.round(points, _DECIMALS)
    value, normal = _looked_up(contributions.names, feature, X, usual.rows(account), usual)
    texts = _texts(told, feature, value, normal, points, words)
    return Reasons(
        grouped.names, contributions.names, group, feature, np.round(log_odds, _DECIMALS), points, value, normal, texts,
        to_rate(contributions.base),
    )  # fmt: skip


def reasons_json(found: Reasons, *, detailed: bool = False) -> list[str]:
    """Return each row's reasons as a JSON list: of sentences, or of all that is known of each.

    >>> parts = Contributions.of(["text_words"], [[0.4]], base=-4.0)
    >>> X, usual = pd.DataFrame({"text_words": [8]}), UsualValues.fit(pd.DataFrame({"text_words": [20]}), ["a"])
    >>> found = reasons(parts, X, ["a"], usual, lambda margin: 1 / (1 + np.exp(-margin)))
    >>> json.loads(reasons_json(found)[0])
    ["headline 12 words shorter than the account's usual: +0.9 points of CTR"]
    """
    dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    if not detailed:
        return [dumps([text for text in row if text]) for row in zip(*found.texts, strict=True)]
    columns = [_details(found, rank) for rank in range(len(found.texts))]
    return [dumps([detail for detail in row if detail]) for row in zip(*columns, strict=True)]


def _details(found: Reasons, rank: int) -> list[dict[str, Any] | None]:
    rows = zip(
        found.group[:, rank].tolist(), found.texts[rank], found.points[:, rank].tolist(),
        found.log_odds[:, rank].tolist(), found.feature[:, rank].tolist(),
        found.value[:, rank].tolist(), found.usual[:, rank].tolist(), strict=True,
    )  # fmt: skip
    return [
        {
            "group": found.groups[group],
            "text": text,
            "points": points,
            "log_odds": log_odds,
            "feature": found.features[feature],
            "value": _known(value),
            "usual": _known(usual),
        }
        if group >= 0
        else None
        for group, text, points, log_odds, feature, value, usual in rows
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def _strongest(values: FloatArray, k: int) -> tuple[Integers, FloatArray]:
    """Return position and part of the ``k`` largest parts of each row, either way; -1 and 0 where there are fewer."""
    size = np.abs(values)
    k = min(k, size.shape[1]) if size.shape[1] else 0
    # Sorted stably, so that of equal parts the first group comes first, on every machine.
    order = np.argsort(-size, axis=1, kind="stable")[:, :k]
    part = np.take_along_axis(values, order, axis=1)
    small = np.abs(part) < MIN_LOG_ODDS
    return np.where(small, -1, order), np.where(small, 0.0, part)


def _members(told: Sequence[Meaning], groups: Sequence[str]) -> list[Integers]:
    return [np.flatnonzero([m.group == group for m in told]) for group in groups]


def _leaders(values: FloatArray, members: Sequence[Integers], group: Integers, log_odds: FloatArray) -> Integers:
    """Return the feature of each reason's group that moves the margin most in the group's direction, shape (n, k)."""
    leader = np.full(group.shape, -1, np.int64)
    for number, columns in enumerate(members):
        for rank in range(group.shape[1]):
            rows = np.flatnonzero(group[:, rank] == number)
            towards = values[np.ix_(rows, columns)] * np.sign(log_odds[rows, rank])[:, None]
            leader[rows, rank] = columns[towards.argmax(axis=1)] if rows.size else -1
    return leader


def _looked_up(
    names: Sequence[str], feature: Integers, X: pd.DataFrame, row_of_usual: Integers, usual: UsualValues
) -> tuple[FloatArray, FloatArray]:
    """Return the value of each reason's feature and its account's usual one, shape (n, k)."""
    value, normal = np.full(feature.shape, np.nan), np.full(feature.shape, np.nan)
    for number in np.unique(feature[feature >= 0]):
        name, here = names[number], feature == number
        rows = np.nonzero(here)[0]
        if name in X.columns:
            value[here] = X[name].to_numpy(np.float64, na_value=np.nan)[rows]
        if name in usual.features:
            normal[here] = usual.table[row_of_usual[rows], usual.features.index(name)]
    return value, normal


def _texts(
    told: Sequence[Meaning],
    feature: Integers,
    value: FloatArray,
    normal: FloatArray,
    points: FloatArray,
    words: Sequence[str] | None,
) -> tuple[list[str], ...]:
    named = words if words is not None else [""] * len(feature)
    texts = []
    for rank in range(feature.shape[1]):
        columns = (feature[:, rank].tolist(), value[:, rank].tolist(), normal[:, rank].tolist())
        rows = zip(*columns, points[:, rank].tolist(), named, strict=True)
        texts.append(
            [
                f"{told[f].said(v, u, w)}: {points_said(p)}" if f >= 0 else ""
                for f, v, u, p, w in rows
            ]
        )  # fmt: skip
    return tuple(texts)
