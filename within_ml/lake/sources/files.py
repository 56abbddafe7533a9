"""Opening a landing file: where it lies, its encoding, its header, and a DuckDB connection that sees nothing else.

A CSV is read as text only, so that nothing is guessed, and turned into a scratch Parquet file once: every later read is
cheap and memory stays flat. What the columns mean is the business of `mapping` and `reading`.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from within_ml.errors import SourceError, shown
from within_ml.lake.sources.expressions import literal, macros, quoted
from within_ml.lake.sources.mapping import ReadOptions, SourceMapping

MEMORY_LIMIT = "2GB"
_HEADER_LINES = 60
_DELIMITERS = (",", ";", "\t", "|")
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_MAGIC = (
    (b"PAR1", "a Parquet file"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"%PDF", "a PDF"),
)
_CHUNK = 1 << 20
_ROWS = 50_000
_NULL = pa.scalar(None, pa.string())


def landing_path(landing_root: str | Path, path: str | Path) -> Path:
    """Return the resolved path of a landing file.

    Raises
    ------
    SourceError
        If it is no file, lies outside the landing folder once links are followed, or its name has control characters.

    Examples
    --------
    >>> landing_path("data_lake/landing", "/etc/passwd")
    Traceback (most recent call last):
    ...
    within_ml.errors.SourceError: A landing file must lie below ...
    """
    root, resolved = Path(landing_root).resolve(), Path(path).resolve()
    if not resolved.is_relative_to(root) or resolved == root:
        raise SourceError(
            f"A landing file must lie below {str(root)!r}; {str(path)!r} leads to {str(resolved)!r}. "
            "Copy it there or use `within ingest --copy`."
        )
    if any(unicodedata.category(c) == "Cc" for c in str(resolved)):
        raise SourceError(
            f"The name of a landing file must be free of control characters; {str(path)!r} came. Rename it."
        )
    if not resolved.is_file():
        raise SourceError(f"A landing file is required; there is no file {str(path)!r}. Check the path.")
    return resolved


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal text."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def connected(mapping: SourceMapping, path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection with the view ``file`` over one landing file and the helper macros.

    The connection can read this file and nothing else: no other file, no network, no settings.

    Raises
    ------
    SourceError
        If the file is empty, truncated, in another encoding, or not in the mapping's format.
    """
    _check_bytes(mapping, path)
    with TemporaryDirectory(prefix="within-source-") as scratch, duckdb.connect() as con:
        con.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        con.execute(f"SET temp_directory = {literal(str(Path(scratch) / 'spill'))}")
        parquet = path if mapping.format == "parquet" else _as_parquet(mapping, path, Path(scratch))
        con.execute(f"SET allowed_paths = [{literal(str(parquet))}]")
        con.execute("SET enable_external_access = false")
        for statement in macros(decimal=mapping.options.decimal, null_values=mapping.options.null_values):
            con.execute(statement)
        con.execute("SET lock_configuration = true")
        _create_view(con, mapping, path, parquet)
        yield con


def _check_bytes(mapping: SourceMapping, path: Path) -> None:
    if not path.is_file():
        raise SourceError(
            f"{mapping.name}: a landing file is required; there is no file {str(path)!r}. Check the path."
        )
    with path.open("rb") as stream:
        head = stream.read(8)
    if not head:
        raise SourceError(f"{path.name}: a {mapping.format} file with rows is required; it is empty. Export it again.")
    looks = next((name for magic, name in _MAGIC if head.startswith(magic)), None)
    if mapping.format == "csv" and looks:
        raise SourceError(
            f"{path.name}: the mapping {mapping.name} reads csv; the file is {looks}. "
            "Export it as CSV, or use another mapping."
        )
    if mapping.format == "parquet" and looks != "a Parquet file":
        raise SourceError(
            f"{path.name}: the mapping {mapping.name} reads parquet; the file is not Parquet. "
            "Export it again or use another mapping."
        )


def _create_view(con: duckdb.DuckDBPyConnection, mapping: SourceMapping, path: Path, parquet: Path) -> None:
    try:
        con.execute(f"CREATE VIEW raw AS SELECT * FROM read_parquet({literal(str(parquet))}, file_row_number = true)")
    except duckdb.Error as error:
        raise SourceError(
            f"{path.name}: a complete Parquet file is required; it cannot be read ({first_line(error)}), so it is "
            "probably truncated. Copy or export it again."
        ) from error
    names = [row[0] for row in con.execute("DESCRIBE raw").fetchall() if row[0] != "file_row_number"]
    columns = [
        f"{quoted(old)} AS {quoted(new)}" for old, new in zip(names, _renamed(names, mapping.options), strict=True)
    ]
    lowered = {name.lower() for name in names}
    extras = {"file_name": path.name, "file_folder": path.parent.name}
    columns += [f"{literal(value)} AS {name}" for name, value in extras.items() if name not in lowered]
    columns += ["file_row_number AS file_row"] if "file_row" not in lowered else []
    con.execute(f"CREATE VIEW file AS SELECT {', '.join(columns)} FROM raw")


