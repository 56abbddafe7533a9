"""Tables of what is advertised: accounts, campaigns and ads in their latest state, for joining with the scores.

What belongs here: the newest version of each entity, replaced by every publication. What does not: history, which the
lake keeps, and predictions (`ml_system`).
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Date, Double, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from within_ml.database.base import Base


class AccountModel(Base):
    """A client account of the agency.

    >>> AccountModel.__table__.primary_key.columns.keys()
    ['account_id']
    """

    __tablename__ = "accounts"

    account_id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str | None] = mapped_column(Text)
    industry: Mapped[str] = mapped_column(Text)
    country: Mapped[str] = mapped_column(Text)
    timezone: Mapped[str | None] = mapped_column(Text)
    currency: Mapped[str | None] = mapped_column(Text)
    monthly_budget: Mapped[float | None] = mapped_column(Double)
    onboarded_date: Mapped[dt.date] = mapped_column(Date)
    churned_date: Mapped[dt.date | None] = mapped_column(Date)


class CampaignModel(Base):
    """A campaign with objective, budget and flight.

    >>> CampaignModel.__table__.primary_key.columns.keys()
    ['platform', 'account_id', 'campaign_id']
    """

    __tablename__ = "campaigns"

    platform: Mapped[str] = mapped_column(Text, primary_key=True)
    account_id: Mapped[str] = mapped_column(Text, primary_key=True)
    campaign_id: Mapped[str] = mapped_column(Text, primary_key=True)
    objective: Mapped[str] = mapped_column(Text)
    daily_budget: Mapped[float | None] = mapped_column(Double)
    start_date: Mapped[dt.date] = mapped_column(Date)
    end_date: Mapped[dt.date | None] = mapped_column(Date)


class AdModel(Base):
    """An ad as it is now: the version that no later one replaced.

    >>> AdModel.__table__.primary_key.columns.keys()
    ['platform', 'account_id', 'ad_id']
    """

    __tablename__ = "ads"
    __table_args__ = (Index(None, "platform", "account_id", "campaign_id"),)

    platform: Mapped[str] = mapped_column(Text, primary_key=True)
    account_id: Mapped[str] = mapped_column(Text, primary_key=True)
    campaign_id: Mapped[str] = mapped_column(Text)
    ad_group_id: Mapped[str] = mapped_column(Text)
    ad_id: Mapped[str] = mapped_column(Text, primary_key=True)
    headline: Mapped[str | None] = mapped_column(Text)
    body: Mapped[str | None] = mapped_column(Text)
    call_to_action: Mapped[str | None] = mapped_column(Text)
    format: Mapped[str | None] = mapped_column(Text)
    image_id: Mapped[str | None] = mapped_column(Text)
    image_path: Mapped[str | None] = mapped_column(Text)
    audience_age: Mapped[str] = mapped_column(Text)
    audience_gender: Mapped[str] = mapped_column(Text)
    interests: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[dt.date | None] = mapped_column(Date)
    valid_from: Mapped[dt.date] = mapped_column(Date)
