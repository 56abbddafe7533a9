"""Cox's proportional hazards by lifelines, in an environment of its own: Parquet in, Parquet out.

    PYTHONPATH=.peers_lifelines python benchmarks/cox_peer.py FOLDER

Nothing of WITHIN is imported. ``train.parquet`` holds ``group``, ``time``, ``event`` and features, ``test.parquet`` the
features, ``days.json`` the days at which survival is wanted; ``risk.parquet`` gets P(left by day), a column per day.

A landmark model: every account-week is a row with its own time until the account leaves, cut at the longest day (van
Houwelingen 2007, Scandinavian Journal of Statistics 34). Features are cut at their 1st and 99th percentile, scaled, and
where missing set to the median, with a flag. The ridge penalty is the best of five on accounts left out.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import lifelines
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

PENALTIES = (0.001, 0.01, 0.1, 0.5, 2.0)
FOLDS = 3


class Prepared:
    """Features as a linear model wants them, by what was seen in training."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.low, self.high = frame.quantile(0.01), frame.quantile(0.99)
        cut = frame.clip(self.low, self.high, axis=1)
        self.middle = cut.median().fillna(0.0)
        filled = cut.fillna(self.middle)
        self.mean, self.size = filled.mean(), filled.std()
        self.kept = list(self.size[self.size > 1e-9].index)
        missing = frame.isna().mean()
        self.flagged = list(missing[(missing > 0.01) & (missing < 0.99)].index)

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        filled = frame.clip(self.low, self.high, axis=1).fillna(self.middle)
        scaled = ((filled - self.mean) / self.size)[self.kept]
        flags = frame[self.flagged].isna().astype(float).add_prefix("missing_")
        # Columns that are always missing together would be the same flag.
        flags = flags.loc[:, ~flags.T.duplicated()]
        return pd.concat([scaled, flags], axis=1)


def fitted(rows: pd.DataFrame, penalty: float) -> lifelines.CoxPHFitter:
    """Fit on rows of features, time and event."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lifelines.CoxPHFitter(penalizer=penalty).fit(rows, "time", "event")


def chosen_penalty(rows: pd.DataFrame, group: np.ndarray) -> float:
    """The penalty with the highest partial likelihood on accounts that were left out."""
    fold = group % FOLDS
    scores = []
    for penalty in PENALTIES:
        parts = [fitted(rows[fold != k], penalty).score(rows[fold == k]) for k in range(FOLDS)]
        scores.append(np.mean(parts))
    return PENALTIES[int(np.argmax(scores))]


def main(folder: Path) -> None:
    """Read, fit, predict, write."""
    train = pq.read_table(folder / "train.parquet").to_pandas(ignore_metadata=True)
    test = pq.read_table(folder / "test.parquet").to_pandas(ignore_metadata=True)
    days = json.loads((folder / "days.json").read_text())
    begin = time.perf_counter()
    group = train.pop("group").to_numpy()
    outcome = train[["time", "event"]]
    prepared = Prepared(train.drop(columns=["time", "event"]))
    # Both keep the columns that the flags of training have.
    features = prepared(train.drop(columns=["time", "event"]))
    rows = pd.concat([features, outcome], axis=1)
    penalty = chosen_penalty(rows, group)
    model = fitted(rows, penalty)
    stays = model.predict_survival_function(
        prepared(test).reindex(columns=features.columns, fill_value=0.0), times=days
    )
    pd.DataFrame(1 - stays.to_numpy().T, columns=[str(day) for day in days]).to_parquet(folder / "risk.parquet")
    told = {"version": lifelines.__version__, "penalty": penalty, "seconds": time.perf_counter() - begin}
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
