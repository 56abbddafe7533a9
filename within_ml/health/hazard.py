"""The risk that an account leaves within any number of days: a discrete-time hazard, composed and calibrated.

What the rows are is in `periods`, how one probability is predicted in `risk`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from within_ml.calibration.log_odds import LogOddsCalibrator
from within_ml.errors import InputError, ModelFormatError
from within_ml.health.calibrating import calibrator_from_dict, fit_calibrator
from within_ml.health.config import HORIZONS, HealthConfig, HealthModelType
from within_ml.health.risk import Evidence, RiskModel, jackknife

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]

BOUNDS = (7, 14, 30, 60, 90)
"""Days at which the intervals end that each have a hazard of their own."""

DAYS_AHEAD = "days_ahead"
_STATE = "hazard.json"
_SMALLEST = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Spells:
    """Rows of accounts that had not left, with what became of them; each array of shape (n,).

    Attributes
    ----------
    account : array of objects
        Rows of one account stay together.
    until : array of int
        Days until the account left, `labels.NEVER` if that was not seen.
    followed : array of int
        Days for which it is known whether the account left.
    could_follow : array of int
        Days until the end of what was known of all accounts. An interval beyond it is left out for everyone: to keep
        those who left in it and drop those who had not yet would make leaving look frequent.
    """

    account: NDArray[np.object_]
    until: Integers
    followed: Integers
    could_follow: Integers

    def where(self, kept: NDArray[np.bool_]) -> Spells:
        """Return the rows that a mask keeps."""
        return Spells(self.account[kept], self.until[kept], self.followed[kept], self.could_follow[kept])

    def known(self, days: int) -> NDArray[np.bool_]:
        """Whether it is known if the account left within so many days."""
        return (self.could_follow >= days) & ((self.until <= days) | (self.followed >= days))


class ChurnHazard:
    """P(account leaves within t days) from hazards of the intervals that end at `BOUNDS`.

    Each row is repeated for every interval that it is known to have entered and whose end is known for it, with the
    interval as a feature: a logistic model of the repeated rows is the discrete-time hazard model (Singer and Willett
    1993, Journal of Educational Statistics 18), and an account that is still there at the end contributes the intervals
    that it has come through. The chance to leave within t days is one minus the product of the chances to stay; within
    an interval the hazard is held constant. A horizon's probability is then calibrated on accounts that the hazard was
    not fitted on.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = pd.DataFrame({"trend": rng.normal(size=400)})
    >>> until = np.ceil(rng.exponential(60 * np.exp(X["trend"].to_numpy()))).astype(int)
    >>> spells = Spells(np.arange(400).astype(object), until, np.full(400, 90), np.full(400, 90))
    >>> churn = ChurnHazard(HealthModelType.LOGISTIC).fit(X, spells)
    >>> p = churn.probability(pd.DataFrame({"trend": [-1.0, 1.0]}), [14, 30, 90])
    >>> bool((np.diff(p, axis=1) > 0).all()), bool((p[0] > p[1]).all())
    (True, True)
    """

    def __init__(self, kind: HealthModelType = HealthModelType.BOOSTED, config: HealthConfig | None = None) -> None:
        self.kind = kind
        self.config = config or HealthConfig()

    def fit(self, X: pd.DataFrame, spells: Spells) -> Self:
        """Fit on rows of features X and what became of them."""
        names = np.unique(spells.account.astype(str))
        place = np.searchsorted(names, spells.account.astype(str))
        rows, ahead, left = self._repeated(spells)
        frame = X.iloc[rows].assign(**{DAYS_AHEAD: ahead.astype(np.float64)})
        self.model_ = RiskModel(self.kind, self.config).fit(frame, left, groups=place[rows])
        self.base_ = _base_hazards(ahead, left, place[rows])
        self.events_ = float(np.unique(place[rows][left > 0]).size)
        self.calibrators_: dict[int, LogOddsCalibrator] = {}
        out = self.out_of_fold(X, place)
        for days in HORIZONS:
            known = spells.known(days) & np.isfinite(out[:, 0])
            y = (spells.until <= days)[known].astype(np.float64)
            events = np.unique(place[known][y > 0]).size
            if self.model_.evidence_ is Evidence.MEMBERS and 0 < y.sum() < y.size:
                weight = np.full(y.size, events / y.sum())
                self.calibrators_[days] = fit_calibrator(_within(out[known], days), y, weight)
        return self

    def _repeated(self, spells: Spells) -> tuple[Integers, Integers, FloatArray]:
        rows, ahead, left = [], [], []
        for start, stop in zip((0, *BOUNDS), BOUNDS, strict=False):
            entered = np.flatnonzero((spells.until > start) & spells.known(stop))
            rows.append(entered)
            ahead.append(np.full(entered.size, stop))
            left.append((spells.until[entered] <= stop).astype(np.float64))
        return np.concatenate(rows), np.concatenate(ahead), np.concatenate(left)

    def out_of_fold(self, X: pd.DataFrame, place: Integers) -> FloatArray:
        """Return hazards by the members that did not see the row's account, shape (n, len(BOUNDS)).

        ``place`` is the account's number in the fit; one that no member saw gets the first fold's.
        """
        if self.model_.evidence_ is Evidence.LEVEL:
            return np.tile(self.base_, (len(X), 1))
        fold = np.array([self.model_.fold_of_.get(int(p), 0) for p in place.tolist()], dtype=np.int64)
        margins = self.model_.fold_margins(_ahead(X))
        own = margins[np.arange(len(margins)), np.tile(fold, len(BOUNDS))]
        return self.model_.calibrated(own).reshape(len(BOUNDS), len(X)).T

    # ---- predicting

    def hazards(self, X: pd.DataFrame) -> FloatArray:
        """Return the chance to leave in each interval for those who entered it, shape (n, len(BOUNDS))."""
        if self.model_.evidence_ is Evidence.LEVEL:
            return np.tile(self.base_, (len(X), 1))
        return self.model_.predict(_ahead(X)).reshape(len(BOUNDS), len(X)).T

    def probability(self, X: pd.DataFrame, days: ArrayLike) -> FloatArray:
        """Return P(the account leaves within so many days), shape (n, len(days)), rising with the days.

        Raises
        ------
        InputError
            If days are not above 0 or not in rising order.
        """
        return self.calibrated(self.hazards(X), _checked_days(days))

    def calibrated(self, hazards: FloatArray, days: Sequence[float]) -> FloatArray:
        """Compose hazards to probabilities, and shift each as the calibration of the horizons around it says."""
        shifts = np.column_stack([self._shift(hazards, horizon) for horizon in HORIZONS])
        found = np.empty((len(hazards), len(days)))
        for i, t in enumerate(days):
            at = float(np.interp(t, HORIZONS, np.arange(len(HORIZONS))))
            low, high = int(at), min(int(at) + 1, len(HORIZONS) - 1)
            shift = shifts[:, low] + (at - low) * (shifts[:, high] - shifts[:, low])
            found[:, i] = expit(logit(_within(hazards, t)) + shift)
        return np.maximum.accumulate(found, axis=1)

    def _shift(self, hazards: FloatArray, horizon: int) -> FloatArray:
        if horizon not in self.calibrators_ or not len(hazards):
            return np.zeros(len(hazards))
        raw = _within(hazards, horizon)
        shift: FloatArray = logit(self.calibrators_[horizon].transform(raw)) - logit(raw)
        return shift

    def intervals(self, X: pd.DataFrame, days: ArrayLike = HORIZONS) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return probabilities and their bounds, each of shape (n, len(days)).

        The bounds are those of the account's true risk as far as the choice of accounts in the fit moves it: Student's
        t on the log-odds, with the delete-a-group jackknife's standard error, the members' disagreement and the
        standard error of a level known by so many events.
        """
        t = _checked_days(days)
        p = self.probability(X, t)
        error = np.zeros(p.shape)
        if self.model_.folds_:
            ahead = _ahead(X)
            by_fold = self._log_odds(self.model_.fold_margins(ahead), t)
            by_member = self._log_odds(self.model_.member_margins(ahead), t)
            for i in range(len(t)):
                error[:, i] = np.hypot(jackknife(by_fold[:, i]), self.model_.disagreement(by_member[:, i]))
        half = self.model_.quantile() * np.sqrt(error**2 + 1.0 / (self.events_ + 1.0))
        lower, upper = expit(logit(p) - half), expit(logit(p) + half)
        return p, np.maximum.accumulate(lower, axis=1), np.maximum.accumulate(upper, axis=1)

    def _log_odds(self, margins: FloatArray, days: Sequence[float]) -> FloatArray:
        """Return the log-odds of leaving that k sets of margins stand for, shape (n, len(days), k)."""
        n = len(margins) // len(BOUNDS)
        hazards = [self.model_.calibrated(margins[:, k]).reshape(len(BOUNDS), n).T for k in range(margins.shape[1])]
        return np.stack([logit(self.calibrated(one, days)) for one in hazards], axis=2)

    def average(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the average account's risk by horizon and its bounds, each of shape (len(HORIZONS),)."""
        p = np.array([_within(self.base_[None, :], t)[0] for t in HORIZONS])
        half = self.model_.quantile() * np.sqrt(1.0 / (self.events_ + 1.0))
        return p, expit(logit(p) - half), expit(logit(p) + half)

    # ---- state

    def save(self, folder: Path) -> None:
        """Write the state into an existing folder."""
        (folder / "model").mkdir()
        self.model_.save(folder / "model")
        state = {
            "base": self.base_.tolist(),
            "events": self.events_,
            "calibrators": {str(days): one.to_dict() for days, one in self.calibrators_.items()},
        }
        (folder / _STATE).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, config: HealthConfig) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ModelFormatError
            If a file is missing or is not what `save` wrote.
        """
        model = RiskModel.load(folder / "model", config)
        found = cls(model.kind, config)
        found.model_ = model
        try:
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            found.base_, found.events_ = np.array(state["base"], dtype=np.float64), float(state["events"])
            found.calibrators_ = {int(days): calibrator_from_dict(one) for days, one in state["calibrators"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelFormatError(f"{folder} must hold a saved churn hazard; it does not ({error}).") from error
        return found


def _ahead(X: pd.DataFrame) -> pd.DataFrame:
    """Repeat the rows once by interval, the first interval's rows first."""
    repeated = X.iloc[np.tile(np.arange(len(X)), len(BOUNDS))]
    return repeated.assign(**{DAYS_AHEAD: np.repeat(np.array(BOUNDS, dtype=np.float64), len(X))})


