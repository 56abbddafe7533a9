"""The composed ad score: intervals, reasons and updates, on an agency whose truth is known."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from within_ml.ad_score import AdScorePredictor
from within_ml.errors import InputError, NotFittedError
from within_ml.metrics import log_loss

_spec = importlib.util.spec_from_file_location("agency_rows", Path(__file__).with_name("conftest.py"))
_rows = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_rows)
agency, labels = _rows.agency, _rows.labels

QUICK = {"n_estimators": 20, "learning_rate": 0.1, "n_threads": 1}
FIRST_NEW_DAY = "2024-07-14"


def fitted_on(frame, **options):
    y, w = labels(frame)
    return AdScorePredictor(QUICK, **options).fit(frame, y, sample_weight=w)


@pytest.fixture(scope="module")
def weeks():
    """Weeks without shocks that all ads share, so that rows are independent draws."""
    return agency(n_weeks=36, accounts=3, week_sd=0.0).drop(columns="true_ctr")


@pytest.fixture(scope="module")
def later(weeks):
    return weeks[weeks["date"] >= FIRST_NEW_DAY].reset_index(drop=True)


@pytest.fixture(scope="module")
def model(weeks):
    """Nothing may change it: tests that update load a copy."""
    return fitted_on(weeks[weeks["date"] < FIRST_NEW_DAY])


@pytest.fixture
def copy(model, tmp_path):
    model.save(tmp_path / "model")
    return AdScorePredictor.load(tmp_path / "model")


class TestIntervals:
    @pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95])
    @pytest.mark.parametrize("planned", [False, True])
    def test_they_hold_as_often_as_they_say(self, model, later, confidence, planned):
        y, w = labels(later)
        found = model.predict_with_intervals(later, impressions=w if planned else None, confidence=confidence)

        inside = ((y >= found["ctr_lower"]) & (y <= found["ctr_upper"])).mean()
        # Two samples are compared, the outcomes that were learned from and these.
        error = np.sqrt(confidence * (1 - confidence) * (1 / len(later) + 1 / len(model.outcomes_)))
        assert abs(inside - confidence) < 4 * error

    def test_they_contain_the_prediction_and_each_other(self, model, later):
        narrow, usual, wide = (model.predict_with_intervals(later, confidence=c) for c in (0.5, None, 0.99))

        assert np.array_equal(usual["predicted_ctr"], model.predict(later))
        assert (usual["ctr_lower"] <= usual["predicted_ctr"]).all()
        assert (usual["predicted_ctr"] <= usual["ctr_upper"]).all()
        for inner, outer in ((narrow, usual), (usual, wide)):
            assert (outer["ctr_lower"] <= inner["ctr_lower"]).all()
            assert (inner["ctr_upper"] <= outer["ctr_upper"]).all()
        assert usual.index.equals(later.index)

    def test_more_planned_impressions_leave_less_to_chance(self, model, later):
        widths = []
        for count in (100, 1_000, 10_000, 1_000_000):
            found = model.predict_with_intervals(later, impressions=np.full(len(later), count))
            assert (found["interval_impressions"] == count).all()
            widths.append((found["ctr_upper"] - found["ctr_lower"]).to_numpy())

        assert (np.diff(widths, axis=0) < 0).all()

    def test_those_of_the_scores_are_the_usual_ones(self, model, later):
        scored, found = model.score(later), model.predict_with_intervals(later)

        for name in ("ctr_lower", "ctr_upper", "interval_impressions"):
            assert scored[name].to_numpy() == pytest.approx(found[name].to_numpy(), abs=1e-9)

    def test_too_short_a_history_says_so_by_nothing(self):
        short = fitted_on(agency(n_weeks=1, accounts=8, campaigns=4).drop(columns="true_ctr"))
        found = short.predict_with_intervals(agency(n_weeks=1))

        assert found[["ctr_lower", "ctr_upper", "interval_impressions"]].isna().all(axis=None)
        assert found["predicted_ctr"].between(0, 1).all()

    def test_misuse_is_refused(self, model, later):
        with pytest.raises(InputError, match="impressions must have shape"):
            model.predict_with_intervals(later, impressions=[1000.0])
        with pytest.raises(InputError, match="confidence must be above 0 and below 1, however: 90"):
            model.predict_with_intervals(later, confidence=90)


GAPS = {"ad_impressions_28d": np.nan, "sentiment": np.nan, "headline": None}


class TestReasons:
    @pytest.mark.parametrize("kind", ["ensemble", "linear"])
    def test_the_parts_of_each_row_add_up(self, weeks, kind):
        plain = fitted_on(weeks[:600], model_type=kind, calibration=False, uncertainty=False)
        rows = pd.concat([weeks[600:700], weeks[600:700].assign(**GAPS)])
        found = plain.explain(rows)

        assert found.values.shape == (200, len(found.names))
        assert found.base + found.values.sum(axis=1) == pytest.approx(logit(plain.predict(rows)), abs=1e-4)
        assert np.ptp(found.base) == 0

    def test_the_parts_of_the_trees_are_those_of_xgboost(self, model, later):
        import xgboost

        trees = model.corrections_.members_["trees"]
        rows = pd.concat([later, later.assign(**GAPS)])
        found = trees.contributions(rows)
        numbers = xgboost.DMatrix(rows[trees.features].astype(float).to_numpy())
        numbers.set_base_margin(np.zeros(len(rows)))
        used = (0, trees.model_.n_trees_)
        theirs = trees.model_.booster_.predict(numbers, pred_contribs=True, iteration_range=used)

        assert trees.model_.n_trees_ > 0
        assert found.values == pytest.approx(theirs[:, :-1].astype(np.float64), abs=1e-5)

    def test_the_strongest_come_first_and_are_readable(self, model, later):
        told = model.analyse(later)

        for text in told["reasons"]:
            reasons = json.loads(text)
            sizes = [abs(reason["log_odds"]) for reason in reasons]
            assert sizes == sorted(sizes, reverse=True)
            assert all(reason["text"].strip() and reason["group"] for reason in reasons)
        assert told["base_ctr"].between(0, 1).all()
        assert told["predicted_ctr"].to_numpy() == pytest.approx(model.predict(later), abs=1e-9)

    def test_they_lead_from_the_usual_ad_to_this_one(self, model, later):
        """All parts together are the way from the account's usual prediction to the ad's, also in points of CTR."""
        told = model.analyse(later)
        top = model.score(later)["top_reasons"].map(json.loads)
        up = told["predicted_ctr"] > 1.2 * told["base_ctr"]
        down = told["predicted_ctr"] < 0.8 * told["base_ctr"]
        first = told["reasons"].map(lambda text: json.loads(text)[0]["points"])

        assert up.sum() > 20
        assert (first[up] > 0).mean() > 0.9
        assert (first[down] < 0).mean() > 0.9
        assert top.map(len).between(1, 3).all()

    def test_each_suggestion_raises_the_prediction(self, model, later):
        mixed = ["Ordinary offer: Amazing offer of shoes", "Amazing offer of shoes: Ordinary offer number 7"]
        rows = later[:60].assign(headline=[mixed[i % 2] for i in range(60)])
        found = [json.loads(text) for text in model.analyse(rows)["suggestions"]]

        assert np.mean([len(row) > 0 for row in found]) > 0.5
        which = [i for i, row in enumerate(found) for _ in row]
        each = [one for row in found for one in row]
        changed = rows.iloc[which].reset_index(drop=True)
        for column in {one["column"] for one in each}:
            new = [one["new_value"] if one["column"] == column else None for one in each]
            changed[column] = [n if n is not None else old for n, old in zip(new, changed[column], strict=True)]
        assert model.predict(changed) == pytest.approx([one["new_ctr"] for one in each], abs=1e-6)
        assert (model.predict(changed) > model.predict(rows)[which]).all()

    def test_similar_ads_are_other_ads_of_the_same_account(self, model, later):
        found = model.analyse(later)["similar_ads"].map(json.loads)

        # Numbered headlines are hardly alike: not each has a near one.
        assert (found.map(len) > 0).mean() > 0.3
        for ads, (_, row) in zip(found, later.iterrows(), strict=True):
            for ad in ads:
                assert (ad["platform"], ad["account_id"]) == (row["platform"], row["account_id"])
                assert ad["ad_id"] != row["ad_id"]
                assert ad["lift"] > 1

    def test_without_reasons_none_are_told(self, weeks):
        plain = fitted_on(weeks[:300], explainable=False, uncertainty=False)

        for ask in (plain.analyse, plain.reasons):
            with pytest.raises(NotFittedError, match="explainable=False"):
                ask(weeks[:2])


def doubled(rows):
    return rows.assign(label_clicks=(2 * rows["label_clicks"]).clip(upper=rows["label_impressions"]))


class TestUpdates:
    def test_the_level_moves_towards_what_is_new(self, copy, later):
        before = copy.predict(later)
        new = doubled(later)
        after = copy.update(new).predict(later)

        ratio = np.median(after / before)
        assert 1.1 < ratio < 2.2
        y, w = labels(new)
        assert log_loss(y, after, sample_weight=w) < log_loss(y, before, sample_weight=w)

    def test_the_same_days_again_change_nothing(self, copy, later):
        once = copy.update(later).predict(later)
        outcomes = len(copy.outcomes_)
        twice = copy.update(later).predict(later)

        assert len(copy.outcomes_) == outcomes
        assert twice == pytest.approx(once, rel=1e-12)

    def test_days_that_are_known_are_replaced(self, copy, later):
        wrong = later.assign(label_clicks=0)
        first = copy.update(wrong).predict(later)
        second = copy.update(later).predict(later)

        new = copy.outcomes_.day >= np.datetime64(FIRST_NEW_DAY)
        assert copy.outcomes_.y[new].mean() > 0.005
        assert np.median(second) > np.median(first)

    def test_outcomes_grow_old(self, copy, later):
        copy.update(later)
        first, last = copy.outcomes_.day.min(), copy.outcomes_.day.max()

        assert last == later["date"].max()
        assert (last - first).astype(int) < copy.feature_config.outcome_days

    def test_an_updated_model_is_saved_as_it_is(self, copy, later, tmp_path):
        copy.update(later)
        copy.save(tmp_path / "updated")

        pd.testing.assert_frame_equal(AdScorePredictor.load(tmp_path / "updated").score(later), copy.score(later))

    def test_rows_without_impressions_say_nothing(self, copy, later):
        before = copy.predict(later)
        copy.update(later.assign(label_impressions=0, label_clicks=0))
        copy.update(later[:0])

        assert np.array_equal(copy.predict(later), before)

    def test_misuse_is_refused(self, model, later):
        with pytest.raises(InputError, match="label_clicks"):
            model.update(later.drop(columns="label_clicks"))
        with pytest.raises(NotFittedError, match="call fit"):
            AdScorePredictor().update(later)


def test_the_score_has_the_columns_that_are_published(model, later):
    scored, told = model.score(later), model.analyse(later)

    assert {"predicted_ctr", "ad_score", "ctr_lower", "ctr_upper", "top_reasons", "target_audience_match"} <= {*scored}
    assert {*told} >= {"base_ctr", "predicted_ctr", "reasons", "similar_ads", "suggestions"}
    assert scored.index.equals(later.index)
    # No row names an audience, and so none can match one.
    assert scored["target_audience_match"].isna().all()


def test_the_match_with_the_audience_is_scored_where_one_is_named(weeks):
    rng = np.random.default_rng(0)
    named = weeks[:600].assign(audience_age=rng.choice(["18-24", "55+"], 600), audience_gender="all", interests=None)
    scored = fitted_on(named, uncertainty=False, calibration=False).score(named)

    assert scored["target_audience_match"].between(0, 100).all()


def test_an_audience_without_any_text_matches_nothing(weeks):
    named = weeks[:300].assign(audience_age="18-24", audience_gender="all", interests=None, headline=None)
    scored = fitted_on(named, uncertainty=False).score(named)

    assert scored["target_audience_match"].isna().all()
