"""How a feature definition runs on DuckDB in bounded memory: a scratch database, buckets of accounts, days cut at last.

What is computed is not said here: definitions are in `ad_features`, `account` and `labels`, and `runner` brings the two
together. The input is totalled over regions into a database file in a scratch folder, each bucket of whole accounts is
computed on its own, and results wait in that folder, sorted by date, until their day is asked for.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from within_ml.errors import InputError
from within_ml.features.temporal import LONGEST_WINDOW, Period
from within_ml.lake.contracts import Contract

logger = logging.getLogger(__name__)

Reader = Callable[[duckdb.DuckDBPyConnection, str, date | None, date | None], str]
"""``read(con, table, first, last)`` registers a view of a lake table, limited to days, and returns the view's name."""

ROWS_PER_BUCKET = 1_000_000
"""Ad-days that one bucket of accounts should hold at most."""

SHARD = "substr(md5(account_id), 1, 2)"
"""SQL of an account's shard: one of 256, the same on every machine and in every version."""

_BATCH_ROWS = 4096
"""Rows that are in memory of each bucket while days are cut, about 1 kB each."""


@dataclass(frozen=True, slots=True)
class FeatureDay:
    """All rows of a feature table of one day, in the contract's order of columns and rows.

    >>> FeatureDay(date(2024, 1, 1), pa.table({"account_id": ["a"]})).table.num_rows
    1
    """

    date: date
    table: pa.Table


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use: ad-days per bucket of accounts, DuckDB's memory (such as ``"2GB"``), threads, scratch folder.

    None leaves a choice to DuckDB or to the system's folder of temporary files. The scratch folder takes about 1 GB for
    each million rows of the result.

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


@contextmanager
def workspace(limits: Limits) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """Open a DuckDB database in a scratch folder that is removed afterwards."""
    config: dict[str, str | bool | int | float | list[str]] = {"preserve_insertion_order": False}
    if limits.memory:
        config["memory_limit"] = limits.memory
    if limits.threads:
        config["threads"] = limits.threads
    with (
        tempfile.TemporaryDirectory(prefix="within-features-", dir=limits.scratch) as folder,
        duckdb.connect(str(Path(folder) / "features.duckdb"), config=config) as con,
    ):
        yield con, Path(folder)


def unbound(schema: pa.Schema, name: str) -> ir.Table:
    """Return a table that is only named and typed."""
    # Ibis counts nullability as part of a type and refuses to unite a key with itself; contracts check it anyway.
    return ibis.table({f.name: ibis.dtype(f.type, nullable=True) for f in schema}, name=name)


def to_sql(table: ir.Table) -> str:
    """Compile an expression for DuckDB."""
    return str(ibis.to_sql(table, dialect="duckdb"))


def copy_table(con: duckdb.DuckDBPyConnection, name: str, table: ir.Table, *, sharded: bool = False) -> None:
    """Store the rows of an expression in the scratch database, with the shard of their account if asked."""
    shard = f", {SHARD} AS shard" if sharded else ""
    con.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT *{shard} FROM ({to_sql(table)})")


class Script:
    """A definition compiled for DuckDB, each checkpoint to a temporary table; compiled once, run for each bucket.

    >>> script = Script()
    >>> numbers = script("numbers", ibis.range(3).unnest().name("n").as_table())
    >>> script.finish(numbers, order_by=["n"])
    >>> with workspace(Limits()) as (con, folder):
    ...     script.run(con, folder / "numbers.arrow").all()["n"].to_pylist()
    [0, 1, 2]
    """

    def __init__(self) -> None:
        self._statements: list[str] = []
        self._result = ""

    def __call__(self, name: str, table: ir.Table) -> ir.Table:
        """Store ``table`` under ``name`` when the script runs; return the stored table."""
        self._statements.append(f"CREATE OR REPLACE TEMP TABLE {name} AS {to_sql(table)}")
        return ibis.table(table.schema(), name=name)

    def finish(self, table: ir.Table, *, order_by: Sequence[str]) -> None:
        """Make ``table`` the result of the script."""
        self._result = f"FROM ({to_sql(table)}) ORDER BY {', '.join(order_by)}"

    def run(self, con: duckdb.DuckDBPyConnection, path: Path) -> SortedRows:
        """Run the statements, write the result to ``path`` and return it."""
        for statement in self._statements:
            con.execute(statement)
        batches = con.execute(self._result).to_arrow_reader(_BATCH_ROWS)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batches.schema) as writer:
            rows = 0
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        logger.info("%d rows in %s", rows, path.name)
        return SortedRows(path)


