"""Registering, selecting, promoting and rolling back models on a real MLflow on Postgres."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from within_ml.base import BaseMLModel
from within_ml.database.repository import LedgerRepository, PinRepository
from within_ml.errors import InputError, ModelFormatError, PromotionRefusedError, RegistryError
from within_ml.registry import ModelRegistry, add_model_class

MONDAYS = [dt.date(2014, 3, 3) + dt.timedelta(weeks=week) for week in range(4)]


class Level(BaseMLModel):
    """The smallest real model: it predicts the rate it was given."""

    model_type = "level"

    def fit(self, X, y, *, sample_weight=None):
        self.rate_ = float(np.average(y, weights=sample_weight))
        return self

    def predict(self, X):
        return np.full(len(X), self.rate_)

    def validate(self, X, y, *, sample_weight=None):
        return {"bias": float(np.mean(self.predict(X) - y))}

    def _write_state(self, folder):
        (folder / "level.json").write_text(json.dumps({"rate": self.rate_}))

    def _read_state(self, folder, metadata):
        self.rate_ = json.loads((folder / "level.json").read_text())["rate"]


add_model_class("level", Level)


@dataclass(frozen=True)
class Verdict:
    approved: bool
    reasons: tuple[str, ...] = ()

    def to_dict(self):
        return {"approved": self.approved, "reasons": list(self.reasons)}


YES, NO = Verdict(True, ("better than the champion",)), Verdict(False, ("not better than the champion", "too few rows"))


@pytest.fixture
def registry(mlflow_url, postgres_url, tmp_path):
    return ModelRegistry(
        mlflow_url, LedgerRepository(postgres_url), tmp_path / "artifacts", pins=PinRepository(postgres_url)
    )


def saved(folder: Path, rate: float) -> Path:
    model = Level("level", ["x"], metadata={"trained_at": "2014-03-03T04:00:00+00:00"})
    model.fit(pd.DataFrame({"x": [0.0]}), [rate]).save(folder / f"level-{rate}")
    return folder / f"level-{rate}"


@pytest.fixture
def register(registry, tmp_path):
    def register(rate: float, as_of: dt.date, **options) -> str:
        folder = saved(tmp_path, rate)
        return registry.register(folder, name="level", metrics={"log_loss": rate}, tags={"as_of": as_of}, **options)

    return register


def actions(registry: ModelRegistry) -> list[tuple[str, str, str | None]]:
    rows = reversed(registry.ledger.decisions("level"))
    return [(row.action, row.version, row.from_version) for row in rows]


def promote(registry, version, decision=YES, **options):
    return registry.promote("level", version, decision=decision, reason="weekly", decided_by="gate", **options)


def test_a_registered_model_comes_back_and_tells_what_it_is(registry, register, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("<p>good</p>")
    sample = (pd.DataFrame({"x": [0.5]}), np.array([0.02]))
    version = register(0.02, MONDAYS[0], parameters={"depth": 3}, report_files=[report], signature=sample)
    (record,) = registry.versions("level")
    assert (record.version, record.as_of, record.metrics) == (version, MONDAYS[0], {"log_loss": 0.02})
    assert record.aliases == ("challenger",)
    assert record.trained_at == dt.datetime(2014, 3, 3, 4, tzinfo=dt.UTC)
    model = registry.load("level", "challenger")
    assert model.predict(pd.DataFrame({"x": [1.0, 2.0]})).tolist() == [0.02, 0.02]
    assert model.model_version == version


def test_mlflow_itself_loads_the_champion(registry, register, mlflow_url, monkeypatch):
    import mlflow

    promote(registry, register(0.02, MONDAYS[0], signature=(pd.DataFrame({"x": [0.5]}), np.array([0.02]))))
    previous = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(mlflow_url)
    try:
        loaded = mlflow.pyfunc.load_model("models:/level@champion")
    finally:
        mlflow.set_tracking_uri(previous)
    assert loaded.predict(pd.DataFrame({"x": [1.0, 2.0]})).tolist() == [0.02, 0.02]
    assert loaded.metadata.flavors["python_function"]["loader_module"] == "within_ml.registry.loading"


def test_the_same_model_is_registered_once(registry, register):
    first = register(0.02, MONDAYS[0])
    assert register(0.02, MONDAYS[0]) == first
    assert register(0.02, MONDAYS[1]) != first
    assert register(0.03, MONDAYS[1]) != first
    assert len(registry.versions("level")) == 3


def test_an_older_vintage_does_not_become_challenger(registry, register):
    newer = register(0.02, MONDAYS[1])
    register(0.03, MONDAYS[0])
    assert registry.aliases("level") == {"challenger": newer}


@pytest.mark.parametrize("as_of", ["", "week 10", None])
def test_a_vintage_needs_its_day(registry, tmp_path, as_of):
    with pytest.raises(InputError, match="needs the tag 'as_of' as an ISO day"):
        registry.register(saved(tmp_path, 0.02), name="level", metrics={}, tags={"as_of": as_of})


def test_an_altered_folder_is_neither_registered_nor_loaded(registry, register, tmp_path):
    folder = saved(tmp_path, 0.05)
    (folder / "level.json").write_text('{"rate": 1.0}')
    with pytest.raises(ModelFormatError, match="altered"):
        registry.register(folder, name="level", metrics={}, tags={"as_of": MONDAYS[0]})
    assert registry.versions("level") == ()
    version = register(0.02, MONDAYS[0])
    stored = registry.folder("level", version)
    (stored / "unknown.json").write_text("{}")
    with pytest.raises(ModelFormatError, match="must have the hash they were registered with"):
        registry.load("level", version)


def test_promotion_moves_the_champion_and_keeps_the_previous(registry, register):
    first, second = register(0.02, MONDAYS[0]), register(0.03, MONDAYS[1])
    assert promote(registry, first).previous_version is None
    done = promote(registry, second)
    assert (done.version, done.previous_version, done.changed) == (second, first, True)
    assert registry.aliases("level") == {"challenger": second, "champion": second, "previous_champion": first}
    assert actions(registry) == [("promote", first, None), ("promote", second, first)]
    assert registry.ledger.decisions("level")[0].report == YES.to_dict()


def test_promoting_the_champion_again_changes_nothing(registry, register):
    first, second = register(0.02, MONDAYS[0]), register(0.03, MONDAYS[1])
    promote(registry, first)
    promote(registry, second)
    again = promote(registry, second)
    assert (again.version, again.previous_version, again.changed) == (second, first, False)
    assert len(actions(registry)) == 2


def test_a_refusal_is_recorded_and_changes_nothing(registry, register):
    first, second = register(0.02, MONDAYS[0]), register(0.03, MONDAYS[1])
    promote(registry, first)
    before = registry.aliases("level")
    for _ in range(2):
        with pytest.raises(PromotionRefusedError, match="not better than the champion; too few rows"):
            promote(registry, second, NO, run_id="run-7")
    assert registry.aliases("level") == before
    assert actions(registry) == [("promote", first, None), ("refuse", second, first)]
    row = registry.ledger.decisions("level")[0]
    assert (row.reason, row.run_id, row.report) == (
        "weekly: not better than the champion; too few rows", "run-7", NO.to_dict()
    )  # fmt: skip


def test_a_backfill_of_training_does_not_take_production_back(registry, register):
    newer, older = register(0.02, MONDAYS[1]), register(0.03, MONDAYS[0])
    promote(registry, newer)
    with pytest.raises(PromotionRefusedError, match="before those of the champion, as of 2014-03-10"):
        promote(registry, older)
    by_hand = registry.promote("level", older, decision=None, reason="the newer one is broken", decided_by="anna")
    assert by_hand.version == registry.resolve("level", "champion") == older
    assert registry.ledger.decisions("level")[0].report is None


def test_rollback_swaps(registry, register):
    first, second = register(0.02, MONDAYS[0]), register(0.03, MONDAYS[1])
    promote(registry, first)
    with pytest.raises(RegistryError, match="needs a previous champion"):
        registry.rollback("level", reason="ctr fell", decided_by="anna")
    promote(registry, second)
    back = registry.rollback("level", reason="ctr fell", decided_by="anna")
    assert (back.version, back.previous_version) == (first, second)
    assert registry.aliases("level") == {"challenger": second, "champion": first, "previous_champion": second}
    assert registry.rollback("level", reason="it had not", decided_by="anna").version == second
    assert actions(registry)[2:] == [("rollback", first, second), ("rollback", second, first)]


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_decision_needs_a_reason(registry, register, reason):
    version = register(0.02, MONDAYS[0])
    with pytest.raises(InputError, match="needs a reason"):
        registry.promote("level", version, decision=None, reason=reason, decided_by="anna")
    with pytest.raises(InputError, match="needs a reason"):
        registry.rollback("level", reason=reason, decided_by="anna")
    assert actions(registry) == []


KILLED = """
import os, signal, sys
from within_ml.database.repository import LedgerRepository
from within_ml.registry import ModelRegistry
from within_ml.registry.store import MlflowStore

