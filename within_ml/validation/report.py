"""The pictures of an evaluation: one self-contained HTML page, and the reliability curve alone for a UI.

Numbers come from `evaluation`; nothing is computed here but where a point lies on the paper.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from within_ml.metrics import ReliabilityCurve

if TYPE_CHECKING:
    from within_ml.validation.evaluation import EvaluationReport

_TEMPLATE = "report.html.j2"
_SIZE, _LEFT, _EDGE = 420.0, 64.0, 44.0
_FEATURES_SHOWN = 20


def render_html(report: EvaluationReport) -> str:
    """Return the page: parts, baselines, reliability curve, feature importance; no script and no outside resource."""
    importance = list(report.feature_importance.items())[:_FEATURES_SHOWN]
    page: str = _template().render(
        report=report,
        curve=_points(report.reliability),
        importance=importance,
        largest=max((share for _, share in importance), default=1.0) or 1.0,
    )
    return page


def reliability_figure_svg(curve: ReliabilityCurve) -> str:
    """Return the reliability curve as a stand-alone SVG document of a few kB."""
    return str(_template().module.reliability(_points(curve))).strip()


def reliability_figure_png(curve: ReliabilityCurve, *, quantity: str = "ctr") -> bytes:
    """Return the reliability curve of a quantity as a PNG of less than 100 kB, for a UI that shows no SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Figure instead of pyplot: no global state, no display, safe in a worker's thread.
    figure = Figure(figsize=(4.2, 4.2), dpi=96, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    high = _limit(curve)
    axes.plot([0, high], [0, high], color="0.7", linewidth=1)
    errors = [
        # A bound that is the rate itself differs from it in the last digit.
        [max(o - lo, 0.0) for o, lo in zip(curve.observed, curve.lower, strict=True)],
        [max(up - o, 0.0) for o, up in zip(curve.observed, curve.upper, strict=True)],
    ]
    axes.errorbar(curve.predicted, curve.observed, yerr=errors, fmt="o-", markersize=4, capsize=2, color="#2458a6")
    axes.set(xlim=(0, high), ylim=(0, high), xlabel=f"predicted {quantity}", ylabel=f"observed {quantity}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def reliability_thumbnail_svg(curve: ReliabilityCurve) -> str:
    """Return the reliability curve without scales as an SVG of at most 700 bytes, for a table of a UI.

    >>> from within_ml.metrics import reliability_curve
    >>> svg = reliability_thumbnail_svg(reliability_curve([0.0, 1.0, 1.0, 1.0], [0.1, 0.1, 0.9, 0.9], bins=2))
    >>> len(svg) < 700
    True
    """
    side, high = 180, _limit(curve)

    def place(value: float) -> int:
        return round(min(max(value / high, 0.0), 1.0) * side)

    rows = list(zip(curve.predicted, curve.observed, curve.lower, curve.upper, strict=True))
    line = "L".join(f"{place(p)} {side - place(o)}" for p, o, _, _ in rows)
    bars = "".join(f"M{place(p)} {side - place(lo)}V{side - place(up)}" for p, _, lo, up in rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{side}" fill="none" stroke="#2458a6">'
        f'<path d="M0 0V{side}H{side}M0 {side}L{side} 0" stroke="#aaa"/>'
        f'<path d="M{line}{bars}" stroke-width="2"/>'
        f'<text x="4" y="12" font-size="10" stroke="none" fill="#888">'
        f"observed over predicted, to {high:.2g}</text></svg>"
    )


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("within_ml", "validation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    return environment.get_template(_TEMPLATE)


def _points(curve: ReliabilityCurve) -> dict[str, Any]:
    """Return the curve in pixels, with ticks."""
    high = _limit(curve)

    def x(value: float) -> float:
        return round(_LEFT + value / high * (_SIZE - _LEFT - 12), 1)

    def y(value: float) -> float:
        return round(_SIZE - _EDGE - value / high * (_SIZE - _EDGE - 12), 1)

    rows = zip(curve.predicted, curve.observed, curve.lower, curve.upper, curve.impressions, strict=True)
    points = [
        {"x": x(p), "y": y(o), "low": y(max(lo, 0.0)), "high": y(min(up, high)), "p": p, "o": o, "n": n}
        for p, o, lo, up, n in rows
    ]
    ticks = [{"x": x(value), "y": y(value), "label": f"{value:.3g}"} for value in _ticks(high)]
    return {"size": _SIZE, "x0": x(0), "y0": y(0), "x1": x(high), "y1": y(high), "points": points, "ticks": ticks}


def _limit(curve: ReliabilityCurve) -> float:
    return 1.05 * max([*curve.predicted, *curve.upper], default=1.0) or 1.0


def _ticks(high: float) -> Sequence[float]:
    """About five round values from 0 to ``high``."""
    rough = high / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [i * step for i in range(int(high / step) + 1)]


def _number(value: float | None, digits: int = 4) -> str:
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:,.0f}" if digits == 0 else f"{value:.{digits}f}"
