"""Postgres: the embedded server, the tables of the database `within`, their migrations and their repositories.

Importing the package registers every table, so that the metadata is whole.
"""

from within_ml.database.analytics import (
    AccountSegmentModel,
    AdAccountHealthModel,
    AnomalyModel,
    PerformanceMetricModel,
    TrendingTopicModel,
)
from within_ml.database.base import Base, check_migrated, migrate
from within_ml.database.campaigns import AccountModel, AdModel, CampaignModel
from within_ml.database.ml_system import (
    AdScoreAnalysisModel,
    AdScoreModel,
    ModelPinModel,
    ModelPromotionModel,
    PublicationModel,
    RegionFactorModel,
)
from within_ml.database.server import EmbeddedPostgres
from within_ml.database.urls import DatabaseUrls

__all__ = [
    "AccountModel",
    "AccountSegmentModel",
    "AdAccountHealthModel",
    "AdModel",
    "AdScoreAnalysisModel",
    "AdScoreModel",
    "AnomalyModel",
    "Base",
    "CampaignModel",
    "DatabaseUrls",
    "EmbeddedPostgres",
    "ModelPinModel",
    "ModelPromotionModel",
    "PerformanceMetricModel",
    "PublicationModel",
    "RegionFactorModel",
    "TrendingTopicModel",
    "check_migrated",
    "migrate",
]
