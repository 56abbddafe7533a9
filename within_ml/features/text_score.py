"""Placeholder of the text score: TF-IDF and ridge on rates centred within the group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


class TextScore:
    """Expected log-odds difference of a text from its group's mean."""

    def __init__(self, *, alpha: float = 40.0, random_state: int = 0) -> None:
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike, groups: ArrayLike) -> Self:
        """Fit."""
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415
        from sklearn.linear_model import Ridge  # noqa: PLC0415

        text, y, w, g = (
            X["headline"].fillna("").astype(str),
            np.asarray(y),
            np.asarray(sample_weight),
            np.asarray(groups),
        )
        if not text.str.contains(r"\w\w").any():
            self.words_, self.idf_, self.coef_ = {}, np.zeros(0), np.zeros(0)
            return self
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=min(2, len(text)), sublinear_tf=True)
        matrix = vectorizer.fit_transform(text)
        target = pd.Series(np.log((y * w + 1) / ((1 - y) * w + 50)))
        target = target - target.groupby(g).transform("mean")
        model = Ridge(alpha=self.alpha, solver="sparse_cg").fit(matrix, target, sample_weight=w / w.mean())
        self.words_ = {word: int(i) for word, i in vectorizer.vocabulary_.items()}
        self.idf_, self.coef_ = vectorizer.idf_, model.coef_
        return self

    def _matrix(self, text: pd.Series) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, vocabulary=self.words_)
        vectorizer.idf_ = self.idf_
        return vectorizer.transform(text)

    def predict(self, X: pd.DataFrame) -> FloatArray:
        """Score."""
        if not self.words_ or not len(X):
            return np.zeros(len(X))
        return np.asarray(self._matrix(X["headline"].fillna("").astype(str)) @ self.coef_)

    def fit_predict_out_of_fold(
        self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike, groups: ArrayLike, folds: int = 5
    ) -> FloatArray:
        """Fit on all rows and score each row by a model that has not seen its group."""
        y, w = np.asarray(y), np.asarray(sample_weight)
        codes = pd.factorize(np.asarray(groups))[0]
        result = np.zeros(len(X))
        for k in range(folds):
            out = codes % folds == k
            if out.any() and not out.all():
                part = TextScore(alpha=self.alpha)
                part.fit(X[~out].reset_index(drop=True), y[~out], sample_weight=w[~out], groups=codes[~out])
                result[out] = part.predict(X[out])
        self.fit(X.reset_index(drop=True), y, sample_weight=w, groups=codes)
        return result

    def top_words(self, X: pd.DataFrame, k: int = 5) -> list[str]:
        """Return the words that move the score most."""
        rows = []
        for text in X["headline"].fillna("").astype(str).str.lower():
            words = {word for word in text.split() if word in self.words_}
            rows.append(",".join(sorted(words, key=lambda word: -abs(self.coef_[self.words_[word]]))[:k]))
        return rows

    def save(self, folder: Path) -> None:
        """Write npz and JSON."""
        np.savez(folder / "text_score.npz", idf=self.idf_, coef=self.coef_)
        (folder / "text_score.json").write_text(json.dumps({"alpha": self.alpha, "words": self.words_}))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read them."""
        state = json.loads((folder / "text_score.json").read_text())
        model = cls(alpha=state["alpha"])
        with np.load(folder / "text_score.npz") as arrays:
            model.words_, model.idf_, model.coef_ = state["words"], arrays["idf"], arrays["coef"]
        return model
