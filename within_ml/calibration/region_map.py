"""A map of the regions' offsets: real outlines of the US states, points for what has no outline here.

The outlines are projected here (Albers, as on maps of the US Geological Survey) and drawn on plain axes, so that
neither picture fetches anything from the network.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    import plotly.graph_objects as go

FloatArray = NDArray[np.float64]

OUTLINES = "calibration/data/us_states.topo.json"

_COLOURS = "RdBu"
_NO_VALUE = "#e6e6e6"
_LABEL = "offset (log-odds)"
_WIDTH, _HEIGHT = 900, 560


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A state: code (ISO 3166-2), name, and rings of shape (points, 2) in degrees, longitude first."""

    code: str
    name: str
    rings: tuple[FloatArray, ...]


@cache
def us_outlines() -> tuple[Outline, ...]:
    """Return the outlines of the US states, the District of Columbia, Puerto Rico and the Virgin Islands.

    >>> texas = next(outline for outline in us_outlines() if outline.code == "US-TX")
    >>> texas.name, len(texas.rings) > 0, bool((texas.rings[0][0] == texas.rings[0][-1]).all())
    ('Texas', True, True)
    """
    topology = json.loads(files("within_ml").joinpath(OUTLINES).read_text(encoding="utf-8"))
    scale, translate = (np.array(topology["transform"][name]) for name in ("scale", "translate"))
    arcs = [np.cumsum(np.array(arc), axis=0) * scale + translate for arc in topology["arcs"]]
    found = []
    for shape in topology["objects"]["states"]["geometries"]:
        rings = tuple(_ring(arcs, ring) for polygon in shape["arcs"] for ring in polygon)
        found.append(Outline(shape["id"], shape["properties"]["name"], rings))
    return tuple(found)


def region_map(regions: pd.DataFrame) -> go.Figure:
    """Draw offsets as a plotly figure.

    Parameters
    ----------
    regions : DataFrame
        Columns region, state (a path that ends in the state's name, or None), offset, standard_error, impressions,
        source, latitude, longitude. A region fills the outline whose code is its name or its state's; several regions
        of one state fill it with their mean by impressions and are drawn as points as well.
    """
    import plotly.graph_objects as go

    drawn = _drawn(regions)
    figure = go.Figure()
    for shape in drawn.shapes:
        x, y = (np.concatenate([np.append(ring[:, axis], np.nan) for ring in shape.rings])[:-1] for axis in (0, 1))
        figure.add_scatter(
            x=x.astype(np.float32), y=y.astype(np.float32), mode="lines", fill="toself",
            fillcolor=_colour(shape.value, drawn.limit),
            line={"color": "white", "width": 0.7}, text=shape.text, hoverinfo="text", hoveron="fills", showlegend=False,
            name=shape.text.split("<br>")[0],
        )  # fmt: skip
    bar = {"title": {"text": _LABEL}, "thickness": 14}
    # Markers carry the scale of colours, also where no region is drawn as a point.
    points = drawn.points
    figure.add_scatter(
        x=[*points["x"], None], y=[*points["y"], None], mode="markers", text=[*points["text"], ""], hoverinfo="text",
        marker={"color": [*points["offset"], 0.0], "colorscale": f"{_COLOURS}_r", "cmin": -drawn.limit,
                "cmax": drawn.limit, "size": 9, "line": {"color": "#555555", "width": 0.7}, "colorbar": bar},
        showlegend=False, name="regions",
    )  # fmt: skip
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, scaleanchor="x")
    figure.update_layout(
        title="Offset of each region", plot_bgcolor="white", width=_WIDTH, height=_HEIGHT,
        margin={"l": 10, "r": 10, "t": 50, "b": 10},
    )  # fmt: skip
    return figure


