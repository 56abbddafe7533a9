"""What an advertiser could change, each change shown to raise the prediction.

A suggestion is a counterfactual of the model: the same ad with one thing changed, predicted again. It says what the
model expects, which is no experiment. Nothing is invented: texts only lose what they have, options come from what has
been used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError, shown

FloatArray = NDArray[np.float64]
Predict = Callable[[pd.DataFrame], FloatArray]

MIN_GAIN = 0.02
"""A change that raises the rate by less than this share of it is not worth a sentence."""

_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that may be changed.

    Attributes
    ----------
    name : str
    text : str
        What to do.
    column : str
        The column that changes; a frame without it cannot be changed so.
    edit : callable
        Its value → the new one, or the same where there is nothing to change.

    Examples
    --------
    >>> calm = Change("calm", "write it in small letters", "headline", str.lower)
    >>> calm.edited(pd.Series(["BUY now", "buy", None])).tolist()
    ['buy now', None, None]
    """

    name: str
    text: str
    column: str
    edit: Callable[[Any], Any]

    def edited(self, values: pd.Series) -> pd.Series:
        """Return the changed values; None where nothing changes, which is so for a missing value."""
        codes, different = pd.factorize(values)
        changed = np.empty(len(different) + 1, dtype=object)
        for i, value in enumerate(different):
            new = self.edit(value)
            changed[i] = None if new is None or new == value else new
        return pd.Series(changed[codes], index=values.index, dtype=object)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A change of one ad, and the click rate predicted without and with it; ``points`` is in percentage points."""

    change: str
    text: str
    column: str
    old_value: Any
    new_value: Any
    old_ctr: float
    new_ctr: float
    points: float


def suggest(
    X: pd.DataFrame,
    predict: Predict,
    changes: Sequence[Change],
    *,
    k: int = 3,
    min_gain: float = MIN_GAIN,
) -> list[tuple[Suggestion, ...]]:
    """Return each row's ``k`` changes that raise its prediction most, the best first; changes that do not are left out.

    Parameters
    ----------
    X : DataFrame, shape (n, …)
        Ads as ``predict`` takes them; it is not changed.
    predict : callable
        Frame → click rates, shape (n,). It sees the edited column only: features that are made of it (such as counts of
        a headline) are for it to make again.
    changes : sequence of Change
        What may change; nothing else does. Each needs one prediction of the rows that it changes.
    min_gain : float
        Least rise, as a share of the prediction.

    Raises
    ------
    InputError
        If ``predict`` returns another number of rates, or two changes have one name.

    Examples
    --------
    >>> X = pd.DataFrame({"headline": ["Shoes: all sizes, all colours", "Shoes"]})
    >>> shorter_is_better = lambda X: 0.05 - 0.001 * X["headline"].str.len().to_numpy()
    >>> [[(s.text, s.new_value) for s in row] for row in suggest(X, shorter_is_better, TEXT_CHANGES, k=1)]
    [[('drop the second part of the headline', 'Shoes')], []]
    """
    if len({change.name for change in changes}) != len(changes):
        raise InputError(f"Changes must have different names, however: {shown(change.name for change in changes)}.")
    frame = X.reset_index(drop=True)
    found: list[list[Suggestion]] = [[] for _ in range(len(frame))]
    if not len(frame):
        return []
    before = _rates(predict, frame)
    for change in changes:
        if change.column not in frame.columns:
            continue
        values = change.edited(frame[change.column])
        rows = np.flatnonzero(values.notna())
        if not rows.size:
            continue
        after = _rates(predict, _with_column(frame.iloc[rows], change.column, values.iloc[rows]))
        better = np.flatnonzero(after > before[rows] * (1 + min_gain))
        old, new = frame[change.column].to_numpy(object)[rows[better]], values.to_numpy(object)[rows[better]]
        for row, was, becomes, rate in zip(rows[better], old, new, after[better], strict=True):
            found[row].append(_suggestion(change, was, becomes, float(before[row]), float(rate)))
    # The gain decides; of changes that come to the same value the first one stays.
    return [_best(row, k) for row in found]


def suggestions_json(found: Sequence[tuple[Suggestion, ...]]) -> list[str]:
    """Return each row's suggestions as a JSON list."""
    return [json.dumps([asdict(one) for one in row], ensure_ascii=False, allow_nan=False) for row in found]


