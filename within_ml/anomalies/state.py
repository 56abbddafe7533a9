"""The watch as files: arrays in ``watch.npz``, names and episodes in ``watch.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from within_ml.anomalies.baseline import Levels
from within_ml.anomalies.discovery import Tails
from within_ml.anomalies.nights import Memory
from within_ml.anomalies.watch import Episode, Watch
from within_ml.errors import ModelFormatError

_ARRAYS, _NAMES = "watch.npz", "watch.json"


def write_watch(watch: Watch, folder: Path) -> None:
    """Write the watch into a folder."""
    levels = {f"levels_{f.name}": getattr(watch.memory.levels, f.name) for f in fields(Levels)}
    tails = {"series_tails": watch.memory.series_tails.counts, "account_tails": watch.memory.account_tails.counts}
    np.savez_compressed(folder / _ARRAYS, **levels, **tails)
    names = {
        "part": watch.part,
        "keys": watch.keys,
        "accounts": watch.accounts,
        "platforms": watch.platforms,
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
            levels = Levels(*(stored[f"levels_{f.name}"] for f in fields(Levels)))
            memory = Memory(levels, Tails(stored["series_tails"]), Tails(stored["account_tails"]))
        except KeyError as error:
            raise ModelFormatError(f"{folder / _ARRAYS} lacks an array: {error}. Save the detector again.") from error
    return Watch(
        memory=memory,
        part=names["part"],
        keys=[(account, element) for account, element in names["keys"]],
        accounts=names["accounts"],
        platforms=names["platforms"],
        currencies=names["currencies"],
        last=None if names["last"] is None else pd.Timestamp(names["last"]),
        metric_episodes={(a, m): _episode(e) for a, m, e in names["metric_episodes"]},
        account_episodes={a: _episode(e) for a, e in names["account_episodes"]},
    )


def _plain(episode: Episode) -> dict[str, Any]:
    return asdict(episode) | {"first": episode.first.isoformat(), "last": episode.last.isoformat()}


def _episode(plain: dict[str, Any]) -> Episode:
    return Episode(pd.Timestamp(plain["first"]), pd.Timestamp(plain["last"]), plain["direction"])
