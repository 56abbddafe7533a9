"""The Numenta Anomaly Benchmark's own scoring, from its published description and profiles.

A detector gives every point a score in [0, 1]; one threshold for all files turns scores into detections. Of each
labelled window the earliest detection counts: the scaled sigmoid of its place, over what the window's left edge gives,
so 1 there and near 0 at the right edge; a window without a detection costs the profile's weight of a miss. Each
detection outside windows costs up to the profile's weight of a false alarm, less when it follows a window closely. The
first 15 % of a file's rows, at most 750, count for nothing. The sum over files is normalised so that a detector that
never alarms has 0 and one that finds every window at its first point has 100.

Source: Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly Benchmark", ICMLA 2015;
`config/profiles.json` of the benchmark. What no text says (the probation of 750 rows, the +1 of a window's places) was
settled by the published scores of single files, see `tests/benchmarks/test_nab_scoring.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

PROBATION, MOST_PROBATION_ROWS = 0.15, 750


@dataclass(frozen=True, slots=True)
class Profile:
    """What a window found, a window missed and a false alarm weigh."""

    found: float = 1.0
    missed: float = 1.0
    false_alarm: float = 0.11


STANDARD = Profile()
LOW_FALSE_ALARMS = Profile(false_alarm=0.22)
LOW_MISSES = Profile(missed=2.0)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A file's timestamps, values and windows; a window is its first and last row."""

    name: str
    timestamps: NDArray[np.datetime64]
    values: FloatArray
    windows: tuple[tuple[int, int], ...]

    @property
    def family(self) -> str:
        return self.name.split("/")[0]

    @property
    def probation(self) -> int:
        """Rows at the beginning that count for nothing."""
        return min(int(PROBATION * len(self.values)), MOST_PROBATION_ROWS)


@dataclass(frozen=True, slots=True)
class FileScore:
    """A file's score at a threshold, and its counts of rows."""

    score: float
    true_positives: int
    false_positives: int


def _scaled_sigmoid(place: FloatArray) -> FloatArray:
    return np.where(place > 3.0, -1.0, 2.0 / (1.0 + np.exp(5.0 * place)) - 1.0)


@dataclass(frozen=True, slots=True)
class Places:
    """What a detection at each row is worth, shape (rows,), and the row's window, -1 outside, -2 in probation."""

    worth: FloatArray
    window: NDArray[np.int64]
    windows: int


def places(file: Labelled, profile: Profile = STANDARD) -> Places:
    """Return what a detection at each row of a file is worth."""
    n = len(file.values)
    rows = np.arange(n)
    worth, window = np.full(n, -profile.false_alarm), np.full(n, -1)
    best = 2.0 / (1.0 + np.exp(-5.0)) - 1.0
    for number, (first, last) in enumerate(file.windows):
        inside = slice(first, last + 1)
        width = last - first + 1
        worth[inside] = profile.found * _scaled_sigmoid(-(last - rows[inside] + 1) / width) / best
        window[inside] = number
        past = (rows[last + 1 :] - last) / (width - 1)
        worth[last + 1 :] = profile.false_alarm * _scaled_sigmoid(past)
    counted = {int(w) for w in window[file.probation :] if w >= 0}
    window[: file.probation] = -2
    return Places(worth, window, len(counted))


def score_file(file: Labelled, scores: FloatArray, threshold: float, profile: Profile = STANDARD) -> FileScore:
    """Return a file's score when all points with at least the threshold are detections."""
    at = places(file, profile)
    alarm = np.asarray(scores) >= threshold
    outside = alarm & (at.window == -1)
    total = float(at.worth[outside].sum())
    found = 0
    for number in set(at.window[at.window >= 0].tolist()):
        hits = at.worth[alarm & (at.window == number)]
        found += hits.size
        total += float(hits.max()) if hits.size else -profile.missed
    return FileScore(total, found, int(outside.sum()))


def windows_of(files: Sequence[Labelled]) -> int:
    """Return how many windows the files have after their probation."""
    return sum(places(f).windows for f in files)


def normalised(total: float, windows: int, profile: Profile = STANDARD) -> float:
    """Return a sum of files' scores on the scale from 0 (never alarms) to 100 (every window at its first point).

    NaN without windows.
    """
    if not windows:
        return float("nan")
    null = -profile.missed * windows
    return 100.0 * (total - null) / (profile.found * windows - null)


@dataclass(frozen=True, slots=True)
class Best:
    """The threshold with the best normalised score over files, and that score."""

    threshold: float
    score: float


def best_threshold(files: Sequence[Labelled], scores: Mapping[str, FloatArray], profile: Profile = STANDARD) -> Best:
    """Return the threshold that scores best over files, among all that their scores have."""
    changes: list[NDArray[np.float64]] = []
    start = 0.0
    for file in files:
        at = places(file, profile)
        start -= profile.missed * at.windows
        best_so_far: dict[int, float] = {}
        order = np.argsort(-scores[file.name], kind="stable")
        order = order[at.window[order] != -2]
        change = at.worth[order].copy()
        for i, (window, worth) in enumerate(zip(at.window[order].tolist(), at.worth[order].tolist(), strict=True)):
            if window >= 0:
                held = best_so_far.get(window, -profile.missed)
                change[i] = max(worth - held, 0.0)
                best_so_far[window] = max(worth, held)
        changes.append(np.column_stack([scores[file.name][order], change]))
    every = np.concatenate(changes)
    every = every[np.argsort(-every[:, 0], kind="stable")]
    totals = start + np.cumsum(every[:, 1])
    last = np.flatnonzero(np.append(every[1:, 0] != every[:-1, 0], True))
    chosen = last[int(np.argmax(totals[last]))]
    windows = windows_of(files)
    if totals[chosen] <= start:
        return Best(float(np.inf), 0.0)
    return Best(float(every[chosen, 0]), normalised(float(totals[chosen]), windows, profile))
