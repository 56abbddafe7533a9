"""Drift: how far a night's features or predictions are from the training rows, judged by how far past nights were.

Row-level tests alarm on almost every ordinary night, since nights differ by more than chance. Here each night gives one
number per feature and distance, and the night is told to drift where that number is unlike those of past nights.
Counting belongs in `sketch`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError, shown
from within_ml.monitoring.sketch import Bins, Sketch

FloatArray = NDArray[np.float64]

MIN_NIGHTS = 8
"""Past nights before there is a verdict."""

MADS = 4.0
"""A night is far if it is so many (normal-consistent) median absolute deviations above the median of past nights."""

FLOORS = {"ks": 0.02, "psi": 0.02}
"""A distance less than this above the median of past nights is no drift, however alike past nights were."""

MIN_FEATURES, MIN_SHARE = 2, 0.1
"""A night drifts if at least so many of the judged features, and such a share of them, do,"""

STRONG = 2.0
"""or if one feature is so many times its threshold away."""

COLUMNS = (
    "feature",
    "rows",
    "missing_share",
    "ks",
    "psi",
    "ks_threshold",
    "psi_threshold",
    "ks_p",
    "psi_p",
    "nights",
    "drifted",
    "histogram",
)
"""Columns of `drift_of`."""

_DPI, _MAX_BARS = 80, 30


@dataclass(frozen=True, slots=True, eq=False)
class DriftReference:
    """The training rows that nights are compared with, as a sketch.

    Attributes
    ----------
    training : Sketch

    Examples
    --------
    >>> rows = pd.DataFrame({"x": np.arange(1000.0)})
    >>> reference = DriftReference.from_frame(rows, ["x"])
    >>> told = drift_of(reference.sketch(rows.assign(x=rows["x"] + 500)), reference)
    >>> round(float(told["ks"].iloc[0]), 2), bool(told["drifted"].iloc[0])
    (0.5, False)
    """

    training: Sketch

    @classmethod
    def from_frame(
        cls,
        features: pd.DataFrame,
        names: Sequence[str],
        *,
        bins: int = 20,
        sample_weight: FloatArray | None = None,
    ) -> DriftReference:
        """Place the bins by the training rows and count them.

        Parameters
        ----------
        features : DataFrame, shape (n, …)
            At least one row.
        names : sequence of str
            Columns to watch.
        bins : int
            Quantile bins of a numeric column, named levels of a categorical one; at least 2.
        sample_weight : array of shape (n,), optional

        Raises
        ------
        InputError
            If there are no rows, no names, a column is missing or ``bins`` is below 2.
        """
        missing = [name for name in names if name not in features.columns]
        if missing or not len(features) or not names or bins < 2:
            raise InputError(
                "A reference needs rows, names of their columns and at least 2 bins; it got "
                f"{len(features)} rows, {len(names)} names, {bins} bins; missing: {shown(missing)}."
            )
        placed = [Bins.of(features[name], name, bins=bins) for name in dict.fromkeys(names)]
        return cls(Sketch.of(features, placed, weights=sample_weight))

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that are watched."""
        return tuple(bins.name for bins in self.training.bins)

    def sketch(self, frame: pd.DataFrame, *, sample_weight: FloatArray | None = None) -> Sketch:
        """Count a night's rows in the reference's bins.

        Raises
        ------
        InputError
            As `Sketch.of`.
        """
        return Sketch.of(frame, self.training.bins, weights=sample_weight)

    def nights(self, features: pd.DataFrame) -> pd.DataFrame:
        """Return ``date``, ``feature``, ``ks`` and ``psi`` of each day of some rows: past nights for `drift_of`.

        Of the training rows themselves it gives a verdict from the first night on; such nights are a little closer to
        the reference than later ones, being a part of it.

        Raises
        ------
        InputError
            If there is no column ``date``.
        """
        if "date" not in features.columns:
            raise InputError("nights needs a column date.")
        told = []
        for day, rows in features.groupby("date", sort=True):
            told.append(_distances(self.sketch(rows), self).assign(date=day))
        columns = ["date", "feature", "ks", "psi"]
        return pd.concat(told, ignore_index=True)[columns] if told else pd.DataFrame(columns=columns)

    def to_json(self) -> str:
        """Return the reference as JSON."""
        return self.training.to_json()

    @classmethod
    def from_json(cls, text: str) -> DriftReference:
        """Return what `to_json` was made of."""
        return cls(Sketch.from_json(text))


