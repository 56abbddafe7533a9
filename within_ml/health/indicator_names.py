"""The indicators of account health by name, and what each means; they are computed in `indicators`."""

from __future__ import annotations

from typing import Final

INDICATORS: Final[dict[str, str]] = {
    "engagement_trend": "change of clicks per week over 28 days, on the log scale",
    "clicks_7d_vs_28d": "log of the daily clicks of 7 days over those of the 21 before",
    "clicks_28d_vs_90d": "log of the daily clicks of 28 days over those of the 62 before",
    "impressions_7d_vs_28d": "the same of impressions",
    "impressions_28d_vs_90d": "the same of impressions",
    "spend_7d_vs_28d": "the same of spend",
    "spend_28d_vs_90d": "the same of spend",
    "ctr_7d_vs_28d": "log of the ctr of 7 days over that of the 21 before",
    "ctr_28d_vs_90d": "log of the ctr of 28 days over that of the 62 before",
    "spend_efficiency": "log of the 28-day roas (ctr where revenue is unknown) over that of the 62 days before",
    "roas_7d_vs_28d": "log of the roas of 7 days over that of the 21 before",
    "roas_28d_vs_90d": "log of the roas of 28 days over that of the 62 before",
    "cpc_28d_vs_90d": "the same of cost per click",
    "cpa_28d_vs_90d": "the same of cost per conversion",
    "cvr_28d_vs_90d": "the same of conversions per click",
    "ctr_28d": "clicks per impression in 28 days",
    "cpc_28d": "spend per click in 28 days",
    "cvr_28d": "conversions per click in 28 days",
    "roas_28d": "revenue per spend in 28 days",
    "budget_pacing_7d": "spend of 7 days over what the monthly budget gives them",
    "budget_pacing_28d": "spend of 28 days over what the monthly budget gives them",
    "reach_saturation": "1 less the elasticity of clicks to impressions in 28 days: 0 where clicks grow as impressions",
    "frequency": "impressions a day per audience reached, in 7 days; stands in for reach, which the lake does not know",
    "frequency_7d_vs_28d": "log of the frequency over its mean of the 21 days before the 7",
    "fatigue": "relative change of the ads' own ctr per week of age, in 28 days; negative where they wear out",
    "creative_refresh": "share of 28 days' impressions on ads younger than 14 days",
    "newest_ad_days": "days since an ad was first served",
    "active_ads": "ads served in 28 days",
    "audience_concentration": "Herfindahl index of 28 days' impressions over audiences",
    "region_concentration": "Herfindahl index of 28 days' impressions over regions",
    "audience_overlap": "chance that impressions of two different ads of 28 days went to one audience",
    "ctr_percentile_90d": "share of the last 90 days on which the 7-day ctr was lower than today's",
    "ctr_percentile_180d": "the same of 180 days",
    "roas_percentile_90d": "the same of the 7-day roas",
    "roas_percentile_180d": "the same of the 7-day roas and 180 days",
    "clicks_percentile_90d": "the same of the 7-day clicks",
    "volatility": "mean absolute change of log impressions from one day to the next, in 28 days",
    "days_since_served": "days since the account had an impression",
    "idle_share": "share of 28 days, or of those since the account began, without an impression",
    "account_days": "days since the account was onboarded, or since its first row where that is not told",
}
"""All indicators by name and meaning; columns of `account_indicators`. Money is in the account's currency."""
