"""The gate: better, worse, equal, NaN, first model, same model, too little evidence."""

import json
import time

import numpy as np
import pytest

from within_ml.errors import InputError
from within_ml.validation.gate import CHAMPION, GateCriteria, PromotionGate

N = 1200
RNG = np.random.default_rng(0)
TRUTH = np.clip(RNG.normal(0.03, 0.012, N), 0.004, 0.1)
IMPRESSIONS = np.full(N, 3000)
Y = RNG.binomial(IMPRESSIONS, TRUTH) / IMPRESSIONS
GROUPS = np.arange(N) // 4
GLOBAL = np.full(N, 0.03)
BETTER = TRUTH
MIDDLE = 0.5 * TRUTH + 0.5 * 0.03
NOISY = np.clip(TRUTH + RNG.normal(0, 0.02, N), 0.001, 0.2)


def decide(challenger, champion=None, baselines=None, rows=slice(None), criteria=None):
    baselines = {"global_rate": GLOBAL} if baselines is None else baselines
    return PromotionGate(criteria).decide(
        challenger[rows],
        None if champion is None else champion[rows],
        {name: p[rows] for name, p in baselines.items()},
        Y[rows],
        IMPRESSIONS[rows],
        GROUPS[rows],
    )


def with_nan(p):
    return np.where(np.arange(N) == 7, np.nan, p)


@pytest.mark.parametrize(
    ("challenger", "champion", "approved", "reason"),
    [
        pytest.param(BETTER, MIDDLE, True, "Better than champion", id="better"),
        pytest.param(MIDDLE, BETTER, False, "Not better than champion", id="worse"),
        pytest.param(MIDDLE, MIDDLE.copy(), False, "Equal to champion", id="same model"),
        pytest.param(MIDDLE, MIDDLE * (1 + 1e-12), False, "Equal to champion", id="equal"),
        pytest.param(MIDDLE, MIDDLE * 1.001, False, "etter than champion", id="hardly different"),
        pytest.param(BETTER, None, True, "Better than global_rate", id="first model"),
        pytest.param(NOISY, None, False, "Not better than global_rate", id="first model below the baseline"),
        pytest.param(with_nan(BETTER), MIDDLE, False, "1 of 1200 are NaN", id="NaN"),
        pytest.param(BETTER * 100, MIDDLE, False, "NaN or outside", id="no rates"),
        pytest.param(np.full(N, TRUTH.mean()), None, False, "must differ between ads", id="constant"),
        pytest.param(BETTER, with_nan(MIDDLE), True, "not finite", id="champion predicts NaN"),
    ],
)
def test_the_verdict_and_its_reason(challenger, champion, approved, reason):
    decision = decide(challenger, champion)

    assert decision.approved is approved
    assert any(reason in sentence for sentence in decision.reasons), decision.reasons


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (slice(0, 100), "Too few rows"),
        (slice(0, 0), "Too few rows"),
        (slice(0, None, 100), "Too few campaigns"),
    ],
)
def test_little_evidence_decides_nothing(rows, reason):
    decision = decide(BETTER, MIDDLE, rows=rows)

    assert not decision.approved
    assert any(reason in sentence for sentence in decision.reasons)
    assert decision.comparisons == ()


def test_few_clicks_decide_nothing():
    decision = PromotionGate().decide(BETTER, None, {}, np.zeros(N), IMPRESSIONS, GROUPS)

    assert [sentence.split(":")[0] for sentence in decision.reasons] == ["Too few clicks to decide"]


def test_each_refusal_has_its_own_sentence():
    decision = decide(MIDDLE, BETTER, {"global_rate": GLOBAL, "oracle": BETTER})

    assert len(decision.reasons) == 2
    assert [c.beaten for c in decision.comparisons] == [False, True, False]
    assert decision.comparisons[0].opponent == CHAMPION


def test_one_campaign_that_decides_alone_is_not_enough():
    """A better mean that comes from one campaign of many is not better in most draws."""
    p = np.where(GROUPS == 0, TRUTH, TRUTH * 1.05)
    champion = np.where(GROUPS == 0, 0.5, TRUTH)

    decision = decide(p, champion, {})
    assert decision.comparisons[0].difference < 0
    assert not decision.approved


def test_the_comparison_is_the_difference_of_the_log_losses():
    from sklearn.metrics import log_loss

    comparison = decide(BETTER, MIDDLE, {}).comparisons[0]
    clicks = IMPRESSIONS * Y
    twice, weight = np.repeat([1, 0], N), np.concatenate([clicks, IMPRESSIONS - clicks])
    own, other = (log_loss(twice, np.tile(p, 2), sample_weight=weight) for p in (BETTER, MIDDLE))

    assert comparison.challenger_log_loss == pytest.approx(own)
    assert comparison.difference == pytest.approx(own - other)


def test_the_decision_is_the_same_each_time_and_json():
    first, second = decide(BETTER, MIDDLE), decide(BETTER, MIDDLE)

    assert first == second
    assert json.loads(json.dumps(first.to_dict()))["approved"] is True
    assert isinstance(first.to_dict()["reasons"], list)


def test_stricter_criteria_refuse_more():
    assert not decide(BETTER, MIDDLE, criteria=GateCriteria(min_rows=5000)).approved


def test_shapes_are_checked():
    with pytest.raises(InputError, match="champion"):
        PromotionGate().decide(BETTER, MIDDLE[:-1], {}, Y, IMPRESSIONS, GROUPS)
    with pytest.raises(InputError, match="y_true"):
        PromotionGate().decide(BETTER, None, {}, Y * 1000, IMPRESSIONS, GROUPS)


def test_a_hundred_thousand_rows_are_decided_in_about_a_second():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.01, 0.05, 100_000)
    y = rng.binomial(500, p) / 500
    started = time.process_time()
    decision = PromotionGate().decide(
        p, p * 0.9, {"a": np.full(100_000, 0.03)}, y, np.full(100_000, 500), np.arange(100_000) // 5
    )

    assert decision.approved
    assert time.process_time() - started < 2
