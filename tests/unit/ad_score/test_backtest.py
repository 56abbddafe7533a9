"""A backtest sees nothing that was not known, and expected impressions are of the right size."""

import json

import numpy as np
import pandas as pd
import pytest

from within_ml.ad_score import AdScorePredictor
from within_ml.ad_score.backtest import ExpectedImpressions, backtest
from within_ml.errors import InputError, ModelFormatError
from within_ml.metrics import log_loss


class Spy:
    """Predicts the mean of what it was fitted on, and remembers the days."""

    def fit_model(self, X, y, *, sample_weight=None):
        self.rows, self.rate = X, float(np.average(y, weights=sample_weight))
        SEEN.append(X["date"].max())

    def predict(self, X):
        ASKED.append((X["date"].min(), X["date"].max()))
        return np.full(len(X), self.rate)


SEEN, ASKED = [], []


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()
    ASKED.clear()


def days(n=120, ads=5):
    X = pd.DataFrame(
        {"date": np.repeat(pd.date_range("2024-01-01", periods=n), ads), "platform": "meta", "account_id": "a"}
    )
    return X.assign(ad_id=np.tile(np.arange(ads).astype(str), n))


@pytest.mark.parametrize("block_days", [1, 7, 14, 56])
def test_a_block_is_predicted_from_labels_that_were_mature_before_it(block_days):
    X = days()
    found = backtest(Spy, X, np.full(len(X), 0.02), block_days=block_days)

    assert len(SEEN) == len(ASKED) == 56 // block_days
    for last_seen, (first, last) in zip(SEEN, ASKED, strict=True):
        assert first - last_seen == pd.Timedelta(days=9)
        assert last - first == pd.Timedelta(days=block_days - 1)
    assert X.loc[found["row"], "date"].min() == X["date"].max() - pd.Timedelta(days=55)
    assert found["row"].is_unique
    assert len(found) == 56 * 5


def test_what_comes_later_changes_nothing():
    X = days()
    y = np.random.default_rng(0).uniform(0.01, 0.05, len(X))
    late = (X["date"] > X["date"].max() - pd.Timedelta(days=28)).to_numpy()
    before, after = (backtest(Spy, X, rates) for rates in (y, np.where(late, 1.0, y)))

    # Block 2 is the first of the late days, block 3 the first that could know of them.
    early = before["block"] <= 2
    assert before.loc[early, "prediction"].tolist() == after.loc[early, "prediction"].tolist()
    assert (before.loc[~early, "prediction"] < after.loc[~early, "prediction"]).all()


def test_the_order_of_the_rows_is_irrelevant():
    X = days()
    y = np.random.default_rng(0).uniform(0.01, 0.05, len(X))
    order = np.random.default_rng(1).permutation(len(X))
    straight = backtest(Spy, X, y, max_rows=150).set_index("row")["prediction"]
    shuffled = backtest(Spy, X.iloc[order].reset_index(drop=True), y[order], max_rows=150)

    back = pd.Series(shuffled["prediction"].to_numpy(), index=order[shuffled["row"]])
    assert np.array_equal(back.loc[straight.index], straight)


def test_training_is_capped_and_rows_without_impressions_are_not_trained_on():
    class Counting(Spy):
        def fit_model(self, X, y, *, sample_weight=None):
            assert len(X) == 100
            assert (np.asarray(sample_weight) > 0).all()
            super().fit_model(X, y, sample_weight=sample_weight)

    X = days()
    backtest(Counting, X, np.full(len(X), 0.02), np.arange(len(X)) % 2, max_rows=100)
    assert len(SEEN) == 2  # for the two oldest blocks fewer than 200 rows with impressions are known


@pytest.mark.parametrize(("n", "blocks"), [(0, 0), (1, 0), (60, 0), (70, 1), (84, 2), (112, 4)])
def test_a_short_history_has_fewer_blocks_or_none(n, blocks):
    X = days(n)
    found = backtest(Spy, X, np.full(len(X), 0.02), min_rows=200)

    assert found["block"].nunique() == blocks
    assert list(found.columns) == ["row", "prediction", "block"]


