"""The nightly job as a competent script with pandas would do it: the peer of `benchmarks.nightly`.

It reads the same landing files and makes tables of the same rows and of comparable columns: cleaned performance, text
features, window sums and smoothed rates of ad, campaign, account and platform, account features, a training set, a
boosted model with a TF-IDF score as one of its columns, scores, and the rows in Postgres. It is written to be fast:
wide tables instead of `groupby().rolling()`, each text looked at once, COPY into a staging table. It imports nothing of
WITHIN. What it does not do is listed in `benchmarks.nightly`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

IMPORTS = {
    "content": ("vaderSentiment.vaderSentiment", "textstat"),
    "training": ("xgboost", "sklearn.linear_model", "sklearn.feature_extraction.text", "scipy.sparse.linalg"),
    "scoring": ("xgboost", "sklearn.linear_model", "sklearn.feature_extraction.text"),
    "publishing": ("psycopg",),
}
IMPORTS["night"] = tuple(name for names in IMPORTS.values() for name in names)
"""Modules that a step's process imports before its clock starts."""

AD = ["platform", "account_id", "ad_id"]
CAMPAIGN = ["platform", "account_id", "campaign_id"]
ACCOUNT = ["platform", "account_id"]
LEVELS = {"platform": ["platform"], "account": ACCOUNT, "campaign": CAMPAIGN, "ad": AD}
STRENGTH = {"platform": 100.0, "account": 400.0, "campaign": 400.0, "ad": 1000.0}
MEASURES = ["impressions", "clicks", "spend", "conversions", "revenue"]
WINDOWS = (1, 7, 28)
HORIZON, MATURITY, HELD_OUT = 7, 9, 14
PARAMETERS = {
    "objective": "binary:logistic", "eta": 0.05, "max_depth": 4, "min_child_weight": 20, "lambda": 20, "nthread": 2,
    "tree_method": "hist", "seed": 0,
}  # fmt: skip
TREES = 300


def day_range(first: str, last: str) -> list[date]:
    return [d.date() for d in pd.date_range(first, last)]


def partition(folder: Path, table: str, day: date) -> Path:
    return folder / "usual" / table / f"date={day}" / "part.parquet"


def write_days(folder: Path, table: str, rows: pd.DataFrame, first: str, last: str) -> int:
    days = dict(tuple(rows.groupby("date", sort=False)))
    for day in day_range(first, last):
        path = partition(folder, table, day)
        path.parent.mkdir(parents=True, exist_ok=True)
        days.get(pd.Timestamp(day), rows.iloc[:0]).to_parquet(path, index=False)
    return len(rows)


def read_days(folder: Path, table: str, first: str, last: str, columns: list[str] | None = None) -> pd.DataFrame:
    paths = [path for day in day_range(first, last) if (path := partition(folder, table, day)).exists()]
    return pd.read_parquet(paths, columns=columns, partitioning=None)


def step_ingest(folder: str, first: str, last: str) -> dict[str, Any]:
    """Read the exports of these days, drop what is wrong, write a partition per day."""
    root = Path(folder)
    wanted = (pd.Timestamp(first), pd.Timestamp(last))
    parts = []
    for path in sorted((root / "landing/simulation").glob("ad_performance*.parquet")):
        begin, end = (pd.Timestamp(text) for text in path.stem.split("_")[2:4])
        if begin <= wanted[1] and end >= wanted[0]:
            parts.append(pd.read_parquet(path))
    rows = pd.concat(parts, ignore_index=True)
    rows["date"] = pd.to_datetime(rows["date"])
    rows = rows[rows["date"].between(*wanted)]
    good = (rows["impressions"] >= 0) & rows["clicks"].between(0, rows["impressions"]) & rows[AD].notna().all(axis=1)
    rows = rows[good].drop_duplicates(["date", *AD, "region"], keep="last")
    return {"rows": write_days(root, "performance", rows, first, last)}


