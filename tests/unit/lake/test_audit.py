"""The audit: every reason has its code, nothing good is lost, what is rejected can be replayed."""

import json
import math
import re
from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from within_ml.errors import ContractError, InputError
from within_ml.lake.audit import audit, check_share, rows_from_json
from within_ml.lake.contracts import CONTRACTS, ID_PATTERN

PERFORMANCE = CONTRACTS["ad_performance"]


def performance(rows: list[dict]) -> pa.Table:
    good = {
        "date": date(2024, 1, 1),
        "platform": "google",
        "account_id": "acme",
        "campaign_id": "c",
        "ad_group_id": "g",
        "region": "unknown",
        "impressions": 100,
        "clicks": 3,
        "spend": 1.5,
        "conversions": None,
        "revenue": None,
        "source_file": "f.csv",
    }
    full = [good | {"ad_id": f"ad-{i}"} | row for i, row in enumerate(rows)]
    return pa.Table.from_pylist(full, schema=pa.schema([(c.name, c.type) for c in PERFORMANCE.columns]))


class TestReasons:
    @pytest.mark.parametrize(
        ("change", "codes"),
        [
            ({"impressions": None}, {"impressions_missing_or_unreadable"}),
            ({"date": None}, {"date_missing_or_unreadable"}),
            ({"clicks": -1}, {"clicks_below_minimum"}),
            ({"clicks": 101}, {"clicks_above_impressions"}),
            ({"spend": math.nan}, {"spend_not_finite"}),
            ({"revenue": math.inf}, {"revenue_not_finite"}),
            ({"conversions": -math.inf}, {"conversions_not_finite", "conversions_below_minimum"}),
            ({"ad_id": "../../etc"}, {"ad_id_not_an_identifier"}),
            ({"campaign_id": "a\nb"}, {"campaign_id_not_an_identifier"}),
            ({"account_id": "x" * 201}, {"account_id_not_an_identifier"}),
            ({"account_id": "back\\slash"}, {"account_id_not_an_identifier"}),
            ({"region": ""}, {"region_not_an_identifier"}),
            ({"clicks": -1, "spend": -2.0}, {"clicks_below_minimum", "spend_below_minimum"}),
        ],
    )
    def test_a_bad_row_gets_all_its_codes_and_its_neighbours_stay(self, change, codes):
        found = audit(performance([{}, change, {}]), PERFORMANCE)
        assert set(found.reasons) == codes
        assert found.accepted["ad_id"].to_pylist() == ["ad-0", "ad-2"]
        assert set(found.rejected["reasons"].to_pylist()[0].split(",")) == codes

    def test_long_names_in_many_bytes_are_ids(self):
        assert audit(performance([{"ad_id": "é" * 150}, {"ad_id": "広告 1"}]), PERFORMANCE).reasons == {}

    def test_range_of_scores(self):
        regions = pa.table({"region": ["CA", "XX"], "country": ["US", "US"], "latitude": [36.0, 91.0]})
        assert audit(regions, CONTRACTS["regions"]).reasons == {"latitude_above_maximum": 1}


class TestDuplicates:
    def test_different_rows_with_one_key_are_all_rejected(self):
        found = audit(performance([{"ad_id": "x"}, {"ad_id": "x", "clicks": 4}, {}]), PERFORMANCE)
        assert found.reasons == {"duplicate_key": 2}
        assert found.accepted["ad_id"].to_pylist() == ["ad-2"]

    def test_an_exact_copy_is_rejected_once_and_the_first_kept(self):
        found = audit(performance([{"ad_id": "x"}, {}, {"ad_id": "x", "source_file": "other.csv"}]), PERFORMANCE)
        assert found.reasons == {"repeated_row": 1}
        assert found.accepted["source_file"].to_pylist() == ["f.csv", "f.csv"]

    def test_another_region_is_another_key(self):
        rows = performance([{"ad_id": "x", "region": "CA"}, {"ad_id": "x", "region": "NY"}])
        assert audit(rows, PERFORMANCE).reasons == {}


class TestSchema:
    def test_a_missing_column_blocks(self):
        with pytest.raises(ContractError, match="'clicks' is missing"):
            audit(performance([{}]).drop_columns("clicks"), PERFORMANCE)

    def test_a_narrowed_column_blocks(self):
        rows = performance([{}])
        narrow = rows.set_column(rows.column_names.index("clicks"), "clicks", rows["clicks"].cast(pa.int32()))
        with pytest.raises(ContractError, match=r"clicks must be int64; int32 came"):
            audit(narrow, PERFORMANCE)

    def test_an_unknown_column_blocks(self):
        with pytest.raises(ContractError, match="'ctr' is unknown"):
            audit(performance([{}]).append_column("ctr", pa.array([0.1])), PERFORMANCE)

    def test_other_encodings_of_text_pass_and_absent_nullable_columns_are_null(self):
        rows = performance([{}]).drop_columns(["spend"])
        encoded = rows.set_column(1, "platform", rows["platform"].dictionary_encode())
        found = audit(encoded, PERFORMANCE).accepted
        assert found.schema.equals(PERFORMANCE.schema)
        assert found["spend"].to_pylist() == [None]

    def test_no_rows_are_a_typed_table_of_no_rows(self):
        found = audit(performance([]), PERFORMANCE)
        assert (found.accepted.num_rows, found.rejected.num_rows, found.rejected_share) == (0, 0, 0.0)
        assert found.accepted.schema.equals(PERFORMANCE.schema)


