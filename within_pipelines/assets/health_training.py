"""Group training: the model of account health as of a Monday, from its account-weeks to the decision of the gate."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pandas as pd

from within_ml.base import ModelType
from within_ml.features.daily_sums import daily_sums
from within_ml.lake.store import LakeStore
from within_pipelines.assets.features import account_features, reader
from within_pipelines.assets.lake import ad_performance
from within_pipelines.assets.training import decide, most, verdict_result
from within_pipelines.files import write_whole
from within_pipelines.metadata import counts_table, measured, picture
from within_pipelines.partitions import AS_OF_MONDAYS, history_start
from within_pipelines.resources import FeatureResource, LakeResource, RegistryResource, TrainingResource

if TYPE_CHECKING:
    from within_ml.health import AccountHealthPredictor

NAME = ModelType.ACCOUNT_HEALTH
OWNERS = ["team:ml"]
MODEL, JUDGED, REPORT = "model", "judged.parquet", "report"
LABEL, PREDICTED = "label", "predicted"
JUDGED_COLUMNS = ("account_id", "date", LABEL, PREDICTED)

HISTORY_MONTHS = 7
"""Months before that of a day whose performance makes the indicators, which look back 180 days."""

DETAIL = ("platform", "campaign_id", "ad_id", "region", "audience_age", "audience_gender")
"""What the indicators of a day's performance are told apart by."""

TEST_DAYS = 14
"""Account-weeks of the last days with known outcomes are not fitted on: the model is judged by them."""

LEAST_ACCOUNTS = 4
"""Accounts with a bad outcome, and without one, below which there is no model of it."""

BASELINE_FEATURE = "clicks_28d_vs_90d"
EVERY_HISTORY = dg.TimeWindowPartitionMapping(start_offset=-79, allow_nonexistent_upstream_partitions=True)
"""A year and the months that the indicators of its first day look back to, in weeks."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What is known as of a Monday: daily performance, accounts, the tables' versions, and the accounts' features.

    Features are None where not every day of performance has them.
    """

    performance: pd.DataFrame
    accounts: pd.DataFrame
    features: pd.DataFrame | None
    versions: dict[str, int]


