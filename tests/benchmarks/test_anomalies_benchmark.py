"""The benchmark of planted anomalies runs, small, and counts what it says."""

from __future__ import annotations

import argparse

import pandas as pd

from benchmarks import anomalies


def test_the_page_of_a_small_agency():
    truth, counts = anomalies.run(range(1, 2), accounts=8, days=70, anomalies=6)
    cost = anomalies.speed(40, 20) | anomalies.late_conversions(2, accounts=4, days=30, evenings=1)
    told = argparse.Namespace(accounts=8, days=70, series=40, speed_days=20)

    page = anomalies.page(truth, counts, cost, told)

    assert len(truth) == 6
    assert counts["false"].iloc[0] <= counts["flagged"].iloc[0]
    assert "planted cause first" in page
    assert "bid_war" in page


def test_an_anomaly_is_found_in_its_metric_on_one_of_its_days():
    row = pd.Series(
        {
            "account_id": "a",
            "campaign_id": "c",
            "running": ["c", "d"],
            "start_date": pd.Timestamp("2024-01-10"),
            "end_date": pd.Timestamp("2024-01-12"),
            "metric": "cpc",
            "cause": "bid_war",
            "factor": 2.0,
        }
    )
    found = pd.DataFrame(
        {
            "account_id": "a",
            "date": pd.to_datetime(["2024-01-12", "2024-01-13"]),
            "metric": ["cpc", "ctr"],
            "sign": "bad",
            "direction": "above",
            "root_cause": '[{"dimension": "campaign_id", "elements": ["c"]}]',
        }
    )

    hit = anomalies.found_of(found, row)

    assert (hit["found"], hit["sign"], hit["direction"], hit["cause_first"]) == (True, True, True, True)
    assert not anomalies.found_of(found.assign(metric="ctr"), row)["found"]
    assert not anomalies.found_of(found.assign(root_cause="[]"), row)["cause_first"]
