"""Several predictors on the same unseen rows: what each part of a model is worth.

It gets predictions by name and judges them; which variants there are, and how they are fitted, is the product's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml import metrics
from within_ml.errors import InputError, shown
from within_ml.validation.bootstrap import ClusterBootstrap, Interval
from within_ml.validation.evaluation import Judgement, ModelEvaluator, campaign_groups

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Compared:
    """One predictor; ``log_loss_difference`` is its log-loss minus the reference's, paired by campaign."""

    name: str
    judgement: Judgement
    log_loss_difference: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """All predictors on ``n_rows`` rows; the first is the reference."""

    n_rows: int
    compared: tuple[Compared, ...]

    def to_markdown(self) -> str:
        """Return a table: one row per predictor."""
        lines = [
            "| | log-loss | beside the first, × 10⁵ | AUC | predicted / actual clicks | pairs in order | significant |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for entry in self.compared:
            judged, gap = entry.judgement, entry.log_loss_difference
            beside = "" if entry is self.compared[0] else _interval(gap, 1e5)
            lines.append(
                f"| {entry.name} | {judged.log_loss.value:.5f} | {beside} | {judged.auc:.4f} | "
                f"{judged.calibration_ratio.value:.3f} | {judged.pair_accuracy.accuracy:.3f} | "
                f"{judged.pair_accuracy_significant.accuracy:.3f} |"
            )
        return "\n".join(lines)


def compare(predictions: Mapping[str, FloatArray], rows: pd.DataFrame, *, n_bootstrap: int = 1000) -> Comparison:
    """Judge predictions on the same labelled rows.

    Parameters
    ----------
    predictions : mapping of str to array, shape (n,)
        The first is the reference that the others are set beside.
    rows : DataFrame, shape (n, …)
        Rows of ``ad_training_set`` that none of the predictors has seen.
    n_bootstrap : int
        Draws of the bootstrap by campaign.

    Raises
    ------
    InputError
        If there is no prediction, or one has another length than the rows.

    Examples
    --------
    >>> rows = pd.DataFrame({"date": "2024-01-01", "platform": "meta", "account_id": "a", "campaign_id": [0, 0, 1, 1],
    ...                      "label_impressions": 1000, "label_clicks": [10, 30, 10, 30]})
    >>> found = compare({"model": np.tile([0.01, 0.03], 2), "constant": np.full(4, 0.02)}, rows, n_bootstrap=100)
    >>> [entry.name for entry in found.compared if entry.log_loss_difference.lower > 0]
    ['constant']
    """
    wrong = [name for name, p in predictions.items() if np.shape(p) != (len(rows),)]
    if not predictions or wrong:
        raise InputError(
            f"predictions must be arrays of the rows' length, {len(rows)}, at least one, however: {shown(wrong)}."
        )
    evaluator, bootstrap = ModelEvaluator(n_bootstrap), ClusterBootstrap(campaign_groups(rows), n_bootstrap=n_bootstrap)
    n = rows["label_impressions"].to_numpy(np.float64)
    y = rows["label_clicks"].to_numpy(np.float64) / n
    losses = {name: metrics.row_log_loss(y, p) for name, p in predictions.items()}
    reference = next(iter(losses.values()))
    compared = tuple(
        Compared(name, evaluator.judge(rows, p), bootstrap.interval((losses[name] - reference) * n, n))
        for name, p in predictions.items()
    )
    return Comparison(len(rows), compared)


def _interval(interval: Interval, unit: float) -> str:
    return " ".join(
        f"{text}{unit * value:+.1f}{end}"
        for text, value, end in (("", interval.value, ""), ("(", interval.lower, " …"), ("", interval.upper, ")"))
    )
