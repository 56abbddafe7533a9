"""How much of a group's deviation from its predictions is still there when the next predictions are made.

What the deviations are is estimated by `HierarchicalCalibrator`; here only how long they last.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from within_ml.ad_score import terms
from within_ml.ad_score.outcomes import Outcomes
from within_ml.calibration.hierarchical import HierarchicalCalibrator
from within_ml.calibration.level import estimate_level
from within_ml.models.binomial import fit_binomial

FloatArray = NDArray[np.float64]

_GAP_WEEKS = 2
_STEP_WEEKS = 2
_PRIOR_CLICKS = 1.0


def persistence(outcomes: Outcomes, *, period_sd: float = 0.0) -> FloatArray:
    """Return the share of the groups' intercepts that later weeks still have, in [0, 1], shape (levels,).

    ``prior_ctr`` follows what an ad and its campaign show, so that a deviation seen last month is mostly inside the
    prediction by now, and applied once more it would be counted twice; what an account has that no feature tells lasts.
    Calibrators are fitted on the weeks up to a cut and their offsets regressed on two weeks that begin two weeks after
    it, since a label takes nine days to be complete; all cuts together give one slope per level, 0 where a history is
    too short to tell.

    Examples
    --------
    >>> import pandas as pd
    >>> rng, n = np.random.default_rng(0), 1200
    >>> groups = pd.DataFrame({"account": rng.choice(["a", "b", "c"], n), "campaign_id": np.arange(n).astype(str),
    ...                        "ad_group_id": "", "ad_id": ""})
    >>> day, w = np.datetime64("2024-01-01") + np.repeat(7 * np.arange(10), 120), np.full(n, 9000.0)
    >>> predicted, factor = rng.uniform(0.01, 0.03, n), groups["account"].map({"a": 0.7, "b": 1.0, "c": 1.4})
    >>> y = rng.binomial(9000, predicted * factor.to_numpy()) / w
    >>> shares = persistence(Outcomes(day, groups, logit(predicted), y, w, w, w))
    >>> bool(shares[0] > 0.9)
    True
    """
    weeks = outcomes.weeks
    found = [
        _later(
            outcomes, weeks >= cut, (weeks < cut - _GAP_WEEKS) & (weeks >= cut - _GAP_WEEKS - _STEP_WEEKS), period_sd
        )
        for cut in np.unique(weeks)[::-1][_STEP_WEEKS - 1 :: _STEP_WEEKS]
    ]
    found = [parts for parts in found if parts[0].any()]
    if not found:
        return np.zeros(len(terms.HIERARCHY))
    intercepts, margin, y, w = (np.concatenate(parts) for parts in zip(*found, strict=True))
    fit = fit_binomial(intercepts, y, w, offset=margin, ridge=np.full(intercepts.shape[1], _PRIOR_CLICKS))
    return np.clip(fit.coefficients, 0.0, 1.0)


def _later(
    outcomes: Outcomes, past: NDArray[np.bool_], future: NDArray[np.bool_], period_sd: float
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Intercepts by level, shape (n, levels), and log-odds, rates and impressions of the future rows."""
    seen, later = outcomes.where(past), outcomes.where(future)
    if not len(seen) or not len(later):
        return np.zeros((0, len(terms.HIERARCHY))), np.zeros(0), np.zeros(0), np.zeros(0)
    calibrator = HierarchicalCalibrator(hierarchy_levels=terms.HIERARCHY).fit(
        seen.rate, seen.y, seen.groups, sample_weight=seen.w, periods=seen.weeks, period_sd=period_sd
    )
    offsets = []
    for level in range(len(terms.HIERARCHY) + 1):
        above = later.groups.copy()
        above[list(terms.HIERARCHY[level:])] = None
        offsets.append(calibrator.offsets(above))
    margin = logit(calibrator.global_calibrator_.transform(later.rate))
    margin = margin + estimate_level(margin, later.y, later.w, later.weeks, period_sd=period_sd).by_row
    return np.diff(np.column_stack(offsets), axis=1), margin, later.y, later.w
