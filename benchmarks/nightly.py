"""A night and a backfill of 90 days, 100,000 ad-days: WITHIN beside the same job written with pandas.

    python -m benchmarks.nightly [--accounts 120] [--days 90]

Every stage runs in a process of its own, so that its peak of memory is its own; the same landing files, the same
Postgres server, one after the other in one run. WITHIN's stages are its assets, materialized through Dagster as `within
backfill` does it; the other side is `benchmarks.usual_way`.
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

import pyarrow.dataset as pa_dataset

from benchmarks.measuring import RESULTS, Cost, machine, run_step, table, write_result
from within_ml.database.server import EmbeddedPostgres
from within_ml.lake.simulation import SimulationConfig, simulate, write_landing
from within_ml.lake.store import LakeStore
from within_pipelines.partitions import monday_on_or_after
from within_pipelines.postgres import DATA_FOLDER

START = date(2024, 1, 1)
OURS, THEIRS = "benchmarks.pipeline_steps", "benchmarks.usual_way"
STAGES = {
    "ingest": "ingest",
    "content": "content features of texts",
    "ad_features": "ad features",
    "account_features": "account features",
    "training_set": "training set",
    "training": "training",
    "scoring": "scoring",
    "publishing": "publishing to Postgres",
}
NIGHT_STAGES = [name for name in STAGES if not name.startswith("training")]
NIGHTS = 2
"""Days that land after the backfill: one measured stage by stage, one in one process."""

DIFFERENT = """
## What the figures do not show

WITHIN has, and the script with pandas lacks:

- **Audit.** Every row is checked against a contract; what is rejected stays in a quarantine with its reasons, and a day
  of which more than 5 % is wrong is blocked. The script drops bad rows silently.
- **Atomic partitions.** Days are replaced in one commit with a version that can be read again. The script, killed while
  it writes, leaves half a file, and its readers meanwhile see a mixture of old and new days.
- **Restated exports.** It is known which file brought which row; a new content of a file replaces the old one's rows.
- **A point in time.** Versions of an ad's text are kept, windows refuse missing days, a test holds that later facts
  never change earlier features. The script has to be trusted.
- **More of a model.** WITHIN's training has four assets: level, out-of-fold text score and trees; a calibrator on later
  weeks; evaluation with bootstrap intervals beside three baselines, and a report; registration and the gate. The script
  fits one TF-IDF ridge and one booster and judges them by one number. Both name the words that count.
- **Bookkeeping.** Each stage is a Dagster run with events, row counts, versions and a lookup in the registry, and what
  is ingested and scored is told again by a Great Expectations suite for people to read. That costs some seconds for a
  process and hardly grows with the rows: it is most of what a small night costs.
- **Bounded memory.** Features are computed in buckets of accounts; the script's wide tables grow with ads × days.

The script has, and WITHIN lacks: a few hundred lines and nothing else to learn, and the lower figures where they are
lower. For a night of this size either is a matter of seconds.
"""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A folder with landing files, a lake, a state folder with its server, and the other side's tables."""

    folder: Path
    days: int

    @property
    def last(self) -> date:
        return START + timedelta(days=self.days - 1)

    @property
    def night(self) -> date:
        return self.last + timedelta(days=1)

    @property
    def as_of(self) -> date:
        """The last Monday on which a model can be trained before the night."""
        return monday_on_or_after(self.night - timedelta(days=6))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "WITHIN_STATE_DIR": str(self.folder / "state"),
            "WITHIN_LAKE_ROOT": str(self.folder / "lake"),
            "WITHIN_LANDING_ROOT": str(self.folder / "landing"),
            "WITHIN_START_DATE": str(START),
            "WITHIN_END_DATE": str(self.last + timedelta(days=NIGHTS)),
        }

    def ours(self, step: str, **told: Any) -> Cost:
        return run_step(OURS, step, self.folder, environment=self.environment, **told)

    def theirs(self, step: str, **told: Any) -> Cost:
        return run_step(THEIRS, step, self.folder, folder=str(self.folder), **told)


@dataclass(frozen=True, slots=True)
class Pair:
    """A stage on both sides."""

    stage: str
    ours: Cost
    theirs: Cost

    def cells(self) -> list[str]:
        a, b = self.ours, self.theirs
        numbers = [f"{x:.1f}" for x in (a.cpu, b.cpu)] + [ratio(a.cpu, b.cpu)]
        numbers += [f"{x:.1f}" for x in (a.wall, b.wall)] + [f"{x:,.0f}" for x in (a.peak, b.peak)]
        return [STAGES[self.stage], *numbers]


def ratio(ours: float, theirs: float) -> str:
    """WITHIN's cost as a multiple of the other side's."""
    return f"{ours / theirs:.1f}" if theirs > 0.05 else "–"


def land(deployment: Deployment, accounts: int, first: date, last: date) -> tuple[int, int]:
    """Let exports of some days land; return their rows and ad-days."""
    days = deployment.days + NIGHTS
    agency = simulate(SimulationConfig(accounts=accounts, days=days, start_date=START, max_images=1))
    folder = deployment.folder / "landing/simulation"
    written = write_landing(agency, folder, first=first, last=last, as_of=last)
    files = [str(f) for f in written.files if f.name.startswith("ad_performance")]
    keys = pa_dataset.dataset(files).to_table(columns=["date", "platform", "account_id", "ad_id"])
    return written.rows, keys.group_by(keys.column_names).aggregate([]).num_rows


