"""The table of regions as a calibrator needs it: groups, coordinates, population, and the prior they imply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.calibration.neighbours import neighbour_weights, on_sphere, structured_covariance
from within_ml.calibration.regional_field import Prior
from within_ml.errors import InputError, shown

FloatArray = NDArray[np.float64]

GEO_LEVELS = ("country", "state", "city")
COLUMNS = ("region", *GEO_LEVELS, "latitude", "longitude", "population")

_LEVEL_VARIANCE = 100.0


@dataclass(frozen=True, slots=True, eq=False)
class RegionTable:
    """Regions in rising order of name; arrays of shape (regions,), NaN or None where nothing is known.

    ``groups`` has one column per level of `GEO_LEVELS`: the whole path as text.
    """

    region: NDArray[np.object_]
    groups: NDArray[np.object_]
    latitude: FloatArray
    longitude: FloatArray
    population: FloatArray

    @classmethod
    def read(cls, table: pd.DataFrame, seen: pd.Index) -> Self:
        """Take the regions of a table, and those that were ``seen`` and are not in it, without group and place.

        Raises
        ------
        InputError
            If a column is missing, a region comes twice, or a coordinate is not on the globe.
        """
        if missing := [name for name in COLUMNS if name not in table.columns]:
            raise InputError(f"region_table must have the columns {shown(COLUMNS)}; it lacks {shown(missing)}.")
        frame = table[list(COLUMNS)].dropna(subset="region")
        frame = frame.assign(region=frame["region"].astype(str).to_numpy(dtype=object))
        if (twice := frame["region"].duplicated()).any():
            raise InputError(f"region_table must name each region once; it repeats {shown(frame['region'][twice])}.")
        frame = frame.set_index("region").reindex(sorted({*frame["region"], *seen}))
        numbers = {name: frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in COLUMNS[4:]}
        if (np.abs(numbers["latitude"]) > 90).any() or (np.abs(numbers["longitude"]) > 180).any():
            raise InputError(
                "latitude must be in [-90, 90] and longitude in [-180, 180] degrees; region_table has others."
            )
        return cls(frame.index.to_numpy(dtype=object), _paths(frame), **numbers)

    @property
    def log_population(self) -> FloatArray:
        """Log of the population, centred and scaled to a standard deviation of 1; 0 where it is not known."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.log(self.population)
        known = np.isfinite(value)
        if known.sum() < 2 or np.ptp(value[known]) == 0:
            return np.zeros(value.size)
        result: FloatArray = np.where(known, (value - value[known].mean()) / value[known].std(), 0.0)
        return result

    def prior(self, geo_level: str, neighbours: int) -> Prior:
        """Return the prior of the offsets: the level, groups above and below ``geo_level``, and neighbours at it."""
        size, depth = self.region.size, GEO_LEVELS.index(geo_level)
        free = {}
        for level, name in enumerate(GEO_LEVELS):
            if level != depth and _tells_apart(self.groups[:, level], self.groups[:, depth]):
                free[name] = _together(self.groups[:, level])
        units, unit = np.unique(self._unit(depth), return_inverse=True)
        # A level below the spatial one that no group tells apart yet: several regions in one unit.
        if units.size < size and not any(GEO_LEVELS.index(name) > depth for name in free):
            free["region"] = np.eye(size)
        member = np.eye(units.size)[unit]
        points = on_sphere(self.latitude, self.longitude)
        structured = structured_covariance(neighbour_weights(_centres(points, unit, units.size), neighbours))
        return Prior(
            fixed={"level": np.full((size, size), _LEVEL_VARIANCE)},
            free=free,
            structured=member @ structured @ member.T,
            unstructured=member @ member.T,
        )

    def weights(self, neighbours: int) -> FloatArray:
        """Return the weights of the graph of the regions themselves, shape (regions, regions)."""
        return neighbour_weights(on_sphere(self.latitude, self.longitude), neighbours)

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        columns = {name: getattr(self, name) for name in ("latitude", "longitude", "population")}
        values = {name: [None if np.isnan(v) else v for v in column.tolist()] for name, column in columns.items()}
        return {"region": self.region.tolist(), "groups": self.groups.tolist(), **values}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` gave."""
        numbers = {n: np.array(state[n], dtype=np.float64) for n in ("latitude", "longitude", "population")}
        groups = np.array(state["groups"], dtype=object).reshape(-1, len(GEO_LEVELS))
        return cls(np.array(state["region"], dtype=object), groups, **numbers)

    def _unit(self, depth: int) -> NDArray[np.str_]:
        """Name of each region's unit of the spatial level: its group, or the region itself where it has none."""
        own = [f"region\0{name}" for name in self.region]
        group = self.groups[:, depth]
        return np.array([f"group\0{g}" if g is not None else o for g, o in zip(group, own, strict=True)], dtype=str)


def _paths(frame: pd.DataFrame) -> NDArray[np.object_]:
    paths = np.full((len(frame), len(GEO_LEVELS)), None, dtype=object)
    for row, ids in enumerate(frame[list(GEO_LEVELS)].itertuples(index=False)):
        path = ""
        for level, name in enumerate(ids):
            if pd.isna(name):
                break
            path = f"{path} / {name}" if path else str(name)
            paths[row, level] = path
    return paths


def _tells_apart(groups: NDArray[np.object_], units: NDArray[np.object_]) -> bool:
    """Whether a level makes several groups and is not the spatial level under another name."""
    pairs = pd.DataFrame({"group": pd.factorize(groups)[0], "unit": pd.factorize(units)[0]}).drop_duplicates()
    pairs = pairs[pairs["group"] >= 0]
    counts = pairs["group"].nunique(), pairs["unit"].nunique()
    return counts[0] > 1 and not counts[0] == counts[1] == len(pairs)


def _together(groups: NDArray[np.object_]) -> FloatArray:
    codes = pd.factorize(groups)[0]
    same = (codes[:, None] == codes) & (codes >= 0)[:, None]
    together: FloatArray = same.astype(np.float64)
    return together


def _centres(points: FloatArray, unit: NDArray[np.int64], units: int) -> FloatArray:
    """Mean of the regions' points, put back onto the sphere; NaN where no region of the unit has a place."""
    placed = np.isfinite(points).all(axis=1)
    total = np.zeros((units, 3))
    np.add.at(total, unit[placed], points[placed])
    length = np.linalg.norm(total, axis=1, keepdims=True)
    result: FloatArray = np.divide(total, length, out=np.full_like(total, np.nan), where=length > 0)
    return result
