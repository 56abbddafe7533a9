"""Reasons: what moved the prediction most, said in the account's own terms, and by how many points."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from within_ml.errors import InputError, ModelFormatError
from within_ml.explain.contributions import Contributions
from within_ml.explain.reasons import UsualValues, reasons, reasons_json
from within_ml.explain.wording import MEANINGS, meaning, points_said
from within_ml.features.catalog import AD_FEATURES

NAN = float("nan")


@pytest.mark.parametrize(
    ("feature", "value", "usual", "sentence"),
    [
        ("text_words", 8, 20, "headline 12 words shorter than the account's usual"),
        ("text_words", 21, 20, "headline 1 word longer than the account's usual"),
        ("text_words", 20, 20, "headline as long as usual (20 words)"),
        ("text_words", 1, NAN, "headline of 1 word"),
        ("text_length", 90, 61.5, "headline 28.5 characters longer than the account's usual"),
        ("campaign_ctr_7d", 0.018, 0.012, "campaign's click rate over 7 days 1.8 % against the account's usual 1.2 %"),
        ("ad_ctr_1d", 0.0042, 0.0120, "ad's click rate on the day 0.42 % against the account's usual 1.2 %"),
        ("account_ctr_28d", 0.02, 0.01, "account's click rate over 28 days 2.0 % against its usual 1.0 %"),
        ("prior_ctr", 0.02, 0.02, "ad's recent click rate 2.0 %, as usual"),
        ("prior_ctr", 0.02, 0.0201, "ad's recent click rate 2.00 % against the account's usual 2.01 %"),
        ("prior_ctr", 0.02, NAN, "ad's recent click rate 2.0 %"),
        ("ad_spend_7d", NAN, 12.0, "ad's spend over 7 days not known"),
        ("ad_impressions_28d", 12_400, 3_100, "ad's impressions over 28 days 12,400 against the account's usual 3,100"),
        ("ad_cpc_7d", 0.456, 1.0, "ad's cost per click over 7 days 0.456 against the account's usual 1"),
        ("ad_ctr_trend", np.log(1.12), 0, "ad's click rate of 7 days 12% above that of 28 days"),
        ("ad_ctr_trend", 0.0, 0, "ad's click rate steady over 28 days"),
        ("ad_vs_campaign_ctr", 0.8, 1, "ad's click rate beside its campaign's: 20% lower"),
        ("text_questions", 1, 0, "1 question mark in the headline against the account's usual 0"),
        ("text_numbers", 0, 1, "no numbers in the headline against the account's usual 1"),
        ("text_second_person", 2, 2, "2 words like you in the headline, as usual"),
        ("text_dashes", 2, NAN, "2 dashes in the headline"),
        ("text_ellipses", 1, 0, "1 ellipsis in the headline against the account's usual 0"),
        ("text_ends_with_question", 0, 1, "headline does not end with a question"),
        ("text_capitals_share", 0.3, 0.1, "capitals among the headline's letters 30% against the account's usual 10%"),
        ("sentiment", 0.6, 0.1, "headline more positive (0.6) than the account's usual (0.1)"),
        ("readability", 40.0, 70.0, "text harder to read (40) than the account's usual (70)"),
        ("day_of_week", 6, 2, "scored on a Sunday"),
        ("call_to_action=Buy now", 0.0, 1, "call to action is not Buy now"),
        ("audience_age=25-34", 1, NAN, "audience age is 25-34"),
        ("image_colour_entropy", 3.25, 4, "image's colour entropy 3.25 against the account's usual 4"),
        ("image_network", 0.1, 0, "look of the image"),
        ("text_svd_07", 0.1, 0, "wording of the ad"),
        ("own_feature", 3.0, 2.0, "own feature 3 against the account's usual 2"),
    ],
)
def test_a_value_is_said_beside_the_usual_one(feature, value, usual, sentence):
    assert meaning(feature).said(value, usual) == sentence


def test_the_words_of_a_text_are_named():
    assert meaning("text_wording").said(NAN, NAN, "free, amazing") == "wording of the ad (free, amazing)"
    assert meaning("text_score").said(0.1, 0.0) == "wording of the ad"


def test_every_feature_of_the_catalog_has_a_meaning():
    # What no table names is a group of its own, under its own name.
    missing = [f.name for f in AD_FEATURES if f.name not in MEANINGS and meaning(f.name).group == f.name]
    assert missing == []
    assert len({meaning(feature.name).group for feature in AD_FEATURES}) < 40


@settings(deadline=None)
@given(
    feature=st.sampled_from([feature.name for feature in AD_FEATURES]),
    value=st.floats(-1e9, 1e9) | st.just(NAN),
    usual=st.floats(-1e9, 1e9) | st.just(NAN),
)
def test_whatever_the_value_there_is_a_sentence(feature, value, usual):
    sentence = meaning(feature).said(value, usual)
    assert sentence
    assert "nan" not in sentence


@pytest.mark.parametrize(
    ("points", "said"),
    [(1.26, "+1.3"), (0.0949, "+0.09"), (-0.0312, "-0.03"), (0.0042, "+0.004"), (-0.0001, "less than 0.001")],
)
def test_points_have_as_many_digits_as_they_deserve(points, said):
    assert points_said(points) == f"{said} points of CTR"


# ---- reasons of rows

NAMES = ["ad_ctr_7d", "ad_ctr_28d", "text_words", "ad_age_days"]
X = pd.DataFrame(
    {"ad_ctr_7d": [0.03, 0.01], "ad_ctr_28d": [0.02, 0.01], "text_words": [8.0, 12.0], "ad_age_days": [NAN, 3.0]}
)
PARTS = Contributions.of(NAMES, [[0.3, 0.3, 0.5, 0.0], [-0.6, 0.1, 0.2, 0.4]], base=-4.0)
USUAL = UsualValues.fit(
    pd.DataFrame({"ad_ctr_7d": [0.02] * 2, "text_words": [20.0, 10.0], "ad_age_days": [1.0, 5.0]}), ["a", "b"]
)


def found(**options):
    return reasons(PARTS, X, ["a", "b"], USUAL, expit, **options)


def test_features_of_one_source_are_one_reason():
    first = found(k=4).of(0)
    assert [reason.group for reason in first] == ["ad_ctr", "length"]
    assert [reason.log_odds for reason in first] == [0.6, 0.5]
    assert first[0].feature == "ad_ctr_7d"


def test_points_are_what_the_calibrated_prediction_loses_without_it():
    first = found().of(0)
    assert first[0].points == pytest.approx(100 * (expit(-2.9) - expit(-3.5)), abs=1e-4)
    doubled = reasons(PARTS, X, ["a", "b"], USUAL, lambda margin: expit(margin) / 2).of(0)
    assert doubled[0].points == pytest.approx(first[0].points / 2, abs=1e-4)


def test_the_sentence_is_about_the_feature_that_pulls_in_the_group_s_direction():
    second = found().of(1)
    assert [reason.group for reason in second] == ["ad_ctr", "age", "length"]
    assert second[0].text == "ad's click rate over 7 days 1.0 % against the account's usual 2.0 %: -1.2 points of CTR"
    assert second[2].text.startswith("headline 2 words longer than the account's usual: +")
    assert second[2].points > 0


def test_an_account_not_seen_before_is_beside_all():
    new = reasons(PARTS, X, ["new", "b"], USUAL, expit).of(0)
    assert new[1].text.startswith("headline 7 words shorter than the account's usual")
    assert new[1].usual == 15.0


def test_json_says_the_same():
    sentences, details = (reasons_json(found(), detailed=detailed) for detailed in (False, True))
    for row in range(2):
        expected = found().of(row)
        assert json.loads(sentences[row]) == [reason.text for reason in expected]
        assert [item["points"] for item in json.loads(details[row])] == [reason.points for reason in expected]
    assert set(json.loads(details[0])[0]) == {"group", "text", "points", "log_odds", "feature", "value", "usual"}


def test_a_row_without_contributions_has_no_reason_and_no_rows_give_none():
    nothing = Contributions.of(NAMES, np.zeros((1, 4)), base=-4.0)
    assert reasons_json(reasons(nothing, X[:1], ["a"], USUAL, expit)) == ["[]"]
    empty = Contributions.of(NAMES, np.zeros((0, 4)), base=-4.0)
    assert reasons_json(reasons(empty, X[:0], [], USUAL, expit)) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: reasons(PARTS, X[:1], ["a", "b"], USUAL, expit),
        lambda: reasons(PARTS, X, ["a"], USUAL, expit),
        lambda: reasons(PARTS, X, ["a", "b"], USUAL, expit, words=["x"]),
        lambda: reasons(PARTS, X, ["a", "b"], USUAL, expit, k=0),
        lambda: UsualValues.fit(X, ["a"]),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError, match="must"):
        call()


def test_usual_values_are_medians_and_survive_saving():
    frame = pd.DataFrame({"x": [1.0, 2.0, 9.0, NAN], "y": [NAN] * 4})
    usual = UsualValues.fit(frame, ["a", "a", "a", "b"])
    again = UsualValues.from_dict(json.loads(json.dumps(usual.to_dict())))
    assert usual.of(["a", "new"], "x").tolist() == [2.0, 2.0]
    assert np.isnan(usual.of(["b", "a"], "x")).tolist() == [True, False]
    np.testing.assert_array_equal(again.table, usual.table)
    assert (again.features, again.accounts) == (usual.features, usual.accounts)
    with pytest.raises(ModelFormatError):
        UsualValues.from_dict({"features": ["x"], "accounts": [], "table": [[1, 2]]})