def texts(folder: Path) -> pd.DataFrame:
    path = folder / "usual/content.parquet"
    return pd.read_parquet(path) if path.exists() else pd.DataFrame({"headline": [], "body": []}, dtype=str)


def ads_of(folder: Path) -> pd.DataFrame:
    ads = pd.read_parquet(folder / "landing/simulation/ads.parquet")
    for column in ("valid_from", "created_at"):
        ads[column] = pd.to_datetime(ads[column]).astype("datetime64[us]")
    return ads.fillna({"headline": "", "body": ""})


def reading_ease(text: str) -> float:
    """Flesch's formula; syllables as groups of vowels, because textstat's own count wants a download."""
    import textstat

    words, sentences = textstat.lexicon_count(text), textstat.sentence_count(text)
    syllables = len(re.findall(r"[aeiouy]+", text.lower()))
    return 206.835 - 1.015 * words / max(sentences, 1) - 84.6 * syllables / max(words, 1)


def step_content(folder: str) -> dict[str, Any]:
    """Counts, sentiment and readability of each text that has none yet."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    root = Path(folder)
    known = texts(root)
    new = ads_of(root)[["headline", "body"]].drop_duplicates()
    new = new.merge(known[["headline", "body"]], how="left", indicator=True)
    new = new[new.pop("_merge") == "left_only"].reset_index(drop=True)
    text, analyzer = new["headline"], SentimentIntensityAnalyzer()
    words = {"second_person": "you|your|yours", "first_person": "i|me|my|we|us|our", "questioning": "what|why|how|who",
             "negation": "not|no|never|don't", "demonstrative": "this|that|these|those|here|it"}  # fmt: skip
    counts = {"exclamations": "!", "questions": r"\?", "commas": ",", "colons": ":", "numbers": r"\d+", "words": r"\w+",
              "capitals": r"[A-Z]", "shouted": r"\b[A-Z]{2,}\b", "dashes": "[-–—]", "quotes": "[\"“”]"}  # fmt: skip
    columns = {f"text_{name}": text.str.count(pattern) for name, pattern in counts.items()}
    columns |= {f"text_{n}": text.str.lower().str.count(rf"\b(?:{pattern})\b") for n, pattern in words.items()}
    columns |= {"text_length": text.str.len(), "text_body_words": new["body"].str.count(r"\w+")}
    columns["sentiment"] = [analyzer.polarity_scores(line)["compound"] for line in text]
    columns["readability"] = [reading_ease(f"{h}. {b}") for h, b in zip(text, new["body"], strict=True)]
    both = pd.concat([known, new.assign(**columns)], ignore_index=True)
    (root / "usual").mkdir(exist_ok=True)
    both.to_parquet(root / "usual/content.parquet", index=False)
    return {"rows": len(new)}


def window_sums(daily: pd.DataFrame, keys: list[str], level: str, days: pd.DatetimeIndex, first: str) -> pd.DataFrame:
    """Sums over 1, 7 and 28 days on every day from ``first``, a row per day and key that was shown in 28 days."""
    wide = daily.groupby([*keys, "date"])[MEASURES].sum().unstack("date").fillna(0.0)
    wide = wide.reindex(columns=pd.MultiIndex.from_product([MEASURES, days]), fill_value=0.0)
    sums = {}
    for measure in MEASURES:
        facts = wide[measure].T
        for window in WINDOWS:
            rolled = facts.rolling(window, min_periods=1).sum().loc[first:]
            sums[f"{level}_{measure}_{window}d"] = rolled.to_numpy().ravel()
        if measure in ("impressions", "clicks"):
            recent = facts.ewm(halflife=7).mean().loc[first:]
            sums[f"{level}_{measure}_recent"] = recent.to_numpy().ravel() * 28
    index = pd.MultiIndex.from_product([days[days >= first], wide.index], names=["date", "key"])
    frame = pd.DataFrame(sums, index=index).reset_index()
    names = pd.DataFrame(frame.pop("key").tolist(), columns=keys)
    frame = pd.concat([frame[["date"]], names, frame.drop(columns="date")], axis=1)
    return frame[frame[f"{level}_impressions_28d"] > 0]


def features(folder: Path, first: str, last: str) -> pd.DataFrame:
    begin = str((pd.Timestamp(first) - pd.Timedelta(days=27)).date())
    performance = read_days(folder, "performance", begin, last)
    daily = performance.groupby([*AD, "campaign_id", "ad_group_id", "date"], as_index=False)[MEASURES].sum()
    days = pd.date_range(begin, last)
    parents = daily.sort_values("date").drop_duplicates(AD, keep="last")[[*AD, "campaign_id", "ad_group_id"]]
    rows = window_sums(daily, AD, "ad", days, first).merge(parents, on=AD)
    rows = with_starting(rows, folder, first, last)
    for level in ("campaign", "account", "platform"):
        keys = LEVELS[level]
        rows = rows.merge(window_sums(daily, keys, level, days, first), on=["date", *keys], how="left")
    zero = [c for c in rows if c.rsplit("_", 1)[-1] in ("1d", "7d", "28d", "recent")]
    rows[zero] = rows[zero].fillna(0.0)
    return with_dates(with_rates(rows), folder)


def with_starting(rows: pd.DataFrame, folder: Path, first: str, last: str) -> pd.DataFrame:
    """Add a row for each ad that is known and about to start."""
    ads = ads_of(folder)
    campaigns = pd.read_parquet(folder / "landing/simulation/campaigns.parquet", columns=[*CAMPAIGN, "start_date"])
    ads = ads.merge(campaigns.assign(start_date=pd.to_datetime(campaigns["start_date"])), on=CAMPAIGN, how="left")
    begins = ads[["valid_from", "start_date"]].max(axis=1)
    parts = []
    for day in pd.date_range(first, last):
        near = (ads["valid_from"] <= day) & ((day - begins).abs() < pd.Timedelta(days=HORIZON))
        parts.append(ads.loc[near, [*AD, "campaign_id", "ad_group_id"]].assign(date=day))
    starting = pd.concat(parts).drop_duplicates(["date", *AD])
    return pd.concat([rows, starting], ignore_index=True).drop_duplicates(["date", *AD], keep="first")


def with_rates(rows: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    prior: Any = 0.01
    for level in LEVELS:
        k = STRENGTH[level]
        for w in WINDOWS:
            clicks, shown = rows[f"{level}_clicks_{w}d"], rows[f"{level}_impressions_{w}d"]
            columns[f"{level}_ctr_{w}d"] = (clicks + k * prior) / (shown + k)
        prior = (rows[f"{level}_clicks_recent"] + k * prior) / (rows[f"{level}_impressions_recent"] + k)
        columns[f"{level}_prior_ctr"] = prior
        columns[f"{level}_ctr_trend"] = np.log(columns[f"{level}_ctr_7d"] / columns[f"{level}_ctr_28d"])
        if level == "platform":
            continue
        for w in WINDOWS if level == "ad" else (28,):
            clicks, spend = rows[f"{level}_clicks_{w}d"], rows[f"{level}_spend_{w}d"]
            columns[f"{level}_cpc_{w}d"] = spend / clicks.replace(0, np.nan)
            columns[f"{level}_cvr_{w}d"] = (rows[f"{level}_conversions_{w}d"] + 5) / (clicks + 100)
            columns[f"{level}_roas_{w}d"] = rows[f"{level}_revenue_{w}d"] / spend.replace(0, np.nan)
    columns["prior_ctr"] = columns.pop("ad_prior_ctr")
    columns["ad_vs_campaign_ctr"] = columns["ad_ctr_28d"] / columns["campaign_ctr_28d"]
    columns["campaign_vs_account_ctr"] = columns["campaign_ctr_28d"] / columns["account_ctr_28d"]
    return pd.concat([rows, pd.DataFrame(columns)], axis=1)


def with_dates(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Add text as of the day, ages and weekday."""
    ads = ads_of(folder)
    campaigns = pd.read_parquet(folder / "landing/simulation/campaigns.parquet", columns=[*CAMPAIGN, "start_date"])
    known = ads.sort_values("valid_from")[[*AD, "valid_from", "created_at", "headline", "body"]]
    rows = pd.merge_asof(rows.sort_values("date"), known, left_on="date", right_on="valid_from", by=AD)
    rows = rows.merge(campaigns.assign(start_date=pd.to_datetime(campaigns["start_date"])), on=CAMPAIGN, how="left")
    rows["ad_age_days"] = (rows["date"] - rows.pop("created_at")).dt.days
    rows["campaign_age_days"] = (rows["date"] - rows.pop("start_date")).dt.days
    rows["day_of_week"] = rows["date"].dt.day_of_week
    return rows.drop(columns="valid_from").merge(texts(folder), on=["headline", "body"], how="left")


