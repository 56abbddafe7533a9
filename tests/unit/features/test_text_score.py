from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.features.text_score import TextScore

EFFECTS = {
    "free": 0.5,
    "secret": 0.3,
    "report": -0.3,
    "form": -0.5,
    "blue": 0.0,
    "shoe": 0.0,
    "garden": 0.0,
    "city": 0.0,
}


def agency(
    seed: int = 0, *, campaigns: int = 120, ads: int = 4, days: int = 1, impressions: int = 4000
) -> pd.DataFrame:
    """Ads of five random words with known effects on the log-odds, campaigns of very different level."""
    rng = np.random.default_rng(seed)
    n = campaigns * ads
    words = rng.choice(list(EFFECTS), size=(n, 5))
    truth = np.array([sum(EFFECTS[w] for w in row) for row in words])
    frame = pd.DataFrame({"headline": [" ".join(row) for row in words], "truth": truth})
    frame["campaign"] = [f"c{i}" for i in np.repeat(np.arange(campaigns), ads)]
    level = np.repeat(rng.normal(scale=0.7, size=campaigns), ads)
    rate = 1 / (1 + np.exp(4 - level - truth))
    frame = pd.concat([frame.assign(rate=rate, date=day) for day in range(days)], ignore_index=True)
    frame["impressions"] = impressions // days
    frame["clicks"] = rng.binomial(frame.impressions, frame.rate)
    return frame.assign(ctr=frame.clicks / frame.impressions)


def fitted(frame: pd.DataFrame, **parameters: float) -> TextScore:
    model = TextScore(**parameters)
    return model.fit(frame, frame.ctr, sample_weight=frame.impressions, groups=frame.campaign)


def out_of_fold(frame: pd.DataFrame, model: TextScore | None = None, **options: int) -> np.ndarray:
    model = model or TextScore()
    return model.fit_predict_out_of_fold(
        frame, frame.ctr, sample_weight=frame.impressions, groups=frame.campaign, **options
    )


def test_recovers_known_effects_in_log_odds_despite_the_campaigns_levels() -> None:
    new = agency(1)
    score = fitted(agency()).predict(new)
    assert np.corrcoef(score, new.truth)[0, 1] > 0.9
    assert np.polyfit(score, new.truth, 1)[0] == pytest.approx(1, abs=0.25)
    assert abs(score.mean() - new.truth.mean()) < 0.1


def test_the_parts_of_a_score_add_up_to_it_and_name_the_words_that_pull_its_way() -> None:
    frame = agency()
    model = fitted(frame.assign(body=np.where(frame.index % 2, "secret garden form", "")))
    texts = ["Free secret shoe!", "form report, form report", "", None, "Free secret shoe!"]
    new = pd.DataFrame({"headline": texts, "body": ["blue form", None, None, None, None]})
    found = model.contributions(new, words=2)
    np.testing.assert_allclose(found.values.sum(axis=1), model.predict(new), atol=1e-12)
    assert found.names[-1] == "text_wording"
    assert {"text_length", "text_words", "text_exclamations"} < set(found.names)
    assert found.values[0, -1] > 0 > found.values[1, -1]
    assert found.words == ("free, secret", "form, report", "", "", "free, secret")
    assert model.contributions(new[:0]).values.shape == (0, len(found.names))


def test_no_effect_gives_no_score() -> None:
    frame = agency()
    rng = np.random.default_rng(3)
    frame["ctr"] = rng.permutation(frame.ctr.to_numpy())
    assert fitted(frame).predict(agency(1)).std() < 0.1 * agency(1).truth.std() + 0.05


def test_daily_rows_count_as_their_sum() -> None:
    daily = agency(days=5, campaigns=30)
    keys = ["campaign", "headline"]
    once = daily.groupby(keys, as_index=False, sort=False)[["clicks", "impressions"]].sum()
    once["ctr"] = once.clicks / once.impressions
    new = agency(1, campaigns=10)
    np.testing.assert_allclose(fitted(daily).predict(new), fitted(once).predict(new), rtol=1e-6, atol=1e-9)


def test_small_ads_do_not_dominate() -> None:
    frame = agency(campaigns=60)
    tiny = agency(5, campaigns=60).assign(impressions=5, clicks=5, ctr=1.0)
    tiny["campaign"] = frame.campaign
    new = agency(1)
    plain, disturbed = fitted(frame).predict(new), fitted(pd.concat([frame, tiny])).predict(new)
    assert np.corrcoef(plain, disturbed)[0, 1] > 0.95


