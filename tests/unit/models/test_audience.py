"""Audience match: the interaction of content and audience, not what either does alone."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.features.runner import compute_ad_features, compute_training_rows
from within_ml.lake.simulation import SimulationConfig, simulate
from within_ml.models.audience import AudienceMatch

TOPICS = ("skate park opens", "garden roses bloom", "tax return filed", "baby sleeps well")
AGES, GENDERS = ("18-24", "35-44", "55+"), ("all", "female")
TASTE = np.array([[0.5, -0.5, 0.0, 0.0], [0.0, 0.0, -0.4, 0.4], [-0.5, 0.5, 0.4, -0.4]])
"""Log-odds of age × topic; rows and columns sum to 0."""


def ads(n=900, *, seed=0, taste=1.0, ages=AGES):
    rng = np.random.default_rng(seed)
    topic, age, gender = rng.integers(4, size=n), rng.integers(len(ages), size=n), rng.integers(2, size=n)
    match = taste * TASTE[age % 3, topic]
    # Main effects larger than the match: they must not show in it.
    logit_ctr = -3.5 + np.array([0.6, -0.6, 0.3, -0.3])[topic] + 0.5 * (age == 0) + match
    w = rng.integers(2_000, 20_000, n)
    X = pd.DataFrame(
        {
            "headline": [f"{TOPICS[t]} {rng.integers(9)}" for t in topic],
            "body": "Read it all.",
            "audience_age": np.array(ages, dtype=object)[age],
            "audience_gender": np.array(GENDERS, dtype=object)[gender],
            "interests": None,
        }
    )
    return X, rng.binomial(w, expit(logit_ctr)) / w, w, match


@pytest.fixture(scope="module")
def fitted():
    X, y, w, _ = ads()
    return AudienceMatch(components=6).fit(X, y, w)


def test_it_is_the_interaction_without_the_main_effects(fitted):
    X, _, _, match = ads(seed=1)

    found = fitted.interaction(X)
    assert np.corrcoef(found, match)[0, 1] > 0.9
    assert found.std() == pytest.approx(match.std(), rel=0.25)
    for column in (X["headline"].str.split().str[0], X["audience_age"]):
        assert np.abs(pd.Series(found).groupby(column.to_numpy()).mean()).max() < 0.1


def test_a_score_is_a_percentile_within_the_audience(fitted):
    X, _, _, match = ads(seed=1)

    score = fitted.score(X)
    assert ((score >= 0) & (score <= 100)).all()
    assert np.abs(pd.Series(score).groupby(X["audience_age"]).mean() - 50).max() < 8
    assert score[match > 0.3].min() > 50 > score[match < -0.3].max()
    assert score[match == 0.5].mean() > 65


def test_without_an_interaction_everything_is_neutral():
    X, y, w, _ = ads(taste=0.0)

    score = AudienceMatch(components=6).fit(X, y, w).score(X)
    assert np.abs(score - 50).mean() < 12


def test_few_clicks_say_little():
    X, y, w, _ = ads(60)
    few = AudienceMatch(components=6).fit(X, y, w / 1000)

    assert few.score(X) == pytest.approx(np.full(60, 50.0), abs=12)


def test_a_rare_segment_is_neutral_and_a_common_one_is_not():
    X, y, w, _ = ads()
    rare = np.arange(len(X)) < 4
    X["audience_age"] = np.where(rare, "65+", X["audience_age"])
    model = AudienceMatch(components=6).fit(X, y, np.where(rare, 50, w))
    spread = [np.ptp(model.score(X.assign(audience_age=age, audience_gender=None))) for age in ("65+", "18-24")]

    assert spread[0] < 0.35 * spread[1]


def test_the_nearest_known_audience_stands_for_an_unknown_one(fitted):
    X = ads(40, seed=2)[0]

    unseen = fitted.interaction(X.assign(audience_age="18-24", audience_gender="male"))
    assert unseen == pytest.approx(fitted.interaction(X.assign(audience_age="18-24", audience_gender=None)), abs=1e-12)
    assert unseen.std() > 0.1
    assert set(fitted.score(X.assign(audience_age="90+", audience_gender="male"))) == {50.0}


@pytest.mark.parametrize("nobody", [None, np.nan, "unknown", ""])
def test_no_audience_or_no_content_has_no_score(fitted, nobody):
    X = ads(6, seed=2)[0]
    X.loc[0, ["headline", "body"]] = None
    X.loc[1, ["audience_age", "audience_gender"]] = nobody

    assert np.isnan(fitted.score(X)).tolist() == [True, True, False, False, False, False]
    assert np.isnan(fitted.interaction(X[:2])).all()


def test_interests_and_images_count_where_there_are_any():
    X, y, w, _ = ads()
    rng = np.random.default_rng(5)
    X["interests"], X["image_warmth"] = rng.choice(["Cars, food", "travel"], len(X)), rng.random(len(X))
    X["audience_age"] = "unknown"
    X.loc[::7, "image_warmth"] = np.nan
    taste = np.where(X["interests"] == "travel", 1.0, -1.0) * (X["image_warmth"].fillna(0.5) - 0.5)
    y = rng.binomial(w, expit(logit(0.02) + taste)) / w
    model = AudienceMatch(style_weight=0.3).fit(X, y, w)

    warm = X[:2].assign(image_warmth=1.0, audience_gender=None, interests=["travel", "food,cars"])
    assert {name for kind, name in model.segments_ if kind == "interest"} == {"cars", "food", "travel"}
    assert model.interaction(warm) == pytest.approx([0.5, -0.5], abs=0.25)
    with pytest.raises(InputError, match="image_warmth"):
        model.score(X.drop(columns="image_warmth"))


def test_campaigns_levels_are_no_match():
    X, y, w, match = ads()
    campaign = np.arange(len(X)) // 3
    level = np.random.default_rng(3).normal(0, 0.8, campaign.max() + 1)[campaign]
    y = np.random.default_rng(4).binomial(w, expit(logit(np.clip(y, 1e-3, 1)) + level)) / w
    errors = [
        AudienceMatch(components=6).fit(rows, y, w).interaction(X) - match
        for rows in (X.assign(campaign_id=campaign.astype(str)), X)
    ]

    assert errors[0].std() < 0.7 * errors[1].std()


def test_what_is_known_before_is_taken_out():
    X, y, w, match = ads()
    margin = np.random.default_rng(3).normal(0, 1.0, len(X))
    y = np.random.default_rng(4).binomial(w, expit(logit(np.clip(y, 1e-3, 1)) + margin)) / w
    model = AudienceMatch(components=6).fit(X, y, w, base_margin=margin - 3.5)

    assert np.corrcoef(model.interaction(X), match)[0, 1] > 0.9


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_day_and_a_single_ad(fitted, rows):
    X = ads(5)[0][:rows]

    assert fitted.score(X).shape == (rows,)
    assert np.isfinite(fitted.score(X)).all()


def test_each_row_is_scored_alone_and_columns_may_stand_anywhere(fitted):
    X = ads(50, seed=3)[0]
    whole = fitted.score(X)

    assert np.array_equal(np.concatenate([fitted.score(X[i : i + 1]) for i in range(50)]), whole)
    assert np.array_equal(fitted.score(X[X.columns[::-1]]), whole)
    assert np.array_equal(fitted.score(X[::-1]), whole[::-1])


def test_the_same_rows_give_the_same_model_and_stay_as_they_were():
    X, y, w, _ = ads(200)
    before = X.copy(deep=True)
    first, second = (AudienceMatch(components=6).fit(X, y, w).score(X) for _ in range(2))

    assert np.array_equal(first, second)
    pd.testing.assert_frame_equal(X, before)


def test_an_ad_of_many_rows_is_one_ad():
    X, y, w, _ = ads(300)
    once = AudienceMatch(components=6).fit(X.assign(campaign_id=X.index), y, w)
    parts = pd.concat([X.assign(campaign_id=X.index)] * 3, ignore_index=True)
    thrice = AudienceMatch(components=6).fit(parts, np.tile(y, 3), np.tile(w / 3, 3))

    assert thrice.interaction(X) == pytest.approx(once.interaction(X), abs=1e-6)


def test_it_survives_saving_into_another_process(fitted, tmp_path):
    X = ads(60, seed=4)[0]
    X.to_parquet(tmp_path / "X.parquet")
    (tmp_path / "model").mkdir()
    fitted.save(tmp_path / "model")
    code = """if True:
        import sys, pathlib, numpy, pandas
        from within_ml.models.audience import AudienceMatch
        folder = pathlib.Path(sys.argv[1])
        model = AudienceMatch.load(folder / "model")
        numpy.save(folder / "again.npy", model.score(pandas.read_parquet(folder / "X.parquet")))
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)

    assert np.array_equal(np.load(tmp_path / "again.npy"), fitted.score(X))
    assert sorted(p.suffix for p in (tmp_path / "model").iterdir()) == [".json", ".npz"]
    assert "skate" not in (tmp_path / "model/audience_match.json").read_text()


