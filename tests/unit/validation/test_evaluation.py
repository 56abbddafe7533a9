"""The report says what the metrics say, beside the baselines, as JSON, page and picture."""

import json
from datetime import date
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from within_ml import metrics
from within_ml.errors import InputError
from within_ml.metrics import ReliabilityCurve
from within_ml.validation.evaluation import ModelEvaluator
from within_ml.validation.report import reliability_figure_png, reliability_figure_svg


class Oracle:
    """Knows the true rate."""

    model_name, model_version = "<oracle> & co", "7"

    def predict(self, X):
        return X["truth"].to_numpy()

    def get_feature_importance(self):
        return {"truth": 0.9, "<b>": 0.1}


def history(days=90, seed=0):
    rng = np.random.default_rng(seed)
    n = days * 12
    frame = pd.DataFrame(
        {
            "date": pd.date_range("2024-01-01", periods=days).repeat(12),
            "platform": "meta",
            "account_id": "a",
            "campaign_id": np.tile(np.repeat(np.arange(4), 3), days) + 10 * np.repeat(np.arange(days) // 7, 12),
            "headline": rng.choice(["good news", "bad news", "no news"], n),
            "truth": expit(rng.normal(-3.5, 0.4, n)),
            "label_impressions": rng.integers(500, 5000, n),
        }
    )
    frame["label_clicks"] = rng.binomial(frame["label_impressions"], frame["truth"])
    return frame


@pytest.fixture(scope="module")
def frames():
    frame = history()
    return {"train": frame[:600], "validation": frame[600:800], "test": frame[800:]}


@pytest.fixture(scope="module")
def report(frames):
    return ModelEvaluator(n_bootstrap=300).evaluate(Oracle(), frames)


def test_each_part_has_the_metrics_of_its_rows(report, frames):
    rows = frames["test"]
    y, w = rows["label_clicks"] / rows["label_impressions"], rows["label_impressions"]
    part = report.part("test")

    assert [p.part for p in report.parts] == ["train", "validation", "test"]
    assert part.judgement.log_loss.value == pytest.approx(metrics.log_loss(y, rows["truth"], sample_weight=w))
    assert part.judgement.auc == metrics.auc(y, rows["truth"], sample_weight=w)
    assert (part.n_rows, part.clicks, part.last_date) == (280, rows["label_clicks"].sum(), date(2024, 3, 30))


def test_intervals_hold_their_value_and_a_true_model_is_calibrated(report):
    for part in report.parts:
        for interval in (part.judgement.log_loss, part.judgement.calibration_ratio):
            assert interval.lower < interval.value < interval.upper
    ratio = report.part("test").judgement.calibration_ratio
    assert ratio.lower < 1 < ratio.upper


def test_the_truth_beats_every_baseline(report):
    assert [b.baseline for b in report.baselines] == ["global_rate", "smoothed_campaign_rate", "tfidf_ridge"]
    assert all(b.log_loss_difference.upper < 0 for b in report.baselines)
    assert report.part("test").judgement.pair_accuracy.accuracy > 0.8
    assert report.baselines[0].judgement.pair_accuracy.accuracy == 0.5


def test_pairs_are_of_one_campaign_on_one_day(report):
    # 280 rows: 93 whole campaign-days of 3 ads (3 pairs each) and one row alone; rare ties of rates are left out.
    assert 270 <= report.part("test").judgement.pair_accuracy.pairs <= 279


def test_json_is_complete_and_strict(report):
    content = json.loads(report.to_json())

    assert content["parts"][2]["judgement"]["log_loss"]["value"] == report.part("test").judgement.log_loss.value
    assert content["feature_importance"] == {"truth": 0.9, "<b>": 0.1}
    assert content["baselines"][0]["judgement"]["spearman"] is None  # a constant has no rank correlation
    assert report.metrics()["test_rows"] == 280.0
    assert np.isfinite(list(report.metrics().values())).all()


def test_the_page_is_self_contained_small_and_escaped(report):
    page = report.to_html()

    assert len(page.encode()) < 300_000
    assert "<script" not in page
    assert "&lt;oracle&gt; &amp; co" in page
    assert "&lt;b&gt;" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    for text in ("tfidf_ridge", "validation", "2024-03-30", "<svg"):
        assert text in page


def test_the_reliability_curve_is_a_picture(report):
    svg = ElementTree.fromstring(reliability_figure_svg(report.reliability))  # noqa: S314
    png = reliability_figure_png(report.reliability)

    assert len(svg.findall(".//{http://www.w3.org/2000/svg}circle")) == len(report.reliability.predicted)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(png) < 100_000


@pytest.mark.parametrize(
    "curve",
    [ReliabilityCurve((), (), (), (), ()), ReliabilityCurve((0.0,), (0.0,), (10.0,), (0.0,), (0.0,))],
)
def test_a_curve_of_nothing_is_still_drawn(curve):
    assert reliability_figure_svg(curve).startswith("<svg")
    assert reliability_figure_png(curve)


def test_test_rows_alone_are_enough(frames):
    report = ModelEvaluator(n_bootstrap=50).evaluate(Oracle(), {"test": frames["test"]})

    assert report.baselines == ()
    assert "<svg" in report.to_html()


def test_what_cannot_be_judged_is_refused(frames):
    judge = ModelEvaluator(n_bootstrap=10)
    with pytest.raises(InputError, match="needs test rows"):
        judge.evaluate(Oracle(), {"train": frames["train"]})
    with pytest.raises(InputError, match="lacks 'label_clicks'"):
        judge.evaluate(Oracle(), {"test": frames["test"].drop(columns="label_clicks")})
    with pytest.raises(InputError, match="label_impressions above 0"):
        judge.evaluate(Oracle(), {"test": frames["test"].assign(label_impressions=0)})
    with pytest.raises(InputError, match="there is no 'production'"):
        judge.evaluate(Oracle(), {"test": frames["test"]}).part("production")
