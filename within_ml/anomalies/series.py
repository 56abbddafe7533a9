"""The time axis of one series of any cadence: what was expected at each point, and how odd the point is.

    found = score_series(timestamps, values)
    found.expected, found.lower, found.upper, found.score, found.is_anomaly                 # shape (n,) each

    baseline = SeriesBaseline()                      # the same night by night: nothing old is read again
    baseline.update(timestamps, values)
    baseline.update(new_timestamps, new_values)

Causal: the answer at a point uses that point and earlier ones only, so a longer series never changes what was told
before. Here stands what one series says about itself; many accounts and metrics at once, counts judged by their own
noise and false-discovery control over a night's tests belong into the panel, plain matrices into `cross_section`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError

FloatArray = NDArray[np.float64]

DEFAULT_EVIDENCE = 1.6
DEFAULT_THRESHOLD = 1.0 - 10.0**-DEFAULT_EVIDENCE
"""Score from which a point is an anomaly, .975. Chosen with the other settings for the best standard score on the files
of the Numenta Anomaly Benchmark other than its ad exchange and Twitter families, see `benchmarks/nab.py`; how pooling
depends on the cadence was chosen on simulated hourly rates."""

_SECONDS_PER_DAY = 86_400
_GAPS_FOR_CADENCE = 50
_LARGEST = 1e150
_MONDAY = 4 * 24
"""Hours from the epoch's Thursday to the Monday after it."""
_PER_DAY_POOLED, _LEAST_POOLED = 96.0, 0.25


@dataclass(frozen=True, slots=True)
class SeriesSettings:
    """How a series' baseline learns and when its oddity is an alarm.

    Rates are the weight of the newest point; they are larger while fewer points were seen.

    Attributes
    ----------
    level_rate, profile_rate, scale_rate, error_rate : float
        Of the level, the daily and weekly profile (per visit of an hour), the residuals' scale, the guesses' errors.
    preference : float
        Power to which the guesses' inverse errors are raised to weigh them.
    fast, slow : float
        Rates of the two sums that tell a shift, and ``fast`` also of the sum that tells a restless time.
    memory : float
        Points after which an oddity counts 1/e in the past it is compared with.
    tail, shape : float
        Share of the past from which on tails are extrapolated, and the power on which they are exponential.
    clip : float
        Scales at which a residual's influence ends.
    floor : float
        Smallest scale, as a share of the series' own spread.
    pooling : float
        Rate at which evidence gathers in series of a quarter of an hour and faster; the slower the cadence, the nearer
        to judging each point alone.
    both : float
        Weight of the mean of the seven surprises; the rest is the weight of the largest.
    threshold : float
        Evidence, -log10 of a share, from which a point is an alarm.
    cool_days, cool_share, jump : float
        After an alarm, evidence below the alarm's plus ``jump`` is held below the threshold for that many days, at
        least 12 points, at most that share of the points seen (or of 200).
    fatigue, rest_days : float
        Evidence that an alarm takes from later points, half of it after that many days.
    repeats : float
        Evidence taken per tenfold of one more than the alarms so far, each forgotten as ``memory`` says: a series that
        alarms often must be odder to alarm again.
    warm_up : float
        Points until evidence counts in full.
    neighbours : int
        Past values to which a value's distance is taken.
    coverage : float
        Share of points that ``lower`` to ``upper`` should hold.
    """

    level_rate: float = 0.03
    profile_rate: float = 0.1
    scale_rate: float = 0.01
    preference: float = 4.0
    fast: float = 0.1
    slow: float = 0.03
    memory: float = 5000.0
    tail: float = 0.02
    shape: float = 0.5
    clip: float = 12.0
    floor: float = 0.01
    error_rate: float = 0.01
    pooling: float = 0.28
    both: float = 0.4
    threshold: float = DEFAULT_EVIDENCE
    cool_days: float = 2.0
    cool_share: float = 0.05
    jump: float = 2.0
    fatigue: float = 0.15
    rest_days: float = 4.0
    repeats: float = 0.3
    warm_up: float = 30.0
    neighbours: int = 3
    coverage: float = 0.98


