"""Runs the feature expressions with DuckDB: reads lake tables once, works account bucket by account bucket, yields days.

The expressions are in `ad_features`, `account` and `labels`; nothing here computes a feature. A run is bounded in memory:
what it reads is totalled into a database file in a scratch folder, each bucket of accounts is computed on its own, and
the results wait in that folder until their day is asked for.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa

from within_ml.errors import InputError, shown
from within_ml.features.ad_features import FeatureInputs, ad_features
from within_ml.features.catalog import TEXT_AD_FEATURES, ad_features_contract
from within_ml.features.performance import ad_daily, platform_daily
from within_ml.features.temporal import LONGEST_WINDOW, Period
from within_ml.features.texts import distinct_texts
from within_ml.lake.contracts import CONTRACTS, Contract

logger = logging.getLogger(__name__)

Reader = Callable[[duckdb.DuckDBPyConnection, str, date | None, date | None], str]
"""``read(con, table, first, last)`` registers a view of a lake table, limited to days, and returns the view's name."""

ROWS_PER_BUCKET = 1_000_000
"""Ad-days that one bucket should hold at most, so that its windows fit in about 2 GB."""

CONTENT_SCHEMA = pa.schema(
    [pa.field("text_hash", pa.string(), nullable=False), *(pa.field(f.name, pa.float64()) for f in TEXT_AD_FEATURES)]
)
"""Columns of the table ``ad_content``: one row per distinct text."""


