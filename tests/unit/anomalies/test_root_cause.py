"""Root causes: parts sum to the whole, Adtributor's figures, and what is named first."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from within_ml.anomalies.decomposition import count_parts, explained_shares, rate_parts, surprises
from within_ml.anomalies.root_cause import METRICS, WHOLE_ACCOUNT, baseline_and_day, root_causes, to_json
from within_ml.errors import InputError
from within_ml.lake.simulation.agency import simulate
from within_ml.lake.simulation.config import SimulationConfig

AMOUNTS = st.floats(0, 1e6, allow_nan=False).map(lambda x: round(x, 3))
ELEMENTS = st.lists(st.tuples(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(ELEMENTS)
def test_parts_of_a_rate_sum_to_its_change(rows):
    n0, d0, n1, d1 = np.array(rows, dtype=np.float64).T
    parts = rate_parts(n0, d0, n1, d1)
    if d0.sum() == 0 or d1.sum() == 0:
        assert parts is None
        return
    old, new = n0.sum() / d0.sum(), n1.sum() / d1.sum()
    # Parts can be much larger than their sum; the error is that of adding them up.
    scale = max(1.0, np.abs(parts.mix).sum() + np.abs(parts.rate).sum())
    assert parts.total.sum() == pytest.approx(new - old, abs=1e-12 * scale)
    back = rate_parts(n1, d1, n0, d0)
    assert np.allclose(back.rate, -parts.rate, atol=1e-12 * scale)


@settings(max_examples=50, deadline=None)
@given(ELEMENTS)
def test_parts_of_a_count_sum_to_its_change(rows):
    expected, _, actual, _ = np.array(rows, dtype=np.float64).T
    parts = count_parts(expected, actual)
    assert parts.total.sum() == pytest.approx(actual.sum() - expected.sum(), rel=1e-12, abs=1e-6)
    assert not parts.mix.any()


def test_rate_parts_by_hand():
    # Two elements with rates .1 and .3. Weights go from 1/2, 1/2 to 1/4, 3/4, rates stay: all of the +.05 is mix, and
    # with R̄ = (.2 + .25) / 2 = .225 it is (.1 − .225)(−.25) and (.3 − .225)(.25).
    parts = rate_parts(np.array([10.0, 30]), np.array([100.0, 100]), np.array([10.0, 90]), np.array([100.0, 300]))
    assert parts.rate == pytest.approx([0, 0])
    assert parts.mix == pytest.approx([0.03125, 0.01875])


def test_coming_and_going_is_mix():
    parts = rate_parts(np.array([10.0, 0]), np.array([100.0, 0]), np.array([10.0, 30]), np.array([100.0, 100]))
    assert parts.rate == pytest.approx([0, 0])
    assert parts.mix.sum() == pytest.approx(0.1)


def test_adtributor_figures_of_the_paper():
    # Table 2 of Bhagwan et al. (NSDI 2014), dimension data centre: forecast 94, 6, actual 47 and 3 of a revenue that
    # fell from 100 to 50: explanatory power 94 % and 6 %, and since shares stay the surprise is 0.
    forecast, actual = np.array([94.0, 6.0]), np.array([47.0, 3.0])
    assert explained_shares(forecast, actual) == pytest.approx([0.94, 0.06])
    assert surprises(forecast, actual) == pytest.approx([0, 0], abs=1e-12)


def test_surprise_is_jensen_shannon():
    from scipy.spatial.distance import jensenshannon

    p, q = np.array([5.0, 3.0, 2.0]), np.array([1.0, 7.0, 0.0])
    # Scipy gives the root of the divergence.
    assert surprises(p, q).sum() == pytest.approx(jensenshannon(p, q) ** 2)


def test_explained_shares_of_a_rate_sum_to_one():
    shares = explained_shares(
        np.array([10.0, 20]), np.array([30.0, 20]), np.array([100.0, 100]), np.array([100.0, 100])
    )
    assert shares.sum() == pytest.approx(1)
    assert shares[0] == pytest.approx(1)


def _cells(**factors):
    """Eight ads of four campaigns on two platforms, in three regions."""
    rows = [
        {
            "platform": "meta" if ad < 4 else "google",
            "campaign_id": f"c{ad // 2}",
            "ad_id": f"ad{ad}",
            "region": region,
            "impressions": 10_000.0 + 1000 * ad,
            "clicks": 300.0 + 20 * ad,
            "spend": 200.0 + 10 * ad,
        }
        for ad in range(8)
        for region in ("US-CA", "US-NY", "US-TX")
    ]
    frame = pd.DataFrame(rows)
    for name, (column, value, factor) in factors.items():
        frame.loc[frame[column] == value, name] *= factor
    return frame


@pytest.mark.parametrize(
    ("metric", "column", "dimension", "value"),
    [
        ("ctr", "clicks", "campaign_id", "c1"),
        ("cpc", "spend", "campaign_id", "c2"),
        ("impressions", "impressions", "platform", "google"),
        ("clicks", "clicks", "region", "US-NY"),
        ("ctr", "clicks", "ad_id", "ad5"),
        ("impressions", "impressions", "ad_id", "ad5"),
        ("impressions", "impressions", "campaign_id", "c1"),
    ],
)
def test_the_changed_element_is_named_first(metric, column, dimension, value):
    expected = _cells()
    actual = _cells(**{column: (dimension, value, 2.0)})
    first = root_causes(expected, actual, metric)[0]
    assert (first.dimension, first.elements) == (dimension, (value,))
    assert first.share_explained == pytest.approx(1, abs=0.02)
    assert value in first.sentence


def test_two_changed_campaigns_are_named_together():
    expected, actual = _cells(), _cells()
    actual.loc[actual["campaign_id"].isin(["c0", "c3"]), "clicks"] *= 3
    first = root_causes(expected, actual, "ctr")[0]
    assert first.dimension == "campaign_id"
    assert set(first.elements) == {"c0", "c3"}


def test_everything_changed_is_the_whole_account():
    expected = _cells()
    first = root_causes(expected, expected.assign(clicks=expected["clicks"] * 0.1), "ctr")[0]
    assert (first.dimension, first.elements, first.share_explained) == (WHOLE_ACCOUNT, (), 1.0)


def test_the_only_campaign_is_named():
    expected = _cells().query("campaign_id == 'c0'")
    first = root_causes(expected, expected.assign(clicks=0.0), "ctr")[0]
    assert (first.dimension, first.elements) == ("campaign_id", ("c0",))


def test_new_and_gone_elements():
    expected = _cells().query("campaign_id != 'c3'")
    actual = _cells().query("campaign_id != 'c0'")
    for frames in ((expected, _cells()), (_cells(), actual)):
        first = root_causes(*frames, "impressions")[0]
        assert first.dimension == "campaign_id"
        assert len(first.elements) == 1


def test_order_of_rows_does_not_matter():
    expected, actual = _cells(), _cells(clicks=("campaign_id", "c1", 2.0))
    shuffled = (expected.sample(frac=1, random_state=1), actual.sample(frac=1, random_state=2))
    plain, mixed = root_causes(expected, actual, "ctr"), root_causes(*shuffled, "ctr")
    assert [(c.dimension, c.elements) for c in plain] == [(c.dimension, c.elements) for c in mixed]
    assert plain[0].rate_effect == pytest.approx(mixed[0].rate_effect)


def test_split_rows_are_added():
    expected, actual = _cells(), _cells(clicks=("campaign_id", "c1", 2.0))
    numbers = ["impressions", "clicks", "spend"]
    half = actual.copy()
    half[numbers] /= 2
    assert root_causes(expected, pd.concat([half, half]), "ctr") == root_causes(expected, actual, "ctr")


@pytest.mark.parametrize("metric", list(METRICS))
def test_nothing_gives_no_causes(metric):
    empty = _cells().assign(conversions=0.0, revenue=0.0).iloc[:0]
    zero = _cells().assign(impressions=0, clicks=0, spend=0, conversions=0, revenue=0)
    assert root_causes(empty, empty, metric) == ()
    assert root_causes(zero, zero, metric) == ()
    assert root_causes(empty, zero, metric) == ()


def test_money_and_missing_values():
    expected = _cells()
    actual = _cells(spend=("campaign_id", "c1", 3.0))
    actual.loc[0, "spend"] = None
    actual.loc[actual["ad_id"] == "ad7", "region"] = None
    assert root_causes(expected, actual, "cpc", ["campaign_id", "region"])[0].elements == ("c1",)


@pytest.mark.parametrize(
    ("metric", "change", "words"),
    [
        ("ctrr", {}, "metric must be one of"),
        ("roas", {}, "needs the columns"),
        ("ctr", {"clicks": -1.0}, "0 or above"),
        ("ctr", {"clicks": np.inf}, "finite"),
    ],
)
def test_bad_input_is_named(metric, change, words):
    with pytest.raises(InputError, match=words):
        root_causes(_cells(), _cells().assign(**change), metric)


def test_json_has_all_fields():
    causes = root_causes(_cells(), _cells(clicks=("campaign_id", "c1", 2.0)), "ctr")
    told = json.loads(to_json(causes))
    assert told[0]["elements"] == ["c1"]
    assert set(told[0]) == {
        "dimension", "elements", "share_explained", "surprise", "mix_effect", "rate_effect", "sentence",
    }  # fmt: skip


def _days(rows):
    return pd.DataFrame(
        [{"date": dt.date(2024, 1, day), "campaign_id": name, "clicks": clicks} for day, name, clicks in rows]
    )


def test_baseline_knows_young_and_ended_elements():
    rows = [(day, "old", 10) for day in range(1, 12)]
    rows += [(day, "young", 8) for day in range(8, 12)]
    rows += [(day, "ended", 5) for day in range(1, 8)]
    rows += [(11, "new", 3)]
    expected, actual = baseline_and_day(_days(rows), dt.date(2024, 1, 11), "clicks", 10)
    assert dict(zip(expected["campaign_id"], expected["clicks"], strict=True)) == {"old": 10, "young": 8}
    assert set(actual["campaign_id"]) == {"old", "young", "new"}


def test_an_episode_is_averaged_and_not_its_own_baseline():
    rows = [(day, "a", 10) for day in range(1, 9)] + [(9, "a", 30), (10, "a", 50)]
    expected, actual = baseline_and_day(_days(rows), dt.date(2024, 1, 10), "clicks", 8, first=dt.date(2024, 1, 9))
    assert expected["clicks"].tolist() == [10]
    assert actual["clicks"].tolist() == [40]


def test_baseline_rejects_days_out_of_order():
    with pytest.raises(InputError, match="first <= date"):
        baseline_and_day(_days([(1, "a", 1)]), dt.date(2024, 1, 1), "clicks", first=dt.date(2024, 1, 2))


def test_planted_causes_of_the_simulation_are_found():
    agency = simulate(SimulationConfig(accounts=12, days=90, anomalies=12, seed=210))
    frame = pa.concat_tables(list(agency.performance())).to_pandas()
    right, seen = 0, 0
    for row in agency.anomalies.to_pylist():
        if row["cause"] not in ("bid_war", "tracking_outage"):
            continue
        mine = frame[frame["account_id"] == row["account_id"]]
        found = root_causes(*baseline_and_day(mine, row["start_date"], row["metric"]), row["metric"])[0]
        seen += 1
        right += (
            found.elements == ((row["campaign_id"],) if row["campaign_id"] else ())
            or len(mine.loc[mine["date"] == row["start_date"], "campaign_id"].unique()) == 1
        )
    assert seen >= 3
    assert right == seen
