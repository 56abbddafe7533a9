"""The life of a registered model: challenger, champion, previous champion; who decided, and what a backfill uses.

What belongs here: the rules of promotion, rollback and selection. What does not: MLflow's calls (`store`), the decision
itself (`within_ml.validation.gate`), loading (`loading`).

Aliases are MLflow's, decisions are rows of the ledger, and no transaction spans both. So the ledger's row comes first,
as the intent; then the aliases; then a tag on the registered model names the last row that the aliases follow. A
process killed in between leaves the old champion in place, and the next decision, or `ModelRegistry.finish`, first
completes what the ledger says.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from within_ml.base import BaseMLModel
from within_ml.database.repository import Decision, LedgerRepository, PinRepository
from within_ml.database.urls import exclusive
from within_ml.errors import InputError, PromotionRefusedError, RegistryError, shown
from within_ml.registry.loading import load_model_folder
from within_ml.registry.store import Candidate, MlflowStore, VersionRecord

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

CHALLENGER = "challenger"
CHAMPION = "champion"
PREVIOUS_CHAMPION = "previous_champion"
ALIASES = (CHALLENGER, CHAMPION, PREVIOUS_CHAMPION)
AS_OF = "as_of"

DECISION_TAG = "ledger_id"
"""Tag of the registered model: the last row of the ledger that its aliases follow."""

ALWAYS = dt.date.min.isoformat()
"""First day of a pin that does not depend on the day."""


class GateDecision(Protocol):
    """What a promotion gate returns, as far as the registry looks at it."""

    @property
    def approved(self) -> bool:
        """Whether the challenger may become champion."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, or why not."""

    def to_dict(self) -> dict[str, object]:
        """Return the whole decision as JSON values."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """The champion after a decision, and the one before; ``changed`` is False where it was champion already."""

    name: str
    version: str
    previous_version: str | None
    changed: bool


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
        with self._exclusive(name):
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
            if self.ledger is not None and DECISION_TAG not in self._store.tags(name):
                # Rows that are older than the registered model speak of another one, that was deleted.
                latest = self.ledger.decisions(name, limit=1)
                self._store.set_tag(name, DECISION_TAG, str(latest[0].id) if latest else "0")
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
        ledger = self._need_ledger()
        _need_reason(reason)
        with self._exclusive(name):
            candidate = self._store.version(name, version)
            self._finish(name)
            champion = self.aliases(name).get(CHAMPION)
            objections = self._objections(candidate, champion, decision)
            report = None if decision is None else decision.to_dict()
            if objections:
                said = f"{reason}: {'; '.join(objections)}"
                if not self._is_refused(name, version, run_id):
                    ledger.append(
                        name, version, "refuse", from_version=champion, reason=said, decided_by=decided_by,
                        run_id=run_id, report=report,
                    )  # fmt: skip
                raise PromotionRefusedError(
                    f"{name} version {version} must pass the gate to become champion; however: "
                    f"{'; '.join(objections)}. The champion stays {champion or 'none'}."
                )
            if champion == version:
                return Promotion(name, version, self.aliases(name).get(PREVIOUS_CHAMPION), changed=False)
            row = ledger.append(
                name, version, "promote", from_version=champion, reason=reason, decided_by=decided_by, run_id=run_id,
                report=report,
            )  # fmt: skip
            self._follow(row)
        return Promotion(name, version, champion, changed=True)

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
        ledger = self._need_ledger()
        _need_reason(reason)
        with self._exclusive(name):
            finished = self._finish(name)
            if finished is not None and finished.action == "rollback":
                return Promotion(name, finished.version, finished.from_version, changed=True)
            aliases = self.aliases(name)
            champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS_CHAMPION)
            if previous is None:
                raise RegistryError(
                    f"A rollback needs a previous champion; however, {name} has the aliases "
                    f"{shown(aliases) or 'none'}. Promote another version instead."
                )
            row = ledger.append(
                name, previous, "rollback", from_version=champion, reason=reason, decided_by=decided_by, run_id=run_id
            )
            self._follow(row)
        return Promotion(name, previous, champion, changed=True)

    def finish(self, name: str) -> bool:
        """Complete a decision whose process was killed after the ledger's row; return whether there was one."""
        self._need_ledger()
        with self._exclusive(name):
            return self._finish(name) is not None

    # --- decisions and aliases; all below runs in one process at a time ---

    @contextmanager
    def _exclusive(self, name: str) -> Iterator[None]:
        url = self.ledger.url if self.ledger is not None else self._store.tracking_uri
        if not url.startswith("postgresql"):
            yield
            return
        with exclusive(url, f"registry {name}"):
            yield

    def _finish(self, name: str) -> Decision | None:
        ledger = self._need_ledger()
        done = self._store.tags(name).get(DECISION_TAG)
        pending = next((row for row in ledger.decisions(name) if row.action != "refuse"), None)
        if done is None or pending is None or pending.id <= int(done):
            return None
        logger.warning("completing %s of %s to version %s", pending.action, name, pending.version)
        self._follow(pending)
        return pending

    def _follow(self, row: Decision) -> None:
        """Make the aliases what a row of the ledger says; doing it twice is doing it once."""
        name = row.model_name
        previous = None if row.from_version == row.version else row.from_version
        if previous is not None or PREVIOUS_CHAMPION in self.aliases(name):
            self._store.set_alias(name, PREVIOUS_CHAMPION, previous)
        self._store.set_alias(name, CHAMPION, row.version)
        self._store.set_tag(name, DECISION_TAG, str(row.id))
        logger.info("%s: champion of %s is version %s, before %s", row.action, name, row.version, previous)

    def _make_challenger(self, name: str, version: str) -> None:
        current = self.aliases(name).get(CHALLENGER)
        if current == version:
            return
        if current is None or self._store.version(name, version).age >= self._store.version(name, current).age:
            self._store.set_alias(name, CHALLENGER, version)

    def _objections(
        self, candidate: VersionRecord, champion: str | None, decision: GateDecision | None
    ) -> tuple[str, ...]:
        if decision is None:
            return ()
        if not decision.approved:
            return tuple(decision.reasons) or ("no reason given",)
        if champion is None or champion == candidate.version:
            return ()
        ruling = self._store.version(candidate.name, champion)
        if ruling.as_of is not None and candidate.as_of is not None and candidate.as_of < ruling.as_of:
            return (f"its data end as of {candidate.as_of}, before those of the champion, as of {ruling.as_of}",)
        return ()

    def _is_refused(self, name: str, version: str, run_id: str | None) -> bool:
        last = next(iter(self._need_ledger().decisions(name, limit=1)), None)
        if run_id is None or last is None:
            return False
        return (last.action, last.version, last.run_id) == ("refuse", version, run_id)

    def _need_ledger(self) -> LedgerRepository:
        if self.ledger is None:
            raise RegistryError("Decisions need the ledger; however, this registry was opened without. Give its URL.")
        return self.ledger

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


def _need_reason(reason: str) -> None:
    if not reason.strip():
        raise InputError("A decision needs a reason; however, it is blank. Say why, for those who read the ledger.")
