"""Suggestions: what may change, changed alone, and each shown to raise the prediction."""

import json

import numpy as np
import pandas as pd
import pytest

from within_ml.errors import InputError
from within_ml.explain.suggestions import (
    TEXT_CHANGES,
    Change,
    option_changes,
    suggest,
    suggestions_json,
    weekday_changes,
)

EDITS = {change.name: change.edit for change in TEXT_CHANGES}


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        ("first_part", "She Said No: What Happened Next Is Great", "She Said No"),
        ("first_part", "Shoes, bags and more", "Shoes"),
        ("first_part", "Is it true? Yes it is.", "Is it true?"),
        ("first_part", "10:30 is the time", "10:30 is the time"),
        ("second_part", "Wait -- what happened next is great", "What happened next is great"),
        ("second_part", "Save now: 20 % off", "20 % off"),
        ("second_part", "One thing: good", "One thing: good"),
        ("no_brackets", "Save now (until Friday)", "Save now"),
        ("no_exclamation", "Save now!!! Really!", "Save now Really"),
        ("no_ellipsis", "And then...", "And then"),
        ("no_quotes", 'He said "No"', "He said No"),
        ("calm", "SAVE now at IKEA", "Save now at Ikea"),
        ("sentence_case", "What He Found In Paris, France", "What he found in paris, france"),
        ("no_body", "First one. Second one. Third.", "First one."),
    ],
)
def test_an_edit_leaves_out_and_invents_nothing(change, before, after):
    assert EDITS[change](before) == after
    assert set(after.lower()) <= set(before.lower())


def short_is_good(X):
    return 0.05 - 0.0005 * X["headline"].fillna("").str.len().to_numpy()


def frame():
    return pd.DataFrame(
        {
            "headline": ["Great shoes: in all colours and all sizes", "Shoes", None, "GREAT shoes!"],
            "format": ["image", "video", "image", "image"],
            "day_of_week": [0, 6, 5, 1],
        },
        index=[7, 3, 9, 1],
    )


def test_only_what_raises_the_prediction_is_suggested_and_the_best_comes_first():
    X = frame()
    found = suggest(X, short_is_good, TEXT_CHANGES)
    assert [one.new_value for one in found[0]] == ["Great shoes", "In all colours and all sizes"]
    assert [[one.change for one in row] for row in found[1:]] == [[], [], []]
    for row in found:
        gains = [one.points for one in row]
        assert gains == sorted(gains, reverse=True)
        assert all(one.new_ctr > one.old_ctr for one in row)
    pd.testing.assert_frame_equal(X, frame())


def test_each_new_prediction_is_that_of_the_ad_with_the_change_alone():
    X = frame()
    for row, one in enumerate(suggest(X, short_is_good, TEXT_CHANGES, k=1)):
        for suggestion in one:
            changed = X.iloc[[row]].assign(**{suggestion.column: suggestion.new_value})
            assert short_is_good(changed)[0] == suggestion.new_ctr
            assert suggestion.points == pytest.approx(100 * (suggestion.new_ctr - suggestion.old_ctr), abs=1e-6)


def test_a_gain_too_small_to_say_is_left_out():
    assert suggest(frame(), lambda X: short_is_good(X) * 1e-3 + 0.05, TEXT_CHANGES) == [()] * 4


def test_options_come_from_what_has_been_used():
    past = pd.DataFrame({"format": ["video"] * 30 + ["image"] * 40 + ["story"] * 2})
    changes = option_changes(past, {"format": "make it {}", "call_to_action": "say {}"})
    assert [change.name for change in changes] == ["format=image", "format=video"]
    found = suggest(frame(), lambda X: np.where(X["format"] == "video", 0.03, 0.01), changes)
    assert [[one.text for one in row] for row in found] == [["make it video"], [], ["make it video"], ["make it video"]]
    assert (found[0][0].old_value, found[0][0].new_value) == ("image", "video")


def test_the_day_to_start_is_the_one_after_the_day_of_the_features():
    found = suggest(frame(), lambda X: np.where(X["day_of_week"] == 6, 0.03, 0.01), weekday_changes())
    assert [one.text for one in found[0]] == ["start it on a Monday"]
    assert found[1] == ()
    assert json.loads(suggestions_json(found)[0])[0]["new_value"] == 6


def test_no_rows_and_no_such_column():
    assert suggest(frame()[:0], short_is_good, TEXT_CHANGES) == []
    assert suggest(frame()[["headline"]], short_is_good, weekday_changes()) == [()] * 4


def test_bad_input():
    twice = [Change("a", "x", "headline", str.lower)] * 2
    with pytest.raises(InputError, match="different names"):
        suggest(frame(), short_is_good, twice)
    with pytest.raises(InputError, match="predict must return one rate"):
        suggest(frame(), lambda X: np.zeros(2), TEXT_CHANGES)