@pytest.mark.parametrize("damage", ["audience_match.json", "audience_match.npz"])
def test_a_damaged_file_is_refused(fitted, tmp_path, damage):
    fitted.save(tmp_path)
    (tmp_path / damage).write_bytes(b"PK")

    with pytest.raises(ModelFormatError, match="AudienceMatch"):
        AudienceMatch.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [2.0] * 5}, r"\[0, 1\]"),
        ({"y": [0.1] * 4}, "y must have one value"),
        ({"sample_weight": [0.0] * 5}, "sample_weight"),
        ({"sample_weight": [-1.0] * 5}, "sample_weight"),
        ({"base_margin": [0.0] * 4}, "base_margin"),
        ({"base_margin": [np.inf] * 5}, "base_margin"),
        ({"X": pd.DataFrame({"headline": ["a"] * 5})}, "audience_age"),
        ({"X": np.zeros((5, 2))}, "audience_age"),
    ],
)
def test_bad_input_names_the_argument(change, message):
    given = {"X": ads(5)[0], "y": [0.1] * 5, "sample_weight": [1.0] * 5, "base_margin": None} | change

    with pytest.raises(InputError, match=message):
        AudienceMatch().fit(**given)


@pytest.mark.parametrize("wrong", [{"components": 0}, {"style_weight": 0.0}, {"residual_variance": -1.0}])
def test_bad_parameters_are_refused(wrong):
    X, y, w, _ = ads(5)

    with pytest.raises(InputError, match=next(iter(wrong))):
        AudienceMatch(**wrong).fit(X, y, w)


