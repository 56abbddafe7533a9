"""Topics of ads whose click rates rise beyond chance: the last days beside those before.

An ad is compared with what its own history and its campaign expect, a topic with other topics in the same campaigns
and accounts, so that neither a good account nor a good week makes a topic trend. What a topic is, is in `topics`.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats

from within_ml.anomalies.random_effects import FloatArray, Precision, group_variance
from within_ml.anomalies.topics import Topics, find_topics
from within_ml.errors import InputError, shown
from within_ml.lake.contracts import AD_KEY

Codes = NDArray[np.int64]

COLUMNS = (
    "topic",
    "rank",
    "ads",
    "impressions",
    "clicks",
    "expected_clicks",
    "rate_ratio",
    "rate_ratio_lower",
    "rate_ratio_upper",
    "p_value",
    "q_value",
    "examples",
)
"""Columns of `trending_topics`."""

GAP_DAYS = 3
"""Days between the periods, so that a topic that trends for longer than the recent days has its own past to compare."""

_OWN_CLICKS = 10.0
"""Clicks that an ad's own history needs to count as much as its campaign's: ads of a campaign differ by about 0.3."""

_WEAR_DAYS = 14.0
"""Ads wear out by the log of their age in units of so many days."""

_MIN_EXPECTED = 2.0
"""Expected clicks below which an ad tells nothing."""

_EXAMPLES = 3
_MAX_PULL = 3.0
"""An ad counts as at most so many standard deviations off: one ad makes no topic."""


@dataclass(frozen=True, slots=True, eq=False)
class _Ads:
    """Ads of the recent days: log of clicks beside expected, its variance, and where each belongs."""

    frame: pd.DataFrame
    expected: FloatArray
    log_ratio: FloatArray
    variance: FloatArray
    campaign: Codes
    account: Codes


def trending_topics(
    ads: pd.DataFrame,
    performance: pd.DataFrame,
    as_of: dt.date,
    *,
    recent_days: int = 7,
    before_days: int = 28,
    max_q: float = 0.1,
    min_ads: int = 3,
    max_topics: int = 20,
) -> pd.DataFrame:
    """Return the topics that trend, the strongest first.

    Per ad, clicks of the recent days are compared with those expected from its rate in the days before, drawn towards
    its campaign's (which stands in for an ad without history). The logs of the ratios are modelled as a shift of the
    account and of the campaign (random effects), one of new ads, the topic's effect, and noise: binomial, that of the
    expectation, and over-dispersion estimated from all ads.

    The topic with the largest effect beside its error is taken if its q-value (Benjamini–Hochberg over all topics)
    allows; its effect is taken out, so that words that merely stand beside it do not trend too, and the next one is
    looked for. Errors are widened to the spread that the topics' z-values show (Efron 2004, empirical null). Rate
    ratios are shrunk by a normal prior over the topics' effects (empirical Bayes).

    Parameters
    ----------
    ads : DataFrame
        ``platform``, ``account_id``, ``ad_id``, ``headline``; with ``valid_from`` the version of ``as_of`` counts.
    performance : DataFrame
        ``date``, ``platform``, ``account_id``, ``campaign_id``, ``ad_id``, ``impressions``, ``clicks``; other
        dimensions are added up, days after ``as_of`` are not looked at.
    as_of : date
        Last recent day.
    recent_days, before_days : int
        Lengths of the two periods, at least 1; between them `GAP_DAYS` are left out.
    max_q : float
        Share of false topics among those told, in (0, 1].
    min_ads : int
        Ads that a topic needs in the recent days; also in at least two campaigns.
    max_topics : int

    Returns
    -------
    DataFrame
        One row per topic with `COLUMNS`; intervals hold 95 % of the posterior. Empty if nothing trends.

    Raises
    ------
    InputError
        If columns are missing or an option is out of range.

    Examples
    --------
    >>> rows = [(f"c{c}", f"{c}-{a}", day, 300 if a % 3 == 0 and day > 28 else 200)
    ...         for c in range(8) for a in range(4) for day in range(35)]
    >>> performance = pd.DataFrame(rows, columns=["campaign_id", "ad_id", "date", "clicks"])
    >>> performance = performance.assign(platform="meta", account_id="acc", impressions=10_000,
    ...     date=pd.Timestamp("2024-01-01") + pd.to_timedelta(performance["date"], unit="D"))
    >>> ads = performance[["platform", "account_id", "ad_id"]].drop_duplicates()
    >>> ads["headline"] = [["Half price", "Built to last", "Smart"][int(i[-1]) % 3] + " shoes" for i in ads["ad_id"]]
    >>> trending_topics(ads, performance, dt.date(2024, 2, 4))["topic"].tolist()
    ['half price shoes']
    """
    _check(ads, performance, (recent_days, before_days), max_q, min_ads)
    found = _recent_ads(ads, performance, as_of, (recent_days, before_days))
    if len(found.frame) < min_ads:
        return _told([], found)
    topics = find_topics(found.frame["headline"].tolist(), min_texts=min_ads)
    topics = _spread_out(topics, found.campaign)
    if not topics.names:
        return _told([], found)
    return _told(_select(found, topics, max_q, max_topics), found)


# ---- ads


def _recent_ads(ads: pd.DataFrame, performance: pd.DataFrame, as_of: dt.date, periods: tuple[int, int]) -> _Ads:
    recent_days, before_days = periods
    days = (pd.Timestamp(as_of) - pd.to_datetime(performance["date"])).dt.days.to_numpy()
    recent = (days >= 0) & (days < recent_days)
    before = (days >= recent_days + GAP_DAYS) & (days < recent_days + GAP_DAYS + before_days)
    key = ["account_id", "platform", "campaign_id", "ad_id"]
    counts = ["impressions", "clicks"]
    now = performance[recent].groupby(key, sort=True)[counts].sum().astype(np.float64)
    past = performance[before].groupby(key, sort=True)[counts].sum().astype(np.float64)
    rows = now.join(past.add_suffix("_before"), how="outer").fillna(0.0).reset_index()
    rows["wear"] = _wear(performance[before], days[before], rows, key, recent_days)
    rows["expected_rate"] = _rates(rows)
    rows = rows.merge(_texts(ads, as_of), on=list(AD_KEY), how="inner")
    expected = (rows["expected_rate"] * rows["impressions"]).to_numpy(np.float64)
    kept = (expected >= _MIN_EXPECTED) & (rows["headline"].str.strip() != "").to_numpy(np.bool_)
    rows, expected = rows[kept].reset_index(drop=True), expected[kept]
    if rows.empty:
        none = np.empty(0, dtype=np.int64)
        return _Ads(rows, expected, np.empty(0), np.empty(0), none, none)
    log_ratio = np.log((rows["clicks"].to_numpy(np.float64) + 0.5) / (expected + 0.5))
    own = rows["clicks_before"].to_numpy(np.float64)
    campaign = rows.groupby(["account_id", "platform", "campaign_id"], sort=True).ngroup().to_numpy(np.int64)
    account = rows.groupby("account_id", sort=True).ngroup().to_numpy(np.int64)
    variance = 1 / (expected + 1) + 1 / (own + _OWN_CLICKS)
    # New ads as a whole stand above or below what their campaigns expect: they are not worn out yet.
    new = own == 0
    log_ratio -= _worn(log_ratio, variance, rows["wear"].to_numpy(np.float64), ~new)
    for kind in (new, ~new):
        if kind.any():
            log_ratio[kind] -= _weighted_median(log_ratio[kind], 1 / variance[kind])
    variance = variance + _overdispersion(log_ratio, variance, campaign)
    scale = np.sqrt(variance + group_variance(log_ratio, variance, campaign))
    return _Ads(rows, expected, np.clip(log_ratio, -_MAX_PULL * scale, _MAX_PULL * scale), variance, campaign, account)


def _wear(past: pd.DataFrame, days: Codes, rows: pd.DataFrame, key: list[str], recent_days: int) -> FloatArray:
    """Return by how much each ad has aged between the two periods, ``Δ log(1 + age / 14 days)``; 0 without history."""
    ages = past[key].assign(age=days)
    found = ages.groupby(key, sort=True)["age"].agg(["max", "mean"])
    both = rows[key].merge(found, left_on=key, right_index=True, how="left")
    first, middle = both["max"].to_numpy(np.float64), both["mean"].to_numpy(np.float64)
    wear = np.log1p((first - (recent_days - 1) / 2) / _WEAR_DAYS) - np.log1p((first - middle) / _WEAR_DAYS)
    return np.asarray(np.nan_to_num(wear), dtype=np.float64)


def _worn(log_ratio: FloatArray, variance: FloatArray, wear: FloatArray, known: NDArray[np.bool_]) -> FloatArray:
    """Return what ageing explains of the log ratios of ads with history: a line, fitted without the farthest tenth."""
    effect = np.zeros(log_ratio.size)
    if known.sum() < 20:
        return effect
    x, y, w = wear[known], log_ratio[known], 1 / (variance[known] + 0.01)
    far = np.abs(y - np.median(y))
    w = np.where(far <= np.quantile(far, 0.9), w, 0.0)
    x_mean, y_mean = np.average(x, weights=w), np.average(y, weights=w)
    spread = float(w @ (x - x_mean) ** 2)
    slope = float(w @ ((x - x_mean) * (y - y_mean))) / spread if spread > 0 else 0.0
    effect[known] = min(slope, 0.0) * (x - x_mean)
    return effect


def _rates(rows: pd.DataFrame) -> FloatArray:
    """Return each ad's rate before: its own, drawn towards its campaign's, that to its account's and platform's."""
    clicks, shown_ = rows["clicks_before"].to_numpy(np.float64), rows["impressions_before"].to_numpy(np.float64)
    overall = (clicks.sum() + 1e-9) / max(shown_.sum(), 1e-9)
    rate = np.full(len(rows), min(overall, 1.0))
    levels = [["platform"], ["account_id", "platform"], ["account_id", "platform", "campaign_id"], None]
    for level in levels:
        group = np.arange(len(rows)) if level is None else rows.groupby(level, sort=False).ngroup().to_numpy(np.int64)
        up, down = np.bincount(group, clicks), np.bincount(group, shown_)
        rate = (up[group] + _OWN_CLICKS) / (down[group] + _OWN_CLICKS / rate)
    return rate


def _texts(ads: pd.DataFrame, as_of: dt.date) -> pd.DataFrame:
    if "valid_from" in ads.columns:
        ads = ads[(pd.to_datetime(ads["valid_from"]) <= pd.Timestamp(as_of)).to_numpy()]
        ads = ads.sort_values("valid_from", kind="stable")
    last = ads.drop_duplicates(list(AD_KEY), keep="last")
    return last[list(AD_KEY)].assign(headline=last["headline"].astype(object).where(last["headline"].notna(), ""))


def _overdispersion(log_ratio: FloatArray, variance: FloatArray, campaign: Codes) -> float:
    """Return the variance of ads within campaigns beyond the known one, by the median absolute deviation."""
    weight = 1 / variance
    mean = np.bincount(campaign, weight * log_ratio) / np.bincount(campaign, weight)
    many = np.bincount(campaign)[campaign] > 1
    if many.sum() < 10:
        return 0.01
    n = np.bincount(campaign)[campaign][many]
    left = (log_ratio - mean[campaign])[many] * np.sqrt(n / (n - 1))
    robust = (1.4826 * float(np.median(np.abs(left)))) ** 2
    return max(robust - float(np.median(variance[many])), 0.0)


def _weighted_median(values: FloatArray, weights: FloatArray) -> float:
    order = np.argsort(values, kind="stable")
    up = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(up, up[-1] / 2)])


# ---- topics


@dataclass(frozen=True, slots=True, eq=False)
class _Trend:
    name: str
    ads: Codes
    expected: float
    effect: float
    error: float
    p_value: float
    q_value: float
    prior: float


def _spread_out(topics: Topics, campaign: Codes) -> Topics:
    """Keep the topics of at least two campaigns; of one campaign's rise nobody knows what it is due to."""
    of_campaign = sparse.csr_matrix((np.ones(campaign.size), (campaign, np.arange(campaign.size))))
    campaigns = np.asarray((of_campaign @ topics.has > 0).sum(axis=0)).ravel()
    kept = np.flatnonzero((campaigns >= 2) & (np.asarray(topics.has.sum(axis=0)).ravel() < topics.has.shape[0]))
    return Topics(tuple(topics.names[i] for i in kept), topics.has[:, kept])


