"""Which campaigns, ads, regions or audiences explain that a metric is not what was expected.

Frames in, causes out: the change is split exactly along each dimension (`decomposition`), Adtributor's explanatory
power and surprise propose sets of elements, and the set that describes all cells best is named first (`ripple`).
Finding that a day is odd does not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.anomalies.decomposition import (
    FloatArray,
    Parts,
    count_parts,
    explained_shares,
    rate_parts,
    surprises,
)
from within_ml.anomalies.periods import (
    ABSENT,
    DIMENSIONS,
    METRICS,
    MONEY_EVENTS,
    baseline_and_day,
    dimension_columns,
    metric_columns,
)
from within_ml.anomalies.ripple import Cells, count_cells, rate_cells
from within_ml.errors import InputError, shown

Codes = NDArray[np.int64]

WHOLE_ACCOUNT = "whole account"
"""Dimension of a cause that has no elements: everything changed alike."""

__all__ = ["DIMENSIONS", "METRICS", "WHOLE_ACCOUNT", "Cause", "baseline_and_day", "root_causes", "to_json"]

_NESTED = ("platform", "campaign_id", "ad_group_id", "ad_id")
_PRIOR = MappingProxyType({"campaign_id": 0.0, WHOLE_ACCOUNT: 1.5, "platform": 3.0, "ad_group_id": 2.0, "ad_id": 3.0})
_OTHER_PRIOR = 4.0
"""Log-likelihood that a dimension must gain over campaigns, where budgets, bids, pages and rejections happen.

