"""Similar ads: near in text, successful beside their campaign, never the ad itself."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.explain.similar import SimilarAds, similar_json

SUBJECTS = ["running shoes", "garden chairs", "city hotels", "coffee beans", "winter coats"]


def ads(n_campaigns=40, seed=0):
    """Two ads per campaign, of which the one with "Free" has twice the rate; accounts differ tenfold."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "platform": "meta" if c % 2 else "google",
            "account_id": f"a{c % 4}",
            "campaign_id": f"c{c}",
            "ad_id": f"{c}-{kind}",
            "text": f"{kind} {SUBJECTS[c % 5]} number {c}",
            "impressions": 20_000,
            "ctr": (0.002, 0.02)[c % 4 < 2] * (2 if kind == "Free" else 1) * rng.uniform(0.95, 1.05),
            "date": pd.Timestamp("2024-01-01") + pd.Timedelta(days=c),
        }
        for c in range(n_campaigns)
        for kind in ("Free", "Plain")
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def past():
    return ads()


@pytest.fixture(scope="module")
def model(past):
    return fit(past)


def fit(past, **options):
    return SimilarAds(**{"quantile": 0.5} | options).fit(
        past["text"].tolist(), past["ctr"], past["impressions"], past, past["date"]
    )


def test_what_did_well_in_its_campaign_is_found_whatever_its_account_s_level(model):
    found = model.find(["Some running shoes", "Cheap city hotels"], k=3)
    for row, subject in zip(found, ("running shoes", "city hotels"), strict=True):
        assert len(row) == 3
        assert all(subject in ad.text and ad.text.startswith("Free") for ad in row)
        assert all(ad.lift > 1.1 for ad in row)
    assert set(model.ads_["account_id"]) == {"a0", "a1", "a2", "a3"}


def test_an_ad_is_not_similar_to_itself(model, past):
    own = past[past["ad_id"] == "7-Free"]
    alone, told = model.find(own["text"].tolist()), model.find(own["text"].tolist(), keys=own)
    assert alone[0][0].ad_id == "7-Free"
    assert alone[0][0].similarity == pytest.approx(1)
    assert "7-Free" not in {ad.ad_id for ad in told[0]}


@pytest.mark.parametrize(("within", "column"), [("account", "account_id"), ("platform", "platform")])
def test_the_search_can_be_kept_within(model, past, within, column):
    queries = past[past["ad_id"].isin(["0-Plain", "1-Plain"])]
    for row, value in zip(
        model.find(queries["text"].tolist(), keys=queries, within=within), queries[column], strict=True
    ):
        assert row
        assert {getattr(ad, column) for ad in row} == {value}


def test_rows_of_one_ad_are_summed_and_equal_texts_are_found_once(past):
    split = pd.concat([past.assign(impressions=past["impressions"] // 2)] * 2, ignore_index=True)
    once, twice = fit(past), fit(split)
    pd.testing.assert_frame_equal(once.ads_, twice.ads_, check_dtype=False)
    same = past.assign(text=["Free running shoes" if "Free" in text else text for text in past["text"]])
    assert len(fit(same).find(["Free running shoes"])[0]) == 1


def test_little_evidence_is_no_success(past):
    lucky = pd.DataFrame([past.iloc[0].to_dict() | {"ad_id": "lucky", "impressions": 3, "ctr": 1 / 3}])
    found = fit(pd.concat([past, lucky], ignore_index=True), quantile=0.75)
    assert "lucky" not in set(found.ads_["ad_id"])


def test_of_too_many_the_latest_are_kept(past):
    kept = fit(past, max_candidates=5).ads_
    assert len(kept) == 5
    assert kept["date"].min() >= past["date"].max() - pd.Timedelta(days=5)


@pytest.mark.parametrize("texts", [[], [None], [""], ["entirely unrelated"]])
def test_nothing_similar_is_nothing(model, texts):
    assert model.find(texts) == [()] * len(texts)


def test_no_success_is_no_candidate(past):
    empty = fit(past[:0])
    assert empty.find(["running shoes"]) == [()]


def test_json_is_a_list_of_records(model):
    told = json.loads(similar_json(model.find(["running shoes"]))[0])
    assert set(told[0]) >= {"platform", "account_id", "campaign_id", "ad_id", "text", "similarity", "ctr", "date"}


FRESH = """
import sys
from pathlib import Path
from within_ml.explain.similar import SimilarAds, similar_json
sys.stdout.write(similar_json(SimilarAds.load(Path(sys.argv[1])).find(["Some running shoes"]))[0])
"""


def test_it_survives_saving(model, past, tmp_path):
    before = past.copy()
    model.save(tmp_path)
    fresh = subprocess.run([sys.executable, "-c", FRESH, tmp_path], capture_output=True, text=True, check=True)
    assert fresh.stdout == similar_json(model.find(["Some running shoes"]))[0]
    pd.testing.assert_frame_equal(past, before)
    (tmp_path / "similar_ads.npz").unlink()
    with pytest.raises(ModelFormatError, match="similar_ads"):
        SimilarAds.load(tmp_path)


def test_bad_input(model, past):
    with pytest.raises(NotFittedError):
        SimilarAds().find(["x"])
    with pytest.raises(InputError, match="keys must have"):
        SimilarAds().fit(["x"], [0.1], [10], past[["ad_id"]][:1], past["date"][:1])
    with pytest.raises(InputError, match="keys must have one row"):
        model.find(["x"], within="account")
    with pytest.raises(InputError, match="quantile"):
        fit(past, quantile=1.0)
    with pytest.raises(InputError):
        fit(past.assign(ctr=2.0))
