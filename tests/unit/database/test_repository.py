"""Publishing partitions: idempotent, atomic, narrowed, and kept apart."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from within_ml.database.base import arrow_schema, table_of
from within_ml.database.repository import PUBLISHED, DimensionRepository, PublishedTable, ScoreRepository
from within_ml.database.urls import connect
from within_ml.errors import DatabaseError, InputError
from within_ml.lake.contracts import CONTRACTS

DAY = dt.date(2014, 1, 5)
SCHEMA = CONTRACTS["ad_scores"].schema


def score_rows(*ads: tuple[str, str, float], date: dt.date = DAY, run_id: str = "run-1", **changes: object) -> pa.Table:
    """Make rows from (account_id, ad_id, predicted_ctr)."""
    rows = [
        {
            "date": date,
            "platform": "google",
            "account_id": account,
            "campaign_id": f"campaign-{account}",
            "ad_group_id": "group",
            "ad_id": ad,
            "predicted_ctr": ctr,
            "ad_score": 50.0,
            "confidence_score": 0.5,
            "run_id": run_id,
            **changes,
        }
        for account, ad, ctr in ads
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def publications(url: str) -> list[tuple[object, ...]]:
    with connect(url) as connection:
        return connection.execute("SELECT run_id, rows, lake_version FROM publications ORDER BY run_id").fetchall()


@pytest.mark.parametrize("model", PUBLISHED.values())
def test_columns_and_key_are_those_of_the_contract(model):
    table = table_of(model)
    assert arrow_schema(table) == CONTRACTS[table.name].schema
    assert tuple(column.name for column in table.primary_key.columns) == CONTRACTS[table.name].key


def test_publishing_twice_leaves_the_same_rows(postgres_url):
    repository = ScoreRepository(postgres_url)
    rows = score_rows(("a", "1", 0.01), ("a", "2", 0.02), ("b", "3", 0.03))
    first = repository.publish(rows, DAY, lake_version=1, run_id="run-1")
    stored = repository.scores(DAY)
    second = repository.publish(rows, DAY, lake_version=1, run_id="run-1")
    assert (first.rows_written, first.rows_removed) == (3, 0)
    assert (second.rows_written, second.rows_removed) == (0, 0)
    assert repository.scores(DAY).equals(stored)
    assert stored.equals(rows)
    assert publications(postgres_url) == [("run-1", 3, 1)]


def test_a_new_version_replaces_changes_and_removes(postgres_url):
    repository = ScoreRepository(postgres_url)
    repository.publish(score_rows(("a", "1", 0.01), ("a", "2", 0.02)), DAY, lake_version=1, run_id="run-1")
    other_day = score_rows(("a", "1", 0.5), date=DAY + dt.timedelta(days=1))
    repository.publish(other_day, DAY + dt.timedelta(days=1), lake_version=1, run_id="run-1")
    changed = score_rows(("a", "2", 0.04), ("a", "9", 0.05), run_id="run-2")
    result = repository.publish(changed, DAY, lake_version=2, run_id="run-2")
    assert (result.rows_written, result.rows_removed) == (2, 1)
    assert repository.scores(DAY).equals(changed)
    assert repository.scores(DAY + dt.timedelta(days=1)).equals(other_day)


def test_an_unchanged_row_keeps_the_run_that_wrote_it(postgres_url):
    repository = ScoreRepository(postgres_url)
    repository.publish(score_rows(("a", "1", 0.01), ("a", "2", 0.02)), DAY, lake_version=1, run_id="run-1")
    again = score_rows(("a", "1", 0.01), ("a", "2", 0.03), run_id="run-2")
    result = repository.publish(again, DAY, lake_version=2, run_id="run-2")
    assert result.rows_written == 1
    assert repository.scores(DAY)["run_id"].to_pylist() == ["run-1", "run-2"]


@pytest.mark.parametrize(
    "scope",
    [{"account_id": ["a"]}, {"campaign_id": {"campaign-a"}}, {"account_id": ("a",), "campaign_id": ["campaign-a"]}],
)
def test_a_scope_leaves_the_other_rows(postgres_url, scope):
    repository = ScoreRepository(postgres_url)
    full = score_rows(("a", "1", 0.01), ("a", "2", 0.02), ("b", "3", 0.03))
    repository.publish(full, DAY, lake_version=1, run_id="run-1")
    narrowed = score_rows(("a", "1", 0.09))
    result = repository.publish(narrowed, DAY, lake_version=2, run_id="run-2", scope=scope)
    assert (result.rows_written, result.rows_removed) == (1, 1)
    assert repository.scores(DAY, "b").num_rows == 1
    assert repository.scores(DAY)["predicted_ctr"].to_pylist() == [0.09, 0.03]


def test_an_empty_partition_empties_the_day(postgres_url):
    repository = ScoreRepository(postgres_url)
    repository.publish(score_rows(("a", "1", 0.01)), DAY, lake_version=1, run_id="run-1")
    result = repository.publish(SCHEMA.empty_table(), DAY, lake_version=2, run_id="run-2")
    assert result.rows_removed == 1
    assert repository.scores(DAY).equals(SCHEMA.empty_table())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (score_rows(("a", "1", 0.01), date=DAY + dt.timedelta(days=1)), "must have date in"),
        (score_rows(("a", "1", 0.01), ("a", "1", 0.02)), "must differ in"),
        (score_rows(("a", "1", 1.5)), "predicted_ctr_range"),
        (score_rows(("a", "1", float("nan"))), "predicted_ctr_range"),
        (score_rows(("a", "1", float("inf"))), "predicted_ctr_range"),
        (score_rows(("a", "1", 0.5), ad_group_id=None), "ad_group_id"),
        (score_rows(("a", "1", 0.5), topics="nul\x00byte"), "constraints; however: invalid byte sequence"),
        (score_rows(("a", "1", 0.5), ctr_upper=1.5), "ctr_upper_range"),
        (score_rows(("a", "1", 0.5), ctr_lower=0.6, ctr_upper=0.4), "interval_order"),
        (score_rows(("a", "1", 0.5), target_audience_match=101.0), "target_audience_match_range"),
        (score_rows(("a", "1", 0.5), top_reasons='{"text": "no list"}'), "top_reasons_list"),
        (score_rows(("a", "1", 0.5), top_reasons="no json"), "invalid input syntax for type json"),
        (score_rows(("a", "1", 0.01)).drop_columns(["ad_score"]), "'ad_score' are missing"),
        (score_rows(("a", "1", 0.01)).set_column(6, "predicted_ctr", pa.array(["high"])), "must fit the table's types"),
    ],
    ids=[
        "other day",
        "repeated key",
        "above 1",
        "nan",
        "infinite",
        "null",
        "nul byte",
        "interval",
        "upside down",
        "match",
        "no list",
        "no json",
        "missing",
        "type",
    ],
)
@pytest.mark.parametrize("occupied", [False, True])
def test_bad_rows_leave_the_partition_as_it_was(postgres_url, rows, message, occupied):
    repository = ScoreRepository(postgres_url)
    before = score_rows(("z", "1", 0.01)) if occupied else SCHEMA.empty_table()
    repository.publish(before, DAY, lake_version=1, run_id="run-1")
    with pytest.raises(InputError, match=message):
        repository.publish(rows, DAY, lake_version=2, run_id="run-2")
    assert repository.scores(DAY).equals(before)
    assert publications(postgres_url) == [("run-1", before.num_rows, 1)]


def test_rows_from_before_a_column_came_are_published_with_null(postgres_url):
    repository = ScoreRepository(postgres_url)
    old = score_rows(("a", "1", 0.01)).drop_columns(["ctr_lower", "top_reasons"])
    repository.publish(old, DAY, lake_version=1, run_id="run-1")
    assert repository.scores(DAY).equals(score_rows(("a", "1", 0.01)))


def analysis_rows(reasons: str, run_id: str = "run-1") -> pa.Table:
    row = {
        "date": DAY, "platform": "google", "account_id": "a", "campaign_id": "c", "ad_group_id": "g", "ad_id": "1",
        "base_ctr": 0.01, "predicted_ctr": 0.02, "reasons": reasons, "similar_ads": "[]", "suggestions": "[]",
        "run_id": run_id,
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=CONTRACTS["ad_score_analysis"].schema)


def test_analyses_are_published_beside_the_scores(postgres_url):
    analyses, scores = PublishedTable(postgres_url, "ad_score_analysis"), ScoreRepository(postgres_url)
    scores.publish(score_rows(("a", "1", 0.02)), DAY, lake_version=1, run_id="run-1")
    rows = analysis_rows('[{"text": "headline 2 words shorter", "points": 0.4}]')
    assert analyses.publish(rows, DAY, lake_version=3, run_id="run-1").table == "ad_score_analysis"
    assert analyses.publish(rows, DAY, lake_version=3, run_id="run-1").rows_written == 0
    assert analyses.read(DAY, "a").equals(rows)
    assert scores.scores(DAY).num_rows == 1
    with connect(postgres_url) as connection:
        told = connection.execute("SELECT table_name, rows FROM publications ORDER BY table_name").fetchall()
        query = "SELECT reasons::jsonb -> 0 ->> 'points' FROM ad_score_analysis JOIN ad_scores USING (date, ad_id)"
        points = connection.execute(query).fetchall()
    assert told == [("ad_score_analysis", 1), ("ad_scores", 1)]
    assert points == [("0.4",)]


def region_rows(**changes: object) -> pa.Table:
    row = {
        "date": DAY, "region": "US-TX", "country": "US", "offset": 0.1, "standard_error": 0.02, "factor": 1.105,
        "impressions": 1000, "clicks": 20, "predicted_clicks": 18.0, "source": "own", "level": 0.01,
        "spatial_share": 0.4, "moran_before": None, "moran_after": None, "weeks": 8, "run_id": "run-1", **changes,
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=CONTRACTS["region_factors"].schema)


def test_region_factors_are_published_and_can_be_asked_for(postgres_url):
    regions = PublishedTable(postgres_url, "region_factors")
    assert regions.publish(region_rows(), DAY, lake_version=2, run_id="run-1").rows_written == 1
    assert regions.publish(region_rows(run_id="run-2"), DAY, lake_version=2, run_id="run-2").rows_written == 0
    assert regions.read(DAY).equals(region_rows())
    with connect(postgres_url) as connection:
        found = connection.execute('SELECT region, factor, "offset" FROM region_factors').fetchall()
    assert found == [("US-TX", 1.105, 0.1)]


@pytest.mark.parametrize("changes", [{"clicks": 1001}, {"factor": float("nan")}, {"source": "guess"}])
def test_region_factors_outside_their_ranges_are_refused(postgres_url, changes):
    with pytest.raises(InputError):
        PublishedTable(postgres_url, "region_factors").publish(
            region_rows(**changes), DAY, lake_version=2, run_id="run-1"
        )


def test_an_analysis_that_is_no_list_is_refused(postgres_url):
    with pytest.raises(InputError, match="reasons_list"):
        PublishedTable(postgres_url, "ad_score_analysis").publish(
            analysis_rows('"text"'), DAY, lake_version=1, run_id="run-1"
        )


def test_rows_outside_the_scope_are_refused(postgres_url):
    with pytest.raises(InputError, match="must have account_id in 'a'; however, there are 'b'"):
        ScoreRepository(postgres_url).publish(
            score_rows(("b", "1", 0.1)), DAY, lake_version=1, run_id="r", scope={"account_id": ["a"]}
        )
    with pytest.raises(InputError, match="A scope is made of 'account_id', 'campaign_id'"):
        ScoreRepository(postgres_url).publish(
            score_rows(("b", "1", 0.1)), DAY, lake_version=1, run_id="r", scope={"platform": ["google"]}
        )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.none() | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])), ctr=st.floats(0, 1)
)
def test_any_text_and_number_comes_back_as_it_was(postgres_url, text, ctr):
    repository = ScoreRepository(postgres_url)
    for rows in (score_rows(("a", "1", 0.5)), score_rows(("a", "1", ctr), topics=text)):
        repository.publish(rows, DAY, lake_version=1, run_id="run-1")
    assert repository.scores(DAY).equals(rows)


KILLED = """
import os, sys, datetime as dt
import pyarrow as pa
from within_ml.database import bulk
from within_ml.database.repository import ScoreRepository