def _select(ads: _Ads, topics: Topics, max_q: float, max_topics: int) -> list[_Trend]:
    """Take the most certain topic, take its effect out, look again."""
    precision = Precision(ads.log_ratio, ads.variance, ads.campaign, ads.account)
    left, taken = ads.log_ratio, []
    effects, errors = precision.effects(left, topics.has)
    # Moments over all topics: what their effects vary by beyond their errors.
    prior = max(float(np.mean(effects**2 - errors**2)), 0.05**2)
    chosen: list[int] = []
    q_so_far = 0.0
    while len(chosen) < min(max_topics, len(topics.names)):
        effects, errors = precision.effects(left, topics.has)
        z = effects / errors
        free = np.setdiff1d(np.arange(z.size), chosen)
        widening = max(1.0, 1.4826 * float(np.median(np.abs(z[free] - np.median(z[free])))))
        p_values = stats.norm.sf(z / widening)
        q_values = _benjamini_hochberg(p_values[free])
        best = int(free[np.lexsort((free, -z[free]))[0]])
        q_so_far = max(q_so_far, float(q_values[np.flatnonzero(free == best)[0]]))
        if q_so_far > max_q or effects[best] <= 0:
            break
        chosen.append(best)
        members = topics.has[:, [best]].indices.astype(np.int64)
        without = left.copy()
        without[members] -= effects[best]
        usual = np.exp(precision.level(without)[members])
        taken.append(
            _Trend(
                topics.names[best],
                members,
                float((ads.expected[members] * usual).sum()),
                float(effects[best]),
                float(errors[best] * widening),
                float(p_values[best]),
                q_so_far,
                prior,
            )
        )
        left = without
    return taken


