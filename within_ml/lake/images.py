"""Image files in the lake: copied in from the landing zone, listed and read through the file system of the lake's root.

Images are no table: they lie below the folder ``images`` of the root, one subfolder per source. An export brings them
in a folder ``images`` beside its files, and its mapping names each as ``images/<source>/…`` in ``ads.image_path``.
What an image looks like is measured in the features.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pa_fs
from deltalake.fs import DeltaStorageHandler

logger = logging.getLogger(__name__)

FOLDER = "images"
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")

MAX_BYTES = 50 * 1024 * 1024
"""A larger file is no picture of an ad; it is neither copied nor read."""

LISTING_SCHEMA = pa.schema([("image_path", pa.string()), ("size", pa.int64()), ("modified_ns", pa.int64())])
"""What `LakeImages.listing` tells: path below the root, bytes, time of change in nanoseconds since 1970."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\:]")
# Smaller than the buffer: what would go around it is not accepted by every object store's stream.
_PIECE, _BUFFER = 1 << 15, 1 << 16


def root_filesystem(root: str, storage_options: Mapping[str, str] | None = None) -> pa_fs.FileSystem:
    """File system below a root: Arrow's own for a local folder, deltalake's for an object store, with its options."""
    local = root.removeprefix("file://")
    if "://" not in local:
        return pa_fs.SubTreeFileSystem(str(Path(unquote(local) if local != root else local)), pa_fs.LocalFileSystem())
    return pa_fs.PyFileSystem(DeltaStorageHandler(root, dict(storage_options) if storage_options else None))


def is_safe_path(path: str) -> bool:
    """Whether a path stays below the root it is joined to: relative, no ``..``, no control character or backslash.

    >>> is_safe_path("images/a.png"), is_safe_path("../a.png"), is_safe_path("/etc/passwd")
    (True, False, False)
    """
    parts = PurePosixPath(path)
    return bool(path) and not _UNSAFE.search(path) and not parts.is_absolute() and ".." not in parts.parts


@dataclass(frozen=True, slots=True)
class LakeImages:
    """The image files below a lake's root.

    Examples
    --------
    >>> import tempfile
    >>> images = LakeImages(tempfile.mkdtemp())
    >>> images.write("images/own/a.png", b"pixels")
    >>> images.listing()["image_path"].to_pylist(), images.read("images/own/a.png"), images.read("images/b.png")
    (['images/own/a.png'], b'pixels', None)
    """

    root: str
    storage_options: Mapping[str, str] | None = None

    def listing(self, folder: str = FOLDER) -> pa.Table:
        """List the image files below a folder, as `LISTING_SCHEMA`, sorted by path."""
        files = self._filesystem()
        if "://" not in self.root and not Path(self.root).is_dir():
            return LISTING_SCHEMA.empty_table()
        found = files.get_file_info(pa_fs.FileSelector(folder, allow_not_found=True, recursive=True))
        rows = [
            {"image_path": info.path, "size": info.size, "modified_ns": info.mtime_ns or 0}
            for info in sorted(found, key=lambda info: str(info.path))
            if info.type == pa_fs.FileType.File and _is_image(info.path)
        ]
        return pa.Table.from_pylist(rows, schema=LISTING_SCHEMA)

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None if there is none, it is too large or the path leads out of the root."""
        if not is_safe_path(path):
            return None
        files = self._filesystem()
        info = files.get_file_info(path)
        if info.type != pa_fs.FileType.File or info.size is None or info.size > MAX_BYTES:
            return None
        with files.open_input_stream(path) as source:
            return bytes(source.read())

    def write(self, path: str, content: bytes) -> None:
        """Write a file whole: beside its place first, then moved there."""
        files = self._filesystem()
        place = PurePosixPath(path)
        draft = str(place.with_name(f".{place.name}.{uuid.uuid4().hex}.part"))
        if "://" not in self.root:
            Path(self.root).mkdir(parents=True, exist_ok=True)
        files.create_dir(str(place.parent), recursive=True)
        with files.open_output_stream(draft, buffer_size=_BUFFER) as sink:
            for start in range(0, len(content), _PIECE):
                sink.write(content[start : start + _PIECE])
        files.move(draft, str(place))

    def _filesystem(self) -> pa_fs.FileSystem:
        return root_filesystem(self.root, self.storage_options)


@dataclass(frozen=True, slots=True)
class Copied:
    """How many image files were copied in, were there already, and were refused (a link, too large)."""

    copied: int = 0
    unchanged: int = 0
    refused: int = 0


def copy_images(images: LakeImages, landing_root: Path, sources: Iterable[tuple[Path, str]]) -> Copied:
    """Copy the images that lie beside exports into the lake; what is there already is passed over.

    A file is there already when the lake's copy has its size and is no older, or has its bytes.

    Parameters
    ----------
    landing_root
        Folder of the landing zone; a file that leads out of it by a link is refused.
    sources
        Folders of exports with the name of their source.
    """
    copied = unchanged = refused = 0
    for folder, source in sorted(set(sources)):
        below = f"{FOLDER}/{source}"
        there = {row["image_path"]: row for row in images.listing(below).to_pylist()}
        for file in _image_files(folder / FOLDER):
            if not _is_plain(file, landing_root):
                refused += 1
                logger.warning("image %s was refused: it must be a plain file of at most %d bytes", file, MAX_BYTES)
                continue
            target = f"{below}/{file.relative_to(folder / FOLDER).as_posix()}"
            if _is_current(images, file, target, there.get(target)):
                unchanged += 1
                continue
            images.write(target, file.read_bytes())
            copied += 1
    if copied:
        logger.info("%d images copied into the lake, %d were there already", copied, unchanged)
    return Copied(copied, unchanged, refused)


def _image_files(folder: Path) -> Iterator[Path]:
    return iter(sorted(p for p in folder.rglob("*") if _is_image(p.name))) if folder.is_dir() else iter(())


def _is_image(path: str) -> bool:
    name = PurePosixPath(path).name
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _is_plain(file: Path, landing_root: Path) -> bool:
    inside = file.resolve().is_relative_to(landing_root.resolve())
    return inside and file.is_file() and file.stat().st_size <= MAX_BYTES and is_safe_path(file.name)


def _is_current(images: LakeImages, file: Path, target: str, known: Mapping[str, int] | None) -> bool:
    stat = file.stat()
    if known is None or known["size"] != stat.st_size:
        return False
    return known["modified_ns"] >= stat.st_mtime_ns or images.read(target) == file.read_bytes()
