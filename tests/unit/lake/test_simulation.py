from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from within_ml.errors import InputError
from within_ml.lake.contracts import CONTRACTS, ID_PATTERN
from within_ml.lake.simulation import Agency, SimulationConfig, simulate, write_landing, write_truth
from within_ml.lake.simulation.process import DELAY
from within_ml.lake.simulation.world import distances_km, us_states

DIMENSIONS = ("regions", "accounts", "campaigns", "ads")
SMALL = SimulationConfig(accounts=8, days=40, anomalies=4, seed=3)
STEADY = SimulationConfig(
    accounts=48,
    days=112,
    seed=11,
    churn_share=0.0,
    false_alarm_share=0.0,
    new_account_share=0.0,
    anomalies=0,
    drift_size=0.0,
    daily_noise=0.0,
    fatigue=0.0,
)


def performance(agency: Agency, **days) -> pa.Table:
    return pa.concat_tables(agency.performance(**days))


def query(sql: str, **tables: pa.Table) -> list[tuple]:
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(sql).fetchall()


def select(sql: str, **tables: pa.Table) -> pa.Table:
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(sql).to_arrow_table()


def rate_ratio(strata: str, exposed: str, **tables: pa.Table) -> float:
    """Mantel-Haenszel rate ratio of clicks per impression (Rothman, Modern Epidemiology, stratified person-time data)."""
    rows = query(
        f"""
        with cell as (
          select {strata},
            coalesce(sum(clicks) filter ({exposed}), 0) a, coalesce(sum(impressions) filter ({exposed}), 0) n1,
            coalesce(sum(clicks) filter (not ({exposed})), 0) b,
            coalesce(sum(impressions) filter (not ({exposed})), 0) n0
          from p group by all)
        select sum(a * n0 / (n0 + n1)) / sum(b * n1 / (n0 + n1)) from cell where n0 + n1 > 0
        """,
        **tables,
    )
    return rows[0][0]


@pytest.fixture(scope="module")
def small() -> Agency:
    return simulate(SMALL)


@pytest.fixture(scope="module")
def small_rows(small: Agency) -> pa.Table:
    return performance(small)


@pytest.fixture(scope="module")
def default() -> Agency:
    return simulate()


@pytest.fixture(scope="module")
def default_rows(default: Agency) -> pa.Table:
    return performance(default)


@pytest.fixture(scope="module")
def tables(default: Agency, default_rows: pa.Table) -> dict[str, pa.Table]:
    return {**default.dimensions(), "ad_performance": default_rows}


@pytest.fixture(scope="module")
def steady() -> Agency:
    return simulate(STEADY)


@pytest.fixture(scope="module")
def steady_rows(steady: Agency) -> pa.Table:
    return performance(steady)