def drift_of(sketch: Sketch, reference: DriftReference, past_statistics: pd.DataFrame | None = None) -> pd.DataFrame:
    """Judge a night: its distances from the reference, beside those of past nights.

    A feature drifts if its KS or its PSI is above the threshold of past nights: their median and `MADS` median absolute
    deviations, at least `FLOORS` above the median. Before `MIN_NIGHTS` past nights there is no threshold and no
    verdict.

    Parameters
    ----------
    sketch : Sketch
        Of the night, from ``reference.sketch``.
    reference : DriftReference
    past_statistics : DataFrame, optional
        ``feature``, ``ks`` and ``psi`` of past nights against the same reference: earlier rows of this function, or
        `DriftReference.nights`. As many nights as are to be a night's measure; 28 to 60 know all weekdays.

    Returns
    -------
    DataFrame
        One row per feature with `COLUMNS`, in the reference's order; ``ks`` is missing where there are no values, and
        for a categorical feature it is the largest difference of the shares summed up by the reference's frequency;
        ``ks_p`` and ``psi_p`` are the shares of past nights at least as far.

    Raises
    ------
    InputError
        If the sketch has other bins than the reference, or past statistics lack a column.
    """
    if sketch.bins != reference.training.bins:
        raise InputError("sketch must be made by the reference's own sketch(); its bins are different.")
    told = _distances(sketch, reference)
    past = _past(past_statistics)
    for name in ("ks", "psi"):
        judged = [_judged(value, past.get(feature, {}).get(name, _NO_VALUES), FLOORS[name])
                  for feature, value in zip(told["feature"], told[name], strict=True)]  # fmt: skip
        told[f"{name}_threshold"] = [j[0] for j in judged]
        told[f"{name}_p"] = [j[1] for j in judged]
    told["nights"] = [len(past.get(feature, {}).get("psi", _NO_VALUES)) for feature in told["feature"]]
    # A comparison with a missing threshold or distance is False.
    told["drifted"] = (told["ks"] > told["ks_threshold"]) | (told["psi"] > told["psi_threshold"])
    return told[list(COLUMNS)]


def night_drifted(rows: pd.DataFrame) -> bool:
    """Return whether a night as a whole drifts.

    Rule: at least `MIN_FEATURES` features and at least `MIN_SHARE` of those with a verdict drift (of a single one, a
    prediction, that one), or one of them is `STRONG` times its threshold away. One feature of a hundred is a little
    beyond its threshold on many an ordinary night.

    Parameters
    ----------
    rows : DataFrame
        Of `drift_of`, or of ``feature_drift`` for one night.

    Examples
    --------
    >>> rows = pd.DataFrame({"psi": [0.12] * 2 + [0.01] * 8, "psi_threshold": 0.1, "ks": 0.0, "ks_threshold": 0.1,
    ...                      "drifted": [True] * 2 + [False] * 8})
    >>> night_drifted(rows), night_drifted(rows[1:]), night_drifted(rows[1:].replace(0.12, 0.3))
    (True, False, True)
    """
    judged = rows[rows["psi_threshold"].notna()]
    drifted = int(judged["drifted"].astype(bool).sum())
    several = drifted >= min(MIN_FEATURES, max(len(judged), 1)) and drifted >= MIN_SHARE * len(judged)
    # A comparison with a missing distance is False.
    strong = [(judged[name] >= STRONG * judged[f"{name}_threshold"]).any() for name in ("ks", "psi")]
    return bool(several or any(strong))