Of descriptions that mean the same cells the one with the least is told: an account's only campaign as the campaign.
"""

_INNER = ("ad_group_id", "ad_id")
_MOST, _LITTLE = 0.8, 0.2
"""Volumes: ads are told instead of their campaign if they make most of its change and its other ads changed little."""

_ENOUGH_GAIN = 3.0
"""Log-likelihood that a cause must gain over an ordinary day to be told before campaigns that began or ended."""

_MIN_SHARE, _MAX_ELEMENTS = 0.10, 5
"""An element of a set must explain a tenth of the change, as in Adtributor; sets have at most five."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A set of elements of one dimension that explains a change.

    Attributes
    ----------
    dimension : str
        One of the dimensions, or `WHOLE_ACCOUNT`.
    elements : tuple of str
        Most surprising first; empty for the whole account.
    share_explained : float
        Adtributor's explanatory power: share of the change, 1 is all of it; above 1 where others change against it.
    surprise : float
        Adtributor's surprise of the elements, in nats, 0 for the whole account.
    mix_effect, rate_effect : float
        What the elements add to the change, in the metric's unit; mix is 0 for counts.
    sentence : str
        The same in words.
    """

    dimension: str
    elements: tuple[str, ...]
    share_explained: float
    surprise: float
    mix_effect: float
    rate_effect: float
    sentence: str


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """All cells of both periods: one row per combination of elements; ``codes`` has one array per dimension."""

    metric: str
    dimensions: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    codes: tuple[Codes, ...]
    expected: FloatArray
    actual: FloatArray
    expected_base: FloatArray | None
    actual_base: FloatArray | None
    unit: float


def root_causes(
    expected: pd.DataFrame, actual: pd.DataFrame, metric: str, dimensions: Sequence[str] | None = None
) -> tuple[Cause, ...]:
    """Return what explains the change of a metric between two periods, the best explanation first.

    Per dimension Adtributor proposes sets: elements by falling surprise, each explaining at least a tenth of the change
    (Bhagwan et al., NSDI 2014). Across dimensions the paper ranks by surprise, which favours dimensions of many
    elements and cannot say "everything"; here the set is first whose elements, all changed by one factor and the rest
    left as it was, describe the finest cells best, at a cost per element. Campaigns that began or ended were planned
    to: they are told first only where nothing else happened.

    Parameters
    ----------
    expected, actual : DataFrame
        Columns of the metric and dimensions, 0 or above; rows in any order, several per element are added. An element
        that only one of them has is new or gone.
    metric : str
        One of `METRICS`.
    dimensions : sequence of str, optional
        By default those of `DIMENSIONS` that both frames have.

    Returns
    -------
    tuple of Cause
        At most one per dimension and one for the whole account; empty if nothing changed, or a period has no
        denominator and so no rate.

    Raises
    ------
    InputError
        If the metric is unknown, columns are missing or a value is negative or infinite.

    Examples
    --------
    >>> expected = pd.DataFrame({"campaign_id": ["a", "b"], "region": "US-CA", "clicks": [100, 90]})
    >>> found = root_causes(expected, expected.assign(clicks=[100, 300]), "clicks")
    >>> found[0].dimension, found[0].elements, found[0].share_explained
    ('campaign_id', ('b',), 1.0)
    """
    chosen = dimensions
    if dimensions is None:
        chosen = [name for name in DIMENSIONS if name in expected.columns and name in actual.columns]
    change = _change(expected, actual, metric, tuple(dimension_columns(expected, chosen)))
    if change is None:
        return ()
    outer = _without_ads(change)
    cells = _cells(outer)
    whole = np.ones(len(outer.expected), dtype=np.bool_)
    proposals = [_Proposal(cells.cost(whole, 0, 0), WHOLE_ACCOUNT, np.empty(0, dtype=np.int64), whole)]
    for dimension in outer.dimensions:
        proposals += _best_set(outer, cells, dimension)
    ranked = _ranked(proposals)
    gain = cells.ordinary_cost() - ranked[0].cost - ranked[0].prior
    ranked[int(gain > _ENOUGH_GAIN) : 0] = _come_or_gone(outer, cells)
    if outer is not change:
        ranked = _with_ads(change, ranked)
    return tuple(_told(change, proposal) for proposal in ranked)


def to_json(causes: Iterable[Cause]) -> str:
    """Return causes as a JSON list of objects with the fields of `Cause`.

    >>> to_json(())
    '[]'
    """
    return json.dumps([asdict(cause) for cause in causes], ensure_ascii=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Proposal:
    """A set of elements (numbers in its dimension), the cells that it means and how badly it describes the change."""

    cost: float
    dimension: str
    elements: Codes
    inside: NDArray[np.bool_]

    @property
    def prior(self) -> float:
        return _PRIOR.get(self.dimension, _OTHER_PRIOR)


def _ranked(proposals: list[_Proposal]) -> list[_Proposal]:
    """Order from best to worst; of several names of the same cells only the best is kept."""
    ordered = sorted(proposals, key=lambda p: (round(p.cost + p.prior, 6), p.prior, p.dimension))
    kept: dict[bytes, _Proposal] = {}
    for proposal in ordered:
        kept.setdefault(proposal.inside.tobytes(), proposal)
    return list(kept.values())


def _best_set(change: _Change, cells: Cells, dimension: str) -> list[_Proposal]:
    """Return the best set of one dimension, or none if no element explains enough."""
    number = change.dimensions.index(dimension)
    codes, names = change.codes[number], change.names[number]
    shares, surprise, _ = _judged(change, codes, len(names))
    went_on = np.bincount(codes, cells.counted, minlength=len(names)) > 0
    enough = np.flatnonzero((shares > _MIN_SHARE) & went_on)
    order = enough[np.lexsort((enough, -shares[enough], -surprise[enough]))][:_MAX_ELEMENTS]
    tried = [order[:size] for size in range(2, order.size + 1)]
    # All elements of a dimension are the whole account, unless it has but one.
    tried = [order[place : place + 1] for place in range(order.size)] + [t for t in tried if len(t) < len(names)]
    proposals = []
    for chosen in tried:
        inside = np.isin(codes, chosen)
        cost = cells.cost(inside, len(chosen), len(names))
        proposals.append(_Proposal(cost, dimension, chosen, inside))
    return [min(proposals, key=lambda p: p.cost)] if proposals else []


def _without_ads(change: _Change) -> _Change:
    """Return a count's cells summed over the ads of a campaign, which take over volume from each other all the time."""
    outer = [i for i, name in enumerate(change.dimensions) if name not in _INNER]
    if change.expected_base is not None or "campaign_id" not in change.dimensions or len(outer) == len(change.codes):
        return change
    cell = np.zeros(len(change.expected), dtype=np.int64)
    example = cell
    for i in outer:
        cell = cell * len(change.names[i]) + change.codes[i]
        _, example, cell = np.unique(cell, return_index=True, return_inverse=True)
    return replace(
        change,
        dimensions=tuple(change.dimensions[i] for i in outer),
        names=tuple(change.names[i] for i in outer),
        codes=tuple(change.codes[i][example] for i in outer),
        expected=_by_element(cell, change.expected, len(example)),
        actual=_by_element(cell, change.actual, len(example)),
    )


