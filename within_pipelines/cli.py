"""The command line ``within``: what the UI does, for a terminal, a cron job and a first look."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typer.exceptions import TyperException

from within_ml.base import ModelType
from within_ml.errors import InputError, WithinError, shown
from within_pipelines.settings import Settings, load_settings, quieten_libraries

if TYPE_CHECKING:
    from within_ml.registry import ModelRegistry
    from within_pipelines.runs import Runner

app = typer.Typer(
    name="within",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Nightly, calibrated advertising scores from a data lake. Start with: within demo",
)
out = Console()
err = Console(stderr=True)

EXIT_BAD_INPUT = 2
DEMO_SOURCE = "upworthy"


def main() -> None:
    """Run the command line; bad input is one sentence and exit status 2, a defect a traceback."""
    quieten_libraries()
    try:
        status = app(standalone_mode=False)
    except WithinError as error:
        _refuse(type(error).__name__, str(error))
    except TyperException as error:
        context = getattr(error, "ctx", None)
        sentence = error.format_message().rstrip(".")
        advice = f"; see {context.command_path} --help" if context is not None else ""
        _refuse("UsageError", sentence + advice + ".")
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _refuse(kind: str, sentence: str) -> NoReturn:
    # Not as markup: what came may hold square brackets.
    err.print(Text.assemble((kind, "bold red"), ": ", sentence), soft_wrap=True)
    sys.exit(EXIT_BAD_INPUT)


def _day(given: str | date) -> date:
    """Read an option's day; typer also passes defaults through here."""
    if isinstance(given, date):
        return given
    try:
        return datetime.strptime(given, "%Y-%m-%d").date()  # noqa: DTZ007 - a day has no time zone
    except ValueError as error:
        raise typer.BadParameter(f"a day such as 2024-01-31 is required, however: {given!r}") from error


Day = Annotated[date, typer.Option(parser=_day, metavar="YYYY-MM-DD")]


@app.command()
def demo() -> None:
    """Run everything once on the real sample data: ingest, features, training, evaluation, scores, publication.

    A second run does only what is not there yet.
    """
    from within_ml.lake.landing import LandingZone
    from within_pipelines.history import remember_days
    from within_pipelines.postgres import prepare_dagster

    settings = load_settings()
    zone = LandingZone(settings.landing)
    landed = [path for path, source in zone.discover() if source == DEMO_SOURCE]
    if not landed:
        raise InputError(
            f"The demo needs its sample in {zone.root / DEMO_SOURCE}, however there is no file; clone again."
        )
    remember_days(settings, zone.mapping(DEMO_SOURCE), landed, closed=True)
    prepare_dagster(settings)

    from within_pipelines.definitions import defs
    from within_pipelines.demo import run_demo
    from within_pipelines.resources import build_resources

    settings = load_settings()
    resources = build_resources(settings)
    run_demo(out, settings, defs, resources["models"], resources["lake"].store)


@app.command()
def simulate(
    accounts: Annotated[int, typer.Option(help="Client accounts of the agency.")] = 40,
    days: Annotated[int, typer.Option(help="Length of the history in days.")] = 180,
    seed: Annotated[int, typer.Option(help="Same seed, same agency.")] = 7,
    start: Day = date(2024, 1, 1),
    ingest_it: Annotated[
        bool, typer.Option("--ingest/--no-ingest", help="Also ingest the files into the lake.")
    ] = True,
) -> None:
    """Simulate an agency whose truth is known, into the landing zone; the truth goes beside the lake."""
    from within_ml.lake import simulation

    settings = load_settings()
    config = simulation.SimulationConfig(accounts=accounts, days=days, seed=seed, start_date=start)
    truth = _beside_lake(settings)
    with _progress() as progress:
        agency = simulation.simulate(config)
        landing_task = progress.add_task("landing files", total=config.days)
        folder = settings.landing / "simulation"
        written = simulation.write_landing(
            agency, folder, progress=lambda n, _: progress.update(landing_task, completed=n)
        )
        truth_task = progress.add_task("truth", total=config.days)
        simulation.write_truth(agency, truth, progress=lambda n, _: progress.update(truth_task, completed=n))
    settings.remember_history(config.start_date, config.last_date, closed=True)
    out.print(f"{written.rows:,} rows in {len(written.files)} files below {folder}, the truth in {truth}")
    if ingest_it:
        _register_and_ingest(_runner(), [])


