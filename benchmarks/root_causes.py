"""Root causes: is the planted campaign, or the whole account, what is named first?

    python -m benchmarks.root_causes [--seeds 100 … 109] [--anomalies 60] [--accounts 40] [--days 180]

Simulated agencies with planted anomalies in six kinds of cause, each with its metric; declines, drift, new and ended
campaigns stay in. Each anomaly is explained on its first day, and as the whole episode, from the account's rows alone.
Right is the planted campaign alone, or the whole account where the cause hits all of it (where an account runs a single
campaign both say the same). "Visible" are anomalies whose metric, summed over the account, is at least four robust
standard deviations (of the log, over the 28 days before) from its median: those that a detector on accounts can flag.
The others are drowned by the account's other campaigns, and the change of the account has other causes by its numbers.

"Adtributor" is the paper's own order (by surprise over all dimensions) of the same sets, which cannot say "the whole
account"; it is judged on campaigns' causes alone.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.anomalies.root_cause import METRICS, WHOLE_ACCOUNT, Cause, baseline_and_day, root_causes
from within_ml.lake.simulation import SimulationConfig, simulate

PAGE = "root_causes.md"
BASELINE_DAYS, VISIBLE = 14, 4.0


def rows_of(config: SimulationConfig) -> tuple[list[dict[str, Any]], dict[str, pd.DataFrame]]:
    """Planted anomalies, and performance with audiences by account."""
    agency = simulate(config)
    rows = pa.concat_tables(list(agency.performance())).drop_columns(["source_file"]).to_pandas()
    audience = agency.ads.select(["ad_id", "audience_age", "audience_gender"]).to_pandas()
    rows = rows.merge(audience, on="ad_id")
    return agency.anomalies.to_pylist(), dict(list(rows.groupby("account_id")))


def visible(rows: pd.DataFrame, anomaly: dict[str, Any]) -> bool:
    """Whether the account's metric on the first day is far from its own days before."""
    numerator, denominator = METRICS[anomaly["metric"]]
    columns = [name for name in (numerator, denominator) if name]
    days = rows.groupby("date")[columns].sum()
    value = days[numerator] / (days[denominator] if denominator else 1)
    logs = np.log(value.clip(lower=0.01 * value.median()))
    before = logs[(logs.index < anomaly["start_date"]) & (logs.index >= anomaly["start_date"] - timedelta(days=28))]
    spread = max(1.4826 * float((before - before.median()).abs().median()), 0.02)
    return bool(abs(logs[anomaly["start_date"]] - before.median()) > VISIBLE * spread)


def right(cause: Cause, anomaly: dict[str, Any], campaigns: set[str]) -> bool:
    if anomaly["campaign_id"] is not None:
        return cause.dimension == "campaign_id" and cause.elements == (anomaly["campaign_id"],)
    return cause.dimension == WHOLE_ACCOUNT or (cause.dimension == "campaign_id" and len(campaigns) == 1)


def run(options: argparse.Namespace) -> Path:
    """Run the benchmark and write its page."""
    hits, counts = Counter(), Counter()
    seconds = 0.0
    for seed in options.seeds:
        anomalies, accounts = rows_of(
            SimulationConfig(accounts=options.accounts, days=options.days, anomalies=options.anomalies, seed=seed)
        )
        for anomaly in anomalies:
            rows, metric = accounts[anomaly["account_id"]], anomaly["metric"]
            seen = "visible" if visible(rows, anomaly) else "hidden"
            for way, last in (("first day", anomaly["start_date"]), ("episode", anomaly["end_date"])):
                start = time.perf_counter()
                periods = baseline_and_day(rows, last, metric, BASELINE_DAYS, first=anomaly["start_date"])
                causes = root_causes(*periods, metric)
                seconds += time.perf_counter() - start
                campaigns = {c for part in periods for c in part["campaign_id"].unique()}
                good = bool(causes) and right(causes[0], anomaly, campaigns)
                for key in ((seen, "all"), (seen, anomaly["cause"])):
                    counts[way, *key] += 1
                    hits[way, *key] += good
                named = [cause for cause in causes if cause.dimension != WHOLE_ACCOUNT]
                if anomaly["campaign_id"] is not None and named:
                    first = max(named, key=lambda cause: cause.surprise)
                    counts[way, seen, "Adtributor"] += 1
                    hits[way, seen, "Adtributor"] += right(first, anomaly, campaigns)
    kinds = ["all", *sorted({key[2] for key in counts} - {"all", "Adtributor"}), "Adtributor"]

    def cell(way: str, seen: str, kind: str) -> str:
        n = counts[way, seen, kind]
        return f"{100 * hits[way, seen, kind] / n:.1f} % of {n}" if n else ""

    header = ["cause", "visible, first day", "visible, episode", "hidden, first day", "hidden, episode"]
    lines = [
        [kind, *(cell(way, seen, kind) for seen in ("visible", "hidden") for way in ("first day", "episode"))]
        for kind in kinds
    ]
    text = f"""# Root causes

Written by `python -m benchmarks.root_causes --seeds {" ".join(map(str, options.seeds))} --anomalies
{options.anomalies} --accounts {options.accounts} --days {options.days}`. {machine()}

{__doc__.split(chr(10) * 2, 2)[2].strip()}

Named first and right:

{table(header, lines)}

{1000 * seconds / max(sum(n for k, n in counts.items() if k[2] == "all"), 1):.1f} ms per explanation, seven dimensions.
"""
    return write_result(PAGE, text, folder=options.results)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(100, 110)))
    parser.add_argument("--anomalies", type=int, default=60)
    parser.add_argument("--accounts", type=int, default=40)
    parser.add_argument("--days", type=int, default=180)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parsed())