def step_ad_features(folder: str, first: str, last: str) -> dict[str, Any]:
    """Features of these days, 30 days at a time."""
    root, rows = Path(folder), 0
    for begin, end in chunks(first, last):
        rows += write_days(root, "ad_features", features(root, begin, end), begin, end)
    return {"rows": rows}


def step_account_features(folder: str, first: str, last: str) -> dict[str, Any]:
    """Sums, rates and trends of each account, over its platforms."""
    root, rows = Path(folder), 0
    for start, end in chunks(first, last):
        begin = str((pd.Timestamp(start) - pd.Timedelta(days=30)).date())
        performance = read_days(root, "performance", begin, end)
        daily = performance.groupby(["account_id", "date"], as_index=False)[MEASURES].sum()
        frame = window_sums(daily, ["account_id"], "account", pd.date_range(begin, end), start)
        active = performance[performance["impressions"] > 0].drop_duplicates(["date", *AD])
        counted = active.groupby(["account_id", "date"]).agg(
            active_ads=("ad_id", "size"), campaigns=("campaign_id", "nunique")
        )
        frame = frame.merge(counted.reset_index(), on=["account_id", "date"], how="left")
        months = daily.assign(month=daily["date"].dt.to_period("M"))
        months["spend_month"] = months.groupby(["account_id", "month"])["spend"].cumsum()
        frame = frame.merge(months[["account_id", "date", "spend_month"]], on=["account_id", "date"], how="left")
        accounts = pd.read_parquet(
            root / "landing/simulation/accounts.parquet", columns=["account_id", "monthly_budget"]
        )
        frame = frame.merge(accounts, on="account_id", how="left")
        share = frame["date"].dt.day / frame["date"].dt.days_in_month
        frame["pacing"] = frame["spend_month"] / (frame["monthly_budget"] * share)
        for w in WINDOWS:
            clicks, spend = (
                frame[f"account_clicks_{w}d"].replace(0, np.nan),
                frame[f"account_spend_{w}d"].replace(0, np.nan),
            )
            frame[f"ctr_{w}d"] = clicks / frame[f"account_impressions_{w}d"]
            frame[f"cpc_{w}d"] = spend / clicks
            frame[f"cvr_{w}d"] = frame[f"account_conversions_{w}d"] / clicks
            frame[f"roas_{w}d"] = frame[f"account_revenue_{w}d"] / spend
        rows += write_days(root, "account_features", frame, start, end)
    return {"rows": rows}


