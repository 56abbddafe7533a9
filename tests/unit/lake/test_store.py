"""The Delta store: atomic replacement, races, narrowing, empty partitions, pruned reads."""

import subprocess
import sys
from datetime import date

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from within_ml.errors import InputError, LakeError, MissingPartitionsError
from within_ml.lake.catalog import DataCatalogModel, DataLakeModel
from within_ml.lake.store import LakeStore, Narrowing, days_between

DAY = date(2024, 3, 1)


def rows(accounts, clicks=1):
    return pa.table(
        {
            "platform": ["p"] * len(accounts),
            "account_id": list(accounts),
            "campaign_id": [f"{a}-c{i % 2}" for i, a in enumerate(accounts)],
            "ad_id": [str(i) for i in range(len(accounts))],
            "clicks": [clicks] * len(accounts),
        }
    )


@pytest.fixture
def store(tmp_path):
    return LakeStore(str(tmp_path / "lake"))


def test_a_partition_is_replaced_and_the_others_stay(store):
    store.replace("t", {DAY: rows("ab"), date(2024, 3, 2): rows("c")}, run_id="r1")
    commit = store.replace("t", {DAY: rows("x", clicks=9)}, run_id="r2")
    assert store.read("t", {"date": DAY})["account_id"].to_pylist() == ["x"]
    assert store.read("t", {"date": "2024-03-02"})["account_id"].to_pylist() == ["c"]
    assert store.read("t", version=commit.version - 1).num_rows == 3


def test_an_empty_partition_is_there_with_its_schema(store):
    store.replace("t", {DAY: rows("").cast(rows("a").schema)}, run_id="r")
    assert store.dates("t") == (DAY,)
    assert store.read("t").schema.names == [*rows("a").schema.names, "date"]
    with pytest.raises(MissingPartitionsError, match="2024-03-02"):
        store.require_dates("t", days_between(DAY, date(2024, 3, 2)))


def test_narrowed_write_keeps_the_other_rows(store):
    store.replace("t", {DAY: rows("aabb")}, run_id="r")
    new = rows("aab", clicks=7).filter(pa.array([True, False, False]))
    store.replace("t", {DAY: new}, run_id="r", narrowing=Narrowing(accounts=("a",), campaigns=("a-c0",)))
    kept = store.read("t").sort_by("ad_id").to_pylist()
    assert [(r["account_id"], r["campaign_id"], r["clicks"]) for r in kept] == [
        ("a", "a-c0", 7),
        ("a", "a-c1", 1),
        ("b", "b-c0", 1),
        ("b", "b-c1", 1),
    ]


def test_narrowed_write_refuses_rows_outside(store):
    store.replace("t", {DAY: rows("ab")}, run_id="r")
    with pytest.raises(InputError, match="only rows of its accounts"):
        store.replace("t", {DAY: rows("ab")}, run_id="r", narrowing=Narrowing(accounts=("a",)))


def test_narrowed_write_needs_the_whole_partition_first(store):
    store.replace("t", {DAY: rows("ab")}, run_id="r")
    with pytest.raises(MissingPartitionsError, match="2024-03-02"):
        store.replace("t", {date(2024, 3, 2): rows("a")}, run_id="r", narrowing=Narrowing(accounts=("a",)))
    assert store.dates("t") == (DAY,)


def test_rows_of_another_day_are_refused(store):
    wrong = rows("a").append_column("date", pa.array([date(2024, 3, 9)]))
    with pytest.raises(InputError, match="2024-03-09"):
        store.replace("t", {DAY: wrong}, run_id="r")
    assert not store.exists("t")


def test_a_new_column_is_added_and_a_changed_type_refused(store):
    store.replace("t", {DAY: rows("a")}, run_id="r")
    wider = rows("b").append_column("spend", pa.array([1.5]))
    store.replace("t", {date(2024, 3, 2): wider}, run_id="r")
    assert store.read("t").sort_by("date")["spend"].to_pylist() == [None, 1.5]
    text = wider.set_column(4, "clicks", pa.array(["many"]))
    with pytest.raises(LakeError, match=r"t\.clicks is stored as int64"):
        store.replace("t", {DAY: text}, run_id="r")
    assert store.read("t", {"date": DAY})["clicks"].to_pylist() == [1]


def test_the_view_shows_live_rows_only(store):
    store.replace("t", {DAY: rows("ab"), date(2024, 3, 2): rows("c")}, run_id="r")
    store.replace("t", {DAY: rows("x")}, run_id="r")
    con = duckdb.connect()
    store.create_view(con, "t", last=DAY)
    assert con.sql("SELECT account_id, date FROM t").fetchall() == [("x", DAY)]


WRITER = """
import sys
from datetime import date
import pyarrow as pa
from within_ml.lake.store import LakeStore
root, day, account, count = sys.argv[1], date.fromisoformat(sys.argv[2]), sys.argv[3], int(sys.argv[4])
LakeStore(root).replace("t", {day: pa.table({"account_id": [account] * count})}, run_id=account)
"""