class TestDeterminism:
    def test_same_configuration_gives_the_same_bytes(self, tmp_path: Path):
        digests = []
        for name in ("once", "again"):
            agency = simulate(SMALL)
            write_landing(agency, tmp_path / name / "landing")
            write_truth(agency, tmp_path / name / "truth")
            files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
            digests.append(
                [(str(p.relative_to(tmp_path / name)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]
            )
        assert digests[0] == digests[1]
        assert len(digests[0]) > 10

    def test_another_seed_gives_another_agency(self, small: Agency):
        other = simulate(dataclasses.replace(SMALL, seed=4))
        assert not other.ads.equals(small.ads)
        assert not next(other.performance()).equals(next(small.performance()))

    @settings(max_examples=25, deadline=None)
    @given(
        size=st.integers(1, 60),
        first=st.integers(0, SMALL.days - 1),
        length=st.integers(1, SMALL.days),
    )
    def test_chunks_and_ranges_never_change_the_rows(
        self, small: Agency, small_rows: pa.Table, size: int, first: int, length: int
    ):
        begin = SMALL.start_date + timedelta(days=first)
        end = min(begin + timedelta(days=length - 1), SMALL.last_date)
        expected = small_rows.filter((pc.field("date") >= begin) & (pc.field("date") <= end))
        chunks = list(small.performance(first=begin, last=end, days_per_chunk=size))
        assert pa.concat_tables(chunks).equals(expected)
        assert len(chunks) == -(-((end - begin).days + 1) // size)


class TestContracts:
    @pytest.mark.parametrize("name", [*DIMENSIONS, "ad_performance"])
    def test_schema_keys_and_rules(self, tables: dict[str, pa.Table], name: str):
        contract, table = CONTRACTS[name], tables[name]
        assert table.schema == contract.schema
        keys = ", ".join(contract.key)
        assert query(f"select count(*) from (select {keys} from t group by all having count(*) > 1)", t=table) == [(0,)]
        for rule in contract.rules:
            assert query(f"select count(*) from t where {rule.sql}", t=table) == [(0,)], rule.code

    @pytest.mark.parametrize("name", [*DIMENSIONS, "ad_performance"])
    def test_values_of_each_column(self, tables: dict[str, pa.Table], name: str):
        for column in CONTRACTS[name].columns:
            values = tables[name].column(column.name)
            assert column.nullable or values.null_count == 0, column.name
            if column.minimum is not None:
                assert pc.min(values).as_py() >= column.minimum, column.name
                assert pc.all(pc.is_finite(values)).as_py(), column.name
            if column.identifier:
                assert all(re.match(ID_PATTERN, value) for value in values.unique().to_pylist()), column.name

    def test_rows_are_in_contract_order(self, tables: dict[str, pa.Table]):
        for name, table in tables.items():
            order = [(key, "ascending") for key in CONTRACTS[name].sort_by]
            days = [("date", "ascending")] if name == "ad_performance" else []
            assert table.sort_by([*days, *order]).equals(table.combine_chunks()), name

    def test_references_resolve(self, tables: dict[str, pa.Table]):
        unknown = """
            select count(*) from ad_performance p
            left join ads using (platform, account_id, ad_id, campaign_id, ad_group_id)
            left join campaigns c using (platform, account_id, campaign_id)
            left join accounts a using (account_id) left join regions r using (region)
            where ads.headline is null or c.objective is null or a.name is null or r.state is null
        """
        assert query(unknown, **tables) == [(0,)]

    def test_unattributed_and_empty_days_are_typed(self):
        # All accounts leave on the second day at the latest, so that later days have no rows.
        agency = simulate(SimulationConfig(accounts=3, days=5, churn_share=1.0, false_alarm_share=0.0, seed=2))
        days = list(agency.performance())
        assert len(days) == 5
        assert days[-1].num_rows == 0
        assert days[-1].schema == CONTRACTS["ad_performance"].schema
        assert [t.num_rows for t in agency.true_ctr()][-1] == 0

    @pytest.mark.parametrize(
        "config",
        [
            SimulationConfig(accounts=1, days=1),
            SimulationConfig(accounts=1, days=2, churn_share=1.0, false_alarm_share=0.0),
            SimulationConfig(accounts=2, days=3, regions_per_campaign=50, ads_per_campaign=1, campaigns_per_account=1),
            SimulationConfig(accounts=5, days=30, platforms=("tiktok",), max_images=1, new_account_share=1.0),
        ],
        ids=["least", "leaving", "all regions", "one platform"],
    )
    def test_extreme_configurations(self, config: SimulationConfig, tmp_path: Path):
        agency = simulate(config)
        assert write_landing(agency, tmp_path / "landing").rows == performance(agency).num_rows
        assert write_truth(agency, tmp_path / "truth").files


class TestTruth:
    def test_clicks_follow_the_true_ctr(self, default: Agency, default_rows: pa.Table):
        rows = query(
            """
            with ad_day as (select date, ad_id, sum(clicks) clicks, sum(impressions) impressions from p group by all)
            select (sum(clicks) - sum(t.impressions * true_ctr))
                   / sqrt(sum(t.impressions * true_ctr * (1 - true_ctr))),
                   bool_and(ad_day.impressions = t.impressions)
            from ad_day join t using (date, ad_id) group by ad_id
            """,
            p=default_rows,
            t=pa.concat_tables(default.true_ctr()),
        )
        z = np.array([row[0] for row in rows])
        assert len(z) > 2000
        assert abs(z.mean()) < 4 / np.sqrt(len(z))
        assert 0.93 < z.std() < 1.07
        assert all(row[1] for row in rows)

    def test_conversions_follow_the_true_cvr(self, default: Agency, default_rows: pa.Table):
        observed, expected = query(
            """
            with ad_day as (select date, ad_id, sum(clicks) clicks, sum(conversions) conversions from p group by all)
            select sum(conversions), sum(clicks * true_cvr) from ad_day join t using (date, ad_id)
            """,
            p=default_rows,
            t=pa.concat_tables(default.true_ctr()),
        )[0]
        assert abs(observed - expected) < 4 * np.sqrt(expected)

    def test_truth_has_the_rows_of_performance(self, default: Agency, default_rows: pa.Table):
        truth = pa.concat_tables(default.true_ctr(days_per_chunk=30))
        assert query("select count(distinct (date, ad_id)) from p", p=default_rows) == [(truth.num_rows,)]
        assert pc.min(truth["true_ctr"]).as_py() > 0
        assert pc.max(truth["true_ctr"]).as_py() < 1

    def test_levels_are_those_of_real_platforms(self, default_rows: pa.Table):
        # Search ads around 3 %, social feeds around 1 %: WordStream's published benchmarks of 2023.
        rows = query("select platform, sum(clicks) / sum(impressions) from p group by 1", p=default_rows)
        ctr = dict(rows)
        assert 0.015 < ctr["google"] < 0.06
        assert 0.005 < ctr["meta"] < 0.03
        assert ctr["tiktok"] < ctr["meta"] < ctr["google"]


class TestEffects:
    @pytest.mark.parametrize("industry", ["retail", "software"])
    def test_weekday_effect_is_recovered(self, steady: Agency, steady_rows: pa.Table, industry: str):
        planted = dict(query("select key, effect from e where kind = 'weekday'", e=steady.effects))
        table = select(
            f"select p.* from p join a using (account_id) where industry = '{industry}'",
            p=steady_rows,
            a=steady.accounts,
        )
        weekend = table.filter(pc.is_in(pc.day_of_week(table["date"]), value_set=pa.array([1, 6])))
        ratio = rate_ratio("ad_id, region, date_trunc('week', date)", "isodow(date) = 7", p=weekend)
        # A ratio of rates is that of odds times (1 - ctr) terms; at a ctr below 6 % they stay within a few per mille.
        assert np.log(ratio) == pytest.approx(planted[f"{industry}/7"] - planted[f"{industry}/2"], abs=0.03)

    @pytest.mark.parametrize(("fatigue", "low", "high"), [(0.0, -0.06, 0.06), (0.5, -0.75, -0.35)])
    def test_fatigue_lowers_the_ctr_of_old_ads(self, fatigue: float, low: float, high: float):
        # log(1 + age / 14) averages about 0.2 in the first week and 1.25 after four weeks: the ratio's log is near
        # -1.05 times the fatigue, times the mean of its spread over ads, exp(0.4 ** 2 / 2) = 1.08.
        agency = simulate(dataclasses.replace(STEADY, fatigue=fatigue, weekday_strength=0.0))
        aged = select(
            """
            select p.*, date - begun age from p join (select ad_id, min(date) begun from p group by 1) using (ad_id)
            where begun > date '2024-01-01' and (age < 7 or age >= 28)
            """,
            p=performance(agency),
        )
        assert low < np.log(rate_ratio("ad_id, region", "age >= 28", p=aged)) < high

    def test_headline_words_tell_part_of_the_quality(self, default: Agency, default_rows: pa.Table):
        rows = query(
            """
            with ad as (
              select p.*, sum(clicks) over w / sum(impressions) over w base from
                (select platform, account_id, campaign_id, ad_id, sum(clicks) clicks, sum(impressions) impressions
                 from p group by all) p
              window w as (partition by campaign_id))
            select headline, ln((clicks + 5) / (impressions * base + 5)), e.effect
            from ad join ads using (ad_id) join e on e.kind = 'text' and e.key = ad_id where impressions > 2000
            """,
            p=default_rows,
            ads=default.ads,
            e=default.effects,
        )
        vocabulary = sorted({word for row in rows for word in row[0].lower().split()})
        column = {word: i for i, word in enumerate(vocabulary)}
        words = np.zeros((len(rows), len(vocabulary)))
        for i, row in enumerate(rows):
            words[i, [column[word] for word in row[0].lower().split()]] = 1.0
        y, truth = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
        train = np.arange(len(rows)) % 2 == 0
        ridge = np.linalg.solve(words[train].T @ words[train] + 5 * np.eye(len(vocabulary)), words[train].T @ y[train])
        assert np.corrcoef(words[~train] @ ridge, truth[~train])[0, 1] > 0.5

    def test_themes_please_some_audiences_more(self, steady: Agency, steady_rows: pa.Table):
        # The same themes in the same groups, without that taste: what is left is the planted interaction.
        plain = simulate(dataclasses.replace(STEADY, audience_strength=0.0))
        rows = query(
            """
            with ad as (select ad_id, sum(true_ctr * impressions) / sum(impressions) ctr from t group by 1),
              base as (select ad_id, sum(true_ctr * impressions) / sum(impressions) ctr from u group by 1)
            select ln(ad.ctr / (1 - ad.ctr)) - ln(base.ctr / (1 - base.ctr)), effect
            from ad join base using (ad_id) join e on e.kind = 'audience_match' and e.key = ad_id
            """,
            t=pa.concat_tables(steady.true_ctr()),
            u=pa.concat_tables(plain.true_ctr()),
            e=steady.effects,
        )
        found, planted = np.array(rows).T
        assert found == pytest.approx(planted, abs=0.01)
        assert planted.std() == pytest.approx(0.15, abs=0.03)
        by_theme = query("select avg(effect) from e where kind = 'audience_theme' group by split_part(key, '/', 2)",
                         e=steady.effects)  # fmt: skip
        assert np.abs(np.array(by_theme)).max() < 1e-9

    def test_region_effects_show_in_clicks(self, steady: Agency, steady_rows: pa.Table):
        rows = query(
            """
            select ln(sum(clicks) / sum(p.impressions * true_ctr)), any_value(effect)
            from p join t using (date, ad_id) join e on e.kind = 'region' and e.key = region group by region
            """,
            p=steady_rows,
            t=pa.concat_tables(steady.true_ctr()),
            e=steady.effects,
        )
        observed, planted = np.array(rows).T
        assert len(rows) > 45
        assert np.corrcoef(observed, planted)[0, 1] > 0.8

    def test_a_year_has_seasons(self):
        agency = simulate(dataclasses.replace(STEADY, accounts=32, days=366))
        winter, summer = query(
            """
            select sum(impressions) filter (month(date) in (11, 12)) / 61,
                   sum(impressions) filter (month(date) in (5, 6)) / 61
            from p join a using (account_id) where industry = 'retail'
            """,
            p=performance(agency),
            a=agency.accounts,
        )[0]
        # Retail peaks in early December with a quarter on the log scale: exp(2 * 0.25 * 0.94) = 1.6 between the ends.
        assert 1.3 < winter / summer < 2.0

    def test_near_regions_resemble_each_other(self):
        # Over many seeds, so that the field's covariance shows and not one draw of it.
        draws = []
        for seed in range(60):
            agency = simulate(SimulationConfig(accounts=1, days=1, seed=seed))
            draws.append(dict(query("select key, effect from e where kind = 'region'", e=agency.effects)))
        of = {code: np.array([draw[code] for draw in draws]) for code in ("US-CT", "US-RI", "US-HI")}
        assert np.corrcoef(of["US-CT"], of["US-RI"])[0, 1] > 0.6
        assert abs(np.corrcoef(of["US-CT"], of["US-HI"])[0, 1]) < 0.4

    def test_drift_moves_the_first_platform_on_its_day(self):
        config = dataclasses.replace(STEADY, drift_size=0.5, drift_date=date(2024, 3, 4), text_strength=0.0)
        drifted, steady = simulate(config), simulate(dataclasses.replace(config, drift_size=0.0))
        shift = query(
            """
            select date < $$2024-03-04$$, platform, avg(ln(d.true_ctr) - ln(s.true_ctr))
            from d join s using (date, ad_id, platform) group by 1, 2
            """,
            d=pa.concat_tables(drifted.true_ctr()),
            s=pa.concat_tables(steady.true_ctr()),
        )
        before = [row[2] for row in shift if row[0]]
        after = {row[1]: row[2] for row in shift if not row[0]}
        assert before == pytest.approx([0.0] * 3)
        assert after["google"] - (after["meta"] + after["tiktok"]) / 2 == pytest.approx(-0.5, abs=0.1)
        assert drifted.drift_date == date(2024, 3, 4)


class TestEvents:
    def test_no_rows_after_an_account_left(self, default: Agency, default_rows: pa.Table):
        left = default.churn.filter(pc.is_valid(default.churn["churned_date"]))
        assert left.num_rows == 6  # 15 % of 40 accounts
        late = "select count(*) from p join c using (account_id) where date >= churned_date"
        assert query(late, p=default_rows, c=left) == [(0,)]
        told = default.accounts.filter(pc.is_valid(default.accounts["churned_date"]))
        assert told["account_id"].to_pylist() == left["account_id"].to_pylist()

    def test_accounts_shrink_before_they_leave(self):
        agency = simulate(SimulationConfig(accounts=40, days=200, churn_share=0.5, false_alarm_share=0.0, anomalies=0))
        change = query(
            """
            with day as (select account_id, date, sum(impressions) n from p group by all)
            select median(lost) from (
              select avg(n) filter (date >= churned_date - 7 and date < churned_date)
                     / avg(n) filter (date < decline_start) lost
              from day join c using (account_id) where decline_start > $$2024-01-28$$ group by account_id)
            """,
            p=performance(agency),
            c=agency.churn,
        )[0][0]
        # A quarter is left on the last day, a little more on the days before.
        assert 0.15 < change < 0.6

    def test_false_alarms_recover(self, default: Agency):
        back = default.churn.filter(pc.is_valid(default.churn["recovered_date"]))
        assert back.num_rows == 4  # 10 % of 40 accounts
        assert back["churned_date"].null_count == 4
        assert query("select bool_and(decline_start < lowest_date and lowest_date < recovered_date) from c", c=back)[0][
            0
        ]

    def test_planted_anomalies_are_visible(self, default: Agency, default_rows: pa.Table):
        found = query(
            """
            with day as (
              select a.start_date, a.account_id, a.metric, a.cause, a.factor, date >= a.start_date inside,
                sum(impressions) / count(distinct date) impressions, sum(clicks) / sum(impressions) ctr,
                sum(spend) / sum(clicks) cpc, sum(conversions) / sum(clicks) cvr
              from p join a on p.account_id = a.account_id and p.date between a.start_date - 14 and a.end_date
                and (a.campaign_id is null or a.campaign_id = p.campaign_id)
              group by all)
            select i.metric, i.cause, i.factor,
              case i.metric when 'impressions' then i.impressions / o.impressions when 'ctr' then i.ctr / o.ctr
                when 'cpc' then i.cpc / o.cpc else i.cvr / o.cvr end
            from day i join day o using (start_date, account_id, cause) where i.inside and not o.inside
            """,
            p=default_rows,
            a=default.anomalies,
        )
        assert len(found) == default.config.anomalies
        assert len({cause for _, cause, _, _ in found}) == 6
        for metric, cause, factor, ratio in found:
            assert (ratio > 1.6) if factor > 1 else (ratio < 0.5), (metric, cause, factor, ratio)

    def test_anomalies_hit_running_healthy_accounts(self, default: Agency):
        agency = simulate(SimulationConfig(accounts=40, days=120, anomalies=60, churn_share=0.4, false_alarm_share=0.3))
        clash = """
            select count(*) from a join c using (account_id)
            where start_date >= decline_start and (recovered_date is null or start_date < recovered_date)
               or end_date >= decline_start and start_date < decline_start
        """
        assert agency.anomalies.num_rows > 20
        assert query(clash, a=agency.anomalies, c=agency.churn) == [(0,)]


class TestKnowledge:
    def test_ads_are_known_one_to_three_days_before_they_start(self, default: Agency, default_rows: pa.Table):
        lead = query(
            """
            select min(begun - valid_from), max(begun - valid_from), count(*)
            from (select ad_id, min(date) begun from p group by 1) join ads using (ad_id)
            where valid_from >= $$2024-01-01$$
            """,
            p=default_rows,
            ads=default.ads,
        )[0]
        assert lead[:2] == (1, 3)
        assert lead[2] > 1000

    def test_new_ads_are_known_on_the_last_day(self, default: Agency):
        last = default.config.last_date
        assert pc.max(default.ads["valid_from"]).as_py() == last
        assert query(f"select count(*) > 0 from c where start_date > date '{last}'", c=default.campaigns) == [(True,)]

    def test_new_ads_start_continually(self, default: Agency):
        weeks = Counter(day.isocalendar().week for day in default.ads["valid_from"].to_pylist() if day.year == 2024)
        assert min(weeks[week] for week in range(1, 26)) >= 20

    def test_as_of_hides_the_future(self, default: Agency):
        day = date(2024, 3, 1)
        known = default.dimensions(as_of=day)
        assert pc.max(known["ads"]["valid_from"]).as_py() <= day
        assert known["ads"].num_rows < default.ads.num_rows
        churned = [d for d in known["accounts"]["churned_date"].to_pylist() if d is not None]
        assert all(d <= day for d in churned)
        assert len(churned) < 6
        assert all(known[name].schema == CONTRACTS[name].schema for name in DIMENSIONS)

    def test_performance_as_of_has_no_later_days(self, small: Agency):
        day = SMALL.start_date + timedelta(days=9)
        chunks = list(small.performance(as_of=day))
        assert len(chunks) == 10
        assert chunks[-1]["date"][0].as_py() == day


class TestDelayedConversions:
    def test_shares_arrive_as_published(self, default: Agency):
        # The share that has arrived by each lag, against the cumulative delay distribution.
        days = [date(2024, 2, d) for d in range(1, 15)]
        for lag in range(7):
            arrived = sum(
                pc.sum(
                    performance(default, first=day, last=day, as_of=day + timedelta(days=lag))["conversions"]
                ).as_py()
                for day in days
            )
            total = pc.sum(performance(default, first=days[0], last=days[-1])["conversions"]).as_py()
            assert arrived / total == pytest.approx(sum(DELAY[: lag + 1]), abs=0.02)

    @settings(max_examples=15, deadline=None)
    @given(day=st.integers(0, SMALL.days - 8), lag=st.integers(0, 5))
    def test_what_has_arrived_never_becomes_less(self, small: Agency, day: int, lag: int):
        begin = SMALL.start_date + timedelta(days=day)
        sooner, later = (
            performance(small, first=begin, last=begin, as_of=begin + timedelta(days=n)) for n in (lag, lag + 1)
        )
        unchanged = [c for c in sooner.column_names if c not in ("conversions", "revenue")]
        assert sooner.select(unchanged).equals(later.select(unchanged))
        assert pc.all(pc.less_equal(sooner["conversions"], later["conversions"])).as_py()
        assert pc.all(pc.less_equal(sooner["revenue"], later["revenue"])).as_py()

    def test_mature_days_equal_the_final_ones(self, small: Agency):
        day = SMALL.start_date + timedelta(days=6)
        first = performance(small, first=SMALL.start_date, last=SMALL.start_date, as_of=day)
        assert first.equals(next(small.performance()))


class TestWriting:
    def test_landing_folder(self, small: Agency, tmp_path: Path):
        calls: list[tuple[int, int]] = []
        written = write_landing(small, tmp_path, days_per_file=15, progress=lambda *call: calls.append(call))
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == sorted(
            [
                "accounts.parquet",
                "ad_performance_2024-01-01_2024-01-15.parquet",
                "ad_performance_2024-01-16_2024-01-30.parquet",
                "ad_performance_2024-01-31_2024-02-09.parquet",
                "ads.parquet",
                "campaigns.parquet",
                "images",
                "regions.parquet",
            ]
        )
        read = pa.concat_tables(pq.read_table(path) for path in sorted(tmp_path.glob("ad_performance_*.parquet")))
        assert read.replace_schema_metadata().equals(performance(small))
        assert written.rows == read.num_rows
        assert calls == [(day, 40) for day in range(1, 41)]

    def test_images_are_there_and_look_as_drawn(self, small: Agency, tmp_path: Path):
        from PIL import Image

        write_landing(small, tmp_path)
        paths = small.ads["image_path"].unique().to_pylist()
        assert sorted(paths) == sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "images").iterdir())
        assert len(paths) <= SMALL.max_images
        red_minus_blue = []
        for path in sorted(paths):
            with Image.open(tmp_path / path) as picture:
                assert (picture.size, picture.mode) == ((64, 64), "RGB")
                corner = np.asarray(picture, dtype=float).reshape(-1, 3).mean(axis=0)
                red_minus_blue.append(corner[0] - corner[2])
        assert np.std(red_minus_blue) > 20

    def test_late_conversions_restate_a_day(self, small: Agency, tmp_path: Path):
        day = date(2024, 1, 10)
        totals = []
        for as_of in (day, date(2024, 1, 16)):
            written = write_landing(small, tmp_path, first=day, last=day, as_of=as_of)
            assert written.files[-1].name == "ad_performance_2024-01-10_2024-01-10.parquet"
            totals.append(pc.sum(pq.read_table(written.files[-1])["conversions"]).as_py())
        assert totals[0] < totals[1] == pc.sum(performance(small, first=day, last=day)["conversions"]).as_py()

    def test_truth_folder(self, small: Agency, tmp_path: Path):
        write_truth(small, tmp_path)
        assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
            "anomalies.parquet",
            "churn.parquet",
            "effects.parquet",
            "true_ctr/true_ctr_2024-01-01_2024-01-30.parquet",
            "true_ctr/true_ctr_2024-01-31_2024-02-09.parquet",
            "truth.json",
        ]
        summary = json.loads((tmp_path / "truth.json").read_text())
        assert summary["config"]["accounts"] == 8
        assert summary["drift_date"] == "2024-01-27"
        assert sum(summary["conversion_delay"]) == pytest.approx(1.0)

    @pytest.mark.parametrize("write", [write_landing, write_truth])
    def test_two_simulations_do_not_mix(self, small: Agency, tmp_path: Path, write):
        write(small, tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
        with pytest.raises(InputError, match="of another one"):
            write(simulate(dataclasses.replace(SMALL, seed=99)), tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before


class TestBadInput:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("accounts", 0),
            ("accounts", True),
            ("accounts", 2.0),
            ("days", 0),
            ("days", 10**6),
            ("seed", -1),
            ("start_date", "2024-01-01"),
            ("start_date", datetime(2024, 1, 1)),  # noqa: DTZ001 - the wrong type is the point
            ("start_date", date(9999, 12, 1)),
            ("regions_per_campaign", 51),
            ("platforms", ()),
            ("platforms", ("google", "google")),
            ("platforms", ("myspace",)),
            ("platforms", "google"),
            ("churn_share", 1.5),
            ("churn_share", float("nan")),
            ("churn_share", 0.95),
            ("fatigue", float("inf")),
            ("drift_date", date(2025, 1, 1)),
            ("drift_size", "big"),
            ("max_images", 0),
            ("churn_model", "cox"),
        ],
    )
    def test_configuration_is_checked(self, field: str, value: object):
        with pytest.raises(InputError, match=field):
            SimulationConfig(**{field: value})

    @pytest.mark.parametrize(
        "call",
        [
            lambda agency, _: agency.performance(days_per_chunk=0),
            lambda agency, _: agency.performance(first=date(2023, 12, 31)),
            lambda agency, _: agency.performance(first=date(2024, 1, 3), last=date(2024, 1, 2)),
            lambda agency, _: agency.performance(as_of=date(2030, 1, 1)),
            lambda agency, _: agency.true_ctr(last=datetime(2024, 1, 2)),  # noqa: DTZ001 - the wrong type is the point
            lambda agency, _: agency.dimensions(as_of=date(2000, 1, 1)),
            lambda agency, folder: write_landing(agency, folder, days_per_file=0),
            lambda agency, folder: write_landing(agency, folder, first=date(2024, 2, 1), as_of=date(2024, 1, 1)),
            lambda agency, folder: write_truth(agency, folder, days_per_file=0),
        ],
    )
    def test_calls_are_checked_before_anything_happens(self, small: Agency, tmp_path: Path, call):
        with pytest.raises(InputError, match="must"):
            call(small, tmp_path / "new")
        assert not (tmp_path / "new").exists()