def chunks(first: str, last: str) -> Iterator[tuple[str, str]]:
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    while begin <= end:
        stop = min(begin + timedelta(days=29), end)
        yield str(begin), str(stop)
        begin = stop + timedelta(days=1)


def step_training_set(folder: str, first: str, last: str) -> dict[str, Any]:
    """Features joined with clicks and impressions of the seven days after; ``last`` is the Monday of training."""
    root = Path(folder)
    end = str((pd.Timestamp(last) - pd.Timedelta(days=MATURITY)).date())
    performance = read_days(root, "performance", first, last, ["date", *AD, "impressions", "clicks"])
    daily = performance.groupby([*AD, "date"])[["impressions", "clicks"]].sum().unstack("date").fillna(0.0)
    labels = []
    for measure in ("impressions", "clicks"):
        ahead = daily[measure].T.iloc[::-1].rolling(HORIZON, min_periods=1).sum().iloc[::-1].shift(-1)
        labels.append(ahead.T.stack().rename(f"label_{measure}"))
    label = pd.concat(labels, axis=1).reset_index()
    rows = read_days(root, "ad_features", first, end).merge(label, on=["date", *AD])
    rows = rows[rows["label_impressions"] > 0]
    rows.to_parquet(root / "usual/training_set.parquet", index=False)
    return {"rows": len(rows)}


