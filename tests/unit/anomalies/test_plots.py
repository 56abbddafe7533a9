from __future__ import annotations

import io

import pytest
from PIL import Image

from tests.unit.anomalies.conftest import changed
from within_ml.anomalies import AnomalyDetector
from within_ml.anomalies.plots import account_plot
from within_ml.errors import InputError


def test_the_picture_is_small_enough_for_metadata(quiet):
    frame = changed(quiet, (quiet["account_id"] == "acc-03") & (quiet["date"] == "2024-02-20"), spend=3.0)
    metrics = AnomalyDetector("seasonal").detect_anomalies(frame).metrics

    whole = account_plot(metrics, "acc-03")
    one = account_plot(metrics, "acc-03", names=["cpc"])

    assert len(one) < len(whole) < 100_000
    assert Image.open(io.BytesIO(whole)).size[0] == 800
    with pytest.raises(InputError, match="acc-99"):
        account_plot(metrics, "acc-99")
