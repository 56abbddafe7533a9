"""What corrects level and text: boosted trees, a linear model, a network, each behind the same few methods.

How they learn is in `within_ml.models`; here is what they are given, and in which unit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit
from typing_extensions import override

from within_ml.ad_score import terms
from within_ml.ad_score.config import AdScoreConfig, Modality
from within_ml.explain.contributions import Contributions, tree_contributions

if TYPE_CHECKING:
    from within_ml.models.boosted import BoostedRate
    from within_ml.models.network_rate import NetworkRate
    from within_ml.models.network_training import EpochRecord

FloatArray = NDArray[np.float64]

_CATEGORIES = ("platform", "account_id")
_ENCODED_COLUMNS = 2**12
_PARTS_FILE = "parts.npz"
_EXTRACTOR = "extractor"
_MODALITY_PARTS = {"text": "text_wording", "image": "image_score"}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to correct: features, rates, weights in clicks after division by the dispersion between ads, log-odds.

    ``base`` are the log-odds of level and text with each week's own shift added, shape (n,): what is left is
    differences between the ads of one week.
    """

    X: pd.DataFrame
    y: FloatArray
    w: FloatArray
    base: FloatArray


class Member(ABC):
    """A correction of log-odds that is fitted on rows.

    Parameters
    ----------
    config : AdScoreConfig
    features : sequence of str
        Numeric columns that it may use.
    """

    def __init__(self, config: AdScoreConfig, features: Sequence[str]) -> None:
        self.config = config
        self.features = list(features)

    @abstractmethod
    def fit(self, rows: Rows, later: Rows | None) -> Self:
        """Fit; the later rows say when to stop. Without them the complexity of the fit before is kept."""

    @abstractmethod
    def correction(self, X: pd.DataFrame) -> FloatArray:
        """Return what is added to the log-odds of each row, shape (n,)."""

    @abstractmethod
    def contributions(self, X: pd.DataFrame) -> Contributions:
        """Return the parts of each row's correction by feature."""

    @abstractmethod
    def importance(self) -> dict[str, float]:
        """Return the share of each feature in the correction; sums to 1, or all are 0."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the fitted state into an existing folder."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, config: AdScoreConfig, features: Sequence[str]) -> Self:
        """Read what `save` wrote."""

    def training_curve(self) -> list[EpochRecord]:
        """Return the log-loss by epoch; empty for what is not trained in epochs."""
        return []

    def update(self, rows: Rows) -> None:  # noqa: B027 - most members cannot, and need not say so
        """Learn on from later rows; a member that cannot stays as it is."""


class Trees(Member):
    """Boosted trees, stopped early."""

    model_: BoostedRate

    @override
    def fit(self, rows: Rows, later: Rows | None) -> Self:
        p = expit(rows.base)
        clicks_per_ad = float(rows.w @ (p * (1 - p))) / max(terms.n_ads(rows.X), 1)
        trees = self.model_.n_trees_ if later is None and hasattr(self, "model_") else self.config.n_estimators
        if trees == 0:
            return self
        held = None if later is None else (self._numbers(later.X), later.y, later.w, later.base)
        self.model_ = self._unfitted(trees, clicks_per_ad).fit(
            self._numbers(rows.X), rows.y, rows.w, base_margin=rows.base, validation=held
        )
        return self

    @override
    def correction(self, X: pd.DataFrame) -> FloatArray:
        return self.model_.predict_margin(self._numbers(X), base_margin=np.zeros(len(X)))

    @override
    def contributions(self, X: pd.DataFrame) -> Contributions:
        model = self.model_
        return tree_contributions(model.booster_, self._numbers(X), n_trees=model.n_trees_).named(self.features)

    @override
    def importance(self) -> dict[str, float]:
        return self.model_.feature_importance()

    @override
    def save(self, folder: Path) -> None:
        self.model_.save(folder)

    @classmethod
    @override
    def load(cls, folder: Path, config: AdScoreConfig, features: Sequence[str]) -> Self:
        from within_ml.models.boosted import BoostedRate

        member = cls(config, features)
        member.model_ = BoostedRate.load(folder)
        return member

    def _numbers(self, X: pd.DataFrame) -> pd.DataFrame:
        return X[self.features].astype(np.float64)

    def _unfitted(self, n_estimators: int, clicks_per_ad: float) -> BoostedRate:
        from within_ml.models.boosted import BoostedRate

        config = self.config
        return BoostedRate(
            n_estimators=n_estimators,
            learning_rate=config.learning_rate,
            max_depth=config.max_depth,
            min_child_weight=max(config.min_child_weight, config.min_leaf_ads * clicks_per_ad),
            reg_lambda=config.reg_lambda,
            n_threads=config.n_threads,
            random_state=config.random_state,
        )


class Linear(Member):
    """A linear model of encoded features that can learn on from day to day."""

    @override
    def fit(self, rows: Rows, later: Rows | None) -> Self:
        from within_ml.models.dynamic_linear import DynamicLinear
        from within_ml.models.row_encoding import RowEncoder

        X = rows.X[[*self.features, *_CATEGORIES]]
        self.encoder_ = RowEncoder(_ENCODED_COLUMNS, categorical=_CATEGORIES).fit(X)
        # Each week's shift is in the offset, and no intercept learns it a second time.
        self.model_ = DynamicLinear(
            regularization=self.config.linear_regularization, alpha=self.config.linear_alpha, fit_intercept=False
        )
        self.update(rows)
        share, parts = rows.w / rows.w.sum(), self._parts(rows.X)
        self.mean_ = share @ parts
        self.spread_ = np.sqrt(share @ (parts - self.mean_) ** 2)
        return self

    @override
    def update(self, rows: Rows) -> None:
        self.model_.fit_incremental(self._encoded(rows.X), rows.y, rows.w, offset=rows.base)

    @override
    def correction(self, X: pd.DataFrame) -> FloatArray:
        return self.model_.predict_margin(self._encoded(X), offset=np.zeros(len(X)))

    @override
    def contributions(self, X: pd.DataFrame) -> Contributions:
        parts = self._parts(X)
        return Contributions.of(self._names(), parts - self.mean_, base=float(self.mean_.sum()))

    @override
    def importance(self) -> dict[str, float]:
        total = float(self.spread_.sum()) or 1.0
        return {name: float(spread) / total for name, spread in zip(self._names(), self.spread_, strict=True)}

    @override
    def save(self, folder: Path) -> None:
        self.encoder_.save(folder)
        self.model_.save(folder)
        np.savez(folder / _PARTS_FILE, mean=self.mean_, spread=self.spread_)

    @classmethod
    @override
    def load(cls, folder: Path, config: AdScoreConfig, features: Sequence[str]) -> Self:
        from within_ml.models.dynamic_linear import DynamicLinear
        from within_ml.models.row_encoding import RowEncoder

        member = cls(config, features)
        member.encoder_, member.model_ = RowEncoder.load(folder), DynamicLinear.load(folder)
        with np.load(folder / _PARTS_FILE, allow_pickle=False) as arrays:
            member.mean_, member.spread_ = arrays["mean"], arrays["spread"]
        return member

    def _encoded(self, X: pd.DataFrame) -> sparse.csr_array:
        return self.encoder_.transform(X[[*self.features, *_CATEGORIES]])

    def _parts(self, X: pd.DataFrame) -> FloatArray:
        """What each feature adds to each row's log-odds, shape (n, features)."""
        weights = self.model_.get_coefficients().values
        parts: FloatArray = self.encoder_.contributions(self._encoded(X), weights).to_numpy(np.float64)
        return parts

    def _names(self) -> list[str]:
        return [block.source for block in self.encoder_.blocks_]


