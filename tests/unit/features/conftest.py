"""A small random agency with everything that real exports have: gaps, nulls, unknown ads, changed texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from within_ml.lake.contracts import CONTRACTS

START = date(2024, 1, 1)


def day(number: int) -> date:
    return START + timedelta(days=number)


@dataclass(frozen=True)
class Lake:
    """Lake tables held in memory, read as the store would give them."""

    tables: Mapping[str, pa.Table]

    def __call__(self, con: duckdb.DuckDBPyConnection, table: str, first: date | None, last: date | None) -> str:
        contract = CONTRACTS.get(table)
        rows = self.tables[table] if table in self.tables else contract.schema.empty_table()
        con.register(f"source_{table}", rows)
        limits = [f"date {op} DATE '{d}'" for op, d in ((">=", first), ("<=", last)) if d is not None]
        where = f" WHERE {' AND '.join(limits)}" if limits else ""
        con.execute(f'CREATE OR REPLACE TEMP VIEW "{table}" AS SELECT * FROM source_{table}{where}')
        return table

    def changed(self, **tables: pa.Table) -> "Lake":
        return Lake({**self.tables, **tables})


def typed(table: str, rows: list[dict]) -> pa.Table:
    """Rows of a lake table; columns that are not given are null, or `unknown` where null is not allowed."""
    schema = CONTRACTS[table].schema
    fill = {f.name: None if f.nullable else "unknown" for f in schema}
    return pa.Table.from_pylist([{**fill, **row} for row in rows], schema=schema)


def random_lake(seed: int, *, days: int = 70, accounts: int = 3, ads_per_account: int = 6) -> Lake:
    rng = np.random.default_rng(seed)
    performance, ads, campaigns, clients = [], [], [], []
    for a in range(accounts):
        account = f"acc-{a}"
        clients.append(
            {
                "account_id": account,
                "currency": None if a == 2 else "USD",
                "monthly_budget": 5000.0 if a else None,
                "onboarded_date": day(int(rng.integers(-20, 40))),
            }
        )
        for i in range(ads_per_account):
            key = {"platform": ["google", "meta"][i % 2], "account_id": account, "ad_id": f"ad-{a}-{i}"}
            parents = {"campaign_id": f"cmp-{a}-{i // 3}", "ad_group_id": f"grp-{i}"}
            born = int(rng.integers(-5, days - 10))
            if i % 3 == 0 and i:
                campaign = {k: key[k] for k in ("platform", "account_id")} | {"campaign_id": parents["campaign_id"]}
                campaigns.append({**campaign, "start_date": day(born + 3), "daily_budget": 10.0})
            if i != 4:
                ads.extend(_versions(key | parents, born, i))
            for d in range(max(born + 2, 0), min(born + 2 + int(rng.integers(5, 40)), days)):
                if rng.random() < 0.6:
                    performance.extend(_facts(rng, key | parents, d, money=a != 1))
    return Lake(
        {
            "ad_performance": typed("ad_performance", performance),
            "ads": typed("ads", ads),
            "campaigns": typed("campaigns", campaigns),
            "accounts": typed("accounts", clients),
        }
    )


def _versions(key: dict, born: int, i: int) -> list[dict]:
    first = {**key, "headline": f"Save {i}%", "valid_from": day(born), "created_at": day(born - 1) if i % 2 else None}
    first |= {"audience_age": "25-34", "audience_gender": "female", "interests": "cars,food"}
    if i % 3:
        return [first]
    second = {**first, "headline": f"Last chance {i}", "body": "Now.", "valid_from": day(born + 9)}
    second |= {"audience_age": "unknown", "interests": None}
    return [{**first, "valid_to": day(born + 9)}, {**second, "valid_to": day(born + 30)}]


def _facts(rng: np.random.Generator, key: dict, d: int, *, money: bool) -> list[dict]:
    rows = []
    for region in ("Ohio", "Utah"):
        impressions = int(rng.integers(0, 900)) * int(rng.random() < 0.9)
        clicks = int(rng.binomial(impressions, 0.03))
        values = {
            "spend": round(float(rng.gamma(2, 7)), 2),
            "conversions": round(clicks * float(rng.random()), 3),
            "revenue": round(float(rng.gamma(2, 11)), 2) if rng.random() < 0.8 else None,
        }
        row = {**key, "date": day(d), "region": region, "impressions": impressions, "clicks": clicks}
        rows.append(row | (values if money else {}))
    return rows


@pytest.fixture(scope="session")
def lake() -> Lake:
    return random_lake(1)


@pytest.fixture(scope="session")
def make_lake():
    return random_lake


@pytest.fixture(scope="session")
def rows_of():
    return typed


@pytest.fixture(scope="session")
def empty_lake() -> Lake:
    return Lake({})


@pytest.fixture(scope="session")
def on():
    return day


def frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas()
