"""A small agency with known truth: text, ad history and the week all matter, and are known to the test."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit


def agency(*, n_weeks=30, accounts=4, campaigns=3, ads=4, seed=0, week_sd=0.1, history=True):
    """Rows as in ad_training_set with ``true_ctr``; each campaign has new ads every week."""
    rng = np.random.default_rng(seed)
    grid = pd.MultiIndex.from_product(
        [range(n_weeks), range(accounts), range(campaigns), range(ads)], names=["week", "account", "campaign", "ad"]
    ).to_frame(index=False)
    n = len(grid)
    strong = rng.random(n) < 0.5
    account = rng.normal(-4, 0.5, accounts)[grid["account"]]
    own = 0.4 * rng.normal(size=n) if history else np.zeros(n)
    seen = rng.integers(0, 40_000, n) * history
    shock = rng.normal(0, week_sd, n_weeks)[grid["week"]]
    truth = account + own + np.where(strong, 0.3, -0.3) + shock
    level = account + own * seen / (seen + 5_000)
    impressions = rng.integers(1_000, 8_000, n)
    sundays = pd.date_range("2024-01-07", periods=n_weeks, freq="W")
    frame = pd.DataFrame(
        {
            "date": sundays[grid["week"]],
            "platform": np.where(grid["account"] % 2, "meta", "google"),
            "account_id": "a" + grid["account"].astype(str),
            "campaign_id": "c" + grid["campaign"].astype(str) + "w" + grid["week"].astype(str),
            "ad_group_id": "g",
            "ad_id": np.arange(n).astype(str),
            "headline": [f"{'Amazing' if s else 'Ordinary'} offer number {i} of shoes" for i, s in enumerate(strong)],
            "body": None,
            "prior_ctr": expit(level),
            "prior_impressions": seen.astype(float),
            "ad_impressions_28d": seen.astype(float),
            "ad_spend_28d": np.nan,
            "sentiment": np.where(strong, 0.6, 0.0),
            "readability": 70.0,
            "label_impressions": impressions,
            "label_clicks": rng.binomial(impressions, expit(truth)),
        }
    )
    frame["true_ctr"] = expit(truth - shock)
    assert np.isfinite(logit(frame["true_ctr"])).all()
    return frame


def labels(frame):
    return frame["label_clicks"] / frame["label_impressions"], frame["label_impressions"]


@pytest.fixture(scope="session")
def training_rows():
    return agency().drop(columns="true_ctr")
