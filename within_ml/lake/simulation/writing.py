"""Writing the simulated agency: a landing folder like a real export, and the truth in a folder of its own.

Files appear whole: each is written beside its place and moved there.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from within_ml.errors import InputError
from within_ml.lake.simulation.agency import Agency
from within_ml.lake.simulation.creatives import draw_images
from within_ml.lake.simulation.process import DELAY
from within_ml.lake.simulation.tables import image_ids, image_path

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

FINGERPRINT = b"within.simulation"
"""Key in a file's Parquet metadata under which the configuration's fingerprint stands."""

ROW_GROUP_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: files in order, and rows of ``ad_performance`` or of true rates."""

    files: tuple[Path, ...]
    rows: int


def write_landing(
    agency: Agency,
    landing_folder: Path | str,
    *,
    days_per_file: int = 30,
    first: date | None = None,
    last: date | None = None,
    as_of: date | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write the agency as Parquet files in the contracts' shape, and its images.

    The folder gets ``regions.parquet``, ``accounts.parquet``, ``campaigns.parquet``, ``ads.parquet``,
    ``images/img-….png`` (``ads.image_path`` is relative to this folder) and
    ``ad_performance_<first>_<last>.parquet``. A file of the same days is replaced, so writing days again with a later
    ``as_of`` restates them.

    Parameters
    ----------
    agency : Agency
        What to write.
    landing_folder : path
        Folder of this source; made where it is missing.
    days_per_file : int
        Days per performance file, at least 1; files begin at ``first``.
    first, last, as_of : date, optional
        As in `Agency.performance`; with ``as_of`` the other tables too are as known on that day.
    progress : callable, optional
        Called as each day is drawn with the days drawn so far and the days in all.

    Raises
    ------
    InputError
        If the folder holds another simulation, or a day or number is out of range.
    """
    if days_per_file < 1:
        raise InputError(f"days_per_file must be at least 1; it is {days_per_file!r}.")
    folder = Path(landing_folder)
    _refuse_foreign(agency, folder)
    start = first or agency.config.start_date
    stop = min(day for day in (last, as_of, agency.config.last_date) if day is not None)
    days = agency.performance(first=start, last=stop, as_of=as_of)
    folder.mkdir(parents=True, exist_ok=True)
    files = [_write_one(agency, folder / f"{name}.parquet", t) for name, t in agency.dimensions(as_of=as_of).items()]
    files += _write_images(agency, folder)
    series = _Series(folder, "ad_performance", start, stop, days_per_file)
    performance = _write_series(agency, days, series, progress)
    logger.info("wrote %d rows of ad_performance, %s to %s, to %s", performance.rows, start, stop, folder)
    return Written((*files, *performance.files), performance.rows)


def write_truth(
    agency: Agency, folder: Path | str, *, days_per_file: int = 30, progress: Progress | None = None
) -> Written:
    """Write what is true of the agency; the folder must not be part of a lake or landing zone.

    The folder gets ``true_ctr/true_ctr_<first>_<last>.parquet``, ``anomalies.parquet``, ``churn.parquet``,
    ``effects.parquet`` and ``truth.json`` (configuration, drift date, delay of conversions); with
    ``churn_model="hazard"`` also ``hazards.parquet``, with bursts ``bursts.parquet``.

    Raises
    ------
    InputError
        If the folder holds another simulation's truth or ``days_per_file`` is below 1.
    """
    if days_per_file < 1:
        raise InputError(f"days_per_file must be at least 1; it is {days_per_file!r}.")
    folder = Path(folder)
    _refuse_foreign(agency, folder)
    (folder / "true_ctr").mkdir(parents=True, exist_ok=True)
    tables = {"anomalies": agency.anomalies, "churn": agency.churn, "effects": agency.effects}
    if agency.config.churn_model == "hazard":
        tables["hazards"] = agency.hazards
    if agency.config.bursts:
        tables["bursts"] = agency.bursts
    files = [_write_one(agency, folder / f"{name}.parquet", table) for name, table in tables.items()]
    files.append(_write_summary(agency, folder / "truth.json"))
    config = agency.config
    series = _Series(folder / "true_ctr", "true_ctr", config.start_date, config.last_date, days_per_file)
    rates = _write_series(agency, agency.true_ctr(), series, progress)
    return Written((*files, *rates.files), rates.rows)


def _refuse_foreign(agency: Agency, folder: Path) -> None:
    for path in sorted(folder.glob("*.parquet")):
        found = (pq.read_schema(path).metadata or {}).get(FINGERPRINT)
        if found != agency.config.fingerprint().encode():
            raise InputError(
                f"The folder must be empty or hold this same simulation; {path} is of another one. "
                "Choose another folder or delete the old simulation first."
            )


def _stamped(agency: Agency, schema: pa.Schema) -> pa.Schema:
    return schema.with_metadata({FINGERPRINT: agency.config.fingerprint().encode()})


def _write_one(agency: Agency, path: Path, table: pa.Table) -> Path:
    draft = path.with_name(path.name + ".part")
    pq.write_table(table.cast(_stamped(agency, table.schema)), draft)
    os.replace(draft, path)
    return path


def _write_summary(agency: Agency, path: Path) -> Path:
    summary = {
        "config": json.loads(agency.config.as_json()),
        "fingerprint": agency.config.fingerprint(),
        "first_date": str(agency.config.start_date),
        "last_date": str(agency.config.last_date),
        "drift_date": str(agency.drift_date) if agency.config.drift_size else None,
        "seed": agency.config.seed,
        "conversion_delay": list(DELAY),
        "anomalies": agency.anomalies.num_rows,
    }
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(draft, path)
    return path


def _write_images(agency: Agency, folder: Path) -> list[Path]:
    """Write the images that ads show."""
    (folder / "images").mkdir(exist_ok=True)
    shown = set(agency.ads.column("image_path").unique().to_pylist())
    world = agency.process.world
    written = []
    for image_id, picture in zip(image_ids(world), draw_images(world.creatives, agency.config.seed), strict=True):
        if image_path(image_id) in shown:
            written.append(folder / image_path(image_id))
            picture.save(written[-1], format="PNG")
    return written


@dataclass(frozen=True, slots=True)
class _Series:
    """Files of a few days each, named by stem, first and last day."""

    folder: Path
    stem: str
    first: date
    last: date
    days_per_file: int

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1

    def files(self) -> Iterator[tuple[Path, int]]:
        """Yield each file's path and its number of days."""
        for skipped in range(0, self.days, self.days_per_file):
            begin = self.first + timedelta(days=skipped)
            end = min(begin + timedelta(days=self.days_per_file - 1), self.last)
            yield self.folder / f"{self.stem}_{begin}_{end}.parquet", (end - begin).days + 1


def _write_series(agency: Agency, days: Iterator[pa.Table], series: _Series, progress: Progress | None) -> Written:
    reported = _reporting(days, series.days, progress)
    written = [(path, _write_file(agency, islice(reported, length), path)) for path, length in series.files()]
    return Written(tuple(path for path, _ in written), sum(rows for _, rows in written))


def _reporting(days: Iterator[pa.Table], total: int, progress: Progress | None) -> Iterator[pa.Table]:
    for done, table in enumerate(days, start=1):
        if progress is not None:
            progress(done, total)
        yield table


def _write_file(agency: Agency, days: Iterator[pa.Table], path: Path) -> int:
    """Write day tables into one file, a row group per `ROW_GROUP_ROWS` rows or more; return the rows."""
    draft = path.with_name(path.name + ".part")
    first = next(days)
    rows = 0
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(draft, _stamped(agency, first.schema)) as writer:
        for table in chain([first], days):
            waiting.append(table)
            rows += table.num_rows
            if sum(t.num_rows for t in waiting) >= ROW_GROUP_ROWS:
                _flush(writer, waiting)
        _flush(writer, waiting)
    os.replace(draft, path)
    return rows


def _flush(writer: pq.ParquetWriter, waiting: list[pa.Table]) -> None:
    if waiting:
        table = pa.concat_tables(waiting).cast(writer.schema)
        writer.write_table(table, row_group_size=max(table.num_rows, 1))
        waiting.clear()
