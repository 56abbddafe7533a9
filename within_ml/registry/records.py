"""What is known about a registered version, and about a folder that is to become one.

What belongs here: records, hashes and the reading of tags. What does not: MLflow (`store`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from within_ml.errors import InputError
from within_ml.model_folder import METADATA_FILE, ModelMetadata, read_metadata, read_model_folder

HASH_TAG = "content_sha256"
AS_OF_TAG = "as_of"


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A registered version.

    ``as_of`` is the day as of which it was trained, None for a version that was registered by other means;
    ``trained_at`` is None where the folder does not tell; ``metrics`` are those of its run.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    as_of: dt.date | None
    trained_at: dt.datetime | None
    registered_at: dt.datetime
    run_id: str | None
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def age(self) -> tuple[dt.date, int]:
        """Sorting key: older vintages first, and of one vintage the earlier registered."""
        return self.as_of or dt.date.min, int(self.version)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is to be registered: a checked model folder and what is known about it."""

    folder: Path
    metadata: ModelMetadata
    content_sha256: str
    tags: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, tags: Mapping[str, object]) -> Candidate:
        """Check a folder and its tags.

        Raises
        ------
        ModelFormatError
            If the folder is incomplete or altered.
        InputError
            If the tag ``as_of`` is not an ISO day.
        """
        metadata = read_model_folder(folder, expected_type=read_metadata(folder).type)
        texts = {key: text_of(value) for key, value in tags.items()}
        if day_of(texts.get(AS_OF_TAG)) is None:
            raise InputError(
                f"A model needs the tag {AS_OF_TAG!r} as an ISO day; however, it is {texts.get(AS_OF_TAG)!r}. "
                "Give the day as of which it was trained."
            )
        content = content_hash(folder)
        own = {HASH_TAG: content, "model_type": metadata.type, "trained_at": metadata.trained_at or ""}
        return cls(folder, metadata, content, {**texts, **own})


def content_hash(folder: Path) -> str:
    """Return the sha256 over the names and contents of all files below a folder.

    How long the training took is left out: the same model trained twice is the same content.
    """
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(_lasting(file)).hexdigest()
        digest.update(f"{content}  {file.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


def _lasting(file: Path) -> bytes:
    if file.name != METADATA_FILE:
        return file.read_bytes()
    metadata = json.loads(file.read_text(encoding="utf-8"))
    for passing in ("training_duration", "metadata_sha256"):
        metadata.pop(passing, None)
    return json.dumps(metadata, sort_keys=True).encode()


def text_of(value: object) -> str:
    """Return a tag's or parameter's text."""
    if isinstance(value, str):
        return value
    if isinstance(value, dt.date):
        return value.isoformat()
    return json.dumps(value, sort_keys=True, default=str)


def day_of(text: str | None) -> dt.date | None:
    """Parse an ISO day; None where it is none."""
    try:
        return dt.date.fromisoformat(text or "")
    except ValueError:
        return None


def moment_of(text: str | None) -> dt.datetime | None:
    """Parse an ISO time, UTC where it names no zone; None where it is none."""
    try:
        moment = dt.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
