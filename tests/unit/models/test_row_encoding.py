"""RowEncoder: numbers robustly scaled, categories hashed, every column the property of one feature."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from within_ml.errors import InputError, ModelFormatError
from within_ml.models.dynamic_linear import DynamicLinear
from within_ml.models.row_encoding import RowEncoder


def ads(n=500, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "sentiment": np.where(rng.random(n) < 0.1, np.nan, rng.normal(2, 3, n)),
            "spend": rng.lognormal(3, 2, n),
            "nothing": np.full(n, np.nan),
            "constant": 7,
            "platform": rng.choice(["meta", "google", None], n),
            "account_id": rng.integers(0, 40, n),
        }
    )


@pytest.fixture
def encoder():
    return RowEncoder(n_features=512, categorical=["platform", "account_id"]).fit(ads())


def of(encoder, rows, feature):
    block = next(block for block in encoder.blocks_ if block.source == feature)
    return rows[:, block.start : block.stop].toarray()


def test_numbers_are_standardised_robustly(encoder):
    frame = ads()
    wild = frame.assign(sentiment=frame["sentiment"].where(np.arange(500) > 3, 1e9))
    value = of(encoder, encoder.transform(frame), "sentiment")[frame["sentiment"].notna(), 0]
    shifted = RowEncoder(n_features=512, categorical=["platform", "account_id"]).fit(wild).scales_["sentiment"]

    assert np.median(value) == pytest.approx(0.0, abs=1e-9)
    assert np.std(value) == pytest.approx(1.0, abs=0.1)
    assert (shifted.centre, shifted.spread) == pytest.approx((2, 3), rel=0.2)
    assert encoder.transform(wild).max() == 5.0


def test_a_heavy_tail_is_taken_by_its_logarithm(encoder):
    value = of(encoder, encoder.transform(ads()), "spend")[:, 0]

    assert encoder.scales_["spend"].unit is not None
    assert encoder.scales_["sentiment"].unit is None
    assert (np.abs(value) == 5).mean() < 0.01
    assert np.array_equal(np.argsort(value), np.argsort(ads()["spend"]))


def test_what_is_missing_is_said_and_else_the_usual(encoder):
    frame = ads()
    rows = encoder.transform(frame)

    assert np.array_equal(of(encoder, rows, "sentiment")[:, 1], frame["sentiment"].isna())
    assert (of(encoder, rows, "sentiment")[frame["sentiment"].isna(), 0] == 0).all()
    assert of(encoder, rows, "nothing").tolist() == [[0.0, 1.0]] * 500
    assert (of(encoder, rows, "constant") == 0).all()


def test_each_category_is_one_column_of_its_block(encoder):
    frame = ads()
    hot = of(encoder, encoder.transform(frame), "platform")
    column = pd.Series(hot.argmax(axis=1))

    assert (hot.sum(axis=1) == 1).all()
    pairs = pd.DataFrame({"platform": frame["platform"].fillna("?"), "column": column}).drop_duplicates()
    assert len(pairs) == pairs["column"].nunique() == 3


def test_what_was_never_seen_gets_a_column_too(encoder):
    new = ads(2).assign(platform=["tiktok", "tiktok"], account_id=[10**9, -1], sentiment=np.nan)
    hot = of(encoder, encoder.transform(new), "platform")

    assert hot.sum(axis=1).tolist() == [1.0, 1.0]
    assert np.array_equal(hot[0], hot[1])


@pytest.mark.parametrize("kind", ["int64", "float64", "Int64", "str", "category"])
def test_an_id_is_the_same_whatever_its_type(encoder, kind):
    frame = ads()
    assert (encoder.transform(frame.astype({"account_id": kind})) != encoder.transform(frame)).nnz == 0


def test_every_column_belongs_to_one_feature(encoder):
    groups = encoder.feature_groups_

    assert groups.shape == (512,)
    assert groups[:4].tolist() == ["sentiment", "sentiment", "spend", "spend"]
    assert set(groups) == {*ads().columns}


def test_effects_add_up_by_feature(encoder):
    frame = ads()
    rows = encoder.transform(frame)
    y = (np.random.default_rng(0).random(500) < np.where(frame["platform"] == "meta", 0.6, 0.1)).astype(float)
    model = DynamicLinear(alpha=0.5).fit(rows, y)
    told = model.get_coefficients()
    effects = encoder.contributions(rows, told.values)

    assert list(effects) == [block.source for block in encoder.blocks_]
    assert effects.sum(axis=1).to_numpy() + told.intercept == pytest.approx(model.predict_margin(rows), abs=1e-12)
    assert effects.std().idxmax() == "platform"
    with pytest.raises(InputError, match="n_features=512"):
        encoder.contributions(rows, told.values[:9])


def test_the_order_of_columns_is_irrelevant_and_inputs_stay(encoder):
    frame = ads()
    before = frame.copy(deep=True)
    turned = encoder.transform(frame[frame.columns[::-1]].assign(more="x"))

    assert (turned != encoder.transform(frame)).nnz == 0
    pd.testing.assert_frame_equal(frame, before)


def test_each_row_is_encoded_by_itself(encoder):
    rows = encoder.transform(ads())

    assert (encoder.transform(ads()[7:9]) != rows[7:9]).nnz == 0
    assert encoder.transform(ads()[:0]).shape == (0, 512)


def test_it_survives_saving_into_a_process_with_other_hashes(encoder, tmp_path):
    encoder.save(tmp_path)
    ads().to_parquet(tmp_path / "ads.parquet")
    script = f"""
