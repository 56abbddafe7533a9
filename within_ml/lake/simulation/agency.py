"""The simulated agency: its tables, its days, and the truth about it.

Writing files belongs in `writing`; how rates come about in `process`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from within_ml.errors import InputError
from within_ml.lake.simulation.bursts import bursts_table, plan_bursts
from within_ml.lake.simulation.config import SimulationConfig
from within_ml.lake.simulation.events import plan_drift, plant_anomalies
from within_ml.lake.simulation.leaving import (
    HAZARD_SCHEMA,
    WEEK,
    Leaving,
    hazard_table,
    plan_fortunes,
    plan_leaving,
    with_leaving,
)
from within_ml.lake.simulation.process import MATURE_LAG, Process
from within_ml.lake.simulation.tables import (
    Names,
    accounts_table,
    ads_table,
    anomalies_table,
    campaigns_table,
    churn_table,
    dates,
    effects_table,
    name_everything,
    performance_table,
    regions_table,
    true_ctr_table,
)
from within_ml.lake.simulation.world import World, build_world

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Agency:
    """A simulated agency with known truth, made by `simulate`.

    Attributes
    ----------
    config : SimulationConfig
        What was asked for.
    regions, accounts, campaigns, ads : pyarrow.Table
        Tables in the schemas of their contracts, in their final state. ``accounts.churned_date`` is known on that day
        only: a model must not see it before, `dimensions` with ``as_of`` hides it.
    anomalies, churn, effects : pyarrow.Table
        Truth: planted anomalies, accounts that decline, effects on the logit of the true ctr.
    process : Process
        The arithmetic of a day.
    names : Names
        Ids of all entities.
    hazards : pyarrow.Table
        Truth with ``churn_model="hazard"``: each account's weekly hazard of leaving and what drives it,
        `HAZARD_SCHEMA`; otherwise empty.
    bursts : pyarrow.Table
        Truth: topics that burst, `BURST_SCHEMA`.

    Examples
    --------
    >>> agency = simulate(SimulationConfig(accounts=2, days=3))
    >>> agency.accounts.num_rows, [day.column("date")[0].as_py().day for day in agency.performance()]
    (2, [1, 2, 3])
    """

    config: SimulationConfig
    regions: pa.Table
    accounts: pa.Table
    campaigns: pa.Table
    ads: pa.Table
    anomalies: pa.Table
    churn: pa.Table
    effects: pa.Table
    process: Process
    names: Names
    hazards: pa.Table
    bursts: pa.Table

    @property
    def drift_date(self) -> date:
        """First day on which the drift holds."""
        return date.fromordinal(self.config.start_date.toordinal() + self.config.drift_day)

    def performance(
        self,
        *,
        first: date | None = None,
        last: date | None = None,
        as_of: date | None = None,
        days_per_chunk: int = 1,
    ) -> Iterator[pa.Table]:
        """Yield ``ad_performance`` in date order, ``days_per_chunk`` days at a time; memory stays that of one chunk.

        Parameters
        ----------
        first, last : date, optional
            Days wanted, both inclusive; by default all.
        as_of : date, optional
            Give what was known at the end of this day: no later days, and only the conversions (and their revenue)
            that had arrived by then. By default all conversions, as they are when mature.
        days_per_chunk : int
            Days per table; it does not change the rows.

        Raises
        ------
        InputError
            If the days are not days of the simulation, or ``days_per_chunk`` is below 1.
        """
        span = self._span(first, last)
        if as_of is not None:
            known = self._day("as_of", as_of)
            span = range(span.start, min(span.stop, known + 1))
        return _chunks(
            (self._performance(day, MATURE_LAG if as_of is None else min(known - day, MATURE_LAG)) for day in span),
            days_per_chunk,
        )

    def true_ctr(
        self, *, first: date | None = None, last: date | None = None, days_per_chunk: int = 1
    ) -> Iterator[pa.Table]:
        """Yield the true rates per date × ad in date order, ``days_per_chunk`` days at a time, as `TRUE_CTR_SCHEMA`.

        ``true_ctr`` is the probability that an impression of the ad on that day is clicked, the mean over its regions
        weighted by impressions; ``true_cvr`` the probability that a click converts.

        Raises
        ------
        InputError
            As in `performance`.
        """
        return _chunks((self._true_ctr(day) for day in self._span(first, last)), days_per_chunk)

    def dimensions(self, *, as_of: date | None = None) -> dict[str, pa.Table]:
        """Return regions, accounts, campaigns and ads by name, as known at the end of ``as_of`` (by default: finally).

        Raises
        ------
        InputError
            If ``as_of`` is not a day of the simulation.
        """
        tables = {"regions": self.regions, "accounts": self.accounts, "campaigns": self.campaigns, "ads": self.ads}
        if as_of is None:
            return tables
        self._day("as_of", as_of)
        accounts = self.accounts.filter(pc.field("onboarded_date") <= as_of)
        churned = accounts.column("churned_date")
        told = pc.if_else(pc.less_equal(churned, as_of), churned, pa.scalar(None, pa.date32()))
        place = accounts.schema.get_field_index("churned_date")
        tables["accounts"] = accounts.set_column(place, accounts.schema.field(place), told)
        ads = self.ads.filter(pc.field("valid_from") <= as_of)
        tables["ads"] = ads
        known = pc.is_in(self.campaigns.column("campaign_id"), value_set=pc.unique(ads.column("campaign_id")))
        tables["campaigns"] = self.campaigns.filter(known)
        return tables

    def _performance(self, day: int, lag: int) -> pa.Table:
        cells = self.process.cells(day)
        return performance_table(self.process.world, self.names, day, cells, self.process.facts(cells, day, lag))

    def _true_ctr(self, day: int) -> pa.Table:
        rates = self.process.true_rates(self.process.cells(day))
        return true_ctr_table(self.process.world, self.names, day, rates)

    def _span(self, first: date | None, last: date | None) -> range:
        start = 0 if first is None else self._day("first", first)
        stop = self.config.days if last is None else self._day("last", last) + 1
        if start >= stop:
            raise InputError(f"first must not be after last; they are {first} and {last}.")
        return range(start, stop)

    def _day(self, name: str, value: date) -> int:
        config = self.config
        if isinstance(value, datetime) or not config.start_date <= value <= config.last_date:
            raise InputError(f"{name} must be a date from {config.start_date} to {config.last_date}; it is {value!r}.")
        return (value - config.start_date).days


def _chunks(days: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    if size < 1:
        raise InputError(f"days_per_chunk must be at least 1; it is {size!r}.")
    return _grouped(days, size)


def _grouped(days: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    batch: list[pa.Table] = []
    for table in days:
        batch.append(table)
        if len(batch) == size:
            yield pa.concat_tables(batch).combine_chunks()
            batch = []
    if batch:
        yield pa.concat_tables(batch).combine_chunks()


def simulate(config: SimulationConfig | None = None) -> Agency:
    """Return the agency that a configuration describes; days are drawn when they are asked for.

    Examples
    --------
    >>> simulate(SimulationConfig(accounts=2, days=3, seed=1)).ads.column("ad_id")[0].as_py()
    'ad-0000001'
    """
    config = SimulationConfig() if config is None else config
    world = build_world(config)
    names = name_everything(world)
    process, leaving = _process(world)
    world = process.world
    return Agency(
        config=config,
        regions=regions_table(),
        accounts=accounts_table(world, names),
        campaigns=_begun(campaigns_table(world, names), world.campaigns.start, world.campaigns.account, world),
        ads=_begun(ads_table(world, names), world.ads.start, world.campaigns.account[world.ads.campaign], world),
        anomalies=anomalies_table(world, names, process.anomalies),
        churn=churn_table(world, names),
        effects=effects_table(world, names, process.drift),
        process=process,
        names=names,
        hazards=_hazards(world, names, leaving),
        bursts=bursts_table(process.bursts, partial(dates, world)),
    )


def _process(world: World) -> tuple[Process, Leaving | None]:
    """Plan the days, and who leaves if that follows from them."""
    process = Process(world, plant_anomalies(world), plan_drift(world.config), bursts=plan_bursts(world))
    if world.config.churn_model == "planned":
        return process, None
    process = replace(process, fortunes=plan_fortunes(world.config))
    leaving = plan_leaving(process)
    seen = tuple(a for a in process.anomalies if a.end < leaving.left[a.account])
    return replace(process, world=with_leaving(world, leaving), anomalies=seen), leaving


def _begun(table: pa.Table, start: Ints, account: Ints, world: World) -> pa.Table:
    """Leave out what would have begun after its account had left."""
    begins = start < world.accounts.churned[account]
    return table if begins.all() else table.filter(pa.array(begins))


def _hazards(world: World, names: Names, leaving: Leaving | None) -> pa.Table:
    if leaving is None:
        return HAZARD_SCHEMA.empty_table()
    first_days = dates(world, WEEK * np.arange(leaving.hazard.shape[1]))
    return hazard_table(leaving, names.account, first_days)
