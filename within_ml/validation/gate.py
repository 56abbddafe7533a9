"""The promotion gate: may a challenger become champion. A pure decision on predictions for the same rows.

It reads no registry and moves no alias; whoever asks writes the decision down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError
from within_ml.metrics import check_rates, row_log_loss
from within_ml.validation.bootstrap import ClusterBootstrap

FloatArray = NDArray[np.float64]

CHAMPION = "champion"


@dataclass(frozen=True, slots=True)
class GateCriteria:
    """What a challenger must show.

    Parameters
    ----------
    min_rows, min_events, min_groups : int
        Evidence without which nothing is decided.
    confidence : float
        One-sided confidence with which it must be better than each opponent.
    equal_within : float
        Predictions that differ by no more than this, on every row, are those of the same model.
    n_bootstrap, random_state : int
        Of the bootstrap by group.
    unit, event, group, subject : str
        What the sentences call one unit of weight, what is predicted, what is resampled, and what a row is about.
    """

    min_rows: int = 200
    min_events: int = 200
    min_groups: int = 20
    confidence: float = 0.95
    equal_within: float = 1e-9
    n_bootstrap: int = 1000
    random_state: int = 0
    unit: str = "impression"
    event: str = "clicks"
    group: str = "campaigns"
    subject: str = "ads"


@dataclass(frozen=True, slots=True)
class GateComparison:
    """The challenger against one opponent on the same rows.

    ``difference`` is the log-loss per unit of weight of the challenger minus the opponent's, below 0 where the
    challenger is better; ``upper`` its one-sided upper bound. Both are None where the opponent's predictions are not
    finite.
    """

    opponent: str
    challenger_log_loss: float
    opponent_log_loss: float | None
    difference: float | None
    upper: float | None
    beaten: bool


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The verdict; ``reasons`` are full sentences, one per refusal, or what an approval rests on."""

    approved: bool
    reasons: tuple[str, ...]
    comparisons: tuple[GateComparison, ...]
    n_rows: int
    n_groups: int
    events: float

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as JSON values."""
        return {**asdict(self), "reasons": list(self.reasons), "comparisons": [asdict(c) for c in self.comparisons]}


def joined(decisions: Sequence[GateDecision]) -> GateDecision:
    """Return one decision of several about a challenger, each on its own rows: it needs the approval of all.

    Counts are those of the decision with the most rows.
    """
    largest = max(decisions, key=lambda decision: decision.n_rows)
    refusals = [reason for decision in decisions if not decision.approved for reason in decision.reasons]
    return replace(
        largest,
        approved=not refusals,
        reasons=tuple(refusals) or tuple(reason for decision in decisions for reason in decision.reasons),
        comparisons=tuple(comparison for decision in decisions for comparison in decision.comparisons),
    )


class PromotionGate:
    """Decide whether a challenger may replace the champion.

    It must predict a finite, not constant rate on enough rows, and its log-loss must be below that of the champion and
    of every baseline, each with one-sided confidence by a paired bootstrap of groups. The first model has only the
    baselines to beat. A champion that predicts NaN counts as beaten.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.uniform(0.01, 0.05, 600)
    >>> impressions = np.full(600, 2000)
    >>> y = rng.binomial(impressions, truth) / impressions
    >>> campaigns = np.arange(600) // 3
    >>> decision = PromotionGate().decide(truth, None, {"global": np.full(600, 0.03)}, y, impressions, campaigns)
    >>> decision.approved, decision.reasons
    (True, ('Better than global: log-loss per impression lower by 0.00...',))
    """

    def __init__(self, criteria: GateCriteria | None = None) -> None:
        self.criteria = criteria or GateCriteria()

    def decide(
        self,
        challenger_pred: ArrayLike,
        champion_pred: ArrayLike | None,
        baseline_preds: Mapping[str, ArrayLike],
        y: ArrayLike,
        sample_weight: ArrayLike,
        groups: ArrayLike,
    ) -> GateDecision:
        """Judge predictions for the same n rows, which none of the models has been fitted on.

        Parameters
        ----------
        challenger_pred, champion_pred : array-like, shape (n,)
            Predicted rates; the champion's is None for the first model.
        baseline_preds : mapping of str to array-like, shape (n,)
            Predicted rates by baseline.
        y, sample_weight, groups : array-like, shape (n,)
            Observed rates, their weights and groups: for clicks, impressions and campaigns.

        Raises
        ------
        InputError
            If shapes differ or the outcomes are no rates. Bad predictions are no error but a refusal.
        """
        challenger = np.asarray(challenger_pred, dtype=np.float64)
        opponents = {name: np.asarray(p, dtype=np.float64) for name, p in baseline_preds.items()}
        if champion_pred is not None:
            opponents = {CHAMPION: np.asarray(champion_pred, dtype=np.float64), **opponents}
        rate, _, weight = check_rates(y, np.zeros_like(np.asarray(y, dtype=np.float64)), sample_weight)
        for name, p in {"challenger": challenger, **opponents}.items():
            if p.shape != rate.shape:
                raise InputError(f"Predictions must have the shape of y {rate.shape}, however: {name} {p.shape}.")
        bootstrap = ClusterBootstrap(
            groups, n_bootstrap=self.criteria.n_bootstrap, random_state=self.criteria.random_state
        )
        refusals = self._evidence(rate, weight, bootstrap.n_groups) + _soundness(challenger, self.criteria.subject)
        comparisons: tuple[GateComparison, ...] = ()
        if not refusals:
            comparisons = tuple(self._compare(n, challenger, p, rate, weight, bootstrap) for n, p in opponents.items())
            refusals = [
                reason
                for comparison in comparisons
                if (reason := self._refusal(comparison, challenger, opponents[comparison.opponent]))
            ]
        approvals = [_approval(comparison, self.criteria.unit) for comparison in comparisons]
        return GateDecision(
            approved=not refusals,
            reasons=tuple(refusals or approvals or ["There is nothing to be compared with."]),
            comparisons=comparisons,
            n_rows=rate.size,
            n_groups=bootstrap.n_groups,
            events=float(weight @ rate),
        )

    def _evidence(self, rate: FloatArray, weight: FloatArray, n_groups: int) -> list[str]:
        criteria = self.criteria
        counts = (
            ("rows", rate.size, criteria.min_rows),
            (criteria.event, round(float(weight @ rate)), criteria.min_events),
            (criteria.group, n_groups, criteria.min_groups),
        )
        return [
            f"Too few {what} to decide: at least {least} are required, however: {count}."
            for what, count, least in counts
            if count < least
        ]

    def _compare(
        self,
        name: str,
        challenger: FloatArray,
        opponent: FloatArray,
        rate: FloatArray,
        weight: FloatArray,
        bootstrap: ClusterBootstrap,
    ) -> GateComparison:
        own = row_log_loss(rate, challenger)
        own_mean = float(np.average(own, weights=weight))
        if not _are_rates(opponent).all():
            return GateComparison(name, own_mean, None, None, None, beaten=True)
        other = row_log_loss(rate, opponent)
        draws = bootstrap.draws((own - other) * weight, weight)
        upper = float(np.nanquantile(draws, self.criteria.confidence))
        other_mean = float(np.average(other, weights=weight))
        return GateComparison(name, own_mean, other_mean, own_mean - other_mean, upper, beaten=upper < 0)

    def _refusal(self, comparison: GateComparison, challenger: FloatArray, opponent: FloatArray) -> str | None:
        name, unit = comparison.opponent, self.criteria.unit
        if comparison.difference is None or comparison.upper is None:
            return None
        if np.abs(challenger - opponent).max() <= self.criteria.equal_within:
            return f"Equal to {name}: all predictions are the same, so there is nothing to gain."
        if comparison.beaten:
            return None
        if comparison.difference >= 0:
            return f"Not better than {name}: log-loss per {unit} is {comparison.difference:+.2g} above it."
        return (
            f"Not surely better than {name}: log-loss per {unit} is {-comparison.difference:.2g} lower, but the "
            f"{self.criteria.confidence:.0%} bound of the difference is {comparison.upper:+.2g}."
        )


def _are_rates(p: FloatArray) -> NDArray[np.bool_]:
    return (p >= 0) & (p <= 1)


def _soundness(p: FloatArray, subject: str) -> list[str]:
    wrong = ~_are_rates(p)
    if wrong.any():
        return [f"Predictions must be rates in [0, 1], however: {wrong.sum()} of {p.size} are NaN or outside."]
    if p.size and np.ptp(p) <= 1e-6 * p.max():
        return [f"Predictions must differ between {subject}, however: all are {p[0]:.6g}."]
    return []


def _approval(comparison: GateComparison, unit: str) -> str:
    if comparison.difference is None:
        return f"The predictions of {comparison.opponent} are not finite, so it counts as beaten."
    return f"Better than {comparison.opponent}: log-loss per {unit} lower by {-comparison.difference:.2g}."
