"""The save format of a model: a folder of native files and one ``metadata.json`` that names and hashes each of them.

What the files mean belongs to the models; here stands how a folder is written in one step, and what is refused when
it is read: a file that is missing, altered or unknown, a link, a path that leads outside, another type, a newer format.
Nothing in a folder is ever executed: no pickle, only ``.ubj``, ``.npz``, ``.json`` and ``.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any, Self

from within_ml.errors import ModelFormatError, shown

FORMAT_VERSION = 1
METADATA_FILE = "metadata.json"
NATIVE_SUFFIXES = frozenset({".ubj", ".npz", ".json", ".safetensors"})
RECORDED_PACKAGES = ("numpy", "pandas", "scikit-learn", "scipy", "xgboost", "torch")

_OWN_FIELDS = ("trained_at", "training_duration", "metrics", "lake_versions")


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What ``metadata.json`` holds.

    ``trained_at`` is ISO 8601 text or None, ``training_duration`` is in seconds or None, ``files`` maps each file's
    relative POSIX path to its sha256, ``packages`` are the versions that wrote the folder, ``extra`` is what else the
    trainer recorded.

    Examples
    --------
    >>> metadata = ModelMetadata.create(name="ad_score", type="ad_score", feature_columns=["prior_ctr"],
    ...                                 details={"trained_at": "2024-01-08", "note": "first"})
    >>> metadata.trained_at, metadata.extra
    ('2024-01-08', {'note': 'first'})
    """

    name: str
    type: str
    version: str | None
    feature_columns: tuple[str, ...]
    hyperparameters: Mapping[str, Any]
    trained_at: str | None = None
    training_duration: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    lake_versions: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @classmethod
    def create(
        cls,
        *,
        name: str,
        type: str,  # noqa: A002 - the field's name in the file
        feature_columns: Sequence[str],
        hyperparameters: Mapping[str, Any] | None = None,
        version: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make the metadata of a model to be written; ``details`` are sorted into the fields that have a name."""
        details = dict(details or {})
        known = {key: details.pop(key) for key in _OWN_FIELDS if details.get(key) is not None}
        return cls(
            name=name,
            type=str(type),
            version=version,
            feature_columns=tuple(feature_columns),
            hyperparameters=dict(hyperparameters or {}),
            extra={key: value for key, value in details.items() if key not in _OWN_FIELDS},
            packages=_package_versions(),
            **known,
        )

    @property
    def details(self) -> dict[str, Any]:
        """The training's details as one flat dict, the inverse of ``create(details=…)``."""
        known = {key: getattr(self, key) for key in _OWN_FIELDS}
        return {**self.extra, **{key: value for key, value in known.items() if value}}


def write_model_folder(path: Path, metadata: ModelMetadata, write_files: Callable[[Path], None]) -> None:
    """Write a model folder: into a temporary sibling first, then renamed into place.

    Parameters
    ----------
    path : Path
        Where the folder shall be. An older model folder there is replaced.
    metadata : ModelMetadata
        Without ``files``; they are filled in here.
    write_files : callable
        Writes the state into the empty folder it is given; subfolders are allowed.

    Raises
    ------
    ModelFormatError
        If ``path`` is there and is no model folder, or a file written is not of a native format.
    """
    if path.exists() and not (path / METADATA_FILE).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise ModelFormatError(f"A model is saved to a new path or over an older model; {path} is neither.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        write_files(temporary)
        files = _hashes(temporary)
        (temporary / METADATA_FILE).write_text(_to_json(replace(metadata, files=files)), encoding="utf-8")
        _put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_model_folder(path: Path, *, expected_type: str) -> ModelMetadata:
    """Check a model folder and return its metadata; nothing but ``metadata.json`` is parsed.

    Parameters
    ----------
    path : Path
        The model folder.
    expected_type : str
        The type the reader can load.

    Raises
    ------
    ModelFormatError
        If anything in the folder is not as its metadata says, or the metadata is not of this type and format.
    """
    metadata = read_metadata(path)
    if metadata.type != str(expected_type):
        raise ModelFormatError(f"A model of type {str(expected_type)!r} was required; {path} holds {metadata.type!r}.")
    _check_names(path, metadata.files)
    found = _hashes(path)
    missing, unknown = sorted(set(metadata.files) - set(found)), sorted(set(found) - set(metadata.files))
    if missing or unknown:
        raise ModelFormatError(
            f"{path} must hold exactly the files of its {METADATA_FILE}; missing: {shown(missing) or 'none'}, "
            f"unknown: {shown(unknown) or 'none'}. Fetch the model again from the registry."
        )
    altered = sorted(name for name, digest in found.items() if digest != metadata.files[name])
    if altered:
        raise ModelFormatError(
            f"{path} was altered after it was saved: {shown(altered)} no longer has the sha256 of its {METADATA_FILE}. "
            "Fetch the model again from the registry."
        )
    return metadata


def read_metadata(path: Path) -> ModelMetadata:
    """Read ``metadata.json`` alone, without checking the files it names.

    Raises
    ------
    ModelFormatError
        If it is missing, not JSON, altered, of a newer format, or lacks a field.
    """
    file = path / METADATA_FILE
    if not file.is_file() or file.is_symlink():
        raise ModelFormatError(f"A model folder has a {METADATA_FILE}; there is none in {path}.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFormatError(f"{file} must be JSON; it is not ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("format_version"), int):
        raise ModelFormatError(f"{file} must be a JSON object with an integer format_version.")
    if content["format_version"] > FORMAT_VERSION:
        raise ModelFormatError(
            f"{path} has format version {content['format_version']}; this version of WITHIN reads up to "
            f"{FORMAT_VERSION}. Load it with the version that wrote it, or newer."
        )
    digest = content.pop("metadata_sha256", None)
    if digest != _digest(content):
        raise ModelFormatError(f"{file} was altered after it was saved. Fetch the model again from the registry.")
    try:
        return ModelMetadata(**{**content, "feature_columns": tuple(content["feature_columns"])})
    except (TypeError, KeyError) as error:
        raise ModelFormatError(f"{file} lacks a field or has an unknown one ({error}).") from error


def _to_json(metadata: ModelMetadata) -> str:
    content = asdict(metadata)
    try:
        # What was hashed must be what a reader parses: tuples become lists, keys text, before the digest is taken.
        content = json.loads(json.dumps(content, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ModelFormatError(
            f"Metadata and hyperparameters of a model must be finite JSON values: {error}."
        ) from error
    return json.dumps({**content, "metadata_sha256": _digest(content)}, indent=2, sort_keys=True)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hashes(folder: Path) -> dict[str, str]:
    """Hash every file below a folder but its metadata; refuse links and foreign formats."""
    result: dict[str, str] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_symlink():
            raise ModelFormatError(f"A model folder holds plain files only; {name!r} in {folder} is a link.")
        if file.is_dir() or name == METADATA_FILE:
            continue
        if file.suffix not in NATIVE_SUFFIXES or not file.is_file():
            raise ModelFormatError(
                f"A model folder holds {', '.join(sorted(NATIVE_SUFFIXES))} only; {name!r} in {folder} is none of them."
            )
        with file.open("rb") as stream:
            result[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return result


def _check_names(path: Path, files: Mapping[str, str]) -> None:
    for name in files:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or ":" in name or parts.as_posix() != name:
            raise ModelFormatError(f"Files of a model lie inside its folder; {path} names {name!r}.")


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    # A folder cannot be replaced in one rename. A reader between the two sees no model, never a mixture of two.
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    path.rename(old)
    os.rename(temporary, path)
    shutil.rmtree(old, ignore_errors=True)


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
