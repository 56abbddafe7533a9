"""How well, and how fast, the text score orders headlines of weeks it has not seen, beside TF-IDF + ridge.

    PYTHONPATH=. .venv/bin/python benchmarks/text_score.py

Data: the Upworthy sample in `data_lake/landing/upworthy`, one row per test and headline (rows that repeat a headline
with another image are summed), without week 00. A pair is two headlines of one test with different click rates; it is
significant if a two-proportion z-test (pooled) gives p < .05. Early weeks (before 2014-W20, four cutoffs) chose every
hyperparameter, of the score and of the peers' best alpha; later weeks only give figures. Confidence intervals are 95 %
bootstraps by test.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from within_ml.features.content import text_features
from within_ml.features.text_score import TextScore

DATA = Path(__file__).parents[1] / "data_lake/landing/upworthy/upworthy_2013_2014w40.parquet"
EARLY_CUTS = ((201325, 201340), (201340, 201352), (201352, 201410), (201410, 201420))
LATER_CUTS = ((201420, 201441), (201430, 201441))
ALPHAS = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0)
N_BOOTSTRAP = 1000

Scorer = Callable[[pd.DataFrame, pd.DataFrame], np.ndarray]


@dataclass(frozen=True, slots=True)
class Pairs:
    """One entry per pair: its test, whether it is significant, and whether the score orders it (½ for a tie)."""

    test: np.ndarray
    significant: np.ndarray
    correct: np.ndarray

    def accuracy(self, *, significant: bool) -> float:
        return 100 * float(self.correct[self.significant | (not significant)].mean())


def read() -> pd.DataFrame:
    rows = pd.read_parquet(DATA)
    rows = rows[rows.test_week % 100 != 0]
    ads = rows.groupby(["clickability_test_id", "headline"], sort=False, as_index=False).agg(
        impressions=("impressions", "sum"),
        clicks=("clicks", "sum"),
        week=("test_week", "first"),
        body=("lede", "first"),
    )
    return ads.assign(ctr=ads.clicks / ads.impressions, test=pd.factorize(ads.clickability_test_id)[0])


def pairs(ads: pd.DataFrame, score: np.ndarray) -> Pairs:
    indices = [np.array(rows)[np.array(np.triu_indices(len(rows), 1))] for rows in ads.groupby("test").indices.values()]
    i, j = np.concatenate(indices, axis=1)
    clicks, impressions = ads.clicks.to_numpy(float), ads.impressions.to_numpy(float)
    ctr = clicks / impressions
    i, j = i[ctr[i] != ctr[j]], j[ctr[i] != ctr[j]]
    pooled = (clicks[i] + clicks[j]) / (impressions[i] + impressions[j])
    z = (ctr[i] - ctr[j]) / np.sqrt(pooled * (1 - pooled) * (1 / impressions[i] + 1 / impressions[j]))
    agree = np.sign(ctr[i] - ctr[j]) * np.sign(score[i] - score[j])
    return Pairs(ads.test.to_numpy()[i], np.abs(z) > 1.96, (1 + agree) / 2)


def tfidf_ridge(alpha: float, **options: object) -> Scorer:
    def score(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
        vectorizer = TfidfVectorizer(**options)
        model = Ridge(alpha=alpha, solver="sparse_cg", tol=1e-4)
        return model.fit(vectorizer.fit_transform(train.headline), train.ctr).predict(
            vectorizer.transform(test.headline)
        )

    return score


def text_score(*columns: str) -> Scorer:
    def score(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
        model = TextScore()
        model.fit(train[[*columns]], train.ctr, sample_weight=train.impressions, groups=train.test)
        return model.predict(test[[*columns]])

    return score


def evaluate(ads: pd.DataFrame, scorer: Scorer, cuts: tuple[tuple[int, int], ...]) -> Pairs:
    parts = []
    for first, stop in cuts:
        test = ads[(ads.week >= first) & (ads.week < stop)].reset_index(drop=True)
        parts.append(pairs(test, scorer(ads[ads.week < first], test)))
    return Pairs(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("test", "significant", "correct")))


def difference(a: Pairs, b: Pairs, *, significant: bool) -> tuple[float, float]:
    """Bootstrap interval, by test, of the difference of two scores' accuracies on the same pairs, in points."""
    use = a.significant | (not significant)
    code = pd.factorize(a.test[use])[0]
    n = np.bincount(code)
    gain = np.bincount(code, a.correct[use] - b.correct[use])
    draws = np.random.default_rng(0).multinomial(len(n), np.full(len(n), 1 / len(n)), size=N_BOOTSTRAP)
    low, high = np.quantile(100 * (draws @ gain) / (draws @ n), [0.025, 0.975])
    return float(low), float(high)


