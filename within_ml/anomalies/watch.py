"""The running state of the watch over all accounts, and its way from one panel of days to judged nights.

What a night computes stands in `nights`; here is who is who: series and accounts by name, the calendar, and episodes,
so that the days of one anomaly have one id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.anomalies.creatives import AdDay
from within_ml.anomalies.joint import JointNights
from within_ml.anomalies.nights import Layout, Memory, Night, change_currency, judge, take_in
from within_ml.anomalies.panel import Panel
from within_ml.errors import InputError

Floats = NDArray[np.float64]

PAUSE_DAYS = 2
"""An anomaly that is gone for at most this many days and comes back is the same one."""


@dataclass(slots=True)
class Episode:
    """An anomaly that lasts: of an account's metric, or of an account (then without direction)."""

    first: pd.Timestamp
    last: pd.Timestamp
    direction: str


@dataclass(frozen=True, slots=True, eq=False)
class JudgedNight:
    """A night with its names: ``facts`` of shape (5, n); the first n series and accounts of the watch took part."""

    date: pd.Timestamp
    layout: Layout
    facts: Floats
    night: Night


@dataclass(slots=True)
class Watch:
    """All that the next night needs.

    Attributes
    ----------
    memory : Memory
        Levels and tails.
    part : str or None
        Dimension of the parts of accounts.
    keys, accounts, platforms : list
        Series by (account_id, element) and accounts, in order of their first day; the platform of each series.
    ads : dict
        Number of each ad by (number of its series, ad_id).
    joint : JointNights
        Recent nights' residuals for the cross-section.
    last : Timestamp or None
        Newest day taken in.
    metric_episodes, account_episodes : dict
        By (account_id, metric), and by account_id.
    """

    memory: Memory = field(default_factory=Memory.empty)
    part: str | None = None
    keys: list[tuple[str, str]] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    platforms: list[str] = field(default_factory=list)
    ads: dict[tuple[int, str], int] = field(default_factory=dict)
    currencies: list[str] = field(default_factory=list)
    last: pd.Timestamp | None = None
    joint: JointNights = field(default_factory=JointNights)
    metric_episodes: dict[tuple[str, str], Episode] = field(default_factory=dict)
    account_episodes: dict[str, Episode] = field(default_factory=dict)

    def run(self, panel: Panel, *, level: float, window: int) -> Iterator[JudgedNight]:
        """Judge the panel's days one after another and learn each of them.

        Raises
        ------
        InputError
            If the panel begins before the watch's last day has ended, or splits accounts in another way.
        """
        self._check(panel)
        place, ready = self._join(panel)
        whole = self._layout(len(self.keys))
        for index, date in enumerate(panel.days):
            n = int(ready[index])
            facts = np.full((panel.facts.shape[1], n), np.nan)
            now = place < n
            facts[:, place[now]] = panel.facts[index][:, now]
            layout = whole.until(n)
            ads = self._ads(panel, index, place, n)
            self.memory.grow(layout, int(ads.ad.max(initial=-1)) + 1 if ads else 0)
            if panel.currency[index]:
                self._take_currency(panel.currency[index], layout)
            weekday = int(date.day_of_week)
            night = judge(self.memory, layout, facts, weekday, level, ads)
            yield JudgedNight(date, layout, facts, night)
            take_in(self.memory, layout, night, facts, weekday, window, ads)
            self.last = date

    def look(self, panel: Panel, level: float) -> Night:
        """Judge one day of known accounts as if it came next, and learn nothing; new parts have no baseline.

        Raises
        ------
        InputError
            If the panel splits accounts in another way.
        """
        if panel.part != self.part:
            raise InputError(_other_part(self.part, panel.part))
        place = {key: index for index, key in enumerate(self.keys)}
        n = self.memory.levels.size
        facts = np.full((panel.facts.shape[1], n), np.nan)
        for column, key in enumerate(panel.keys):
            if key in place:
                facts[:, place[key]] = panel.facts[0][:, column]
        places = np.array([place.get(key, n) for key in panel.keys], dtype=np.int64)
        ads = self._known_ads(panel, places, n) if panel.ad_days else None
        return judge(self.memory, self._layout(n), facts, int(panel.days[0].day_of_week), level, ads)

    def _ads(self, panel: Panel, index: int, place: NDArray[np.int64], n: int) -> AdDay | None:
        """Return a day's ads by their number in the watch, the new ones appended."""
        if not panel.ad_days:
            return None
        day = panel.ad_days[index]
        owner = place[day.series]
        numbers = np.empty(len(day.ad), dtype=np.int64)
        for row, (ad, series) in enumerate(zip(day.ad.tolist(), owner.tolist(), strict=True)):
            numbers[row] = self.ads.setdefault((series, panel.ads[ad][1]), len(self.ads))
        return AdDay(numbers, owner, day.impressions, day.clicks)

    def _known_ads(self, panel: Panel, place: NDArray[np.int64], n: int) -> AdDay:
        day = panel.ad_days[0]
        owner = place[day.series]
        number = np.array(
            [self.ads.get((s, panel.ads[a][1]), -1) for a, s in zip(day.ad.tolist(), owner.tolist(), strict=True)],
            dtype=np.int64,
        )
        # Unknown ads are expected at the rate of their series: any number without a level says so.
        self.memory.creatives.grow(len(self.ads) + 1)
        number = np.where(number < 0, len(self.ads), number)
        kept = owner < n
        return AdDay(number[kept], owner[kept], day.impressions[kept], day.clicks[kept])

    def _layout(self, n: int) -> Layout:
        accounts = {name: index for index, name in enumerate(self.accounts)}
        account = np.array([accounts[name] for name, _ in self.keys[:n]], dtype=np.int64)
        peers = pd.factorize(np.array(self.platforms[:n], dtype=object))[0].astype(np.int64)
        return Layout(account, int(account.max(initial=-1)) + 1, peers, self.part is not None)

    def episode(self, account: str, metric: str, date: pd.Timestamp, direction: str) -> tuple[str, str]:
        """Return the ids of the anomaly and of the account's event that a flagged value belongs to."""
        event = _continued(self.account_episodes, account, date, "")
        anomaly = _continued(self.metric_episodes, (account, metric), date, direction)
        return (
            _identity(account, metric, str(anomaly.first.date()), anomaly.direction),
            _identity(account, "event", str(event.first.date())),
        )

    def _check(self, panel: Panel) -> None:
        if self.last is not None and len(panel.days) and panel.days[0] <= self.last:
            raise InputError(
                f"New days must come after {self.last.date()}, the baseline's last day, however they begin with "
                f"{panel.days[0].date()}. Detect over the whole history to take restated days in."
            )
        if self.keys and panel.keys and panel.part != self.part:
            raise InputError(_other_part(self.part, panel.part))

    def _join(self, panel: Panel) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Append the panel's new series; return their places, and how many series there are on each day."""
        if not self.keys:
            self.part = panel.part
        known = {key: index for index, key in enumerate(self.keys)}
        old = len(self.keys)
        born = []
        for key, platform, first in zip(panel.keys, panel.platforms, panel.first.tolist(), strict=True):
            if key not in known:
                known[key] = len(self.keys)
                self.keys.append(key)
                self.platforms.append(platform)
                born.append(first)
        seen = set(self.accounts)
        for name, _ in self.keys[old:]:
            if name not in seen:
                seen.add(name)
                self.accounts.append(name)
        place = np.array([known[key] for key in panel.keys], dtype=np.int64)
        ready = old + np.searchsorted(np.array(born, dtype=np.int64), np.arange(len(panel.days)), side="right")
        return place, ready

    def _take_currency(self, told: dict[str, str], layout: Layout) -> None:
        codes = {name: code for code, name in enumerate(self.currencies)}
        currency = np.full(layout.accounts, -1.0)
        for index, account in enumerate(self.accounts[: layout.accounts]):
            if account in told:
                if told[account] not in codes:
                    codes[told[account]] = len(self.currencies)
                    self.currencies.append(told[account])
                currency[index] = codes[told[account]]
        change_currency(self.memory, layout, currency)


def _other_part(mine: str | None, theirs: str | None) -> str:
    return (
        f"The baseline watches accounts by {mine or 'nothing but account_id'}, however the new rows are by "
        f"{theirs or 'nothing but account_id'}. Give the same columns every night."
    )


def _continued(episodes: dict[Any, Episode], key: Any, date: pd.Timestamp, direction: str) -> Episode:
    episode = episodes.get(key)
    if (
        episode is None
        or episode.direction != direction
        or (date - episode.last).days > PAUSE_DAYS + 1
        or date < episode.first
    ):
        episode = episodes[key] = Episode(date, date, direction)
    episode.last = date
    return episode


def _identity(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
