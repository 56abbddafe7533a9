"""A small agency with accounts that decline and leave, others that fall, and most that do neither."""

import numpy as np
import pandas as pd
import pytest

from within_ml.health import AccountHealthPredictor

DAYS = 150
SMALL = {"n_estimators": 30, "folds": 3, "n_threads": 1, "max_depth": 2}
START = pd.Timestamp("2024-01-01")


def daily_rows(accounts=24, days=DAYS, seed=0):
    """Account-days; every fourth account loses clicks for five weeks and then stops."""
    rng = np.random.default_rng(seed)
    frames, table = [], []
    for i in range(accounts):
        stop = 70 + 3 * i if i % 4 == 0 else days
        day = np.arange(min(stop, days))
        decline = np.where(day > stop - 35, np.exp(-(day - stop + 35) / 12), 1.0) if stop < days else 1.0
        impressions = rng.poisson(2000 * (1 + i % 3) * np.exp(rng.normal(0, 0.1, day.size)))
        clicks = rng.binomial(impressions, 0.02 * decline)
        conversions = rng.binomial(clicks, 0.1)
        frames.append(
            pd.DataFrame(
                {
                    "date": START + pd.to_timedelta(day, unit="D"),
                    "account_id": f"a{i:02d}",
                    "impressions": impressions,
                    "clicks": clicks,
                    "spend": clicks * 0.5 + 10.0,
                    "conversions": conversions.astype(float),
                    "revenue": conversions * 40.0,
                }
            )
        )
        churned = START + pd.Timedelta(days=stop) if stop < days else pd.NaT
        table.append(
            {
                "account_id": f"a{i:02d}", "industry": ("retail", "travel")[i % 2], "currency": "USD",
                "monthly_budget": 1500.0 * (1 + i % 3), "onboarded_date": START - pd.Timedelta(days=200),
                "churned_date": churned,
            }
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True), pd.DataFrame(table)


def churn_table(n=500, seed=0):
    """One row per customer: numbers, categories, gaps, an id, a number written as text."""
    rng = np.random.default_rng(seed)
    months = rng.integers(1, 72, n)
    contract = rng.choice(["monthly", "yearly"], n)
    charges = rng.uniform(20, 120, n)
    margin = -1.0 + 1.5 * (contract == "monthly") - 0.04 * months + 0.01 * charges
    table = pd.DataFrame(
        {
            "customer_id": [f"c-{i:05d}" for i in range(n)],
            "months": months,
            "contract": contract,
            "charges": np.where(rng.random(n) < 0.1, np.nan, charges),
            "total": [f"{m * c:.1f}" if i % 20 else " " for i, (m, c) in enumerate(zip(months, charges, strict=True))],
            "city": rng.choice(["north", "south", None], n),
            "empty": np.nan,
        }
    )
    return table, (rng.random(n) < 1 / (1 + np.exp(-margin))).astype(int)


@pytest.fixture(scope="session")
def agency():
    return daily_rows()


@pytest.fixture(scope="session")
def fitted(agency):
    daily, accounts = agency
    return AccountHealthPredictor(config=SMALL).fit(daily, accounts=accounts)


@pytest.fixture(scope="session")
def of_table():
    table, y = churn_table()
    return AccountHealthPredictor(config=SMALL).fit(table, y), table, y
