"""Audiences as segments: age band, gender, the two together, interests. Which content suits them is in `audience`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError, shown
from within_ml.lake.contracts import UNKNOWN

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

AUDIENCE_COLUMNS = ("audience_age", "audience_gender", "interests")
"""Columns that name the audience; null or ``unknown`` names none. ``interests`` may be missing."""

KINDS = ("age", "gender", "age × gender", "interest")
"""Kinds of segments, and the first two in the order of `AUDIENCE_COLUMNS`."""

Segment = tuple[str, str]
"""Kind and name."""

Audience = tuple[Segment, ...]
"""All segments that an audience is part of; none where it is not named."""


def audiences_of(X: pd.DataFrame) -> tuple[list[Audience], IntArray]:
    """Return the distinct audiences, each the segments it is part of, and which of them each row has.

    Raises
    ------
    InputError
        If X is no frame with age and gender.

    >>> X = pd.DataFrame({"audience_age": ["18-24", None], "audience_gender": ["male", "unknown"]})
    >>> audiences_of(X)[0]
    [(('age', '18-24'), ('gender', 'male'), ('age × gender', '18-24/male')), ()]
    """
    columns = getattr(X, "columns", [])
    if missing := [name for name in AUDIENCE_COLUMNS[:2] if name not in columns]:
        raise InputError(
            f"X must be a DataFrame with {shown(AUDIENCE_COLUMNS[:2])}, however: {shown(missing)} missing."
        )
    named = [X[name] if name in columns else pd.Series([None] * len(X), dtype=object) for name in AUDIENCE_COLUMNS]
    texts = [column.astype(object).where(column.notna().to_numpy(), UNKNOWN).astype(str).to_numpy() for column in named]
    codes = [pd.factorize(text, sort=True) for text in texts]
    combined, of_row = np.unique(np.column_stack([code for code, _ in codes]), axis=0, return_inverse=True)
    names = [[str(names[c]) for (_, names), c in zip(codes, row, strict=True)] for row in combined.tolist()]
    return [_audience(*triple) for triple in names], of_row.reshape(-1).astype(np.int64)


def _audience(age: str, gender: str, interests: str) -> Audience:
    found: list[Segment] = [
        (kind, name) for kind, name in zip(KINDS, (age, gender), strict=False) if name not in ("", UNKNOWN)
    ]
    if len(found) == 2:
        found.append((KINDS[2], f"{age}/{gender}"))
    topics = {topic.strip().lower() for topic in interests.split(",")} - {"", UNKNOWN}
    return (*found, *((KINDS[3], topic) for topic in sorted(topics)))


def frequent_segments(audiences: Sequence[Audience], weight: FloatArray, max_interests: int) -> list[Segment]:
    """List the segments that rows have, of the interests only the heaviest."""
    total: dict[Segment, float] = {}
    for audience, w in zip(audiences, weight.tolist(), strict=True):
        for segment in audience if w > 0 else ():
            total[segment] = total.get(segment, 0.0) + w
    interests = sorted((s for s in total if s[0] == KINDS[3]), key=lambda s: (-total[s], s))[:max_interests]
    return sorted([s for s in total if s[0] != KINDS[3]] + interests)


def membership(audiences: Sequence[Audience], segments: Sequence[Segment]) -> FloatArray:
    """Return the share of each segment in each audience, shape (n_audiences, n_segments); interests share one."""
    place = {segment: i for i, segment in enumerate(segments)}
    shares = np.zeros((len(audiences), len(segments)))
    for row, audience in zip(shares, audiences, strict=True):
        interests = max(sum(kind == KINDS[3] for kind, _ in audience), 1)
        for segment in audience:
            if segment in place:
                row[place[segment]] = 1 / interests if segment[0] == KINDS[3] else 1.0
    return shares


def contrasts(shares: FloatArray, segments: Sequence[Segment], usual: FloatArray) -> FloatArray:
    """Return the memberships less the usual ones of their kind; 0 where an audience has no known segment of a kind.

    What a content does in the usual audience is then no match, whatever the segments' effects are.

    >>> contrasts(np.array([[1.0, 0.0], [0.0, 0.0]]), [("age", "18-24"), ("age", "55+")], np.array([0.5, 0.5]))
    array([[ 0.5, -0.5],
           [ 0. ,  0. ]])
    """
    result = np.zeros_like(shares)
    for kind in KINDS:
        mine = [i for i, segment in enumerate(segments) if segment[0] == kind]
        known = shares[:, mine].sum(axis=1, keepdims=True)
        result[:, mine] = shares[:, mine] - known * usual[mine]
    return result


def usual_membership(shares: FloatArray, segments: Sequence[Segment], weight: FloatArray) -> FloatArray:
    """Return the mean membership by kind over the audiences that have a segment of that kind, shape (n_segments,)."""
    total = weight @ shares
    usual = np.zeros(len(segments))
    for kind in KINDS:
        mine = [i for i, segment in enumerate(segments) if segment[0] == kind]
        usual[mine] = total[mine] / max(float(total[mine].sum()), np.finfo(float).tiny)
    return usual


def is_named(audiences: Sequence[Audience]) -> BoolArray:
    """Return which audiences are named at all, shape (n_audiences,)."""
    return np.array([bool(audience) for audience in audiences], dtype=bool)
