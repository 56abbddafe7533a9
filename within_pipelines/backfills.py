"""What the command line asks of a backfill and of an ingestion, as runs of the asset graph."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from within_ml.errors import InputError, shown
from within_ml.lake.landing import PERFORMANCE, unfinished_files
from within_ml.lake.landing import TABLE as LEDGER
from within_ml.lake.store import LakeStore
from within_ml.registry.promotion import CHAMPION
from within_pipelines.runs import Progress, Runner, Selection

NARROWED = (
    "ad_features",
    "account_features",
    "ad_scores",
    "ad_score_analysis",
    "published_scores",
    "published_analysis",
    "account_health",
    "published_health",
)
"""Assets of which a backfill can replace single accounts' or campaigns' rows."""

_NO_CAMPAIGNS = ("account_features", "account_health", "published_health")
_MODELS = ("ad_scores", "account_health")
"""Assets whose model can be chosen."""


def backfill_config(
    selection: Selection, *, model: str, accounts: Sequence[str], campaigns: Sequence[str], first: date
) -> dict[str, dict[str, Any]]:
    """The configuration of each asset of a backfill.

    Raises
    ------
    InputError
        If rows are narrowed and an asset cannot be.
    """
    chosen = [*selection.unpartitioned, *selection.daily, *selection.weekly]
    fixed = [name for name in chosen if name not in NARROWED]
    if (accounts or campaigns) and fixed:
        raise InputError(
            f"--account and --campaign narrow {', '.join(NARROWED)}, however {shown(fixed)} was selected too; "
            "select only the former."
        )
    whole = [name for name in chosen if name in _NO_CAMPAIGNS]
    if campaigns and whole:
        raise InputError(f"{whole[0]} has one row per account, however --campaign was given; select it without.")
    narrowing = {"accounts": list(accounts), "campaigns": list(campaigns)}
    config: dict[str, dict[str, Any]] = {name: dict(narrowing) for name in chosen if name in NARROWED}
    # A number is a version of one product: of the ad score, where both are made.
    numbered = next((name for name in _MODELS if name in config), "")
    for name in _MODELS:
        if name in config:
            # All runs of this backfill share the models that its first run resolves.
            selector = model if name == numbered or not model.isdigit() else CHAMPION
            config[name] |= {"model": selector, "backfill_id": f"{first}-{uuid.uuid4()}"}
    return config


def check_narrowing(store: LakeStore, *, accounts: Sequence[str], campaigns: Sequence[str]) -> None:
    """Check that the lake knows the accounts and campaigns that a backfill is narrowed to.

    Raises
    ------
    InputError
        If it does not know one, or a campaign is of none of the accounts.
    """
    known = set(store.read("accounts", columns=["account_id"])["account_id"].to_pylist())
    _require_known("--account", "accounts", accounts, known)
    of_accounts = {"account_id": list(accounts)} if accounts else {}
    found = store.read("campaigns", of_accounts, columns=["campaign_id"])["campaign_id"].to_pylist()
    _require_known("--campaign", "campaigns" + (" of these accounts" if accounts else ""), campaigns, set(found))


def _require_known(option: str, what: str, given: Sequence[str], known: set[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(
            f"{option} must name {what} in the lake ({shown(sorted(known)) or 'there are none'}), however "
            f"{shown(unknown)} came; ingest their export first, or correct the id."
        )


@dataclass(frozen=True, slots=True)
class Landed:
    """What an ingestion did, as a sentence for people."""

    new_files: int
    days: int
    rejected: int

    @property
    def sentence(self) -> str:
        """The sentence."""
        if not self.days:
            return "Nothing to do: these contents were ingested before."
        quarantine = f"; {self.rejected:,} rows went to quarantine, see within lake quarantine" if self.rejected else ""
        return f"{self.new_files} new files, {self.days} days of {PERFORMANCE}{quarantine}."


def ingest_landed(
    runner: Runner,
    files: Sequence[tuple[str, str]],
    *,
    store: LakeStore,
    progress: Progress = lambda what, done, total: None,
) -> Landed:
    """Register files (path below the landing zone, source), all that have landed where none is named; make their days.

    Days that an interrupted ingestion left undone are made too.
    """
    progress("landing_files", 0, 1)
    configs: list[dict[str, Any]] = [
        {"paths": [p for p, s in files if s == source], "source": source} for source in sorted({s for _, s in files})
    ] or [{}]
    told = [
        runner.materialize(["landing_files"], config={"landing_files": c}).metadata["landing_files"] for c in configs
    ]
    runner.materialize(runner.select("ads,campaigns,accounts,regions").unpartitioned)
    changed = [
        (date.fromisoformat(t["first_changed_date"]), date.fromisoformat(t["last_changed_date"]))
        for t in told
        if t["first_changed_date"]
    ]
    named = {path for path, _ in files}
    undone = [f for f in unfinished_files(store) if not named or f.path in named] if store.exists(LEDGER) else []
    spans = changed + [(f.first_date, f.last_date) for f in undone if f.first_date and f.last_date]
    new_files = sum(int(t["new_files"]) for t in told)
    if not spans:
        return Landed(new_files, 0, 0)
    first, last = min(a for a, _ in spans), max(b for _, b in spans)
    runs = runner.backfill(runner.select(PERFORMANCE), first, last, progress=progress)
    rejected = sum(int(run.metadata[PERFORMANCE]["rejected_rows"]) for run in runs)
    return Landed(new_files, (last - first).days + 1, rejected)
