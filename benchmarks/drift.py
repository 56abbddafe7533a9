"""Drift of features: alarms on ordinary nights, nights until a real drift is seen, and data that must not alarm.

    python -m benchmarks.drift [--seeds 100 101 102 103 104] [--accounts 40] [--days 180]

Simulated agencies, their features computed as the pipeline does: the first 60 days with features are the reference,
the verdict begins with the next ones, each night judged by the 28 before it. The same agencies are drawn without a
drift and with drifts of two sizes (one platform's level falls by the size, in logits, and the appeal of all themes
changes by about half of it) on one day. "Request" is two drifting nights of the last five, on which the pipeline trains
anew. Beside it stands what row-level tests say of the same nights: a Kolmogorov-Smirnov test per feature at p < .05,
Bonferroni-corrected over the features.

Employment in Massachusetts (NannyML's sample of the American Community Survey, every second row): the rows of 2015 are
the reference; the survey has no dates within a year, and its files are in blocks by kind of housing, so each row of a
year is dealt to one of 24 "nights" by chance. A model of 2015 is as good in 2016 to 2018 (AUC .903, .902,
.905, .906): nothing in it asks for a new training, though single columns do shift.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.agencies import agency_lake, reader
from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.features.runner import compute_ad_features, missing_content
from within_ml.features.text_keys import content_rows
from within_ml.lake.simulation import Agency, SimulationConfig, simulate
from within_ml.monitoring.drift import DriftReference, drift_of, night_drifted

PAGE = "drift.md"
EMPLOYMENT = Path(__file__).parent / "data/employment/employment_ma_years.parquet"
WARM_UP_DAYS, REFERENCE_DAYS, PAST_NIGHTS, WITHIN_NIGHTS = 28, 60, 28, 14
SIZES = (0.3, 0.6)
KEYS = {"date", "platform", "account_id", "campaign_id", "ad_group_id", "ad_id", "headline", "body"}


@dataclass(frozen=True, slots=True)
class Nights:
    """Verdicts of nights in order, and those of row-level tests."""

    days: list[object]
    drifted: np.ndarray
    row_level: np.ndarray
    features: np.ndarray

    @property
    def requests(self) -> np.ndarray:
        """Nights on which two of the last five drifted."""
        up = np.concatenate([np.zeros(5, int), np.cumsum(self.drifted)])
        return up[5:] - up[:-5] >= 2


def features_of(agency: Agency) -> pd.DataFrame:
    """Feature rows of all days but the first ones, whose windows are not full."""
    with tempfile.TemporaryDirectory(prefix="within-bench-") as folder:
        store, days = agency_lake(agency, Path(folder))
        read = reader(store)
        content = content_rows(missing_content(read, None, last=days[-1]))
        first = days[0] + timedelta(days=min(WARM_UP_DAYS, len(days) // 5))
        computed = compute_ad_features(read, first=first, last=days[-1], content=content)
        return pa.concat_tables([day.table for day in computed]).to_pandas()


def judged(rows: pd.DataFrame, names: list[str], reference_nights: int) -> Nights:
    """Judge every night after the reference by the nights before it; some of the reference's count as past."""
    days = sorted(rows["date"].unique())
    by_day = dict(list(rows.groupby("date")))
    reference = DriftReference.from_frame(rows[rows["date"] < days[reference_nights]], names)
    past = reference.nights(rows)
    place = past["date"].map({day: i for i, day in enumerate(days)})
    verdicts, row_level, counts = [], [], []
    for i in range(reference_nights, len(days)):
        night = drift_of(reference.sketch(by_day[days[i]]), reference, past[(place < i) & (place >= i - PAST_NIGHTS)])
        verdicts.append(night_drifted(night))
        counts.append(int(night["drifted"].sum()))
        row_level.append(bool((_p_values(night, reference.training.rows) < 0.05 / len(names)).any()))
    return Nights(days[reference_nights:], np.array(verdicts), np.array(row_level), np.array(counts))


def _p_values(night: pd.DataFrame, reference_rows: int) -> np.ndarray:
    """Row-level Kolmogorov-Smirnov p-values (asymptotic) of the same histograms."""
    from scipy.stats import kstwobign

    n = night["rows"].to_numpy(float) * (1 - night["missing_share"].to_numpy(float))
    size = n * reference_rows / np.maximum(n + reference_rows, 1)
    return kstwobign.sf(np.nan_to_num(night["ks"].to_numpy(float)) * np.sqrt(size))


