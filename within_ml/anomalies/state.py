"""The watch as files: arrays in ``watch.npz``, names in ``watch.json``; the last report in ``found.json``."""

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
from within_ml.anomalies.joint import JointNights
from within_ml.anomalies.nights import Axis, Memory
from within_ml.anomalies.records import ANOMALY_COLUMNS, EVENT_COLUMNS
from within_ml.anomalies.runs import Runs
from within_ml.anomalies.watch import Episode, Watch
from within_ml.errors import ModelFormatError

_ARRAYS, _NAMES, _FOUND = "watch.npz", "watch.json", "found.json"
_NUMBERS = {"value", "expected", "lower", "upper", "size", "cross_section_score"}


def write_watch(watch: Watch, folder: Path) -> None:
    """Write the watch into a folder."""
    memory = watch.memory
    arrays = {f"levels_{f.name}": getattr(memory.levels, f.name) for f in fields(Levels)}
    arrays |= {f"creatives_{f.name}": getattr(memory.creatives, f.name) for f in fields(Creatives)}
    for name, axis in (("series", memory.series), ("accounts", memory.accounts)):
        arrays |= {f"{name}_tails": axis.tails.counts, f"{name}_run_tails": axis.run_tails.counts}
        arrays |= {f"{name}_runs_{f.name}": getattr(axis.runs, f.name) for f in fields(Runs)}
    arrays |= {f"joint_{number}": rows for number, rows in enumerate(watch.joint.nights)}
    np.savez_compressed(folder / _ARRAYS, **arrays)
    names = {
        "part": watch.part,
        "keys": watch.keys,
        "accounts": watch.accounts,
        "platforms": watch.platforms,
        "ads": list(watch.ads),
        "currencies": watch.currencies,
        "joint_dates": watch.joint.dates,
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
            nights = [stored[f"joint_{number}"] for number in range(len(names["joint_dates"]))]
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
        joint=JointNights(names["joint_dates"], nights),
        last=None if names["last"] is None else pd.Timestamp(names["last"]),
        metric_episodes={(a, m): _episode(e) for a, m, e in names["metric_episodes"]},
        account_episodes={a: _episode(e) for a, e in names["account_episodes"]},
    )


def write_found(anomalies: pd.DataFrame, events: pd.DataFrame, folder: Path) -> None:
    """Write what was found last into a folder."""
    found = {"anomalies": _rows(anomalies), "events": _rows(events)}
    (folder / _FOUND).write_text(json.dumps(found), encoding="utf-8")


def read_found(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Read what `write_found` wrote; None where there is nothing."""
    if not (folder / _FOUND).is_file():
        return None
    found = json.loads((folder / _FOUND).read_text(encoding="utf-8"))
    return _frame(found["anomalies"], ANOMALY_COLUMNS), _frame(found["events"], EVENT_COLUMNS)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    plain = frame.assign(date=frame["date"].dt.strftime("%Y-%m-%dT%H:%M:%S"))
    return [
        {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}
        for row in plain.to_dict("records")
    ]


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(columns))
    frame["date"] = pd.to_datetime(frame["date"]).astype("datetime64[us]")
    return frame.astype(dict.fromkeys(_NUMBERS & set(columns), "float64"))


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