class Network(Member):
    """A neural network of numeric features, of the text's components and of the image's statistics."""

    model_: NetworkRate

    @override
    def fit(self, rows: Rows, later: Rows | None) -> Self:
        from within_ml.features.multimodal import MultiModalFeatureExtractor
        from within_ml.models.network_rate import NetworkRate

        again = later is None and hasattr(self, "model_")
        epochs, curve = (self.model_.best_epoch_, self.model_.training_curve_) if again else (self.config.epochs, [])
        if epochs == 0:
            return self
        config = self.config
        self.extractor_ = MultiModalFeatureExtractor(
            output_dim=config.network_components, random_state=config.random_state
        ).fit(self._content(rows.X), rows.y, rows.w)
        held = None
        if later is not None:
            held = (self._numbers(later.X), later.y, later.w, self._vectors(later.X), later.base)
        self.model_ = NetworkRate(epochs=epochs, device=config.device, random_state=config.random_state).fit(
            self._numbers(rows.X),
            rows.y,
            rows.w,
            modalities=self._vectors(rows.X),
            base_margin=rows.base,
            validation=held,
        )
        # The curve that said when to stop is kept: a fit on all rows afterwards has nothing to be measured on.
        self.model_.training_curve_ = curve or self.model_.training_curve_
        return self

    @override
    def correction(self, X: pd.DataFrame) -> FloatArray:
        return self.model_.predict_margin(self._numbers(X), modalities=self._vectors(X), base_margin=np.zeros(len(X)))

    @override
    def training_curve(self) -> list[EpochRecord]:
        return list(self.model_.training_curve_)

    @override
    def contributions(self, X: pd.DataFrame) -> Contributions:
        """Integrated gradients, not SHAP values: they add up as those do, along one path instead of all orders."""
        names, values, base = self.model_.contributions(self._numbers(X), modalities=self._vectors(X))
        names = tuple(_MODALITY_PARTS.get(name, name) for name in names)
        return Contributions.of(names, values, base=base, margin=self.correction(X))

    @override
    def importance(self) -> dict[str, float]:
        return self.model_.feature_importance()

    @override
    def save(self, folder: Path) -> None:
        self.model_.save(folder)
        (folder / _EXTRACTOR).mkdir()
        self.extractor_.save(folder / _EXTRACTOR)

    @classmethod
    @override
    def load(cls, folder: Path, config: AdScoreConfig, features: Sequence[str]) -> Self:
        from within_ml.features.multimodal import MultiModalFeatureExtractor
        from within_ml.models.network_rate import NetworkRate

        member = cls(config, features)
        member.model_ = NetworkRate.load(folder)
        member.extractor_ = MultiModalFeatureExtractor.load(folder / _EXTRACTOR)
        return member

    def _numbers(self, X: pd.DataFrame) -> pd.DataFrame:
        """Return the numeric columns; those of the image are a modality of their own."""
        return X[[name for name in self.features if terms.modality(name) is not Modality.IMAGE]].astype(np.float64)

    def _content(self, X: pd.DataFrame) -> pd.DataFrame:
        images = [name for name in self.features if terms.modality(name) is Modality.IMAGE]
        texts = ["headline", "body"] if Modality.TEXT in self.config.modalities else []
        return X[["platform", "account_id", *texts, *images]]

    def _vectors(self, X: pd.DataFrame) -> dict[str, FloatArray]:
        """Return text and image of each row, NaN where it has none."""
        found = self.extractor_.extract_features(self._content(X))
        every = {"text": (found.text, found.has_text), "image": (found.image, found.has_image)}
        return {
            name: np.where(there[:, None], vectors, np.nan)
            for name, (vectors, there) in every.items()
            if vectors.shape[1]
        }
