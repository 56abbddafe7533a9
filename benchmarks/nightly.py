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
What the figures do not show, and the script with pandas does not have:

- **Audit.** WITHIN checks every row against a contract, keeps what it rejects in a quarantine with reasons, and blocks a
  day of which more than 5 % is wrong. The script drops bad rows silently.
- **Atomic partitions.** WITHIN replaces a day in one commit with a version that can be read again; a process of the
  script that is killed while it writes leaves half a file, and a reader meanwhile reads a mixture of days.
- **Restated exports.** WITHIN knows which file brought which row; a new content of a file replaces the old one's rows.
- **A point in time.** WITHIN keeps versions of an ad's text, its windows refuse missing days, and a test holds that later
  facts do not change earlier features. The script has to be trusted.
- **Training.** WITHIN's stage has four assets: level, out-of-fold text score and trees; a calibrator on later weeks;
  evaluation with bootstrap intervals beside three baselines and a report; registration and the gate. The script fits one
  TF-IDF ridge and one booster, and judges it by one number.
- **Bookkeeping.** Each of WITHIN's stages is recorded as a Dagster run: events, row counts, versions, checks. That is a
  fixed cost of a second or so a stage, and most of what a small night costs.
- **Memory that stays flat.** WITHIN computes features in buckets of accounts; the script's wide tables grow with ads × days.

And what the script has that WITHIN has not: fewer parts. A night of this size is a matter of seconds either way.
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
    cpu, wall = (
        tuple(sum(getattr(c, k) for c in side) for side in zip(*((p.ours, p.theirs) for p in pairs), strict=True))
        for k in ("cpu", "wall")
    )
    peaks = [max(getattr(p, side).peak for p in pairs) for side in ("ours", "theirs")]
    total = [
        "**all stages**",
        *(f"{x:.1f}" for x in cpu),
        ratio(*cpu),
        *(f"{x:.1f}" for x in wall),
        *(f"{x:,.0f}" for x in peaks),
    ]
    header = [
        "stage",
        "CPU s, WITHIN",
        "CPU s, pandas",
        "ratio",
        "wall s, WITHIN",
        "wall s, pandas",
        "peak MiB, WITHIN",
        "peak MiB, pandas",
    ]
    return table(header, [*(p.cells() for p in pairs), total])


def verdict(pairs: list[Pair]) -> str:
    faster = [STAGES[p.stage] for p in pairs if p.ours.cpu < p.theirs.cpu]
    slower = [STAGES[p.stage] for p in pairs if p.ours.cpu >= p.theirs.cpu]
    return f"WITHIN takes less CPU in: {', '.join(faster) or 'no stage'}. pandas takes less in: {', '.join(slower) or 'no stage'}."


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
contain them. CPU seconds are those of the stage's process: the Postgres server's own are on neither side. The machine is
shared, so wall seconds are only a hint. Ratio: WITHIN's CPU over that of pandas; below 1 WITHIN is cheaper.

## Backfill of {deployment.days} days

{figures(pairs["backfill"])}

{verdict(pairs["backfill"])} In the lake afterwards: {counted(deployment)}.

Log-loss per impression on the last weeks, not seen by either model: WITHIN {training.ours.told["log_loss"]:.5f},
the script {training.theirs.told["log_loss"]:.5f} (its own split; {training.ours.told["test_rows"]:,} and
{training.theirs.told["test_rows"]:,} rows).

## The night after it, stage by stage

{figures(pairs["night"])}

{verdict(pairs["night"])}

## Another night in one process, as it is run

| | CPU s, WITHIN | CPU s, pandas | wall s, WITHIN | wall s, pandas | peak MiB, WITHIN | peak MiB, pandas |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| work | {whole.ours.cpu:.1f} | {whole.theirs.cpu:.1f} | {whole.ours.wall:.1f} | {whole.theirs.wall:.1f} | | |
| with start and imports | {whole.ours.whole_cpu:.1f} | {whole.theirs.whole_cpu:.1f} | {whole.ours.whole_wall:.1f} | {whole.theirs.whole_wall:.1f} | {whole.ours.peak:,.0f} | {whole.theirs.peak:,.0f} |
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
