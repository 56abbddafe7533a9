"""Nights are judged by past nights, not by chance alone."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import ks_2samp

from within_ml.errors import InputError
from within_ml.lake.contracts import CONTRACTS
from within_ml.monitoring.drift import (
    COLUMNS,
    MIN_NIGHTS,
    DriftReference,
    drift_chart,
    drift_of,
    ks_of_counts,
    night_drifted,
    psi_of_counts,
)

NAMES = ["x", "clicks", "platform"]


def _night(seed: int, *, rows: int = 400, shift: float = 0.0, own: float = 0.1) -> pd.DataFrame:
    """A night whose level differs from other nights' by more than chance."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, own) + shift
    return pd.DataFrame(
        {
            "date": pd.Timestamp("2024-01-01") + pd.Timedelta(days=seed),
            "x": rng.normal(level, 1, rows),
            "clicks": rng.poisson(0.3 * np.exp(level), rows),
            "platform": rng.choice(["google", "meta", "tiktok"], rows, p=(0.5, 0.3, 0.2)),
        }
    )


TRAINING = pd.concat([_night(seed) for seed in range(30)], ignore_index=True)
REFERENCE = DriftReference.from_frame(TRAINING, NAMES)
PAST = REFERENCE.nights(pd.concat([_night(seed) for seed in range(30, 60)], ignore_index=True))


def test_ordinary_nights_rarely_drift_and_shifted_ones_do():
    ordinary = [night_drifted(drift_of(REFERENCE.sketch(_night(s)), REFERENCE, PAST)) for s in range(100, 160)]
    shifted = [night_drifted(drift_of(REFERENCE.sketch(_night(s, shift=0.8)), REFERENCE, PAST)) for s in range(20)]
    assert np.mean(ordinary) < 0.1
    assert np.mean(shifted) == 1.0


def test_row_level_p_values_would_alarm_on_most_of_these_nights():
    # What the judgement by past nights is for: the same nights by a row-level test.
    alarms = [ks_2samp(_night(s)["x"], TRAINING["x"]).pvalue < 0.05 for s in range(100, 160)]
    assert np.mean(alarms) > 0.2


def test_columns_are_those_of_the_table():
    told = drift_of(REFERENCE.sketch(_night(100)), REFERENCE, PAST)
    assert tuple(told.columns) == COLUMNS
    assert set(COLUMNS) | {"date", "model_version", "run_id"} == set(CONTRACTS["feature_drift"].schema.names)
    assert told["feature"].tolist() == NAMES
    assert sum(json.loads(told["histogram"].iloc[1])["counts"]) == 400


@pytest.mark.parametrize("nights", [0, MIN_NIGHTS - 1, MIN_NIGHTS])
def test_without_enough_nights_there_is_no_verdict(nights):
    days = PAST["date"].unique()[:nights]
    told = drift_of(REFERENCE.sketch(_night(1, shift=5)), REFERENCE, PAST[PAST["date"].isin(days)])
    assert told["psi_threshold"].notna().all() == (nights >= MIN_NIGHTS)
    assert told["drifted"].any() == (nights >= MIN_NIGHTS)
    assert night_drifted(told) == (nights >= MIN_NIGHTS)
    assert told["nights"].tolist() == [nights] * 3


def test_ks_is_that_of_scipy_on_values_that_are_cuts():
    rng = np.random.default_rng(3)
    one, two = rng.integers(0, 5, 300), rng.integers(1, 6, 200)
    reference = DriftReference.from_frame(pd.DataFrame({"x": one}), ["x"], bins=50)
    told = drift_of(reference.sketch(pd.DataFrame({"x": two})), reference)
    assert told["ks"].iloc[0] == pytest.approx(ks_2samp(one, two).statistic)


def test_psi_by_hand():
    # (.5 − .25) ln(.5 / .25) + (.5 − .75) ln(.5 / .75) = .27465 without the half rows, which vanish in many rows.
    assert psi_of_counts(np.array([5e6, 5e6]), np.array([2.5e6, 7.5e6])) == pytest.approx(0.27465, abs=1e-4)
    assert psi_of_counts(np.array([5.0, 0]), np.array([0, 0])) == 0
    assert np.isnan(ks_of_counts(np.array([0.0, 0]), np.array([1.0, 1])))


def test_a_feature_that_goes_missing_drifts():
    told = drift_of(REFERENCE.sketch(_night(100).assign(x=np.nan)), REFERENCE, PAST)
    row = told.set_index("feature").loc["x"]
    assert row["missing_share"] == 1
    assert np.isnan(row["ks"])
    assert bool(row["drifted"])


def test_a_new_platform_drifts():
    told = drift_of(REFERENCE.sketch(_night(100).assign(platform="snap")), REFERENCE, PAST)
    assert told.set_index("feature")["drifted"].to_dict()["platform"]


def test_the_reference_survives_json_and_an_empty_night_is_no_drift():
    back = DriftReference.from_json(REFERENCE.to_json())
    pd.testing.assert_frame_equal(
        drift_of(back.sketch(_night(100)), back, PAST), drift_of(REFERENCE.sketch(_night(100)), REFERENCE, PAST)
    )
    empty = drift_of(REFERENCE.sketch(_night(100).iloc[:0]), REFERENCE, PAST)
    assert not empty["drifted"].any()
    assert not night_drifted(empty)


def test_chart_is_a_small_picture():
    rows = drift_of(REFERENCE.sketch(_night(1, shift=2)), REFERENCE, PAST)
    many = pd.concat([rows.assign(feature=rows["feature"] + str(i)) for i in range(40)], ignore_index=True)
    for chosen in (rows, many, drift_of(REFERENCE.sketch(_night(1)), REFERENCE)):
        picture = drift_chart(chosen)
        assert Image.open(io.BytesIO(picture)).format == "PNG"
        assert len(picture) < 100_000
    assert drift_chart(rows) == drift_chart(rows)


def test_bad_input():
    with pytest.raises(InputError, match="missing: 'nothing'"):
        DriftReference.from_frame(TRAINING, ["nothing"])
    with pytest.raises(InputError, match="at least 2 bins"):
        DriftReference.from_frame(TRAINING.iloc[:0], NAMES)
    with pytest.raises(InputError, match="reference's own"):
        drift_of(DriftReference.from_frame(TRAINING, ["x"]).sketch(TRAINING), REFERENCE)
    with pytest.raises(InputError, match="missing: 'psi'"):
        drift_of(REFERENCE.sketch(TRAINING), REFERENCE, PAST.drop(columns="psi"))
    with pytest.raises(InputError, match="column date"):
        REFERENCE.nights(TRAINING.drop(columns="date"))
    with pytest.raises(InputError, match="at least one feature"):
        drift_chart(drift_of(REFERENCE.sketch(TRAINING), REFERENCE).iloc[:0])