class TestGeography:
    def test_states_are_the_real_ones(self):
        states = us_states()
        assert [s.region for s in states] == sorted(s.region for s in states)
        # Census estimate of 2016: 323.1 million, of whom 0.68 million live in the District of Columbia.
        assert sum(s.population for s in states) == pytest.approx(322.4e6, rel=0.002)
        assert next(s for s in states if s.region == "US-CA").city == "Sacramento"

    def test_distance_of_two_airports(self):
        # JFK to LAX: 3,974 km on the sphere (great circle mapper).
        distance = distances_km(np.array([40.6413, 33.9416]), np.array([-73.7781, -118.4085]))
        assert distance[0, 1] == pytest.approx(3974, abs=5)
        assert distance[0, 0] == 0


@pytest.mark.slow
def test_ten_million_rows_in_two_minutes_and_two_gigabytes(tmp_path: Path):
    script = (
        "import resource, sys; from within_ml.lake.simulation import *\n"
        "agency = simulate(SimulationConfig(accounts=1600, days=180))\n"
        "rows = write_landing(agency, sys.argv[1] + '/landing').rows\n"
        "write_truth(agency, sys.argv[1] + '/truth')\n"
        "sys.stdout.write(f'{rows} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}')"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begin
    rows, kibibytes = map(int, done.stdout.split())
    assert rows >= 10_000_000
    assert seconds < 120
    assert kibibytes < 2 * 1024**2
