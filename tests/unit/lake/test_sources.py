"""Sources: real, dirty exports come out as lake tables. Expected numbers were read from the files by hand."""

import csv
import gzip
import io
from datetime import date
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from within_ml.errors import SourceError
from within_ml.lake.audit import audit
from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.sources import (
    HELPERS,
    inspect_file,
    load_mapping,
    mapping_from,
    open_source,
    read_source,
    shipped_mappings,
)
from within_ml.lake.sources.expressions import macros, parse
from within_ml.lake.versions import merge_versions

DATA = Path("tests/data/sources")
UPWORTHY = Path("data_lake/landing/upworthy/upworthy_2013_2014w40.parquet")


def ordered(table: pa.Table) -> list[dict]:
    return table.sort_by([(name, "ascending") for name in ("date", "ad_id")]).to_pylist()


def perf_mapping(columns=None, aggregate=False, **top):
    base = {
        "date": 'day("Day")',
        "campaign_id": 'clean("Campaign")',
        "ad_id": 'clean("Ad")',
        "impressions": 'whole("Views")',
        "clicks": 'whole("Clicks")',
    }
    return mapping_from(
        {
            "name": "own",
            "format": "csv",
            "constants": {"account_id": "acme"},
            "tables": {"ad_performance": {"aggregate": aggregate, "columns": base | (columns or {})}},
        }
        | top,
        origin="own.yaml",
    )


@pytest.fixture(scope="module")
def google():
    return read_source(load_mapping("google_ads"), DATA / "google_ads.csv")


class TestShippedMappings:
    def test_four_are_shipped_and_say_what_they_are(self):
        assert shipped_mappings() == ("google_ads", "meta_ads", "simulation", "upworthy")
        assert all(load_mapping(name).description for name in shipped_mappings())

    @pytest.mark.parametrize(("name", "file"), [("google_ads", "google_ads.csv"), ("meta_ads", "meta_ads.csv")])
    def test_every_row_of_every_table_keeps_its_contract(self, name, file):
        tables = read_source(load_mapping(name), DATA / file)
        assert set(tables) == {"ad_performance", "ads", "campaigns", "accounts"}
        assert not any(audit(rows, CONTRACTS[table]).reasons for table, rows in tables.items())

    def test_google_numbers_come_through_separators_currency_and_dashes(self, google):
        first, second, third = ordered(google["ad_performance"])[:3]
        assert (first["impressions"], first["clicks"], first["spend"], first["revenue"]) == (12345, 321, 1204.5, 3410.0)
        assert (second["spend"], second["conversions"], second["revenue"]) == (31.2, None, None)
        assert (third["clicks"], third["revenue"], third["region"]) == (0, 0.0, "unknown")

    def test_google_totals_stay_out_and_sum_to_the_total_line(self, google):
        rows = google["ad_performance"]
        assert (pc.sum(rows["impressions"]).as_py(), pc.sum(rows["clicks"]).as_py()) == (35543, 923)
        assert pc.sum(rows["spend"]).as_py() == pytest.approx(3427.80)

    def test_a_changed_headline_is_a_second_version_of_the_ad(self, google):
        versions = [row for row in merge_versions(None, google["ads"]).to_pylist() if row["ad_id"] == "9001"]
        assert [(v["headline"], v["valid_from"].day, v["valid_to"]) for v in versions] == [
            ("Warm boots, 30% off", 1, date(2024, 1, 3)),
            ("Warm boots, 40% off", 3, None),
        ]

    def test_meta_summary_line_quoted_newlines_empty_counts_and_results_that_are_clicks(self):
        rows = ordered(read_source(load_mapping("meta_ads"), DATA / "meta_ads.csv")["ad_performance"])
        assert [row["ad_id"] for row in rows] == ["120401", "120402", "120403", "120401"]
        assert [row["clicks"] for row in rows] == [602, 0, 310, 500]
        assert [row["conversions"] for row in rows] == [14.0, None, None, 19.0]
        assert rows[0]["spend"] == 412.33

    def test_meta_texts_and_account_name(self):
        tables = read_source(load_mapping("meta_ads"), DATA / "meta_ads.csv")
        bodies = {row["ad_id"]: row["body"] for row in tables["ads"].to_pylist()}
        assert bodies["120402"] == "Ten blends.\n\nFree shipping."
        assert tables["accounts"]["name"].to_pylist() == ["Nordlicht Café"]

    def test_an_export_mapped_by_yaml_alone(self):
        tables = read_source(load_mapping(DATA / "blumen.yaml"), DATA / "blumen.csv")
        rows = {row["ad_id"]: row for row in tables["ad_performance"].to_pylist()}
        assert (rows["A-1"]["impressions"], rows["A-1"]["clicks"], rows["A-1"]["spend"]) == (12000, 150, 1100.0)
        assert rows["A-2"]["spend"] is None
        assert rows["A-3"]["date"] == date(2024, 3, 2)
        assert "Frühling für alle" in tables["ads"]["headline"].to_pylist()

    def test_the_account_of_a_file_can_be_given_from_outside(self):
        mapping = load_mapping("google_ads").with_constants(account_id="acme")
        tables = read_source(mapping, DATA / "google_ads.csv")
        assert set(tables["ad_performance"]["account_id"].to_pylist()) == {"acme"}
        assert tables["accounts"]["account_id"].to_pylist() == ["acme"]


