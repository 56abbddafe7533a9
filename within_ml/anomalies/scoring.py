"""How odd one account's day is beside a baseline that stays as it is."""

from __future__ import annotations

import numpy as np

from within_ml.anomalies.frames import Performance
from within_ml.anomalies.panel import build_panel
from within_ml.anomalies.watch import Watch
from within_ml.errors import InputError, shown


def score_of(watch: Watch, performance: Performance, level: float, part: str | None) -> float:
    """Return 1 - p of one account's day beside the baseline, which stays as it is."""
    frame = performance.frame
    accounts = frame["account_id"].unique().tolist()
    days = len(frame["date"].unique())
    if len(accounts) != 1 or days != 1:
        raise InputError(
            f"data_point must be one day of one account, however: {days} days of {len(accounts)} accounts."
        )
    if accounts[0] not in watch.accounts:
        raise InputError(
            f"account_id must be one that the baseline knows ({shown(watch.accounts)}), however: {accounts[0]!r}. "
            "Give its days to update_baseline first."
        )
    night = watch.look(build_panel(performance, part), level)
    p = night.p[:, watch.accounts.index(accounts[0])]
    p = np.sort(p[~np.isnan(p)])
    return float(1.0 - min(1.0, (p * len(p) / np.arange(1, len(p) + 1)).min())) if p.size else 0.0