def _beside_lake(settings: Settings) -> Path:
    """The truth's folder: beside the lake's tables, where no reader of the lake looks."""
    if "://" in settings.lake_root:
        return settings.state_dir / "simulation_truth"
    return Path(settings.lake_root).parent / f"{Path(settings.lake_root).name}_truth"


@app.command()
def ingest(
    path: Annotated[Path, typer.Argument(help="An export, or a folder of exports, in the landing zone.")],
    source: Annotated[str, typer.Option(help="Name of a mapping, or the path of a mapping's YAML file.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy the file into the landing zone first.")] = False,
) -> None:
    """Ingest exports by a mapping: audited rows become partitions of the lake, bad rows go to quarantine."""
    from within_ml.lake.landing import LandingZone, adopt_mapping, chosen_mapping, copy_in, exports
    from within_pipelines.history import remember_days

    settings = load_settings()
    zone = LandingZone(settings.landing)
    mapping = chosen_mapping(zone, source)
    files = exports(zone, path, outside=copy)
    # This reads the files: what does not fit its mapping is refused before anything of it is kept.
    remember_days(settings, mapping, files)
    adopt_mapping(zone, source, mapping)
    if copy:
        files = copy_in(zone, files, mapping)
    _register_and_ingest(_runner(), [(zone.relative(file), mapping.name) for file in files])


@app.command()
def nightly(
    date_: Annotated[date, typer.Option("--date", parser=_day, metavar="YYYY-MM-DD", help="The day that ended.")],
) -> None:
    """Run the night of one day: ingest what has landed, features, scores, publication."""
    from within_pipelines.jobs import NIGHTLY_GROUPS
    from within_pipelines.runs import check_days

    check_days(date_, date_)
    runner = _runner()
    selection = runner.select(",".join(NIGHTLY_GROUPS))
    with _progress() as progress:
        task = progress.add_task(f"night of {date_}", total=1)
        run = runner.materialize([*selection.unpartitioned, *selection.daily], partition=date_.isoformat())
        progress.update(task, completed=1)
    out.print(f"night of {date_}: run {run.run_id}")
    _print_partitions(date_, date_)


@app.command()
def backfill(
    select: Annotated[str, typer.Option(help="Groups or assets, comma separated, such as features,scoring.")],
    from_: Annotated[date, typer.Option("--from", parser=_day, metavar="YYYY-MM-DD", help="First day.")],
    to: Annotated[date, typer.Option("--to", parser=_day, metavar="YYYY-MM-DD", help="Last day.")],
    model: Annotated[
        str,
        typer.Option(help="Scores by champion, as_of (the newest vintage that each day could have had) or a version."),
    ] = "champion",
    account: Annotated[list[str] | None, typer.Option(help="Only rows of this account; repeatable.")] = None,
    campaign: Annotated[list[str] | None, typer.Option(help="Only rows of this campaign; repeatable.")] = None,
) -> None:
    """Make past partitions again; with --account or --campaign only those rows of each day are replaced."""
    from within_pipelines.backfills import backfill_config, check_narrowing
    from within_pipelines.runs import check_days

    check_days(from_, to)
    check_narrowing(_store(load_settings()), accounts=account or [], campaigns=campaign or [])
    runner = _runner()
    selection = runner.select(select)
    config = backfill_config(selection, model=model, accounts=account or [], campaigns=campaign or [], first=from_)
    with _progress() as progress:
        task = progress.add_task("backfill", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        runs = runner.backfill(selection, from_, to, config=config, progress=show)
    out.print(f"{len(runs)} runs, {from_} … {to}")
    _print_partitions(from_, to)


@app.command()
def models(name: Annotated[str, typer.Argument(help="Registered model.")] = "ad_score") -> None:
    """Show versions, aliases, metrics and the ledger of a model."""
    registry = _registry()
    if name not in {*ModelType, *registry.names()}:
        raise InputError(f"A model's name is required ({shown(str(t) for t in ModelType)}), however: {name!r}.")
    versions = Table("version", "aliases", "as of", "test log-loss", "pred/actual", "pairs", "significant", title=name)
    for record in registry.versions(name):
        numbers = [record.metrics.get(f"test_{m}") for m in METRICS]
        shown_numbers = [
            "" if n is None else f"{n:.5f}" if m == "log_loss" else f"{n:.3f}"
            for m, n in zip(METRICS, numbers, strict=True)
        ]
        versions.add_row(record.version, ", ".join(record.aliases), str(record.as_of or ""), *shown_numbers)
    out.print(versions)
    ledger = Table("at", "action", "version", "from", "by", "reason", title="ledger")
    for decision in registry.ledger.decisions(name, limit=20) if registry.ledger else ():
        ledger.add_row(
            f"{decision.decided_at:%Y-%m-%d %H:%M}", decision.action, decision.version, decision.from_version or "",
            decision.decided_by, decision.reason,
        )  # fmt: skip
    out.print(ledger)


METRICS = ("log_loss", "calibration_ratio", "pair_accuracy", "pair_accuracy_significant")


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="Registered model, such as ad_score.")],
    version: Annotated[str, typer.Argument(help="Its version.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")],
) -> None:
    """Make a version champion by hand; the ledger says who and why."""
    done = _registry().promote(name, version, decision=None, reason=reason, decided_by=_person())
    out.print(f"{name}: champion is version {done.version}" + ("" if done.changed else ", as before"))


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Registered model, such as ad_score.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")],
) -> None:
    """Make the previous champion champion again."""
    done = _registry().rollback(name, reason=reason, decided_by=_person())
    out.print(f"{name}: champion is version {done.version} again, version {done.previous_version} the previous one")