@pytest.fixture(scope="module")
def upworthy():
    return read_source(load_mapping("upworthy"), UPWORTHY)


class TestUpworthy:
    @pytest.fixture
    def tables(self, upworthy):
        return upworthy

    def test_no_impression_is_lost_and_every_row_keeps_its_contract(self, tables):
        raw = pq.read_table(UPWORTHY, columns=["impressions", "clicks", "clickability_test_id"])
        assert pc.sum(tables["ad_performance"]["impressions"]).as_py() == pc.sum(raw["impressions"]).as_py()
        assert pc.sum(tables["ad_performance"]["clicks"]).as_py() == pc.sum(raw["clicks"]).as_py()
        assert tables["campaigns"].num_rows == pc.count_distinct(raw["clickability_test_id"]).as_py() == 3427
        assert not any(audit(rows, CONTRACTS[table]).reasons for table, rows in tables.items())

    def test_repeated_headline_and_image_of_a_test_is_one_ad(self, tables):
        test = "5143606d220cb80002000643"
        rows = [row for row in tables["ad_performance"].to_pylist() if row["campaign_id"] == test]
        repeated = [row for row in rows if row["impressions"] == 4140 + 4040 + 4045 + 4160]
        assert [row["clicks"] for row in repeated] == [44 + 21 + 49 + 16]

    def test_ads_are_known_the_sunday_before_the_monday_they_run(self, tables):
        first_day = {}
        for row in tables["ad_performance"].to_pylist():
            first_day[row["ad_id"]] = min(row["date"], first_day.get(row["ad_id"], date.max))
        ads = merge_versions(None, tables["ads"]).to_pylist()
        assert {day.isoweekday() for day in first_day.values()} == {1}
        assert all((first_day[ad["ad_id"]] - ad["valid_from"]).days == 1 for ad in ads)
        assert {ad["created_at"] == ad["valid_from"] for ad in ads} == {True}

    def test_week_00_joins_the_last_week_of_the_year_before(self):
        file = inspect_file(load_mapping("upworthy"), UPWORTHY)
        assert len(file.dates) == 90  # 91 different weeks, one of them week 00
        assert (file.first_date, file.last_date) == (date(2013, 1, 14), date(2014, 9, 29))