def step_training(folder: str) -> dict[str, Any]:
    """A TF-IDF score and boosted trees on top of the prior, stopped early; judged on the last days."""
    import xgboost as xgb

    root = Path(folder)
    rows = pd.read_parquet(root / "usual/training_set.parquet").fillna({"headline": ""})
    cut = rows["date"].max() - pd.Timedelta(days=HELD_OUT - 1)
    early, late = rows[rows["date"] < cut - pd.Timedelta(days=2 * HORIZON + HELD_OUT)], None
    late = rows[
        (rows["date"] >= cut - pd.Timedelta(days=HORIZON + HELD_OUT))
        & (rows["date"] < cut - pd.Timedelta(days=HORIZON))
    ]
    if early.empty:
        early, late = rows[rows["date"] < cut], rows[rows["date"] >= cut]
    test = rows[rows["date"] >= cut]
    vectorizer, ridge = text_model(early)
    numeric = [c for c in rows.select_dtypes("number") if not c.startswith("label_")]
    sets = {
        name: matrix(part, numeric, vectorizer, ridge)
        for name, part in (("train", early), ("late", late), ("test", test))
    }
    booster = xgb.train(
        PARAMETERS, sets["train"], TREES, evals=[(sets["late"], "late")], early_stopping_rounds=20, verbose_eval=False
    )
    booster.save_model(root / "usual/model.ubj")
    scale = np.sort(booster.predict(sets["train"]))
    coefficients = {t: float(ridge.coef_[i]) for t, i in vectorizer.vocabulary_.items()}
    told = {"numeric": numeric, "scale": np.quantile(scale, np.linspace(0, 1, 1001)).tolist(), "words": coefficients,
            "idf": vectorizer.idf_.tolist(), "vocabulary": {t: int(i) for t, i in vectorizer.vocabulary_.items()},
            "intercept": float(ridge.intercept_), "coefficients": ridge.coef_.tolist()}  # fmt: skip
    (root / "usual/model.json").write_text(json.dumps(told))
    p, y, w = booster.predict(sets["test"]), test["label_clicks"] / test["label_impressions"], test["label_impressions"]
    loss = float(np.average(-(y * np.log(p) + (1 - y) * np.log1p(-p)), weights=w))
    return {"rows": len(early), "log_loss": loss, "test_rows": len(test), "trees": booster.num_boosted_rounds()}


def text_model(rows: pd.DataFrame) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    totals = rows.groupby("headline")[["label_clicks", "label_impressions"]].sum()
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    weight = totals["label_impressions"] / totals["label_impressions"].mean()
    ridge = Ridge(alpha=5.0, solver="sparse_cg")
    ridge.fit(vectorizer.fit_transform(totals.index), totals["label_clicks"] / totals["label_impressions"], weight)
    return vectorizer, ridge


