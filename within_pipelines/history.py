"""Which days a deployment has, learned from files before any partition is defined.

Nothing here may import `partitions`: its definitions are made of the settings that these functions write.
"""

from collections.abc import Iterable
from pathlib import Path

from within_ml.lake.sources import SourceMapping, inspect_file
from within_pipelines.settings import Settings


def remember_days(settings: Settings, mapping: SourceMapping, files: Iterable[Path], *, closed: bool = False) -> None:
    """Widen the history by the days of files that are about to be ingested."""
    spans = [(f.first_date, f.last_date) for f in (inspect_file(mapping, file) for file in files)]
    known = [(first, last) for first, last in spans if first is not None and last is not None]
    if known:
        settings.remember_history(min(first for first, _ in known), max(last for _, last in known), closed=closed)
