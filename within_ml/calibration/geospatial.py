"""Calibration by region: offsets that regions share with their neighbours as far as neighbours are alike.

The estimator is here. The graph is in `neighbours`, the prior in `region_table`, the estimation in `regional_field`,
the map in `region_map`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.base import BaseEstimator

from within_ml.calibration.region_table import GEO_LEVELS, RegionTable
from within_ml.calibration.regional_field import Prior
from within_ml.calibration.regional_rows import FOLDS, Found, RegionRows
from within_ml.calibration.seasons import CLEARLY, Season, days_of
from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.metrics import check_rates

if TYPE_CHECKING:
    import plotly.graph_objects as go

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FALLBACKS = ("neighbors", "parent", "global")
"""What a region with too few impressions gets: what its neighbours imply, its parent's offset, or the overall level."""

_FLOOR = 1e-12
_PROBABILITY_FLOOR = 1e-12
_COVARIATE = "log_population"


@dataclass(frozen=True, slots=True)
class Covariate:
    """A covariate on trial: whether it was kept, and the log-loss per impression it saves on rows held out.

    Both figures are 0 where the data did not allow a trial.
    """

    kept: bool
    gain: float
    standard_error: float


class GeospatialCalibrator(BaseEstimator):  # type: ignore[misc]
    """Offsets of regions on the log-odds scale, with a prior along groups and along neighbours.

    The model::

        logit p' = logit p + level + [β · log population] + country + spatial unit + … + [season]
        spatial unit = σ · (√share · structured + √(1 - share) · unstructured)

    ``structured`` is an intrinsic autoregression on the graph of nearest neighbours (each unit is normal around the
    mean of its neighbours), ``unstructured`` is independent. Variances are estimated by marginal likelihood and the
    share is averaged over by it, so that a region learns from its neighbours exactly as far as neighbours are alike.
    Levels of country → state → city above and below ``geo_level`` have independent intercepts.

    Parameters
    ----------
    geo_level : {"country", "state", "city"}
        Level of the region table that has neighbours.
    smoothing_neighbors : int
        Nearest neighbours that each unit is joined with.
    min_samples_per_region : float
        A region with fewer impressions (rows, without weights) is not heard itself, see ``fallback_strategy``.
    fallback_strategy : {"neighbors", "parent", "global"}
        What such a region gets: the value that its neighbours and parents imply, its parents' alone, or the level.

    Attributes
    ----------
    spatial_share_ : float
        Share of the spatial level's variance that neighbours share.
    variances_ : dict of str to float
        Variance by part of the prior; "spatial" is that of ``geo_level``.
    covariates_ : dict of str to Covariate
        "log_population" (the log density where every region has the same area) and "season" (two annual harmonics; on
        trial only where ``dates`` span a year): kept only where log-loss on held-out regions, or held-out stretches of
        time, falls by more than two of its standard errors.
    moran_before_, moran_after_ : float
        Moran's I of the regions' standardised residuals without and with the offsets; NaN below three regions.
    dispersion_ : float
        Variance of rows in units of the binomial one (Pearson, at least 1); it divides the weights.

    Notes
    -----
    Besag, York and Mollié 1991; in the parameters of Riebler, Sørbye, Simpson and Rue 2016 (BYM2). The likelihood is
    linearised at the mode (Laplace). Time grows with the cube of the number of regions: made for hundreds.

    Examples
    --------
    >>> table = pd.DataFrame({"region": ["n1", "n2", "n3", "s1", "s2"], "country": "X", "state": list("abcde"),
    ...     "city": None, "latitude": [60, 61, 60.5, 40, 41.0], "longitude": [0, 0, 1, 0, 0.0], "population": None})
    >>> regions = np.repeat(["n1", "n2", "s1", "s2"], 50)
    >>> raw, n = np.full(200, 0.03), np.full(200, 2000)
    >>> clicks = np.random.default_rng(0).binomial(n, np.repeat([0.04, 0.04, 0.02, 0.02], 50))
    >>> calibrator = GeospatialCalibrator(smoothing_neighbors=1)
    >>> calibrator = calibrator.fit(raw, clicks / n, regions, sample_weight=n, region_table=table)
    >>> calibrator.transform([0.03, 0.03], ["n1", "s1"]).round(2)
    array([0.04, 0.02])
    >>> bool(calibrator.transform([0.03], ["n3"])[0] > 0.03)  # no rows: as its neighbours
    True
    """

    def __init__(
        self,
        geo_level: str = "state",
        smoothing_neighbors: int = 5,
        min_samples_per_region: float = 30.0,
        fallback_strategy: str = "neighbors",
    ) -> None:
        self.geo_level = geo_level
        self.smoothing_neighbors = smoothing_neighbors
        self.min_samples_per_region = min_samples_per_region
        self.fallback_strategy = fallback_strategy

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        regions: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        region_table: pd.DataFrame,
        dates: ArrayLike | None = None,
    ) -> Self:
        """Fit the offsets.

        Parameters
        ----------
        X : array-like, shape (n,)
            Raw probabilities, on rows that the model was not fitted on.
        y : array-like, shape (n,)
            Observed rates in [0, 1].
        regions : array-like, shape (n,)
            Region of each row. One that the table lacks gets an offset of its own, without neighbours; null is none.
        sample_weight : array-like, shape (n,), optional
            Impressions.
        region_table : DataFrame
            Columns region, country, state, city, latitude, longitude (degrees), population; all but region may be null.
        dates : array-like, shape (n,), optional
            Day of each row, for the season.

        Raises
        ------
        InputError
            If a shape or range is wrong, nothing has weight, or a constructor argument is impossible.
        """
        self._check_parameters()
        y, p, w = check_rates(y, X, sample_weight, names=("y", "X", "sample_weight"))
        if not w.sum() > 0:
            raise InputError(
                f"The calibrator needs rows with impressions, however: sample_weight is zero in all {y.size} rows."
            )
        names = _names(regions, y.size)
        days = None if dates is None else days_of(dates, y.size)
        self.table_ = RegionTable.read(region_table, pd.Index(names[names != None], dtype=object))  # noqa: E711
        kept = w > 0
        place = pd.Index(self.table_.region, dtype=object).get_indexer(pd.Index(names, dtype=object))[kept]
        rows = RegionRows(_margin(p)[kept], y[kept], w[kept], np.where(place < 0, self.table_.region.size, place))
        self._fit_offsets(rows, None if days is None else days[kept])
        return self

    def transform(self, X: ArrayLike, regions: ArrayLike, *, dates: ArrayLike | None = None) -> FloatArray:
        """Return calibrated probabilities, shape (n,); a region that is in no table gets the overall level.

        ``dates`` counts only where the season was kept; without it the mean of the year is taken.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        InputError
            If a shape or range is wrong.
        """
        self._check_fitted()
        p = np.asarray(X, dtype=np.float64)
        if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
            raise InputError(f"X must be probabilities in [0, 1] of shape (n,), however: shape {p.shape}.")
        names = _names(regions, p.size)
        place = pd.Index(self.table_.region, dtype=object).get_indexer(pd.Index(names, dtype=object))
        margin = _margin(p) + np.append(self.offset_, self.level_)[place]
        if dates is not None:
            margin = margin + self.season_.effect(days_of(dates, p.size))
        calibrated: FloatArray = expit(margin)
        return calibrated

    def fit_transform(
        self,
        X: ArrayLike,
        y: ArrayLike,
        regions: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        region_table: pd.DataFrame,
        dates: ArrayLike | None = None,
    ) -> FloatArray:
        """Fit, and return the calibrated probabilities of the same rows, shape (n,)."""
        self.fit(X, y, regions, sample_weight, region_table=region_table, dates=dates)
        return self.transform(X, regions, dates=dates)

    def get_region_factors(self) -> pd.DataFrame:
        """Return one row per region, ordered by name.

        Columns: ``region``; ``offset``, added to the log-odds, and its ``standard_error``; ``impressions``; ``source``:
        "own" (the region's own rows and those of its neighbours), or what stood in for too few of them, "neighbors",
        "parent" or "global".
        """
        self._check_fitted()
        return pd.DataFrame(
            {
                "region": self.table_.region,
                "offset": self.offset_,
                "standard_error": self.standard_error_,
                "impressions": self.impressions_,
                "source": np.where(self._heard(), "own", self.fallback_strategy).astype(object),
            }
        )

    def plot_region_map(self) -> go.Figure:
        """Draw the offsets on outlines of the US states, other regions as points, as a plotly figure."""
        from within_ml.calibration.region_map import region_map

        self._check_fitted()
        return region_map(self._mapped())

    def region_map_png(self) -> bytes:
        """Draw the same map as a PNG."""
        from within_ml.calibration.region_map import region_map_png

        self._check_fitted()
        return region_map_png(self._mapped())

    def to_dict(self) -> dict[str, Any]:
        """Return parameters and fitted state as JSON values; floats survive JSON exactly."""
        self._check_fitted()
        return {
            "parameters": self.get_params(),
            "table": self.table_.to_dict(),
            "offset": self.offset_.tolist(),
            "standard_error": self.standard_error_.tolist(),
            "impressions": self.impressions_.tolist(),
            "level": self.level_,
            "season": self.season_.coefficients.tolist(),
            "spatial_share": self.spatial_share_,
            "variances": self.variances_,
            "covariates": {name: asdict(tried) for name, tried in self.covariates_.items()},
            "moran": [None if np.isnan(value) else value for value in (self.moran_before_, self.moran_after_)],
            "dispersion": self.dispersion_,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` gave.

        Raises
        ------
        ModelFormatError
            If a field is missing or of the wrong kind.
        """
        try:
            calibrator = cls(**state["parameters"])
            calibrator.table_ = RegionTable.from_dict(state["table"])
            calibrator.offset_, calibrator.standard_error_, calibrator.impressions_ = (
                np.array(state[name], dtype=np.float64) for name in ("offset", "standard_error", "impressions")
            )
            calibrator.level_, calibrator.dispersion_ = float(state["level"]), float(state["dispersion"])
            calibrator.season_ = Season(np.array(state["season"], dtype=np.float64))
            calibrator.spatial_share_ = float(state["spatial_share"])
            calibrator.variances_ = {str(name): float(v) for name, v in state["variances"].items()}
            calibrator.covariates_ = {str(name): Covariate(**tried) for name, tried in state["covariates"].items()}
            before, after = state["moran"]
            calibrator.moran_before_ = float("nan") if before is None else float(before)
            calibrator.moran_after_ = float("nan") if after is None else float(after)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"The state of a GeospatialCalibrator is not as it was saved ({error}).") from error
        return calibrator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array = True, False
        tags.target_tags.required = True
        return tags

    def _check_parameters(self) -> None:
        if self.geo_level not in GEO_LEVELS:
            raise InputError(f"geo_level must be one of {GEO_LEVELS}, however: {self.geo_level!r}.")
        if self.fallback_strategy not in FALLBACKS:
            raise InputError(f"fallback_strategy must be one of {FALLBACKS}, however: {self.fallback_strategy!r}.")
        if self.smoothing_neighbors < 1 or not self.min_samples_per_region >= 0:
            raise InputError(
                "smoothing_neighbors must be at least 1 and min_samples_per_region not negative, however: "
                f"{self.smoothing_neighbors}, {self.min_samples_per_region}."
            )

    def _check_fitted(self) -> None:
        if not hasattr(self, "offset_"):
            raise NotFittedError("GeospatialCalibrator must be fitted before it is used; call fit first.")

    def _heard(self) -> NDArray[np.bool_]:
        heard: NDArray[np.bool_] = self.impressions_ >= max(self.min_samples_per_region, _FLOOR)
        return heard

    def _fit_offsets(self, rows: RegionRows, days: IntArray | None) -> None:
        """Try the covariates one after the other, then estimate with those that were kept."""
        size = self.table_.region.size
        self.impressions_ = np.bincount(rows.place, weights=rows.w, minlength=size + 1)[:-1].astype(np.float64)
        prior = self.table_.prior(self.geo_level, self.smoothing_neighbors)
        heard, self.season_ = self._heard(), Season.none()
        found = rows.estimate(prior, heard)
        self.covariates_ = {}
        if days is not None:
            trial = Season.on_trial(rows.margin + rows.of(found), rows.y, rows.w / found.dispersion, days, folds=FOLDS)
            self.covariates_["season"] = Covariate(trial.kept, trial.gain, trial.standard_error)
            self.season_ = trial.season
            rows = rows.shifted(self.season_.effect(days))
            found = rows.estimate(prior, heard, start=found) if trial.kept else found
        with_population = _with(prior, self.table_.log_population)
        tried = self._tried(rows, heard, found, prior, with_population)
        self.covariates_[_COVARIATE] = tried
        if tried.kept:
            found = rows.estimate(with_population, heard, start=found)
        self._keep(rows, found, heard, [*prior.free])

    def _tried(
        self, rows: RegionRows, heard: NDArray[np.bool_], found: Found, prior: Prior, richer: Prior
    ) -> Covariate:
        """Compare two priors on regions that are left out, a fifth at a time."""
        places = np.flatnonzero(heard & (self.impressions_ > 0))
        if places.size < 2 * FOLDS or not self.table_.log_population.any():
            return Covariate(False, 0.0, 0.0)
        fold = np.full(heard.size, -1)
        fold[np.random.default_rng(0).permutation(places)] = np.arange(places.size) % FOLDS
        losses = [rows.held_out_loss(p, heard, fold, found) for p in (prior, richer)]
        gain = (losses[0] - losses[1])[places]
        error = float(gain.std(ddof=1) * np.sqrt(gain.size))
        total = float(self.impressions_[places].sum())
        return Covariate(bool(gain.sum() > CLEARLY * error), float(gain.sum()) / total, error / total)

    def _keep(self, rows: RegionRows, found: Found, heard: NDArray[np.bool_], free: list[str]) -> None:
        field = found.field
        self.level_ = float(field.parts["level"][0]) if heard.size else 0.0
        spatial = field.parts["spatial"]
        above = GEO_LEVELS[: GEO_LEVELS.index(self.geo_level)]
        parent = sum((field.parts[name] for name in above if name in field.parts), np.full(heard.size, self.level_))
        instead = {"neighbors": field.mean, "parent": parent, "global": np.full(heard.size, self.level_)}
        self.offset_ = np.where(heard, field.mean, instead[self.fallback_strategy])
        self.standard_error_ = field.standard_error
        self.spatial_share_ = field.share if spatial.size else 0.0
        self.variances_ = dict(zip([*free, "spatial"], field.free_variances.tolist(), strict=True))
        self.dispersion_ = found.dispersion
        weights = self.table_.weights(self.smoothing_neighbors)
        self.moran_before_ = rows.moran(np.full(heard.size + 1, self.level_), weights)
        self.moran_after_ = rows.moran(np.append(self.offset_, self.level_), weights)

    def _mapped(self) -> pd.DataFrame:
        columns = {name: getattr(self.table_, name) for name in ("latitude", "longitude")}
        return self.get_region_factors().assign(**columns, state=self.table_.groups[:, 1])


def _with(prior: Prior, covariate: FloatArray) -> Prior:
    """Add a covariate with a coefficient that is small until shown otherwise (standard deviation 1)."""
    return Prior(
        {**prior.fixed, _COVARIATE: np.outer(covariate, covariate)}, prior.free, prior.structured, prior.unstructured
    )


def _names(regions: ArrayLike, rows: int) -> NDArray[np.object_]:
    array = np.asarray(regions, dtype=object)
    if array.shape != (rows,):
        raise InputError(f"regions must have one value for each of X, shape ({rows},), however: {array.shape}.")
    codes, distinct = pd.factorize(array)
    # The last name stands where -1 points: a row without a region.
    names: NDArray[np.object_] = np.array([*map(str, distinct), None], dtype=object)[codes]
    return names


def _margin(p: FloatArray) -> FloatArray:
    margin: FloatArray = logit(np.clip(p, _PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR))
    return margin