url, path, stage = sys.argv[1:]
rows = pa.ipc.open_file(path).read_all()
original = getattr(bulk, stage)

def pause(*arguments, **options):
    result = original(*arguments, **options)
    print("inside", flush=True)
    sys.stdin.read()
    return result

setattr(bulk, stage, pause)
ScoreRepository(url).publish(rows, dt.date(2014, 1, 5), lake_version=2, run_id="run-2")
"""


@pytest.mark.parametrize("occupied", [False, True])
@pytest.mark.parametrize("stage", ["_copy_in", "_upsert"])
def test_a_killed_publisher_leaves_the_old_rows(postgres_url, tmp_path, stage, occupied):
    if stage == "_upsert" and not occupied:
        pytest.skip("an empty partition is copied into without staging")
    repository = ScoreRepository(postgres_url)
    before = score_rows(("a", "1", 0.01), ("b", "2", 0.02)) if occupied else SCHEMA.empty_table()
    repository.publish(before, DAY, lake_version=1, run_id="run-1")
    after = score_rows(("a", "1", 0.9), ("a", "7", 0.8), run_id="run-2")
    with pa.ipc.new_file(tmp_path / "rows.arrow", after.schema) as writer:
        writer.write_table(after)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, postgres_url, str(tmp_path / "rows.arrow"), stage],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "inside\n"
        assert repository.scores(DAY).equals(before)
        os.kill(process.pid, signal.SIGKILL)
    assert repository.scores(DAY).equals(before)
    # The dead publisher's lock is gone too: the rerun goes through.
    repository.publish(after, DAY, lake_version=2, run_id="run-2")
    assert repository.scores(DAY).equals(after)


RACER = """
import sys, datetime as dt
import pyarrow as pa
from within_ml.database.repository import ScoreRepository
url, path, run_id = sys.argv[1:]
rows = pa.ipc.open_file(path).read_all()
sys.stdin.read()
for version in range(5):
    ScoreRepository(url).publish(rows, dt.date(2014, 1, 5), lake_version=version, run_id=run_id)