@dg.asset(
    group_name="training",
    owners=OWNERS,
    kinds={"xgboost", "scikitlearn"},
    partitions_def=AS_OF_MONDAYS,
    pool="training",
    output_required=False,
    deps=[
        dg.AssetDep(ad_performance, partition_mapping=EVERY_HISTORY),
        dg.AssetDep(account_features, partition_mapping=EVERY_HISTORY),
        "accounts",
    ],
    description="How likely accounts get into a bad state or leave, fitted on all but the last weeks with known "
    "outcomes. A history with too few outcomes makes none.",
)
def account_health_model(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    features: FeatureResource,
    training: TrainingResource,
    models: RegistryResource,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Fit the model on the outcomes that were known some weeks before the Monday."""
    from within_ml.health import AccountHealthPredictor

    monday = date.fromisoformat(context.partition_key)
    with measured() as measurement:
        history = _history(lake.store, features, training, monday)
        predictor = AccountHealthPredictor(
            model_version=context.partition_key,
            metadata={"trained_at": context.partition_key, "lake_versions": history.versions},
        )
        known = _known_until(predictor, monday)
        seen, test = _judged_rows(predictor, history, monday)
        reason = _too_little(seen, test)
        if not reason:
            predictor.fit(
                history.performance, accounts=history.accounts, account_features=history.features, as_of=known
            )
            folder = models.vintage(NAME, context.partition_key)
            write_whole(folder / JUDGED, _judged(predictor, seen, test).to_parquet())
            predictor.save(folder / MODEL)
    if reason:
        context.log.warning(f"There is no model of account health as of {monday}: {reason}")
        return
    yield dg.MaterializeResult(
        metadata={
            "account_weeks": len(seen),
            "bad_outcomes": int(seen[LABEL].sum()),
            "known_until": known.isoformat(),
            "feature_importance": counts_table(most(predictor.get_feature_importance()), name="feature", value="share"),
            **measurement.metadata,
        }
    )


@dg.asset(
    group_name="training",
    owners=OWNERS,
    kinds={"mlflow", "scikitlearn"},
    partitions_def=AS_OF_MONDAYS,
    pool="training",
    deps=[account_health_model],
    description="How good the model of account health is on accounts and weeks that it has not seen, beside baselines; "
    "registered as challenger.",
)
def account_health_evaluation(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    features: FeatureResource,
    training: TrainingResource,
    models: RegistryResource,
) -> dg.MaterializeResult[Any]:
    """Evaluate on unseen accounts and weeks, write the report, register the version."""
    from within_ml.health import AccountHealthPredictor
    from within_ml.validation.report import reliability_figure_png
    from within_ml.validation.risk import evaluate_risk

    monday = date.fromisoformat(context.partition_key)
    vintage = models.vintage(NAME, context.partition_key)
    with measured() as measurement:
        predictor = AccountHealthPredictor.load(vintage / MODEL)
        judged = pd.read_parquet(vintage / JUDGED)
        baselines = {name: judged[name] for name in judged.columns if name not in JUDGED_COLUMNS}
        report = evaluate_risk(judged[PREDICTED], baselines, judged[LABEL], judged["account_id"])
        history = _history(lake.store, features, training, monday)
        _, test = _judged_rows(predictor, history, monday)
        predicted = predictor.predict(test)
        curve = reliability_figure_png(report.reliability, quantity="share of bad states")
        waterfall = _highest_waterfall(predictor, test, predicted)
        files = {"report.json": report.to_json().encode(), "reliability.png": curve, "waterfall.png": waterfall}
        for name, content in files.items():
            write_whole(vintage / REPORT / name, content)
        version = models.registry().register(
            vintage / MODEL,
            name=NAME,
            metrics=report.metrics(),
            tags={
                "as_of": context.partition_key,
                "trained_through": _known_until(predictor, monday).isoformat(),
                "dagster_run_id": context.run.run_id,
                **{f"lake_version_{table}": version for table, version in history.versions.items()},
            },
            parameters=predictor.hyperparameters(),
            report_files=[vintage / REPORT / name for name in files],
            signature=(test[predictor.feature_names].head(5), predicted[:5]),
        )
    context.log.info(f"{NAME} version {version} as of {monday}: AUC {report.model.auc:.3f}")
    return dg.MaterializeResult(
        metadata={
            "model_version": version,
            "reliability_curve": picture("png", curve),
            "beside_baselines": dg.MetadataValue.md(report.to_markdown()),
            "highest_risk": picture("png", waterfall),
            "judged_account_weeks": report.n_rows,
            "judged_bad_outcomes": report.events,
            "report": dg.MetadataValue.path(str(vintage / REPORT / "report.json")),
            "test_log_loss": report.model.log_loss.value,
            **measurement.metadata,
        }
    )


@dg.asset(
    group_name="training",
    owners=OWNERS,
    kinds={"mlflow"},
    partitions_def=AS_OF_MONDAYS,
    pool="training",
    deps=[account_health_evaluation],
    description="The gate's decision on account health: the challenger must beat champion and baselines.",
)
def account_health_champion(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    features: FeatureResource,
    training: TrainingResource,
    models: RegistryResource,
) -> dg.MaterializeResult[Any]:
    """Compare the challenger with baselines and champion on account-weeks unseen by both; write the decision down."""
    from within_ml.health import AccountHealthPredictor
    from within_ml.validation.gate import PromotionGate, joined
    from within_ml.validation.risk import RISK_CRITERIA

    registry, monday = models.registry(), date.fromisoformat(context.partition_key)
    gate = PromotionGate(RISK_CRITERIA)
    with measured() as measurement:
        version = registry.resolve(NAME, "as_of", monday)
        judged = pd.read_parquet(models.vintage(NAME, context.partition_key) / JUDGED)
        baselines = {name: judged[name] for name in judged.columns if name not in JUDGED_COLUMNS}
        facts = (judged[LABEL], np.ones(len(judged)), judged["account_id"])
        decisions = [gate.decide(judged[PREDICTED], None, baselines, *facts)]
        champion = registry.aliases(NAME).get("champion")
        if champion and champion != version:
            history = _history(lake.store, features, training, monday)
            rows = pd.concat(_judged_rows(AccountHealthPredictor(), history, monday), ignore_index=True)
            # What the champion was fitted on says nothing of it: only the weeks after that are compared.
            unseen = judged["date"] >= registry.version(NAME, champion).tags["trained_through"]
            opponent = registry.load(NAME, champion).predict(rows[unseen])
            own = judged.loc[unseen, PREDICTED]
            decisions.append(gate.decide(own, opponent, {}, *(np.asarray(values)[unseen] for values in facts)))
        decision = joined(decisions)
        verdict = decide(context, registry, NAME, version, decision)
    return verdict_result(registry, NAME, version, decision, verdict, measurement)


def _history(store: LakeStore, features: FeatureResource, training: TrainingResource, monday: date) -> History:
    """All that a model as of a Monday may know."""
    last = monday - timedelta(days=1)
    first = history_start(monday - timedelta(days=training.days), HISTORY_MONTHS)
    versions = {table: store.version(table) or 0 for table in ("ad_performance", "account_features", "accounts")}
    performance = daily_sums(reader(store), first=first, last=last, by=DETAIL, limits=features.limits())
    begin = monday - timedelta(days=training.days)
    there = store.dates("account_features", begin, last)
    # Features of some days only would tell the days apart and not the accounts.
    complete = {day for day in performance["date"].dt.date.unique() if day >= begin} <= set(there)
    return History(
        performance,
        store.read("accounts", version=versions["accounts"]).to_pandas(),
        store.read("account_features", {"date": list(there)}).to_pandas() if there and complete else None,
        versions,
    )


def _known_until(predictor: "AccountHealthPredictor", monday: date) -> date:
    """Last day whose outcomes the model may be fitted on: the rest is to judge it by."""
    return monday - timedelta(days=1 + TEST_DAYS + predictor.time_window)


def _judged_rows(
    predictor: "AccountHealthPredictor", history: History, monday: date
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Account-weeks that the model is fitted on, and later ones, with their outcomes."""
    known = _known_until(predictor, monday)
    seen, every = (
        predictor.training_rows(history.performance, history.accounts, last, account_features=history.features)
        for last in (known, monday - timedelta(days=1))
    )
    return seen, every[pd.to_datetime(every["date"]) >= pd.Timestamp(known)].reset_index(drop=True)


def _judged(predictor: "AccountHealthPredictor", seen: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Predictions to judge the model by, its own and the baselines'."""
    from within_ml.validation.risk import judged_predictions

    risk = predictor.risk_model
    return judged_predictions(
        seen, risk.calibrated(risk.out_of_fold_), test, predictor.predict(test), feature=BASELINE_FEATURE
    )


def _too_little(seen: pd.DataFrame, test: pd.DataFrame) -> str:
    """Why there is no model, in a sentence; empty where there is enough to fit and to judge one."""
    worse = seen.loc[seen[LABEL] == 1, "account_id"].nunique()
    better = seen["account_id"].nunique() - worse
    if min(worse, better) < LEAST_ACCOUNTS or not len(test):
        return (
            f"at least {LEAST_ACCOUNTS} accounts with a bad outcome and as many without one are required, and later "
            f"weeks to judge by; however, there are {worse} and {better}, and {len(test)} later account-weeks."
        )
    return ""


def _highest_waterfall(predictor: "AccountHealthPredictor", rows: pd.DataFrame, predicted: Any) -> bytes:
    highest = rows.iloc[[int(np.argmax(predicted))]]
    predictor.score(highest)
    return predictor.health_waterfall(highest["account_id"].iloc[0])
