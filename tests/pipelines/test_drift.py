"""Drift checks of a trained agency's nights, and of a night whose features are another agency's."""

from datetime import date, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from within_ml.errors import WithinError

AS_OF = date(2024, 4, 15)
NIGHTS = 3
FIRST, LAST = AS_OF - timedelta(days=NIGHTS), AS_OF - timedelta(days=1)


def read(deployment, table: str) -> pd.DataFrame:
    days = [FIRST + timedelta(days=n) for n in range(NIGHTS)]
    return deployment.store.read(table, {"date": days}).to_pandas().drop(columns="run_id")


def test_ordinary_nights_do_not_drift_and_a_distorted_one_does(trained_agency):
    trained_agency.backfill("ad_scores", FIRST, LAST)
    told = trained_agency.backfill("feature_drift,prediction_drift", FIRST, LAST)[-1].metadata
    assert told["feature_drift"]["drifted"] is False
    assert told["feature_drift"]["past_nights"] == 28
    assert told["feature_drift"]["drift"].startswith("![picture](data:image/png;base64,")
    features = read(trained_agency, "feature_drift")
    assert set(features.groupby("date").size()) == {features["feature"].nunique()}
    assert features["feature"].nunique() > 50
    assert features["psi_threshold"].notna().all()
    predictions = read(trained_agency, "prediction_drift")
    assert set(predictions["feature"]) == {"predicted_ctr"}

    # The same again, from the stored nights.
    trained_agency.backfill("feature_drift", LAST, LAST)
    keys = ["date", "feature"]
    again = read(trained_agency, "feature_drift").sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(again, features.sort_values(keys, ignore_index=True))

    def distorted(rows: pa.Table) -> pa.Table:
        for name in ("ad_ctr_28d", "campaign_ctr_28d", "account_ctr_28d", "prior_ctr", "platform_ctr_28d"):
            rows = rows.set_column(rows.column_names.index(name), name, pc.multiply(rows[name], 4.0))
        return rows

    night = distorted(trained_agency.store.read("ad_features", {"date": LAST}))
    trained_agency.store.replace("ad_features", {LAST: night}, run_id="another agency")
    told = trained_agency.backfill("feature_drift", LAST, LAST)[0].metadata["feature_drift"]
    assert told["drifted"] is True
    assert "prior_ctr" in told["drifted_features"]


def test_a_night_without_features_is_an_error_and_not_a_quiet_pass(trained_agency):
    with pytest.raises(WithinError, match="ad_features"):
        trained_agency.backfill("feature_drift", AS_OF + timedelta(days=3), AS_OF + timedelta(days=3))