def option_changes(
    X: pd.DataFrame, texts: dict[str, str], *, min_rows: int = 20, max_values: int = 10
) -> tuple[Change, ...]:
    """Return a change to each value that a column has on at least ``min_rows`` rows of X, the most frequent first.

    Parameters
    ----------
    X : DataFrame
        Ads of the past: only what has been used is suggested.
    texts : dict of str to str
        Column → what to do, with ``{}`` for the value, such as ``{"call_to_action": "use the call to action {}"}``.

    Examples
    --------
    >>> past = pd.DataFrame({"format": ["video"] * 20 + ["image"] * 30 + ["story"]})
    >>> [change.text for change in option_changes(past, {"format": "make it {}"})]
    ['make it image', 'make it video']
    """
    return tuple(
        Change(f"{column}={value}", text.format(value), column, _constant(value))
        for column, text in texts.items()
        if column in X.columns
        for value, rows in X[column].value_counts().head(max_values).items()
        if rows >= min_rows
    )


def weekday_changes() -> tuple[Change, ...]:
    """Return a change to each day of the week on which an ad can begin."""
    days = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
    # The features of a day are about the week that begins on the next one.
    return tuple(
        Change(f"start={day}", f"start it on a {day}", "day_of_week", _constant(number))
        for number, day in zip((5, 6, 0, 1, 2, 3, 4), days, strict=True)
    )


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


# ---- texts

_CLAUSE = re.compile(r"\s*(?:[:;|\u2013\u2014]|--+|\s-|,(?=\s)|(?<=[.!?])(?=\s))\s")
_MIN_WORDS = 3


def _first_part(text: str) -> str:
    parts = _CLAUSE.split(text, maxsplit=1)
    return parts[0].rstrip(" ,;:") if len(parts) > 1 else text


def _second_part(text: str) -> str:
    parts = _CLAUSE.split(text, maxsplit=1)
    rest = parts[1].strip() if len(parts) > 1 else ""
    return rest[0].upper() + rest[1:] if len(rest.split()) >= _MIN_WORDS else text


def _calm(text: str) -> str:
    return re.sub(r"\b[^\W\d_]{2,}\b", lambda word: word[0].capitalize() if word[0].isupper() else word[0], text)


def _sentence_case(text: str) -> str:
    words = text.split(" ")
    kept = [w if i == 0 or not re.fullmatch(r"[A-Z][a-z']+\W*", w) else w.lower() for i, w in enumerate(words)]
    return " ".join(kept)


def _without(pattern: str, instead: str = "") -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda text: re.sub(r"\s{2,}", " ", compiled.sub(instead, text)).strip()


TEXT_CHANGES: tuple[Change, ...] = (
    Change("first_part", "drop the second part of the headline", "headline", _first_part),
    Change("second_part", "drop the first part of the headline", "headline", _second_part),
    Change("no_brackets", "drop what stands in brackets", "headline", _without(r"\s*[(\[][^)\]]*[)\]]")),
    Change("no_exclamation", "drop the exclamation marks", "headline", _without(r"!+(?=\s|$)")),
    Change("no_ellipsis", "drop the ellipsis", "headline", _without(r"\s*(?:\.\.\.|\u2026)")),
    Change("no_quotes", "drop the quotation marks", "headline", _without(r"[\"\u201c\u201d\u00ab\u00bb]")),
    Change("calm", "write words in capitals in small letters", "headline", _calm),
    Change("sentence_case", "capitalize only the first word", "headline", _sentence_case),
    Change("no_body", "shorten the body to its first sentence", "body", _without(r"(?<=[.!?])\s.*")),
)
"""Changes of an ad's text: each leaves something out or writes it smaller."""


def _with_column(frame: pd.DataFrame, column: str, values: pd.Series) -> pd.DataFrame:
    kind = frame[column].dtype
    return frame.assign(**{column: values.astype(kind)})


def _rates(predict: Predict, frame: pd.DataFrame) -> FloatArray:
    rates = np.asarray(predict(frame), dtype=np.float64)
    if rates.shape != (len(frame),):
        raise InputError(f"predict must return one rate for each of {len(frame)} rows, however: shape {rates.shape}.")
    return rates


def _suggestion(change: Change, old: Any, new: Any, before: float, after: float) -> Suggestion:
    points = round(100 * (after - before), _DECIMALS)
    plain = [value.item() if isinstance(value, np.generic) else value for value in (old, new)]
    old, new = (None if isinstance(value, float) and np.isnan(value) else value for value in plain)
    return Suggestion(change.name, change.text, change.column, old, new, before, after, points)


def _best(row: list[Suggestion], k: int) -> tuple[Suggestion, ...]:
    ordered = sorted(row, key=lambda one: -one.points)
    different = {(one.column, str(one.new_value)): one for one in reversed(ordered)}
    return tuple(one for one in ordered if different[one.column, str(one.new_value)] is one)[:k]