def drift_chart(rows: pd.DataFrame, *, max_features: int = _MAX_BARS) -> bytes:
    """Draw the PSI of each feature beside its threshold, the farthest first, as PNG.

    Parameters
    ----------
    rows : DataFrame
        Of `drift_of`, at least one.
    max_features : int
        Bars at most.

    Raises
    ------
    InputError
        If there are no rows.
    """
    if rows.empty:
        raise InputError("A chart needs at least one feature; there are no rows.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    psi = rows["psi"].to_numpy(np.float64, na_value=0.0)
    threshold = rows["psi_threshold"].to_numpy(np.float64, na_value=np.nan)
    far = rows["drifted"].to_numpy(np.bool_)
    # Beyond the threshold first, then by how near to it.
    nearness = psi / np.where(np.isfinite(threshold) & (threshold > 0), threshold, np.maximum(psi.max(), 1e-12))
    order = np.lexsort((rows["feature"].astype(str).to_numpy(), -nearness, ~far))[:max_features][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.22 * len(order)), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(order))
    axes.barh(place, psi[order], color=["#c0392b" if far[i] else "#7f8c8d" for i in order])
    axes.plot(threshold[order], place, "k|", markersize=9, label="threshold of past nights")
    axes.set_yticks(place, rows["feature"].astype(str).to_numpy()[order], fontsize=8)
    axes.set_xlabel("population stability index against the training rows (red: farther than past nights)")
    axes.legend(loc="lower right", fontsize=8)
    drawn = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(drawn, format="png", dpi=_DPI, metadata={"Software": None})
    return drawn.getvalue()


_NO_VALUES: FloatArray = np.empty(0)


def _distances(sketch: Sketch, reference: DriftReference) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for bins, night, training in zip(sketch.bins, sketch.counts, reference.training.counts, strict=True):
        rows.append(
            {
                "feature": bins.name,
                "rows": sketch.rows,
                "missing_share": sketch.missing_share(bins.name),
                "ks": ks_of_counts(night[:-1], training[:-1]),
                "psi": psi_of_counts(night, training),
                "histogram": json.dumps(
                    {"bins": list(bins.labels), "counts": night[:-1].tolist(), "missing": float(night[-1])},
                    ensure_ascii=False,
                ),
            }
        )
    return pd.DataFrame(rows)


def ks_of_counts(night: FloatArray, reference: FloatArray) -> float:
    """Return the largest difference of two distribution functions at the bins' ends, NaN where one has no rows.

    >>> ks_of_counts(np.array([1.0, 1.0]), np.array([1.0, 3.0]))
    0.25
    """
    if not (night.sum() > 0 and reference.sum() > 0):
        return float("nan")
    difference = np.cumsum(night) / night.sum() - np.cumsum(reference) / reference.sum()
    return float(np.abs(difference).max())


def psi_of_counts(night: FloatArray, reference: FloatArray) -> float:
    """Return the population stability index, ``Σ (p − q) · log(p / q)`` in nats, 0 where one has no rows.

    Half a row is added to each bin, spread as in both together, so that an empty bin counts by how many rows there were
    that could have filled it.

    >>> round(psi_of_counts(np.array([100.0, 100.0]), np.array([100.0, 300.0])), 2)
    0.27
    """
    n, m = night.sum(), reference.sum()
    if not (n > 0 and m > 0):
        return 0.0
    pooled = (night / n + reference / m) / 2
    extra = 0.5 * np.count_nonzero(pooled)
    p, q = (night + extra * pooled) / (n + extra), (reference + extra * pooled) / (m + extra)
    there = pooled > 0
    return float(((p[there] - q[there]) * np.log(p[there] / q[there])).sum())


def _past(statistics: pd.DataFrame | None) -> dict[str, dict[str, FloatArray]]:
    if statistics is None or statistics.empty:
        return {}
    missing = [name for name in ("feature", "ks", "psi") if name not in statistics.columns]
    if missing:
        raise InputError(f"past_statistics must have the columns feature, ks and psi; missing: {shown(missing)}.")
    return {
        str(feature): {name: rows[name].dropna().to_numpy(np.float64) for name in ("ks", "psi")}
        for feature, rows in statistics.groupby("feature")
    }


def _judged(value: float, past: FloatArray, floor: float) -> tuple[float, float]:
    """Return threshold and share of past nights at least as far; NaN without enough nights."""
    if len(past) < MIN_NIGHTS:
        return float("nan"), float("nan")
    middle = float(np.median(past))
    spread = 1.4826 * float(np.median(np.abs(past - middle)))
    far = float(np.mean(past >= value)) if np.isfinite(value) else float("nan")
    return middle + max(MADS * spread, floor), far