class TestShare:
    def test_five_percent_pass_and_more_block_with_counts_by_code(self):
        rows = [{"clicks": -1}] * 5 + [{}] * 95
        check_share(audit(performance(rows), PERFORMANCE), PERFORMANCE)
        with pytest.raises(ContractError, match=r"6 of 100 do \(clicks_above_impressions 6\)"):
            check_share(audit(performance([{"clicks": 999}] * 6 + [{}] * 94), PERFORMANCE), PERFORMANCE)

    def test_names_with_slashes_as_ids_name_the_way_out(self):
        with pytest.raises(ContractError, match=r"no slash .* replace\(\)"):
            check_share(audit(performance([{"campaign_id": "Brand / Search"}]), PERFORMANCE), PERFORMANCE)

    def test_duplicates_name_the_way_out(self):
        with pytest.raises(ContractError, match="aggregate: true"):
            check_share(audit(performance([{"ad_id": "x"}, {"ad_id": "x", "clicks": 4}]), PERFORMANCE), PERFORMANCE)


class TestReplay:
    def test_rejected_rows_come_back_as_they_were(self):
        bad = performance([{"clicks": -1}, {"spend": math.inf}, {"date": None, "ad_id": 'quote " and ü'}])
        found = audit(bad, PERFORMANCE).rejected
        again = rows_from_json(found["row"].to_pylist(), PERFORMANCE)
        assert again.equals(bad)
        assert found["date"].to_pylist() == [date(2024, 1, 1), date(2024, 1, 1), None]
        assert found["table"].to_pylist() == ["ad_performance"] * 3

    def test_a_corrected_row_passes(self):
        text = audit(performance([{"clicks": 101}]), PERFORMANCE).rejected["row"].to_pylist()[0]
        corrected = json.dumps(json.loads(text) | {"clicks": 100})
        assert audit(rows_from_json([corrected], PERFORMANCE), PERFORMANCE).reasons == {}

    @pytest.mark.parametrize("text", ["no json", "[1]", '{"clicks": "many"}', '{"date": "soon"}'])
    def test_what_is_no_row_is_refused(self, text):
        with pytest.raises(InputError, match="Replay only what the audit wrote"):
            rows_from_json([text], PERFORMANCE)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "ad_id": st.text(max_size=3) | st.none(),
                "impressions": st.integers(-5, 5) | st.none(),
                "clicks": st.integers(-5, 5),
                "spend": st.floats() | st.none(),
            }
        ),
        max_size=8,
    )
)
def test_every_row_is_accepted_or_rejected_and_the_accepted_keep_the_contract(rows):
    found = audit(performance(rows), PERFORMANCE)
    accepted = found.accepted.to_pylist()
    assert len(accepted) + found.rejected.num_rows == len(rows)
    assert all(re.match(ID_PATTERN, row["ad_id"]) and 0 <= row["clicks"] <= row["impressions"] for row in accepted)
    assert all(row["spend"] is None or (math.isfinite(row["spend"]) and row["spend"] >= 0) for row in accepted)
    assert audit(found.accepted, PERFORMANCE).reasons == {}
    assert all(found.rejected["reasons"].to_pylist())


class TestJsonLists:
    @pytest.mark.parametrize(
        ("reasons", "codes"),
        [
            ('[{"text": "shorter"}]', set()),
            ("[]", set()),
            ('{"text": "shorter"}', {"reasons_no_json_list"}),
            ("shorter", {"reasons_no_json_list"}),
            (None, {"reasons_missing_or_unreadable"}),
        ],
    )
    def test_a_list_that_is_promised_must_be_one(self, reasons, codes):
        contract = CONTRACTS["ad_score_analysis"]
        row = dict.fromkeys(contract.names) | {
            "date": date(2024, 1, 1), "platform": "google", "account_id": "a", "campaign_id": "c", "ad_group_id": "g",
            "ad_id": "1", "base_ctr": 0.01, "predicted_ctr": 0.02, "similar_ads": "[]", "suggestions": "[]",
        }  # fmt: skip
        schema = pa.schema([(c.name, c.type) for c in contract.columns])
        rows = pa.Table.from_pylist([row | {"reasons": reasons}], schema=schema)
        assert set(audit(rows, contract).reasons) == codes
