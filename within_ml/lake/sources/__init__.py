"""Sources: real exports become lake tables through YAML mappings.

`load_mapping` reads and checks a mapping, `inspect_file` says what a landing file holds, `open_source` and
`read_source` give its rows in the columns and types of the contracts. The audit and the store come after.
"""

from __future__ import annotations

from within_ml.lake.sources.expressions import HELPERS
from within_ml.lake.sources.files import landing_path
from within_ml.lake.sources.mapping import (
    SOURCE_TABLES,
    SourceMapping,
    load_mapping,
    mapping_from,
    shipped_mappings,
)
from within_ml.lake.sources.reading import LandingFile, SourceReader, inspect_file, open_source, read_source

__all__ = [
    "HELPERS",
    "SOURCE_TABLES",
    "LandingFile",
    "SourceMapping",
    "SourceReader",
    "inspect_file",
    "landing_path",
    "load_mapping",
    "mapping_from",
    "open_source",
    "read_source",
    "shipped_mappings",
]
