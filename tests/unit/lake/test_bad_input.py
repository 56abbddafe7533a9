"""Bad input: one clear sentence that says what was required, what came and what to do; never a library's traceback."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from within_ml.errors import ContractError, SourceError
from within_ml.lake.audit import audit, check_share
from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.sources import inspect_file, landing_path, load_mapping, mapping_from, read_source

PERFORMANCE = CONTRACTS["ad_performance"]
HEADER = "Day,Campaign,Ad,Views,Clicks\n"


def content(**columns):
    base = {
        "date": 'day("Day")',
        "campaign_id": 'clean("Campaign")',
        "ad_id": 'clean("Ad")',
        "impressions": 'whole("Views")',
        "clicks": 'whole("Clicks")',
    }
    table = {"constants": {"account_id": "acme"}, "columns": base | columns}
    return {"name": "own", "format": "csv", "tables": {"ad_performance": table}}


def mapping(**columns):
    return mapping_from(content(**columns), origin="own.yaml")


def file_of(tmp_path, text, name="f.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 900
    return text


class TestFiles:
    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("", r"it is empty\. Export it again"),
            (HEADER, "a file with rows is required"),
            (
                "Day,Campaign,Ad,Views\n2024-01-01,c,a,1\n",
                r"needs the column 'Clicks' for ad_performance\.clicks; the file has 'Day'",
            ),
            ("some,other,export\n1,2,3\n", r"none of the first lines names any.*'some,other,export'"),
            (HEADER + "31.12.2024,c,a,10,1\n", r"readable dates are required; the values are like '31\.12\.2024'.*%d"),
            (HEADER + "2024-01-01,c,a,10,1,7,8\n", r"5 fields between ',' are required; line 2 has 7"),
            (HEADER + '2024-01-01,c,"a,10,1\n', "closed quotes are required"),
            (HEADER.encode() + b"2024-01-01,c,\xe9t\xe9,10,1\n", r"text in utf-8 is required.*cp1252"),
            (b"PK\x03\x04rest", "Excel workbook.*Export it as CSV"),
            (b"PAR1rest", "the file is a Parquet file"),
        ],
    )
    def test_a_csv_that_is_not_what_its_mapping_says(self, tmp_path, text, what):
        with pytest.raises(SourceError, match=what) as error:
            inspect_file(mapping(), file_of(tmp_path, text))
        assert "f.csv" in sentence(error)

    @pytest.fixture
    def parquet(self, tmp_path):
        path = tmp_path / "ad_performance_1.parquet"
        pq.write_table(pa.table({"date": list(range(10_000))}), path)
        return path

    def test_a_truncated_parquet_file(self, parquet):
        parquet.write_bytes(parquet.read_bytes()[:-100])
        with pytest.raises(SourceError, match=r"probably truncated\. Copy or export it again") as error:
            inspect_file(load_mapping("simulation"), parquet)
        sentence(error)

    def test_a_parquet_file_whose_pages_are_damaged(self, parquet, tmp_path):
        columns = {c.name: pa.array([1] * 5000) for c in PERFORMANCE.columns}
        pq.write_table(pa.table(columns | {"impressions": list(range(5000))}), parquet, compression="snappy")
        data = bytearray(parquet.read_bytes())
        data[60:20_000] = os.urandom(20_000 - 60)
        parquet.write_bytes(bytes(data))
        with pytest.raises(SourceError) as error:
            read_source(load_mapping("simulation"), parquet)
        assert parquet.name in sentence(error)

    def test_a_csv_where_parquet_is_promised(self, tmp_path):
        with pytest.raises(SourceError, match="the file is not Parquet"):
            inspect_file(load_mapping("upworthy"), file_of(tmp_path, HEADER, "u.parquet"))

    def test_a_file_of_another_kind_of_the_source(self, tmp_path):
        with pytest.raises(SourceError, match="reads files named like"):
            inspect_file(load_mapping("simulation"), file_of(tmp_path, b"PAR1", "notes.parquet"))


class TestMappings:
    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ({"colour": 1}, "own.yaml: the keys can be .*'colour' came"),
            ({"name": "Own/../x"}, r"own\.yaml: name must be lower-case"),
            ({"format": "excel"}, "format: one of 'csv', 'parquet' is required; 'excel' came"),
            ({"cadence": "hourly"}, "cadence"),
            ({"tables": {"clicks": {}}}, r"tables: .*'clicks' came"),
            ({"tables": {}}, "at least one of"),
            (
                {"tables": {"ad_performance": {"columns": {"colour": "x"}}}},
                r"tables\.ad_performance\.columns.*'colour'",
            ),
            ({"tables": {"ad_performance": {"columns": {"date": "x"}}}}, "'account_id', 'campaign_id'.*missing"),
            ({"tables": {"ads": {"columns": {"ad_id": "x"}}}}, r"tables\.ads must give"),
            ({"options": {"delimiter": "ab"}}, r"options\.delimiter: one character"),
            ({"options": {"encoding": "klingon"}}, "'klingon'"),
            ({"options": {"decimal": ";"}}, "decimal"),
            ({"options": {"skip": -1}}, "skip"),
            ({"options": {"rename": {"(": "x"}}}, "regular expression"),
            ({"constants": {"colour": "x"}}, "'colour'"),
            ({"constants": {"account_id": True}}, "account_id"),
        ],
    )
    def test_each_mistake_names_file_and_key(self, change, what):
        broken = content() | change
        if "constants" in change and change["constants"].get("account_id"):
            del broken["tables"]["ad_performance"]["constants"]
        with pytest.raises(SourceError, match=what) as error:
            mapping_from(broken, origin="own.yaml")
        assert "own.yaml" in sentence(error)

    @pytest.mark.parametrize(
        ("sql", "what"),
        [
            ("whole(", "syntax error"),
            ("Ad ID", "stands in double quotes"),
            ("1; DROP TABLE x", "one SQL expression"),
            ("1) FROM (SELECT 1", "syntax error"),
            ("Views FROM read_text('/etc/passwd')", "without alias, FROM"),
            ("(SELECT max(content) FROM read_text('/etc/passwd'))", "a subquery"),
            ("*", "a star"),
            ("$1", "a parameter"),
            ("COPY x TO '/tmp/x'", "is none"),
            ("random()", "not be the same on every run"),
            ("current_date", "not be the same on every run"),
            ("", "is none"),
        ],
    )
    def test_an_expression_that_is_none_or_does_more(self, sql, what):
        with pytest.raises(SourceError, match=what) as error:
            mapping(impressions=sql)
        assert "own.yaml: tables.ad_performance.columns.impressions" in sentence(error)

    @pytest.mark.parametrize(
        ("sql", "what"),
        [
            ("no_such_function(Views)", "no_such_function"),
            ("Views - DATE '2024-01-01'", "impressions must be an SQL expression over the columns of f.csv"),
            ("sum(Views)", "impressions must be an SQL expression"),
            ("CAST(Ad AS INTEGER)", "TRY_CAST"),
        ],
    )
    def test_an_expression_that_does_not_fit_the_file(self, tmp_path, sql, what):
        with pytest.raises(SourceError, match=what) as error:
            inspect_file(
                mapping(impressions=sql), file_of(tmp_path, HEADER + "2024-01-01,c,a,10,1\n")
            ) if "CAST(" not in sql else (
                read_source(mapping(impressions=sql), file_of(tmp_path, HEADER + "2024-01-01,c,a,10,1\n"))
            )
        sentence(error)

    def test_no_mapping_and_no_yaml(self, tmp_path):
        with pytest.raises(SourceError, match=r"'google_ads', 'meta_ads'.*'gogle' is neither"):
            load_mapping("gogle")
        with pytest.raises(SourceError, match="cannot be read"):
            load_mapping(file_of(tmp_path, "name: [", "m.yaml"))
        with pytest.raises(SourceError, match="keys and values are required"):
            load_mapping(file_of(tmp_path, "just text", "m.yaml"))

    def test_a_mapping_written_to_a_file_is_the_same_mapping(self, tmp_path):
        path = file_of(tmp_path, yaml.safe_dump(content()), "m.yaml")
        assert load_mapping(path) == mapping()


class TestLandingPath:
    def test_a_file_below_the_root(self, tmp_path):
        (tmp_path / "google").mkdir()
        path = file_of(tmp_path / "google", "x")
        assert landing_path(tmp_path, tmp_path / "google" / ".." / "google" / "f.csv") == path.resolve()

    @pytest.mark.parametrize("outside", ["../secret.csv", "google/../../secret.csv", "/etc/passwd", "."])
    def test_outside_is_refused(self, tmp_path, outside):
        root = tmp_path / "landing"
        root.mkdir()
        file_of(tmp_path, "x", "secret.csv")
        with pytest.raises(SourceError, match=r"must lie below .*within ingest --copy"):
            landing_path(root, root / outside)

    def test_a_link_that_leads_outside_is_refused(self, tmp_path):
        root = tmp_path / "landing"
        root.mkdir()
        (root / "f.csv").symlink_to(file_of(tmp_path, "x", "secret.csv"))
        with pytest.raises(SourceError, match=r"leads to .*secret\.csv"):
            landing_path(root, root / "f.csv")

    def test_control_characters_and_missing_files(self, tmp_path):
        file_of(tmp_path, "x", "a\nb.csv")
        with pytest.raises(SourceError, match="control characters") as error:
            landing_path(tmp_path, tmp_path / "a\nb.csv")
        sentence(error)
        with pytest.raises(SourceError, match="there is no file"):
            landing_path(tmp_path, tmp_path / "none.csv")


class TestRows:
    @pytest.mark.parametrize(
        ("line", "code"),
        [
            ("soon,c,a,10,1", "date_missing_or_unreadable"),
            ("2024-01-01,c,a,-10,1", "impressions_below_minimum"),
            ("2024-01-01,c,a,NaN,1", "impressions_missing_or_unreadable"),
            ("2024-01-01,c,a,10.5,1", "impressions_missing_or_unreadable"),
            ("2024-01-01,c,a,10,11", "clicks_above_impressions"),
            ("2024-01-01,c,../x,10,1", "ad_id_not_an_identifier"),
            ("2024-01-01,c\x07,a,10,1", "campaign_id_not_an_identifier"),
            ("2024-01-01,c,,10,1", "ad_id_missing_or_unreadable"),
            ("2024-01-01,c,ok-0,99,1", "duplicate_key"),
            ("2024-01-01,c,a", "impressions_missing_or_unreadable"),
        ],
    )
    def test_a_bad_line_becomes_a_rejected_row_with_a_code(self, tmp_path, line, code):
        good = "".join(f"2024-01-01,c,ok-{i},10,1\n" for i in range(60))
        path = file_of(tmp_path, HEADER + good + line + "\n")
        found = audit(read_source(mapping(), path)["ad_performance"], PERFORMANCE)
        assert code in found.reasons
        assert found.rejected.num_rows <= 2
        check_share(found, PERFORMANCE)

    def test_too_many_bad_lines_block(self, tmp_path):
        path = file_of(tmp_path, HEADER + "2024-01-01,c,a,10,11\n2024-01-01,c,b,10,1\n")
        found = audit(read_source(mapping(), path)["ad_performance"], PERFORMANCE)
        with pytest.raises(
            ContractError, match=r"1 of 2 do .*clicks must be at most impressions.*Nothing was published"
        ) as error:
            check_share(found, PERFORMANCE)
        sentence(error)

    def test_an_unreadable_value_that_only_the_ads_have_is_rejected_there(self, tmp_path):
        broken = content()
        broken["tables"]["ads"] = {"columns": {"valid_from": 'day("Campaign")'}}
        path = file_of(tmp_path, HEADER + "2024-01-01,c,b,10,1\n")
        ads = read_source(mapping_from(broken, origin="own.yaml"), path)["ads"]
        assert set(audit(ads, CONTRACTS["ads"]).reasons) == {"valid_from_missing_or_unreadable"}

    @pytest.mark.parametrize("own_ads", [False, True])
    @pytest.mark.parametrize("line", ["2024-01-01,c,../x,10,1", "2024-01-01,,y,10,1", "soon,c,z,10,1"])
    def test_a_bad_row_makes_no_ad_so_that_it_is_rejected_once(self, tmp_path, line, own_ads):
        path = file_of(tmp_path, HEADER + line + "\n2024-01-01,c,b,10,1\n")
        broken = content()
        if own_ads:
            broken["tables"]["ads"] = {"columns": {"headline": "Ad"}}
            broken["tables"]["campaigns"] = {}
        tables = read_source(mapping_from(broken, origin="own.yaml"), path)
        assert tables["ads"]["ad_id"].to_pylist() == ["b"]
        assert audit(tables["campaigns"], CONTRACTS["campaigns"]).rejected.num_rows == 0
