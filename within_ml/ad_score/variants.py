"""The ad score by other means: each model type, and without each modality, for comparison on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.ad_score.config import AdScoreConfig, Modality, ScoreModelType
from within_ml.ad_score.predictor import AdScorePredictor
from within_ml.features.labels import observed_rates


def variants(config: AdScoreConfig | Mapping[str, object] | None = None) -> dict[str, AdScorePredictor]:
    """Return unfitted predictors by name: the default first, then the other types, then one modality left out each.

    Intervals are left out too: the comparison is of predictions.

    >>> list(variants())
    ['ensemble', 'linear', 'nn', 'ensemble without tabular', 'ensemble without text', 'ensemble without image']
    """
    whole = AdScoreConfig.of(config)
    made = {str(kind): AdScorePredictor(whole, kind, uncertainty=False) for kind in ScoreModelType}
    for modality in Modality:
        rest = tuple(name for name in whole.modalities if name != modality)
        made[f"ensemble without {modality}"] = AdScorePredictor(
            replace(whole, modalities=rest), ScoreModelType.ENSEMBLE, uncertainty=False
        )
    return made


def predictions_of_variants(
    frames: Mapping[str, pd.DataFrame], config: AdScoreConfig | None = None
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Fit each variant on ``train`` and ``validation`` as the pipeline does; yield name and predictions of ``test``.

    ``frames`` are labelled rows of ``ad_training_set`` by part.
    """
    labelled = {name: (frame, *observed_rates(frame)) for name, frame in frames.items()}
    train, validation = labelled["train"], labelled["validation"]
    for name, predictor in variants(config).items():
        predictor.fit_model(train[0], train[1], sample_weight=train[2], validation=validation)
        predictor.fit_calibration(validation[0], validation[1], sample_weight=validation[2])
        yield name, predictor.predict(frames["test"])