def _with_ads(change: _Change, ranked: list[_Proposal]) -> list[_Proposal]:
    """Add the best sets of ads: before their campaign if they are what changed in it, else last."""
    cells = _cells(change)
    proposals = [p for name in _INNER if name in change.dimensions for p in _best_set(change, cells, name)]
    for proposal in _ranked(proposals)[::-1]:
        narrower = _is_what_changed(change, proposal.inside, ranked[0])
        ranked = [proposal, *ranked] if narrower else [*ranked, proposal]
    return ranked


def _is_what_changed(change: _Change, ads: NDArray[np.bool_], first: _Proposal) -> bool:
    if first.dimension != "campaign_id" or len(first.elements) != 1:
        return False
    campaign = change.codes[change.dimensions.index("campaign_id")] == first.elements[0]
    others = campaign & ~ads
    if (ads & ~campaign).any() or not others.any():
        return False
    difference = change.actual - change.expected
    most = abs(difference[ads].sum()) >= _MOST * abs(difference[campaign].sum())
    return bool(most and abs(difference[others].sum()) <= _LITTLE * change.expected[others].sum())


def _come_or_gone(change: _Change, cells: Cells) -> list[_Proposal]:
    """Return the campaigns that began or ended and explain enough; they have no factor and so no cost."""
    if cells.counted.all() or "campaign_id" not in change.dimensions:
        return []
    number = change.dimensions.index("campaign_id")
    codes, names = change.codes[number], change.names[number]
    shares, _, _ = _judged(change, codes, len(names))
    moved = np.bincount(codes, cells.counted, minlength=len(names)) == 0
    chosen = np.flatnonzero(moved & (shares > _MIN_SHARE))
    chosen = chosen[np.argsort(-shares[chosen], kind="stable")][:_MAX_ELEMENTS]
    return [_Proposal(0.0, "campaign_id", chosen, np.isin(codes, chosen))] if chosen.size else []


def _judged(change: _Change, codes: Codes, count: int) -> tuple[FloatArray, FloatArray, Parts]:
    """Return share explained, surprise and parts per element."""
    sums = [_by_element(codes, values, count) for values in _values(change)]
    surprise = surprises(sums[0], sums[1])
    if len(sums) == 4:
        surprise = surprise + surprises(sums[2], sums[3])
    return explained_shares(*sums), surprise, _parts(sums)


def _told(change: _Change, proposal: _Proposal) -> Cause:
    if proposal.dimension == WHOLE_ACCOUNT:
        codes, chosen = np.zeros(len(change.expected), np.int64), np.zeros(1, np.int64)
        names: tuple[str, ...] = (WHOLE_ACCOUNT,)
        elements: tuple[str, ...] = ()
    else:
        number = change.dimensions.index(proposal.dimension)
        codes, names, chosen = change.codes[number], change.names[number], proposal.elements
        elements = tuple(names[i] for i in chosen)
    shares, surprise, parts = _judged(change, codes, len(names))
    mix, rate = float(parts.mix[chosen].sum()), float(parts.rate[chosen].sum())
    return Cause(
        proposal.dimension,
        elements,
        float(shares[chosen].sum()),
        float(surprise[chosen].sum()),
        mix,
        rate,
        _sentence(change, proposal.dimension, elements, (mix, rate)),
    )


def _sentence(change: _Change, dimension: str, elements: tuple[str, ...], effects: tuple[float, float]) -> str:
    old, new = _level(change.expected, change.expected_base), _level(change.actual, change.actual_base)
    told = f"{change.metric} {'rose' if new > old else 'fell'} from {old:.4g} to {new:.4g}"
    if not elements:
        return f"{told} in the whole account alike."
    who = f"{dimension.removesuffix('_id').replace('_', ' ')} {', '.join(elements)}"
    if change.expected_base is None:
        return f"{told}; {who} makes {effects[1]:+.4g} of it."
    return (
        f"{told}; {who} makes {sum(effects):+.4g} of it ({effects[1]:+.4g} by its own rate, {effects[0]:+.4g} by mix)."
    )


def _level(values: FloatArray, base: FloatArray | None) -> float:
    return float(values.sum() if base is None else values.sum() / base.sum())


def _parts(sums: list[FloatArray]) -> Parts:
    if len(sums) == 2:
        return count_parts(sums[0], sums[1])
    parts = rate_parts(sums[0], sums[2], sums[1], sums[3])
    assert parts is not None, "a change without a denominator is none"  # noqa: S101
    return parts


