"""What can be asked of the simulated agency, and the seeded random streams that everything is drawn from.

Nothing here knows an ad or a rate.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import zlib
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import cast

import numpy as np

from within_ml.errors import InputError, shown

KNOWN_PLATFORMS = ("google", "meta", "tiktok")
"""Platforms that the simulation has base rates and prices for."""

CHURN_MODELS = ("planned", "hazard")
"""How accounts come to leave: on a day drawn beforehand, or by a weekly hazard that follows from their performance."""

MAX_DAYS = 3660
MAX_ACCOUNTS = 100_000
REGIONS = 50
"""States that a campaign can be shown in."""


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """An agency to simulate; the same configuration gives the same bytes.

    Rows of ``ad_performance`` are about ``accounts × campaigns_per_account × ads_per_campaign × regions_per_campaign``
    a day.

    Parameters
    ----------
    accounts : int
        Client accounts, 1 to 100,000.
    days : int
        Days of performance, 1 to 3,660.
    start_date : date
        First day of performance. Campaigns and accounts may be older.
    seed : int
        Seed of all random streams, 0 or above.
    campaigns_per_account : int
        Mean number of campaigns that an account runs at a time.
    ads_per_campaign : int
        Number of ads that a campaign runs at a time, give or take one.
    regions_per_campaign : int
        States that a campaign targets, 1 to 50.
    platforms : tuple of str
        Some of `KNOWN_PLATFORMS`; the drift hits the first one.
    monthly_budget : float
        Median monthly budget of an account, US dollars.
    new_account_share : float
        Share of the accounts that join during the first two thirds of the days.
    churn_share : float
        Share of the accounts that decline for weeks and leave.
    false_alarm_share : float
        Share of the accounts that decline the same way and recover.
    anomalies : int
        Anomalies to plant; fewer are planted where no campaign has room for another one.
    drift_date : date, optional
        Day from which one platform's level and all themes' appeal differ; by default after two thirds of the days.
    drift_size : float
        Size of the drift on the logit scale; 0 for none.
    text_strength : float
        Factor on what headline words do to the ctr; 0 makes text useless.
    audience_strength : float
        Standard deviation, on the logit scale, of what a theme does to the ctr in one audience beyond what it does in
        all of them; 0 makes all audiences like the same texts.
    unexplained : float
        Standard deviation, on the logit scale, of an ad's quality that neither text nor image tells.
    daily_noise : float
        Standard deviation, on the logit scale, of an ad's true ctr from day to day. It is part of the true ctr.
    weekday_strength : float
        Factor on the weekday effects on the ctr; 0 for none.
    fatigue : float
        Median loss on the logit scale per unit of ``log(1 + age / 14 days)``; 0 for none.
    max_images : int
        Distinct images, at least 1; ads share them.
    churn_model : str
        One of `CHURN_MODELS`. With ``"hazard"`` accounts have ups and downs and leave by what `leaving` says;
        ``churn_share`` and ``false_alarm_share`` then count for nothing.
    bursts : int
        Topics of headlines whose ads are clicked more for some weeks, in all accounts; fewer where too few ads have
        one. 0 for none.

    Raises
    ------
    InputError
        If a value is outside what is said above.

    Examples
    --------
    >>> SimulationConfig(accounts=3, days=30).last_date
    datetime.date(2024, 1, 30)
    >>> SimulationConfig(days=90).drift_day
    60
    """

    accounts: int = 40
    days: int = 180
    start_date: date = date(2024, 1, 1)
    seed: int = 7
    campaigns_per_account: int = 3
    ads_per_campaign: int = 4
    regions_per_campaign: int = 4
    platforms: tuple[str, ...] = KNOWN_PLATFORMS
    monthly_budget: float = 30_000.0
    new_account_share: float = 0.15
    churn_share: float = 0.15
    false_alarm_share: float = 0.10
    anomalies: int = 12
    drift_date: date | None = None
    drift_size: float = 0.30
    text_strength: float = 1.0
    audience_strength: float = 0.15
    unexplained: float = 0.15
    daily_noise: float = 0.05
    weekday_strength: float = 1.0
    fatigue: float = 0.20
    max_images: int = 500
    churn_model: str = "planned"
    bursts: int = 0

    def __post_init__(self) -> None:
        _require_date("start_date", self.start_date)
        for name, low, high in _WHOLE:
            _require_whole(name, getattr(self, name), low, high)
        for name, low_real, high_real in _REAL:
            _require_real(name, getattr(self, name), low_real, high_real)
        self._check_last_date()
        self._check_platforms()
        if self.churn_model not in CHURN_MODELS:
            raise InputError(f"churn_model must be one of {shown(CHURN_MODELS)}; it is {self.churn_model!r}.")
        if self.churn_share + self.false_alarm_share > 1:
            raise InputError(
                "churn_share and false_alarm_share must add up to at most 1; "
                f"they are {self.churn_share!r} and {self.false_alarm_share!r}."
            )
        if self.drift_date is not None:
            _require_date("drift_date", self.drift_date)
            if not self.start_date <= self.drift_date <= self.last_date:
                raise InputError(
                    f"drift_date must lie in the simulated days {self.start_date} to {self.last_date}; "
                    f"it is {self.drift_date}."
                )

    def _check_last_date(self) -> None:
        # A year of room on both sides, since campaigns begin before the first day and end after the last one.
        if not date(2, 1, 1) <= self.start_date <= date(9998, 1, 1) - timedelta(days=self.days):
            raise InputError(f"start_date must leave room in the calendar; it is {self.start_date}.")

    def _check_platforms(self) -> None:
        known = isinstance(self.platforms, tuple) and set(self.platforms) <= set(KNOWN_PLATFORMS)
        if not known or not self.platforms or len(set(self.platforms)) != len(self.platforms):
            raise InputError(
                f"platforms must be a tuple of distinct names among {shown(KNOWN_PLATFORMS)}; it is {self.platforms!r}."
            )

    @property
    def last_date(self) -> date:
        """Last day of performance."""
        return self.start_date + timedelta(days=self.days - 1)

    @property
    def drift_day(self) -> int:
        """Index of the day from which the drift holds; the first day has index 0."""
        return (2 * self.days) // 3 if self.drift_date is None else (self.drift_date - self.start_date).days

    def as_json(self) -> str:
        """Return the configuration as JSON with sorted keys and ISO dates.

        Options that came after the first simulations are told where they are used, so that those keep their print.
        """
        told = dataclasses.asdict(self)
        unused = [name for name, default in _LATER_OPTIONS.items() if told[name] == default]
        return json.dumps({k: v for k, v in told.items() if k not in unused}, sort_keys=True, default=str)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the configuration: two agencies with the same one are the same."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()


_LATER_OPTIONS: dict[str, object] = {"churn_model": "planned", "bursts": 0}

_WHOLE = (
    ("accounts", 1, MAX_ACCOUNTS),
    ("days", 1, MAX_DAYS),
    ("seed", 0, 2**63 - 1),
    ("campaigns_per_account", 1, 100),
    ("ads_per_campaign", 1, 100),
    ("regions_per_campaign", 1, REGIONS),
    ("anomalies", 0, 100_000),
    ("max_images", 1, 100_000),
    ("bursts", 0, 1000),
)

_REAL = (
    ("monthly_budget", 1.0, 1e9),
    ("new_account_share", 0.0, 1.0),
    ("churn_share", 0.0, 1.0),
    ("false_alarm_share", 0.0, 1.0),
    ("drift_size", 0.0, 3.0),
    ("text_strength", 0.0, 5.0),
    ("audience_strength", 0.0, 3.0),
    ("unexplained", 0.0, 3.0),
    ("daily_noise", 0.0, 1.0),
    ("weekday_strength", 0.0, 10.0),
    ("fatigue", 0.0, 3.0),
)


def _require_date(name: str, value: object) -> None:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise InputError(f"{name} must be a datetime.date; it is {value!r}.")


def _require_whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}; it is {value!r}.")


def _require_real(name: str, value: object, low: float, high: float) -> None:
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (real and low <= cast(float, value) <= high):
        raise InputError(f"{name} must be a number from {low} to {high}; it is {value!r}.")


def stream(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """Return the random stream of one purpose.

    Each purpose, and each day of it, has its own stream, so that drawing one never shifts another and any day can be
    drawn without the days before it.

    >>> stream(7, "clicks", 3).integers(1000) == stream(7, "clicks", 3).integers(1000)
    np.True_
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()), index)))
