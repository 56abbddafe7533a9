"""An account's days as a picture: a metric, its expected band and the anomalies in it.

PNG bytes; what is drawn is computed elsewhere.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd

from within_ml.anomalies.metrics import NAMES
from within_ml.errors import InputError, shown

_DPI = 80
_COLOURS = 256
MAX_DAYS = 120
"""Of longer histories the last days are drawn."""


def account_plot(metrics: pd.DataFrame, account_id: str, *, names: Sequence[str] = NAMES) -> bytes:
    """Draw an account's metrics by day, each with its expected band and its anomalies marked, as PNG.

    Parameters
    ----------
    metrics : DataFrame
        Rows of ``performance_metrics``, such as `AnomalyReport.metrics`.
    account_id : str
        The account.
    names : sequence of str
        Metrics to draw, each where it is known.

    Raises
    ------
    InputError
        If the account has no rows.
    """
    from matplotlib import pyplot as plt
    from PIL import Image

    mine = metrics[(metrics["account_id"] == account_id) & metrics["metric"].isin(list(names))]
    if mine.empty:
        known = shown(metrics["account_id"].unique())
        raise InputError(f"account_id must have rows in metrics ({known}), however: {account_id!r}.")
    chosen = [name for name in names if (mine["metric"] == name).any()]
    drawn, small = io.BytesIO(), io.BytesIO()
    # Without a display, whatever the process is set to.
    with plt.rc_context({"backend": "agg", "font.size": 8}):
        figure, axes = plt.subplots(-(-len(chosen) // 2), min(len(chosen), 2), figsize=(10, 1 + 1.1 * len(chosen)))
        try:
            flat = getattr(axes, "flat", [axes])
            for axis, name in zip(flat, chosen, strict=False):
                _draw(axis, mine[mine["metric"] == name].sort_values("date").tail(MAX_DAYS), name)
            for axis in list(flat)[len(chosen) :]:
                axis.set_visible(False)
            figure.suptitle(f"Account {account_id}: what came, and the band that was expected")
            figure.autofmt_xdate()
            figure.tight_layout()
            figure.savefig(drawn, format="png", dpi=_DPI)
        finally:
            plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()


def _draw(axis: object, rows: pd.DataFrame, name: str) -> None:
    axis.fill_between(rows["date"], rows["lower"], rows["upper"], color="#cfe0f3", label="expected band")  # type: ignore[attr-defined]
    axis.plot(rows["date"], rows["expected"], color="#7a9cc6", linewidth=0.8)  # type: ignore[attr-defined]
    axis.plot(rows["date"], rows["value"], color="#222222", linewidth=1.0)  # type: ignore[attr-defined]
    odd = rows[rows["is_anomaly"]]
    axis.plot(odd["date"], odd["value"], "o", color="#d62728", markersize=4)  # type: ignore[attr-defined]
    axis.set_title(name)  # type: ignore[attr-defined]
    axis.set_ylim(bottom=0)  # type: ignore[attr-defined]
