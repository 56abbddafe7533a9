"""What text and image add to the numbers of an ad that nobody has seen run, on a simulated agency.

    python -m benchmarks.multimodal [--accounts 60] [--days 120] [--images 600] [--seeds 6]

The agency's truth knows what words and looks (warmth, contrast, busyness of the image) do to the click rate. Its export
goes through the lake like any other; the images are copied into it. An ad's row is that of the day before its first, so
that the numbers are those of its campaign, account and platform, and its label is its clicks of the following 7 days.
The extractor is fitted on the ads of the first 65 % of the days, and the same boosting on the columns of each set of
modalities, on top of `prior_ctr` as in the product; the later ads judge. An ad counts by its precision on the log-odds
scale, bounded because ads differ by more than chance. AUC and log-loss are per impression. "Truth" is the true rate of
each ad's days.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit

from benchmarks.agencies import agency_lake, image_content, labelled_rows
from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml import metrics
from within_ml.base import LABEL_MATURITY_DAYS
from within_ml.features.images import image_features
from within_ml.features.multimodal import MODALITIES, ExtractedFeatures, MultiModalFeatureExtractor
from within_ml.lake.simulation import Agency, SimulationConfig, simulate
from within_ml.models.boosted import BoostedRate

KEY = ["platform", "account_id", "ad_id"]
SETS = {
    "tabular": ("tabular",),
    "+ text": ("tabular", "text"),
    "+ image": ("tabular", "image"),
    "all": MODALITIES,
    "text, no tabular": ("text",),
    "image, no tabular": ("image",),
}
TRAIN_SHARE = 0.65
BETWEEN_ADS = 0.03
"""Variance of log-odds between ads that no number of clicks removes."""


def first_rows(agency: Agency, folder: Path) -> tuple[pd.DataFrame, str, dict[str, float]]:
    """First feature rows of each ad with their labels, the lake's root and images measured a second."""
    store, days = agency_lake(agency, folder)
    start = time.process_time()
    images = image_content(store)
    seconds = {"images a second": images.num_rows / (time.process_time() - start)}
    rows = labelled_rows(store, days[0], days[-1], last_label=days[-1] - timedelta(days=1), images=images)
    fresh = rows[(rows["ad_impressions_28d"] == 0) & rows["headline"].notna()]
    # Of the days before an ad's first the last one, with all that its campaign had shown by then.
    return fresh.sort_values("date").drop_duplicates(KEY, keep="last").reset_index(drop=True), store.root, seconds


def true_rates(agency: Agency, rows: pd.DataFrame) -> np.ndarray:
    """Mean true rate of each row's following week, weighted by impressions."""
    import pyarrow as pa

    truth = pa.concat_tables(agency.true_ctr()).to_pandas()
    days = pd.to_datetime(truth["date"])
    truth = truth.assign(day=days, expected=truth["true_ctr"] * truth["impressions"])
    joined = rows[[*KEY, "date"]].assign(row=np.arange(len(rows)), start=pd.to_datetime(rows["date"]))
    joined = joined.merge(truth[[*KEY, "day", "expected", "impressions"]], on=KEY)
    age = (joined["day"] - joined["start"]).dt.days
    sums = joined[(age >= 1) & (age <= 7)].groupby("row")[["expected", "impressions"]].sum()
    return (sums["expected"] / sums["impressions"]).reindex(range(len(rows))).to_numpy()


def looks(agency: Agency, rows: pd.DataFrame) -> np.ndarray:
    """Warmth, contrast and busyness that each row's image was painted with."""
    number = rows["image_path"].str.extract(r"img-(\d+)")[0].astype(int).to_numpy() - 1
    return agency.process.world.creatives.looks[number]


def columns_of(found: ExtractedFeatures, modalities: tuple[str, ...]) -> np.ndarray:
    return np.hstack([getattr(found, name) for name in modalities])


