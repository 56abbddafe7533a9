"""Ten million rows through simulation, ingestion and features: does memory stay flat, and what does a million cost.

    python -m benchmarks.scale [--accounts 1160] [--days 180]

Every step runs in a process of its own. Ingestion goes in chunks of 30 days, as a backfill does.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, Cost, machine, run_step, table, write_result
from within_ml.features.runner import compute_account_features, compute_ad_features, compute_training_rows
from within_ml.lake.landing import DIMENSIONS, LandingZone, ingest_days, ingest_dimension, register
from within_ml.lake.simulation import SimulationConfig, simulate, write_landing
from within_ml.lake.store import LakeStore, days_between

SOURCE = "simulation"
START = date(2024, 1, 1)
CHUNK_DAYS = 30
MATURITY_DAYS = 9
MODULE = "benchmarks.scale"


def places(folder: str) -> tuple[LakeStore, LandingZone]:
    return LakeStore(f"{folder}/lake"), LandingZone(Path(folder) / "landing")


def reader(store: LakeStore) -> Any:
    return lambda con, name, first, last: store.create_view(con, name, first=first, last=last)


def step_simulate(folder: str, accounts: int, days: int) -> dict[str, Any]:
    agency = simulate(SimulationConfig(accounts=accounts, days=days, start_date=START, max_images=1))
    return {"rows": write_landing(agency, Path(folder) / "landing" / SOURCE).rows}


def step_register(folder: str) -> dict[str, Any]:
    store, zone = places(folder)
    found = register(store, zone, run_id="bench")
    return {"rows": sum(f.rows for f in found.new), "refused": dict(found.refused)}


def step_dimensions(folder: str) -> dict[str, Any]:
    store, zone = places(folder)
    done = [ingest_dimension(store, zone, name, run_id="bench") for name in DIMENSIONS]
    return {"rows": sum(d.commit.rows for d in done if d)}


def step_ingest(folder: str, first: str, last: str) -> dict[str, Any]:
    store, zone = places(folder)
    rows = 0
    for begin, end in chunks(date.fromisoformat(first), date.fromisoformat(last)):
        rows += ingest_days(store, zone, list(days_between(begin, end)), run_id="bench").commit.rows
    return {"rows": rows}


def step_ad_features(folder: str, first: str, last: str) -> dict[str, Any]:
    store, _ = places(folder)
    days = compute_ad_features(reader(store), first=date.fromisoformat(first), last=date.fromisoformat(last))
    return {"rows": store.replace_stream("ad_features", ((d.date, d.table) for d in days), run_id="bench").rows}


def step_account_features(folder: str, first: str, last: str) -> dict[str, Any]:
    store, _ = places(folder)
    days = compute_account_features(reader(store), first=date.fromisoformat(first), last=date.fromisoformat(last))
    return {"rows": store.replace_stream("account_features", ((d.date, d.table) for d in days), run_id="bench").rows}


def step_training_rows(folder: str, first: str, last: str) -> dict[str, Any]:
    store, _ = places(folder)
    span = {"first": date.fromisoformat(first), "last": date.fromisoformat(last)}
    return {"rows": compute_training_rows(reader(store), **span, max_rows=500_000).num_rows}


def chunks(first: date, last: date) -> Iterator[tuple[date, date]]:
    while first <= last:
        end = min(first + timedelta(days=CHUNK_DAYS - 1), last)
        yield first, end
        first = end + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: what was measured, and its cost."""

    what: str
    cost: Cost

    def cells(self) -> list[str]:
        c, rows = self.cost, self.cost.told["rows"]
        per_million = 1e6 / rows if rows else float("nan")
        return [self.what, f"{rows:,}", f"{c.cpu:.1f}", f"{c.wall:.1f}", f"{c.cpu * per_million:.1f}", f"{c.peak:,.0f}"]


def measured(folder: Path, accounts: int, days: int) -> Iterator[Line]:
    def step(name: str, **told: Any) -> Cost:
        return run_step(MODULE, name, folder, folder=str(folder), **told)

    last = START + timedelta(days=days - 1)
    yield Line(f"simulate {days} days", step("simulate", accounts=accounts, days=days))
    yield Line("register the files", step("register"))
    yield Line("accounts, campaigns, ads, regions", step("dimensions"))
    middle = START + timedelta(days=min(CHUNK_DAYS, days) - 1)
    # The first chunk alone, then all of the rest in one process: a peak that grows with the number of chunks shows.
    yield Line(f"ingest {CHUNK_DAYS} days, one chunk", step("ingest", first=str(START), last=str(middle)))
    if middle < last:
        span = {"first": str(middle + timedelta(days=1)), "last": str(last)}
        yield Line(f"ingest the other {(last - middle).days} days, in chunks", step("ingest", **span))
    for length in sorted({1, min(CHUNK_DAYS, days), min(3 * CHUNK_DAYS, days)}):
        span = {"first": str(last - timedelta(days=length - 1)), "last": str(last)}
        yield Line(f"ad features of {length} day{'s' * (length > 1)}", step("ad_features", **span))
    yield Line(f"account features of {length} days", step("account_features", **span))
    if length > MATURITY_DAYS:
        span["last"] = str(last - timedelta(days=MATURITY_DAYS - 1))
        yield Line("training rows, sampled to 500,000", step("training_rows", **span))


def page(lines: list[Line], accounts: int, days: int) -> str:
    header = ["", "rows written", "CPU s", "wall s", "CPU s per million rows", "peak MiB"]
    simulated = lines[0].cost
    return f"""# {simulated.told["rows"]:,} rows of ad performance

Written by `python -m benchmarks.scale --accounts {accounts} --days {days}`. {machine()}

A simulated agency of {accounts:,} accounts over {days} days, a row per day, ad and region, as Parquet files of 30 days.
Each line is a process of its own; its peak contains interpreter and libraries (about 250 MiB).

{table(header, [line.cells() for line in lines])}

Ingestion holds one chunk in memory and features one bucket of accounts, however many chunks and days follow.

Simulation: {simulated.wall:.0f} s and {simulated.peak:,.0f} MiB, where at most 120 s and 2,048 MiB were wanted.
"""


def run(accounts: int, days: int, *, results: Path = RESULTS, scratch: Path | None = None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="within-bench-", dir=scratch))
    try:
        return write_result("scale.md", page(list(measured(folder, accounts, days)), accounts, days), folder=results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=1160)
    parser.add_argument("--days", type=int, default=180)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    run(options.accounts, options.days, results=options.results)


if __name__ == "__main__":
    main()