@dataclass(frozen=True, slots=True)
class FeatureDay:
    """All rows of a feature table of one day, in the contract's order of columns and rows.

    >>> FeatureDay(date(2024, 1, 1), ad_features_contract().schema.empty_table()).table.num_rows
    0
    """

    date: date
    table: pa.Table


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use: ad-days per bucket of accounts, DuckDB's memory (such as ``"2GB"``), threads, scratch folder.

    None leaves a choice to DuckDB or to the system's folder of temporary files.

    >>> Limits(threads=2).rows_per_bucket
    1000000
    """

    rows_per_bucket: int = ROWS_PER_BUCKET
    memory: str | None = None
    threads: int | None = None
    scratch: Path | None = None

    def __post_init__(self) -> None:
        if self.rows_per_bucket < 1:
            raise InputError(f"rows_per_bucket must be at least 1; got {self.rows_per_bucket}.")


def compute_ad_features(
    read: Reader,
    *,
    first: date,
    last: date,
    content: pa.Table | None = None,
    accounts: Sequence[str] = (),
    campaigns: Sequence[str] = (),
    limits: Limits | None = None,
) -> Iterator[FeatureDay]:
    """Compute ``ad_features`` day by day.

    Parameters
    ----------
    read
        Gives the tables ad_performance, ads and campaigns. Performance is read once, for `required_dates`.
    first, last
        The wanted days, both included. Any cut of a range gives the same rows.
    content
        The table ``ad_content`` (`CONTENT_SCHEMA`); texts that are not in it have null text features.
    accounts, campaigns
        Only rows of these, if any are named; their values are the same as in a full run.
    limits
        What the run may use.

    Yields
    ------
    FeatureDay
        Each day of the range in order, also one without rows.

    Raises
    ------
    InputError
        If ``last`` is before ``first`` or ``content`` lacks a column.
    """
    period, limits = Period(first, last), limits or Limits()
    content = _checked_content(content)
    with _workspace(limits) as (con, folder):
        start = first - timedelta(days=LONGEST_WINDOW - 1)
        performance = _unbound(CONTRACTS["ad_performance"].schema, read(con, "ad_performance", start, last))
        _load(con, read, performance, accounts)
        con.register("content", content)
        wanted = ad_features(unbound_inputs(), period)
        if campaigns:
            wanted = wanted.filter(wanted.campaign_id.isin(list(campaigns)))
        files = _run_buckets(con, folder, ibis.to_sql(wanted, dialect="duckdb"), _buckets(con, period, limits))
        yield from _days(con, files, period, ad_features_contract())


def missing_content(read: Reader, content: pa.Table | None, *, last: date) -> pa.Table:
    """Return the distinct texts of ads known by ``last`` that ``content`` does not hold yet.

    Returns
    -------
    pyarrow.Table, shape (n_texts, 3)
        text_hash, headline, body: what `texts.content_rows` turns into rows of ``ad_content``.
    """
    with duckdb.connect() as con:
        ads = _unbound(CONTRACTS["ads"].schema, read(con, "ads", None, None))
        con.register("known", _checked_content(content))
        texts = distinct_texts(ads.filter(ads.valid_from <= ibis.date(last.isoformat())))
        absent = texts.anti_join(_unbound(CONTENT_SCHEMA, "known"), "text_hash").order_by("text_hash")
        return con.execute(ibis.to_sql(absent, dialect="duckdb")).to_arrow_table()


def unbound_inputs() -> FeatureInputs:
    """Return the inputs of `ad_features` as tables that are only named and typed: daily, platforms, ads, campaigns, content."""
    performance = _unbound(CONTRACTS["ad_performance"].schema, "ad_performance")
    return FeatureInputs(
        daily=ibis.table(ad_daily(performance).schema(), name="daily"),
        platforms=ibis.table(platform_daily(performance).schema(), name="platforms"),
        ads=_unbound(CONTRACTS["ads"].schema, "ads"),
        campaigns=_unbound(CONTRACTS["campaigns"].schema, "campaigns"),
        content=_unbound(CONTENT_SCHEMA, "content"),
    )


def _unbound(schema: pa.Schema, name: str) -> ir.Table:
    # Ibis counts nullability as part of a type and refuses to unite a key with itself; the contract checks it anyway.
    return ibis.table({f.name: ibis.dtype(f.type, nullable=True) for f in schema}, name=name)


def _checked_content(content: pa.Table | None) -> pa.Table:
    if content is None:
        return CONTENT_SCHEMA.empty_table()
    absent = [name for name in CONTENT_SCHEMA.names if name not in content.column_names]
    if absent:
        raise InputError(
            f"content must have the columns text_hash and all text features; {shown(absent)} are missing. "
            "Compute ad_content again with this version."
        )
    return content.select(CONTENT_SCHEMA.names)


@contextmanager
def _workspace(limits: Limits) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """Open a DuckDB database in a scratch folder that is removed afterwards."""
    config: dict[str, str | bool | int | float | list[str]] = {"preserve_insertion_order": False}
    if limits.memory:
        config["memory_limit"] = limits.memory
    if limits.threads:
        config["threads"] = limits.threads
    with tempfile.TemporaryDirectory(prefix="within-features-", dir=limits.scratch) as name:
        with duckdb.connect(str(Path(name) / "features.duckdb"), config=config) as con:
            yield con, Path(name)


def _load(con: duckdb.DuckDBPyConnection, read: Reader, performance: ir.Table, accounts: Sequence[str]) -> None:
    """Total the performance and copy the ads, each with its shard, in one pass over the lake."""
    con.execute(f"CREATE TABLE platforms AS {ibis.to_sql(platform_daily(performance), dialect='duckdb')}")
    ads, campaigns = read(con, "ads", None, None), read(con, "campaigns", None, None)
    chosen = performance.filter(performance.account_id.isin(list(accounts))) if accounts else performance
    _register_shards(con, [performance.get_name(), ads], accounts)
    con.execute(
        f"CREATE TABLE all_daily AS SELECT d.*, s.shard FROM ({ibis.to_sql(ad_daily(chosen), dialect='duckdb')}) d "
        "JOIN shards s USING (account_id)"
    )
    con.execute(f'CREATE TABLE all_ads AS SELECT a.*, s.shard FROM "{ads}" a JOIN shards s USING (account_id)')
    if campaigns != "campaigns":
        con.execute(f'CREATE VIEW campaigns AS SELECT * FROM "{campaigns}"')


def shard_of(account_id: str) -> int:
    """Return the shard of an account, a number below `SHARDS` that never changes.

    >>> shard_of("acc-0001")
    0
    """
    return hashlib.md5(account_id.encode(), usedforsecurity=False).digest()[0]


def _register_shards(con: duckdb.DuckDBPyConnection, views: Sequence[str], accounts: Sequence[str]) -> None:
    known = " UNION ".join(f'SELECT account_id FROM "{view}"' for view in views)
    names = [name for (name,) in con.execute(known).fetchall() if not accounts or name in set(accounts)]
    con.register("shards", pa.table({"account_id": pa.array(names, pa.string()), "shard": [shard_of(n) for n in names]}))


def _buckets(con: duckdb.DuckDBPyConnection, period: Period, limits: Limits) -> list[list[int]]:
    """Pack shards, whole, into buckets of at most so many ad-days; a shard above that is a bucket of its own."""
    trailing = min(LONGEST_WINDOW, len(period.days))
    sizes = con.execute(
        "SELECT shard, sum(n) FROM ("
        f"SELECT shard, count(*) + {trailing} * count(DISTINCT ad_id) AS n FROM all_daily GROUP BY shard "
        "UNION ALL SELECT shard, count(*) FROM all_ads GROUP BY shard) GROUP BY shard ORDER BY shard"
    ).fetchall()
    buckets: list[list[int]] = []
    room = 0
    for shard, size in sizes:
        if size > room:
            buckets.append([])
            room = limits.rows_per_bucket
        buckets[-1].append(shard)
        room -= size
    return buckets


def _run_buckets(
    con: duckdb.DuckDBPyConnection, folder: Path, sql: str, buckets: Sequence[Sequence[int]]
) -> list[str]:
    files = []
    for number, shards in enumerate(buckets):
        chosen = ", ".join(str(s) for s in shards)
        for table in ("daily", "ads"):
            source = f"SELECT * EXCLUDE (shard) FROM all_{table} WHERE shard IN ({chosen})"
            con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {source}")
        path = str(folder / f"bucket-{number}.parquet")
        con.execute(f"COPY (SELECT * FROM ({sql}) ORDER BY date) TO '{path}' (FORMAT parquet, COMPRESSION lz4_raw)")
        logger.info("features: bucket %d of %d, %d shards", number + 1, len(buckets), len(shards))
        files.append(path)
    return files


def _days(
    con: duckdb.DuckDBPyConnection, files: Sequence[str], period: Period, contract: Contract
) -> Iterator[FeatureDay]:
    order = ", ".join(contract.sort_by)
    for day in period.days:
        table = contract.schema.empty_table()
        if files:
            query = f"SELECT * FROM read_parquet(?) WHERE date = ? ORDER BY {order}"
            table = con.execute(query, [list(files), day]).to_arrow_table().cast(contract.schema)
        yield FeatureDay(day, table)