def test_out_of_fold_scores_are_honest() -> None:
    rng = np.random.default_rng(0)
    unique = pd.DataFrame({"headline": [f"ad number{i} word{i}" for i in range(200)], "impressions": 5000})
    unique["campaign"] = np.repeat(np.arange(50), 4)
    unique["ctr"] = rng.uniform(0.01, 0.05, size=200)
    held_out = out_of_fold(unique)
    within = unique.ctr - unique.groupby("campaign").ctr.transform("mean")
    # Texts that share no word with another campaign's tell nothing of each other, whatever was learned by heart.
    assert abs(held_out @ within) <= 0.3 * np.linalg.norm(held_out) * np.linalg.norm(within)
    assert np.corrcoef(out_of_fold(agency()), agency().truth)[0, 1] > 0.85


def test_a_line_is_never_judged_by_a_model_that_saw_it() -> None:
    shared = pd.DataFrame({"headline": ["Wonderful offer", "Dreadful thing"] * 40, "impressions": 10_000})
    shared["campaign"] = np.repeat(np.arange(40), 2)
    shared["ctr"] = [0.05, 0.01] * 40
    assert (out_of_fold(shared) == 0).all()
    assert np.ptp(fitted(shared).predict(shared)) > 0.05


def test_out_of_fold_gives_one_score_per_text_and_campaign() -> None:
    daily = agency(days=3, campaigns=25)
    spread = daily.assign(score=out_of_fold(daily, folds=3)).groupby(["campaign", "headline"]).score.nunique()
    assert (spread == 1).all()


@pytest.mark.parametrize(
    "frame",
    [
        agency(campaigns=1, ads=3),
        agency(campaigns=3, ads=1),
        agency(campaigns=1, ads=1),
        agency(campaigns=20).assign(headline="all the same"),
        agency(campaigns=20).assign(headline=""),
        agency(campaigns=20).assign(headline=None),
        agency(campaigns=20).assign(ctr=0.0),
        agency(campaigns=20).assign(ctr=1.0),
        agency(campaigns=20).assign(headline="广告 реклама اعلان 😀"),
        agency(campaigns=20).assign(headline="x" * 20_000),
    ],
    ids=["one campaign", "single ads", "one ad", "same", "empty", "null", "no clicks", "all clicks", "scripts", "long"],
)
def test_survives_poor_data_and_then_says_little(frame: pd.DataFrame) -> None:
    model = TextScore()
    held_out = out_of_fold(frame, model)
    score = model.predict(agency(9, campaigns=5))
    assert np.isfinite(held_out).all()
    assert np.isfinite(score).all()
    assert np.abs(score).max() < 0.5


def test_single_ad_campaigns_still_teach_a_little() -> None:
    new = agency(1)
    score = fitted(agency(campaigns=400, ads=1)).predict(new)
    assert np.corrcoef(score, new.truth)[0, 1] > 0.5


def test_body_counts_beside_the_headline_and_alone() -> None:
    frame = agency()
    under, alone = (
        frame.assign(headline="Same for all", body=frame.headline),
        frame.assign(headline=None, body=frame.headline),
    )
    new = agency(1)
    score = fitted(under).predict(new.assign(headline="Same for all", body=new.headline))
    assert np.corrcoef(score, new.truth)[0, 1] > 0.8
    np.testing.assert_array_equal(
        fitted(alone).predict(new.assign(headline=None, body=new.headline)), fitted(frame).predict(new)
    )


@settings(max_examples=15, deadline=None)
@given(st.lists(st.none() | st.text(max_size=60), max_size=3))
def test_any_text_has_a_finite_score_alone_and_in_company(texts: list[str | None]) -> None:
    together = MODEL.predict(pd.DataFrame({"headline": texts}, dtype=object))
    alone = [MODEL.predict(pd.DataFrame({"headline": [text]}, dtype=object))[0] for text in texts]
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-12)


MODEL = fitted(agency(campaigns=40))


def test_empty_text_scores_nothing() -> None:
    frame = pd.DataFrame({"headline": ["", None, " \t", "<p></p>"]})
    assert MODEL.predict(frame).tolist() == [0.0] * 4
    assert MODEL.predict(frame.head(0)).shape == (0,)


