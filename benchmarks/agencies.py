"""Labelled rows of Upworthy and of simulated agencies, made as the pipeline makes them, and vintages of them.

Data only: what is fitted on the rows, and what is told of it, is in the benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from within_ml.base import HORIZON_DAYS
from within_ml.features.image_content import image_rows, missing_images
from within_ml.features.labels import last_trainable
from within_ml.features.runner import compute_ad_features, compute_training_rows, missing_content
from within_ml.features.text_keys import content_rows
from within_ml.lake.landing import DIMENSIONS, LandingZone, ingest_days, ingest_dimension, register
from within_ml.lake.simulation import Agency, write_landing
from within_ml.lake.store import LakeStore
from within_ml.splits import OutOfTimeSplit

LANDING = Path(__file__).parents[1] / "data_lake/landing"
UPWORTHY, SIMULATION = "upworthy", "simulation"
FloatArray = NDArray[np.float64]


# ---- rows


def rate(rows: pd.DataFrame) -> FloatArray:
    """Observed click-through rates, shape (n,)."""
    rates: FloatArray = (rows["label_clicks"] / rows["label_impressions"]).to_numpy(np.float64)
    return rates


def shown(rows: pd.DataFrame) -> FloatArray:
    """Impressions of the label's days, shape (n,)."""
    return rows["label_impressions"].to_numpy(np.float64)


def reader(store: LakeStore) -> Any:
    """What the features read the lake's tables with."""
    return lambda con, name, first, last: store.create_view(con, name, first=first, last=last)


def upworthy_rows(folder: Path) -> pd.DataFrame:
    """Features and labels of every ad of the Upworthy sample; its lake is made in the folder."""
    store, zone = LakeStore(str(folder / "lake")), LandingZone(LANDING)
    found = register(store, zone, [(p, UPWORTHY) for p in sorted((LANDING / UPWORTHY).glob("*.parquet"))], run_id="b")
    _ingest(store, zone, found.days)
    # Tests are known on the Sunday before their Monday.
    first, last = found.days[0] - timedelta(days=1), found.days[-1]
    return labelled_rows(store, first, last, last_label=last - timedelta(days=1))


def agency_lake(agency: Agency, folder: Path) -> tuple[LakeStore, list[date]]:
    """The lake of a simulated agency, in the folder, and its days."""
    write_landing(agency, folder / "landing" / SIMULATION)
    store, zone = LakeStore(str(folder / "lake")), LandingZone(folder / "landing")
    days = list(register(store, zone, run_id="benchmark").days)
    _ingest(store, zone, days)
    return store, days


def agency_rows(
    agency: Agency, folder: Path, *, warm_up: int = 0, unlabelled: int = HORIZON_DAYS, images: bool = False
) -> pd.DataFrame:
    """Features and complete labels of a simulated agency.

    ``warm_up`` are the first days to leave out, for their windows reach before the first day; ``unlabelled`` the last
    ones, whose label is not complete or, with ``LABEL_MATURITY_DAYS``, not known yet. With ``images`` the agency's
    images are measured too.
    """
    store, days = agency_lake(agency, folder)
    measured = image_content(store) if images else None
    last = days[-1] - timedelta(days=unlabelled)
    return labelled_rows(store, days[0] + timedelta(days=warm_up), days[-1], last_label=last, images=measured)


def image_content(store: LakeStore) -> pa.Table:
    """What is measured of every image that an ad of the lake shows."""
    return image_rows(
        store.images, missing_images(store.images, store.read("ads", columns=["image_path"])["image_path"], None)
    )


def labelled_rows(
    store: LakeStore, first: date, last: date, *, last_label: date, images: pa.Table | None = None
) -> pd.DataFrame:
    """Features of the days from first to last, by day, and the labels of those up to ``last_label``."""
    read = reader(store)
    content = content_rows(missing_content(read, None, last=last))
    computed = compute_ad_features(read, first=first, last=last, content=content, images=images)
    store.replace_stream("ad_features", ((day.date, day.table) for day in computed), run_id="benchmark")
    rows = compute_training_rows(read, first=first, last=last_label).to_pandas()
    return rows.sort_values("date", kind="stable").reset_index(drop=True)


def _ingest(store: LakeStore, zone: LandingZone, days: list[date]) -> None:
    for dimension in DIMENSIONS:
        ingest_dimension(store, zone, dimension, run_id="benchmark")
    ingest_days(store, zone, days, run_id="benchmark")


# ---- vintages


@dataclass(frozen=True, slots=True)
class Vintage:
    """What one training may see, and the rows it is judged on."""

    as_of: date
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame

    def frames(self) -> dict[str, pd.DataFrame]:
        """The rows by part, as the pipeline names them."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def mature_rows(rows: pd.DataFrame, as_of: date) -> pd.DataFrame:
    """Rows whose label was known on that day."""
    return rows[pd.to_datetime(rows["date"]).dt.date <= last_trainable(as_of)].reset_index(drop=True)


def vintage(rows: pd.DataFrame, as_of: date, test: pd.DataFrame) -> Vintage:
    """Split what was known on a day as the pipeline does; its own test part, the newest rows, is used by nobody."""
    mature = mature_rows(rows, as_of)
    split = OutOfTimeSplit().split(mature["date"])
    parts = (mature[mask].reset_index(drop=True) for mask in (split.train, split.validation))
    return Vintage(as_of, *parts, test.reset_index(drop=True))


def upworthy_vintages(rows: pd.DataFrame, weeks: int, *, step: int = 1) -> Iterator[Vintage]:
    """Every ``step``-th of the last weeks: its tests, with the vintage of the Monday before the Sunday they are known.

    A test that goes on for a second week has rows on the days between too; each week is judged once, by its Sunday.
    """
    days = pd.to_datetime(rows["date"]).dt.date
    for day in sorted(day for day in days.unique() if day.isoweekday() == 7)[-weeks:][::step]:
        yield vintage(rows, day - timedelta(days=day.weekday()), rows[days == day])


def agency_vintages(rows: pd.DataFrame, count: int, test_days: int = 28) -> Iterator[Vintage]:
    """Vintages ``test_days`` apart (fewer in a short history), each judged on the days that begin on its own."""
    days = pd.to_datetime(rows["date"]).dt.date
    length = min(test_days, (days.max() - days.min()).days // (2 * count + 2))
    for number in range(count, 0, -1):
        as_of = days.max() - timedelta(days=number * length - 1)
        inside = (days >= as_of) & (days < as_of + timedelta(days=length))
        yield vintage(rows, as_of, rows[inside])
