"""DynamicLinear beside river's FTRL on a drifting stream: who predicts the next row better, and how fast.

    PYTHONPATH=.peers python -m benchmarks.dynamic_linear [--rows 200000] [--streams 3]

river is no dependency; `benchmarks/peers.txt` says how to install it beside the project. Both learn the same rows in
the same order in one process, each row predicted just before it is learned (progressive validation). Both are tuned
over as many settings, on the first part of a stream of its own; only the streams after that one give figures.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import expit

from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.metrics import log_loss, row_log_loss
from within_ml.models.dynamic_linear import DynamicLinear

FIELDS = 20
BLOCKS = 200
CHUNK = 10_000
ALPHAS, RIDGES = (0.03, 0.1, 0.3, 1.0), (0.0, 3.0)
DECAYS = (2e-5, 1e-4)
INTERCEPTS = ("column", 0.01)


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows of `FIELDS` categories, one column each and last a column of ones; clicks; and the true rates."""

    columns: np.ndarray
    y: np.ndarray
    truth: np.ndarray
    width: int

    def rows(self, first: int, last: int) -> Any:
        columns = self.columns[first:last, :FIELDS]
        starts = np.arange(0, columns.size + 1, FIELDS)
        return sparse.csr_array((np.ones(columns.size), columns.ravel(), starts), shape=(last - first, self.width))


def make_stream(rows: int, seed: int) -> Stream:
    """Effects wander by an Ornstein-Uhlenbeck process over the stream; at 60 % a quarter of the fields is redrawn."""
    rng = np.random.default_rng(seed)
    sizes = np.unique(np.geomspace(4, 20_000, FIELDS).astype(int))
    sizes = np.resize(sizes, FIELDS)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    effects = [rng.normal(0, 0.35, size) for size in sizes]
    popular = [np.argsort(rng.random(size)) for size in sizes]
    columns, truth = np.empty((rows, FIELDS + 1), np.int64), np.empty(rows)
    columns[:, FIELDS] = starts[-1]
    keep = 0.985
    for block in range(BLOCKS):
        part = slice(rows * block // BLOCKS, rows * (block + 1) // BLOCKS)
        n = part.stop - part.start
        margin = np.full(n, -4.0)
        for field, size in enumerate(sizes):
            if block == int(0.6 * BLOCKS) and field % 4 == 0:
                effects[field] = rng.normal(0, 0.35, size)
            effects[field] = keep * effects[field] + rng.normal(0, 0.35 * np.sqrt(1 - keep**2), size)
            level = popular[field][(size * rng.random(n) ** 3).astype(int)]
            columns[part, field] = level + starts[field]
            margin += effects[field][level]
        truth[part] = expit(margin)
    return Stream(columns, (rng.random(rows) < truth).astype(float), truth, int(starts[-1]) + 1)


def chunks(rows: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + CHUNK, rows)) for first in range(0, rows, CHUNK))


def run_ours(stream: Stream, rows: int, **settings: Any) -> tuple[np.ndarray, float]:
    model, predicted, seconds = DynamicLinear(stream.width, **settings), [], 0.0
    for first, last in chunks(rows):
        X, y = stream.rows(first, last), stream.y[first:last]
        started = time.perf_counter()
        predicted.append(model.predict_then_fit(X, y))
        seconds += time.perf_counter() - started
    return np.concatenate(predicted), seconds


def run_river(stream: Stream, rows: int, *, alpha: float, l2: float, intercept: Any) -> tuple[np.ndarray, float]:
    from river import linear_model, optim

    own = intercept == "column"
    model = linear_model.LogisticRegression(
        optim.FTRLProximal(alpha=alpha, beta=1.0, l1=0.0, l2=l2), intercept_lr=0.0 if own else intercept
    )
    width = FIELDS + 1 if own else FIELDS
    predicted, seconds = np.empty(rows), 0.0
    for first, last in chunks(rows):
        told = [dict.fromkeys(row, 1.0) for row in stream.columns[first:last, :width].tolist()]
        labels = stream.y[first:last].astype(bool).tolist()
        started = time.perf_counter()
        for i, (x, y) in enumerate(zip(told, labels, strict=True), first):
            predicted[i] = model.predict_proba_one(x)[True]
            model.learn_one(x, y)
        seconds += time.perf_counter() - started
    return predicted, seconds