def _benjamini_hochberg(p_values: FloatArray) -> FloatArray:
    order = np.argsort(p_values, kind="stable")
    n = p_values.size
    up = p_values[order] * n / np.arange(1, n + 1)
    q = np.empty(n)
    q[order] = np.minimum(np.minimum.accumulate(up[::-1])[::-1], 1.0)
    return q


def _told(trends: list[_Trend], ads: _Ads) -> pd.DataFrame:
    rows = []
    for rank, trend in enumerate(trends, start=1):
        share = trend.prior / (trend.prior + trend.error**2)
        middle, half = share * trend.effect, 1.96 * np.sqrt(share) * trend.error
        mine = ads.frame.iloc[trend.ads]
        shown_most = (
            mine.groupby("headline", sort=True)["impressions"].sum().sort_values(ascending=False, kind="stable")
        )
        rows.append(
            (
                trend.name,
                rank,
                len(mine),
                int(mine["impressions"].sum()),
                int(mine["clicks"].sum()),
                trend.expected,
                float(np.exp(middle)),
                float(np.exp(middle - half)),
                float(np.exp(middle + half)),
                trend.p_value,
                trend.q_value,
                json.dumps(shown_most.index[:_EXAMPLES].tolist(), ensure_ascii=False),
            )
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _check(ads: pd.DataFrame, performance: pd.DataFrame, periods: tuple[int, int], max_q: float, min_ads: int) -> None:
    needed = {"ads": (ads, {*AD_KEY, "headline"}),
              "performance": (performance, {"date", *AD_KEY, "campaign_id", "impressions", "clicks"})}  # fmt: skip
    for name, (frame, columns) in needed.items():
        missing = sorted(columns - set(frame.columns))
        if missing:
            raise InputError(f"{name} must have the columns {shown(sorted(columns))}; missing: {shown(missing)}.")
    if min(*periods, min_ads) < 1 or not 0 < max_q <= 1:
        raise InputError(
            "recent_days, before_days and min_ads must be at least 1 and max_q in (0, 1]; they are "
            f"{periods[0]}, {periods[1]}, {min_ads} and {max_q}."
        )