WORDS_AND_PAIRS = {"ngram_range": (1, 2), "min_df": 2, "sublinear_tf": True}
CHARACTERS = {"analyzer": "char_wb", "ngram_range": (2, 5), "min_df": 3, "sublinear_tf": True}
FAMILIES = {"words": {}, "words and pairs": WORDS_AND_PAIRS, "characters 2-5": CHARACTERS}


def peers(ads: pd.DataFrame) -> dict[str, Scorer]:
    found: dict[str, Scorer] = {}
    for name, options in FAMILIES.items():
        early = {a: evaluate(ads, tfidf_ridge(a, **options), EARLY_CUTS).accuracy(significant=False) for a in ALPHAS}
        best = max(early, key=lambda alpha: early[alpha])
        found |= {f"TF-IDF {name} + ridge, alpha {a:g}": tfidf_ridge(a, **options) for a in dict.fromkeys((5.0, best))}
    return found


def accuracy_table(ads: pd.DataFrame, scorers: dict[str, Scorer]) -> None:
    weeks = sorted(ads.week[ads.week >= LATER_CUTS[0][0]].unique())
    settings = {"early weeks, 4 cutoffs": EARLY_CUTS}
    settings |= {f"before {first}, then all later": ((first, stop),) for first, stop in LATER_CUTS}
    settings["refitted each week from 201420"] = tuple((int(w), int(w) + 1) for w in weeks)
    for setting, cuts in settings.items():
        results = {name: evaluate(ads, scorer, cuts) for name, scorer in scorers.items()}
        ours = results["text score"]
        print(f"\n{setting}: {len(ours.correct)} pairs, {int(ours.significant.sum())} significant")
        for name, result in results.items():
            line = f"  {name:42s} {result.accuracy(significant=False):5.1f} {result.accuracy(significant=True):5.1f}"
            if result is not ours:
                spans = [difference(ours, result, significant=s) for s in (False, True)]
                line += "   text score ahead by " + ", ".join(f"{low:+.1f} to {high:+.1f}" for low, high in spans)
            print(line)


def speed(ads: pd.DataFrame) -> None:
    many = pd.concat([ads.headline + f" {i}" for i in range(11)], ignore_index=True).head(100_000).to_frame()
    start = time.perf_counter()
    model = TextScore()
    model.fit_predict_out_of_fold(ads[["headline"]], ads.ctr, sample_weight=ads.impressions, groups=ads.test)
    fitted = time.perf_counter()
    model.predict(many)
    predicted = time.perf_counter()
    model.top_words(many.head(20_000))
    named = time.perf_counter()
    text_features(ads.headline, ads.body)
    described = time.perf_counter()
    print(f"\nfit with out-of-fold scores, {len(ads)} headlines: {fitted - start:.1f} s")
    print(f"predict, {len(many)} different headlines: {predicted - fitted:.1f} s")
    print(f"top words, 20000 headlines: {named - predicted:.1f} s")
    print(f"content features with sentiment and readability: {len(ads) / (described - named):.0f} distinct ads/s")


def main() -> None:
    ads = read()
    scorers = {"text score": text_score("headline"), "text score, body too": text_score("headline", "body")}
    accuracy_table(ads, scorers | peers(ads))
    speed(ads)


if __name__ == "__main__":
    main()