def region_map_png(regions: pd.DataFrame) -> bytes:
    """Draw the map of `region_map` as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    drawn = _drawn(regions)
    figure = Figure(figsize=(9, 5.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for shape in drawn.shapes:
        colour = _colour(shape.value, drawn.limit)
        axes.add_collection(PolyCollection(list(shape.rings), facecolors=colour, edgecolors="white", linewidths=0.5))
    scale = ScalarMappable(Normalize(-drawn.limit, drawn.limit), f"{_COLOURS}_r")
    points = drawn.points
    axes.scatter(
        points["x"],
        points["y"],
        c=scale.to_rgba(points["offset"]),
        s=30,
        edgecolors="#555555",
        linewidths=0.5,
        zorder=3,
    )
    axes.autoscale_view()
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title("Offset of each region")
    figure.colorbar(scale, ax=axes, label=_LABEL, shrink=0.7)
    stream = io.BytesIO()
    # Without the date and version that matplotlib writes by default, the same map is the same file.
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    rings: tuple[FloatArray, ...]
    value: float
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    shapes: tuple[_Shape, ...]
    points: pd.DataFrame
    limit: float


def _drawn(regions: pd.DataFrame) -> _Drawn:
    """Decide what fills an outline and what is a point, and project both."""
    by_name = {outline.code: outline for outline in us_outlines()} | {
        outline.name: outline for outline in us_outlines()
    }
    home = [
        _outline_of(by_name, region, state) for region, state in zip(regions["region"], regions["state"], strict=True)
    ]
    frame = regions.assign(home=home)
    filled = frame.dropna(subset="home").groupby("home")
    several = filled["region"].transform("size").reindex(frame.index).fillna(0) > 1
    lonely = frame["home"].isna() | several
    project = _american if _all_american(frame) else _plain
    shapes = []
    for outline in us_outlines() if len(filled) else ():
        inside = frame[frame["home"] == outline.code]
        rings = tuple(project(ring, outline.code) for ring in outline.rings)
        if inside.empty:
            shapes.append(_Shape(rings, float("nan"), f"{outline.name}<br>no region"))
            continue
        weight = inside["impressions"].to_numpy() + 1e-9
        value = float(np.average(inside["offset"], weights=weight))
        text = _text(inside.iloc[0], outline.name) if len(inside) == 1 else f"{outline.name}<br>{value:+.3f}"
        shapes.append(_Shape(rings, value, text))
    placed = frame[lonely & frame["latitude"].notna() & frame["longitude"].notna()]
    at = np.zeros((len(placed), 2))
    texts = []
    for k, (_, row) in enumerate(placed.iterrows()):
        place = np.array([[row["longitude"], row["latitude"]]])
        at[k] = project(place, row["home"] if isinstance(row["home"], str) else "")[0]
        texts.append(_text(row, str(row["region"])))
    points = pd.DataFrame({"x": at[:, 0], "y": at[:, 1], "offset": placed["offset"].to_numpy(), "text": texts})
    limit = float(np.abs(frame["offset"]).max()) if len(frame) else 0.0
    return _Drawn(tuple(shapes), points, max(limit, 1e-3))


def _outline_of(by_name: dict[str, Outline], region: object, state: object) -> str | None:
    last = str(state).rsplit(" / ", maxsplit=1)[-1] if isinstance(state, str) else ""
    country = state.split(" / ")[0] if isinstance(state, str) else ""
    if str(region) in by_name:
        return by_name[str(region)].code
    if country in ("US", "USA", "United States") and (last in by_name or f"US-{last}" in by_name):
        return by_name[last if last in by_name else f"US-{last}"].code
    return None


def _all_american(frame: pd.DataFrame) -> bool:
    placed = frame[frame["latitude"].notna() & frame["longitude"].notna()]
    return bool((placed["home"].notna()).all())


def _text(row: pd.Series, name: str) -> str:
    return (
        f"{name}<br>{row['offset']:+.3f} ± {row['standard_error']:.3f}"
        f"<br>{row['impressions']:,.0f} impressions<br>{row['source']}"
    )


def _ring(arcs: Sequence[FloatArray], ring: Sequence[int]) -> FloatArray:
    """Join arcs, the negative ones backwards; each starts where the last one ended."""
    parts = [arcs[i] if i >= 0 else arcs[~i][::-1] for i in ring]
    return np.concatenate([parts[0], *(part[1:] for part in parts[1:])])


def _american(degrees: FloatArray, code: str) -> FloatArray:
    """Project as on a usual map of the US: Alaska at a third of its size and Hawaii below the south-west."""
    if code == "US-AK":
        return _albers(degrees, (55, 65), (-154, 50), scale=0.35, shift=(-0.31, -0.235))
    if code == "US-HI":
        return _albers(degrees, (8, 18), (-157, 3), shift=(-0.16, -0.485))
    if code in ("US-PR", "US-VI"):
        return _albers(degrees, (8, 18), (-66, 3), shift=(0.31, -0.48))
    return _albers(degrees, (29.5, 45.5), (-96, 37.5))


def _albers(
    degrees: FloatArray,
    parallels: tuple[float, float],
    centre: tuple[float, float],
    *,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> FloatArray:
    """Albers' equal-area conic projection (Snyder 1987, "Map Projections", p. 100); unit is the radius of the Earth."""
    longitude = (degrees[:, 0] - centre[0] + 180) % 360 - 180
    first, second = np.sin(np.radians(parallels))
    n = (first + second) / 2
    c = 1 - first**2 + 2 * n * first
    rho = np.sqrt(c - 2 * n * np.sin(np.radians(degrees[:, 1]))) / n
    top = np.sqrt(c - 2 * n * np.sin(np.radians(centre[1]))) / n
    theta = n * np.radians(longitude)
    projected: FloatArray = scale * np.column_stack([rho * np.sin(theta), top - rho * np.cos(theta)]) + np.array(shift)
    return projected


def _plain(degrees: FloatArray, code: str) -> FloatArray:
    """Plate carrée in radians; Alaska's islands beyond the date line stay with it."""
    longitude = np.where((degrees[:, 0] > 0) & (code == "US-AK"), degrees[:, 0] - 360, degrees[:, 0])
    projected: FloatArray = np.radians(np.column_stack([longitude, degrees[:, 1]]))
    return projected


def _colour(value: float, limit: float) -> str:
    from plotly.colors import sample_colorscale

    if np.isnan(value):
        return _NO_VALUE
    rgb: list[Any] = sample_colorscale(f"{_COLOURS}_r", [(value + limit) / (2 * limit)], colortype="tuple")
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb[0])
