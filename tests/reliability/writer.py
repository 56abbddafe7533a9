"""A process to be killed: it writes generation after generation of the same rows until it is."""

import os
import sys
from datetime import date, timedelta
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from within_ml.database.repository import ScoreRepository
from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.landing import LandingZone, ingest_days, register
from within_ml.lake.store import LakeStore

DAY = date(2024, 1, 1)
DAYS = [DAY + timedelta(days=n) for n in range(3)]
ADS = 8_000


def scores(generation: int) -> pa.Table:
    """One day of scores that all tell their generation."""
    told = {"platform": "meta", "account_id": "a", "campaign_id": "c", "ad_group_id": "g", "run_id": "r"}
    ids = [f"ad-{n:06d}" for n in range(ADS)]
    columns = {
        column.name: pa.array([told[column.name]] * ADS, column.type)
        if column.name in told
        else pa.nulls(ADS, column.type)
        for column in CONTRACTS["ad_scores"].columns
    }
    rate = generation / 1e6
    columns |= {"date": pa.array([DAY] * ADS, pa.date32()), "ad_id": pa.array(ids, pa.string())}
    columns |= {
        name: pa.array([rate] * ADS, pa.float64()) for name in ("predicted_ctr", "ad_score", "confidence_score")
    }
    columns |= {
        name: pa.array([str(generation)] * ADS, pa.string())
        for name in ("model_name", "model_version", "feature_version")
    }
    return pa.table(columns).cast(CONTRACTS["ad_scores"].schema)


def performance(generation: int) -> pa.Table:
    """Three days of an export whose clicks tell their generation."""
    rows = ADS // 4
    days = [day for day in DAYS for _ in range(rows)]
    same = {"platform": "meta", "account_id": "a", "campaign_id": "c", "ad_group_id": "g", "region": "CA"}
    return pa.table(
        {
            "date": pa.array(days, pa.date32()),
            **{name: [value] * len(days) for name, value in same.items()},
            "ad_id": [f"ad-{n:06d}" for n in range(rows)] * len(DAYS),
            "impressions": pa.array([10**9] * len(days), pa.int64()),
            "clicks": pa.array([generation] * len(days), pa.int64()),
            **{name: [1.0] * len(days) for name in ("spend", "conversions", "revenue")},
        }
    )


def publish_generations(root: Path, url: str, first: int) -> None:
    """Write each generation into the lake and publish what the lake then holds."""
    store, repository = LakeStore(str(root / "lake")), ScoreRepository(url)
    for generation in count(first):
        commit = store.replace("ad_scores", {DAY: scores(generation)}, run_id=str(generation))
        repository.publish(
            store.read("ad_scores", {"date": DAY}), DAY, lake_version=commit.version, run_id=str(generation)
        )
        told(generation)


def ingest_generations(root: Path, url: str, first: int) -> None:
    """Let each generation land under one name and ingest it."""
    store, zone = LakeStore(str(root / "lake")), LandingZone(root / "landing")
    path = zone.root / "simulation" / "ad_performance_1.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    for generation in count(first):
        pq.write_table(performance(generation), path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
        register(store, zone, run_id=str(generation))
        ingest_days(store, zone, DAYS, run_id=str(generation))
        told(generation)


def told(generation: int) -> None:
    """Tell the test that a generation is complete."""
    sys.stdout.write(f"{generation}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    what, root, url, first = sys.argv[1:]
    {"publish": publish_generations, "ingest": ingest_generations}[what](Path(root), url, int(first))
