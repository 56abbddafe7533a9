"""Migrations: they make the models' tables, once, whoever comes first."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from within_ml.database import Base, check_migrated, migrate
from within_ml.database.base import VERSION_TABLE, make_engine
from within_ml.database.campaigns import AccountModel, CampaignModel
from within_ml.database.repository import LedgerRepository, PinRepository
from within_ml.database.urls import connect
from within_ml.errors import DatabaseError, InputError
from within_ml.lake.contracts import CONTRACTS

MIGRATOR = """
import sys
from within_ml.database import migrate
sys.stdin.read()
migrate(sys.argv[1])
"""


@pytest.fixture
def empty_url(postgres, copy_database):
    return postgres.url(copy_database("template0"))


def test_migrations_make_what_the_models_say(postgres_url):
    with make_engine(postgres_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    check_migrated(postgres_url)


def test_going_back_one_version_and_forward_again_keeps_the_scores(postgres_url):
    from alembic import command

    from within_ml.database.base import _alembic_config

    with connect(postgres_url) as connection:
        connection.execute(
            "INSERT INTO ad_scores (date, platform, account_id, campaign_id, ad_group_id, ad_id, predicted_ctr, "
            "ad_score, confidence_score) VALUES ('2014-01-05', 'p', 'a', 'c', 'g', '1', 0.1, 50, 0.5)"
        )
    with make_engine(postgres_url).connect() as connection:
        config = _alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    with connect(postgres_url) as connection:
        for table in ("ad_score_analysis", "region_factors"):
            assert connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,)
    migrate(postgres_url)
    with connect(postgres_url) as connection:
        assert connection.execute("SELECT predicted_ctr, ctr_lower FROM ad_scores").fetchall() == [(0.1, None)]


def test_processes_that_migrate_at_once_do_it_once(empty_url):
    processes = [subprocess.Popen([sys.executable, "-c", MIGRATOR, empty_url], stdin=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    check_migrated(empty_url)


def test_migrating_again_changes_nothing(postgres_url):
    ledger = LedgerRepository(postgres_url)
    ledger.append("demo", "1", "promote", reason="first", decided_by="anna")
    assert migrate(postgres_url) == migrate(postgres_url)
    assert len(ledger.decisions("demo")) == 1


def test_an_empty_database_is_not_migrated(empty_url):
    with pytest.raises(DatabaseError, match="it has no tables yet"):
        check_migrated(empty_url)


def test_a_database_of_newer_code_is_left_alone(postgres_url):
    with connect(postgres_url) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(DatabaseError, match="made by newer code"):
        migrate(postgres_url)
    with pytest.raises(DatabaseError, match="it has 9999"):
        check_migrated(postgres_url)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE model_promotions SET reason = 'better'", "DELETE FROM model_promotions", "TRUNCATE model_promotions"],
)
def test_the_ledger_cannot_be_rewritten(postgres_url, statement):
    ledger = LedgerRepository(postgres_url)
    ledger.append("demo", "1", "promote", reason="first", decided_by="anna", report={"approved": True})
    before = ledger.decisions()
    with connect(postgres_url) as connection, pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        connection.execute(statement)
    assert ledger.decisions() == before


@pytest.mark.parametrize(("action", "reason"), [("approve", "good"), ("promote", " ")])
def test_a_row_of_the_ledger_says_what_and_why(postgres_url, action, reason):
    ledger = LedgerRepository(postgres_url)
    with pytest.raises(InputError, match="needs an action"):
        ledger.append("demo", "1", action, reason=reason, decided_by="anna")
    assert ledger.decisions() == ()


def test_the_database_dates_decisions_and_the_newest_comes_first(postgres_url):
    ledger = LedgerRepository(postgres_url)
    rows = [ledger.append("demo", str(n), "promote", reason="r", decided_by="gate") for n in range(3)]
    ledger.append("other", "9", "promote", reason="r", decided_by="gate")
    assert ledger.decisions("demo") == tuple(reversed(rows))
    assert rows[0].decided_at.tzinfo is not None
    assert rows[0].decided_at - rows[2].decided_at <= dt.timedelta(0)
    assert [row.version for row in ledger.decisions(limit=2)] == ["9", "2"]


def test_a_report_about_a_model_that_predicts_nan_can_be_stored(postgres_url):
    report = {"comparisons": ({"gain": float("nan")}, {"gain": 0.5}), "bound": float("-inf")}
    row = LedgerRepository(postgres_url).append(
        "demo", "1", "refuse", reason="not finite", decided_by="gate", report=report
    )
    assert row.report == {"comparisons": [{"gain": None}, {"gain": 0.5}], "bound": None}


PINNER = """
import sys
from within_ml.database.repository import PinRepository
sys.stdin.read()
pin = PinRepository(sys.argv[1]).pin("b", "demo", selector="champion", resolved={"0001-01-01": sys.argv[2]})
print(pin.resolved["0001-01-01"])
"""


def test_the_first_pin_wins(postgres_url):
    command = [sys.executable, "-c", PINNER, postgres_url]
    processes = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for n in range(3)
    ]
    answers = {process.communicate()[0].strip() for process in processes}
    pin = PinRepository(postgres_url).get("b", "demo")
    assert answers == {pin.resolved["0001-01-01"]}


@pytest.mark.parametrize(("model", "table"), [(AccountModel, "accounts"), (CampaignModel, "campaigns")])
def test_dimensions_have_the_contract_s_columns(model, table):
    assert tuple(model.__table__.columns.keys()) == CONTRACTS[table].names
    assert tuple(model.__table__.primary_key.columns.keys()) == CONTRACTS[table].key
