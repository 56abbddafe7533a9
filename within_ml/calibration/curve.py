"""Observed against predicted rates before and after calibration, kept with the fit and drawn on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from within_ml.metrics import ReliabilityCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CalibrationCurve:
    """Bins of the rows of a fit by raw (``before``) and by calibrated prediction (``after``).

    The rows are those of the fit, so that ``after`` shows what the map could do, not what it will do.
    """

    before: ReliabilityCurve
    after: ReliabilityCurve

    @classmethod
    def empty(cls) -> Self:
        """Return the curve of no rows.

        >>> CalibrationCurve.empty().before.predicted
        ()
        """
        none = ReliabilityCurve((), (), (), (), ())
        return cls(none, none)

    def draw(self, raw: FloatArray, calibrated: FloatArray, *, title: str) -> Figure:
        """Draw both curves with 95 % intervals, and on the first the map ``raw`` → ``calibrated``, shape (m,)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4.2), layout="constrained")
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for axis, curve, name in zip(axes, (self.before, self.after), ("before", "after"), strict=True):
            _draw_bins(axis, curve)
            axis.set_title(f"{name} calibration")
            axis.set_xlabel("predicted rate")
        axes[0].plot(raw, calibrated, color="tab:orange", label="fitted map")
        axes[0].set_ylabel("observed rate")
        axes[0].legend(frameon=False)
        figure.suptitle(title)
        if self.before.observed:
            # A few extreme predictions must not press all bins into a corner.
            highest = max(*self.before.predicted, *self.before.observed, *self.after.predicted) * 1.15
            axes[0].set_xlim(0, min(highest, 1.0))
            axes[0].set_ylim(0, min(highest, 1.0))
        return figure


def _draw_bins(axis: Any, curve: ReliabilityCurve) -> None:
    axis.axline((0, 0), slope=1, color="0.7", linewidth=1, label="perfect")
    observed = np.array(curve.observed)
    # Wilson's interval contains the observed rate but for rounding.
    below, above = observed - np.array(curve.lower), np.array(curve.upper) - observed
    reach = np.maximum(np.stack([below, above]), 0.0)
    axis.errorbar(curve.predicted, observed, yerr=reach, fmt="o", markersize=4, capsize=2, label="bins of fit")
