"""Reading lake tables: one table as `DataLakeModel`, all of them as `DataCatalogModel`.

Reads go through the table's log and its partition and file statistics, never through a file pattern, so that replaced
rows cannot reappear and files that cannot match are not opened. Writing lives in `store`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.fs import DeltaStorageHandler

from within_ml.errors import InputError, LakeError, shown

if TYPE_CHECKING:
    import pandas as pd

CONTROL_OR_PATH = re.compile(r"[\x00-\x1f\x7f/\\]|^\.\.?$")

Filter = object
"""A value, a collection of values, or ``slice(first, last)`` with both ends included and either one None."""


@dataclass(frozen=True, slots=True)
class DataLakeModel:
    """One table of the lake.

    Parameters
    ----------
    name
        Name for messages.
    path
        Folder or URI (``s3://…``, ``file://…``) of the table.
    format
        ``"delta"``, or ``"parquet"`` for a folder of Parquet files in ``key=value`` folders.
    partition_keys
        Columns that the table is partitioned by.
    storage_options
        Options of the object store, as `deltalake` and `fsspec` know them.
    version
        Version of a Delta table to read; the newest where None.

    Examples
    --------
    >>> import tempfile, pyarrow as pa
    >>> from deltalake import write_deltalake
    >>> rows = pa.table({"date": ["2024-01-01", "2024-01-02"], "campaign_id": ["a", "b"], "clicks": [3, 4]})
    >>> folder = tempfile.mkdtemp()
    >>> write_deltalake(folder, rows, partition_by=["date", "campaign_id"])
    >>> table = DataLakeModel("clicks", folder, partition_keys=("date", "campaign_id"))
    >>> table.get_data({"campaign_id": "b"}, columns=["clicks"], as_arrow=True).to_pylist()
    [{'clicks': 4}]
    """

    name: str
    path: str | Path
    format: Literal["delta", "parquet"] = "delta"
    partition_keys: Collection[str] = ("date",)
    storage_options: Mapping[str, str] | None = None
    version: int | None = None

    def __post_init__(self) -> None:
        if self.format not in ("delta", "parquet"):
            raise InputError(f"{self.name}: format must be 'delta' or 'parquet', however: {self.format!r}.")
        keys = [self.partition_keys] if isinstance(self.partition_keys, str) else list(self.partition_keys)
        object.__setattr__(self, "partition_keys", tuple(keys))

    @overload
    def get_data(
        self,
        filters: Mapping[str, Filter] | None = ...,
        *,
        columns: Collection[str] | None = ...,
        as_arrow: Literal[True],
    ) -> pa.Table: ...
    @overload
    def get_data(
        self,
        filters: Mapping[str, Filter] | None = ...,
        *,
        columns: Collection[str] | None = ...,
        as_arrow: Literal[False] = ...,
    ) -> pd.DataFrame: ...
    def get_data(
        self,
        filters: Mapping[str, Filter] | None = None,
        *,
        columns: Collection[str] | None = None,
        as_arrow: bool = False,
    ) -> pa.Table | pd.DataFrame:
        """Read the rows that meet all filters.

        Parameters
        ----------
        filters
            Column → value, collection of values, or ``slice(first, last)`` (both ends included). Days may be `date`
            or ISO text. Filters on partition keys decide which files are opened at all.
        columns
            Columns to read, in this order; all where None.
        as_arrow
            Return an Arrow table instead of a pandas frame.

        Raises
        ------
        LakeError
            If there is no such table.
        InputError
            If a column does not exist, or a value does not fit its column.
        """
        dataset = self.dataset(filters)
        wanted = list(columns) if columns is not None else None
        unknown = set(wanted or []) - set(dataset.schema.names)
        if unknown:
            raise InputError(
                f"{self.name} has the columns {shown(dataset.schema.names)}; there is no {shown(sorted(unknown))}."
            )
        rows = dataset.to_table(columns=wanted, filter=_expression(self.name, dataset.schema, filters or {}))
        return rows if as_arrow else rows.to_pandas()

    def dataset(self, filters: Mapping[str, Filter] | None = None) -> ds.Dataset:
        """The Arrow dataset of the partitions that can hold matching rows."""
        self._check_partition_values(filters or {})
        if self.format == "parquet":
            return self._parquet()
        table = self.delta()
        pruning = self._pruning(filters or {})
        try:
            return table.to_pyarrow_dataset(file_pruning_predicate=pruning or None, filesystem=table_filesystem(table))
        except DeltaError as error:
            raise InputError(
                f"{self.name}.{shown(k for k, *_ in pruning)} must fit its type, however: {error}."
            ) from error

    def delta(self) -> DeltaTable:
        """Open the Delta table.

        Raises
        ------
        LakeError
            If there is no Delta table, or not this version of it.
        """
        options = dict(self.storage_options) if self.storage_options else None
        if not DeltaTable.is_deltatable(str(self.path), storage_options=options):
            raise LakeError(
                f"The lake needs a table {self.name!r} at {self.path}; there is none yet: ingest or backfill it."
            )
        return DeltaTable(str(self.path), version=self.version, storage_options=options)

    def _parquet(self) -> ds.Dataset:
        path = str(self.path)
        try:
            if "://" not in path:
                return ds.dataset(path, format="parquet", partitioning="hive")
            filesystem, inner = fsspec.core.url_to_fs(path, **dict(self.storage_options or {}))
            return ds.dataset(inner, filesystem=filesystem, format="parquet", partitioning="hive")
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise LakeError(
                f"The lake needs Parquet files of {self.name!r} at {self.path}; however: {error}."
            ) from error

    def _check_partition_values(self, filters: Mapping[str, Filter]) -> None:
        for key in self.partition_keys:
            for value in _values(filters.get(key)):
                if CONTROL_OR_PATH.search(str(value)):
                    raise InputError(
                        f"{self.name}: a partition value must hold no control character, slash or backslash, "
                        f"however: {key}={str(value)!r}."
                    )

    def _pruning(self, filters: Mapping[str, Filter]) -> list[tuple[str, str, Any]]:
        """Filters on partition keys, as the table's log understands them."""
        found: list[tuple[str, str, Any]] = []
        for key in self.partition_keys:
            value = filters.get(key)
            if isinstance(value, slice):
                found += [(key, ">=", str(value.start))] if value.start is not None else []
                found += [(key, "<=", str(value.stop))] if value.stop is not None else []
            elif value is not None:
                found.append((key, "in", [str(v) for v in _values(value)]))
        return found


def _values(value: Filter) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, slice):
        return [v for v in (value.start, value.stop) if v is not None]
    return list(value) if isinstance(value, Collection) and not isinstance(value, str | bytes) else [value]


