"""Regions beside the predictions: the rows of ``region_factors``, which say where people click more than predicted.

How the offsets are estimated stands in `within_ml.calibration.regional_comparison`, what happened in
`within_ml.features.regional_outcomes`. Nothing here changes a score.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa

from within_ml.calibration.geospatial import GeospatialCalibrator
from within_ml.calibration.regional_comparison import fit_regions
from within_ml.lake.audit import audit, check_share
from within_ml.lake.contracts import CONTRACTS, UNKNOWN

MAX_REGIONS = 500
"""Regions above which only those with the most impressions are looked at: time grows with the cube."""

_CONTRACT = CONTRACTS["region_factors"]
_ORDER = ["date", "platform", "account_id", "ad_id", "region"]
_PLACE = ("country", "state", "city")


@dataclass(frozen=True, slots=True, eq=False)
class RegionFactors:
    """Rows of ``region_factors``; ``calibrator`` is None, and ``reason`` says why, where there are none."""

    rows: pa.Table
    calibrator: GeospatialCalibrator | None = None
    reason: str = ""


def region_factors(outcomes: pd.DataFrame, regions: pd.DataFrame, *, as_of: date, run_id: str = "") -> RegionFactors:
    """Estimate which regions click more or less than predicted.

    Parameters
    ----------
    outcomes
        As from `regional_outcomes.regional_outcomes`.
    regions
        The table ``regions``. One that it lacks, or that has no place there, has no neighbours to learn from.
    as_of
        Partition day of the rows.
    run_id
        Run that writes the rows.

    Returns
    -------
    RegionFactors
        One row per region of the table or of the outcomes, at most `MAX_REGIONS`. Their offsets are those of
        `regional_comparison.fit_regions`: compared within ads, so that an ad whose prediction is wrong everywhere
        makes no region look good or bad.
    """
    empty = _CONTRACT.schema.empty_table()
    if outcomes.empty:
        return RegionFactors(empty, reason="no stored prediction has a complete week after it")
    told = outcomes[outcomes["region"] != UNKNOWN]
    if told.empty:
        return RegionFactors(empty, reason=f"the sources do not tell regions: all are {UNKNOWN!r}")
    # Sums of floats depend on their order; the rows must not.
    told = told.sort_values(_ORDER, kind="stable")
    told = told.assign(predicted_clicks=told["impressions"] * told["predicted_ctr"])
    sums = told.groupby("region")[["impressions", "clicks", "predicted_clicks"]].sum()
    places = regions[regions["region"] != UNKNOWN].drop_duplicates("region")
    kept = _looked_at(places["region"], sums["impressions"])
    told, places = told[told["region"].isin(kept)], places[places["region"].isin(kept)]
    calibrator = fit_regions(told, places)
    rows = _rows(calibrator, sums, places)
    rows = rows.assign(date=as_of, weeks=told["date"].nunique(), run_id=run_id)
    table = pa.Table.from_pandas(rows[list(_CONTRACT.names)], schema=_CONTRACT.schema, preserve_index=False)
    result = audit(table, _CONTRACT)
    check_share(result, _CONTRACT, maximum=0.0)
    return RegionFactors(result.accepted, calibrator)


def _looked_at(known: pd.Series, impressions: pd.Series) -> pd.Index:
    """Regions with the most impressions first; those without any are last to be left out by name."""
    everywhere = pd.Index(sorted({*known, *impressions.index}), dtype=object)
    order = impressions.reindex(everywhere, fill_value=0).sort_values(ascending=False, kind="stable")
    return order.index[:MAX_REGIONS]


def _rows(calibrator: GeospatialCalibrator, sums: pd.DataFrame, places: pd.DataFrame) -> pd.DataFrame:
    rows = calibrator.get_region_factors().drop(columns="impressions").set_index("region")
    rows = rows.join(places.set_index("region")[list(_PLACE)]).join(sums)
    counts = ["impressions", "clicks"]
    rows[counts] = rows[counts].fillna(0).astype(np.int64)
    rows["predicted_clicks"] = rows["predicted_clicks"].fillna(0.0)
    rows["source"] = rows["source"].mask(_alone(rows, places), _parent(calibrator, rows))
    overall = {"level": calibrator.level_, "spatial_share": calibrator.spatial_share_}
    moran = {name: getattr(calibrator, f"{name}_") for name in ("moran_before", "moran_after")}
    return rows.assign(factor=np.exp(rows["offset"]), **overall, **moran).reset_index()


def _alone(rows: pd.DataFrame, places: pd.DataFrame) -> pd.Series:
    """Whether a region that is not heard itself has no neighbour to speak for it: no place, nor its state."""
    placed = places.dropna(subset=["latitude", "longitude"])
    state = pd.MultiIndex.from_frame(placed[["country", "state"]].dropna())
    beside = pd.MultiIndex.from_frame(rows[["country", "state"]]).isin(state)
    return (rows["source"] == "neighbors") & ~rows.index.isin(placed["region"]) & ~beside


def _parent(calibrator: GeospatialCalibrator, rows: pd.DataFrame) -> pd.Series:
    known = rows["country"].notna() & ("country" in calibrator.variances_)
    return known.map({True: "parent", False: "global"})