def matrix(rows: pd.DataFrame, numeric: list[str], vectorizer: Any, ridge: Any) -> Any:
    import xgboost as xgb

    lines, place = np.unique(rows["headline"].fillna("").to_numpy(str), return_inverse=True)
    text = ridge.predict(vectorizer.transform(lines))[place]
    values = np.column_stack([rows[numeric].to_numpy(np.float32), text.astype(np.float32)])
    prior = np.clip(rows["prior_ctr"], 1e-6, 1 - 1e-6)
    labels = {}
    if "label_clicks" in rows:
        labels = {"label": rows["label_clicks"] / rows["label_impressions"], "weight": rows["label_impressions"]}
    return xgb.DMatrix(values, base_margin=np.log(prior / (1 - prior)), **labels)


def step_scoring(folder: str, first: str, last: str) -> dict[str, Any]:
    """Predictions, percentiles and the words that count most, a partition per day."""
    import xgboost as xgb
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    root = Path(folder)
    told = json.loads((root / "usual/model.json").read_text())
    booster = xgb.Booster(model_file=root / "usual/model.ubj")
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, vocabulary=told["vocabulary"])
    vectorizer.idf_ = np.array(told["idf"])
    ridge = Ridge()
    ridge.coef_, ridge.intercept_ = np.array(told["coefficients"]), told["intercept"]
    analyze, known = vectorizer.build_analyzer(), {}
    total = 0
    for day in day_range(first, last):
        rows = read_days(root, "ad_features", str(day), str(day)).fillna({"headline": ""})
        p = booster.predict(matrix(rows, told["numeric"], vectorizer, ridge))
        for line in rows["headline"].unique():
            if line not in known:
                words = {w: abs(told["words"].get(w, 0.0)) for w in analyze(line)}
                known[line] = ", ".join(sorted(words, key=words.get, reverse=True)[:5])
        scores = rows[["date", *AD, "campaign_id", "ad_group_id"]].assign(
            predicted_ctr=p.astype(float),
            ad_score=np.searchsorted(told["scale"], p) / 10.01,
            sentiment_score=rows["sentiment"],
            complexity_score=(100 - rows["readability"]).clip(0, 100),
            topics=rows["headline"].map(known),
            confidence_score=rows["ad_impressions_28d"] / (rows["ad_impressions_28d"] + 1000),
        )
        total += write_days(root, "ad_scores", scores, str(day), str(day))
    return {"rows": total}


def step_publishing(folder: str, first: str, last: str, url: str) -> dict[str, Any]:
    """COPY each day into a staging table, and from there an upsert; a transaction per day."""
    import psycopg

    total = 0
    columns = ["date", *AD, "campaign_id", "ad_group_id", "predicted_ctr", "ad_score", "sentiment_score",
               "complexity_score", "topics", "confidence_score"]  # fmt: skip
    types = {c: "double precision" for c in columns if c.endswith(("score", "ctr"))} | {"date": "date"}
    definition = ", ".join(f"{c} {types.get(c, 'text')}" for c in columns)
    changes = ", ".join(f"{c} = EXCLUDED.{c}" for c in columns if c not in ("date", *AD))
    upsert = (
        f"INSERT INTO usual_scores SELECT * FROM staged ON CONFLICT (date, {', '.join(AD)}) DO UPDATE SET {changes}"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS usual_scores ({definition}, PRIMARY KEY (date, {', '.join(AD)}))"
        )
        for day in day_range(first, last):
            rows = read_days(Path(folder), "ad_scores", str(day), str(day))[columns]
            with connection.transaction():
                connection.execute(f"CREATE TEMP TABLE staged ({definition}) ON COMMIT DROP")
                with connection.cursor().copy(f"COPY staged ({', '.join(columns)}) FROM STDIN") as copy:
                    for row in rows.astype(object).where(rows.notna(), None).itertuples(index=False):
                        copy.write_row(row)
                connection.execute(upsert)
            total += len(rows)
    return {"rows": total}


def step_night(folder: str, day: str, url: str) -> dict[str, Any]:
    """All of one night."""
    step_ingest(folder, day, day)
    step_content(folder)
    step_ad_features(folder, day, day)
    step_account_features(folder, day, day)
    step_scoring(folder, day, day)
    return step_publishing(folder, day, day, url)