def one_seed(seed: int, accounts: int, days: int, images: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Figures of each set of modalities for one agency."""
    agency = simulate(SimulationConfig(accounts=accounts, days=days, seed=seed, max_images=images, drift_size=0.0))
    with tempfile.TemporaryDirectory(prefix="within-bench-") as folder:
        rows, root, told = first_rows(agency, Path(folder))
        day = (pd.to_datetime(rows["date"]) - pd.Timestamp(agency.config.start_date)).dt.days
        cut = int(TRAIN_SHARE * days)
        early, late = rows[day < cut - LABEL_MATURITY_DAYS], rows[day >= cut]
        y, w = (rows["label_clicks"] / rows["label_impressions"]).to_numpy(), rows["label_impressions"].to_numpy(float)
        start = time.process_time()
        extractor = MultiModalFeatureExtractor(output_dim=96, random_state=seed)
        train = _by_modality(extractor, early, y[early.index], w[early.index], root)
        told["fit, CPU s"] = time.process_time() - start
        start = time.process_time()
        test = extractor.extract_features(late)
        told["rows a second"] = len(late) / (time.process_time() - start)
    told |= {"train": len(early), "test": len(late), "clicks": float((y * w)[late.index].sum())}
    told["network"] = float("image_network" in extractor.names_["image"])
    yt, wt = y[late.index], w[late.index]
    level = logit(rows["prior_ctr"].to_numpy())
    clicks = w * rows["prior_ctr"].to_numpy()
    evidence = (w / (1 + BETWEEN_ADS * clicks))[early.index]
    lines = {"prior_ctr": _figures(yt, rows["prior_ctr"].to_numpy()[late.index], wt)}

    def judged(known: np.ndarray, new: np.ndarray) -> dict[str, float]:
        model = BoostedRate(
            n_estimators=200, max_depth=3, min_child_weight=200, reg_lambda=100, random_state=seed, n_threads=1
        )
        model.fit(known, y[early.index], evidence, base_margin=level[early.index])
        return _figures(yt, model.predict(new, base_margin=level[late.index]), wt)

    for name, modalities in SETS.items():
        lines[name] = judged(columns_of(train, modalities), columns_of(test, modalities))
    painted = looks(agency, rows)
    lines["+ looks as painted"] = judged(
        np.hstack([train.tabular, painted[early.index]]), np.hstack([test.tabular, painted[late.index]])
    )
    lines["truth"] = _figures(yt, true_rates(agency, late.reset_index(drop=True)), wt)
    return pd.DataFrame(lines).T, told


def _by_modality(extractor, X: pd.DataFrame, y: np.ndarray, w: np.ndarray, root: str) -> ExtractedFeatures:
    """Fit; give the training rows with network scores of networks that did not see their images."""
    whole = extractor.fit_transform(X, y, w, images_root=root)
    ends = np.cumsum([len(extractor.names_[name]) for name in MODALITIES])
    text, image, tabular, _ = np.split(whole, ends, axis=1)
    there = np.ones(len(X), dtype=bool)
    return ExtractedFeatures(text, image, tabular, there, there, there, extractor.names_, extractor.output_dim)


def _figures(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> dict[str, float]:
    return {"auc": metrics.auc(y, p, sample_weight=w), "log_loss": metrics.log_loss(y, p, sample_weight=w)}


def measuring_speed(n: int = 200) -> list[list[str]]:
    """Images a second by side and format, decoding included."""
    import io

    from PIL import Image

    lines = []
    rng = np.random.default_rng(0)
    for side, kind in ((64, "PNG"), (200, "PNG"), (400, "PNG"), (200, "JPEG"), (400, "JPEG")):
        files = []
        for _ in range(n):
            picture = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).resize((side, side), 3)
            target = io.BytesIO()
            picture.save(target, kind)
            files.append(target.getvalue())
        start = time.process_time()
        image_features(files)
        rate = n / (time.process_time() - start)
        lines.append([f"{kind}, {side} × {side}", f"{np.mean([len(f) for f in files]) / 1000:.0f}", f"{rate:,.0f}"])
    return lines


def page(results: list[tuple[pd.DataFrame, dict[str, float]]], options: argparse.Namespace, seconds: float) -> str:
    frames, told = [frame for frame, _ in results], pd.DataFrame([t for _, t in results])
    base, truth = (np.array([f.loc[name, "log_loss"] for f in frames]) for name in ("tabular", "truth"))
    lines = []
    for name in frames[0].index:
        auc = np.array([f.loc[name, "auc"] for f in frames])
        loss = np.array([f.loc[name, "log_loss"] for f in frames])
        closed = (base - loss) / (base - truth)
        better = f"{int((loss < base).sum())} of {len(frames)}" if name != "tabular" else ""
        lines.append([name, f"{auc.mean():.4f}", f"{loss.mean():.5f}", f"{1e5 * (loss - base).mean():+.1f}",
                      f"{100 * closed.mean():.0f}", better])  # fmt: skip
    header = [
        "",
        "AUC",
        "log-loss",
        "log-loss × 10⁵ beside tabular",
        "way to the truth, %",
        "seeds better than tabular",
    ]
    command = " ".join(f"--{name} {value}" for name, value in vars(options).items())
    speed = {name: f"{told[name].mean():,.0f}" for name in ("fit, CPU s", "rows a second", "images a second")}
    return f"""# What text and image add to an ad's numbers

Written by `python -m benchmarks.multimodal {command}`. {machine()}

A simulated agency whose truth knows what words and looks do to the click rate, without drift; ads on the day before
their first impression, judged on their first week: {told["train"].mean():,.0f} ads to fit, {told["test"].mean():,.0f}
later ads with {told["clicks"].mean():,.0f} clicks to judge (means of {options.seeds} seeds). One extractor, and the
same boosting on top of `prior_ctr` (200 trees of depth 3, untuned) on the columns of each set of modalities.

{table(header, lines)}

The way to the truth is the share of the difference in log-loss between tabular columns and the ads' true rates, which
no model can know: an ad's own quality that neither text nor image tells is part of them. "Looks as painted" are the
three numbers of each image that the truth depends on, instead of its pixels: what an extractor of images could reach.

A network on pixels was kept in {int(told["network"].sum())} of {options.seeds} seeds. Fitting the extractor, networks
included, took {speed["fit, CPU s"]} CPU seconds; it reads {speed["rows a second"]} new ads a second with their image
files. {speed["images a second"]} of the simulation's images (64 × 64) a CPU second are read from the lake and measured
in the nightly run.

Image statistics by kind of file, decoding included:

{table(["", "kB a file", "images a CPU second"], measuring_speed())}

The whole run took {seconds:.0f} CPU seconds.
"""


def run(accounts: int, days: int, images: int, seeds: int, *, results: Path = RESULTS) -> Path:
    """Run the benchmark and write its page."""
    logging.getLogger("within_ml").setLevel(logging.ERROR)
    options = argparse.Namespace(accounts=accounts, days=days, images=images, seeds=seeds)
    done = [one_seed(seed, accounts, days, images) for seed in range(seeds)]
    return write_result("multimodal.md", page(done, options, time.process_time()), folder=results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=60)
    parser.add_argument("--days", type=int, default=120)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    run(options.accounts, options.days, options.images, options.seeds, results=options.results)


if __name__ == "__main__":
    main()