def pack(con: duckdb.DuckDBPyConnection, tables: Sequence[str], period: Period, limits: Limits) -> list[list[str]]:
    """Pack shards, whole, into buckets of at most so many ad-days; a shard above that is a bucket of its own.

    An ad has a row on each of its days of performance and, while the window lasts, after the last of them.
    """
    trailing = min(LONGEST_WINDOW, len(period.days))
    sizes = " UNION ALL ".join(
        f"SELECT shard, count(*) + {trailing} * count(DISTINCT ad_id) AS n FROM {table} GROUP BY shard"
        for table in tables
    )
    shards = con.execute(f"SELECT shard, sum(n) FROM ({sizes}) GROUP BY shard ORDER BY shard").fetchall()
    buckets: list[list[str]] = []
    room = 0
    for shard, size in shards:
        if size > room:
            buckets.append([])
            room = limits.rows_per_bucket
        buckets[-1].append(shard)
        room -= size
    return buckets


def run_buckets(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    script: Script,
    buckets: Sequence[Sequence[str]],
    *,
    tables: Sequence[str],
) -> list[SortedRows]:
    """Run the script for each bucket: of table X it sees as ``bucket_X`` the bucket's rows of ``all_X``."""
    results = []
    for number, shards in enumerate(buckets):
        chosen = ", ".join(f"'{s}'" for s in shards)
        for table in tables:
            source = f"SELECT * EXCLUDE (shard) FROM all_{table} WHERE shard IN ({chosen})"
            con.execute(f"CREATE OR REPLACE TEMP TABLE bucket_{table} AS {source}")
        results.append(script.run(con, folder / f"bucket-{number + 1}-of-{len(buckets)}.arrow"))
    return results


class SortedRows:
    """Rows in a file, sorted by date, taken day after day; only a piece of the file is in memory.

    >>> script = Script()
    >>> script.finish(ibis.literal(date(2024, 1, 1)).name("date").as_table(), order_by=["date"])
    >>> with workspace(Limits()) as (con, folder):
    ...     rows = script.run(con, folder / "rows.arrow")
    ...     [sum(part.num_rows for part in rows.until(date(2024, 1, day))) for day in (1, 2)]
    [1, 0]
    """

    def __init__(self, path: Path) -> None:
        self._reader = pa.ipc.open_file(pa.OSFile(str(path)))
        self._next = 0
        self._rest: pa.RecordBatch | None = None

    def until(self, day: date) -> list[pa.RecordBatch]:
        """Take the rows up to and including ``day`` that were not taken before."""
        parts = []
        while self._rest is not None or self._next < self._reader.num_record_batches:
            if self._rest is None:
                self._rest = self._reader.get_batch(self._next)
                self._next += 1
            dates = self._rest.column("date").to_numpy(zero_copy_only=False).astype("datetime64[D]")
            stop = int(np.searchsorted(dates, np.datetime64(day, "D"), side="right"))
            parts.append(self._rest.slice(0, stop))
            if stop < self._rest.num_rows:
                self._rest = self._rest.slice(stop)
                break
            self._rest = None
        return parts

    def all(self) -> pa.Table:
        """Take all rows at once."""
        return self._reader.read_all()


def cut_days(results: Sequence[SortedRows], period: Period, contract: Contract) -> Iterator[FeatureDay]:
    """Cut results into the days of the period; a day without rows is an empty table."""
    for day in period.days:
        found = [parts for result in results if (parts := [p for p in result.until(day) if p.num_rows])]
        tables = [pa.Table.from_batches(parts).cast(contract.schema) for parts in found]
        table = pa.concat_tables([contract.schema.empty_table(), *tables]).combine_chunks()
        if len(tables) > 1:
            table = table.sort_by([(column, "ascending") for column in contract.sort_by])
        yield FeatureDay(day, table)
