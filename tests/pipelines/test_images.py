"""Images that land beside an export become features of the ads that show them."""

from datetime import date

import pytest

from within_ml.lake.simulation import SimulationConfig, simulate, write_landing

LAST = date(2024, 1, 6)
CONFIG = SimulationConfig(accounts=2, days=20, seed=3, max_images=8)


@pytest.fixture
def landed(lake_only):
    write_landing(simulate(CONFIG), lake_only.landing / "simulation", last=LAST)
    return lake_only


def test_a_night_measures_what_is_new(landed):
    result = landed.night(LAST, select=("lake", "features"))
    # The days before were not ingested, so that the windows cannot be computed; content does not need them.
    told = {e.asset_key.to_user_string(): e.step_materialization_data.materialization.metadata
            for e in result.get_asset_materialization_events()}  # fmt: skip
    shown = set(landed.store.read("ads", columns=["image_path"])["image_path"].to_pylist())
    assert told["image_content"]["new_images"].value == len(shown) > 5
    assert told["image_content"]["unreadable_images"].value == 0
    assert set(landed.store.read("image_content")["image_path"].to_pylist()) == shown


def test_ads_have_the_warmth_that_was_painted(landed):
    landed.ingest()
    runner = landed.runner
    runner.backfill(runner.select("image_content,ad_features"), LAST, LAST)
    rows = landed.store.read("ad_features").to_pandas()
    agency = simulate(CONFIG)
    looks = agency.process.world.creatives.looks
    warmth = {f"images/simulation/img-{n + 1:05}.png": value for n, value in enumerate(looks[:, 0])}
    painted = rows.image_path.map(warmth)
    assert len(rows) > 5
    assert painted.notna().all()
    assert rows.image_warmth.corr(painted) > 0.95

    before = landed.store.read("image_content")
    again = runner.materialize(["image_content"]).metadata["image_content"]
    assert again["new_images"] == 0
    assert landed.store.read("image_content").equals(before)