class TestReadingOptions:
    def rewritten(self, tmp_path, delimiter, encoding, name="report.csv"):
        lines = csv.reader(io.StringIO((DATA / "google_ads.csv").read_text(encoding="utf-8")))
        out = io.StringIO()
        csv.writer(out, delimiter=delimiter).writerows(lines)
        path = tmp_path / name
        path.write_text(out.getvalue(), encoding=encoding)
        return path

    @pytest.mark.parametrize(
        ("delimiter", "encoding"),
        [("\t", "utf-16"), (",", "utf-8-sig"), (";", "utf-8"), ("|", "utf-8"), ("\t", "utf-8-sig")],
    )
    def test_the_same_report_in_other_clothes_gives_the_same_rows(self, tmp_path, google, delimiter, encoding):
        path = self.rewritten(tmp_path, delimiter, encoding)
        found = read_source(load_mapping("google_ads"), path, label="google_ads.csv")["ad_performance"]
        assert ordered(found) == ordered(google["ad_performance"])

    def test_a_compressed_file(self, tmp_path, google):
        path = tmp_path / "report.csv.gz"
        path.write_bytes(gzip.compress((DATA / "google_ads.csv").read_bytes()))
        assert read_source(load_mapping("google_ads"), path)["ads"].num_rows == google["ads"].num_rows

    def test_a_file_without_header_gets_names(self, tmp_path):
        (tmp_path / "f.csv").write_text("2024-01-01;c;a;10;1\n2024-01-02;c;a;20;2\n")
        mapping = perf_mapping(options={"header": ["Day", "Campaign", "Ad", "Views", "Clicks"]})
        rows = ordered(read_source(mapping, tmp_path / "f.csv")["ad_performance"])
        assert [(row["date"].day, row["impressions"], row["clicks"]) for row in rows] == [(1, 10, 1), (2, 20, 2)]

    def test_the_folder_can_name_the_account(self, tmp_path):
        (tmp_path / "acme-eu").mkdir()
        path = tmp_path / "acme-eu" / "f.csv"
        path.write_text("Day,Campaign,Ad,Views,Clicks\n2024-01-01,c,a,10,1\n")
        tables = read_source(perf_mapping({"account_id": "file_folder"}), path)
        assert tables["ad_performance"]["account_id"].to_pylist() == ["acme-eu"]

    def test_files_pattern_says_which_table_a_file_feeds(self, tmp_path):
        mapping = load_mapping("simulation")
        rows = pa.table({"account_id": ["a"], "name": ["A"], "onboarded_date": [date(2024, 1, 1)]})
        schema = CONTRACTS["accounts"].schema
        full = pa.table(
            {n: rows[n] if n in rows.column_names else pa.nulls(1, schema.field(n).type) for n in schema.names}
        )
        pq.write_table(full, tmp_path / "accounts.parquet")
        tables = read_source(mapping, tmp_path / "accounts.parquet")
        assert list(tables) == ["accounts"]
        assert tables["accounts"]["industry"].to_pylist() == ["unknown"]

    def test_day_by_day_reading_loses_no_row_not_even_undated_ones(self, tmp_path):
        lines = ["Day,Campaign,Ad,Views,Clicks"] + [f"2024-01-0{d},c,a{i},10,1" for d in (1, 2, 3) for i in range(4)]
        (tmp_path / "f.csv").write_text("\n".join([*lines, "soon,c,a9,10,1"]) + "\n")
        file = inspect_file(perf_mapping(), tmp_path / "f.csv")
        with open_source(perf_mapping(), tmp_path / "f.csv") as source:
            by_day = [source.read("ad_performance", dates=(day, day)).num_rows for day in file.dates]
        assert by_day == [5, 4, 4]
        assert (file.undated, file.rows["ad_performance"]) == (1, 13)


