"""Trending topics: are the planted bursts the topics that are told, and how many are told where nothing bursts.

    python -m benchmarks.trending [--seeds 100 101 102 103 104 105] [--bursts 6] [--accounts 40] [--days 180]

Simulated agencies with planted bursts: for 10 to 20 days the ads of all accounts with some hook, adjective or product
in their headline are clicked more (0.3 to 0.6 on the logit scale). Each burst is looked for on its seventh day, the
first of which all recent days are in the burst, and again on its ninth; k is the number of bursts that then run for
five days or more, and precision@k the share of the first k topics told that are planted (a topic that is not told
counts as wrong). A topic is the planted one if all its words stand in the phrase of a burst of the recent days.
Anomalies, declines and churn stay in. With drift, the simulation changes what all themes are worth from two thirds of
the days on: on the days after that whole themes do trend, by its truth, though no burst was planted. Quiet nights:
every fifth night of the same agencies without bursts and drift.

"Plain ratio" is what is usually looked at: words by clicks in the last seven days over clicks at their own rate of the
days before, of words with at least three ads.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.anomalies.topics import find_topics
from within_ml.anomalies.trending import trending_topics
from within_ml.lake.simulation import Agency, SimulationConfig, simulate

PAGE = "trending.md"
SETTLED, RECENT = timedelta(days=4), timedelta(days=6)


@dataclass(frozen=True, slots=True)
class Night:
    """Planted topics, topics told and topics by plain ratio."""

    planted: list[str]
    k: int
    told: list[str]
    plain: list[str]

    def precision(self, topics: list[str]) -> float:
        return sum(self.right(topic) for topic in topics[: self.k]) / self.k

    def right(self, topic: str) -> bool:
        return any(set(topic.split()) <= words_of(planted) for planted in self.planted)


def words_of(phrase: str) -> set[str]:
    """Words of a phrase as topics spell them."""
    return {word.strip(".,:;!?\"'()") for word in phrase.lower().split()}


def agency_of(seed: int, options: argparse.Namespace, **changes: object) -> Agency:
    config = {"accounts": options.accounts, "days": options.days, "seed": seed, "bursts": options.bursts}
    return simulate(SimulationConfig(**{**config, "max_images": 10, **changes}))


def performance_of(agency: Agency) -> pd.DataFrame:
    """Performance per day and ad."""
    rows = pa.concat_tables(list(agency.performance())).to_pandas()
    key = ["date", "platform", "account_id", "campaign_id", "ad_id"]
    rows = rows.groupby(key, as_index=False, sort=False)[["impressions", "clicks"]].sum()
    return rows.assign(date=pd.to_datetime(rows["date"]))


def window(performance: pd.DataFrame, day: date) -> pd.DataFrame:
    age = (pd.Timestamp(day) - performance["date"]).dt.days
    return performance[(age >= 0) & (age < 38)]


def plain_ratio(ads: pd.DataFrame, rows: pd.DataFrame, day: date) -> list[str]:
    """Words by the ratio of their rates, last seven days over those before."""
    recent = ((pd.Timestamp(day) - rows["date"]).dt.days < 7).to_numpy()
    sums = [rows[part].groupby("ad_id")[["clicks", "impressions"]].sum() for part in (recent, ~recent)]
    both = ads.set_index("ad_id").join(sums[0]).join(sums[1].add_suffix("_before")).fillna({"headline": ""}).fillna(0.0)
    both = both[both["impressions"] > 0]
    topics = find_topics(both["headline"].tolist())
    c1, n1, c0, n0 = (topics.has.T @ both[name].to_numpy(float)
                      for name in ("clicks", "impressions", "clicks_before", "impressions_before"))  # fmt: skip
    ratio = (c1 / np.maximum(n1, 1)) / np.maximum(c0 / np.maximum(n0, 1), 1e-9)
    ratio = np.where(c0 < 10, 0, ratio)
    return [topics.names[i] for i in np.argsort(-ratio)[:20]]


def nights_of(agency: Agency, day_of_burst: int) -> list[Night]:
    """One night of each burst."""
    performance, ads, bursts = performance_of(agency), agency.ads.to_pandas(), agency.bursts.to_pylist()
    found = []
    for burst in bursts:
        day = min(burst["start_date"] + timedelta(days=day_of_burst - 1), burst["end_date"])
        k = sum(b["start_date"] + SETTLED <= day <= b["end_date"] for b in bursts)
        planted = [b["topic"] for b in bursts if b["start_date"] <= day and day - RECENT <= b["end_date"]]
        rows = window(performance, day)
        told = trending_topics(ads, rows, day)["topic"].tolist()
        found.append(Night(planted, k, told, plain_ratio(ads, rows, day)))
    return found


def quiet_topics(agency: Agency) -> list[int]:
    """Topics told on every fifth night."""
    performance, ads = performance_of(agency), agency.ads.to_pandas()
    days = [agency.config.start_date + timedelta(days=i) for i in range(36, agency.config.days, 5)]
    return [len(trending_topics(ads, window(performance, day), day)) for day in days]


def run(options: argparse.Namespace) -> Path:
    """Run the benchmark and write its page."""
    lines = []
    start = time.process_time()
    for drift, day in ((0.0, 7), (0.0, 9), (0.3, 7)):
        title = f"{'with' if drift else 'without'} drift, day {day}"
        agencies = [nights_of(agency_of(seed, options, drift_size=drift), day) for seed in options.seeds]
        nights = [night for agency in agencies for night in agency]
        told = [topic for night in nights for topic in night.told]
        wrong = sum(not night.right(topic) for night in nights for topic in night.told)
        per_agency = [np.mean([n.precision(n.told) for n in agency]) for agency in agencies if agency]
        lines.append(
            [title, len(nights), f"{np.mean([n.precision(n.told) for n in nights]):.3f}", f"{min(per_agency):.3f}",
             f"{wrong} of {len(told)}", f"{np.mean([n.precision(n.plain) for n in nights]):.3f}"]
        )  # fmt: skip
    quiet = [n for seed in options.seeds for n in quiet_topics(agency_of(seed, options, bursts=0, drift_size=0.0))]
    header = ["", "bursts", "precision@k", "least of the agencies", "topics told and not planted", "plain ratio"]
    text = f"""# Trending topics

Written by `python -m benchmarks.trending --seeds {" ".join(map(str, options.seeds))} --bursts {options.bursts}
--accounts {options.accounts} --days {options.days}`; {time.process_time() - start:.0f} CPU seconds. {machine()}

{__doc__.split(chr(10) * 2, 2)[2].strip()}

{table(header, lines)}

Quiet nights: topics are told on {sum(n > 0 for n in quiet)} of {len(quiet)}, {sum(quiet)} in all.
"""
    return write_result(PAGE, text, folder=options.results)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104, 105])
    parser.add_argument("--bursts", type=int, default=6)
    parser.add_argument("--accounts", type=int, default=40)
    parser.add_argument("--days", type=int, default=180)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parsed())
