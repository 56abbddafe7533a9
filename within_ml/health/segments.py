"""Groups of accounts or audiences that are alike, and that stay the same groups from night to night.

Features come from `recency`, words from `segment_names`; scikit-learn finds the groups.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import date
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError, NotFittedError, shown
from within_ml.health.recency import ENTITY_TYPES, SEGMENT_FEATURES
from within_ml.health.segment_names import named

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

METHODS = ("kmeans", "hdbscan")

_LEAST_ENTITIES = 4
_FARTHEST = 4.0
_SAMPLE = 2000
_DOMINANT = 0.7
_WORTH_SPLITTING = 10
_NOTABLE = np.array([1.0, 0.1, 0.5, 0.1, 0.2])
"""Differences of the scaled features' logs below which entities are alike, however alike all the others are."""
_AS_GOOD = 0.02
_CLEARLY_BETTER = 0.08
"""Silhouettes: fewer segments win by being as good, other than the night before's by being clearly better."""


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Labels from 0, shape (n,), their centres, shape (k, d), and the silhouette, NaN for one group."""

    labels: IntArray
    centres: FloatArray
    silhouette: float


@dataclass(frozen=True, slots=True, eq=False)
class _Before:
    """The night before: place in the frame and segment number of entities that are still there, and what is in use."""

    place: IntArray
    number: IntArray
    names: dict[int, str]
    unused: int


class Segmentation:
    """Segments of entities by recency, frequency, monetary value, growth and click rate.

    Features are scaled robustly (logs where they are amounts, median and interquartile range, clipped at 4 of them;
    missing ones count as ordinary). K-means takes the number of segments with the best silhouette (Rousseeuw 1987), and
    divides a segment that holds more than 70 % of the entities once more in the same way;
    HDBSCAN (Campello et al. 2013) finds it itself, entities it calls noise go to the nearest centre, and where it finds
    fewer than two segments, k-means takes over. Fewer than 4 entities are one segment.

    With the rows of the night before, the segments of the two nights are matched by the least total distance of their
    centres (Hungarian method; Kuhn 1955), where yesterday's centres are those of its members as they are today; matched
    segments keep number and name, new ones get numbers not in use. Another number of segments must be clearly better.

    Parameters
    ----------
    entity_type
        ``"account"`` or ``"audience"``; it is told in the rows.
    method
        ``"kmeans"`` or ``"hdbscan"``.
    max_segments
        At most so many segments, 1 or more; it does not bind HDBSCAN.
    random_state
        Seed.

    Attributes
    ----------
    labels_ : array, shape (entities,)
        ``segment_id`` of each entity, in the order of the frame.
    names_ : dict
        Name by ``segment_id``.
    silhouette_ : float
        Of the segments; NaN for one segment.

    Examples
    --------
    >>> frame = pd.DataFrame({"entity_id": list("abcdef"), "recency_days": 0.0, "frequency": 1.0,
    ...                       "monetary": [10, 11, 12, 900, 950, 990], "growth": 0.0, "ctr": 0.02})
    >>> Segmentation().fit(frame).rows(date(2024, 5, 1))["segment"].tolist()
    ['small', 'small', 'small', 'large', 'large', 'large']
    """

    def __init__(
        self, entity_type: str = "account", *, method: str = "kmeans", max_segments: int = 6, random_state: int = 0
    ) -> None:
        self.entity_type = entity_type
        self.method = method
        self.max_segments = max_segments
        self.random_state = random_state

    def fit(self, frame: pd.DataFrame, previous: pd.DataFrame | None = None) -> Self:
        """Group the entities.

        Parameters
        ----------
        frame
            One row per entity: ``entity_id`` and `SEGMENT_FEATURES`, as `segment_features` makes them; 0 rows are fine.
        previous
            The rows of the night before, as `rows` gave them (``entity_id``, ``segment_id``, ``segment``; rows of
            another ``entity_type`` are not read).

        Raises
        ------
        InputError
            If a parameter or a column is not what is said above, or an entity stands twice.
        """
        self._check(frame)
        points = _scaled(frame)
        before = _before(frame, previous, self.entity_type)
        groups = self._grouped(points, before)
        ids = _numbers(groups, points, before)
        names = named(_told_centres(frame, groups), [before.names.get(number) for number in ids])
        self.labels_ = np.asarray(ids, dtype=np.int64)[groups.labels]
        self.names_ = dict(zip(ids, names, strict=True))
        self.silhouette_ = groups.silhouette
        offset = points - groups.centres[groups.labels]
        self.rows_ = frame[["entity_id", "recency_days", "frequency", "monetary"]].assign(
            segment=[self.names_[number] for number in self.labels_.tolist()],
            segment_id=self.labels_,
            distance=np.sqrt((offset**2).sum(axis=1)),
            size=np.bincount(groups.labels, minlength=len(ids))[groups.labels],
        )
        return self

    def rows(self, date: date) -> pd.DataFrame:
        """Return the columns of the lake table ``account_segments`` as of a day, one row per entity."""
        if not hasattr(self, "rows_"):
            raise NotFittedError("Segmentation must be fitted before its rows are asked for; call fit first.")
        told = self.rows_.copy()
        told.insert(0, "date", date)
        told.insert(1, "entity_type", self.entity_type)
        return told[[*_COLUMNS]].reset_index(drop=True)

    def _check(self, frame: pd.DataFrame) -> None:
        if self.entity_type not in ENTITY_TYPES:
            raise InputError(f"entity_type must be one of {shown(ENTITY_TYPES)}; it is {self.entity_type!r}.")
        if self.method not in METHODS:
            raise InputError(f"method must be one of {shown(METHODS)}; it is {self.method!r}.")
        if not isinstance(self.max_segments, int) or self.max_segments < 1:
            raise InputError(f"max_segments must be a whole number of at least 1; it is {self.max_segments!r}.")
        missing = [c for c in ("entity_id", *SEGMENT_FEATURES) if c not in frame.columns]
        if missing:
            raise InputError(f"frame needs the columns {shown(missing)}; it has {shown(frame.columns)}.")
        twice = frame["entity_id"][frame["entity_id"].duplicated()]
        if len(twice):
            raise InputError(f"entity_id must stand once in the frame; twice are {shown(twice.tolist())}.")

    def _grouped(self, points: FloatArray, before: _Before) -> _Groups:
        distinct = len(np.unique(points, axis=0))
        if len(points) < _LEAST_ENTITIES or distinct < 2 or self.max_segments == 1:
            labels = np.zeros(len(points), dtype=np.int64)
            return _Groups(labels, _centres(points, labels), np.nan)
        found = _hdbscan(points) if self.method == "hdbscan" else None
        most = min(self.max_segments, distinct, len(points) - 1)
        return found or self._kmeans(points, _starting_centres(points, before), most)

    def _kmeans(self, points: FloatArray, start: FloatArray, most: int) -> _Groups:
        best = self._most_silhouette(points, most)
        size = np.bincount(best.labels)
        largest, left = int(size.argmax()), most - len(size) + 1
        if size[largest] > _DOMINANT * len(points) and size[largest] >= _WORTH_SPLITTING and left >= 2:
            # A few far ones may leave all the others in one segment, which tells nothing of those.
            inside = best.labels == largest
            parts = self._most_silhouette(points[inside], left).labels
            labels = best.labels.copy()
            labels[inside] = np.where(parts == 0, largest, len(size) + parts - 1)
            best = _judged(points, labels, self.random_state)
        if not 2 <= len(start) <= most:
            return best
        kept = _judged(points, self._means(points, len(start), start), self.random_state)
        return kept if kept.silhouette > best.silhouette - _CLEARLY_BETTER else best

    def _most_silhouette(self, points: FloatArray, most: int) -> _Groups:
        """Return the groups of 2 to ``most`` with the best silhouette."""
        tried = [_judged(points, self._means(points, k), self.random_state) for k in range(2, most + 1)]
        top = max(groups.silhouette for groups in tried)
        return next(groups for groups in tried if groups.silhouette >= top - _AS_GOOD)

    def _means(self, points: FloatArray, k: int, start: FloatArray | None = None) -> IntArray:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        ways = {"n_init": 10} if start is None else {"init": start, "n_init": 1}
        # Threads that wait for each other cost more than these few points.
        with threadpool_limits(1):
            labels: IntArray = KMeans(k, random_state=self.random_state, **ways).fit(points).labels_
        return labels


_COLUMNS = (
    "date",
    "entity_type",
    "entity_id",
    "segment",
    "segment_id",
    "recency_days",
    "frequency",
    "monetary",
    "distance",
    "size",
)


def _scaled(frame: pd.DataFrame) -> FloatArray:
    """Features as points: logs of amounts, minus the median, over the interquartile range; missing ones are 0."""
    values = _logged(frame)
    if not len(values):
        return values
    low, middle, high = np.nanquantile(np.where(np.isnan(values).all(axis=0), 0.0, values), [0.25, 0.5, 0.75], axis=0)
    scaled = (values - middle) / np.maximum(high - low, _NOTABLE)
    return np.asarray(np.clip(np.nan_to_num(scaled), -_FARTHEST, _FARTHEST), dtype=np.float64)


def _logged(frame: pd.DataFrame) -> FloatArray:
    values = {name: frame[name].to_numpy(np.float64, na_value=np.nan) for name in SEGMENT_FEATURES}
    values["recency_days"] = np.log1p(values["recency_days"])
    values["monetary"] = np.log1p(values["monetary"])
    values["ctr"] = np.log(np.maximum(values["ctr"], 1e-6))
    return np.column_stack([values[name] for name in SEGMENT_FEATURES])


def _centres(points: FloatArray, labels: IntArray) -> FloatArray:
    size = int(labels.max(initial=0)) + 1
    if not len(points):
        return np.zeros((1, points.shape[1]))
    count = np.bincount(labels, minlength=size)
    return np.column_stack([np.bincount(labels, weights=column, minlength=size) / count for column in points.T])


def _judged(points: FloatArray, labels: IntArray, seed: int) -> _Groups:
    from sklearn.metrics import silhouette_score

    _, labels = np.unique(labels, return_inverse=True)
    if labels.max() == 0 or labels.max() >= len(points) - 1:
        return _Groups(labels, _centres(points, labels), -1.0)
    sample = _SAMPLE if len(points) > _SAMPLE else None
    score = float(silhouette_score(points, labels, sample_size=sample, random_state=seed))
    return _Groups(labels, _centres(points, labels), score)


def _hdbscan(points: FloatArray) -> _Groups | None:
    """Return HDBSCAN's groups, or None where it finds fewer than two."""
    from sklearn.cluster import HDBSCAN

    labels = HDBSCAN(min_cluster_size=max(3, len(points) // 25), copy=True).fit_predict(points)
    if labels.max(initial=-1) < 1:
        return None
    core = labels >= 0
    centres = _centres(points[core], labels[core])
    nearest = ((points[:, None, :] - centres) ** 2).sum(axis=2).argmin(axis=1)
    return _judged(points, np.where(core, labels, nearest), 0)


def _before(frame: pd.DataFrame, previous: pd.DataFrame | None, entity_type: str) -> _Before:
    nothing = np.zeros(0, dtype=np.int64)
    if previous is None:
        return _Before(nothing, nothing, {}, 0)
    missing = [c for c in ("entity_id", "segment_id", "segment") if c not in previous.columns]
    if missing:
        raise InputError(f"previous needs the columns {shown(missing)}; it has {shown(previous.columns)}.")
    if "entity_type" in previous.columns:
        previous = previous[previous["entity_type"] == entity_type]
    number = previous["segment_id"].to_numpy(np.int64)
    names = dict(zip(number.tolist(), previous["segment"].tolist(), strict=True))
    place = pd.Index(frame["entity_id"]).get_indexer(previous["entity_id"]).astype(np.int64)
    there = place >= 0
    return _Before(place[there], number[there], names, int(number.max(initial=-1)) + 1)


def _starting_centres(points: FloatArray, before: _Before) -> FloatArray:
    """Centres of yesterday's segments as their members are today, ordered by number; (0, d) without a yesterday."""
    if not before.place.size:
        return np.zeros((0, points.shape[1]))
    _, labels = np.unique(before.number, return_inverse=True)
    return _centres(points[before.place], labels)


def _numbers(groups: _Groups, points: FloatArray, before: _Before) -> list[int]:
    """Return the number of each group: yesterday's where one of its segments goes on in it, otherwise an unused one."""
    from scipy.optimize import linear_sum_assignment

    start = _starting_centres(points, before)
    cost = np.sqrt(((start[:, None, :] - groups.centres) ** 2).sum(axis=2))
    numbers = np.unique(before.number)
    goes_on = {int(new): int(numbers[old]) for old, new in zip(*linear_sum_assignment(cost), strict=True)}
    fresh = itertools.count(before.unused)
    return [goes_on[place] if place in goes_on else next(fresh) for place in range(len(groups.centres))]


def _told_centres(frame: pd.DataFrame, groups: _Groups) -> list[dict[str, float]]:
    """Return the segments' means as `segment_names.WORDS` read them; a feature that nobody has is ordinary."""
    values = _logged(frame)
    if not len(values):
        return [dict.fromkeys(SEGMENT_FEATURES, 0.0)]
    known = np.where(np.isnan(values).all(axis=0), 0.0, values)
    middle = np.nanmedian(known, axis=0)
    ordinary = np.where(np.isin(SEGMENT_FEATURES, ("recency_days", "growth")), 0.0, middle)
    beside = np.nan_to_num(known - ordinary)
    # Days are told as days, not as their logarithm.
    place = SEGMENT_FEATURES.index("recency_days")
    beside[:, place] = np.expm1(beside[:, place])
    return [dict(zip(SEGMENT_FEATURES, row.tolist(), strict=True)) for row in _centres(beside, groups.labels)]