"""


def test_publishers_of_one_day_take_turns(postgres_url, tmp_path):
    racers = []
    for number in range(3):
        rows = score_rows(*(("a", str(ad), number / 10) for ad in range(2000)), run_id=f"run-{number}")
        with pa.ipc.new_file(tmp_path / f"{number}.arrow", rows.schema) as writer:
            writer.write_table(rows)
        command = [sys.executable, "-c", RACER, postgres_url, str(tmp_path / f"{number}.arrow"), f"run-{number}"]
        racers.append(subprocess.Popen(command, stdin=subprocess.PIPE))
    for racer in racers:
        racer.stdin.close()
    assert [racer.wait(60) for racer in racers] == [0, 0, 0]
    stored = ScoreRepository(postgres_url).scores(DAY)
    assert stored.num_rows == 2000
    assert len(set(stored["run_id"].to_pylist())) == 1


def test_ads_are_published_in_their_latest_version(postgres_url):
    ad = dict.fromkeys(CONTRACTS["ads"].names) | {
        "platform": "google", "account_id": "a", "campaign_id": "c", "ad_group_id": "g", "ad_id": "1",
        "audience_age": "unknown", "audience_gender": "unknown", "valid_from": DAY,
    }  # fmt: skip
    later = DAY + dt.timedelta(days=7)
    old = ad | {"headline": "old", "valid_to": later}
    new = ad | {"headline": "new", "valid_from": later}
    repository = DimensionRepository(postgres_url)
    repository.replace("ads", pa.Table.from_pylist([ad | {"ad_id": "2"}], schema=CONTRACTS["ads"].schema))
    replaced = repository.replace("ads", pa.Table.from_pylist([old, new], schema=CONTRACTS["ads"].schema))
    with connect(postgres_url) as connection:
        stored = connection.execute("SELECT ad_id, headline, valid_from FROM ads").fetchall()
    assert stored == [("1", "new", later)]
    assert (replaced.written, replaced.removed) == (1, 1)


def test_a_server_that_does_not_answer_is_one_sentence():
    repository = ScoreRepository("postgresql+psycopg://anna:secret@127.0.0.1:1/within")
    with pytest.raises(DatabaseError, match="Postgres must answer at") as caught:
        repository.scores(DAY)
    assert "secret" not in str(caught.value)


def health_rows(**changes: object) -> pa.Table:
    row = {
        "date": DAY, "account_id": "a", "health_score": 72.0, "risk_level": "medium", "bad_state_probability": 0.28,
        "churn_risk_30d": 0.1, "early_warning": False, "contributing_factors": "[]",
        "recommended_actions": '[{"action": "refresh creatives", "risk": 0.2}]', "run_id": "run-1", **changes,
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=CONTRACTS["account_health"].schema)


def test_account_health_is_published_and_its_actions_can_be_asked_for(postgres_url):
    health = PublishedTable(postgres_url, "account_health")
    assert health.publish(health_rows(), DAY, lake_version=1, run_id="run-1").rows_written == 1
    assert health.publish(health_rows(run_id="run-2"), DAY, lake_version=1, run_id="run-2").rows_written == 0
    assert health.read(DAY).equals(health_rows())
    with connect(postgres_url) as connection:
        query = "SELECT early_warning, recommended_actions::jsonb -> 0 ->> 'action' FROM account_health"
        assert connection.execute(query).fetchall() == [(False, "refresh creatives")]


@pytest.mark.parametrize("changes", [{"health_score": 100.5}, {"risk_level": "fine"}, {"churn_risk_30d": float("nan")}])
def test_account_health_outside_its_ranges_is_refused(postgres_url, changes):
    with pytest.raises(InputError):
        PublishedTable(postgres_url, "account_health").publish(
            health_rows(**changes), DAY, lake_version=1, run_id="run-1"
        )


def test_an_unknown_table_is_refused_by_name(postgres_url):
    with pytest.raises(InputError, match=r"A published table is one of 'ad_scores'.*'ad_notes'"):
        PublishedTable(postgres_url, "ad_notes")
