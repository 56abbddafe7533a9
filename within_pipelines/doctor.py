"""Is everything there that a night needs: each check says what it found and what to do."""

import importlib.metadata
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from within_ml.errors import WithinError
from within_ml.lake.landing import PERFORMANCE, LandingZone, current_files, expected_days
from within_ml.lake.store import LakeStore
from within_pipelines.postgres import databases, project_root
from within_pipelines.settings import Settings

MIN_FREE_GIB = 5
BYTES_PER_GIB = 1 << 30
MIN_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, what was found, whether that is well, and what to do if not."""

    what: str
    ok: bool
    found: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Run all checks; none of them changes anything but the embedded server, which is started if need be."""
    checks: list[tuple[str, Callable[[Settings], Finding]]] = [
        ("python", _python), ("packages", _packages), ("disk", _disk), ("postgres", _postgres), ("registry", _registry),
        ("landing", _landing), ("lake", _lake),
    ]  # fmt: skip
    findings = []
    for what, check in checks:
        try:
            findings.append(check(settings))
        except WithinError as error:
            findings.append(Finding(what, False, type(error).__name__, str(error)))
    return findings


def _python(settings: Settings) -> Finding:
    version, ok = ".".join(str(part) for part in sys.version_info[:3]), sys.version_info >= MIN_PYTHON
    return Finding("python", ok, version, "" if ok else "Use Python 3.11 or newer: make PYTHON=python3.11")


def _packages(settings: Settings) -> Finding:
    lock = project_root() / "requirements.lock"
    if not lock.exists():
        return Finding("packages", True, "no requirements.lock beside the packages")
    wanted = dict(
        line.split("==") for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line and line[0] != "#"
    )
    wrong = [f"{n} {have} (locked {v})" for n, v in wanted.items() if (have := _installed(n)).split("+")[0] != v]
    found = f"{len(wanted)} as locked" if not wrong else ", ".join(wrong[:5])
    return Finding("packages", not wrong, found, "" if not wrong else "Install the locked versions: make setup")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _disk(settings: Settings) -> Finding:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.state_dir).free / BYTES_PER_GIB
    advice = (
        "" if free >= MIN_FREE_GIB else f"Free some space: {MIN_FREE_GIB} GiB are wanted below {settings.state_dir}."
    )
    return Finding("disk", free >= MIN_FREE_GIB, f"{free:.0f} GiB free", advice)


def _postgres(settings: Settings) -> Finding:
    databases(settings.postgres_url, settings.state_dir.resolve())
    where = "the server of WITHIN_POSTGRES_URL" if settings.postgres_url else f"embedded in {settings.state_dir}"
    return Finding("postgres", True, f"{where}, migrated")


def _registry(settings: Settings) -> Finding:
    from within_ml.base import ModelType
    from within_pipelines.resources import build_resources

    registry = build_resources(settings)["models"].registry()
    if ModelType.AD_SCORE not in registry.names():
        return Finding("registry", False, "no model", "Train one: within backfill --select training --from D --to D")
    champion = registry.aliases(ModelType.AD_SCORE).get("champion")
    found = f"{len(registry.versions(ModelType.AD_SCORE))} versions of ad_score, champion {champion or 'none'}"
    advice = "" if champion else "No version passed the gate: see within models, or within promote ad_score VERSION."
    return Finding("registry", champion is not None, found, advice)


def _landing(settings: Settings) -> Finding:
    zone = LandingZone(Path(settings.landing))
    landed = zone.discover()
    store = LakeStore(settings.lake_root, storage_options=settings.storage_options or None)
    known = {file.path for file in current_files(store)}
    new = [path for path, _ in landed if zone.relative(path) not in known]
    advice = f"Ingest what is new: within ingest {new[0]} --source NAME" if new else ""
    return Finding("landing", not new, f"{len(landed)} files, {len(new)} not ingested", advice)


def _lake(settings: Settings) -> Finding:
    store = LakeStore(settings.lake_root, storage_options=settings.storage_options or None)
    there = store.dates(PERFORMANCE)
    if not there:
        return Finding("lake", False, f"no {PERFORMANCE} in {store.root}", "Ingest an export, or run within demo.")
    missing = sorted(set(expected_days(store, there[0], there[-1])) - set(there))
    found = f"{len(there)} days of {PERFORMANCE}, {there[0]} … {there[-1]}, {len(missing)} missing"
    advice = f"within backfill --select {PERFORMANCE} --from {missing[0]} --to {missing[-1]}" if missing else ""
    return Finding("lake", not missing, found, advice)
