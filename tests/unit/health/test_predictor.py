"""The composition: what it tells of accounts and of tables, and what it answers to bad input."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from within_ml.errors import InputError, NotFittedError
from within_ml.health import AccountHealthPredictor, RiskLevel, RiskThresholds
from within_ml.health.config import HORIZONS, HealthConfig
from within_ml.lake.contracts import ACCOUNT_HEALTH

from .conftest import SMALL, churn_table, daily_rows

LAST = pd.Timestamp("2024-05-29")
RISKS = [f"churn_risk_{days}d" for days in HORIZONS]


@pytest.fixture(scope="module")
def health(fitted, agency):
    daily, accounts = agency
    return fitted.predict_health(daily, accounts=accounts, dates="all")


class TestHealth:
    def test_it_has_the_columns_of_the_table(self, health):
        added_later = {"bad_anomalies_7d", "model_version", "run_id"}
        wanted = [column.name for column in ACCOUNT_HEALTH.columns if column.name not in added_later]

        assert set(health.columns) == set(wanted)
        assert not health.duplicated(["account_id", "date"]).any()

    def test_health_is_the_chance_of_no_bad_state(self, health):
        assert np.allclose(health["health_score"], 100 * (1 - health["bad_state_probability"]))
        assert health["health_score"].between(0, 100).all()
        assert set(health["risk_level"]) <= set(RiskLevel)

    def test_accounts_that_decline_are_at_risk(self, health, agency):
        _, accounts = agency
        end = accounts.set_index("account_id")["churned_date"]
        left = health["account_id"].map(end)
        soon = left.notna() & (health["date"] < left) & (health["date"] >= left - pd.Timedelta(days=14))
        never = left.isna() & (health["date"] > "2024-02-15")

        assert health.loc[soon, "health_score"].median() < 60 < health.loc[never, "health_score"].median()
        assert health.loc[soon, "churn_risk_30d"].median() > 5 * health.loc[never, "churn_risk_30d"].median()

    def test_longer_horizons_have_more_risk_and_intervals_hold_it(self, health):
        p = health[RISKS].to_numpy()

        assert (np.diff(p, axis=1) >= 0).all()
        for name in RISKS:
            assert (health[f"{name}_lower"] <= health[name]).all()
            assert (health[name] <= health[f"{name}_upper"]).all()

    def test_an_account_that_left_has_no_health(self, health):
        row = health[(health["account_id"] == "a00") & (health["date"] == "2024-04-01")].iloc[0]

        assert row["health_score"] == 0
        assert row["risk_level"] == "critical"
        assert not row["early_warning"]
        assert json.loads(row["contributing_factors"])[0]["text"] == "the account has left"

    def test_one_day_is_the_same_as_that_day_of_many(self, fitted, health, agency):
        daily, accounts = agency
        day = pd.Timestamp("2024-03-10")
        known = accounts.assign(churned_date=accounts["churned_date"].where(accounts["churned_date"] <= day))
        one = fitted.predict_health(daily[daily["date"] <= day], accounts=known)
        of_many = health[health["date"] == day].reset_index(drop=True)

        assert set(one["date"]) == {day}
        pd.testing.assert_frame_equal(one, of_many, check_dtype=False, rtol=1e-9)

    def test_scoring_the_features_is_the_same(self, fitted, agency):
        daily, accounts = agency
        features = fitted.features(daily, accounts=accounts, dates=[date(2024, 3, 1), date(2024, 4, 1)])
        scored = fitted.score(features)

        pd.testing.assert_frame_equal(
            scored, fitted.predict_health(daily, accounts=accounts, dates=["2024-03-01", "2024-04-01"])
        )

    def test_the_thresholds_are_the_users(self, agency):
        daily, accounts = agency
        careful = AccountHealthPredictor(None, [0.01, 0.02, 0.03], 14, "logistic", config=SMALL)
        found = careful.fit(daily, accounts=accounts).predict_health(daily, accounts=accounts)

        assert (found.loc[found["bad_state_probability"] >= 0.03, "risk_level"] == "critical").all()
        assert set(careful.risk_.members_) == {"additive"}


class TestWarnings:
    def test_they_come_long_before_an_account_leaves(self, fitted):
        daily, accounts = daily_rows(seed=5)
        report = fitted.early_warnings(daily, accounts=accounts)

        assert report.leads["account_id"].tolist() == ["a00", "a04", "a08", "a12", "a16", "a20"]
        assert report.median_lead_days >= 14
        assert report.detected > 0.8
        assert report.false_alarm_rate <= 0.15
        assert report.threshold == fitted.threshold_

    def test_they_are_those_of_the_table(self, fitted, agency, health):
        daily, accounts = agency
        flagged = health[health["early_warning"]]
        leads = fitted.early_warnings(daily, accounts=accounts).leads.dropna()
        first = flagged.groupby("account_id")["date"].min()

        assert (flagged["churn_risk_30d"] >= fitted.threshold_).all()
        assert (leads["account_id"].map(first) <= leads["first_warning"]).all()

    def test_the_curve_goes_through_the_horizons(self, fitted, agency, health):
        daily, accounts = agency
        rows = fitted.features(daily, accounts=accounts, dates=["2024-03-05"])
        row = health[health["date"] == "2024-03-05"]
        curve = fitted.churn_curve(rows, [7, 14, 30, 60, 90])

        assert np.allclose(curve[:, [1, 2, 4]], row[RISKS])
        assert (np.diff(curve, axis=1) >= 0).all()

    def test_a_segment_goes_through(self, fitted, agency):
        rows = fitted.features(agency[0], accounts=agency[1])

        assert set(fitted.score(rows.assign(segment="large"))["segment"]) == {"large"}
        assert fitted.score(rows)["segment"].isna().all()


class TestFactorsAndActions:
    def test_factors_add_up_to_the_log_odds(self, fitted, agency):
        daily, accounts = agency
        told = fitted.get_contributing_factors("a23", daily, accounts=accounts)
        row = fitted.features(daily, accounts=accounts).query("account_id == 'a23'")

        assert told.base + sum(f.log_odds for f in told.factors) == pytest.approx(told.log_odds, abs=1e-4)
        assert told.log_odds == pytest.approx(fitted.risk_.margin(row[fitted.feature_names])[0], abs=1e-4)
        assert told.probability == pytest.approx(fitted.predict(row)[0], abs=1e-6)
        assert all("points of risk" in factor.text for factor in told.factors)

    def test_every_action_lowers_the_predicted_risk(self, fitted, health):
        offered = [json.loads(text) for text in health["recommended_actions"]]

        assert sum(map(len, offered)) > 20
        assert all(one["new_risk"] <= one["risk"] - 0.005 + 1e-6 for row in offered for one in row)
        assert all(len(row) <= fitted.config.actions for row in offered)

    def test_spend_is_never_moved_above_the_budget(self, health):
        changes = [
            one["changes"]["budget_pacing_7d"]
            for text in health["recommended_actions"]
            for one in json.loads(text)
            if "budget_pacing_7d" in one["changes"]
        ]

        assert all(new <= max(old, 1.0) + 1e-9 for old, new in changes)

    def test_both_know_the_last_prediction(self, agency):
        daily, accounts = agency
        model = AccountHealthPredictor(model_type="logistic", config=SMALL).fit(daily, accounts=accounts)
        with pytest.raises(InputError, match="no prediction"):
            model.get_contributing_factors("a01")
        model.predict_churn_risk(daily, accounts=accounts)

        assert model.get_contributing_factors("a01").date == "2024-05-29"
        assert isinstance(model.recommend_actions("a01"), tuple)
        with pytest.raises(InputError, match="account_id must be one of"):
            model.recommend_actions("nobody")

    def test_the_waterfall_is_a_small_picture(self, fitted, agency):
        daily, accounts = agency
        png = fitted.health_waterfall("a23", daily, accounts=accounts)

        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(png) < 100_000


class TestTable:
    def test_risks_are_those_of_the_rows(self, of_table):
        model, _table, _y = of_table
        fresh, outcome = churn_table(seed=1)
        risk = model.predict_churn_risk(fresh)

        assert isinstance(risk, pd.Series)
        assert risk.index.equals(fresh.index)
        assert roc_auc_score(outcome, risk) > 0.72
        assert abs(risk.mean() - outcome.mean()) < 0.06

    def test_ids_and_empty_columns_do_no_harm(self, of_table):
        model, table, _ = of_table

        assert model.risk_.encoder_.left_out_ == ["customer_id", "empty"]
        assert np.array_equal(model.predict(table.drop(columns=["customer_id", "empty"])), model.predict(table))
        strange = table.assign(customer_id="x", contract="never seen", charges=np.nan, empty=5.0)
        assert np.isfinite(model.predict(strange)).all()

    def test_order_of_columns_and_rows_beside_do_not_matter(self, of_table):
        model, table, _ = of_table

        assert np.array_equal(model.predict(table[sorted(table.columns)[::-1]]), model.predict(table))
        assert np.allclose(model.predict(table[3:4]), model.predict(table)[3:4], rtol=1e-9)
        assert model.predict(table[:0]).shape == (0,)

    def test_intervals_hold_the_probability(self, of_table):
        model, table, _ = of_table
        found = model.predict_intervals(table)

        assert (found["lower"] <= found["probability"]).all()
        assert (found["probability"] <= found["upper"]).all()
        assert (found["upper"] - found["lower"]).mean() > 0.01

    def test_booleans_are_outcomes_and_texts_are_not(self):
        table, y = churn_table(200)
        model = AccountHealthPredictor(model_type="logistic", config=SMALL).fit(table, y == 1)

        assert np.array_equal(model.predict(table), AccountHealthPredictor(
            model_type="logistic", config=SMALL).fit(table, list(y)).predict(table))  # fmt: skip
        for wrong in (["yes", "no"] * 100, y + 1, np.zeros(200), y[:-1], y * 0.5, np.where(y, np.nan, 0.0)):
            with pytest.raises(InputError, match="y must"):
                AccountHealthPredictor(config=SMALL).fit(table, wrong)

    def test_a_table_has_no_hazard(self, of_table):
        model, table, _ = of_table
        with pytest.raises(NotFittedError, match="daily performance"):
            model.churn_curve(table, [30])

    @pytest.mark.parametrize("n", [12, 40])
    def test_small_tables_get_what_they_can_pay_for(self, n):
        table, _ = churn_table(n)
        y = np.arange(n) % 4 == 0
        p = AccountHealthPredictor(config=SMALL).fit(table, y).predict(table)

        assert np.isfinite(p).all()
        assert abs(p.mean() - y.mean()) < 0.1


class TestForms:
    def test_ids_may_be_numbers_and_dates_texts(self, agency):
        daily, accounts = agency
        numbered = daily.assign(account_id=daily["account_id"].str[1:].astype(int), date=daily["date"].astype(str))
        clients = accounts.assign(account_id=accounts["account_id"].str[1:].astype(int))
        model = AccountHealthPredictor(model_type="logistic", config=SMALL).fit(numbered, accounts=clients)
        found = model.predict_health(numbered, accounts=clients)

        assert found["account_id"].tolist() == list(range(24))
        assert model.get_contributing_factors(7).account_id == "7"

    def test_accounts_may_be_joined_to_the_days(self, fitted, agency):
        daily, accounts = agency
        joined = daily.merge(accounts.drop(columns="currency"), on="account_id")

        pd.testing.assert_frame_equal(
            fitted.predict_health(joined, dates=["2024-04-10"]),
            fitted.predict_health(daily, accounts=accounts, dates=["2024-04-10"]),
        )

    def test_a_table_is_explained_by_its_ids_or_rows(self, of_table):
        model, table, _ = of_table
        named = table.assign(account_id=table["customer_id"])
        told = model.get_contributing_factors("c-00007", named)
        model.predict_churn_risk(table)

        assert told.base + sum(factor.log_odds for factor in told.factors) == pytest.approx(told.log_odds, abs=1e-4)
        assert model.get_contributing_factors(7).factors == told.factors
        assert model.recommend_actions(7) == ()

    def test_features_of_the_lake_are_learned_from(self, agency):
        daily, accounts = agency
        days = daily[["account_id", "date"]]
        known = days.assign(account_spend_pacing=1.0 + np.arange(len(days)) % 3, currency="USD")
        model = AccountHealthPredictor(model_type="logistic", config=SMALL)
        model.fit(daily, accounts=accounts, account_features=known)
        found = model.predict_health(daily, accounts=accounts, account_features=known)

        assert "account_spend_pacing" in model.feature_names
        assert np.isfinite(found["health_score"]).all()
        with pytest.raises(InputError, match="one row per account and date"):
            model.predict_health(daily, accounts=accounts, account_features=pd.concat([known, known]))
        with pytest.raises(InputError, match="one row per account_id"):
            model.predict_health(daily, accounts=pd.concat([accounts, accounts]))


class TestTrainingRows:
    def test_labels_are_of_the_days_after(self, fitted, agency):
        daily, accounts = agency
        rows = fitted.training_rows(daily, accounts, date(2024, 4, 30))
        end = rows["account_id"].map(accounts.set_index("account_id")["churned_date"])
        leaves = end.notna() & (end <= rows["date"] + pd.Timedelta(days=30))

        assert rows["date"].max() + pd.Timedelta(days=30) <= pd.Timestamp("2024-04-28")
        assert (rows.loc[leaves, "label"] == 1).all()
        assert rows.loc[~leaves, "label"].mean() < 0.2

    def test_the_rows_can_be_predicted_and_judged(self, fitted, agency):
        daily, accounts = agency
        rows = fitted.training_rows(daily, accounts)
        found = fitted.validate(rows, rows["label"])

        assert found["auc"] > 0.8
        assert set(found) == {"log_loss", "brier", "auc", "ece", "calibration_ratio"}

    def test_the_rows_can_be_fitted_as_a_table(self, fitted, agency):
        daily, accounts = agency
        rows = fitted.training_rows(daily, accounts)
        model = AccountHealthPredictor(config=SMALL).fit(rows, rows["label"])

        assert not {"account_id", "date", "label"} & set(model.feature_names)
        assert np.corrcoef(model.predict(rows), fitted.predict(rows))[0, 1] > 0.95


class TestBadInput:
    def test_an_account_without_history_has_the_average_risk(self, fitted, agency):
        daily, accounts = agency
        new = pd.DataFrame([{"account_id": "new", "onboarded_date": pd.Timestamp("2024-05-20")}])
        found = fitted.predict_health(daily, accounts=pd.concat([accounts, new], ignore_index=True))
        row = found[found["account_id"] == "new"].iloc[0]

        assert row["bad_state_probability"] == pytest.approx(fitted.risk_.average)
        assert "no performance yet" in row["contributing_factors"]
        assert row["churn_risk_30d_lower"] < row["churn_risk_30d"] < row["churn_risk_30d_upper"]
        assert fitted.recommend_actions("new") == ()

    def test_a_client_silent_for_long_has_left(self, fitted, agency):
        daily, accounts = agency
        silent = accounts.assign(churned_date=pd.NaT)
        found = fitted.predict_health(daily[daily["account_id"] == "a00"], accounts=silent, dates=["2024-09-30"])

        assert found.set_index("account_id").loc["a00", "health_score"] == 0

    def test_one_day_of_data_can_be_scored_but_not_fitted(self, fitted, agency):
        daily, accounts = agency
        one = daily[daily["date"] == LAST]
        found = fitted.predict_health(one, accounts=accounts)

        assert found.loc[~found["account_id"].isin(["new"]), "health_score"].between(0, 100).all()
        with pytest.raises(InputError, match="more than 30 days"):
            AccountHealthPredictor(config=SMALL).fit(one)

    def test_all_zero_metrics_are_silence(self, fitted, agency):
        daily, _ = agency
        zero = daily.assign(**dict.fromkeys(("impressions", "clicks", "spend", "conversions", "revenue"), 0))
        found = fitted.predict_health(zero)

        assert (found["health_score"] == 0).all()
        level = AccountHealthPredictor(config=SMALL).fit(zero).predict_health(zero, dates=["2024-01-10"])
        assert np.isfinite(level["bad_state_probability"]).all()

    def test_money_in_another_currency_is_not_added(self, fitted, agency):
        daily, accounts = agency
        changed = daily.assign(currency=np.where(daily["date"] < "2024-05-01", "JPY", "USD"))
        changed.loc[changed["currency"] == "JPY", ["spend", "revenue"]] *= 150.0
        rows = fitted.features(changed, accounts=accounts).set_index("account_id")
        plain = fitted.features(daily, accounts=accounts).set_index("account_id")

        assert rows.loc["a01", "cpc_28d"] == pytest.approx(plain.loc["a01", "cpc_28d"], rel=0.01)
        assert abs(rows.loc["a01", "cpc_28d_vs_90d"]) < 0.1  # 150 times dearer is log 150 = 5
        assert rows.loc["a01", "ctr_28d"] == plain.loc["a01", "ctr_28d"]

    def test_gaps_are_days_without_service(self, fitted, agency):
        daily, accounts = agency
        gap = daily[~daily["date"].between("2024-05-10", "2024-05-20")]
        zero = daily.copy()
        metrics = ["impressions", "clicks", "spend", "conversions", "revenue"]
        zero[metrics] = zero[metrics].mask(daily["date"].between("2024-05-10", "2024-05-20"), 0)
        columns = ["account_id", "impressions_7d_vs_28d", "clicks_28d_vs_90d", "idle_share"]

        pd.testing.assert_frame_equal(
            fitted.features(gap, accounts=accounts)[columns], fitted.features(zero, accounts=accounts)[columns]
        )

    def test_duplicated_days_are_parts_of_a_day(self, fitted, agency):
        daily, accounts = agency
        metrics = ["impressions", "clicks", "spend", "conversions", "revenue"]
        halves = [
            daily.assign(**{m: daily[m] // 2 if m in ("impressions", "clicks") else daily[m] / 2 for m in metrics})
        ]
        halves.append(daily.assign(**{m: daily[m] - halves[0][m] for m in metrics}))
        split = pd.concat(halves).sample(frac=1.0, random_state=0)

        assert np.allclose(
            fitted.predict_health(split, accounts=accounts)["health_score"],
            fitted.predict_health(daily, accounts=accounts)["health_score"],
        )

    def test_what_is_later_than_the_day_is_not_read(self, fitted, agency):
        daily, accounts = agency
        early = AccountHealthPredictor(model_type="logistic", config=SMALL)
        early.fit(daily, accounts=accounts, as_of=date(2024, 4, 30))
        cut = AccountHealthPredictor(model_type="logistic", config=SMALL)
        known = accounts.assign(churned_date=accounts["churned_date"].where(accounts["churned_date"] <= "2024-04-30"))
        cut.fit(daily[daily["date"] <= "2024-04-30"], accounts=known, as_of=date(2024, 4, 30))
        rows = fitted.features(daily, accounts=accounts)

        assert np.array_equal(early.predict(rows), cut.predict(rows))

    def test_dates_of_another_century_are_refused(self, fitted, agency):
        daily, accounts = agency
        wrong = daily.copy()
        wrong.loc[0, "date"] = pd.Timestamp("2190-01-01")
        with pytest.raises(InputError, match="within 3660 days"):
            fitted.predict_health(wrong, accounts=accounts)
        with pytest.raises(InputError, match="within 3660 days"):
            fitted.predict_health(daily, accounts=accounts, dates=["2190-01-01"])

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda d: d.drop(columns="clicks"), "clicks"),
            (lambda d: d.assign(clicks=-1), "clicks"),
            (lambda d: d.assign(date="yesterday"), "date"),
            (lambda d: d.assign(account_id=None), "account_id"),
            (lambda d: d.assign(spend=np.inf), "spend"),
            (lambda d: d[:0], "more than 30 days"),
        ],
    )
    def test_impossible_rows_are_refused(self, agency, change, said):
        with pytest.raises(InputError, match=said):
            AccountHealthPredictor(config=SMALL).fit(change(agency[0]))

    def test_an_empty_frame_gives_no_rows(self, fitted, agency):
        daily, _ = agency

        assert len(fitted.predict_health(daily[:0])) == 0
        assert len(fitted.predict_churn_risk(daily[:0])) == 0

    def test_an_empty_table_is_refused(self):
        table, y = churn_table(20)
        with pytest.raises(InputError, match="must have rows"):
            AccountHealthPredictor().fit(table[:0], y[:0])

    def test_money_may_be_missing(self, agency):
        daily, _accounts = agency
        bare = daily[["date", "account_id", "impressions", "clicks"]]
        found = AccountHealthPredictor(config=SMALL).fit(bare).predict_health(bare)

        assert np.isfinite(found["health_score"]).all()

    @pytest.mark.parametrize(
        "arguments",
        [
            {"time_window": 0},
            {"time_window": 400},
            {"model_type": "forest"},
            {"risk_thresholds": [0.5, 0.2, 0.9]},
            {"risk_thresholds": {"severe": 0.5}},
            {"indicators": "ctr_28d"},
            {"config": {"trees": 5}},
            {"config": {"folds": 1}},
        ],
    )
    def test_impossible_arguments_are_refused(self, arguments):
        with pytest.raises(InputError):
            AccountHealthPredictor(**arguments)

    def test_unknown_indicators_are_refused(self, agency):
        with pytest.raises(InputError, match="'mood'"):
            AccountHealthPredictor(["ctr_28d", "mood"]).fit(agency[0])

    def test_unfitted_it_tells_nothing(self, agency):
        model = AccountHealthPredictor()
        for ask in (model.predict_health, model.predict_churn_risk, model.predict):
            with pytest.raises(NotFittedError):
                ask(agency[0])


class TestState:
    def test_another_process_tells_the_same(self, fitted, agency, tmp_path):
        daily, accounts = agency
        fitted.save(tmp_path / "model")
        daily.to_parquet(tmp_path / "daily.parquet")
        accounts.to_parquet(tmp_path / "accounts.parquet")
        code = (
            "import sys, pandas as pd\n"
            "from within_ml.health import AccountHealthPredictor\n"
            "folder = sys.argv[1]\n"
            "model = AccountHealthPredictor.load(folder + '/model')\n"
            "daily, accounts = (pd.read_parquet(f'{folder}/{name}.parquet') for name in ('daily', 'accounts'))\n"
            "model.predict_health(daily, accounts=accounts).to_parquet(folder + '/health.parquet')\n"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[3])
        here = fitted.predict_health(daily, accounts=accounts)
        there = pd.read_parquet(tmp_path / "health.parquet")

        for column in here.columns:
            assert here[column].isna().equals(there[column].isna()), column
            assert (here[column].dropna().to_numpy() == there[column].dropna().to_numpy()).all(), column

    def test_two_fits_are_one_and_inputs_stay(self, fitted, agency):
        daily, accounts = daily_rows()
        again = AccountHealthPredictor(config=SMALL).fit(daily.sample(frac=1.0, random_state=1), accounts=accounts)
        rows = fitted.features(daily, accounts=accounts)
        pd.testing.assert_frame_equal(daily, agency[0])
        pd.testing.assert_frame_equal(accounts, agency[1])

        assert np.allclose(again.predict(rows), fitted.predict(rows), rtol=1e-9)

    def test_thresholds_and_config_come_back(self, fitted, tmp_path):
        fitted.save(tmp_path / "model")
        again = AccountHealthPredictor.load(tmp_path / "model")

        assert again.risk_thresholds == RiskThresholds()
        assert again.config == HealthConfig.of(SMALL)
        assert again.threshold_ == fitted.threshold_
        assert again.feature_names == fitted.feature_names