def backfill(deployment: Deployment, url: str) -> Iterator[Pair]:
    as_of = str(deployment.as_of)
    span = {"first": str(START), "last": str(deployment.last)}
    for stage in STAGES:
        ours, theirs = span, span
        if stage == "content":
            ours, theirs = {}, {}
        elif stage == "training_set":
            ours, theirs = {"as_of": as_of}, {"first": str(START), "last": as_of}
        elif stage == "training":
            ours, theirs = {"as_of": as_of}, {}
        elif stage == "publishing":
            theirs = {**span, "url": url}
        yield Pair(stage, deployment.ours(stage, **ours), deployment.theirs(stage, **theirs))


def night(deployment: Deployment, url: str) -> Iterator[Pair]:
    day = str(deployment.night)
    for stage in NIGHT_STAGES:
        ours = {} if stage == "content" else {"first": day, "last": day}
        theirs = {**ours, "url": url} if stage == "publishing" else ours
        yield Pair(stage, deployment.ours(stage, **ours), deployment.theirs(stage, **theirs))


def counted(deployment: Deployment) -> str:
    """Rows in the lake after all."""
    store = LakeStore(str(deployment.folder / "lake"))
    names = ("ad_performance", "ad_features", "account_features", "ad_training_set", "ad_scores")
    return ", ".join(f"{store.read(name, columns=['account_id']).num_rows:,} of {name}" for name in names)


def figures(pairs: list[Pair]) -> str:
    sides = [p.ours for p in pairs], [p.theirs for p in pairs]
    cpu, wall = [sum(c.cpu for c in side) for side in sides], [sum(c.wall for c in side) for side in sides]
    peaks = [max(c.peak for c in side) for side in sides]
    numbers = [*(f"{x:.1f}" for x in cpu), ratio(*cpu), *(f"{x:.1f}" for x in wall), *(f"{x:,.0f}" for x in peaks)]
    what = ["CPU s, WITHIN", "CPU s, pandas", "ratio", "wall s, WITHIN", "wall s, pandas"]
    header = ["stage", *what, "peak MiB, WITHIN", "peak MiB, pandas"]
    return table(header, [*(p.cells() for p in pairs), ["**all stages**", *numbers]])


def verdict(pairs: list[Pair]) -> str:
    faster = [STAGES[p.stage] for p in pairs if p.ours.cpu < p.theirs.cpu]
    slower = [STAGES[p.stage] for p in pairs if p.ours.cpu >= p.theirs.cpu]
    return f"Less CPU with WITHIN: {', '.join(faster) or 'no stage'}. With pandas: {', '.join(slower) or 'no stage'}."


def one_process(night: Pair) -> str:
    a, b = night.ours, night.theirs
    header = ["", "CPU s, WITHIN", "CPU s, pandas", "wall s, WITHIN", "wall s, pandas"]
    work = ["work", *(f"{x:.1f}" for x in (a.cpu, b.cpu, a.wall, b.wall))]
    everything = [
        "with start and imports",
        *(f"{x:.1f}" for x in (a.whole_cpu, b.whole_cpu, a.whole_wall, b.whole_wall)),
    ]
    return f"{table(header, [work, everything])}\n\nPeak of memory: {a.peak:,.0f} MiB, with pandas {b.peak:,.0f} MiB."


def page(
    deployment: Deployment, accounts: int, landed: tuple[int, int], pairs: dict[str, list[Pair]], whole: Pair
) -> str:
    by_stage = {p.stage: p for p in pairs["backfill"]}
    training = by_stage["training"]
    return f"""# A night and a backfill of {deployment.days} days

Written by `python -m benchmarks.nightly --accounts {accounts} --days {deployment.days}`. {machine()}

A simulated agency: {landed[1]:,} ad-days in {landed[0]:,} rows (a row per day, ad and region), landed as Parquet files.
Both sides do the same job from the same files into their own tables and into one Postgres server, stage by stage, each
stage in a process of its own. Seconds are of the stage's work, without the start of the interpreter and imports; peaks
contain them. CPU seconds are those of the stage's process: the Postgres server's are on neither side. The machine is
shared, so wall seconds are only a hint. Ratio: WITHIN's CPU over that of pandas; below 1 WITHIN is cheaper.

## Backfill of {deployment.days} days

{figures(pairs["backfill"])}

{verdict(pairs["backfill"])} In the lake after this and the
nights below: {counted(deployment)}.

Log-loss per impression on the last days, which neither model was fitted on; each side has its own split, so that the
two are no ranking: WITHIN {training.ours.told["log_loss"]:.5f} ({training.ours.told["test_rows"]:,} rows), the script
{training.theirs.told["log_loss"]:.5f} ({training.theirs.told["test_rows"]:,} rows).

## The night after it, stage by stage

{figures(pairs["night"])}

{verdict(pairs["night"])}

## Another night in one process, as it is run

{one_process(whole)}
{DIFFERENT}"""


def run(accounts: int, days: int, *, results: Path = RESULTS) -> Path:
    """Run the benchmark and write its page."""
    folder = Path(tempfile.mkdtemp(prefix="within-bench-"))
    deployment = Deployment(folder, days)
    server = EmbeddedPostgres(folder / "state" / DATA_FOLDER).start()
    try:
        url = server.url("postgres").replace("+psycopg", "", 1)
        landed = land(deployment, accounts, START, deployment.last)
        deployment.ours("nothing")  # databases and their tables are made
        pairs = {"backfill": list(backfill(deployment, url))}
        land(deployment, accounts, deployment.night, deployment.night)
        pairs["night"] = list(night(deployment, url))
        second = deployment.night + timedelta(days=1)
        land(deployment, accounts, second, second)
        whole = Pair(
            "night", deployment.ours("night", day=str(second)), deployment.theirs("night", day=str(second), url=url)
        )
        return write_result("nightly.md", page(deployment, accounts, landed, pairs, whole), folder=results)
    finally:
        server.close(remove=True)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=120)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    run(options.accounts, options.days, results=options.results)


if __name__ == "__main__":
    main()