@dataclass(frozen=True, slots=True)
class SeriesScores:
    """What was found; arrays of shape (n,), in the order of the input.

    Attributes
    ----------
    expected : array
        Value expected before the point was seen, in the series' own unit; NaN before the second value.
    lower, upper : array
        Band around it that holds the share ``coverage`` of the points, by the series' own past residuals; not below 0
        where the series never was; NaN at missing values and before there are 12 points.
    score : array
        In [0, 1]: 1 less the share of its own past that was at least as odd, roughly, extrapolated beyond the oddest.
        Held below the threshold in the cool-down after an alarm; 0 at missing values.
    is_anomaly : array of bool
        ``score`` ≥ the threshold.
    """

    expected: FloatArray
    lower: FloatArray
    upper: FloatArray
    score: FloatArray
    is_anomaly: NDArray[np.bool_]


class SeriesBaseline:
    """What one series was like so far, and the judgement of its next points.

    A point is compared with a level and, where their hours or weekdays were seen twice, daily and weekly profiles,
    each with and without its residual's persistence; the guesses are weighed by their errors of late. Seven statistics
    say how odd it is: the residual, its running sum at two speeds (a shift of level), the residuals' mean size (a
    restless time), the distance to the nearest past values, to the mean and to the point before. Each is turned into a
    tail share of its own discounted past, so that heavy tails and autocorrelation are the series' own; the surprises'
    largest and mean are pooled. A new level is learnt: the alarm stands at the onset of a shift, then there is a
    cool-down, and a series that alarms often must be odder to alarm again.

    The tail share per series and the pooling of short against long windows follow Ahmad et al., "Unsupervised
    real-time anomaly detection for streaming data", Neurocomputing 262 (2017); here tails are empirical with an
    exponential end instead of normal, and the raw oddity comes from a baseline instead of a sequence memory.

    Examples
    --------
    >>> hours = np.datetime64("2024-01-01T00", "h") + np.arange(24 * 28)
    >>> values = 100 + 20 * np.sin(np.arange(24 * 28) * np.pi / 12) + np.random.default_rng(0).normal(size=24 * 28)
    >>> values[600:] += 40
    >>> baseline = SeriesBaseline()
    >>> first = baseline.update(hours[:600], values[:600])
    >>> first.expected[599].round(), values[599].round()
    (np.float64(95.0), np.float64(95.0))
    >>> np.flatnonzero(baseline.update(hours[600:], values[600:]).is_anomaly) + 600
    array([600])
    """

    def __init__(self, settings: SeriesSettings | None = None) -> None:
        from within_ml.anomalies import series_loop as loop

        self.settings = settings or SeriesSettings()
        self._numbers = np.zeros(loop.NUMBERS)
        self._numbers[loop.STRIDE] = 1.0
        self._numbers[loop.ERROR : loop.ERROR + 6] = 1.0
        self._numbers[loop.UNIT : loop.UNIT + loop.STATISTICS] = 1.0
        self._profiles = np.zeros((4, 7 * 24))
        self._tails = np.zeros((loop.STATISTICS + 1, loop.BINS))
        self._gaps: list[int] = []
        self._last: int | None = None

    def update(self, timestamps: ArrayLike, values: ArrayLike) -> SeriesScores:
        """Judge the next points, shape (n,) each, one after the other, and learn from each.

        Raises
        ------
        InputError
            For arrays of other or unequal shapes, missing times, what is no number, infinite or enormous values.
        """
        from within_ml.anomalies import series_loop as loop

        times, x = self._checked(timestamps, values)
        found = np.full((x.size, 4), np.nan)
        found[:, 3] = 0.0
        per_day = self._per_day(times)
        pooled = np.clip(np.log(per_day) / np.log(_PER_DAY_POOLED), _LEAST_POOLED, 1.0)
        hours = times // 3600
        loop.judge_rows(
            x, hours % 24, (hours - _MONDAY) % (7 * 24), per_day, self.settings.pooling**pooled,
            self._vector(), self._numbers, self._profiles, self._tails, found,
        )  # fmt: skip
        score = 1.0 - 10.0 ** -found[:, 3]
        return SeriesScores(found[:, 0], found[:, 1], found[:, 2], score, found[:, 3] >= self.settings.threshold)

    def _checked(self, timestamps: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.int64], FloatArray]:
        try:
            stamps = np.asarray(timestamps, dtype="datetime64[s]")
        except (TypeError, ValueError) as error:
            raise InputError(f"timestamps must be times without zone or in UTC; however: {error}.") from error
        try:
            x = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"values must be numbers; however: {error}.") from error
        if stamps.ndim != 1 or stamps.shape != x.shape:
            raise InputError(f"timestamps and values must both have shape (n,); however: {stamps.shape} and {x.shape}.")
        if (np.abs(x) > _LARGEST).any():
            beyond = int((np.abs(x) > _LARGEST).sum())
            raise InputError(f"values must be NaN or within ±{_LARGEST:g}; however: {beyond} are infinite or larger.")
        if np.isnat(stamps).any():
            raise InputError(f"timestamps must be known; however: {int(np.isnat(stamps).sum())} are missing.")
        return stamps.astype(np.int64), x

    def _per_day(self, times: NDArray[np.int64]) -> FloatArray:
        """Return points per day as known at each point: by the median of the first gaps up to it."""
        known = np.empty(times.size)
        for i, time in enumerate(times.tolist()):
            if len(self._gaps) == _GAPS_FOR_CADENCE:
                known[i:] = self._rate()
                break
            if self._last is not None and time > self._last:
                self._gaps.append(time - self._last)
            self._last = time
            known[i] = self._rate()
        if times.size:
            self._last = int(times[-1])
        return known

    def _rate(self) -> float:
        return _SECONDS_PER_DAY / float(np.median(self._gaps)) if self._gaps else 1.0

    def _vector(self) -> FloatArray:
        s = self.settings
        return np.array(
            [s.level_rate, s.profile_rate, s.scale_rate, s.preference, s.fast, s.slow, s.memory, s.tail, s.shape,
             s.clip, s.floor, s.error_rate, s.both, s.threshold, s.cool_days, s.cool_share, s.jump, s.fatigue,
             s.rest_days, s.repeats, s.warm_up, s.neighbours, s.coverage]
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return settings and state as JSON values; floats survive exactly."""
        return {
            "settings": asdict(self.settings),
            "numbers": self._numbers.tolist(),
            "profiles": self._profiles.tolist(),
            "tails": self._tails.tolist(),
            "gaps": list(self._gaps),
            "last": self._last,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> SeriesBaseline:
        """Return the baseline that `to_dict` told of."""
        found = cls(SeriesSettings(**state["settings"]))
        found._numbers = np.array(state["numbers"])
        found._profiles, found._tails = np.array(state["profiles"]), np.array(state["tails"])
        found._gaps, found._last = list(state["gaps"]), state["last"]
        return found


def score_series(timestamps: ArrayLike, values: ArrayLike, *, settings: SeriesSettings | None = None) -> SeriesScores:
    """Judge every point of a series by the points before it.

    10,000 points take about a tenth of a second; the loop is compiled at the first call of a process, some seconds.

    Parameters
    ----------
    timestamps : array-like of shape (n,)
        Times without zone or in UTC. Points are judged in the order given, that of arrival: sort what arrived out of
        order. Gaps, irregular and repeated steps are allowed, also a clock set back.
    values : array-like of shape (n,)
        Numbers; NaN is a missing point, which gets score 0.
    settings : SeriesSettings, optional
        A lower ``threshold`` than the default's alarms more often.

    Raises
    ------
    InputError
        See `SeriesBaseline.update`.

    Examples
    --------
    >>> days = np.datetime64("2024-01-01") + np.arange(90)
    >>> values = 1000 + np.random.default_rng(0).normal(0, 30, 90)
    >>> values[60] = 2000
    >>> found = score_series(days, values)
    >>> np.flatnonzero(found.is_anomaly)
    array([60])
    >>> np.round(found.expected[60], -1), found.score[60].round(2)
    (np.float64(1000.0), np.float64(1.0))
    """
    return SeriesBaseline(settings).update(timestamps, values)
