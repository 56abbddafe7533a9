"""From landing files to lake tables: what has landed, which days it covers, and the partitions made of it.

A landing file is registered once per content; its days then belong to it. A partition is made of all registered files
that cover its day, in the order of their registration: rows of a later file replace rows of the same key, and a file
whose content changed replaces all rows that its older content brought to the days that it still covers, so that an
export of the last days may land under one name again and again. Nothing is read from outside the landing zone.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from within_ml.errors import LakeError, SourceError, WithinError, shown
from within_ml.lake.audit import Audit, audit, check_share
from within_ml.lake.changes import changed_accounts
from within_ml.lake.contracts import CONTRACTS, Contract
from within_ml.lake.images import copy_images
from within_ml.lake.quarantine import quarantine, without_keys
from within_ml.lake.sources import (
    LandingFile,
    SourceMapping,
    SourceReader,
    inspect_file,
    landing_path,
    load_mapping,
    open_source,
    shipped_mappings,
)
from within_ml.lake.sources.files import sha256_of
from within_ml.lake.store import Commit, LakeStore
from within_ml.lake.versions import merge_rows, merge_versions

logger = logging.getLogger(__name__)

TABLE = "landing_files"
PERFORMANCE = "ad_performance"
DIMENSIONS = ("ads", "campaigns", "accounts", "regions")
MAPPING_FILE = "source.yaml"
"""A mapping of one's own stands under this name in the source's folder of the landing zone."""

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".csv.gz", ".tsv.gz")
CADENCE_DAYS = {"daily": 1, "weekly": 7}

ROWS_PER_AUDIT = 500_000
"""Whole days of a file are read and audited together up to about so many rows: more would only need more memory."""

LEDGER_VERSIONS = 1000
"""Newest versions of the ledger that are searched for the time of a registration."""

NO_DATE = date(1970, 1, 1)
"""Partition of the quarantine for rejected rows of files that have no days at all."""

SCHEMA = pa.schema(
    [
        pa.field("sequence", pa.int64()),
        pa.field("path", pa.string()),
        pa.field("source", pa.string()),
        pa.field("cadence", pa.string()),
        pa.field("content", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("rows", pa.int64()),
        pa.field("first_date", pa.date32()),
        pa.field("last_date", pa.date32()),
        pa.field("tables", pa.list_(pa.string())),
        pa.field("run_id", pa.string()),
    ]
)
"""Columns of the lake table ``landing_files``: one row per content that a landing file ever had."""


@dataclass(frozen=True, slots=True)
class LandingZone:
    """The folder where exports land: one subfolder per source, with its own mapping where it is not a shipped one.

    Examples
    --------
    >>> LandingZone(Path("data_lake/landing")).mapping("google_ads").cadence
    'daily'
    """

    root: Path

    def mapping(self, source: str) -> SourceMapping:
        """The mapping of a source: its own in the landing zone, else the shipped one."""
        own = self.root / source / MAPPING_FILE
        return load_mapping(own if own.exists() else source)

    def discover(self) -> list[tuple[Path, str]]:
        """Files in the folders of sources that have a mapping, with the source's name."""
        shipped = set(shipped_mappings())
        folders = sorted(f for f in self.root.iterdir() if f.is_dir()) if self.root.is_dir() else []
        known = [f for f in folders if f.name in shipped or (f / MAPPING_FILE).exists()]
        return [(p, f.name) for f in known for p in sorted(f.rglob("*")) if p.name.lower().endswith(SUFFIXES)]

    def relative(self, path: Path) -> str:
        """The path as the ledger has it, below the root."""
        return path.resolve().relative_to(self.root.resolve()).as_posix()


def chosen_mapping(zone: LandingZone, source: str) -> SourceMapping:
    """Return a mapping by its name, or read one from a YAML file.

    Raises
    ------
    SourceError
        If there is no such mapping, or it is not valid.
    """
    return load_mapping(Path(source)) if _is_yaml(source) else zone.mapping(source)