def test_input_is_untouched_and_the_seed_decides() -> None:
    frame = agency(campaigns=30)
    before = frame.copy(deep=True)
    first, again = (
        fitted(frame),
        clone(MODEL).fit(frame, frame.ctr, sample_weight=frame.impressions, groups=frame.campaign),
    )
    pd.testing.assert_frame_equal(frame, before)
    np.testing.assert_array_equal(first.predict(frame), again.predict(frame))
    assert not np.array_equal(out_of_fold(frame), out_of_fold(frame, TextScore(random_state=1)))


def test_top_words_are_those_that_move_the_score() -> None:
    texts = pd.DataFrame({"headline": ["The free garden and the form!", "blue", "of the", None, "FREE, free's city"]})
    words = MODEL.top_words(texts, k=2)
    assert set(words[0].split(", ")) == {"free", "form"}
    assert words[1:4] == ["blue", "", ""]
    assert words[4].startswith("free")


def test_reloads_bit_equal_in_a_fresh_process(tmp_path: Path) -> None:
    new = agency(1, campaigns=10)
    MODEL.save(tmp_path)
    new.to_parquet(tmp_path / "new.parquet")
    code = (
        "import sys, pathlib, numpy as np, pandas as pd; from within_ml.features.text_score import TextScore; "
        "f = pathlib.Path(sys.argv[1]); m = TextScore.load(f); x = pd.read_parquet(f / 'new.parquet'); "
        "np.save(f / 'again.npy', m.predict(x)); (f / 'words.txt').write_text('|'.join(m.top_words(x)))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[3])
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), MODEL.predict(new))
    assert (tmp_path / "words.txt").read_text() == "|".join(MODEL.top_words(new))
    assert TextScore.load(tmp_path).get_params() == MODEL.get_params()


def damage(folder: Path, kind: str) -> None:
    state, arrays = folder / "text_score.json", folder / "text_score.npz"
    if kind == "missing":
        arrays.unlink()
    elif kind == "truncated":
        arrays.write_bytes(arrays.read_bytes()[:200])
    elif kind == "no json":
        state.write_text("{")
    elif kind == "other version":
        state.write_text(json.dumps(json.loads(state.read_text()) | {"format_version": 99}))
    elif kind == "no state":
        state.write_text(json.dumps({"format_version": 1}))
    else:
        with np.load(arrays) as archive:
            kept = {name: archive[name] for name in archive.files}
        kept["coefficients"] = kept["coefficients"][:-1]
        np.savez(arrays, **kept)


@pytest.mark.parametrize("kind", ["missing", "truncated", "no json", "other version", "no state", "short"])
def test_a_damaged_folder_is_refused(tmp_path: Path, kind: str) -> None:
    MODEL.save(tmp_path)
    damage(tmp_path, kind)
    with pytest.raises(ModelFormatError, match="text score"):
        TextScore.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": pd.DataFrame({"text": ["a"] * 4})}, "column 'headline', however: 'text'"),
        ({"y": [0.1, 0.2, 0.3]}, "y must have one value for each of the 4 rows"),
        ({"y": [0.1, 0.2, 0.3, 1.2]}, "in .0, 1., however: 1.2"),
        ({"y": [0.1, 0.2, 0.3, np.nan]}, "in .0, 1., however: nan"),
        ({"sample_weight": [1, 1, 1, -1]}, "not negative"),
        ({"sample_weight": [0, 0, 0, 0]}, "above 0 in at least one row"),
        ({"groups": ["a", "a", None, "b"]}, "1 are null"),
        ({"folds": 1}, "folds must be at least 2, however: 1"),
    ],
)
def test_wrong_input_is_named(change: dict[str, object], message: str) -> None:
    X = pd.DataFrame({"headline": ["a", "b", "c", "d"]})
    call = {"X": X, "y": [0.1, 0.2, 0.3, 0.4], "sample_weight": [100] * 4, "groups": list("aabb")} | change
    with pytest.raises(InputError, match=message):
        TextScore().fit_predict_out_of_fold(**call)


def test_must_be_fitted_first(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match=r"call fit or TextScore\.load"):
        TextScore().predict(pd.DataFrame({"headline": ["a"]}))
    with pytest.raises(InputError, match="must be positive"):
        TextScore(alpha=0).fit(pd.DataFrame({"headline": ["a"]}), [0.1])


# It learns from texts: scikit-learn then runs the checks that need no matrix of numbers.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([TextScore()])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
