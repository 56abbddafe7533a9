"""Intervals hold what they promise, for each account, and stay what they were when saved."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.uncertainty.coverage import winkler_score
from within_ml.uncertainty.intervals import RateIntervals


def sample(n, *, seed=0, sd=0.2, impressions=3000, level=-4.0, shock=0.0, weeks=8):
    """Predictions, observed rates, impressions and weeks; truth is off by ``sd`` per row and ``shock`` per week."""
    rng = np.random.default_rng(seed)
    p, week = expit(rng.normal(level, 0.6, n)), np.arange(n) % weeks
    w = np.maximum(np.full(n, impressions) * rng.lognormal(0, 1, n), 1).astype(int)
    truth = expit(logit(p) + np.broadcast_to(sd, n) * rng.normal(size=n) + rng.normal(0, shock, weeks)[week])
    return p, rng.binomial(w, truth) / w, w, week


def share_inside(found, y):
    return float(((found.lower <= y) & (y <= found.upper)).mean())


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param({}, id="usual"),
        pytest.param({"impressions": 60}, id="hardly a click"),
        pytest.param({"sd": 0.0}, id="chance alone"),
        pytest.param({"impressions": 10**6}, id="no chance to speak of"),
        pytest.param({"level": 2.0, "impressions": 50}, id="rates near one"),
    ],
)
@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_outcomes_lie_inside_as_often_as_promised(kind, confidence):
    p, y, w, _ = sample(4000, **kind)
    later_p, later_y, later_w, _ = sample(8000, seed=1, **kind)
    found = RateIntervals(confidence).fit(p, y, w).predict(later_p, later_w)

    # Counts are whole: where the ends fall between two of them, more than promised lies inside.
    assert -0.02 < share_inside(found, later_y) - confidence < (0.02 if w.mean() * p.mean() > 20 else 0.06)


def test_the_known_quantiles_are_found():
    """No unknown error: the interval of 10,000 impressions at 2 % is that of the binomial distribution."""
    p, w = np.full(20_000, 0.02), np.full(20_000, 10_000)
    y = np.random.default_rng(0).binomial(w, p) / w
    found = RateIntervals(0.9).fit(p, y, w).predict([0.02], [10_000])

    # scipy.stats.binom(10_000, 0.02).ppf([0.05, 0.95]) = 177, 223
    assert found.lower == pytest.approx([0.0177], abs=1.5e-4)
    assert found.upper == pytest.approx([0.0223], abs=1.5e-4)


def test_more_impressions_make_it_narrower_and_harder_rows_wider():
    p, y, w, _ = sample(3000, sd=np.linspace(0, 0.6, 3000))
    model = RateIntervals().fit(p, y, w, difficulty=np.linspace(0, 0.6, 3000))
    by_impressions = model.predict(np.full(3, 0.02), [100, 1000, 10_000], difficulty=np.full(3, 0.2))
    by_difficulty = model.predict(np.full(3, 0.02), [5000] * 3, difficulty=[0.1, 0.3, 0.6])

    assert (np.diff(by_impressions.upper - by_impressions.lower) < 0).all()
    assert (np.diff(by_difficulty.upper - by_difficulty.lower) > 0).all()
    assert model.slopes_ == pytest.approx([1.0], rel=0.15)


def test_difficulty_lowers_the_interval_score():
    hard = np.where(np.arange(4000) % 2, 0.6, 0.05)
    (p, y, w, _), (later_p, later_y, later_w, _) = (sample(4000, sd=hard, seed=seed) for seed in (0, 1))
    knowing = RateIntervals().fit(p, y, w, difficulty=hard).predict(later_p, later_w, difficulty=hard)
    ignorant = RateIntervals().fit(p, y, w).predict(later_p, later_w)

    assert winkler_score(knowing, later_y).mean() < 0.9 * winkler_score(ignorant, later_y).mean()


def unlike_accounts(seed, rows=500):
    """Twelve accounts, the last three of which are three times as hard to predict."""
    sizes = np.repeat(np.arange(12), rows)
    p, y, w, week = sample(sizes.size, sd=np.where(sizes >= 9, 0.45, 0.15), impressions=20_000, seed=seed)
    return p, y, w, week, np.char.add("meta/", sizes.astype(str))


def test_it_holds_for_each_account():
    p, y, w, week, account = unlike_accounts(0)
    later_p, later_y, later_w, _, _ = unlike_accounts(1)
    fitted = RateIntervals().fit(p, y, w, account, periods=week)
    pooled = RateIntervals().fit(p, y, w)

    report = fitted.coverage_report(later_p, later_y, later_w, account)
    assert report.coverage == pytest.approx(0.9, abs=0.02)
    assert report.smallest_coverage() > 0.84
    assert fitted.strength_ < 100
    assert pooled.predict(later_p, later_w).lower.shape == later_p.shape
    hard = np.char.endswith(account, "11")
    assert share_inside(pooled.predict(later_p[hard], later_w[hard]), later_y[hard]) < 0.75


def test_accounts_that_are_alike_are_pooled():
    p, y, w, week = sample(6000)
    account = np.repeat(np.arange(12), 500)

    assert RateIntervals().fit(p, y, w, account, periods=week).strength_ > 150


def test_a_small_or_unknown_account_gets_the_pooled_interval():
    p, y, w, week, account = unlike_accounts(0)
    account = np.where(np.arange(p.size) % 5 == 0, "meta/small", account)
    small = np.flatnonzero(account == "meta/small")[:-199]
    kept = np.setdiff1d(np.arange(p.size), small)
    model = RateIntervals(min_rows=200).fit(p[kept], y[kept], w[kept], account[kept], periods=week[kept])

    found = model.predict([0.02] * 3, [10_000] * 3, ["meta/small", "never seen", "meta/11"])
    assert model.group_rows_["meta/small"] == 199
    assert found.upper[0] == found.upper[1] < found.upper[2]


def test_an_account_that_has_begun_to_decline_is_widened_to_that_side():
    p, y, w, week, account = unlike_accounts(0)
    falling = (account == "meta/0") & (week >= 6)
    calm = RateIntervals().fit(p, y, w, account, periods=week).predict([0.02], [20_000], ["meta/0"])
    fallen = RateIntervals().fit(p, np.where(falling, 0.7 * y, y), w, account, periods=week)
    found = fallen.predict([0.02], [20_000], ["meta/0"])

    assert found.lower < 0.9 * calm.lower
    assert found.upper == pytest.approx(calm.upper, rel=0.05)
    assert fallen.lean_["meta/0"] == min(fallen.lean_.values()) < -0.3


@pytest.mark.parametrize(("weeks", "gain"), [(4, 0.04), (8, 0.015)])
def test_a_few_weeks_of_shocks_stand_for_more_than_they_show(weeks, gain):
    """Of many histories with shocks of .3, the share of the following week that lies inside."""
    inside = {True: [], False: []}
    for seed in range(80):
        p, y, w, week = sample(200 * (weeks + 1), sd=0.1, impressions=50_000, shock=0.3, weeks=weeks + 1, seed=seed)
        seen = week < weeks
        for told, shares in inside.items():
            periods = week[seen] if told else None
            model = RateIntervals().fit(p[seen], y[seen], w[seen], periods=periods)
            shares.append(share_inside(model.predict(p[~seen], w[~seen]), y[~seen]))

    assert np.mean(inside[True]) > np.mean(inside[False]) + gain
    assert np.mean(inside[True]) > (0.8 if weeks == 8 else 0.7)


@given(
    seed=st.integers(0, 100),
    confidences=st.lists(st.floats(0.01, 0.9999), min_size=2, max_size=2).map(sorted),
    n=st.sampled_from([1, 5, 30, 400]),
)
@settings(max_examples=40, deadline=None)
def test_intervals_are_nested_and_contain_the_prediction(seed, confidences, n):
    p, y, w, week = sample(n, seed=seed, impressions=500)
    groups = np.arange(n) % 3
    model = RateIntervals(min_rows=8).fit(p, y, w, groups, periods=week)
    grid = np.concatenate([[0.0, 1.0], np.geomspace(1e-6, 0.999, 40)])
    impressions = np.resize([0, 1, 30, 10_000], grid.size)
    narrow, wide = (model.predict(grid, impressions, np.resize(range(4), grid.size), confidence=c) for c in confidences)

    for found in (narrow, wide):
        assert (found.lower >= 0).all()
        assert (found.lower <= grid).all()
        assert (grid <= found.upper).all()
        assert (found.upper <= 1).all()
    assert (wide.lower <= narrow.lower).all()
    assert (wide.upper >= narrow.upper).all()


def test_few_rows_promise_nothing():
    p, y, w, _ = sample(18)

    found = RateIntervals(0.9).fit(p, y, w).predict([0.02], [1000])
    assert (found.lower[0], found.upper[0]) == (0.0, 1.0)


def test_rows_without_impressions_count_for_nothing():
    p, y, w, week = sample(600)
    model = RateIntervals().fit(p, y, w, periods=week)
    more = RateIntervals().fit(np.append(p, 0.5), np.append(y, 0.0), np.append(w, 0), periods=np.append(week, 99))

    assert np.array_equal(more.predict(p, w).upper, model.predict(p, w).upper)


def test_inputs_are_untouched_and_the_answer_is_the_same_each_time():
    p, y, w, week, account = unlike_accounts(0, rows=250)
    before = [values.copy() for values in (p, y, w, week, account)]
    first, second = (RateIntervals().fit(p, y, w, account, periods=week).predict(p, w, account) for _ in range(2))

    assert np.array_equal(first.lower, second.lower)
    assert all(np.array_equal(a, b) for a, b in zip(before, (p, y, w, week, account), strict=True))


def test_an_empty_night_and_a_single_ad():
    p, y, w, _ = sample(600)
    model = RateIntervals().fit(p, y, w, difficulty=np.ones((600, 2)))

    assert model.predict([], [], [], difficulty=np.zeros((0, 2))).lower.shape == (0,)
    assert model.predict([0.02], [500], ["a"], difficulty=[[0.1, 0.2]]).upper.shape == (1,)
    assert np.isnan(model.coverage_report([], [], [], [], difficulty=np.zeros((0, 2))).coverage)


READ = """
import json, sys
import numpy as np
from within_ml.uncertainty.intervals import RateIntervals
state = json.load(open(sys.argv[1]))
grid = np.geomspace(1e-4, 0.5, 50)
found = RateIntervals.from_dict(state).predict(grid, np.arange(50) * 100, np.resize(["meta/1", "meta/11", "x"], 50))
print(json.dumps([found.lower.tolist(), found.upper.tolist()]))
"""


def test_a_saved_one_answers_the_same_in_a_new_process(tmp_path):
    p, y, w, week, account = unlike_accounts(0)
    model = RateIntervals().fit(p, y, w, account, periods=week)
    (tmp_path / "state.json").write_text(json.dumps(model.to_dict()))
    command = [sys.executable, "-c", READ, str(tmp_path / "state.json")]
    told = subprocess.run(command, capture_output=True, check=True, text=True)
    grid = np.geomspace(1e-4, 0.5, 50)
    found = model.predict(grid, np.arange(50) * 100, np.resize(["meta/1", "meta/11", "x"], 50))

    assert json.loads(told.stdout) == [found.lower.tolist(), found.upper.tolist()]
    with pytest.raises(ModelFormatError):
        RateIntervals.from_dict({"parameters": {}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_true": [0.1, 1.2]}, r"y_true must be in \[0, 1\]"),
        ({"y_pred": [0.1, -0.2]}, r"y_pred must be in \[0, 1\]"),
        ({"sample_weight": [0, 0]}, "rows with impressions"),
        ({"sample_weight": [1, -1]}, "sample_weight"),
        ({"sample_weight": [1, np.nan]}, "sample_weight"),
        ({"groups": ["a"]}, r"groups must have shape \(2,\)"),
        ({"periods": [1, 2, 3]}, r"periods must have shape \(2,\)"),
        ({"difficulty": [0.1]}, r"difficulty must have shape \(2,\)"),
        ({"difficulty": [0.1, -1]}, "difficulty must be finite and 0 or more"),
        ({"y_true": [0.1]}, "shape"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused(change, message):
    arguments = {"y_pred": [0.1, 0.2], "y_true": [0.1, 0.2], "sample_weight": [10, 10]}

    with pytest.raises(InputError, match=message):
        RateIntervals().fit(**{**arguments, **change})


@pytest.mark.parametrize("arguments", [{"confidence": 0}, {"confidence": 1.0}, {"min_rows": 0}, {"strength": -1.0}])
def test_impossible_parameters_are_refused(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        RateIntervals(**arguments).fit([0.1], [0.1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_pred": [0.1, 1.5]}, "y_pred"),
        ({"y_pred": [[0.1], [0.2]]}, "y_pred"),
        ({"impressions": [1]}, "impressions must have shape"),
        ({"impressions": [1, np.nan]}, "impressions must be 0 or more"),
        ({"groups": ["a", "b", "c"]}, "groups must have shape"),
        ({"difficulty": None}, "1 columns of fit"),
        ({"confidence": 1.5}, "confidence"),
    ],
)
def test_what_cannot_be_predicted_is_refused(change, message):
    model = RateIntervals().fit([0.1, 0.2], [0.1, 0.2], [10, 10], difficulty=[0.1, 0.1])
    arguments = {"y_pred": [0.1, 0.2], "impressions": [10, 10], "difficulty": [0.1, 0.1]}

    with pytest.raises(InputError, match=message):
        model.predict(**{**arguments, **change})


def test_unfitted_use_is_refused():
    for call in (lambda m: m.predict([0.1]), lambda m: m.to_dict(), lambda m: m.coverage_report([0.1], [0.1])):
        with pytest.raises(NotFittedError):
            call(RateIntervals())


def test_a_clone_is_unfitted_with_the_same_parameters():
    again = clone(RateIntervals(0.8, min_rows=50, strength=3.0).fit([0.1], [0.1]))

    assert again.get_params() == {"confidence": 0.8, "min_rows": 50, "strength": 3.0}
    assert not hasattr(again, "pooled_")


# One-dimensional input, as IsotonicRegression: scikit-learn's checks of two-dimensional X do not apply and are none.
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([RateIntervals()], expected_failed_checks=lambda _: {})
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
