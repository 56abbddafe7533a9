"""Contracts of what monitoring tells: how far features and predictions of a night are from the training reference."""

from __future__ import annotations

import pyarrow as pa

from within_ml.lake.contracts.schema import Column, Contract, count, day, identifier, json_text, share, text

_COLUMNS = (
    day("date", "Night"),
    identifier("feature", "Feature or prediction"),
    count("rows", "Rows of the night"),
    share("missing_share", "Share of them without a value"),
    share("ks", "Largest difference of the distribution functions, night and reference", nullable=True),
    Column("psi", pa.float64(), "Population stability index, night and reference", True, "nats", 0),
    Column("ks_threshold", pa.float64(), "ks above which the night differs from past nights", True, "", 0),
    Column("psi_threshold", pa.float64(), "psi above which the night differs from past nights", True, "nats", 0),
    share("ks_p", "Share of past nights with ks at least as large", nullable=True),
    share("psi_p", "Share of past nights with psi at least as large", nullable=True),
    count("nights", "Past nights that it is compared with"),
    Column("drifted", pa.bool_(), "Whether it is farther from the reference than past nights were"),
    json_text("histogram", "Counts of the night by the reference's bins"),
    text("model_version", "Model whose training rows are the reference"),
    text("run_id", "Run that wrote the row"),
)


def _drift(table: str, meaning: str) -> Contract:
    return Contract(
        table, "date × feature", meaning, _COLUMNS, key=("date", "feature"), partitioned=True, sort_by=("feature",)
    )


FEATURE_DRIFT = _drift("feature_drift", "How far each feature of a night is from the champion's training rows")
PREDICTION_DRIFT = _drift("prediction_drift", "How far the night's predictions are from those for the training rows")