class TestDefaults:
    @pytest.fixture
    def tables(self, tmp_path):
        (tmp_path / "f.csv").write_text(
            "Day,Campaign,Ad,Views,Clicks\n2024-01-03,c1,a1,10,1\n2024-01-02,c1,a2,10,1\n2024-01-05,c1,a1,10,1\n"
        )
        return read_source(perf_mapping(), tmp_path / "f.csv")

    def test_unmapped_tables_are_derived_from_performance(self, tables):
        assert {(row["ad_id"], row["valid_from"].day, row["created_at"].day) for row in tables["ads"].to_pylist()} == {
            ("a1", 3, 3),
            ("a2", 2, 2),
        }
        assert tables["campaigns"].select(["campaign_id", "start_date"]).to_pylist() == [
            {"campaign_id": "c1", "start_date": date(2024, 1, 2)}
        ]
        assert tables["accounts"].select(["account_id", "name"]).to_pylist() == [{"account_id": "acme", "name": "acme"}]

    def test_unmapped_columns_have_their_defaults(self, tables):
        row = tables["ad_performance"].to_pylist()[0]
        assert (row["platform"], row["ad_group_id"], row["region"]) == ("own", "c1", "unknown")
        assert (row["spend"], row["conversions"], row["revenue"]) == (None, None, None)
        assert row["source_file"] == "f.csv"

    def test_an_aggregating_mapping_does_not_hide_bad_lines(self, tmp_path):
        (tmp_path / "f.csv").write_text(
            "Day,Campaign,Ad,Views,Clicks\n2024-01-03,c,a,10,1\n2024-01-03,c,a,x,1\n2024-01-03,c,b,9,1\n2024-01-03,c,b,-2,1\n"
        )
        summed = perf_mapping(aggregate=True)
        found = audit(read_source(summed, tmp_path / "f.csv")["ad_performance"], CONTRACTS["ad_performance"])
        assert found.accepted.num_rows == 0
        assert {"impressions_missing_or_unreadable", "impressions_below_minimum"} <= set(found.reasons)


class TestHelpers:
    @staticmethod
    @cache
    def connection(decimal):
        con = duckdb.connect()
        for statement in macros(decimal=decimal):
            con.execute(statement)
        return con

    def value(self, expression, text, decimal="."):
        with self.connection(decimal).cursor() as con:
            return con.execute(f"SELECT {expression} FROM (SELECT $t AS x)", {"t": text}).fetchone()[0]

    @pytest.mark.parametrize(
        ("expression", "text", "expected"),
        [
            ("number(x)", "1,234,567.5", 1234567.5),
            ("number(x)", "1'234.5", 1234.5),
            ("number(x)", "1 234", 1234),
            ("number(x)", "\u22123", -3),
            ("number(x)", " -- ", None),
            ("money(x)", "US$ 5", 5),
            ("money(x)", "-€1,000.50", -1000.5),
            ("money(x)", "12.50 kr.", 12.5),
            ("money(x)", "CHF 1'234.50", 1234.5),
            ("money(x)", "(12.50)", -12.5),
            ("whole(x)", "1,002", 1002),
            ("whole(x)", "1.5", None),
            ("fraction(x)", "< 10%", 0.1),
            ("clean(x)", "\ufeff a  b ", "a  b"),
            ("day(x)", "2024-02-29", date(2024, 2, 29)),
            ("day(x)", "Jan 31, 2024", date(2024, 1, 31)),
            ("day(x)", "2024-01-31T23:30:00", date(2024, 1, 31)),
            ("day(x)", "2023-02-29", None),
            ("day(x)", "01/02/2024", None),
            ("day(x, '%d/%m/%Y')", "01/02/2024", date(2024, 2, 1)),
            ("monday(x)", "2024-W07", date(2024, 2, 12)),
            ("monday(x)", "202054", None),
        ],
    )
    def test_values(self, expression, text, expected):
        assert self.value(expression, text) == expected

    @pytest.mark.parametrize("text", ["abc", "1.234,56", "12,34", "NaN", "inf", "$", "1-2", "0x10"])
    def test_unreadable_money_is_not_null_but_nan_so_that_the_audit_sees_it(self, text):
        assert str(self.value("money(x)", text)) == "nan"

    def test_decimal_comma(self):
        assert self.value("money(x)", "1.234,56 €", decimal=",") == 1234.56
        assert str(self.value("money(x)", "1,234.56", decimal=",")) == "nan"

    @settings(max_examples=60, deadline=None)
    @given(value=st.decimals(-10_000_000, 10_000_000, places=2), decimal=st.sampled_from(".,"))
    def test_any_formatted_amount_reads_back(self, value, decimal):
        text = f"{value:,.2f}"
        if decimal == ",":
            text = text.translate(str.maketrans(",.", ".,"))
        assert self.value("money(x)", text, decimal=decimal) == pytest.approx(float(value))

    def test_every_helper_in_the_list_exists(self):
        names = {name.split("(")[0] for name in HELPERS}
        created = " ".join(macros())
        assert all(f"CREATE MACRO {name}(" in created for name in names)