def test_contents_without_any_text_are_refused():
    X, y, w, _ = ads(5)

    with pytest.raises(InputError, match="text or an image"):
        AudienceMatch().fit(X.assign(headline=None, body=None), y, w)


def test_no_rows_named_an_audience():
    X, y, w, _ = ads(30)
    model = AudienceMatch(components=3).fit(X.assign(audience_age=None, audience_gender="unknown"), y, w)

    assert model.segments_ == []
    assert set(model.score(X)) == {50.0}


def test_unfitted_use_is_refused():
    with pytest.raises(NotFittedError, match="fit"):
        AudienceMatch().score(ads(5)[0])
    assert clone(AudienceMatch(components=3)).components == 3


class InMemory:
    """Tables of a simulated agency, read as the lake would give them."""

    def __init__(self, **tables):
        self.tables = tables

    def __call__(self, con, table, first, last):
        con.register(f"source_{table}", self.tables[table])
        where = f"WHERE date BETWEEN DATE '{first}' AND DATE '{last}'" if first else ""
        con.execute(f'CREATE OR REPLACE TEMP VIEW "{table}" AS SELECT * FROM "source_{table}" {where}')
        return table


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_finds_what_audiences_of_the_simulated_agency_like(seed):
    import pyarrow as pa

    agency = simulate(SimulationConfig(accounts=24, days=240, seed=seed, max_images=1))
    config = agency.config
    tables = {**agency.dimensions(), "ad_performance": pa.concat_tables(agency.performance())}
    first, last = config.start_date + pd.Timedelta(days=27), config.last_date
    features = compute_ad_features(InMemory(**tables), first=first, last=last)
    tables["ad_features"] = pa.concat_tables(day.table for day in features)
    rows = compute_training_rows(InMemory(**tables), first=first, last=last - pd.Timedelta(days=7)).to_pandas()
    effects = agency.effects.to_pandas()
    truth = effects[effects["kind"] == "audience_match"].set_index("key")["effect"]
    days = pd.to_datetime(rows["date"])
    early = rows[days <= days.quantile(0.75)]
    new = rows[~rows["ad_id"].isin(early["ad_id"])].drop_duplicates("ad_id")
    y, w = early["label_clicks"] / early["label_impressions"], early["label_impressions"]
    model = AudienceMatch().fit(early, y, w, base_margin=logit(early["account_prior_ctr"]))

    assert len(new) > 200
    assert np.corrcoef(model.interaction(new), new["ad_id"].map(truth))[0, 1] > 0.6
    assert np.corrcoef(model.score(new), new["ad_id"].map(truth))[0, 1] > 0.6


@pytest.mark.filterwarnings("ignore:Can.t test estimator")
@parametrize_with_checks([AudienceMatch()])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    # X is a frame with texts: scikit-learn then leaves out its checks with arrays of numbers.
    check(estimator)
