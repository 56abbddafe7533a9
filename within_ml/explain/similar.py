"""Past ads that did well beside their campaign, and whose text is nearest to a given one.

What did well is judged against campaign and account, so that an account with a high level does not fill the list. What
makes a text do well in general is the text score's business, not this one's.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError, ModelFormatError, NotFittedError, shown
from within_ml.metrics import check_rates

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]

KEYS = ("platform", "account_id", "campaign_id", "ad_id")
_AD = ["platform", "account_id", "ad_id"]
_FILES = ("similar_ads.json", "similar_ads.npz")
_N_COLUMNS = 2**18
_QUERIES_AT_ONCE = 200
_MIN_VARIANCE = 1e-2
_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class SimilarAd:
    """A past ad: its last day in ``date``, its observed ``ctr``, and ``lift``, its rate over its campaign's level.

    ``lift`` is shrunk towards 1 where impressions are few; ``similarity`` is the cosine of the two texts, 0 to 1.
    """

    platform: str
    account_id: str
    campaign_id: str
    ad_id: str
    text: str
    similarity: float
    ctr: float
    lift: float
    impressions: float
    date: str


class SimilarAds:
    """Find the successful past ads with the nearest text.

    An ad's lift is the mean of a gamma posterior, ``(clicks + s) / (expected clicks + s)``: expected at the level of
    its campaign (of its account where it is the campaign's only ad), with s the inverse of the variance of lifts that
    chance does not explain (Clayton and Kaldor 1987, moment estimate). Levels of accounts and campaigns are shrunk in
    the same way. Successful is the upper quarter of lifts, above 1. Nearness is the cosine of TF-IDF vectors of words
    and pairs of words.

    Parameters
    ----------
    max_candidates : int
        Of more successful ads the latest are kept.
    quantile : float
        Lifts from this quantile on are successful.

    Attributes
    ----------
    ads_ : DataFrame
        The candidates.

    Examples
    --------
    >>> keys = pd.DataFrame({"platform": "meta", "account_id": "a", "campaign_id": "c", "ad_id": list("1234")})
    >>> texts = ["Free running shoes", "Free shoes for kids", "Old shoes", "Dull garden tools"]
    >>> dates = pd.to_datetime(["2024-01-01"] * 4)
    >>> model = SimilarAds(quantile=0.5).fit(texts, [0.04, 0.03, 0.01, 0.01], [10_000] * 4, keys, dates)
    >>> [ad.text for ad in model.find(["Red running shoes"])[0]]
    ['Free running shoes']
    """

    def __init__(self, *, max_candidates: int = 20_000, quantile: float = 0.75) -> None:
        self.max_candidates = max_candidates
        self.quantile = quantile

    def fit(
        self,
        texts: Sequence[str | None],
        ctr: ArrayLike,
        impressions: ArrayLike,
        keys: pd.DataFrame,
        dates: ArrayLike,
    ) -> Self:
        """Keep the successful ads.

        Parameters
        ----------
        texts : sequence of str or None, length n
            Headline, or whatever line is compared; rows without one are left out.
        ctr : shape (n,)
            Rates in [0, 1].
        impressions : shape (n,)
        keys : DataFrame, shape (n, 4)
            `KEYS`. Rows of one ad are summed; its text is that of its last day.
        dates : shape (n,)
            Days of the rows. Nothing here looks at a calendar: give rows of the past only.

        Raises
        ------
        InputError
            If a length differs, a rate or a number of impressions is out of range, or a key is missing.
        """
        if self.max_candidates < 1 or not 0 <= self.quantile < 1:
            raise InputError(
                f"max_candidates must be at least 1 and quantile in [0, 1), however: {self.max_candidates}, "
                f"{self.quantile}."
            )
        missing = [name for name in KEYS if name not in keys.columns]
        n = len(texts)
        if missing or len(keys) != n or len(pd.Index(dates)) != n:
            raise InputError(
                f"keys must have {shown(KEYS)}, and keys and dates one row for each of {n} texts, however: "
                f"{shown(keys.columns)}, {len(keys)} and {len(pd.Index(dates))} rows."
            )
        rate, _, weight = check_rates(ctr, np.zeros(n), impressions, names=("ctr", "texts", "impressions"))
        if n and not weight.any():
            raise InputError(f"impressions must be above 0 in at least one row, however: zero in all {n} rows.")
        rows = keys[[*KEYS]].astype(str).reset_index(drop=True)
        rows = rows.assign(text=pd.Series(list(texts), dtype=object), clicks=rate * weight, impressions=weight)
        rows = rows.assign(date=pd.to_datetime(pd.Series(pd.Index(dates))))
        rows = rows[rows["text"].notna() & (rows["text"] != "") & (rows["impressions"] > 0)]
        ads = _with_lift(_by_ad(rows))
        good = ads[(ads["lift"] > 1) & (ads["lift"] >= ads["lift"].quantile(self.quantile))] if len(ads) else ads
        good = good.sort_values(["date", "lift", *_AD], ascending=[False, False, True, True, True])
        for name in ("_records", "_numbered", "_candidate_codes"):
            vars(self).pop(name, None)
        self.ads_ = good.head(self.max_candidates).reset_index(drop=True)
        self._index()
        return self

    def find(
        self,
        texts: Sequence[str | None],
        *,
        k: int = 3,
        keys: pd.DataFrame | None = None,
        within: Literal["account", "platform"] | None = None,
        min_similarity: float = 0.1,
    ) -> list[tuple[SimilarAd, ...]]:
        """Return the nearest successful ads of each text, the nearest first; of equal texts one.

        Parameters
        ----------
        texts : sequence of str or None, length n
        k : int
            At most so many.
        keys : DataFrame, shape (n, …), optional
            The ads the texts are of, which are not similar to themselves; needed for ``within``.
        within : {"account", "platform"}, optional
            Only ads of the same account (and platform), or the same platform.
        min_similarity : float
            Less similar ads are not similar.

        Raises
        ------
        NotFittedError, InputError
        """
        if not hasattr(self, "ads_"):
            raise NotFittedError("SimilarAds must be fitted or loaded first; call fit or SimilarAds.load.")
        if (keys is not None and len(keys) != len(texts)) or (within is not None and keys is None):
            raise InputError(f"keys must have one row for each of the {len(texts)} texts where `within` is given.")
        if within not in (None, "account", "platform"):
            raise InputError(f"within must be 'account', 'platform' or None, however: {within!r}.")
        found: list[tuple[SimilarAd, ...]] = []
        queries = None if keys is None else keys.reset_index(drop=True)
        for start in range(0, len(texts), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            found += self._find(texts[part], None if queries is None else queries[part], within, k, min_similarity)
        return found

    def save(self, folder: Path) -> None:
        """Write `similar_ads.json` and `similar_ads.npz` into an existing folder; the texts are in them."""
        if not hasattr(self, "ads_"):
            raise NotFittedError("SimilarAds must be fitted before it is saved; call fit first.")
        columns = self.ads_.assign(date=self.ads_["date"].dt.strftime("%Y-%m-%d")).to_dict("list")
        parameters = {"max_candidates": self.max_candidates, "quantile": self.quantile}
        state = {"format_version": 1, "parameters": parameters, "ads": columns}
        (folder / _FILES[0]).write_text(json.dumps(state), encoding="utf-8")
        matrix = self._matrix
        np.savez(
            folder / _FILES[1], allow_pickle=False,
            data=matrix.data, indices=matrix.indices, indptr=matrix.indptr, idf=self._idf,
        )  # fmt: skip

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ModelFormatError
            If a file is missing or is not what `save` wrote.
        """
        from scipy.sparse import csr_array

        try:
            state = json.loads((folder / _FILES[0]).read_text(encoding="utf-8"))
            model = cls(**state["parameters"])
            ads = pd.DataFrame(state["ads"])
            model.ads_ = ads.assign(date=pd.to_datetime(ads["date"]))
            with np.load(folder / _FILES[1], allow_pickle=False) as arrays:
                parts = (arrays["data"], arrays["indices"], arrays["indptr"])
                model._matrix = csr_array(parts, shape=(len(ads), _N_COLUMNS))
                model._idf = arrays["idf"]
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ModelFormatError(f"{folder} must hold saved SimilarAds; it does not ({error}).") from error
        return model

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        return [{str(name): value for name, value in row.items()} for row in self.ads_.to_dict("records")]

    @cached_property
    def _numbered(self) -> dict[str, pd.Index]:
        return {name: pd.Index(self.ads_[name].unique()) for name in _AD}

    @cached_property
    def _candidate_codes(self) -> Integers:
        return self._codes(self.ads_)

    def _index(self) -> None:
        """Learn how rare words are among the candidates, and keep their vectors."""
        counts = _counts(self.ads_["text"].tolist())
        seen = np.bincount(counts.indices, minlength=_N_COLUMNS)
        self._idf = np.log((1 + counts.shape[0]) / (1 + seen)) + 1
        self._matrix = self._weighed(counts)

    def _weighed(self, counts: Any) -> Any:
        counts.data = (1 + np.log(counts.data)) * self._idf[counts.indices]
        row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        length = np.sqrt(np.bincount(row, counts.data**2, minlength=counts.shape[0]))
        counts.data /= length[row]
        return counts

    def _find(
        self,
        texts: Sequence[str | None],
        keys: pd.DataFrame | None,
        within: str | None,
        k: int,
        min_similarity: float,
    ) -> list[tuple[SimilarAd, ...]]:
        near = (self._weighed(_counts(texts)) @ self._matrix.T).tocsr()
        codes = None if keys is None else self._codes(keys)
        found = []
        for row, (start, stop) in enumerate(pairwise(near.indptr.tolist())):
            # Rounded, so that the order of equally near ads does not hang on the last bit; the latest comes first then.
            candidates, similarity = near.indices[start:stop], np.round(near.data[start:stop], _DECIMALS)
            kept = similarity >= min_similarity
            if codes is not None:
                kept &= self._allowed(candidates, codes[row], within)
            candidates, similarity = candidates[kept], similarity[kept]
            order = np.lexsort((candidates, -similarity))
            found.append(self._different(candidates[order], similarity[order], k))
        return found

    def _codes(self, keys: pd.DataFrame) -> Integers:
        """Return the numbers of platform, account and ad among the candidates', shape (n, 3); -1 if none has it."""
        known = [self._numbered[name] for name in _AD]
        return np.column_stack(
            [index.get_indexer(pd.Index(keys[name].astype(str))) for name, index in zip(_AD, known, strict=True)]
        ).astype(np.int64)

    def _allowed(self, candidates: Integers, codes: Integers, within: str | None) -> NDArray[np.bool_]:
        same = self._candidate_codes[candidates] == codes
        allowed = ~same.all(axis=1)
        if within is not None:
            allowed &= same[:, 0]
        if within == "account":
            allowed &= same[:, 1]
        return np.asarray(allowed)

    def _different(self, candidates: Integers, near: FloatArray, k: int) -> tuple[SimilarAd, ...]:
        chosen: dict[str, SimilarAd] = {}
        for index, similarity in zip(candidates.tolist(), near.tolist(), strict=True):
            if len(chosen) == k:
                break
            ad = self._records[index]
            if ad["text"] not in chosen:
                chosen[ad["text"]] = SimilarAd(
                    **{name: ad[name] for name in KEYS},
                    text=ad["text"],
                    similarity=similarity,
                    ctr=round(float(ad["clicks"] / ad["impressions"]), _DECIMALS),
                    lift=round(float(ad["lift"]), 3),
                    impressions=float(ad["impressions"]),
                    date=ad["date"].strftime("%Y-%m-%d"),
                )
        return tuple(chosen.values())


def similar_json(found: Sequence[tuple[SimilarAd, ...]]) -> list[str]:
    """Return each row's similar ads as a JSON list."""
    return [json.dumps([asdict(ad) for ad in ads], ensure_ascii=False, allow_nan=False) for ads in found]


def _by_ad(rows: pd.DataFrame) -> pd.DataFrame:
    ordered = rows.sort_values("date", kind="stable")
    last = {name: (name, "last") for name in ("campaign_id", "text", "date")}
    sums = {name: (name, "sum") for name in ("clicks", "impressions")}
    return ordered.groupby(_AD, sort=True).agg(**last, **sums).reset_index()


def _with_lift(ads: pd.DataFrame) -> pd.DataFrame:
    """Add ``lift``: the rate over the level of campaign or account, each level shrunk towards the one above."""
    clicks, impressions = ads["clicks"], ads["impressions"]
    expected = impressions * (clicks.sum() / impressions.sum() if len(ads) else 0.0)
    for level in (["platform", "account_id"], ["platform", "account_id", "campaign_id"]):
        group = ads.groupby(level, sort=False).ngroup().to_numpy()
        several = np.bincount(group)[group] > 1 if len(ads) else np.zeros(0, bool)
        lift = _lift(np.bincount(group, clicks).astype(np.float64), np.bincount(group, expected).astype(np.float64))
        # A group of one ad would take that ad as its own measure.
        expected = expected * np.where(several, lift[group], 1.0)
    return ads.assign(lift=_lift(clicks.to_numpy(), expected.to_numpy()))


def _lift(clicks: FloatArray, expected: FloatArray) -> FloatArray:
    """Return posterior means of clicks over expected clicks."""
    total = expected.sum()
    if not total > 0:
        return np.ones(clicks.size)
    known = expected > 0
    ratio = np.divide(clicks, expected, out=np.ones(clicks.size), where=known)
    excess = float((expected * (ratio - 1) ** 2).sum() - known.sum()) / float(total)
    strength = 1 / max(excess, _MIN_VARIANCE)
    lift: FloatArray = (clicks + strength) / (expected + strength)
    return lift


def _counts(texts: Sequence[str | None]) -> Any:
    """Count words and pairs of words in hashed columns, shape (n, `_N_COLUMNS`)."""
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import HashingVectorizer

    if not len(texts):
        return csr_array((0, _N_COLUMNS))
    vectorizer = HashingVectorizer(ngram_range=(1, 2), n_features=_N_COLUMNS, norm=None, alternate_sign=False)
    return csr_array(vectorizer.transform([text or "" for text in texts]))
