"""The key of a text, by which its content features are computed once and joined to any number of days and ads.

The key is the same as an Ibis expression and in Python. What the features of a text are belongs in `content`.
"""

from __future__ import annotations

import hashlib

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from within_ml.features.content import text_features

_SEPARATOR = "\x1f"


def text_hash(headline: ir.StringValue, body: ir.StringValue) -> ir.StringValue:
    """MD5 of headline and body as lower-case hexadecimal; a missing text differs from an empty one."""
    return (_marked(headline) + _SEPARATOR + _marked(body)).hexdigest("md5")


def _marked(text: ir.StringValue) -> ir.StringValue:
    return (ibis.literal("+") + text).fill_null("-")


def text_hash_of(headline: str | None, body: str | None) -> str:
    """Return the key of one text, equal to that of `text_hash`.

    >>> text_hash_of("Save 20%", None)
    '4003598d9897c69ff96766db9fe92137'
    """
    marked = ("-" if text is None else f"+{text}" for text in (headline, body))
    return hashlib.md5(_SEPARATOR.join(marked).encode(), usedforsecurity=False).hexdigest()


def distinct_texts(ads: ir.Table) -> ir.Table:
    """Every distinct text of ``ads`` with its key: text_hash, headline, body."""
    texts = ads.select("headline", "body").distinct()
    return texts.select(text_hash=text_hash(texts.headline, texts.body), headline=texts.headline, body=texts.body)


def content_rows(texts: pa.Table) -> pa.Table:
    """Compute the rows of the table ``ad_content`` for texts as from `runner.missing_content`.

    Returns
    -------
    pyarrow.Table, shape (n_texts, 1 + n_features)
        text_hash and the content features.
    """
    features = text_features(texts["headline"].combine_chunks(), texts["body"].combine_chunks())
    return features.add_column(
        0, pa.field("text_hash", pa.string(), nullable=False), texts["text_hash"].cast(pa.string())
    )
