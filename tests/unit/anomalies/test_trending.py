"""Topics trend when their ads rise beyond their accounts and beyond chance."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

from within_ml.anomalies.random_effects import Precision, group_variance
from within_ml.anomalies.topics import find_topics
from within_ml.anomalies.trending import COLUMNS, trending_topics
from within_ml.errors import InputError
from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.simulation import SimulationConfig, simulate, write_truth

AS_OF = dt.date(2024, 3, 1)
HOOKS = ("Half price", "Looking for", "Award winning", "Last chance: fresh")
THINGS = ("shoes", "desk lamps", "yoga classes", "meal kits")


def _agency(boost, *, seed=0, accounts=12):
    """Ads of 12 accounts with two campaigns each; ``boost(headline, account)`` multiplies the recent click rate."""
    rng = np.random.default_rng(seed)
    ads, rows = [], []
    for account in range(accounts):
        for campaign in range(2):
            for number in range(4):
                headline = f"{HOOKS[(number + campaign) % 4]} {THINGS[(account + number) % 4]}"
                key = {"platform": "meta", "account_id": f"a{account}", "ad_id": f"{account}-{campaign}-{number}"}
                ads.append({**key, "headline": headline, "valid_from": dt.date(2024, 1, 1)})
                rate = 0.02 * np.exp(rng.normal(0, 0.3))
                for age in range(38):
                    true = rate * (boost(headline, account) if age < 7 else 1) * np.exp(rng.normal(0, 0.05))
                    rows.append(
                        {**key, "campaign_id": f"c{account}-{campaign}", "date": AS_OF - dt.timedelta(days=age),
                         "impressions": 2000, "clicks": rng.binomial(2000, true)}
                    )  # fmt: skip
    return pd.DataFrame(ads), pd.DataFrame(rows)


def test_a_burst_is_told_with_its_size():
    told = trending_topics(*_agency(lambda text, _: 1.5 if "Award" in text else 1.0), AS_OF)
    first = told.iloc[0]
    assert first["topic"] == "award winning"
    assert len(told) == 1
    assert first["rate_ratio_lower"] > 1.1
    assert first["rate_ratio_lower"] < first["rate_ratio"] < first["rate_ratio_upper"]
    assert first["clicks"] > 1.2 * first["expected_clicks"]
    assert all("Award winning" in text for text in json.loads(first["examples"]))


def test_a_good_week_of_all_and_a_good_account_make_no_topic():
    everywhere = trending_topics(*_agency(lambda *_: 1.4), AS_OF)
    one_account = trending_topics(*_agency(lambda _, account: 2.0 if account == 3 else 1.0), AS_OF)
    assert everywhere.empty
    assert one_account.empty


def test_nothing_trends_by_chance_too_often():
    told = [len(trending_topics(*_agency(lambda *_: 1.0, seed=seed), AS_OF)) for seed in range(8)]
    assert sum(n > 0 for n in told) <= 1


def test_order_of_rows_and_later_days_do_not_matter():
    ads, rows = _agency(lambda text, _: 1.5 if "Award" in text else 1.0)
    later = rows.assign(date=AS_OF + dt.timedelta(days=1), clicks=2000)
    plain = trending_topics(ads, rows, AS_OF)
    mixed = trending_topics(ads.sample(frac=1, random_state=1), pd.concat([later, rows[::-1]]), AS_OF)
    pd.testing.assert_frame_equal(plain, mixed)


def test_the_text_is_that_of_the_day():
    ads, rows = _agency(lambda text, _: 1.5 if "Award" in text else 1.0)
    tomorrow = ads.assign(headline="Something else entirely", valid_from=AS_OF + dt.timedelta(days=1))
    assert trending_topics(pd.concat([ads, tomorrow]), rows, AS_OF)["topic"].tolist() == ["award winning"]


def test_columns_are_those_of_the_table():
    told = trending_topics(*_agency(lambda text, _: 1.5 if "Award" in text else 1.0), AS_OF)
    assert tuple(told.columns) == COLUMNS
    assert set(COLUMNS) | {"date", "run_id"} == set(CONTRACTS["trending_topics"].schema.names)


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_tell_nothing(rows):
    ads, performance = _agency(lambda *_: 1.0)
    told = trending_topics(ads, performance.iloc[:rows], AS_OF)
    assert told.empty
    assert tuple(told.columns) == COLUMNS


def test_ads_without_text_are_left_out():
    ads, performance = _agency(lambda *_: 1.5)
    assert trending_topics(ads.assign(headline=None), performance, AS_OF).empty


def test_bad_input():
    ads, performance = _agency(lambda *_: 1.0, accounts=1)
    with pytest.raises(InputError, match="ads must have the columns"):
        trending_topics(ads.drop(columns="headline"), performance, AS_OF)
    with pytest.raises(InputError, match="max_q in"):
        trending_topics(ads, performance, AS_OF, max_q=0)


def test_words_of_the_same_texts_are_one_topic():
    texts = ["Last chance for shoes", "Last chance for lamps", "New shoes", "New lamps / 24"] * 2
    topics = find_topics(texts)
    assert set(topics.names) == {"last chance for", "shoes", "new", "lamps"}
    place = topics.names.index("last chance for")
    assert topics.has.toarray()[:, place].tolist() == [1, 1, 0, 0] * 2


def test_no_texts_have_no_topics():
    assert find_topics([]).names == ()
    assert find_topics(["", "the of and"], min_texts=1).names == ()


class TestPlantedBursts:
    def test_without_bursts_nothing_changes(self):
        plain, asked = SimulationConfig(accounts=3, days=50), SimulationConfig(accounts=3, days=50, bursts=0)
        assert plain.fingerprint() == asked.fingerprint()
        assert "bursts" not in plain.as_json()
        assert simulate(plain).bursts.num_rows == 0

    def test_bursts_raise_their_ads_on_their_days_alone(self):
        config = {"accounts": 20, "days": 70, "seed": 3, "anomalies": 0}
        agency, plain = simulate(SimulationConfig(**config, bursts=2)), simulate(SimulationConfig(**config))
        burst = agency.bursts.to_pylist()[0]
        ads = agency.ads.to_pandas().set_index("ad_id")["headline"]
        assert agency.ads.equals(plain.ads)
        mine = set(ads.index[ads.str.contains(burst["topic"], regex=False)])
        before = burst["start_date"] - dt.timedelta(days=1)
        for day, rises in ((burst["start_date"], True), (before, False)):
            one, other = (next(a.true_ctr(first=day, last=day)).to_pandas().set_index("ad_id") for a in (agency, plain))
            ratio = one["true_ctr"] / other["true_ctr"]
            chosen = ratio[ratio.index.isin(mine)]
            assert (chosen > 1.2).all() == rises
            assert len(chosen) >= 5

    @pytest.mark.parametrize("bursts", [0, 1])
    def test_the_truth_is_written_where_there_is_one(self, bursts, tmp_path):
        agency = simulate(SimulationConfig(accounts=20, days=60, seed=3, bursts=bursts, max_images=1))
        write_truth(agency, tmp_path)
        assert (tmp_path / "bursts.parquet").exists() == bool(bursts)
        assert agency.bursts.num_rows == bursts

    @pytest.mark.parametrize("bursts", [-1, 1.5, "many"])
    def test_their_number_is_checked(self, bursts):
        with pytest.raises(InputError, match="bursts must be a whole number"):
            SimulationConfig(bursts=bursts)

    def test_they_are_found(self):
        agency = simulate(SimulationConfig(accounts=30, days=100, seed=201, bursts=3, drift_size=0.0))
        ads = agency.ads.to_pandas()
        rows = pa.concat_tables(list(agency.performance())).to_pandas()
        found = 0
        for burst in agency.bursts.to_pylist():
            day = burst["start_date"] + dt.timedelta(days=6)
            told = trending_topics(ads, rows[rows["date"] >= day - dt.timedelta(days=37)], day)
            words = {word.strip(":,") for word in burst["topic"].lower().split()}
            found += any(set(topic.split()) <= words for topic in told["topic"])
        assert agency.bursts.num_rows == 3
        assert found >= 2


def test_effects_are_those_of_the_written_out_covariance():
    rng = np.random.default_rng(0)
    n = 40
    campaign = np.sort(rng.integers(0, 10, n))
    campaign = np.unique(campaign, return_inverse=True)[1]
    account = campaign // 3
    y, variance = rng.normal(0, 0.3, n), rng.uniform(0.01, 0.1, n)
    has = (rng.random((n, 3)) < 0.3).astype(float)
    effects, errors = Precision(y, variance, campaign, account).effects(y, sparse.csc_matrix(has))
    within = group_variance(y, variance, campaign)
    between = group_variance(y, variance + within, account)
    covariance = np.diag(variance) + within * (campaign[:, None] == campaign) + between * (account[:, None] == account)
    inverse = np.linalg.inv(covariance)
    for column in range(3):
        design = np.column_stack([np.ones(n), has[:, column]])
        solved = np.linalg.inv(design.T @ inverse @ design)
        assert effects[column] == pytest.approx((solved @ design.T @ inverse @ y)[1])
        assert errors[column] == pytest.approx(np.sqrt(solved[1, 1]))