def tuned(stream: Stream, rows: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings with the smallest progressive log-loss: ours and river's, of as many each."""
    y = stream.y[:rows]
    ours = [{"alpha": a, "regularization": r, "time_decay": d} for a, r, d in itertools.product(ALPHAS, RIDGES, DECAYS)]
    theirs = [{"alpha": a, "l2": r, "intercept": i} for a, r, i in itertools.product(ALPHAS, RIDGES, INTERCEPTS)]
    return (
        min(ours, key=lambda s: log_loss(y, run_ours(stream, rows, **s)[0])),
        min(theirs, key=lambda s: log_loss(y, run_river(stream, rows, **s)[0])),
    )


def compile_seconds() -> float:
    started = time.perf_counter()
    DynamicLinear().fit(sparse.csr_array(np.eye(2)), [0.0, 1.0])
    return time.perf_counter() - started


def compared(stream: Stream, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[np.ndarray, float]]:
    rows = stream.y.size
    return {
        "DynamicLinear": run_ours(stream, rows, **ours),
        "DynamicLinear, no time decay": run_ours(stream, rows, **{**ours, "time_decay": 0.0}),
        "river FTRLProximal": run_river(stream, rows, **theirs),
    }


def run(rows: int, streams: int, *, results: Path = RESULTS) -> Path:
    compiled = compile_seconds()
    ours, theirs = tuned(make_stream(rows, 0), max(rows // 2, 1))
    lines, ahead, clicks = [], [], 0.0
    for seed in range(1, streams + 1):
        stream = make_stream(rows, seed)
        found = compared(stream, ours, theirs)
        river_seconds = found["river FTRLProximal"][1]
        clicks += float(stream.y.mean()) / streams
        floor = log_loss(stream.y, stream.truth)
        for name, (p, seconds) in found.items():
            loss = log_loss(stream.y, p)
            lines.append(
                [name, seed, f"{loss:.5f}", f"{loss - floor:.5f}", f"{rows / seconds:,.0f}",
                 f"{river_seconds / seconds:.0f}"]
            )  # fmt: skip
        gap = row_log_loss(stream.y, found["river FTRLProximal"][0]) - row_log_loss(stream.y, found["DynamicLinear"][0])
        ahead.append(f"{gap.mean():.5f} ± {1.96 * gap.std() / np.sqrt(rows):.5f}")
    text = f"""# DynamicLinear beside river's FTRL

Written by `PYTHONPATH=.peers python -m benchmarks.dynamic_linear --rows {rows} --streams {streams}`.
{machine()} {river_version()}.

{streams} streams of {rows:,} rows, {FIELDS} categories each, {clicks:.1%} clicks; the effects of the categories wander,
and a quarter of them is redrawn after 60 % of the rows. Every row is predicted just before it is learned. Prepared rows
(sparse matrix here, dicts there) are given to both; making them is not timed. Nor is compiling the loop: it took
{compiled:.1f} s, once per process.

Tuned on half of a stream of its own, {len(ALPHAS) * len(RIDGES) * 2} settings each.
Ours: {told(ours)}; river: {told(theirs)}.

{table(["", "stream", "log-loss", "above the truth's", "rows/s", "× river"], lines)}

Log-loss ahead of river by stream, with 95 % intervals over rows: {"; ".join(ahead)}.
"""
    return write_result("dynamic_linear.md", text, folder=results)


def told(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def river_version() -> str:
    import river

    return f"river {river.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--streams", type=int, default=3)
    arguments = parser.parse_args()
    try:
        import river  # noqa: F401
    except ModuleNotFoundError:
        parser.exit(1, "river is missing; benchmarks/peers.txt says how to install it beside the project.\n")
    run(arguments.rows, arguments.streams)


if __name__ == "__main__":
    main()