def _within(hazards: FloatArray, days: float) -> FloatArray:
    """Compose the hazards of the intervals to the chance to leave within so many days, within (0, 1), shape (n,)."""
    starts, ends = np.array((0, *BOUNDS[:-1]), dtype=np.float64), np.array(BOUNDS, dtype=np.float64)
    share = np.clip((days - starts) / (ends - starts), 0.0, 1.0)
    # Beyond the last interval its daily hazard goes on.
    share[-1] = max((days - starts[-1]) / (ends[-1] - starts[-1]), 0.0)
    stays = (np.log1p(-np.clip(hazards, 0.0, 1 - _SMALLEST)) * share).sum(axis=1)
    return np.asarray(np.clip(-np.expm1(stays), _SMALLEST, 1 - _SMALLEST), dtype=np.float64)


def _base_hazards(ahead: Integers, left: FloatArray, place: Integers) -> FloatArray:
    """Return each interval's share of rows that left; half an account at 90 days stands for what was never seen."""
    found = np.empty(len(BOUNDS))
    for i, (start, stop) in enumerate(zip((0, *BOUNDS), BOUNDS, strict=False)):
        here = ahead == stop
        accounts = max(np.unique(place[here]).size, 1)
        rate = float(left[here].mean()) if here.any() else 0.0
        found[i] = (rate * accounts + 0.5 * (stop - start) / BOUNDS[-1]) / (accounts + 1)
    return found


def _checked_days(days: ArrayLike) -> list[float]:
    found = np.atleast_1d(np.asarray(days, dtype=np.float64))
    if not (np.isfinite(found).all() and (found > 0).all() and (np.diff(found) > 0).all()):
        raise InputError(f"days must be numbers above 0 in rising order, however: {found.tolist()}.")
    return [float(t) for t in found]
