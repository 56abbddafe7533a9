"""From landing files to partitions: later files win by key, rejected rows are kept apart, pieces change nothing."""

from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from within_ml.errors import ContractError, LakeError, SourceError
from within_ml.lake import landing
from within_ml.lake.landing import LandingZone, ingest_days, register
from within_ml.lake.quarantine import TABLE as QUARANTINE
from within_ml.lake.store import LakeStore

START = date(2024, 1, 1)
ADS = 40


def days(count, first=START):
    return [first + timedelta(days=n) for n in range(count)]


def performance(span, *, clicks=1, ads=ADS, **columns):
    """One row per day and ad; ``columns`` replace some of them."""
    rows = [(day, f"ad-{n}") for day in span for n in range(ads)]
    table = {
        "date": pa.array([day for day, _ in rows], pa.date32()),
        "platform": ["meta"] * len(rows),
        "account_id": ["a"] * len(rows),
        "campaign_id": ["c"] * len(rows),
        "ad_group_id": ["g"] * len(rows),
        "ad_id": [ad for _, ad in rows],
        "region": ["CA"] * len(rows),
        "impressions": pa.array([100] * len(rows), pa.int64()),
        "clicks": pa.array([clicks] * len(rows), pa.int64()),
        "spend": [1.0] * len(rows),
        "conversions": [0.0] * len(rows),
        "revenue": [0.0] * len(rows),
    }
    return pa.table(table | columns)


@pytest.fixture
def zone(tmp_path):
    (tmp_path / "landing/simulation").mkdir(parents=True)
    return LandingZone(tmp_path / "landing")


@pytest.fixture
def store(tmp_path):
    return LakeStore(str(tmp_path / "lake"))


def land(zone, name, table):
    pq.write_table(table, zone.root / "simulation" / f"ad_performance_{name}.parquet")


def ingested(store, zone, span):
    done = ingest_days(store, zone, span, run_id="r")
    return done, store.read("ad_performance").sort_by([("date", "ascending"), ("ad_id", "ascending")])


class TestPartitions:
    def test_one_partition_per_day_in_one_commit(self, store, zone):
        land(zone, "1", performance(days(5)))
        assert register(store, zone, run_id="r").days == tuple(days(5))
        done, rows = ingested(store, zone, days(5))
        assert done.commit.rows_by_date == dict.fromkeys(days(5), ADS)
        assert rows.num_rows == 5 * ADS

    def test_a_later_file_replaces_rows_of_the_same_key_and_leaves_the_others(self, store, zone):
        land(zone, "1", performance(days(4)))
        land(zone, "2", performance(days(2, START + timedelta(days=1)), clicks=7, ads=10))
        register(store, zone, run_id="r")
        _, rows = ingested(store, zone, days(4))
        assert rows.num_rows == 4 * ADS
        restated = rows.filter(pc.equal(rows["clicks"], 7))
        assert set(restated["date"].to_pylist()) == set(days(2, START + timedelta(days=1)))
        assert restated.num_rows == 20

    def test_only_the_days_asked_for_are_made(self, store, zone):
        land(zone, "1", performance(days(6)))
        register(store, zone, run_id="r")
        done, _ = ingested(store, zone, [days(6)[1], days(6)[4]])
        assert store.dates("ad_performance") == (days(6)[1], days(6)[4])
        assert done.commit.rows == 2 * ADS

    def test_a_day_beside_a_weekly_rhythm_is_made_alone_as_in_a_range(self, store, zone):
        """A holiday moves one week's export from Monday to Tuesday; its rows must not depend on how the days are cut."""
        folder = zone.root / "shop"
        folder.mkdir()
        (folder / landing.MAPPING_FILE).write_text(
            "name: shop\nformat: csv\ncadence: weekly\nconstants: {platform: p, account_id: a, campaign_id: c}\n"
            "tables:\n  ad_performance:\n    columns: {date: day(d), ad_id: clean(ad), impressions: whole(n), clicks: whole(k)}\n"
        )
        (folder / "weeks.csv").write_text("d,ad,n,k\n2024-01-01,1,100,3\n2024-01-09,1,200,5\n2024-01-15,1,300,7\n")
        register(store, zone, run_id="r")
        for day in days(15):
            ingest_days(store, zone, [day], run_id="r")
        assert store.read("ad_performance").sort_by("date")["clicks"].to_pylist() == [3, 5, 7]

    def test_ingesting_again_changes_no_row(self, store, zone):
        land(zone, "1", performance(days(3)))
        register(store, zone, run_id="r")
        _, before = ingested(store, zone, days(3))
        _, after = ingested(store, zone, days(3))
        assert after.equals(before)

    def test_a_file_with_new_content_replaces_all_that_it_brought(self, store, zone):
        land(zone, "1", performance(days(2)))
        register(store, zone, run_id="r")
        ingested(store, zone, days(2))
        land(zone, "1", performance(days(2), ads=5, clicks=9))
        register(store, zone, run_id="r")
        _, rows = ingested(store, zone, days(2))
        assert rows.num_rows == 10
        assert set(rows["clicks"].to_pylist()) == {9}


