"""The baselines are what their names say."""

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from within_ml.errors import InputError, NotFittedError
from within_ml.validation.baselines import GlobalRate, SmoothedCampaignRate, TfidfRidge, fit_baselines


def ads(campaigns, **columns):
    return pd.DataFrame({"platform": "meta", "account_id": "a", "campaign_id": campaigns, "headline": "x", **columns})


def test_global_rate_is_clicks_over_impressions():
    X = ads(["c", "d"])

    assert GlobalRate().fit(X, [0.5, 0.1], sample_weight=[10, 90]).predict(X[:1]) == pytest.approx([14 / 100])


def test_a_campaign_is_drawn_to_its_account_and_a_stranger_gets_the_account():
    X = ads(["c", "d"], account_id=["a", "b"])
    model = SmoothedCampaignRate(strength=100).fit(X, [0.2, 0.0], sample_weight=[100, 300])
    asked = ads(["c", "new", "new"], account_id=["a", "a", "other"])

    # overall 20/400 = .05; account a (20 + 5) / 200 = .125; campaign c (20 + 12.5) / 200 = .1625
    assert model.predict(asked) == pytest.approx([0.1625, 0.125, 0.05])


def test_what_is_known_on_the_day_goes_before_training():
    day = {
        "campaign_clicks_28d": [0],
        "campaign_impressions_28d": [0],
        "account_clicks_28d": [30],
        "account_impressions_28d": [900],
    }
    X = ads(["c"])
    model = SmoothedCampaignRate(strength=100).fit(X, [0.5], sample_weight=[100])

    # account (30 + 100 * .5) / 1000 = .08, the campaign has nothing of its own
    assert model.predict(ads(["c"], **day)) == pytest.approx([0.08])


def test_tfidf_ridge_is_scikit_learns_pipeline():
    rng = np.random.default_rng(0)
    words = np.array(["free", "shoes", "now", "old", "news", "great"])
    X = ads(np.arange(80), headline=[f"{i} " + " ".join(rng.choice(words, 3)) for i in range(80)])
    y, w = rng.uniform(0.01, 0.05, 80), rng.integers(100, 900, 80)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    matrix = vectorizer.fit_transform(X["headline"])
    peer = Ridge(alpha=5.0).fit(matrix, y, sample_weight=w / w.mean()).predict(matrix)

    assert TfidfRidge().fit(X, y, sample_weight=w).predict(X) == pytest.approx(peer, rel=1e-3)


@pytest.mark.parametrize("headline", [None, "", "!?", "靴", "seen once"])
def test_without_words_to_learn_it_is_the_global_rate(headline):
    X = ads(["c"], headline=[headline])

    assert TfidfRidge().fit(X, [0.1], sample_weight=[10]).predict(X) == pytest.approx([0.1])


def test_three_baselines_predict_rates_for_anyone():
    X = ads(["c", "d"] * 20, headline=["good news", "bad news"] * 20)
    baselines = fit_baselines(X, [0.02, 0.01] * 20, sample_weight=np.full(40, 500))

    assert list(baselines) == ["global_rate", "smoothed_campaign_rate", "tfidf_ridge"]
    for model in baselines.values():
        assert ((model.predict(X) > 0) & (model.predict(X) < 1)).all()
        assert model.predict(X[:0]).shape == (0,)


@pytest.mark.parametrize("model", [GlobalRate(), SmoothedCampaignRate(), TfidfRidge()])
def test_misuse_is_refused(model):
    with pytest.raises(NotFittedError):
        model.predict(ads(["c"]))
    with pytest.raises(InputError, match="impressions"):
        model.fit(ads(["c"]), [0.1], sample_weight=[0])
