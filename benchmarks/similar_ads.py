"""How fast the successful ads with the nearest texts are found among 20,000.

    OMP_NUM_THREADS=1 python -m benchmarks.similar_ads [--candidates 20000] [--texts 1000]

Candidates are the headlines of the Upworthy sample, repeated with two words of another one put behind, so that all
differ; the texts to find ads for are headlines of the sample.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measuring import RESULTS, machine, table, write_result
from benchmarks.text_score import read
from within_ml.explain.similar import KEYS, SimilarAds

LIMIT_SECONDS = 2.0


def candidates(ads: pd.DataFrame, n: int) -> pd.DataFrame:
    """Rows of ads that did better than their campaign: each campaign has one of them and one that did worse."""
    rows = ads.iloc[np.resize(np.arange(len(ads)), n)].reset_index(drop=True)
    more = np.roll(rows["headline"].to_numpy(object), n // 2)
    rows["headline"] = [f"{a} {' '.join(b.split()[:2])}" for a, b in zip(rows["headline"], more, strict=True)]
    good = rows.assign(ctr=0.03, ad_id=np.arange(n).astype(str), campaign_id=np.arange(n).astype(str))
    both = pd.concat([good, good.assign(ctr=0.01, ad_id="-" + good["ad_id"])], ignore_index=True)
    return both.assign(platform="upworthy", account_id="upworthy", impressions=5_000)


def run(n: int, n_texts: int, *, results: Path = RESULTS) -> Path:
    ads = read()
    rows, queries = candidates(ads, n), ads["headline"].tolist()[:n_texts]
    start = time.process_time()
    dates = np.full(len(rows), np.datetime64("2014-01-01"))
    keys = rows[[*KEYS]]
    model = SimilarAds(max_candidates=n, quantile=0.0).fit(
        rows["headline"].tolist(), rows["ctr"], rows["impressions"], keys, dates
    )
    learned = time.process_time()
    found = model.find(queries)
    done = time.process_time()
    lines = [
        ["fit", f"{len(rows):,} rows, {len(model.ads_):,} candidates", f"{learned - start:.2f}", ""],
        ["find", f"{len(queries):,} texts", f"{done - learned:.2f}", f"≤ {LIMIT_SECONDS:g}"],
    ]
    text = f"""# Similar ads

Written by `OMP_NUM_THREADS=1 python -m benchmarks.similar_ads --candidates {n} --texts {n_texts}`. {machine()}

{table(["", "of", "CPU s", "bar"], lines)}

{np.mean([len(row) > 0 for row in found]):.0%} of the texts have at least one similar ad.
"""
    return write_result("similar_ads.md", text, folder=results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--texts", type=int, default=1_000)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    run(options.candidates, options.texts, results=options.results)


if __name__ == "__main__":
    main()
