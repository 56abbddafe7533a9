"""Pictures of contributions, drawn by `shap` from our values: a summary of many rows and the waterfall of one.

PNG bytes; what is drawn is computed in `contributions`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from within_ml.errors import InputError
from within_ml.explain.contributions import Contributions

_DPI = 80
_COLOURS = 128
MAX_ROWS = 1_000
"""Of more rows every n-th is drawn: a picture does not get clearer by more points, only larger."""


def summary_plot(contributions: Contributions, X: pd.DataFrame, *, max_features: int = 15) -> bytes:
    """Draw the parts of many rows by feature, coloured by the feature's value (a beeswarm), as PNG.

    Points that would lie on each other are moved apart by chance.

    Parameters
    ----------
    contributions : Contributions
        Of n rows, at least one.
    X : DataFrame, shape (n, …)
        Values of the features; what it does not have is drawn grey.

    Raises
    ------
    InputError
        If there are no rows, or X has another number of them.
    """
    import shap

    explanation = _explanation(contributions, X)
    step = -(-len(X) // MAX_ROWS)

    def draw() -> None:
        shap.plots.beeswarm(explanation[::step], max_display=max_features, show=False)

    return _png(draw)


def waterfall_plot(contributions: Contributions, X: pd.DataFrame, row: int, *, max_features: int = 10) -> bytes:
    """Draw how one row's margin (log-odds) comes from its base and parts, as PNG.

    Raises
    ------
    InputError
        If there is no such row, or X has another number of rows.
    """
    import shap

    explanation = _explanation(contributions, X)
    if not 0 <= row < len(X):
        raise InputError(f"row must be one of the {len(X)} rows, counted from 0, however: {row}.")

    def draw() -> None:
        shap.plots.waterfall(explanation[row], max_display=max_features, show=False)

    return _png(draw)


def _explanation(contributions: Contributions, X: pd.DataFrame) -> Any:
    import shap

    n = len(contributions.margin)
    if n == 0 or len(X) != n:
        raise InputError(f"X must have the {n} rows of contributions, and at least one, however: {len(X)}.")
    data = np.full((n, len(contributions.names)), np.nan)
    for column, name in enumerate(contributions.names):
        if name in X.columns and pd.api.types.is_numeric_dtype(X[name]):
            data[:, column] = X[name].to_numpy(np.float64, na_value=np.nan)
    # Parts that are no columns have names alone.
    known = any(name in X.columns for name in contributions.names)
    return shap.Explanation(
        contributions.values,
        base_values=contributions.base,
        data=data if known else None,
        feature_names=list(contributions.names),
    )


def _png(draw: Callable[[], None]) -> bytes:
    from matplotlib import pyplot as plt
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    # Without a display, whatever the process is set to; a column without a value has no quantiles, which is no news.
    with plt.rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        figure = plt.figure()
        try:
            draw()
            plt.gcf().savefig(drawn, format="png", dpi=_DPI, bbox_inches="tight")
        finally:
            plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()
