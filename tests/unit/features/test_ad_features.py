"""Rows and values of ad_features against hand calculation and against a slow implementation in plain Python."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from within_ml.errors import InputError
from within_ml.features.catalog import AD_FEATURES, NUMERIC_AD_FEATURES, ad_features_contract
from within_ml.features.execution import Limits
from within_ml.features.runner import CONTENT_SCHEMA, compute_ad_features, missing_content
from within_ml.features.temporal import required_dates
from within_ml.features.text_keys import content_rows, text_hash_of


def computed(lake, first, last, **options) -> pa.Table:
    return pa.concat_tables(
        day.table
        for day in compute_ad_features(lake, first=first, last=last, **{"limits": Limits(threads=1), **options})
    )


AS_OF_THE_DAY = ("headline", "body", "audience_age", "audience_gender", "interests")


@pytest.fixture(scope="module")
def month(lake, on) -> pa.Table:
    return computed(lake, on(30), on(37))


def slow_ad_features(lake, d: date) -> dict[tuple, dict]:
    """The rows of one day, written as loops over all rows: nothing shared with the expressions."""
    perf = lake.tables["ad_performance"].to_pandas()
    perf = perf[(perf.date <= d) & (perf.date > d - timedelta(days=28))]
    ads, campaigns = lake.tables["ads"].to_pandas(), lake.tables["campaigns"].to_pandas()
    rows: dict[tuple, dict] = {}
    for key, facts in perf[perf.impressions > 0].groupby(["platform", "account_id", "ad_id"]):
        latest = facts.sort_values("date").iloc[-1]
        rows[key] = {"campaign_id": latest.campaign_id, "ad_group_id": latest.ad_group_id}
    start = {(c.platform, c.account_id, c.campaign_id): c.start_date for c in campaigns.itertuples()}
    for key, versions in ads.groupby(["platform", "account_id", "ad_id"]):
        first = versions.valid_from.min()
        for v in versions.itertuples():
            if v.valid_from <= d and (pd.isna(v.valid_to) or d < v.valid_to):
                begins = max(first, start.get((v.platform, v.account_id, v.campaign_id), first))
                if begins - timedelta(days=7) <= d < begins + timedelta(days=7):
                    rows.setdefault(key, {"campaign_id": v.campaign_id, "ad_group_id": v.ad_group_id})
                if key in rows:
                    born = v.created_at if not pd.isna(v.created_at) and v.created_at <= d else first
                    rows[key] |= {name: getattr(v, name) for name in AS_OF_THE_DAY}
                    rows[key]["ad_age_days"] = (d - born).days
    for (platform, account, ad), row in rows.items():
        row.update({"platform": platform, "account_id": account, "ad_id": ad, "day_of_week": d.weekday()})
        begins = start.get((platform, account, row["campaign_id"]))
        row["campaign_age_days"] = None if begins is None else (d - begins).days
        row["campaign_ads"] = sum(
            (p, a, r["campaign_id"]) == (platform, account, row["campaign_id"]) for (p, a, _), r in rows.items()
        )
        mine = {"platform": perf[perf.platform == platform]}
        mine["account"] = mine["platform"][mine["platform"].account_id == account]
        mine["campaign"] = mine["account"][mine["account"].campaign_id == row["campaign_id"]]
        mine["ad"] = mine["account"][mine["account"].ad_id == ad]
        row.update(slow_rates(mine, d))
        row["ad_days_served_28d"] = mine["ad"][mine["ad"].impressions > 0].date.nunique()
    return rows


def slow_rates(facts: dict[str, pd.DataFrame], d: date) -> dict:
    pseudo = {"platform": 100, "account": 400, "campaign": 400, "ad": 1000}
    names = dict(
        zip(pseudo, ("platform_prior_ctr", "account_prior_ctr", "campaign_prior_ctr", "prior_ctr"), strict=True)
    )
    out, parent, worth, cvr = {}, 0.01, None, None
    for level, k in pseudo.items():
        windows = {w: facts[level][facts[level].date > d - timedelta(days=w)] for w in (1, 7, 14, 28)}
        n, c = {}, {}
        for w, rows in windows.items():
            n[w], c[w] = rows.impressions.sum(), rows.clicks.sum()
            out |= {f"{level}_impressions_{w}d": n[w], f"{level}_clicks_{w}d": c[w]}
            out[f"{level}_ctr_{w}d"] = (c[w] + k * parent) / (n[w] + k)
            for m in ("spend", "conversions", "revenue"):
                out[f"{level}_{m}_{w}d"] = rows[m].sum(min_count=1)
            spend = out[f"{level}_spend_{w}d"]
            out[f"{level}_cpc_{w}d"] = spend / c[w] if c[w] else np.nan
            out[f"{level}_roas_{w}d"] = out[f"{level}_revenue_{w}d"] / spend if spend else np.nan
            conversions = out[f"{level}_conversions_{w}d"]
            if level in ("platform", "account"):
                out[f"{level}_cvr_{w}d"] = conversions / c[w] if c[w] else np.nan
            else:
                shrunk = (conversions + 100 * cvr) / (c[w] + 100)
                out[f"{level}_cvr_{w}d"] = cvr if np.isnan(conversions) else shrunk
        cvr = out[f"{level}_cvr_28d"]
        recent_n = n[7] + 0.5 * (n[14] - n[7]) + 0.1875 * (n[28] - n[14])
        recent_c = c[7] + 0.5 * (c[14] - c[7]) + 0.1875 * (c[28] - c[14])
        week = (c[7] + k * out[f"{level}_ctr_28d"]) / (n[7] + k)
        out[f"{level}_ctr_trend"] = np.log(week / out[f"{level}_ctr_28d"])
        parent = out[names[level]] = (recent_c + k * parent) / (recent_n + k)
        worth = recent_n + (k if worth is None else 1 / (1 / k + 1 / worth))
    out["prior_impressions"] = worth
    out["ad_vs_campaign_ctr"] = out["ad_ctr_28d"] / out["campaign_ctr_28d"]
    out["campaign_vs_account_ctr"] = out["campaign_ctr_28d"] / out["account_ctr_28d"]
    return out


@pytest.mark.parametrize("number", [0, 12, 35, 69, 90])
def test_equals_a_slow_implementation(lake, on, number):
    expected = slow_ad_features(lake, on(number))
    found = {
        (r["platform"], r["account_id"], r["ad_id"]): r for r in computed(lake, on(number), on(number)).to_pylist()
    }
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        for name in ["campaign_id", "ad_group_id", *AS_OF_THE_DAY]:
            assert found[key][name] == (None if pd.isna(row.get(name)) else row[name])
        for feature in NUMERIC_AD_FEATURES:
            want = row.get(feature.name)
            got = found[key][feature.name]
            message = f"{feature.name} of {key}"
            np.testing.assert_allclose(
                np.array(got, dtype=float), np.array(want, dtype=float), rtol=1e-12, atol=1e-12, err_msg=message
            )


def test_small_example_by_hand(rows_of, make_lake, on):
    """100 impressions and 4 clicks yesterday, 300 and 3 ten days ago; the platform is this ad alone."""
    ad = {"platform": "google", "account_id": "a", "campaign_id": "c", "ad_group_id": "g", "ad_id": "1", "region": "x"}
    facts = [
        {**ad, "date": on(29), "impressions": 100, "clicks": 4, "spend": 2.0},
        {**ad, "date": on(20), "impressions": 300, "clicks": 3, "spend": None},
    ]
    lake = make_lake(0, accounts=0).changed(ad_performance=rows_of("ad_performance", facts))
    (row,) = computed(lake, on(30), on(30)).to_pylist()
    assert (row["ad_impressions_1d"], row["ad_impressions_7d"], row["ad_impressions_28d"]) == (0, 100, 400)
    assert (row["ad_spend_1d"], row["ad_spend_28d"], row["ad_cpc_28d"]) == (None, 2.0, 2 / 7)
    # Recent sums 100 + 300 / 2 and 4 + 3 / 2, shrunk to 1 %, then each level to the one above.
    platform = (5.5 + 1) / (250 + 100)
    account = (5.5 + 400 * platform) / (250 + 400)
    campaign = (5.5 + 400 * account) / (250 + 400)
    assert row["prior_ctr"] == pytest.approx((5.5 + 1000 * campaign) / (250 + 1000), rel=1e-14)
    assert (row["headline"], row["ad_age_days"], row["ad_cvr_28d"]) == (None, None, None)


@pytest.mark.parametrize("cut", [[30, 34, 37], [31, 32, 33, 37]])
def test_any_cut_of_a_range_gives_the_same_rows(lake, on, month, cut):
    """Single days run as conditional sums, ranges as windows: this also holds the two plans equal, bit by bit."""
    starts = [30, *[c + 1 for c in cut[:-1]]]
    parts = [computed(lake, on(a), on(b)) for a, b in zip(starts, cut, strict=True)]
    assert pa.concat_tables(parts).combine_chunks().equals(month.combine_chunks())


@pytest.mark.parametrize("rows_per_bucket", [1, 200])
def test_buckets_change_nothing(lake, on, month, rows_per_bucket):
    found = computed(lake, on(30), on(37), limits=Limits(rows_per_bucket=rows_per_bucket, memory="300MB", threads=2))
    assert found.combine_chunks().equals(month.combine_chunks())


def test_order_of_input_rows_changes_nothing(lake, on, month):
    shuffled = {
        name: t.take(np.random.default_rng(3).permutation(t.num_rows)) for name, t in lake.tables.items() if t.num_rows
    }
    assert computed(lake.changed(**shuffled), on(30), on(37)).combine_chunks().equals(month.combine_chunks())


def test_rows_follow_the_contract(month):
    contract = ad_features_contract()
    assert month.schema == contract.schema
    assert [c.name for c in contract.columns if not c.nullable and month[c.name].null_count] == []
    keys = month.select(list(contract.key)).to_pandas()
    assert not keys.duplicated().any()
    numbers = month.select([f.name for f in AD_FEATURES]).to_pandas().to_numpy(dtype=float)
    assert not np.isinf(numbers).any()


@pytest.mark.parametrize("scope", [{"accounts": ["acc-1"]}, {"campaigns": ["cmp-0-1", "cmp-2-0"]}])
def test_narrowed_run_gives_the_same_values(lake, on, month, scope):
    found = computed(lake, on(30), on(37), **scope)
    whole = month.to_pandas()
    column, values = ("account_id", scope["accounts"]) if "accounts" in scope else ("campaign_id", scope["campaigns"])
    assert found.num_rows > 0
    pd.testing.assert_frame_equal(found.to_pandas(), whole[whole[column].isin(values)].reset_index(drop=True))


def test_new_ad_has_a_row_before_its_campaign_starts_and_its_parents_rate(lake, rows_of, on):
    ad = {"platform": "google", "account_id": "acc-0", "campaign_id": "new", "ad_group_id": "g", "ad_id": "new"}
    ads = pa.concat_tables([lake.tables["ads"], rows_of("ads", [{**ad, "headline": "Hi", "valid_from": on(39)}])])
    start = {k: ad[k] for k in ("platform", "account_id", "campaign_id")} | {"start_date": on(40)}
    campaigns = pa.concat_tables([lake.tables["campaigns"], rows_of("campaigns", [start])])
    rows = computed(lake.changed(ads=ads, campaigns=campaigns), on(36), on(48)).to_pandas()
    new = rows[rows.ad_id == "new"]
    assert list(new.date) == [on(d) for d in range(39, 47)]
    assert (new.prior_ctr == new.account_prior_ctr).all()
    assert (new.ad_impressions_28d == 0).all()
    assert list(new.campaign_age_days) == list(range(-1, 7))


def test_audience_is_the_one_of_the_day(lake, month, on):
    rows = month.to_pandas()
    versions = lake.tables["ads"].to_pandas()
    changed = versions[versions.ad_id == "ad-0-3"].sort_values("valid_from")
    assert changed.audience_age.tolist() == ["25-34", "unknown"]
    assert set(rows.audience_age.dropna()) == {"25-34", "unknown"}
    assert rows.loc[rows.headline.isna(), ["audience_age", "audience_gender", "interests"]].isna().all(axis=None)
    day = changed.valid_from.iloc[1]
    around = computed(lake, day - timedelta(days=1), day).to_pandas()
    seen = around[around.ad_id == "ad-0-3"].sort_values("date")
    assert seen.audience_age.tolist() == ["25-34", "unknown"]
    assert seen.interests.fillna("none").tolist() == ["cars,food", "none"]


def test_money_all_null_is_null_everywhere(month):
    rows = month.to_pandas()
    silent = rows[rows.account_id == "acc-1"]
    money = [
        f.name for f in NUMERIC_AD_FEATURES if any(m in f.name for m in ("spend", "revenue", "cpc", "cvr", "roas"))
    ]
    assert len(silent) > 10
    assert silent[money].isna().all(axis=None)
    assert rows.loc[rows.account_id == "acc-0", money].notna().any().all()


def test_no_facts_no_ads_no_campaigns(empty_lake, lake, on):
    days = list(compute_ad_features(empty_lake, first=on(1), last=on(3)))
    assert [(d.date, d.table.num_rows) for d in days] == [(on(1), 0), (on(2), 0), (on(3), 0)]
    assert days[0].table.schema == ad_features_contract().schema
    only_ads = computed(empty_lake.changed(ads=lake.tables["ads"]), on(40), on(40)).to_pandas()
    assert len(only_ads) > 0
    assert (only_ads.prior_ctr == 0.01).all()


def test_text_features_are_joined_by_text(lake, on):
    texts = missing_content(lake, None, last=on(45))
    content = content_rows(texts)
    assert missing_content(lake, content, last=on(45)).num_rows == 0
    assert content.column_names == CONTENT_SCHEMA.names
    rows = computed(lake, on(45), on(45), content=content).to_pandas()
    known = rows[rows.headline.notna()]
    assert (known.text_length == known.headline.str.len()).all()
    assert rows[rows.headline.isna()].text_length.isna().all()


def test_text_key_is_the_same_in_python(lake, on):
    texts = missing_content(lake, None, last=on(99)).to_pylist()
    assert [t["text_hash"] for t in texts] == [text_hash_of(t["headline"], t["body"]) for t in texts]
    assert text_hash_of(None, "a") != text_hash_of("", "a")
    assert text_hash_of("a", "bc") != text_hash_of("ab", "c")


def test_what_is_asked_must_make_sense(lake, on):
    with pytest.raises(InputError, match="first ≤ last"):
        next(compute_ad_features(lake, first=on(2), last=on(1)))
    with pytest.raises(InputError, match="text_hash"):
        next(compute_ad_features(lake, first=on(1), last=on(1), content=pa.table({"text_length": [1.0]})))
    with pytest.raises(InputError, match="rows_per_bucket"):
        Limits(rows_per_bucket=0)


def test_required_dates_are_the_windows_days(lake, on, month):
    days = required_dates(on(30), on(37))
    perf = lake.tables["ad_performance"].to_pandas()
    kept = pa.Table.from_pandas(perf[perf.date.isin(days)], schema=lake.tables["ad_performance"].schema)
    assert computed(lake.changed(ad_performance=kept), on(30), on(37)).combine_chunks().equals(month.combine_chunks())
