"""What every materialization tells: rows, columns, versions, seconds, memory, and a picture where there is one."""

import base64
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pyarrow as pa

from within_ml.lake.contracts import Contract
from within_ml.lake.store import Commit

KIB_PER_MIB = 1024


@dataclass(slots=True)
class Measured:
    """Seconds of a block and the process's peak memory after it."""

    metadata: dict[str, Any] = field(default_factory=dict)


@contextmanager
def measured() -> Iterator[Measured]:
    """Measure a block; the result is complete when the block has ended."""
    result = Measured()
    start = time.perf_counter()
    yield result
    result.metadata = {
        "seconds": round(time.perf_counter() - start, 2),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB),
    }


def column_schema(contract: Contract) -> dg.TableSchema:
    """A contract as the UI shows columns: types, meanings, units, ranges."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description=f"{column.meaning} [{column.unit}]" if column.unit else column.meaning,
                constraints=dg.TableColumnConstraints(
                    nullable=column.nullable,
                    unique=contract.key == (column.name,),
                    other=[
                        *([f">= {column.minimum:g}"] if column.minimum is not None else []),
                        *([f"<= {column.maximum:g}"] if column.maximum is not None else []),
                        *(["part of the key"] if column.name in contract.key and len(contract.key) > 1 else []),
                    ],
                ),
            )
            for column in contract.columns
        ]
    )


def arrow_schema(schema: pa.Schema) -> dg.TableSchema:
    """An Arrow schema as the UI shows columns."""
    return dg.TableSchema(columns=[dg.TableColumn(name=f.name, type=str(f.type)) for f in schema])


def committed(
    context: dg.AssetExecutionContext, commit: Commit, measurement: Measured, **more: Any
) -> dg.MaterializeResult[Any]:
    """Report a commit: each partition with its own row count, all with the version and the measurement."""
    for day, rows in commit.rows_by_date.items():
        context.add_asset_metadata({"dagster/row_count": rows}, partition_key=day.isoformat())
    shared: dict[str, Any] = {"table_version": commit.version, **measurement.metadata, **more}
    if not commit.rows_by_date:
        shared["dagster/row_count"] = commit.rows
    context.log.info(f"{commit.table}: {commit.rows} rows, version {commit.version}, {measurement.metadata}")
    return dg.MaterializeResult(metadata=shared)


def counts_table(counts: Mapping[str, float], *, name: str, value: str) -> dg.MarkdownMetadataValue:
    """A small table of counts for the UI."""
    lines = [f"| {name} | {value} |", "|---|---|", *(f"| {key} | {n} |" for key, n in sorted(counts.items()))]
    return dg.MetadataValue.md("\n".join(lines))


def picture(kind: str, content: bytes) -> dg.MarkdownMetadataValue:
    """A picture for the UI, which shows it in its table up to 1,000 characters and on a click above that.

    >>> picture("svg+xml", b"<svg/>").md_str
    '![picture](data:image/svg+xml;base64,PHN2Zy8+)'
    """
    return dg.MetadataValue.md(f"![picture](data:image/{kind};base64,{base64.b64encode(content).decode()})")