def test_the_ad_score_is_backtested(training_rows):
    X = training_rows
    w = X["label_impressions"].to_numpy()
    y = X["label_clicks"].to_numpy() / w
    found = backtest(lambda: AdScorePredictor(feature_config={"n_threads": 1}), X, y, w, days=28)

    rows = found["row"].to_numpy()
    assert found["block"].nunique() == 2
    assert log_loss(y[rows], found["prediction"], sample_weight=w[rows]) < log_loss(
        y[rows], np.full(rows.size, np.average(y, weights=w)), sample_weight=w[rows]
    )


@pytest.mark.parametrize("wrong", [{"days": 0}, {"block_days": 0}, {"max_rows": 0}, {"sample_weight": [1.0]}])
def test_impossible_arguments_are_refused(wrong):
    X = days(20)
    with pytest.raises(InputError):
        backtest(Spy, X, np.full(len(X), 0.02), **wrong)


def served(n=3000, seed=0):
    """Ads of two accounts, one with ten times the volume; a third of them new."""
    rng = np.random.default_rng(seed)
    large = rng.random(n) < 0.5
    week = np.where(large, 50_000, 5_000) * rng.lognormal(0, 0.5, n)
    new = rng.random(n) < 1 / 3
    X = pd.DataFrame(
        {
            "platform": "meta",
            "account_id": np.where(large, "large", "small"),
            "ad_impressions_7d": np.where(new, 0, week * rng.lognormal(0, 0.1, n)),
            "ad_age_days": np.where(new, 0, 30),
        }
    )
    return X, 0.9 * week


def test_expected_impressions_are_of_the_right_size():
    X, impressions = served()
    expected = ExpectedImpressions.fit(*served(seed=1)).predict(X)
    error = np.log(expected / impressions)
    new = (X["ad_impressions_7d"] == 0).to_numpy()

    assert abs(error[~new].mean()) < 0.02
    assert error[~new].std() < 0.12
    for account in ("large", "small"):
        assert abs(error[new & (X["account_id"] == account)].mean()) < 0.1


def test_a_young_ad_has_not_had_its_week_yet():
    X = pd.DataFrame({"platform": "m", "account_id": "a", "ad_impressions_7d": [700.0] * 40, "ad_age_days": [30] * 40})
    usual = ExpectedImpressions.fit(X, np.full(40, 700.0))

    assert usual.predict(X.assign(ad_age_days=1))[0] == pytest.approx(700 * 7 / 2)


def test_nothing_known_is_still_an_answer():
    bare = pd.DataFrame({"platform": ["m"], "account_id": ["a"]})
    nothing = ExpectedImpressions.fit(bare[:0], [])

    assert nothing.predict(bare) == pytest.approx([1.0])
    assert nothing.predict(bare[:0]).shape == (0,)
    assert ExpectedImpressions.fit(bare, [0.0]).predict(bare.assign(account_id="new")) == pytest.approx([1.0])
    missing = bare.assign(ad_impressions_7d=pd.NA, ad_age_days=pd.NA)
    assert ExpectedImpressions.fit(missing, [500.0]).predict(missing) == pytest.approx([500.0])


def test_expected_impressions_survive_json():
    X, impressions = served()
    fitted = ExpectedImpressions.fit(X, impressions)
    again = ExpectedImpressions.from_dict(json.loads(json.dumps(fitted.to_dict())))

    assert np.array_equal(again.predict(X), fitted.predict(X))
    with pytest.raises(ModelFormatError):
        ExpectedImpressions.from_dict({"ratio": 1})
    with pytest.raises(InputError, match="impressions must have shape"):
        ExpectedImpressions.fit(X, [1.0])