mlflow_url, within_url, action, version, aliases_before_death = sys.argv[1:]
left = int(aliases_before_death)
set_alias = MlflowStore.set_alias

def die_at_last(self, *arguments):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    set_alias(self, *arguments)

MlflowStore.set_alias = die_at_last
registry = ModelRegistry(mlflow_url, LedgerRepository(within_url))
if action == "promote":
    registry.promote("level", version, decision=None, reason="why", decided_by="anna")
else:
    registry.rollback("level", reason="why", decided_by="anna")
"""


def act(registry, action, version):
    if action == "promote":
        return registry.promote("level", version, decision=None, reason="why", decided_by="anna")
    return registry.rollback("level", reason="why", decided_by="anna")


@pytest.mark.parametrize(
    ("action", "aliases_before_death", "repeat"),
    [("promote", 0, True), ("promote", 1, False), ("rollback", 0, False), ("rollback", 1, True)],
)
def test_a_decision_killed_halfway_is_completed_once(
    registry, register, mlflow_url, postgres_url, action, aliases_before_death, repeat
):
    versions = [register(rate, day) for rate, day in zip((0.02, 0.03, 0.04), MONDAYS, strict=False)]
    act(registry, "promote", versions[0])
    act(registry, "promote", versions[1])
    target = versions[2] if action == "promote" else versions[0]
    command = [sys.executable, "-c", KILLED, mlflow_url, postgres_url, action, target, str(aliases_before_death)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert registry.resolve("level", "champion") == versions[1]
    if repeat:
        act(registry, action, target)
    else:
        assert registry.finish("level")
    assert not registry.finish("level")
    aliases = registry.aliases("level")
    assert (aliases["champion"], aliases["previous_champion"]) == (target, versions[1])
    assert actions(registry)[2:] == [(action, target, versions[1])]


def test_rows_about_a_deleted_model_do_not_move_its_successor(registry, register, mlflow_url):
    from mlflow import MlflowClient

    promote(registry, register(0.02, MONDAYS[0]))
    MlflowClient(mlflow_url, mlflow_url).delete_registered_model("level")
    register(0.9, MONDAYS[1])
    assert not registry.finish("level")
    assert registry.aliases("level") == {"challenger": "1"}


def test_as_of_is_the_newest_vintage_of_the_day(registry, register):
    first = register(0.02, MONDAYS[0])
    register(0.03, MONDAYS[2])
    retrained = register(0.04, MONDAYS[2])
    second = register(0.05, MONDAYS[1])
    day = dt.timedelta(days=1)
    assert registry.resolve("level", "as_of", MONDAYS[0]) == first
    assert registry.resolve("level", "as_of", MONDAYS[1] - day) == first
    assert registry.resolve("level", "as_of", MONDAYS[2] - day) == second
    assert registry.resolve("level", "as_of", MONDAYS[3]) == retrained
    with pytest.raises(RegistryError, match="as of 2014-03-02 or before; however, the first is as of 2014-03-03"):
        registry.resolve("level", "as_of", MONDAYS[0] - day)


@pytest.mark.parametrize("selector", ["champion", "previous_champion", "99", "../1", "newest"])
def test_what_does_not_exist_is_one_sentence(registry, register, selector):
    register(0.02, MONDAYS[0])
    with pytest.raises(RegistryError, match=r"level (must have|has the versions)"):
        registry.load("level", selector)


def test_an_unregistered_model_has_nothing(registry):
    assert registry.versions("level") == ()
    assert registry.aliases("level") == {}
    with pytest.raises(RegistryError, match="none is registered"):
        registry.resolve("level", "as_of", MONDAYS[0])


def test_a_backfill_keeps_the_versions_of_its_first_run(registry, register):
    first, second = register(0.02, MONDAYS[0]), register(0.03, MONDAYS[1])
    promote(registry, first)
    assert registry.pin("level", "champion", [MONDAYS[0]], "b1") == {MONDAYS[0]: first}
    assert registry.pin("level", "as_of", MONDAYS[:2], "b2") == {MONDAYS[0]: first, MONDAYS[1]: second}
    promote(registry, second)
    later = register(0.04, MONDAYS[2])
    assert registry.pin("level", "champion", [MONDAYS[3]], "b1") == {MONDAYS[3]: first}
    assert registry.pin("level", "as_of", [MONDAYS[3]], "b2") == {MONDAYS[3]: second}
    assert registry.pin("level", "as_of", [MONDAYS[3]], "b3") == {MONDAYS[3]: later}
    with pytest.raises(RegistryError, match="uses 'champion' models of level since its first run"):
        registry.pin("level", "as_of", [MONDAYS[0]], "b1")


def test_a_pin_that_cannot_serve_its_days_is_not_kept(registry, register):
    register(0.02, MONDAYS[1])
    with pytest.raises(RegistryError, match="Train that week first"):
        registry.pin("level", "as_of", MONDAYS, "b1")
    first = register(0.03, MONDAYS[0])
    assert registry.pin("level", "as_of", [MONDAYS[0]], "b1") == {MONDAYS[0]: first}


def test_without_a_ledger_nothing_is_decided(mlflow_url):
    with pytest.raises(RegistryError, match="opened without"):
        ModelRegistry(mlflow_url).rollback("level", reason="why", decided_by="anna")


STARTER = """
import sys
from within_ml.registry import ModelRegistry
sys.stdin.read()
ModelRegistry(sys.argv[1], artifact_root=sys.argv[2]).initialize(["ad_score"])
"""


def test_processes_that_start_at_once_make_the_schema_once(fresh_databases, tmp_path):
    url = fresh_databases.dagster  # the empty one
    command = [sys.executable, "-c", STARTER, url, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        process.stdin.close()
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
    assert ModelRegistry(url).names() == ()


@pytest.mark.slow
def test_promoters_take_turns(registry, register, mlflow_url, postgres_url):
    versions = [register(rate, day) for rate, day in zip((0.02, 0.03, 0.04), MONDAYS, strict=False)]
    code = KILLED.replace("left = int(aliases_before_death)", "left = 99\nsys.stdin.read()")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, mlflow_url, postgres_url, "promote", version, "0"], stdin=subprocess.PIPE
        )
        for version in versions
    ]
    for process in processes:
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    rows = actions(registry)
    assert [row[2] for row in rows] == [None, rows[0][1], rows[1][1]]
    aliases = registry.aliases("level")
    assert (aliases["champion"], aliases["previous_champion"]) == (rows[2][1], rows[1][1])
