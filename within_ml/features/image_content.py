"""The rows of the table ``image_content``: the features of each image file of the lake, computed once per content.

A file's content is known by its size and the time of its last change; a file that changed is measured again, and all
are when the definition of a feature changes. One that is gone keeps its row, because days on which ads showed it may be
made again. What is measured belongs in `images`.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple

import pyarrow as pa
import pyarrow.compute as pc

from within_ml.features.images import IMAGE_FEATURES, image_features
from within_ml.lake.images import LISTING_SCHEMA, LakeImages

IMAGE_VERSION = hashlib.sha256(repr([astuple(f) for f in IMAGE_FEATURES]).encode()).hexdigest()[:8]
"""Changes with any entry of the catalog of image features."""

IMAGE_SCHEMA = pa.schema(
    [
        pa.field("image_path", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("modified_ns", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("unreadable", pa.string()),
        *(pa.field(f.name, pa.float64()) for f in IMAGE_FEATURES),
    ]
)
"""Columns of the table ``image_content``: the file, its content's mark, the catalog's version, why it cannot be read
(else null), and the features."""

_CHUNK = 256


def image_rows(images: LakeImages, waiting: pa.Table) -> pa.Table:
    """Compute the rows of ``image_content`` for files as from `missing_images`.

    Returns
    -------
    pyarrow.Table
        As `IMAGE_SCHEMA`; an unreadable file has null features and its reason.

    Examples
    --------
    >>> import tempfile
    >>> images = LakeImages(tempfile.mkdtemp())
    >>> images.write("images/own/a.png", b"no picture")
    >>> image_rows(images, images.listing())["unreadable"].to_pylist()
    ['not a readable image (UnidentifiedImageError)']
    """
    parts = [IMAGE_SCHEMA.empty_table()]
    for start in range(0, waiting.num_rows, _CHUNK):
        files = waiting.slice(start, _CHUNK)
        found = image_features([images.read(path) for path in files["image_path"].to_pylist()])
        marks = {name: files[name].combine_chunks() for name in LISTING_SCHEMA.names}
        told = {
            "version": pa.array([IMAGE_VERSION] * files.num_rows),
            "unreadable": pa.array(found.reasons, pa.string()),
        }
        features = {name: found.table[name].combine_chunks() for name in found.table.column_names}
        parts.append(pa.table({**marks, **told, **features}).cast(IMAGE_SCHEMA))
    return pa.concat_tables(parts).combine_chunks()


def missing_images(images: LakeImages, shown: pa.Array, known: pa.Table | None) -> pa.Table:
    """Return the files that ads show and that ``known`` does not hold as they are now.

    Parameters
    ----------
    shown
        Paths that ads name, in any order, repeated and null ones too.
    known
        The table ``image_content``, None before it is there.

    Returns
    -------
    pyarrow.Table
        image_path, size, modified_ns, sorted by path. A path without a file is not in it.
    """
    paths = pc.drop_null(pc.unique(shown))
    listing = images.listing() if len(paths) else LISTING_SCHEMA.empty_table()
    there = listing.filter(pc.is_in(listing["image_path"], value_set=paths))
    if known is None:
        return there
    known = known.filter(pc.equal(known["version"], IMAGE_VERSION))
    marks = LISTING_SCHEMA.names
    return there.join(known.select(marks), keys=marks, join_type="left anti").sort_by("image_path")


def merged_images(present: pa.Table | None, new: pa.Table) -> pa.Table:
    """Put new rows in the place of those of the same paths."""
    if present is None:
        return new
    kept = present.filter(pc.invert(pc.is_in(present["image_path"], value_set=new["image_path"].combine_chunks())))
    return pa.concat_tables([kept, new.select(kept.column_names)], promote_options="permissive")
