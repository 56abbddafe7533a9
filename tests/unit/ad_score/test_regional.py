"""Factors of regions: planted effects are found, wrong predictions of ads are not taken for them."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from within_ml.ad_score import regional
from within_ml.ad_score.regional import region_factors
from within_ml.calibration.geospatial import GeospatialCalibrator

AS_OF = date(2024, 4, 15)
SIZE = 24


def table_of_regions(count=SIZE):
    angle = np.linspace(0, 20, count)
    return pd.DataFrame(
        {
            "region": [f"r{k:02d}" for k in range(count)], "country": "US", "state": [f"s{k}" for k in range(count)],
            "city": None, "latitude": 30 + angle, "longitude": -100 + angle, "population": 1e6,
        }
    )  # fmt: skip


def planted(*, campaigns=40, wrong=0.3, per_campaign=4, seed=0, level=0.0):
    """Outcomes of eight weeks with effects that neighbours share, and predictions wrong by campaign and ad."""
    rng = np.random.default_rng(seed)
    effect = 0.15 * np.sin(np.arange(SIZE) / 4)
    rows = []
    for c in range(campaigns):
        of_campaign = rng.normal(0, wrong)
        targets = rng.choice(SIZE, per_campaign, replace=False)
        cells = rng.normal(0, 0.05, per_campaign)
        for ad in range(2):
            predicted = rng.uniform(0.01, 0.03)
            base = np.log(predicted / (1 - predicted)) + of_campaign + rng.normal(0, wrong) + level
            for r, cell in zip(targets, cells, strict=True):
                for week in range(8):
                    n = int(rng.integers(2_000, 20_000))
                    rows.append(
                        {
                            "date": date(2024, 2, 3 + week), "platform": "google", "account_id": f"a{c % 5}",
                            "campaign_id": f"c{c}", "ad_id": f"{c}-{ad}", "region": f"r{r:02d}",
                            "predicted_ctr": predicted, "impressions": n,
                            "clicks": rng.binomial(n, expit(base + effect[r] + cell)),
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows), pd.Series(effect, index=[f"r{k:02d}" for k in range(SIZE)])


def heard(found):
    rows = found.rows.to_pandas().set_index("region")
    return rows[rows["source"] == "own"]


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_effects_are_found_although_predictions_of_ads_are_wrong(seed):
    outcomes, effect = planted(seed=seed)
    found = region_factors(outcomes, table_of_regions(), as_of=AS_OF)
    rows = heard(found)
    truth = effect.reindex(rows.index)
    relative = rows["offset"] - rows["level"]
    assert np.corrcoef(relative, truth)[0, 1] > 0.85
    plain = GeospatialCalibrator().fit(
        outcomes["predicted_ctr"], outcomes["clicks"] / outcomes["impressions"], outcomes["region"],
        outcomes["impressions"], region_table=table_of_regions(),
    )  # fmt: skip
    naive = plain.get_region_factors().set_index("region")["offset"].reindex(rows.index)
    assert np.corrcoef(naive, truth)[0, 1] < np.corrcoef(relative, truth)[0, 1] - 0.1
    error = (relative - truth) - (relative - truth).mean()
    assert 0.5 < (error / rows["standard_error"]).std() < 1.6


def test_the_table_says_what_was_seen_and_what_it_rests_on():
    outcomes, _ = planted(wrong=0.1, level=0.2)
    found = region_factors(outcomes, table_of_regions(), as_of=AS_OF, run_id="run-1")
    rows = found.rows.to_pandas()
    assert rows["region"].tolist() == sorted(rows["region"])
    assert rows["clicks"].sum() == outcomes["clicks"].sum()
    assert rows["predicted_clicks"].sum() == pytest.approx((outcomes["impressions"] * outcomes["predicted_ctr"]).sum())
    np.testing.assert_allclose(rows["factor"], np.exp(rows["offset"]))
    assert rows["level"].iloc[0] == pytest.approx(0.2, abs=0.1)
    assert set(rows["weeks"]) == {8}
    assert set(rows["date"]) == {AS_OF}


def test_where_nothing_differs_no_region_stands_out():
    outcomes, _ = planted(seed=3)
    rng = np.random.default_rng(5)
    outcomes["clicks"] = rng.binomial(outcomes["impressions"], outcomes["predicted_ctr"])
    rows = heard(region_factors(outcomes, table_of_regions(), as_of=AS_OF))
    assert (rows["offset"].abs() < 0.03).all()


def test_the_order_of_the_rows_does_not_matter():
    outcomes, _ = planted(campaigns=15)
    first = region_factors(outcomes, table_of_regions(), as_of=AS_OF)
    again = region_factors(outcomes.sample(frac=1, random_state=1), table_of_regions(), as_of=AS_OF)
    assert again.rows.equals(first.rows)


def test_campaigns_of_one_region_tell_little():
    several, _ = planted(per_campaign=4)
    alone, _ = planted(per_campaign=1)
    errors = [
        heard(region_factors(outcomes, table_of_regions(), as_of=AS_OF))["standard_error"].median()
        for outcomes in (several, alone)
    ]
    assert errors[1] > 2 * errors[0]


def test_regions_without_place_or_unknown_to_the_table_go_by_the_level():
    outcomes, _ = planted(campaigns=15)
    table = table_of_regions()
    table.loc[table["region"] == "r03", ["latitude", "longitude"]] = np.nan
    table = pd.concat([table, table.iloc[[3]].assign(region="r90", state="s90")], ignore_index=True)
    outcomes["region"] = outcomes["region"].replace("r05", "Atlantis")
    rows = region_factors(outcomes, table, as_of=AS_OF).rows.to_pandas().set_index("region")
    assert rows.loc["r90", "source"] == "global"
    assert rows.loc["r90", "offset"] == pytest.approx(rows.loc["r90", "level"], abs=1e-6)
    assert rows.loc["Atlantis", "source"] == "own"
    assert pd.isna(rows.loc["Atlantis", "country"])
    assert np.isfinite(rows["offset"]).all()


def test_without_its_place_a_region_goes_by_its_country():
    outcomes, _ = planted(campaigns=40)
    table = table_of_regions()
    table.loc[12:, "country"] = "CA"
    nowhere = table.iloc[[20]].assign(region="r90", state="s90", latitude=np.nan, longitude=np.nan)
    rows = region_factors(outcomes, pd.concat([table, nowhere]), as_of=AS_OF).rows.to_pandas().set_index("region")
    assert rows.loc["r90", "source"] == "parent"


def test_sources_without_regions_have_no_factors():
    outcomes, _ = planted(campaigns=2)
    found = region_factors(outcomes.assign(region="unknown"), table_of_regions(), as_of=AS_OF)
    assert found.rows.num_rows == 0
    assert found.calibrator is None
    assert "do not tell regions" in found.reason
    nothing = region_factors(outcomes[:0], table_of_regions(), as_of=AS_OF)
    assert nothing.rows.num_rows == 0
    assert "complete week" in nothing.reason


def test_one_region_or_one_row_is_enough():
    outcomes, _ = planted(campaigns=3)
    one = outcomes[outcomes["region"] == outcomes["region"].iloc[0]]
    for rows in (one, one[:1]):
        found = region_factors(rows, table_of_regions()[:0], as_of=AS_OF).rows
        assert found.num_rows == 1
        assert found["moran_before"].to_pylist() == [None]


def test_of_too_many_regions_those_with_the_most_impressions_are_looked_at(monkeypatch):
    monkeypatch.setattr(regional, "MAX_REGIONS", 5)
    outcomes, _ = planted(campaigns=10)
    found = region_factors(outcomes, table_of_regions(), as_of=AS_OF).rows
    most = outcomes.groupby("region")["impressions"].sum().nlargest(5).index
    assert set(found["region"].to_pylist()) == set(most)
