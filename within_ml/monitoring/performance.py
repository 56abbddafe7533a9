"""Realized performance: scores as they were given, judged by what happened in the days after.

Scores are read as they were stored, never predicted again, so that the judgement is about what people saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import pandas as pd

from within_ml.errors import InputError
from within_ml.features.labels import observed_rates
from within_ml.lake.contracts import AD_KEY
from within_ml.validation.baselines import fit_baselines
from within_ml.validation.evaluation import Judgement, ModelEvaluator

KEY = ["date", *AD_KEY]


def realized_performance(
    scores: pd.DataFrame, outcomes: pd.DataFrame, *, n_bootstrap: int = 1000, random_state: int = 0
) -> Judgement:
    """Judge stored scores by the outcomes of their ads.

    Parameters
    ----------
    scores
        Rows of ``ad_scores``.
    outcomes
        Keys of ``ad_scores``, ``campaign_id``, ``label_impressions`` and ``label_clicks``: what happened in the seven
        days after ``date``. Scores without an outcome (the ad was not shown) are left out, and the other way round.

    Raises
    ------
    InputError
        If no score has an outcome.

    Examples
    --------
    >>> day = pd.Timestamp("2024-01-01").date()
    >>> scores = pd.DataFrame({"date": day, "platform": "p", "account_id": "a", "ad_id": ["1", "2"],
    ...                        "predicted_ctr": [0.02, 0.01]})
    >>> outcomes = scores.drop(columns="predicted_ctr").assign(
    ...     campaign_id="c", label_impressions=1000, label_clicks=[19, 11])
    >>> realized_performance(scores, outcomes, n_bootstrap=10).pair_accuracy.accuracy
    1.0
    """
    columns = [*KEY, "campaign_id", "label_impressions", "label_clicks"]
    joined = scores[[*KEY, "predicted_ctr"]].merge(outcomes[columns], on=KEY, how="inner", validate="one_to_one")
    if joined.empty:
        raise InputError(
            f"Realized performance needs scores with an outcome; of {len(scores)} scores and {len(outcomes)} outcomes "
            "none meet. Score the days before the outcomes."
        )
    evaluator = ModelEvaluator(n_bootstrap=n_bootstrap, random_state=random_state)
    return evaluator.judge(joined, joined["predicted_ctr"].to_numpy())


def baseline_scores(training_sets: Mapping[date, pd.DataFrame], rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What the baselines would have scored, had each been fitted anew on every training set of its time.

    Parameters
    ----------
    training_sets
        As-of day → its labelled rows, as in ``ad_training_set``.
    rows
        Feature rows of the days to score; each day gets the newest training set that is not after it, and days before
        the first are left out.

    Returns
    -------
    dict of str to DataFrame
        Baseline → keys and ``predicted_ctr``, for `realized_performance`.
    """
    scored: dict[str, list[pd.DataFrame]] = {}
    days = sorted(training_sets)
    for number, as_of in enumerate(days):
        end = days[number + 1] if number + 1 < len(days) else date.max
        chosen = rows[[as_of <= day < end for day in pd.to_datetime(rows["date"]).dt.date]]
        if chosen.empty:
            continue
        seen = training_sets[as_of]
        rates, impressions = observed_rates(seen)
        for name, baseline in fit_baselines(seen, rates, sample_weight=impressions).items():
            scored.setdefault(name, []).append(chosen[KEY].assign(predicted_ctr=baseline.predict(chosen)))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in scored.items()}
