"""Regions compared within ads: what a region adds to a prediction, apart from how wrong the prediction is of the ad.

The prior of the regions and their offsets are in `geospatial`, nested groups in `random_intercepts`; here the two are
fitted in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from within_ml.calibration.geospatial import GeospatialCalibrator
from within_ml.calibration.group_tree import ROOT, GroupTree
from within_ml.calibration.random_intercepts import Intercepts, estimate_intercepts

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_ROUNDS = 12

_TOLERANCE = 2e-3
_PROBABILITY_FLOOR = 1e-9
_CAMPAIGN = ["platform", "account_id", "campaign_id"]
_AD_LEVELS = ("account", "campaign_id", "ad_id")


def fit_regions(outcomes: pd.DataFrame, regions: pd.DataFrame) -> GeospatialCalibrator:
    """Fit the offsets of regions beside those of accounts, campaigns and ads.

    A prediction that is wrong of an ad is wrong of it in every region, and a region has the ads of few campaigns: taken
    as they are, such errors would look like effects of regions, many times surer than they are. So the model is::

        logit rate = logit prediction + region + (account + campaign + ad) + (campaign × region)

    with normal intercepts of estimated variances in the brackets, and `GeospatialCalibrator` for the region. The parts
    are fitted in turn until the regions stay. The calibrator sees a row per campaign and region; it weighs what the row
    tells of the region, which is less than its impressions: campaigns differ between regions, and the part of a row
    that says how the whole campaign does (all of it, nearly, where the campaign is in one region only) is used up.

    Parameters
    ----------
    outcomes
        Rows with impressions: platform, account_id, campaign_id, ad_id, region, predicted_ctr, impressions, clicks.
    regions
        The table of regions, see `GeospatialCalibrator.fit`.

    Returns
    -------
    GeospatialCalibrator
        Fitted. Its ``impressions_`` are the effective ones.
    """
    rows = _Rows.of(outcomes)
    calibrator, offset = GeospatialCalibrator(), np.zeros(rows.y.size)
    for _ in range(MAX_ROUNDS):
        ads = estimate_intercepts(rows.margin + offset, rows.y, rows.w, rows.ad, rows.ads)
        margin = rows.margin + (ads.offset - ads.offset[ROOT])[rows.ad]
        within = estimate_intercepts(margin, rows.y, rows.w, rows.place, rows.places)
        predicted, weight = rows.cells(expit(margin), ads, within)
        calibrator.fit(predicted, rows.cell_y, rows.cell_region, sample_weight=weight, region_table=regions)
        found = calibrator.get_region_factors().set_index("region")["offset"]
        before, offset = offset, found.reindex(rows.region).to_numpy(dtype=np.float64)
        if np.abs(offset - before).max() < _TOLERANCE:
            break
    return calibrator


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """One row per ad and region, and which cell of campaign × region it belongs to."""

    region: NDArray[np.object_]
    margin: FloatArray
    y: FloatArray
    w: FloatArray
    ads: GroupTree
    ad: IntArray
    places: GroupTree
    place: IntArray
    cell: IntArray
    cell_y: FloatArray
    cell_w: FloatArray
    cell_region: NDArray[np.object_]
    cell_campaign: IntArray

    @classmethod
    def of(cls, outcomes: pd.DataFrame) -> Self:
        keyed = outcomes.assign(predicted=outcomes["impressions"] * outcomes["predicted_ctr"])
        sums = keyed.groupby([*_CAMPAIGN, "ad_id", "region"], sort=True)[["impressions", "clicks", "predicted"]].sum()
        rows = sums.reset_index()
        rows = rows.assign(account=rows["platform"] + "\0" + rows["account_id"])
        w = rows["impressions"].to_numpy(dtype=np.float64)
        p = np.clip(rows["predicted"].to_numpy() / w, _PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR)
        y, region = rows["clicks"].to_numpy() / w, rows["region"].to_numpy(dtype=object)
        cell = rows.groupby([*_CAMPAIGN, "region"], sort=True).ngroup().to_numpy(dtype=np.int64)
        campaign = rows.groupby(_CAMPAIGN, sort=True).ngroup().to_numpy(dtype=np.int64)
        first = np.unique(cell, return_index=True)[1]
        cell_w = np.bincount(cell, weights=w).astype(np.float64)
        ads, ad = GroupTree.grow(rows, _AD_LEVELS)
        places, place = GroupTree.grow(pd.DataFrame({"region": region, "cell": cell}), ("region", "cell"))
        cell_y: FloatArray = np.bincount(cell, weights=w * y) / cell_w
        return cls(region, logit(p), y, w, ads, ad, places, place, cell, cell_y, cell_w, region[first], campaign[first])

    def cells(self, rates: FloatArray, ads: Intercepts, within: Intercepts) -> tuple[FloatArray, FloatArray]:
        """Return prediction and effective impressions of each cell, for rates that the ads' own offsets are in."""
        predicted = np.bincount(self.cell, weights=self.w * rates) / self.cell_w
        unit = predicted * (1 - predicted)
        precision = 1 / (within.dispersion / (self.cell_w * unit) + within.variances[1])
        whole = np.bincount(self.cell_campaign, weights=precision)[self.cell_campaign]
        # What the account and the campaign are given takes this share of what a campaign's rows say together.
        variance = float(ads.variances[:2].sum())
        used = variance * whole / (1 + variance * whole) * precision / whole
        return predicted, precision * (1 - used) / unit
