"""The lake on a terminal: tables, partitions, quarantine; and the expectations report as a page."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from within_ml.errors import InputError, shown
from within_ml.lake.contracts import AD_KEY, CONTRACTS
from within_ml.lake.quarantine import TABLE as QUARANTINE
from within_ml.lake.quarantine import replay
from within_ml.lake.store import LakeStore

NEWEST = 15
BYTES_PER_MIB = 1 << 20


def show_lake(out: Console, store: LakeStore) -> None:
    """All tables, one line each."""
    table = Table("table", "rows", "partitions", "first", "last", "version", "MiB", title=store.root)
    for name in store.catalog.tables():
        s = store.catalog.summary(name)
        table.add_row(
            name, f"{s.rows:,}", f"{s.partitions:,}" if s.first_date else "", str(s.first_date or ""),
            str(s.last_date or ""), str(s.version), f"{s.bytes / BYTES_PER_MIB:.1f}",
        )  # fmt: skip
    out.print(table)


def show_table(out: Console, store: LakeStore, name: str) -> None:
    """One table: columns, newest partitions, newest versions; of the quarantine also its reasons."""
    summary = store.catalog.summary(name)
    columns = Table("column", "type", "meaning", title=f"{name}: {summary.rows:,} rows, version {summary.version}")
    contract = CONTRACTS.get(name)
    for field in summary.schema:
        meaning = contract.column(field.name).meaning if contract and field.name in contract.names else ""
        columns.add_row(field.name, str(field.type), meaning)
    out.print(columns)
    if summary.first_date is not None:
        partitions = Table("date", "rows", "bytes", title=f"newest {NEWEST} of {summary.partitions} partitions")
        for row in store.catalog.partitions(name).to_pylist()[-NEWEST:]:
            partitions.add_row(str(row["date"]), f"{row['rows']:,}", f"{row['bytes']:,}")
        out.print(partitions)
    versions = Table("version", "at (UTC)", "operation", "run", "partitions", title="versions")
    for v in store.catalog.versions(name, limit=NEWEST):
        at = f"{datetime.fromtimestamp((v['timestamp'] or 0) / 1000, UTC):%Y-%m-%d %H:%M:%S}"
        versions.add_row(str(v["version"]), at, v["operation"], v["run_id"] or "", v["partitions"] or "")
    out.print(versions)
    if name == QUARANTINE:
        _show_reasons(out, store.read(QUARANTINE))


def show_scores(
    out: Console, store: LakeStore, day: date | None, *, account: str | None, campaign: str | None, limit: int
) -> None:
    """The best ads of a day, each with its headline and what moves its prediction.

    Raises
    ------
    InputError
        If nothing is scored on the day, or nothing of the account or campaign.
    """
    dates = store.dates("ad_scores") if store.exists("ad_scores") else ()
    chosen = day or (dates[-1] if dates else None)
    if chosen is None or chosen not in dates:
        known = f"scored are {dates[0]} to {dates[-1]}" if dates else "no day is scored yet; run within demo or nightly"
        raise InputError(f"Scores of a day are there once it is scored, however: {chosen or 'no day'}; {known}.")
    filters = {"account_id": account, "campaign_id": campaign}
    wanted = {"date": chosen, **{name: [value] for name, value in filters.items() if value is not None}}
    rows = store.read("ad_scores", wanted)
    if not rows.num_rows:
        raise InputError(f"No ad of {account or 'any account'}, {campaign or 'any campaign'} is scored on {chosen}.")
    rows = rows.sort_by([("ad_score", "descending"), ("ad_id", "ascending")])
    best = rows.slice(0, limit).to_pylist()
    texts = store.read("ad_features", wanted, columns=[*AD_KEY, "headline"]).to_pylist()
    headline = {tuple(row[key] for key in AD_KEY): row["headline"] for row in texts}
    title = f"{chosen}: {rows.num_rows:,} ads scored"
    table = Table("score", "predicted CTR", "90 % interval", "ad", "why", title=title)
    for row in best:
        interval = "" if row["ctr_lower"] is None else f"{row['ctr_lower']:.2%} … {row['ctr_upper']:.2%}"
        ad = f"{row['account_id']} / {row['ad_id']}\n{headline.get(tuple(row[key] for key in AD_KEY)) or ''}"
        why = "\n".join(json.loads(row["top_reasons"] or "[]"))
        table.add_row(f"{row['ad_score']:.0f}", f"{row['predicted_ctr']:.2%}", interval, Text(ad), Text(why))
    out.print(table)


def _show_reasons(out: Console, rows: pa.Table) -> None:
    reasons = Table("table", "file", "date", "reasons", "rows", title="rejected rows")
    grouped = rows.group_by(["table", "source_file", "date", "reasons"]).aggregate([([], "count_all")])
    for row in grouped.sort_by([("date", "ascending")]).to_pylist()[-50:]:
        reasons.add_row(
            row["table"], row["source_file"] or "", str(row["date"]), row["reasons"], f"{row['count_all']:,}"
        )
    out.print(reasons)


def show_range(out: Console, store: LakeStore, first: date, last: date) -> None:
    """Rows per daily table between two days."""
    table = Table("table", "days", "rows", "version", title=f"{first} … {last}")
    for name in store.catalog.tables():
        parts = store.catalog.partitions(name)
        if "date" not in parts.column_names or name == "ad_training_set":
            continue
        days = parts.filter(pc.and_(pc.greater_equal(parts["date"], first), pc.less_equal(parts["date"], last)))
        if days.num_rows:
            rows = pc.sum(days["rows"]).as_py()
            table.add_row(name, str(days.num_rows), f"{rows:,}", str(store.version(name)))
    out.print(table)


def replay_day(out: Console, store: LakeStore, name: str, day: date) -> None:
    """Audit a day's quarantined rows again and say what came of it."""
    _require_contract(name)
    done = replay(store, name, day, run_id="replay")
    out.print(f"{name} {day}: {done.accepted} rows are published now, {done.still_rejected} stay in quarantine")


def write_report(out: Console, store: LakeStore, name: str, path: Path) -> None:
    """Write the newest partition's expectations as a page."""
    from within_pipelines.expectations import report_html

    _require_contract(name)
    contract = CONTRACTS[name]
    newest = store.dates(name)[-1:] if contract.partitioned else ()
    rows = store.read(name, {"date": newest[0]} if newest else {})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_html(rows, contract), encoding="utf-8")
    out.print(f"{name}{f' of {newest[0]}' if newest else ''}: expectations of {rows.num_rows:,} rows in {path}")


def _require_contract(name: str) -> None:
    if name not in CONTRACTS:
        raise InputError(f"A table with a contract is required ({shown(CONTRACTS)}), however: {name!r}.")
