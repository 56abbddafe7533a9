"""Writing lake tables: a set of partitions is replaced in one atomic commit of a Delta table.

Data files are written first, under new names, and become visible with the commit; a process that is killed before it
leaves only files that nobody reads. A commit succeeds only as the direct successor of the version that it was prepared
from, otherwise it is prepared again: two writers of one partition cannot both add their rows. An empty partition is a
file of no rows, so that "nothing happened" and "not there yet" stay different things.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from within_ml.errors import InputError, LakeError, MissingPartitionsError, shown
from within_ml.lake.catalog import DataCatalogModel, DataLakeModel, Filter, live_files, table_filesystem
from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.files import common_schema, fitted, joined, without_date, write_file
from within_ml.lake.images import LakeImages

logger = logging.getLogger(__name__)

COMMIT_ATTEMPTS = 40
"""A writer that loses the race for a version prepares its commit again this many times."""

ROWS_PER_COMMIT = 500_000
"""A stream of days is committed whenever this many rows have gathered."""


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Rows of a partition that a narrowed write replaces: those of these accounts and campaigns.

    >>> Narrowing(accounts=("a",)).mask(pa.table({"account_id": ["a", "b"]})).to_pylist()
    [True, False]
    """

    accounts: tuple[str, ...] = ()
    campaigns: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.accounts or self.campaigns)

    def filters(self) -> dict[str, list[str]]:
        """The same as filters of `DataLakeModel.get_data`."""
        chosen = {"account_id": self.accounts, "campaign_id": self.campaigns}
        return {column: list(values) for column, values in chosen.items() if values}

    def mask(self, rows: pa.Table) -> pa.Array:
        """True where a row belongs to the narrowing."""
        mask = pa.array([True] * rows.num_rows, pa.bool_())
        for column, values in self.filters().items():
            mask = pc.and_(mask, pc.is_in(rows[column], pa.array(values, rows[column].type)))
        return mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask

    def outside(self, rows: pa.Table) -> pa.Table:
        """Rows that do not belong to the narrowing."""
        return rows.filter(pc.invert(self.mask(rows)))

    def check(self, rows: pa.Table) -> None:
        """Check that all rows belong to the narrowing.

        Raises
        ------
        InputError
            If one does not.
        """
        if self.outside(rows).num_rows:
            raise InputError(
                "A narrowed write must bring only rows of its accounts and campaigns, however there are others."
            )


@dataclass(frozen=True, slots=True)
class Commit:
    """One atomic change of a table: its new version, its rows afterwards, and those of each partition replaced."""

    table: str
    version: int
    rows: int
    rows_by_date: Mapping[date, int]