class TestPieces:
    @pytest.mark.parametrize("rows_per_audit", [1, 3 * ADS])
    def test_pieces_of_a_file_give_what_the_whole_gives(self, tmp_path, zone, monkeypatch, rows_per_audit):
        clicks = [n % 3 for n in range(7 * ADS)]
        clicks[5] = 1000  # above impressions
        table = performance(days(7), clicks=0)
        table = table.set_column(table.schema.get_field_index("clicks"), "clicks", pa.array(clicks, pa.int64()))
        repeated = table.slice(100, 1)
        undated = table.slice(50, 1).set_column(0, "date", pa.nulls(1, pa.date32()))
        land(zone, "1", pa.concat_tables([table, repeated, undated]))
        whole, pieces = LakeStore(str(tmp_path / "whole")), LakeStore(str(tmp_path / "pieces"))
        register(whole, zone, run_id="r")
        register(pieces, zone, run_id="r")
        expected, rows = ingested(whole, zone, days(7))
        monkeypatch.setattr(landing, "ROWS_PER_AUDIT", rows_per_audit)
        found, again = ingested(pieces, zone, days(7))
        assert again.equals(rows)
        assert (found.rejected, dict(found.reasons)) == (expected.rejected, dict(expected.reasons))
        assert found.rejected == 3
        columns = ["date", "reasons", "row"]
        held = [s.read(QUARANTINE, columns=columns).sort_by("row") for s in (whole, pieces)]
        assert held[0].equals(held[1])


class TestRefusals:
    def test_a_day_with_too_many_rejected_rows_blocks_the_commit(self, store, zone):
        bad = performance(days(1, START + timedelta(days=1)), clicks=101)
        land(zone, "1", pa.concat_tables([performance(days(1)), bad]))
        register(store, zone, run_id="r")
        with pytest.raises(ContractError, match=r"ad_performance of 2024-01-02: at most 5%.*clicks_above_impressions"):
            ingest_days(store, zone, days(2), run_id="r")
        assert store.dates("ad_performance") == ()

    def test_a_day_whose_file_has_not_come(self, store, zone):
        land(zone, "1", performance(days(2)))
        register(store, zone, run_id="r")
        with pytest.raises(LakeError, match="none covers '2024-01-03'"):
            ingest_days(store, zone, days(3), run_id="r")

    @pytest.mark.parametrize(("change", "what"), [("gone", "it is gone; put it back"), ("altered", "changed after it")])
    def test_a_file_that_is_not_the_one_registered(self, store, zone, change, what):
        land(zone, "1", performance(days(1)))
        register(store, zone, run_id="r")
        if change == "gone":
            (zone.root / "simulation/ad_performance_1.parquet").unlink()
        else:
            land(zone, "1", performance(days(1), clicks=2))
        with pytest.raises(SourceError, match=what):
            ingest_days(store, zone, days(1), run_id="r")