def test_writers_of_one_partition_never_mix(tmp_path):
    """Eight processes write four partitions, two each: every partition holds exactly one writer's rows."""
    root = str(tmp_path / "lake")
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, root, f"2024-03-0{1 + i % 4}", f"w{i}", str(10 + i)])
        for i in range(8)
    ]
    assert [writer.wait() for writer in writers] == [0] * 8
    for day in range(4):
        found = LakeStore(root).read("t", {"date": date(2024, 3, 1 + day)})["account_id"].to_pylist()
        assert set(found) in ({f"w{day}"}, {f"w{day + 4}"})
        assert len(found) == 10 + int(found[0][1:])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.text("abc", min_size=0, max_size=4)), min_size=1, max_size=6))
def test_the_lake_is_the_last_write_of_each_day(tmp_path_factory, writes):
    store = LakeStore(str(tmp_path_factory.mktemp("lake")))
    expected = {}
    for day, accounts in writes:
        store.replace("t", {date(2024, 3, day): rows(accounts).cast(rows("a").schema)}, run_id="r")
        expected[date(2024, 3, day)] = sorted(accounts)
    for day, accounts in expected.items():
        assert sorted(store.read("t", {"date": day})["account_id"].to_pylist()) == accounts


def test_reads_prune_to_the_partitions_asked_for(store):
    store.replace("t", {d: rows("ab") for d in days_between(DAY, date(2024, 3, 20))}, run_id="r")
    dataset = store.table("t").dataset({"date": slice("2024-03-05", "2024-03-06"), "account_id": "a"})
    assert len(dataset.files) == 2
    found = store.read("t", {"date": slice(date(2024, 3, 5), None), "account_id": ["a"]}, columns=["date"])
    assert found.num_rows == 16


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("kind", ["delta", "parquet"])
def test_two_partition_keys_in_both_formats(tmp_path, kind, scheme):
    import pyarrow.dataset as ds

    data = pa.table(
        {
            "date": ["2024-01-01", "2024-01-01", "2024-01-02"],
            "campaign_id": ["a", "b", "a"],
            "clicks": [1, 2, 3],
        }
    )
    folder = tmp_path / kind
    if kind == "delta":
        write_deltalake(str(folder), data, partition_by=["date", "campaign_id"])
    else:
        ds.write_dataset(
            data, folder, format="parquet", partitioning=["date", "campaign_id"], partitioning_flavor="hive"
        )
    table = DataLakeModel("clicks", f"{scheme}{folder}", kind, ["date", "campaign_id"])
    assert table.get_data({"date": "2024-01-01", "campaign_id": "b"})["clicks"].tolist() == [2]
    assert table.get_data({"date": date(2024, 1, 2)}, columns=["clicks"], as_arrow=True).to_pylist() == [{"clicks": 3}]
    assert len(table.dataset({"date": "2024-01-01"}).files) <= 3


@pytest.mark.parametrize("value", ["../etc", "a/b", "a\x00b", "a\nb", ".."])
def test_partition_values_that_are_paths_are_refused(tmp_path, value):
    table = DataLakeModel("t", tmp_path, "delta", ["date", "campaign_id"])
    with pytest.raises(InputError, match="control character, slash or backslash"):
        table.get_data({"campaign_id": value})


def test_unknown_columns_and_values_are_named(store):
    store.replace("t", {DAY: rows("a")}, run_id="r")
    with pytest.raises(InputError, match="'nonsense'"):
        store.read("t", {"nonsense": 1})
    with pytest.raises(InputError, match="'nonsense'"):
        store.read("t", columns=["nonsense"])
    with pytest.raises(InputError, match=r"date.*yesterday"):
        store.read("t", {"date": "yesterday"})
    with pytest.raises(LakeError, match="there is none yet"):
        store.read("never_written")


def test_the_catalog_reads_the_log(store):
    store.replace("t", {DAY: rows("ab"), date(2024, 3, 2): rows("c")}, run_id="night-1")
    catalog = DataCatalogModel(store.root)
    summary = catalog.summary("t")
    assert (summary.rows, summary.partitions, summary.last_date) == (3, 2, date(2024, 3, 2))
    assert catalog.partitions("t")["rows"].to_pylist() == [2, 1]
    assert catalog.versions("t")[0]["run_id"] == "night-1"
    assert catalog.tables() == ("t",)


def test_other_delta_readers_see_the_same_rows(store):
    """Read with deltalake's own reader and a filter on a column: an outside check of the log that we write."""
    store.replace("t", {d: rows("ab", clicks=d.day) for d in days_between(DAY, date(2024, 3, 3))}, run_id="r")
    frame = DeltaTable(store.uri("t")).to_pandas(filters=[("clicks", "=", 2)])
    assert frame["date"].tolist() == [date(2024, 3, 2)] * 2


def test_transform_loses_no_change(store):
    for name in "abc":
        store.transform(
            "names", lambda old, n=name: pa.table({"n": [*(old["n"].to_pylist() if old else []), n]}), run_id="r"
        )
    assert store.read("names")["n"].to_pylist() == ["a", "b", "c"]


def test_progress_is_part_of_the_commit(store):
    store.transform("names", lambda _: pa.table({"n": ["a"]}), run_id="r", progress={"landing": 7})
    assert store.progress("names", "landing") == 7
    assert store.progress("names", "other") == 0