def adopt_mapping(zone: LandingZone, source: str, mapping: SourceMapping) -> None:
    """Keep a mapping that came as a YAML file in the landing zone; one that came by its name is there already.

    To be called when the files are known to fit: another mapping than before makes the source's files new.
    """
    if not _is_yaml(source):
        return
    own = zone.root / mapping.name / MAPPING_FILE
    text = Path(source).read_text(encoding="utf-8")
    if not own.exists() or own.read_text(encoding="utf-8") != text:
        own.parent.mkdir(parents=True, exist_ok=True)
        temporary = own.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(own)


def _is_yaml(source: str) -> bool:
    return Path(source).suffix.lower() in (".yaml", ".yml")


def exports(zone: LandingZone, path: Path, *, outside: bool = False) -> list[Path]:
    """Return the files that a path means, one or all of a folder; in the landing zone unless they may be outside.

    Raises
    ------
    SourceError
        If a file does not exist, is outside the landing zone and may not be, or the folder holds no export.
    """
    if not path.exists():
        raise SourceError(f"An export to ingest must exist, however there is no {path}; check the path.")
    found = sorted(p for p in path.rglob("*") if p.name.lower().endswith(SUFFIXES)) if path.is_dir() else [path]
    if not found:
        raise SourceError(f"A folder to ingest must hold files that end in {', '.join(SUFFIXES)}; {path} holds none.")
    return found if outside else [landing_path(zone.root, file) for file in found]


def copy_in(zone: LandingZone, files: Iterable[Path], mapping: SourceMapping) -> list[Path]:
    """Copy files into the source's folder of the landing zone and return the copies."""
    folder = zone.root / mapping.name
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for file in files:
        # Copied under another name first: a sensor that looks meanwhile must not see half a file.
        temporary = folder / f".{file.name}.part"
        shutil.copyfile(file, temporary)
        temporary.replace(folder / file.name)
        copies.append(landing_path(zone.root, folder / file.name))
    return copies


@dataclass(frozen=True, slots=True)
class Registered:
    """One row of the ledger: a content of a landing file and the days it covers (None for files without days)."""

    sequence: int
    path: str
    source: str
    cadence: str
    content: str
    rows: int
    first_date: date | None
    last_date: date | None
    tables: tuple[str, ...]

    def covers(self, day: date) -> bool:
        """Whether the file tells what happened on this day, also that nothing did.

        The cadence does not count here: a holiday may move a week's rows to another day, and they are no less there.
        """
        return self.first_date is not None and self.last_date is not None and self.first_date <= day <= self.last_date

    def awaits(self, day: date) -> bool:
        """Whether, going on with its cadence, the source should have brought a file for this day."""
        if self.first_date is None or self.last_date is None or day <= self.last_date:
            return False
        return (day - self.first_date).days % CADENCE_DAYS[self.cadence] == 0


@dataclass(frozen=True, slots=True)
class Registration:
    """What a look at the landing zone brought: new contents, and files that were refused with the sentence why."""

    new: tuple[Registered, ...]
    refused: Mapping[str, str]

    @property
    def days(self) -> tuple[date, ...]:
        """Days whose partitions the new files change."""
        found: set[date] = set()
        for file in self.new:
            if file.first_date is not None and file.last_date is not None and PERFORMANCE in file.tables:
                span = (file.last_date - file.first_date).days + 1
                found |= {file.first_date + timedelta(days=n) for n in range(span)}
        return tuple(sorted(found))


def register(
    store: LakeStore, zone: LandingZone, files: Iterable[tuple[Path, str]] | None = None, *, run_id: str
) -> Registration:
    """Enter new contents of landing files into the ledger; a known content is passed over.

    Parameters
    ----------
    files
        Paths with the name of their source; everything in the landing zone where None.

    Returns
    -------
    Registration
        What is new, and the files that could not be used; nothing of those is registered.
    """
    known = {(r.path, r.content) for r in current_files(store)}
    new: list[LandingFile] = []
    refused: dict[str, str] = {}
    for path, source in zone.discover() if files is None else files:
        try:
            mapping = zone.mapping(source)
            relative = zone.relative(landing_path(zone.root, path))
            if (relative, _content(path, mapping)) not in known:
                new.append(replace(inspect_file(mapping, path), path=relative))
        except WithinError as error:
            refused[str(path)] = str(error)
    if not new:
        return Registration((), refused)
    contents = {file.path: _content(zone.root / file.path, zone.mapping(file.source)) for file in new}
    store.transform(TABLE, lambda old: _entered(old, new, contents, zone, run_id), run_id=run_id)
    added = {(file.path, contents[file.path]) for file in new}
    return Registration(tuple(r for r in current_files(store) if (r.path, r.content) in added), refused)


