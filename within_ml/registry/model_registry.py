"""Registered models: registering, listing, selecting and loading versions, and what a backfill uses.

What belongs here: the one class that callers use. What does not: MLflow's calls (`store`), the rules of promotion
(`promotion`), the decision itself (`within_ml.validation.gate`).
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from within_ml.base import BaseMLModel
from within_ml.database.repository import LedgerRepository, PinRepository
from within_ml.errors import InputError, RegistryError, shown
from within_ml.registry.loading import load_model_folder
from within_ml.registry.promotion import (
    ALIASES,
    CHALLENGER,
    CHAMPION,
    Champions,
    GateDecision,
    Promotion,
)
from within_ml.registry.records import Candidate, VersionRecord
from within_ml.registry.store import MlflowStore

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

AS_OF = "as_of"

ALWAYS = dt.date.min.isoformat()
"""First day of a pin that does not depend on the day."""


class ModelRegistry:
    """Registered models, their aliases and the decisions about them.

    Parameters
    ----------
    tracking_uri
        Where MLflow keeps its records: ``postgresql+psycopg2://…`` or the address of an MLflow server.
    ledger
        The ledger of decisions; without one, nothing can be promoted.
    artifact_root
        Folder or URI below which models are kept; None for reading only.
    pins
        The pins of backfills; needed by `pin` only.

    Examples
    --------
    >>> registry = ModelRegistry(getfixture("mlflow_url"))
    >>> registry.aliases("ad_score")
    {}
    >>> registry.resolve("ad_score", "champion")
    Traceback (most recent call last):
    ...
    within_ml.errors.RegistryError: ad_score must have a 'champion'; however, it has the aliases none. ...
    """

    def __init__(
        self,
        tracking_uri: str,
        ledger: LedgerRepository | None = None,
        artifact_root: str | Path | None = None,
        *,
        pins: PinRepository | None = None,
    ) -> None:
        self.ledger = ledger
        self.pins = pins
        self._store = MlflowStore(tracking_uri, None if artifact_root is None else str(artifact_root))
        self._champions = Champions(self._store, ledger)

    def initialize(self, names: Iterable[str] = ()) -> None:
        """Make MLflow's tables and the products' experiments; processes that race wait for each other.

        Raises
        ------
        DatabaseError
            If Postgres does not answer.
        RegistryError
            If MLflow cannot make them.
        """
        _ = self._store.client
        for name in names:
            self._store.ensure_experiment(name)

    def register(
        self,
        model_folder: Path,
        *,
        name: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, object],
        parameters: Mapping[str, object] = MappingProxyType({}),
        report_files: Sequence[Path] = (),
        signature: tuple[pd.DataFrame, NDArray[np.float64]] | None = None,
        pip_requirements: Sequence[str] | None = None,
    ) -> str:
        """Register a saved model and return its version; the same content of the same day is registered once.

        The newest vintage becomes `challenger`: an older one that is registered late, by a backfill, does not.

        Parameters
        ----------
        model_folder
            Folder that `BaseMLModel.save` wrote.
        name
            Registered model, such as ``"ad_score"``.
        metrics
            Numbers to compare versions by.
        tags
            ``as_of`` (the day as of which it was trained, required), ``trained_through``, ``feature_version``,
            versions of the lake's tables, and whatever else explains the version.
        parameters
            Hyperparameters.
        report_files
            Files to keep beside the model.
        signature
            Some rows of input and the model's output for them, from which MLflow learns the columns.
        pip_requirements
            What the model needs to be loaded elsewhere; by default the packages its folder names.

        Raises
        ------
        ModelFormatError
            If the folder is incomplete or altered.
        InputError
            If ``as_of`` is missing or no ISO day.
        RegistryError
            If MLflow refuses.
        """
        candidate = Candidate.read(Path(model_folder), tags)
        with self._champions.exclusive(name):
            version = self._store.find(name, candidate)
            if version is None:
                version = self._store.add(
                    name,
                    candidate,
                    metrics=metrics,
                    parameters=parameters,
                    report_files=report_files,
                    signature=signature,
                    pip_requirements=pip_requirements,
                )
                logger.info("registered %s version %s as of %s", name, version, candidate.tags["as_of"])
            self._make_challenger(name, version)
            self._champions.begin(name)
        return version

    def names(self) -> tuple[str, ...]:
        """Return the names of all registered models."""
        return self._store.names()

    def versions(self, name: str) -> tuple[VersionRecord, ...]:
        """Return all versions of a model, the newest vintage first."""
        return self._store.versions(name)

    def version(self, name: str, selector: str) -> VersionRecord:
        """Return the version that an alias or a number means.

        Raises
        ------
        RegistryError
            If it does not exist.
        """
        return self._store.version(name, self.resolve(name, selector))

    def aliases(self, name: str) -> dict[str, str]:
        """Return alias → version; empty where the model does not exist."""
        return self._store.aliases(name)

    def folder(self, name: str, selector: str) -> Path:
        """Return a local copy of a version's model folder, checked against the hash it was registered with.

        Raises
        ------
        RegistryError
            If the version does not exist.
        ModelFormatError
            If its files were altered.
        """
        return self._store.fetch(name, self.resolve(name, selector))

    def load(self, name: str, selector: str = CHAMPION) -> BaseMLModel:
        """Load a version; its ``model_version`` is the registry's.

        Raises
        ------
        RegistryError
            If the version does not exist.
        ModelFormatError
            If its files were altered, or no class is known for its type.
        """
        version = self.resolve(name, selector)
        model = load_model_folder(self._store.fetch(name, version))
        model.model_version = version
        return model

    def resolve(self, name: str, selector: str, date: dt.date | None = None) -> str:
        """Return the version that a selector means.

        Parameters
        ----------
        name
            Registered model.
        selector
            An alias, a version's number, or ``"as_of"``: the newest vintage of `date`, that is, of the versions whose
            ``as_of`` is not after it the last.
        date
            Day to score; only ``"as_of"`` looks at it.

        Raises
        ------
        RegistryError
            If there is no such version.
        """
        if selector == AS_OF:
            if date is None:
                raise InputError("The selector 'as_of' needs a date; however, none was given.")
            return _at(self._vintages(name), name, date)
        if selector in ALIASES:
            aliases = self.aliases(name)
            if selector not in aliases:
                raise RegistryError(
                    f"{name} must have a {selector!r}; however, it has the aliases {shown(aliases) or 'none'}. "
                    "Train and promote a model first."
                )
            return aliases[selector]
        return self._store.version(name, selector).version

    def pin(self, name: str, selector: str, dates: Sequence[dt.date], backfill_id: str) -> dict[dt.date, str]:
        """Return the version for each day, fixed for all runs of a backfill by the first of them.

        What is fixed holds for any day: a later run of the backfill, with other days, gets versions of the same moment,
        though models were trained or promoted in the meantime.

        Raises
        ------
        RegistryError
            If there is no such version, a day is before the first vintage, or the backfill was pinned with another
            selector.
        """
        if self.pins is None:
            raise RegistryError("Pinning needs the database of pins; however, this registry was opened without.")
        pin = self.pins.get(backfill_id, name)
        if pin is None:
            resolved = self._vintages(name) if selector == AS_OF else {ALWAYS: self.resolve(name, selector)}
            for date in dates:
                # Refused before it is fixed, so that a backfill that starts too early can be started again.
                _at(resolved, name, date)
            pin = self.pins.pin(backfill_id, name, selector=selector, resolved=resolved)
        if pin.selector != selector:
            raise RegistryError(
                f"The backfill {backfill_id!r} uses {pin.selector!r} models of {name} since its first run; however, "
                f"{selector!r} was asked for. Start a new backfill."
            )
        return {date: _at(pin.resolved, name, date) for date in dates}

    def promote(
        self,
        name: str,
        version: str,
        *,
        decision: GateDecision | None,
        reason: str,
        decided_by: str,
        run_id: str | None = None,
    ) -> Promotion:
        """Make a version champion, or record why not.

        Promoting the champion again changes nothing and adds no row. A refusal adds one row per run.

        Parameters
        ----------
        name, version
            What is to be champion.
        decision
            The gate's decision; None where a person decides, whose reason then stands alone in the ledger.
        reason
            Why, in words.
        decided_by
            Who: a person, or the gate.
        run_id
            Run that asked, if any.

        Raises
        ------
        PromotionRefusedError
            If the gate said no, or the gate said yes to a vintage older than the champion: a backfill of training must
            not take production back in time. The refusal is in the ledger, the aliases are as they were.
        RegistryError
            If the version does not exist.
        InputError
            If the reason is blank.
        """
        return self._champions.promote(
            name, version, decision=decision, reason=reason, decided_by=decided_by, run_id=run_id
        )

    def rollback(self, name: str, *, reason: str, decided_by: str, run_id: str | None = None) -> Promotion:
        """Let champion and previous champion change places.

        A rollback that was killed half-way is completed, not undone, by calling again.

        Raises
        ------
        RegistryError
            If there is no previous champion.
        InputError
            If the reason is blank.
        """
        return self._champions.rollback(name, reason=reason, decided_by=decided_by, run_id=run_id)

    def finish(self, name: str) -> bool:
        """Complete a decision whose process was killed after the ledger's row; return whether there was one."""
        return self._champions.finish(name)

    def _make_challenger(self, name: str, version: str) -> None:
        current = self.aliases(name).get(CHALLENGER)
        if current == version:
            return
        if current is None or self._store.version(name, version).age >= self._store.version(name, current).age:
            self._store.set_alias(name, CHALLENGER, version)

    def _vintages(self, name: str) -> dict[str, str]:
        """Return first day → version: of each vintage the version registered last."""
        oldest_first = reversed(self.versions(name))
        return {record.as_of.isoformat(): record.version for record in oldest_first if record.as_of is not None}


def _at(resolved: Mapping[str, str], name: str, date: dt.date) -> str:
    """Read first day → version at a day."""
    earlier = [day for day in resolved if day <= date.isoformat()]
    if not earlier:
        first = min(resolved, default=None)
        raise RegistryError(
            f"{name} must have a version trained as of {date} or before; however, "
            f"{'the first is as of ' + first if first else 'none is registered'}. Train that week first."
        )
    return resolved[max(earlier)]