def _as_parquet(mapping: SourceMapping, path: Path, scratch: Path) -> Path:
    """Write the CSV's cells as text columns; Python's reader is strict about quotes and knows the line of a fault."""
    options = mapping.options
    text = _utf8(path, options, scratch)
    delimiter, skip, names = _layout(mapping, text, path.name)
    schema = pa.schema([(name, pa.string()) for name in names])
    target = scratch / "file.parquet"
    with text.open(encoding="utf-8", newline="") as stream, pq.ParquetWriter(target, schema) as writer:
        for _ in range(skip):
            stream.readline()
        reader = csv.reader(stream, delimiter=delimiter, quotechar=options.quote, strict=True)
        lines = _lines(reader, len(names), delimiter, path.name, skip)
        while rows := list(islice(lines, _ROWS)):
            columns = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
            # An empty cell is no value.
            writer.write_table(pa.table([pc.replace_with_mask(c, pc.equal(c, ""), _NULL) for c in columns], schema))
    return target


def _lines(reader: Any, width: int, delimiter: str, name: str, skip: int) -> Iterator[list[str]]:
    """Yield the rows, short ones filled; blank lines are left out."""
    try:
        for row in reader:
            if len(row) > width and any(row[width:]):
                raise SourceError(
                    f"{name}: lines with {width} fields between {delimiter!r} are required; line "
                    f"{skip + reader.line_num} has {len(row)}: {shown([delimiter.join(row)[:200]])}. Put texts that "
                    "contain the delimiter in quotes, or give the options delimiter and quote in the mapping."
                )
            if row:
                yield row if len(row) == width else row[:width] + [""] * (width - len(row))
    except csv.Error as error:
        raise SourceError(
            f"{name}: closed quotes are required; up to line {skip + reader.line_num}: {error}. The file is probably "
            "truncated or uses another quoting character (options: quote); export it again or correct it."
        ) from error


def _utf8(path: Path, options: ReadOptions, scratch: Path) -> Path:
    """Return the path of the text in UTF-8 without a byte order mark: the file itself where it is that already."""
    with path.open("rb") as stream:
        head = stream.read(4)
    found = next((codec for bom, codec in _BOMS if head.startswith(bom)), "utf-8")
    encoding = found if options.encoding == "auto" or found == "utf-8-sig" else options.encoding
    packed = head.startswith(b"\x1f\x8b")
    target = scratch / "file.csv"
    try:
        with _opened(path, packed, encoding) as source, target.open("w", encoding="utf-8", newline="") as copy:
            plain = encoding == "utf-8" and not packed
            while chunk := source.read(_CHUNK):
                if not plain:
                    copy.write(chunk)
    except (UnicodeError, EOFError, gzip.BadGzipFile) as error:
        raise SourceError(
            f"{path.name}: text in {encoding} is required; it cannot be read ({error}). "
            "Give options: encoding in the mapping (such as cp1252 or utf-16), or export the file as UTF-8."
        ) from error
    return path if plain else target


def _opened(path: Path, packed: bool, encoding: str) -> IO[str]:
    if packed:
        return gzip.open(path, "rt", encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")


def _layout(mapping: SourceMapping, text: Path, name: str) -> tuple[str, int, list[str]]:
    """Return the delimiter, the number of lines to skip and the column names."""
    options = mapping.options
    with text.open(encoding="utf-8", newline="") as stream:
        lines = [line.rstrip("\r\n") for line in islice(stream, max(_HEADER_LINES, (options.skip or 0) + 1))]
    delimiters = _DELIMITERS if options.delimiter == "auto" else (options.delimiter,)
    if options.header:
        skip = options.skip or 0
        fields = {d: len(_cells(lines[skip], d, options)) if len(lines) > skip else 0 for d in delimiters}
        return min(delimiters, key=lambda d: abs(fields[d] - len(options.header))), skip, list(options.header)
    wanted = {column.casefold() for column in mapping.file_columns}
    rows = range(len(lines)) if options.skip is None else range(options.skip, min(options.skip + 1, len(lines)))
    best, header = (0, 0, ","), [""]
    for number in rows:
        for delimiter in delimiters:
            cells = _renamed(_cells(lines[number], delimiter, options), options)
            hits = len(wanted & {cell.casefold() for cell in cells})
            if hits > best[0]:
                best, header = (hits, number, delimiter), cells
    if best[0] == 0:
        raise SourceError(
            f"{name}: a header line with the columns of the mapping {mapping.name} is required "
            f"({shown(mapping.file_columns)}); none of the first lines names any of them, the first is "
            f"{lines[0][:200]!r}. Use the mapping of this export, or adapt the mapping's column names and delimiter."
        )
    return best[2], best[1] + 1, _unique(header)


def _cells(line: str, delimiter: str, options: ReadOptions) -> list[str]:
    cells = next(csv.reader([line], delimiter=delimiter, quotechar=options.quote), [])
    return [cell.strip(" \t\u00a0\ufeff") for cell in cells]


def _renamed(names: Iterable[str], options: ReadOptions) -> list[str]:
    def new(name: str) -> str:
        return next((to for pattern, to in options.rename if re.fullmatch(pattern, name)), name)

    return [new(name) for name in names]


def _unique(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    unique = []
    for position, name in enumerate(names, start=1):
        base = name or f"column_{position}"
        seen[base.casefold()] = seen.get(base.casefold(), 0) + 1
        unique.append(base if seen[base.casefold()] == 1 else f"{base}_{seen[base.casefold()]}")
    return unique


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, for ours."""
    return str(error).split("\n", 1)[0].strip()[:300]
