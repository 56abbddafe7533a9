"""The watch as files: arrays in ``watch.npz``, names and episodes in ``watch.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from within_ml.anomalies.baseline import Levels
from within_ml.anomalies.creatives import Creatives
from within_ml.anomalies.discovery import Tails
from within_ml.anomalies.nights import Axis, Memory
from within_ml.anomalies.runs import Runs
from within_ml.anomalies.watch import Episode, Watch
from within_ml.errors import ModelFormatError

_ARRAYS, _NAMES = "watch.npz", "watch.json"


def write_watch(watch: Watch, folder: Path) -> None:
    """Write the watch into a folder."""
    memory = watch.memory
    arrays = {f"levels_{f.name}": getattr(memory.levels, f.name) for f in fields(Levels)}
    arrays |= {f"creatives_{f.name}": getattr(memory.creatives, f.name) for f in fields(Creatives)}
    for name, axis in (("series", memory.series), ("accounts", memory.accounts)):
        arrays |= {f"{name}_tails": axis.tails.counts, f"{name}_run_tails": axis.run_tails.counts}
        arrays |= {f"{name}_runs_{f.name}": getattr(axis.runs, f.name) for f in fields(Runs)}
    np.savez_compressed(folder / _ARRAYS, **arrays)
    names = {
        "part": watch.part,
        "keys": watch.keys,
        "accounts": watch.accounts,
        "platforms": watch.platforms,
        "ads": list(watch.ads),
        "currencies": watch.currencies,
        "last": None if watch.last is None else watch.last.isoformat(),
        "metric_episodes": [[*key, _plain(episode)] for key, episode in watch.metric_episodes.items()],
        "account_episodes": [[key, _plain(episode)] for key, episode in watch.account_episodes.items()],
    }
    (folder / _NAMES).write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")


def read_watch(folder: Path) -> Watch | None:
    """Read what `write_watch` wrote; None where there is none.

    Raises
    ------
    ModelFormatError
        If the files do not belong together.
    """
    if not (folder / _NAMES).is_file():
        return None
    names = json.loads((folder / _NAMES).read_text(encoding="utf-8"))
    with np.load(folder / _ARRAYS, allow_pickle=False) as stored:
        try:
            memory = _memory(dict(stored))
        except KeyError as error:
            raise ModelFormatError(f"{folder / _ARRAYS} lacks an array: {error}. Save the detector again.") from error
    return Watch(
        memory=memory,
        part=names["part"],
        keys=[(account, element) for account, element in names["keys"]],
        accounts=names["accounts"],
        platforms=names["platforms"],
        ads={(series, ad): number for number, (series, ad) in enumerate(names["ads"])},
        currencies=names["currencies"],
        last=None if names["last"] is None else pd.Timestamp(names["last"]),
        metric_episodes={(a, m): _episode(e) for a, m, e in names["metric_episodes"]},
        account_episodes={a: _episode(e) for a, e in names["account_episodes"]},
    )


def _memory(stored: dict[str, Any]) -> Memory:
    axes = [
        Axis(
            Tails(stored[f"{name}_tails"]),
            Tails(stored[f"{name}_run_tails"]),
            Runs(*(stored[f"{name}_runs_{f.name}"] for f in fields(Runs))),
        )
        for name in ("series", "accounts")
    ]
    levels = Levels(*(stored[f"levels_{f.name}"] for f in fields(Levels)))
    creatives = Creatives(*(stored[f"creatives_{f.name}"] for f in fields(Creatives)))
    return Memory(levels, creatives, *axes)


def _plain(episode: Episode) -> dict[str, Any]:
    return asdict(episode) | {"first": episode.first.isoformat(), "last": episode.last.isoformat()}


def _episode(plain: dict[str, Any]) -> Episode:
    return Episode(pd.Timestamp(plain["first"]), pd.Timestamp(plain["last"]), plain["direction"])
