"""Who is champion: promotion through the gate or by a person, refusal, rollback.

What belongs here: the rules by which aliases move, and the order that survives a crash. What does not: MLflow's calls
(`store`) and the decision itself (`within_ml.validation.gate`).

Aliases are MLflow's, decisions are rows of the ledger, and no transaction spans both. So the ledger's row comes first,
as the intent; then the aliases; then a tag on the registered model names the last row that the aliases follow. A
process killed in between leaves the old champion in place, and the next decision, or `ModelRegistry.finish`, first
completes what the ledger says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from within_ml.database.repository import Decision, LedgerRepository
from within_ml.database.urls import exclusive
from within_ml.errors import InputError, PromotionRefusedError, RegistryError, shown
from within_ml.registry.records import VersionRecord
from within_ml.registry.store import MlflowStore

logger = logging.getLogger(__name__)

CHALLENGER = "challenger"
CHAMPION = "champion"
PREVIOUS_CHAMPION = "previous_champion"
ALIASES = (CHALLENGER, CHAMPION, PREVIOUS_CHAMPION)

DECISION_TAG = "ledger_id"
"""Tag of the registered model: the last row of the ledger that its aliases follow."""


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


class Champions:
    """The champions of a store of models, moved only together with the ledger.

    >>> champions = Champions(MlflowStore(getfixture("mlflow_url"), None), None)
    >>> champions.finish("ad_score")
    Traceback (most recent call last):
    ...
    within_ml.errors.RegistryError: Decisions need the ledger; ...
    """

    def __init__(self, store: MlflowStore, ledger: LedgerRepository | None) -> None:
        self.ledger = ledger
        self._store = store

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Let one process at a time change a model; the others wait."""
        url = self.ledger.url if self.ledger is not None else self._store.tracking_uri
        if not url.startswith("postgresql"):
            yield
            return
        with exclusive(url, f"registry {name}"):
            yield

    def begin(self, name: str) -> None:
        """Note that a newly registered model starts without decisions."""
        if self.ledger is None or DECISION_TAG in self._store.tags(name):
            return
        # Rows that are older than the registered model speak of another one, that was deleted.
        latest = self.ledger.decisions(name, limit=1)
        self._store.set_tag(name, DECISION_TAG, str(latest[0].id) if latest else "0")

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
        """Make a version champion, or record why not; see `ModelRegistry.promote`."""
        ledger = self._need_ledger()
        _need_reason(reason)
        with self.exclusive(name):
            candidate = self._store.version(name, version)
            self._finish(name)
            champion = self._store.aliases(name).get(CHAMPION)
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
                return Promotion(name, version, self._store.aliases(name).get(PREVIOUS_CHAMPION), changed=False)
            row = ledger.append(
                name, version, "promote", from_version=champion, reason=reason, decided_by=decided_by, run_id=run_id,
                report=report,
            )  # fmt: skip
            self._follow(row)
        return Promotion(name, version, champion, changed=True)

    def rollback(self, name: str, *, reason: str, decided_by: str, run_id: str | None = None) -> Promotion:
        """Let champion and previous champion change places; see `ModelRegistry.rollback`."""
        ledger = self._need_ledger()
        _need_reason(reason)
        with self.exclusive(name):
            finished = self._finish(name)
            if finished is not None and finished.action == "rollback":
                return Promotion(name, finished.version, finished.from_version, changed=True)
            aliases = self._store.aliases(name)
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
        """Complete a decision whose process was killed; see `ModelRegistry.finish`."""
        self._need_ledger()
        with self.exclusive(name):
            return self._finish(name) is not None

    # --- decisions and aliases; all below runs in one process at a time ---

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
        if previous is not None or PREVIOUS_CHAMPION in self._store.aliases(name):
            self._store.set_alias(name, PREVIOUS_CHAMPION, previous)
        self._store.set_alias(name, CHAMPION, row.version)
        self._store.set_tag(name, DECISION_TAG, str(row.id))
        logger.info("%s: champion of %s is version %s, before %s", row.action, name, row.version, previous)

    def _objections(
        self, candidate: VersionRecord, champion: str | None, decision: GateDecision | None
    ) -> tuple[str, ...]:
        if decision is None:
            return ()
        if not decision.approved:
            return tuple(reason.rstrip(".") for reason in decision.reasons) or ("no reason given",)
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


def _need_reason(reason: str) -> None:
    if not reason.strip():
        raise InputError("A decision needs a reason; however, it is blank. Say why, for those who read the ledger.")