def test_columns_named_by_an_expression_leave_out_lambda_parameters():
    found = parse('list_sum(list_transform(["a b"], lambda v: v + file.c))', where="m")
    assert set(found.columns) == {"a b", "c"}


def test_the_smallest_mapping_of_the_manual_works(tmp_path):
    text = Path("data_lake/README.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    (tmp_path / "m.yaml").write_text(text)
    (tmp_path / "f.csv").write_text("Datum,Campaign,Creative ID,Views,Clicks\n31.01.2024,c,a,10,1\n")
    rows = read_source(load_mapping(tmp_path / "m.yaml"), tmp_path / "f.csv")["ad_performance"].to_pylist()
    assert rows[0]["date"] == date(2024, 1, 31)
    assert yaml.safe_load(text)["name"] == "my_export"


def test_unknown_constant_is_refused():
    with pytest.raises(SourceError, match="colour"):
        load_mapping("google_ads").with_constants(colour="red")


def test_several_files_of_several_kinds_with_own_texts(tmp_path):
    """Performance, creatives and accounts come in three kinds of files, mapped by name patterns."""
    content = {
        "name": "agency",
        "format": "csv",
        "constants": {"platform": "dsp"},
        "tables": {
            "ad_performance": {
                "files": "stats_*.csv",
                "columns": {
                    "date": "day(\"d\", '%m/%d/%Y')",
                    "account_id": "regexp_extract(file_name, 'stats_(.*)[.]csv', 1)",
                    "campaign_id": "li",
                    "ad_id": "cr",
                    "impressions": "imps",
                    "clicks": "clk",
                    "spend": "number(micros) / 1e6",
                },
            },
            "ads": {
                "files": "creatives.csv",
                "columns": {
                    "account_id": "adv",
                    "campaign_id": "li",
                    "ad_id": "cr",
                    "headline": "clean(title)",
                    "valid_from": "day(since)",
                },
            },
        },
    }
    mapping = mapping_from(content, origin="agency.yaml")
    (tmp_path / "stats_acme.csv").write_text("d\tli\tcr\timps\tclk\tmicros\n02/01/2024\tL1\tC1\t1,500\t3\t2500000\n")
    (tmp_path / "creatives.csv").write_text("adv,li,cr,title,since\nacme,L1,C1,Hello,2024-01-15\n")
    stats = read_source(mapping, tmp_path / "stats_acme.csv")
    creatives = read_source(mapping, tmp_path / "creatives.csv")
    row = stats["ad_performance"].to_pylist()[0]
    assert set(stats) == {"ad_performance", "campaigns", "accounts"}
    assert (row["date"], row["account_id"], row["impressions"], row["spend"]) == (date(2024, 2, 1), "acme", 1500, 2.5)
    assert list(creatives) == ["ads"]
    assert creatives["ads"].select(["ad_id", "headline", "valid_from"]).to_pylist() == [
        {"ad_id": "C1", "headline": "Hello", "valid_from": date(2024, 1, 15)}
    ]


def test_a_weekly_export_of_iso_weeks(tmp_path):
    (tmp_path / "f.csv").write_text("Week,Campaign,Ad,Views,Clicks\n2024-W07,c,a,10,1\n")
    file = inspect_file(perf_mapping({"date": 'monday("Week")'}, cadence="weekly"), tmp_path / "f.csv")
    assert file.dates == (date(2024, 2, 12),)
