"""The demo: everything once, on the real headline tests of the sample, as its users would run it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from within_ml.base import HORIZON_DAYS, ModelType
from within_ml.features.runner import compute_training_rows
from within_ml.lake.landing import PERFORMANCE, current_files
from within_ml.lake.store import LakeStore, days_between
from within_pipelines.assets.features import reader
from within_pipelines.assets.training import REPORT, training_frame
from within_pipelines.backfills import backfill_config, ingest_landed
from within_pipelines.jobs import NIGHTLY_GROUPS
from within_pipelines.runs import Runner, mondays
from within_pipelines.settings import Settings

SOURCE = "upworthy"
COMPARISON = "ad_score_comparison"
WEEKS = 8
"""Last weeks that are scored by the vintages of their own time; each Monday's model is trained for it."""


@dataclass(slots=True)
class Demo:
    """One run of the demo; each step does what is not there yet."""

    out: Console
    settings: Settings
    runner: Runner
    store: LakeStore
    models: Any

    def run(self) -> None:
        """Run all steps and print the summary."""
        with self._step("ingest the sample") as show:
            landed = self.settings.landing / SOURCE
            files = [
                (p.relative_to(self.settings.landing).as_posix(), SOURCE) for p in sorted(landed.glob("*.parquet"))
            ]
            ingest_landed(self.runner, files, store=self.store, progress=show)
            first, last = self._span()
            # The history begins the day before the first export's; without this partition it would look unfinished.
            self._missing(self.store.dates(PERFORMANCE), PERFORMANCE, first, last, show)
        with self._step("features of each day") as show:
            self._missing(self.store.dates("ad_features"), "ad_content,image_content,ad_features", first, last, show)
        vintages = mondays(last - timedelta(days=HORIZON_DAYS * WEEKS), last)
        with self._step("a model for each Monday") as show:
            self._train(vintages, show)
        with self._step("scores by the models of their time") as show:
            scored_from = date.fromisoformat(vintages[0])
            self._missing(self.store.dates("ad_scores"), "ad_scores,published_scores", scored_from, last, show)
        with self._step("the night of the last day") as show:
            if not self._is_published(last):
                show(str(last), 0, 1)
                selection = self.runner.select(",".join(NIGHTLY_GROUPS))
                self.runner.materialize([*selection.unpartitioned, *selection.daily], partition=last.isoformat())
        self._summary(scored_from, last)

    def _span(self) -> tuple[date, date]:
        files = [f for f in current_files(self.store) if f.source == SOURCE and f.first_date and f.last_date]
        first = min(f.first_date for f in files if f.first_date)
        return first - timedelta(days=1), max(f.last_date for f in files if f.last_date)

    def _missing(self, there: tuple[date, ...], select: str, first: date, last: date, show: Any) -> None:
        missing = sorted(set(days_between(first, last)) - set(there))
        if missing:
            selection = self.runner.select(select)
            config = backfill_config(selection, model="as_of", accounts=[], campaigns=[], first=missing[0])
            self.runner.backfill(selection, missing[0], missing[-1], config=config, progress=show)

    def _train(self, vintages: list[str], show: Any) -> None:
        registry = self.models.registry()
        known = {str(record.as_of) for record in registry.versions(ModelType.AD_SCORE)} if registry.names() else set()
        waiting = [monday for monday in vintages if monday not in known]
        training = self.runner.select("training").weekly
        for number, monday in enumerate(waiting):
            show(f"as of {monday}", number, len(waiting))
            # What each part of the model is worth is asked once: of the newest vintage.
            assets = [key for key in training if monday == vintages[-1] or key != COMPARISON]
            self.runner.materialize(assets, partition=monday)

    def _is_published(self, day: date) -> bool:
        """Whether Postgres holds the day's scores by the champion."""
        champion = self.models.registry().aliases(ModelType.AD_SCORE).get("champion")
        published = self.models.postgres.scores().scores(day)
        lake = self.store.read("ad_scores", {"date": day}, columns=["model_version"])
        versions = set(published["model_version"].to_pylist())
        return versions == {champion} and published.num_rows == lake.num_rows

    @contextmanager
    def _step(self, title: str) -> Iterator[Any]:
        columns = (
            SpinnerColumn(),
            TextColumn(f"{title}: {{task.description}}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        hidden = not self.out.is_terminal
        with Progress(*columns, console=self.out, transient=True, disable=hidden) as progress:
            task = progress.add_task("", total=None)

            def show(what: str, done: int, total: int) -> None:
                progress.update(task, description=what, completed=done, total=total)

            yield show
            seconds = progress.tasks[task].elapsed or 0.0
        self.out.print(f"[green]✓[/] {title} [dim]{seconds:.0f} s[/]", highlight=False)

    def _summary(self, first: date, last: date) -> None:
        registry = self.models.registry()
        champion = registry.version(ModelType.AD_SCORE, "champion")
        newest = self.store.read("ad_scores", {"date": last}, columns=["ad_id"]).num_rows
        self.out.print(
            f"\n{newest:,} ads scored on {last} by ad_score version {champion.version} (champion, as of "
            f"{champion.as_of}), published to Postgres.",
            highlight=False,
        )
        self.out.print(self._realized(first, last - timedelta(days=1)))
        self._places(champion.as_of)

    def _realized(self, first: date, last: date) -> Table:
        """The stored scores, judged by what happened, beside baselines that were refitted every Monday."""
        from within_ml.monitoring.performance import baseline_scores, realized_performance

        outcomes = compute_training_rows(reader(self.store), first=first, last=last).to_pandas()
        scores = self.store.read("ad_scores", {"date": slice(first, last)}).to_pandas()
        sets = {date.fromisoformat(m): training_frame(self.store, m)[0] for m in mondays(first, last)}
        judged = {
            name: realized_performance(rows, outcomes)
            for name, rows in {"ad_score": scores, **baseline_scores(sets, outcomes)}.items()
        }
        pairs = next(iter(judged.values()))
        table = Table(
            "",
            "log-loss",
            "predicted / actual clicks",
            "pairs in order",
            "significant pairs",
            title=f"{first} … {last}: {len(outcomes):,} headlines, scored before they ran",
            caption=f"{pairs.pair_accuracy.pairs:,} pairs of headlines of one test, "
            f"{pairs.pair_accuracy_significant.pairs:,} of them significant; all are refitted every Monday.",
        )
        for name, j in judged.items():
            ratio = j.calibration_ratio
            table.add_row(
                name,
                f"{j.log_loss.value:.5f}",
                f"{ratio.value:.2f} ({ratio.lower:.2f} … {ratio.upper:.2f})",
                f"{j.pair_accuracy.accuracy:.1%}",
                f"{j.pair_accuracy_significant.accuracy:.1%}",
            )
        return table

    def _places(self, as_of: date) -> None:
        report = self.models.vintage(ModelType.AD_SCORE, as_of.isoformat()) / REPORT / "report.html"
        places = Table.grid(padding=(0, 2))
        places.add_row("Tables", f"{self.settings.lake_root}  (within lake), Postgres database within, table ad_scores")
        places.add_row("Models", "within models")
        places.add_row("Report", str(_short(report)))
        places.add_row("Dagster", "make ui, then http://127.0.0.1:3000")
        places.add_row("MLflow", "make ui, then http://127.0.0.1:5000")
        self.out.print(places, highlight=False)


def _short(path: Path) -> Path:
    cwd = Path.cwd()
    return path.relative_to(cwd) if path.is_relative_to(cwd) else path


def run_demo(out: Console, settings: Settings, definitions: dg.Definitions, models: Any, store: LakeStore) -> None:
    """Run the demo on a deployment."""
    Demo(out, settings, Runner(definitions, dg.DagsterInstance.get()), store, models).run()