class LakeStore:
    """The lake below one root folder or object-store URI.

    Parameters
    ----------
    root
        Folder or URI that holds one folder per table.
    storage_options
        Credentials and options of the object store.

    Examples
    --------
    >>> import tempfile
    >>> store = LakeStore(tempfile.mkdtemp())
    >>> rows = pa.table({"account_id": ["a"], "clicks": [3]})
    >>> store.replace("clicks", {date(2024, 1, 1): rows, date(2024, 1, 2): rows.slice(0, 0)}, run_id="r1").rows
    1
    >>> store.read("clicks", {"date": "2024-01-01"}).to_pylist()
    [{'account_id': 'a', 'clicks': 3, 'date': datetime.date(2024, 1, 1)}]
    >>> store.dates("clicks")
    (datetime.date(2024, 1, 1), datetime.date(2024, 1, 2))
    """

    def __init__(self, root: str, *, storage_options: Mapping[str, str] | None = None) -> None:
        self.root = str(root).rstrip("/")
        self.storage_options = dict(storage_options) if storage_options else None
        self.catalog = DataCatalogModel(self.root, self.storage_options)

    @property
    def images(self) -> LakeImages:
        """The image files below the root."""
        return LakeImages(self.root, self.storage_options)

    def uri(self, table: str) -> str:
        """URI of a table."""
        return f"{self.root}/{table}"

    def exists(self, table: str) -> bool:
        """Whether the table has been written."""
        return DeltaTable.is_deltatable(self.uri(table), storage_options=self.storage_options)

    def table(self, table: str, *, version: int | None = None) -> DataLakeModel:
        """Return the table for reading."""
        return self.catalog.table(table, version=version)

    def version(self, table: str) -> int | None:
        """Newest version of a table, None where there is no table."""
        return self._open(table).version() if self.exists(table) else None

    def dates(self, table: str, first: date | None = None, last: date | None = None) -> tuple[date, ...]:
        """Days whose partition is there, also those of no rows."""
        if not self.exists(table):
            return ()
        files = live_files(self._open(table))
        days = set(files["partition.date"].to_pylist()) if files.num_rows else set()
        return tuple(sorted(d for d in days if (first is None or d >= first) and (last is None or d <= last)))

    def written_at(self, table: str) -> dict[date, int]:
        """When each partition's newest file was written, in milliseconds since 1970; empty where there is no table."""
        if not self.exists(table):
            return {}
        files = live_files(self._open(table))
        if not files.num_rows:
            return {}
        newest = files.group_by("partition.date").aggregate([("modification_time", "max")])
        times = newest["modification_time_max"].cast(pa.timestamp("ms", "UTC")).cast(pa.int64())
        return dict(zip(newest["partition.date"].to_pylist(), times.to_pylist(), strict=True))

    def read(
        self,
        table: str,
        filters: Mapping[str, Filter] | None = None,
        *,
        columns: Collection[str] | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Read rows as Arrow; a table with a contract that was never written is empty.

        Raises
        ------
        LakeError
            If a table without contract does not exist.
        """
        if not self.exists(table) and table in CONTRACTS:
            empty = CONTRACTS[table].schema.empty_table()
            return empty.select(list(columns)) if columns is not None else empty
        return self.table(table, version=version).get_data(filters, columns=columns, as_arrow=True)

    def require_dates(self, table: str, expected: Iterable[date]) -> None:
        """Check that the partitions a window needs are there.

        Raises
        ------
        MissingPartitionsError
            If one of the expected days has no partition.
        """
        missing = sorted(set(expected) - set(self.dates(table)))
        if missing:
            raise MissingPartitionsError(
                f"{table} must have a partition for each expected day of the window; missing: "
                f"{shown(d.isoformat() for d in missing)}. Materialize {table} for these days first."
            )

    def create_view(
        self, con: Any, table: str, *, name: str | None = None, first: date | None = None, last: date | None = None
    ) -> str:
        """Register a DuckDB view over the live files of a table, limited to the partitions first … last.

        Returns
        -------
        str
            Name of the view.
        """
        name = name or table
        if not self.exists(table) and table in CONTRACTS:
            con.register(name, CONTRACTS[table].schema.empty_table())
            return name
        limits = {"date": slice(first, last)} if first is not None or last is not None else {}
        model = self.table(table)
        delta = model.delta()
        filters = [("date", op, str(d)) for op, d in ((">=", first), ("<=", last)) if d is not None]
        uris = delta.file_uris(file_pruning_predicate=filters or None)
        columns = [f.name for f in delta.schema().fields]
        if uris and all("://" not in u for u in uris):
            # DuckDB's own reader prunes and parallelises better than a scan through Arrow.
            listed = ", ".join("'" + u.replace("'", "''") + "'" for u in uris)
            hive = ", hive_partitioning=true, hive_types={'date': DATE}" if "date" in model.partition_keys else ""
            select = ", ".join(f'"{c}"' for c in columns)
            source = f"read_parquet([{listed}], union_by_name=true{hive})"
            con.execute(f'CREATE OR REPLACE VIEW "{name}" AS SELECT {select} FROM {source}')
        else:
            con.register(name, model.dataset(limits))
        return name

    def replace(
        self,
        table: str,
        partitions: Mapping[date, pa.Table],
        *,
        run_id: str,
        narrowing: Narrowing | None = None,
        keep: Callable[[pa.Table], pa.Table] | None = None,
    ) -> Commit:
        """Replace the partitions of these days, all in one commit.

        Parameters
        ----------
        partitions
            Day → its rows, with or without the column ``date``; a table of no rows makes an empty partition.
        run_id
            Written into the table's history.
        narrowing
            Replace only these accounts' and campaigns' rows; the partition's other rows stay.
        keep
            More general: returns the rows of a present partition that stay beside the new ones.

        Raises
        ------
        LakeError
            If the columns do not fit the table, or the commit lost against other writers again and again.
        """
        if not partitions:
            raise InputError(f"{table}: at least one partition must be given to replace, however there was none.")
        days = sorted(partitions)
        rows = {day: without_date(partitions[day], day, table) for day in days}
        schema = common_schema(table, rows.values())
        if narrowing:
            self._require_whole(table, days)
            for incoming in rows.values():
                narrowing.check(incoming)
            keep = narrowing.outside

        def prepare(delta: DeltaTable | None) -> dict[date, pa.Table]:
            if keep is None or delta is None:
                return rows
            present = self.read(table, {"date": list(days)})
            return {day: joined(keep(present.filter(pc.equal(present["date"], day))), rows[day]) for day in days}

        return self._commit(table, schema, prepare, days, run_id)

    def _require_whole(self, table: str, days: Collection[date]) -> None:
        """A narrowed write into a day that is not there would make a partition that looks whole and is not."""
        missing = sorted(set(days) - set(self.dates(table)))
        if missing:
            raise MissingPartitionsError(
                f"Replacing single accounts' or campaigns' rows needs the whole partition first, however {table} has "
                f"none for {shown(d.isoformat() for d in missing)}; make these days without narrowing."
            )

    def replace_stream(
        self,
        table: str,
        days: Iterable[tuple[date, pa.Table]],
        *,
        run_id: str,
        narrowing: Narrowing | None = None,
    ) -> Commit:
        """Replace partitions as they come, in commits of whole days of about `ROWS_PER_COMMIT` rows.

        A process that is killed has lost only the days after its last commit.
        """
        written: dict[date, int] = {}
        waiting: dict[date, pa.Table] = {}
        commit: Commit | None = None
        for day, rows in days:
            waiting[day] = rows
            if sum(t.num_rows for t in waiting.values()) >= ROWS_PER_COMMIT:
                commit = self.replace(table, waiting, run_id=run_id, narrowing=narrowing)
                written |= commit.rows_by_date
                waiting = {}
        if waiting or commit is None:
            commit = self.replace(table, waiting, run_id=run_id, narrowing=narrowing)
            written |= commit.rows_by_date
        return Commit(table, commit.version, sum(written.values()), written)

    def overwrite(self, table: str, rows: pa.Table, *, run_id: str) -> Commit:
        """Replace all rows of a table without partitions, in one commit."""
        return self.transform(table, lambda _: rows, run_id=run_id)

    def transform(
        self,
        table: str,
        change: Callable[[pa.Table | None], pa.Table],
        *,
        run_id: str,
        progress: Mapping[str, int] | None = None,
    ) -> Commit:
        """Replace all rows of a table without partitions by a function of the present ones (None at first).

        The function is called again where another writer came first, so that no one's change is lost. ``progress``
        (name → number) is stored with the commit, atomically, and can be read by `progress`.
        """

        def prepare(delta: DeltaTable | None) -> pa.Table:
            return change(delta.to_pyarrow_table(filesystem=table_filesystem(delta)) if delta is not None else None)

        return self._commit(table, None, prepare, None, run_id, progress or {})

    def progress(self, table: str, name: str) -> int:
        """How far a writer had come with its input at the table's newest version; 0 before its first write."""
        return (self._open(table).transaction_version(name) or 0) if self.exists(table) else 0

    def _open(self, table: str) -> DeltaTable:
        return DeltaTable(self.uri(table), storage_options=self.storage_options)

    def _commit(
        self,
        table: str,
        schema: pa.Schema | None,
        prepare: Callable[[Any], Any],
        days: Sequence[date] | None,
        run_id: str,
        progress: Mapping[str, int] = MappingProxyType({}),
    ) -> Commit:
        last: Exception | None = None
        for attempt in range(COMMIT_ATTEMPTS):
            delta = self._open(table) if self.exists(table) else None
            content = prepare(delta)
            if delta is None:
                whole = (
                    content.schema if schema is None else schema.append(pa.field("date", pa.date32(), nullable=False))
                )
                delta = self._create(table, whole, partitioned=days is not None)
                if delta.version() > 0:  # another writer was first; prepare again from what it wrote
                    continue
            try:
                return self._try_commit(table, delta, content, days, run_id, progress)
            except CommitFailedError as error:
                last = error
                # Losers wait a random, growing moment, so that they do not collide again in step.
                time.sleep(random.random() * min(0.02 * 2**attempt, 1.0))  # noqa: S311
        raise LakeError(
            f"{table}: a commit must follow the newest version, however {COMMIT_ATTEMPTS} attempts lost against other "
            f"writers ({last}); run it again when fewer write."
        )

    def _create(self, table: str, schema: pa.Schema, *, partitioned: bool) -> DeltaTable:
        nullable = pa.schema([f if f.name == "date" else f.with_nullable(True) for f in schema])
        try:
            return DeltaTable.create(
                self.uri(table),
                Schema.from_arrow(nullable),
                partition_by=["date"] if partitioned else None,
                mode="error",
                storage_options=self.storage_options,
            )
        except DeltaError:
            return self._open(table)

    def _try_commit(
        self,
        table: str,
        delta: DeltaTable,
        content: Any,
        days: Sequence[date] | None,
        run_id: str,
        progress: Mapping[str, int],
    ) -> Commit:
        partitioned = days is not None
        parts = content if partitioned else {None: content}
        delta = self._evolve(table, delta, next(iter(parts.values())).schema)
        stored = pa.schema(delta.schema().to_arrow())
        schema = stored.remove(stored.get_field_index("date")) if partitioned else stored
        filesystem = table_filesystem(delta)
        actions: list[AddAction | RemoveAction] = [
            write_file(filesystem, fitted(table, rows, schema), day, table) for day, rows in parts.items()
        ]
        version = delta.version() + 1  # without retries, a commit is the direct successor or none
        shown_days = f"{days[0]}…{days[-1]}" if partitioned and days else ""
        delta.create_write_transaction(
            actions,
            mode="overwrite",
            schema=Schema.from_arrow(stored),
            partition_by=["date"] if partitioned else None,
            partition_filters=[("date", "in", [d.isoformat() for d in days])] if partitioned and days else None,
            commit_properties=CommitProperties(
                custom_metadata={"run_id": run_id, "partitions": shown_days},
                max_commit_retries=0,
                app_transactions=[Transaction(app_id=name, version=n) for name, n in progress.items()],
            ),
        )
        rows_written = sum(rows.num_rows for rows in parts.values())
        logger.info("%s: %d rows in %d partitions, version %d", table, rows_written, len(parts), version)
        return Commit(table, version, rows_written, {d: r.num_rows for d, r in parts.items() if d is not None})

    def _evolve(self, table: str, delta: DeltaTable, incoming: pa.Schema) -> DeltaTable:
        """Add columns that the table does not have yet; older partitions read them as null."""
        known = {f.name for f in delta.schema().fields}
        new = [f.with_nullable(True) for f in incoming if f.name not in known]
        if not new:
            return delta
        delta.alter.add_columns(list(Schema.from_arrow(pa.schema(new)).fields))
        return self._open(table)


def days_between(first: date, last: date) -> Iterator[date]:
    """Yield each day from first to last, both included.

    >>> [d.day for d in days_between(date(2024, 2, 28), date(2024, 3, 1))]
    [28, 29, 1]
    """
    for offset in range((last - first).days + 1):
        yield first + timedelta(days=offset)