def _expression(name: str, schema: pa.Schema, filters: Mapping[str, Filter]) -> ds.Expression | None:
    conditions: list[ds.Expression] = []
    for column, value in filters.items():
        if column not in schema.names:
            raise InputError(f"{name} has the columns {shown(schema.names)}; there is no {column!r} to filter by.")
        scalars = [_scalar(name, column, v, schema.field(column).type) for v in _values(value)]
        field = ds.field(column)
        if isinstance(value, slice):
            ends = iter(scalars)
            conditions += [field >= next(ends)] if value.start is not None else []
            conditions += [field <= next(ends)] if value.stop is not None else []
        elif value is None:
            conditions.append(field.is_null())
        else:
            conditions.append(field.isin([s.as_py() for s in scalars]))
    return reduce(and_, conditions) if conditions else None


def _scalar(name: str, column: str, value: Any, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    try:
        if isinstance(value, datetime) and pa.types.is_date(kind):
            value = value.date()
        if isinstance(value, date) and pa.types.is_string(kind):
            value = value.isoformat()
        return pa.scalar(value).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InputError(f"{name}.{column} holds {kind}; the filter value {value!r} is none.") from error


@dataclass(frozen=True, slots=True)
class TableSummary:
    """What the catalog knows of a table without reading a row of it."""

    table: str
    uri: str
    version: int
    rows: int
    bytes: int
    partitions: int
    first_date: date | None
    last_date: date | None
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class DataCatalogModel:
    """All Delta tables below a root: their partitions, row counts, versions and schemas.

    Examples
    --------
    >>> DataCatalogModel("an/empty/lake").tables()
    ()
    """

    root: str | Path
    storage_options: Mapping[str, str] | None = None

    def tables(self) -> tuple[str, ...]:
        """Names of the tables, sorted."""
        filesystem, inner = fsspec.core.url_to_fs(str(self.root), **dict(self.storage_options or {}))
        if not filesystem.isdir(inner):
            return ()
        folders = [entry["name"] for entry in filesystem.ls(inner, detail=True) if entry["type"] == "directory"]
        return tuple(sorted(Path(f).name for f in folders if filesystem.isdir(f"{f}/_delta_log")))

    def table(self, name: str, *, version: int | None = None) -> DataLakeModel:
        """Return one table, at a version of it or the newest.

        Raises
        ------
        InputError
            If the name leads out of the root.
        LakeError
            If there is no such table.
        """
        if CONTROL_OR_PATH.search(name):
            raise InputError(f"A table's name must hold no control character, slash or backslash, however: {name!r}.")
        keys = ("date",) if version is None else ()
        uri = f"{str(self.root).rstrip('/')}/{name}"
        model = DataLakeModel(name, uri, "delta", keys, self.storage_options, version)
        delta = model.delta()
        return DataLakeModel(
            name, uri, "delta", tuple(delta.metadata().partition_columns), self.storage_options, version
        )

    def partitions(self, name: str) -> pa.Table:
        """Partitions of a table with rows and bytes: columns ``date`` (where partitioned so), ``rows``, ``bytes``."""
        model = self.table(name)
        actions = live_files(model.delta())
        keys = [f"partition.{k}" for k in model.partition_keys]
        sums = actions.group_by(keys).aggregate([("num_records", "sum"), ("size_bytes", "sum")])
        renamed = sums.select([*keys, "num_records_sum", "size_bytes_sum"]).rename_columns(
            [*model.partition_keys, "rows", "bytes"]
        )
        return renamed.sort_by([(k, "ascending") for k in model.partition_keys]) if keys else renamed

    def versions(self, name: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """The newest commits of a table: version, timestamp (ms), operation and the run that made it."""
        history = self.table(name).delta().history(limit)
        return [
            {
                "version": h.get("version"),
                "timestamp": h.get("timestamp"),
                "operation": h.get("operation"),
                "run_id": h.get("run_id"),
                "partitions": h.get("partitions"),
            }
            for h in history
        ]

    def summary(self, name: str) -> TableSummary:
        """Summarise a table from its log."""
        model = self.table(name)
        delta = model.delta()
        parts = self.partitions(name)
        days = parts.column("date").to_pylist() if "date" in parts.column_names and parts.num_rows else []
        return TableSummary(
            table=name,
            uri=str(model.path),
            version=delta.version(),
            rows=sum(parts.column("rows").to_pylist()),
            bytes=sum(parts.column("bytes").to_pylist()),
            partitions=parts.num_rows,
            first_date=min(days) if days else None,
            last_date=max(days) if days else None,
            schema=pa.schema(delta.schema().to_arrow()),
        )


def live_files(delta: DeltaTable) -> pa.Table:
    """Files of the table's version with ``path``, ``size_bytes``, ``num_records`` and ``partition.<key>`` columns."""
    actions = pa.table(delta.get_add_actions(flatten=True))
    return actions if actions.num_rows else actions.slice(0, 0)


def table_filesystem(delta: DeltaTable) -> pa_fs.FileSystem:
    """File system below a table's root: Arrow's own for a local table, deltalake's for an object store.

    Arrow reads ahead in threads of its own; those that are inside a file system written in Python when the process
    ends abort it, which is why local tables get the one that is not.
    """
    uri = delta.table_uri
    local = uri.removeprefix("file://")
    if "://" not in local:
        return pa_fs.SubTreeFileSystem(unquote(local), pa_fs.LocalFileSystem())
    return pa_fs.PyFileSystem(DeltaStorageHandler.from_table(delta._table))
