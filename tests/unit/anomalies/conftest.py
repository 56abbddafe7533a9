"""Performance of made-up accounts whose truth is known by construction."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

WEEK = np.array([1.0, 1.05, 1.1, 1.05, 1.0, 0.7, 0.6])
"""Volume by weekday, Monday first."""


def accounts_frame(accounts: int = 12, days: int = 70, *, seed: int = 0, campaigns: int = 1) -> pd.DataFrame:
    """Days of accounts: 20,000 impressions, ctr 2 %, cvr 5 %, cpc 1, orders of 50; weekly volume, 8 % noise."""
    rng = np.random.default_rng(seed)
    dates = pd.date_range("2024-01-01", periods=days)
    rows = []
    for account in range(accounts):
        for campaign in range(campaigns):
            volume = 20_000 / campaigns * WEEK[dates.day_of_week] * rng.lognormal(0, 0.08, days)
            impressions = rng.poisson(volume)
            clicks = rng.binomial(impressions, 0.02)
            conversions = rng.binomial(clicks, 0.05)
            rows.append(
                pd.DataFrame(
                    {
                        "date": dates,
                        "account_id": f"acc-{account:02d}",
                        "campaign_id": f"cmp-{account:02d}-{campaign}",
                        "impressions": impressions,
                        "clicks": clicks,
                        "spend": clicks * 1.0 * rng.lognormal(0, 0.03, days),
                        "conversions": conversions,
                        "revenue": conversions * 50.0,
                    }
                )
            )
    frame = pd.concat(rows, ignore_index=True)
    return frame if campaigns > 1 else frame.drop(columns="campaign_id")


def changed(frame: pd.DataFrame, where: pd.Series, **factors: float) -> pd.DataFrame:
    """Return the frame with columns multiplied where asked, counts rounded."""
    result = frame.copy()
    for name, factor in factors.items():
        values = result.loc[where, name] * factor
        whole = name in ("impressions", "clicks", "conversions")
        result.loc[where, name] = values.round().astype(result[name].dtype) if whole else values
    return result


@pytest.fixture(scope="session")
def quiet() -> pd.DataFrame:
    return accounts_frame()