def ledger(store: LakeStore) -> list[Registered]:
    """All contents that landing files ever had, in the order of their registration."""
    if not store.exists(TABLE):
        return []
    rows = store.read(TABLE).drop_columns(["bytes", "run_id"]).sort_by("sequence").to_pylist()
    return [Registered(**row | {"tables": tuple(row["tables"])}) for row in rows]


def current_files(store: LakeStore) -> list[Registered]:
    """The newest content of each landing file, in the order of registration."""
    newest = {r.path: r for r in ledger(store)}
    return sorted(newest.values(), key=lambda r: r.sequence)


def expected_days(store: LakeStore, first: date, last: date) -> list[date]:
    """Days of the calendar of ad_performance: those that a source covers, or skipped between two of its files."""
    sources: dict[str, list[Registered]] = {}
    for file in current_files(store):
        if PERFORMANCE in file.tables and file.first_date is not None:
            sources.setdefault(file.source, []).append(file)
    found: set[date] = set()
    for files in sources.values():
        begin = min(f.first_date for f in files if f.first_date is not None)
        end = max(f.last_date for f in files if f.last_date is not None)
        step = CADENCE_DAYS[files[0].cadence]
        skipped = -(-max((first - begin).days, 0) // step) * step
        day = begin + timedelta(days=skipped)
        while day <= min(end, last):
            found.add(day)
            day += timedelta(days=step)
    return sorted(found)


def unfinished_files(store: LakeStore) -> list[Registered]:
    """Files of which an expected day has no partition, or one that was written before the file was registered.

    A run that is killed between registering a file and making its days leaves such a file. When it was registered is
    read from the history of the ledger's table; a file older than that history counts as finished.
    """
    newest_last = reversed(store.catalog.versions(TABLE, limit=LEDGER_VERSIONS))
    registered = {v["run_id"]: v["timestamp"] for v in newest_last}
    runs = dict(store.read(TABLE, columns=["sequence", "run_id"]).to_pandas().itertuples(index=False, name=None))
    written = store.written_at(PERFORMANCE)
    found = []
    for file in current_files(store):
        if file.first_date is None or file.last_date is None or PERFORMANCE not in file.tables:
            continue
        since = registered.get(runs[file.sequence], 0)
        days = expected_days(store, file.first_date, file.last_date)
        if any(written.get(day, -1) < since for day in days if file.covers(day)):
            found.append(file)
    return found


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of one table: the commit, rows in quarantine and counts per reason.

    ``changed`` has the accounts whose rows differ from before, for each day that was there; a new day is not in it.
    """

    commit: Commit
    rejected: int
    reasons: Mapping[str, int]
    files: tuple[str, ...]
    changed: Mapping[date, tuple[str, ...]] = field(default_factory=dict)


def ingest_days(store: LakeStore, zone: LandingZone, days: Sequence[date], *, run_id: str) -> Ingested:
    """Make the partitions of ad_performance for these days, audited before they are committed, in one commit.

    Raises
    ------
    LakeError
        If a source should have brought a file for a day and none did.
    ContractError
        If more rows of a day break the contract than may be; nothing is committed then.
    """
    files = [f for f in current_files(store) if PERFORMANCE in f.tables]
    _require_files(files, days)
    wanted = sorted(set(days))
    covering = [f for f in files if any(f.covers(d) for d in wanted)]
    contract = CONTRACTS[PERFORMANCE]
    partitions = {day: contract.schema.empty_table() for day in wanted}
    found: list[tuple[Registered, Audit]] = []
    for file in covering:
        for result in _audited(zone, file, wanted):
            _add_newer(partitions, result.accepted, contract.key)
            # Of the accepted rows only their days are needed any more; the rows themselves are in the partitions.
            found.append((file, replace(result, accepted=result.accepted.select(["date"]))))
    audits = [result for _, result in found]
    _check_days(audits, contract)
    count = _quarantined(store, PERFORMANCE, [_rejected(result, file) for file, result in found], days, run_id)
    known = set(store.dates(PERFORMANCE, wanted[0], wanted[-1])).intersection(wanted)
    changed = {d: tuple(sorted(pc.unique(partitions[d]["account_id"]).to_pylist())) for d in known}

    def others(present: pa.Table) -> pa.Table:
        """Rows of files that do not cover the day any more stay, unless a covering file tells the same key."""
        if not present.num_rows:
            return present
        day = present["date"][0].as_py()
        owned = pa.array([f.path for f in covering if f.covers(day)], pa.string())
        kept = present.filter(pc.invert(pc.fill_null(pc.is_in(present["source_file"], owned), False)))
        kept = without_keys(kept, partitions[day], contract.key)
        after = pa.concat_tables([kept, partitions[day]], promote_options="permissive")
        changed[day] = changed_accounts(present, after, contract)
        return kept

    commit = store.replace(PERFORMANCE, partitions, run_id=run_id, keep=others)
    return Ingested(commit, count, _summed(audits), tuple(f.path for f in covering), changed)


def _audited(zone: LandingZone, file: Registered, days: Sequence[date]) -> Iterator[Audit]:
    """Read a file's rows of these days and audit them, some whole days at a time; the file is opened once.

    A key holds its day, so that rows that repeat it are always in one audit.
    """
    if file.first_date is None or file.last_date is None:
        return
    begin, end = max(min(days), file.first_date), min(max(days), file.last_date)
    rows_per_day = max(1, file.rows // ((file.last_date - file.first_date).days + 1))
    step = max(1, ROWS_PER_AUDIT // rows_per_day)
    with _opened(zone, file) as source:
        for offset in range(0, (end - begin).days + 1, step):
            first = begin + timedelta(days=offset)
            last = min(first + timedelta(days=step - 1), end)
            yield audit(source.read(PERFORMANCE, dates=(first, last)), CONTRACTS[PERFORMANCE])


def _add_newer(partitions: dict[date, pa.Table], rows: pa.Table, key: tuple[str, ...]) -> None:
    """Add rows to the partitions of their days, in place of those that earlier files brought of the same key."""
    for day in set(pc.unique(rows["date"]).to_pylist()) & partitions.keys():
        newer = rows.filter(pc.equal(rows["date"], day))
        partitions[day] = pa.concat_tables([without_keys(partitions[day], newer, key), newer])


def ingest_dimension(store: LakeStore, zone: LandingZone, table: str, *, run_id: str) -> Ingested | None:
    """Merge the files that landed since the last time into a table without partitions; None when nothing landed.

    With ``ads`` come the images that lie beside their files, also those that landed later than the files.

    Raises
    ------
    ContractError
        If more rows of a file break the contract than may be; nothing is committed then.
    """
    contract = CONTRACTS[table]
    done = store.progress(table, TABLE)
    files = [f for f in current_files(store) if table in f.tables]
    if table == "ads":
        copy_images(store.images, zone.root, [((zone.root / f.path).parent, f.source) for f in files])
    waiting = [f for f in files if f.sequence > done]
    if not waiting:
        return None
    audits = [audit(_read(zone, file, table), contract) for file in waiting]
    for result in audits:
        check_share(result, contract)
    count = 0
    for result, file in zip(audits, waiting, strict=True):
        rejected = {file.first_date or NO_DATE: _rejected(result, file).drop_columns(["date"])}
        count += quarantine(store, table, rejected, files=(file.path,), run_id=run_id)

    def merged(present: pa.Table | None) -> pa.Table:
        for rows in (result.accepted for result in audits):
            present = merge_versions(present, rows) if table == "ads" else merge_rows(present, rows, contract)
        return present if present is not None else contract.schema.empty_table()

    commit = store.transform(table, merged, run_id=run_id, progress={TABLE: waiting[-1].sequence})
    return Ingested(commit, count, _summed(audits), tuple(f.path for f in waiting))


def _require_files(files: Sequence[Registered], days: Sequence[date]) -> None:
    """Check that no day is empty only because its file has not come."""
    missing = [d for d in days if not any(f.covers(d) for f in files) and any(f.awaits(d) for f in files)]
    if missing:
        raise LakeError(
            f"{PERFORMANCE} needs a landing file for each day of its sources' calendars; none covers "
            f"{shown(d.isoformat() for d in missing)}. Put the export into the landing zone and ingest it."
        )


@contextmanager
def _opened(zone: LandingZone, file: Registered) -> Iterator[SourceReader]:
    """Open a registered file, as long as it is the one that was registered."""
    path = zone.root / file.path
    mapping = zone.mapping(file.source)
    if not path.exists():
        raise SourceError(
            f"The landing file {file.path} was registered and must stay, however it is gone; put it back."
        )
    if _content(path, mapping) != file.content:
        raise SourceError(
            f"The landing file {file.path} or its mapping changed after it was registered; ingest it again first."
        )
    with open_source(mapping, path, label=file.path) as source:
        yield source


def _read(zone: LandingZone, file: Registered, table: str) -> pa.Table:
    with _opened(zone, file) as source:
        return source.read(table)


def _content(path: Path, mapping: SourceMapping) -> str:
    """What makes a file new: its bytes, and the mapping by which they are read."""
    how = hashlib.sha256(repr(replace(mapping, origin="")).encode()).hexdigest()
    return f"{sha256_of(path)[:32]}-{how[:16]}"


def _check_days(audits: Sequence[Audit], contract: Contract) -> None:
    """Block a day of which too many rows are rejected; rows without a readable day count with the whole."""
    accepted = pa.concat_tables([a.accepted.select(["date"]) for a in audits]) if audits else None
    if accepted is None:
        return
    rejected = pa.concat_tables([a.rejected for a in audits])
    for day in pc.unique(rejected["date"]).to_pylist():
        same = pc.is_null(rejected["date"]) if day is None else pc.equal(rejected["date"], day)
        good = accepted if day is None else accepted.filter(pc.equal(accepted["date"], day))
        bad = rejected.filter(same)
        codes = Counter(code for text in bad["reasons"].to_pylist() for code in text.split(","))
        check_share(Audit(good, bad, dict(codes.most_common())), contract, what=f"{contract.table} of {day}")


def _rejected(result: Audit, file: Registered) -> pa.Table:
    """Rejected rows with their file; a row without a readable day stands under the file's first day."""
    dates = pc.fill_null(result.rejected["date"], file.first_date or NO_DATE)
    files = pa.repeat(pa.scalar(file.path), result.rejected.num_rows)
    return pa.table(
        {"date": dates, "source_file": files, "reasons": result.rejected["reasons"], "row": result.rejected["row"]}
    )


def _quarantined(store: LakeStore, table: str, rejected: Sequence[pa.Table], days: Sequence[date], run_id: str) -> int:
    if not rejected:
        return quarantine(store, table, {}, files=None, run_id=run_id)
    rows = pa.concat_tables(rejected)
    by_day = {day: rows.filter(pc.equal(rows["date"], day)).drop_columns(["date"]) for day in days}
    return quarantine(store, table, by_day, files=None, run_id=run_id)


def _summed(audits: Iterable[Audit]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for result in audits:
        total.update(result.reasons)
    return dict(total.most_common())


def _entered(
    old: pa.Table | None, new: Sequence[LandingFile], contents: Mapping[str, str], zone: LandingZone, run_id: str
) -> pa.Table:
    present = old if old is not None else SCHEMA.empty_table()
    known = dict(zip(present["path"].to_pylist(), present["content"].to_pylist(), strict=True))
    start = (pc.max(present["sequence"]).as_py() or 0) + 1
    fresh = [f for f in new if known.get(f.path) != contents[f.path]]
    rows = [
        {
            "sequence": start + n,
            "path": f.path,
            "source": f.source,
            "cadence": zone.mapping(f.source).cadence,
            "content": contents[f.path],
            "bytes": f.size,
            "rows": sum(f.rows.values()),
            "first_date": f.first_date,
            "last_date": f.last_date,
            "tables": list(f.tables),
            "run_id": run_id,
        }
        for n, f in enumerate(fresh)
    ]
    return pa.concat_tables([present.cast(SCHEMA), pa.Table.from_pylist(rows, schema=SCHEMA)])