def _values(change: _Change) -> list[FloatArray]:
    if change.expected_base is None or change.actual_base is None:
        return [change.expected, change.actual]
    return [change.expected, change.actual, change.expected_base, change.actual_base]


def _by_element(codes: Codes, values: FloatArray, count: int) -> FloatArray:
    return np.bincount(codes, weights=values, minlength=count).astype(np.float64)


def _cells(change: _Change) -> Cells:
    chain = [change.codes[change.dimensions.index(name)] for name in _NESTED if name in change.dimensions]
    if change.expected_base is None or change.actual_base is None:
        inner = "campaign_id" if "campaign_id" in change.dimensions else None
        parent = change.codes[change.dimensions.index(inner)] if inner else np.zeros(len(change.expected), np.int64)
        return count_cells(change.expected, change.actual, parent, change.unit)
    chain.append(np.arange(len(change.expected)))
    return rate_cells(change.expected, change.expected_base, change.actual, change.actual_base, chain, change.unit)


def _change(expected: pd.DataFrame, actual: pd.DataFrame, metric: str, dimensions: tuple[str, ...]) -> _Change | None:
    """Bring both periods to the same cells; None if nothing changed or there is no rate."""
    columns = metric_columns(expected, metric)
    for frame in (expected, actual):
        _check(frame, dimensions, metric_columns(frame, metric))
    extra = MONEY_EVENTS.get(columns[0])
    has_events = extra is not None and extra in expected.columns and extra in actual.columns
    taken = list(dict.fromkeys([*columns, *([extra] if has_events and extra else [])]))
    both = pd.concat([expected[[*dimensions, *taken]], actual[[*dimensions, *taken]]], ignore_index=True)
    factors = [pd.factorize(both[name].astype(str).where(both[name].notna(), ABSENT), sort=True) for name in dimensions]
    cell = np.zeros(len(both), dtype=np.int64)
    for codes, names in factors:
        cell = np.unique(cell * len(names) + codes, return_inverse=True)[1]
    n = int(cell.max()) + 1 if len(cell) else 0
    where = np.zeros(n, dtype=np.int64)
    where[cell] = np.arange(len(cell))
    old = np.arange(len(both)) < len(expected)
    summed = {
        name: [_by_element(cell[rows], both[name].to_numpy(np.float64, na_value=0.0)[rows], n) for rows in (old, ~old)]
        for name in taken
    }
    values, base = summed[columns[0]], summed[columns[1]] if len(columns) == 2 else None
    if base is None and values[0].sum() == values[1].sum():
        return None
    if base is not None and (min(base[0].sum(), base[1].sum()) <= 0 or _same_rate(values, base)):
        return None
    return _Change(
        metric,
        dimensions,
        tuple(tuple(map(str, names)) for _, names in factors),
        tuple(codes.astype(np.int64)[where] for codes, _ in factors),
        values[0],
        values[1],
        None if base is None else base[0],
        None if base is None else base[1],
        _unit(columns, values, base, summed[extra] if has_events and extra else None),
    )


def _same_rate(values: list[FloatArray], base: list[FloatArray]) -> bool:
    return bool(values[0].sum() * base[1].sum() == values[1].sum() * base[0].sum())


def _unit(
    columns: list[str], values: list[FloatArray], base: list[FloatArray] | None, events: list[FloatArray] | None
) -> float:
    """Return the money that one event brings, 1 for counts of events."""
    if columns[0] not in MONEY_EVENTS:
        return 1.0
    total = sum(v.sum() for v in values)
    if events is None and base is not None and columns[1] == "clicks":
        events = base
    count = sum(e.sum() for e in events) if events is not None else float((values[0] + values[1] > 0).sum())
    return float(total / count) if count > 0 and total > 0 else 1.0


def _check(frame: pd.DataFrame, dimensions: tuple[str, ...], columns: list[str]) -> None:
    missing = [name for name in dimensions if name not in frame.columns]
    if missing:
        raise InputError(f"expected and actual must have the same dimensions; missing: {shown(missing)}.")
    for name in columns:
        values = frame[name].to_numpy(np.float64, na_value=0.0)
        bad = values[~(np.isfinite(values) & (values >= 0))]
        if bad.size:
            raise InputError(f"{name} must be 0 or above and finite; it has {shown(bad.tolist())}.")
