"""Counterfactual changes: consistent, bounded, and offered only where they lower the risk."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from within_ml.health.actions import ACTIONS, plausible_ranges, recommend, recommendations_json
from within_ml.health.wording import PHRASES, phrase, points_of_risk

NAMES = sorted({
    "budget_pacing_7d", "budget_pacing_28d", "spend_7d_vs_28d", "impressions_7d_vs_28d", "clicks_7d_vs_28d",
    "creative_refresh", "newest_ad_days", "fatigue", "audience_overlap", "audience_concentration", "cpc_28d",
    "cpc_28d_vs_90d", "cpa_28d_vs_90d", "roas_28d", "roas_28d_vs_90d", "spend_efficiency", "cvr_28d", "cvr_28d_vs_90d",
})  # fmt: skip


def rows(n=60, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({name: rng.normal(0, 0.4, n) for name in NAMES})
    for name in ("budget_pacing_7d", "budget_pacing_28d", "cpc_28d", "roas_28d", "newest_ad_days"):
        frame[name] = np.exp(frame[name])
    for name in ("creative_refresh", "audience_overlap", "audience_concentration", "cvr_28d"):
        frame[name] = rng.uniform(0, 1, n)
    return frame.mask(rng.random(frame.shape) < 0.1)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200), st.lists(st.floats(-2, 2), min_size=len(NAMES), max_size=len(NAMES)))
def test_every_action_lowers_the_risk_whatever_the_model(seed, weights):
    X = rows(20, seed)

    def predict(frame):
        return 1 / (1 + np.exp(-(frame[NAMES].fillna(0.0).to_numpy() @ np.array(weights))))

    now = predict(X)
    for row, found in enumerate(recommend(X, predict, plausible_ranges(rows(300)), min_effect=0.01)):
        for one in found:
            changed = X.iloc[[row]].assign(**{name: then for name, (_, then) in one.changes.items()})
            assert one.risk == now[row]
            assert one.new_risk <= now[row] - 0.01
            assert predict(changed)[0] == pytest.approx(one.new_risk, abs=1e-4)
        assert [one.new_risk for one in found] == sorted(one.new_risk for one in found)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_changes_stay_within_bounds(action):
    X, ranges = rows(), plausible_ranges(rows(300))
    lows = {name: np.fmin(X[name], ranges[name][0]) for name in NAMES}
    highs = {name: np.fmax(X[name], ranges[name][1]) for name in NAMES}

    def predict(frame):
        moved = (frame[NAMES].to_numpy() != X.loc[frame.index, NAMES].to_numpy()) & frame[NAMES].notna().to_numpy()
        for name in NAMES:
            assert not (frame[name] < lows[name][frame.index] - 1e-9).any()
            assert not (frame[name] > highs[name][frame.index] + 1e-9).any()
        return np.where(moved.any(axis=1), 0.1, 0.5)

    found = recommend(X, predict, ranges, min_effect=0.0)
    own = [one for row in found for one in row if one.action == action.name]
    assert own
    assert all(set(one.changes) <= set(NAMES) for one in own)
    assert all(new <= max(old, 1.0) + 1e-9 for one in own for old, new in [one.changes.get("budget_pacing_7d", (1, 1))])


def test_cheaper_clicks_and_better_pages_move_what_hangs_on_them():
    X = rows(1, 3).fillna(0.2)
    by_name = {action.name: action for action in ACTIONS}
    columns = {name: X[name].to_numpy() for name in NAMES}
    bids, page = (by_name[name].edit(columns, {}, 0.1) for name in ("lower_bids", "improve_landing_page"))

    assert bids["roas_28d"] / columns["roas_28d"] == pytest.approx(columns["cpc_28d"] / bids["cpc_28d"])
    assert bids["cpa_28d_vs_90d"] - columns["cpa_28d_vs_90d"] == pytest.approx(np.log(0.9))
    assert page["roas_28d"] / columns["roas_28d"] == pytest.approx(1.1)
    assert page["cpa_28d_vs_90d"] - columns["cpa_28d_vs_90d"] == pytest.approx(-np.log(1.1))


@pytest.mark.parametrize(
    ("pace", "month", "then"), [(0.5, 0.6, 0.65), (0.9, 0.99, 0.94), (0.9, 1.2, 0.9), (1.1, 1.1, 1.1)]
)
def test_more_is_spent_only_within_the_budget_and_a_step(pace, month, then):
    use = next(action for action in ACTIONS if action.name == "use_budget")
    columns = {"budget_pacing_7d": np.array([pace]), "budget_pacing_28d": np.array([month]),
               "clicks_7d_vs_28d": np.array([-0.1])}  # fmt: skip
    changed = use.edit(columns, {}, 1.0)

    assert changed["budget_pacing_7d"][0] == pytest.approx(then)
    assert changed["budget_pacing_28d"][0] <= max(month, 1.0) + 1e-9
    assert -0.1 <= changed["clicks_7d_vs_28d"][0] <= 0


def test_nothing_is_offered_where_nothing_helps_or_is_known():
    X = rows()
    assert not any(recommend(X, lambda frame: np.full(len(frame), 0.4), plausible_ranges(X), min_effect=0.0))
    assert not any(recommend(X * np.nan, lambda frame: np.zeros(len(frame)), plausible_ranges(X), min_effect=0.0))
    assert recommend(X[:0], lambda frame: np.zeros(len(frame)), {}, min_effect=0.0) == []
    assert recommend(pd.DataFrame({"a": [1]}), lambda frame: np.zeros(len(frame)), {}, min_effect=0.0) == [()]


def test_the_text_is_json():
    X = rows(5).fillna(0.5)
    found = recommend(X, lambda frame: frame["cpc_28d"].to_numpy() / 10, plausible_ranges(rows(300)), min_effect=0.0)
    told = [json.loads(text) for text in recommendations_json(found)]

    assert told[0][0]["action"] == "lower_bids"
    assert "20%" in told[0][0]["text"]


@pytest.mark.parametrize("name", sorted(PHRASES))
@pytest.mark.parametrize("value", [-0.3, 0.0, 0.4, 250.0, float("nan")])
def test_every_indicator_can_be_said(name, value):
    said = phrase(name).told(value, 0.1)

    assert said
    assert "nan" not in said


def test_unknown_features_speak_by_their_names():
    assert phrase("shoe_size").told(44.0, 42.0) == "shoe size 44 against a typical account's 42"
    assert points_of_risk(0.001) == "less than 0.01 points of risk"