def numeric(rows: pd.DataFrame) -> list[str]:
    return [name for name in rows if name not in KEYS and pd.api.types.is_numeric_dtype(rows[name])]


def agency_section(options: argparse.Namespace) -> str:
    quiet: list[Nights] = []
    found: dict[float, list[tuple[int | None, int | None]]] = {size: [] for size in SIZES}
    for seed, size, nights, drift_date in _agencies(options):
        if size == 0:
            quiet.append(nights)
            continue
        days = pd.to_datetime(pd.Series(nights.days)).dt.date
        after = np.flatnonzero((days >= drift_date).to_numpy())[:WITHIN_NIGHTS]
        seen = [np.flatnonzero(v[after]) for v in (nights.drifted, nights.requests)]
        found[size].append(tuple(int(s[0]) if s.size else None for s in seen))
        print(seed, size, found[size][-1], flush=True)
    drifted = np.concatenate([n.drifted for n in quiet])
    row_level = np.concatenate([n.row_level for n in quiet])
    lines = [
        ["nights told to drift, of nights without one", _of(drifted)],
        ["the same by row-level tests", _of(row_level)],
        ["nights with a request, of nights without a drift", _of(np.concatenate([n.requests for n in quiet]))],
    ]
    for size in SIZES:
        first, request = zip(*found[size], strict=True)
        lines.append([f"drift of {size}: agencies with a drifting night within {WITHIN_NIGHTS}", _seen(first)])
        lines.append([f"drift of {size}: agencies with a request within {WITHIN_NIGHTS}", _seen(request)])
    return f"""## Simulated agencies

{len(quiet)} agencies of {options.accounts} accounts and {options.days} days.

{table(["", "measured"], lines)}
"""


def _agencies(options: argparse.Namespace) -> Iterator[tuple[int, float, Nights, object]]:
    for seed in options.seeds:
        for size in (0.0, *SIZES):
            agency = simulate(
                SimulationConfig(
                    accounts=options.accounts, days=options.days, seed=seed, drift_size=size, max_images=10
                )
            )
            rows = features_of(agency)
            nights = judged(rows, numeric(rows), min(REFERENCE_DAYS, rows["date"].nunique() // 2))
            yield seed, size, nights, agency.drift_date


def _of(values: np.ndarray) -> str:
    return f"{100 * values.mean():.1f} % of {values.size}"


def _seen(values: tuple[int | None, ...]) -> str:
    seen = [v for v in values if v is not None]
    return f"{len(seen)} of {len(values)}, median after {np.median(seen):.0f} nights" if seen else f"0 of {len(values)}"


def employment_section() -> str:
    rows = pd.read_parquet(EMPLOYMENT)
    rows["date"] = (rows["year"].to_numpy() - 2015) * 24 + np.random.default_rng(0).integers(24, size=len(rows))
    lines = []
    for title, names in (
        ("16 columns of the model", [n for n in rows if n not in {"year", "date", "predicted_probability"}]),
        ("its prediction", ["predicted_probability"]),
    ):
        nights = judged(rows, names, 24)
        by_year = [nights.drifted[24 * i : 24 * (i + 1)] for i in range(3)]
        lines.append([title, *map(_of, by_year), _of(nights.requests), _of(nights.row_level)])
    header = ["", "2016", "2017", "2018", "requests", "row-level tests"]
    return f"## Employment\n\n{table(header, lines)}\n"


def run(options: argparse.Namespace) -> Path:
    """Run the benchmark and write its page."""
    start = time.process_time()
    sections = [agency_section(options), employment_section()]
    text = f"""# Drift

Written by `python -m benchmarks.drift --seeds {" ".join(map(str, options.seeds))} --accounts {options.accounts}
--days {options.days}`; {time.process_time() - start:.0f} CPU seconds. {machine()}

{__doc__.split(chr(10) * 2, 2)[2].strip()}

{chr(10).join(sections)}"""
    return write_result(PAGE, text, folder=options.results)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    parser.add_argument("--accounts", type=int, default=40)
    parser.add_argument("--days", type=int, default=180)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parsed())