@app.command()
def scores(
    day: Annotated[
        date | None,
        typer.Option("--date", parser=_day, metavar="YYYY-MM-DD", help="The day; the last one scored where left out."),
    ] = None,
    account: Annotated[str | None, typer.Option(help="Only this account.")] = None,
    campaign: Annotated[str | None, typer.Option(help="Only this campaign.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many ads, the best first.")] = 20,
) -> None:
    """Show scored ads: prediction, interval, score and reasons."""
    from within_pipelines.lake_views import show_scores

    show_scores(out, _store(load_settings()), day, account=account, campaign=campaign, limit=limit)


@app.command()
def lake(
    table: Annotated[str | None, typer.Argument(help="One table in detail; all of them where left out.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the table's expectations, met or not, as an HTML page to this file.")
    ] = None,
    replay: Annotated[
        date | None, typer.Option(parser=_day, metavar="YYYY-MM-DD", help="Audit this day's quarantined rows again.")
    ] = None,
) -> None:
    """Show the lake: tables, partitions, rows and versions."""
    from within_pipelines.lake_views import replay_day, show_lake, show_table, write_report

    store = _store(load_settings())
    if table is None:
        if report or replay:
            raise InputError("--report and --replay need a table, however none was named: within lake TABLE …")
        show_lake(out, store)
        return
    if replay is not None:
        replay_day(out, store, table, replay)
    elif report is not None:
        write_report(out, store, table, report)
    else:
        show_table(out, store, table)


@app.command()
def doctor() -> None:
    """Check Postgres, lake, registry, versions and disk, and say what to do about what is wrong."""
    from within_pipelines.doctor import examine

    findings = examine(load_settings())
    table = Table("", "what", "found", "what to do")
    for finding in findings:
        table.add_row("[green]ok[/]" if finding.ok else "[red]!![/]", finding.what, finding.found, finding.advice)
    out.print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve the Dagster UI with its daemon, and the MLflow UI, until Ctrl-C."""
    from within_pipelines.ui import serve

    serve(out, load_settings(), host=host, port=port, mlflow_port=mlflow_port)


def _runner() -> "Runner":
    """The runner on this deployment's instance; only now Postgres and Dagster are needed."""
    from within_pipelines.postgres import prepare_dagster

    prepare_dagster(load_settings())
    import dagster as dg

    from within_pipelines.definitions import defs
    from within_pipelines.runs import Runner

    return Runner(defs, dg.DagsterInstance.get())


def _registry() -> "ModelRegistry":
    from within_pipelines.resources import build_resources

    registry: ModelRegistry = build_resources(load_settings())["models"].registry()
    return registry


def _store(settings: Settings) -> Any:
    from within_pipelines.resources import build_resources

    return build_resources(settings)["lake"].store


def _person() -> str:
    return os.environ.get("USER") or "operator"


def _register_and_ingest(runner: "Runner", files: Sequence[tuple[str, str]]) -> None:
    from within_pipelines.backfills import ingest_landed

    with _progress() as progress:
        task = progress.add_task("ingest", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        done = ingest_landed(runner, files, store=_store(load_settings()), progress=show)
    out.print(done.sentence)


def _print_partitions(first: date, last: date) -> None:
    from within_pipelines.lake_views import show_range

    show_range(out, _store(load_settings()), first, last)


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        yield progress


if __name__ == "__main__":
    main()