import pathlib, pandas as pd
from scipy import sparse
from within_ml.models.row_encoding import RowEncoder
folder = pathlib.Path({str(tmp_path)!r})
sparse.save_npz(folder / "rows.npz", RowEncoder.load(folder).transform(pd.read_parquet(folder / "ads.parquet")))
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONHASHSEED": "99"})
    ours = encoder.transform(ads())
    theirs = sparse.load_npz(tmp_path / "rows.npz")
    assert np.array_equal(theirs.data, ours.data)
    assert np.array_equal(theirs.indices, ours.indices)


def test_places_are_those_of_the_hash():
    rows = RowEncoder(n_features=100, categorical=["p"]).fit_transform(pd.DataFrame({"p": ["meta"]}))

    # `printf meta | b2sum -l 64` gives b41d76a8c5c0c31f; read as little endian, modulo 100, that is 80.
    assert rows.indices.tolist() == [80]


def test_a_damaged_file_is_refused(encoder, tmp_path):
    with pytest.raises(ModelFormatError, match="RowEncoder"):
        RowEncoder.load(tmp_path)
    encoder.save(tmp_path)
    (tmp_path / "row_encoder.json").write_text("[]")
    with pytest.raises(ModelFormatError, match="RowEncoder"):
        RowEncoder.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"n_features": 9}, {}, "n_features must be at least 2 for each of 4 numeric and 2 categorical"),
        ({"categorical": ["nope"], "numeric": []}, {}, "lacks 'nope'"),
        ({"numeric": ["platform"]}, {}, "not both"),
        ({"categorical": []}, {}, "'platform' must hold numbers"),
        ({"limit": 0}, {}, "limit"),
        ({}, {"spend": np.inf}, "'spend' must hold finite"),
    ],
)
def test_bad_input_is_refused(settings, change, message):
    encoder = RowEncoder(**{"n_features": 512, "categorical": ["platform", "account_id"], **settings})
    with pytest.raises(InputError, match=message):
        encoder.fit(ads().assign(**change))


def test_misuse_is_refused(encoder):
    with pytest.raises(NotFittedError):
        RowEncoder().transform(ads())
    with pytest.raises(InputError, match="lacks 'spend'"):
        encoder.transform(ads().drop(columns="spend"))
    with pytest.raises(InputError, match="'platform' must hold values that can be compared"):
        encoder.transform(ads(2).assign(platform=[[1], [2]]))


EXCEPTIONS = {"check_dtype_object": "a cell that is no number is an InputError that names its column, not a TypeError"}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([RowEncoder(n_features=256)], expected_failed_checks=lambda estimator: EXCEPTIONS)
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
