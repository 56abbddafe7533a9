"""An agency's own export, mapped by a YAML file alone: weekly vintages, an as-of backfill, no look into the future."""

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from within_ml.errors import RegistryError
from within_ml.lake.landing import adopt_mapping, chosen_mapping, copy_in, exports
from within_ml.lake.simulation import SimulationConfig, simulate

START = date(2024, 1, 1)  # a Monday, as are all days below
FIRST_VINTAGE = date(2024, 3, 4)
SECOND_VINTAGE = FIRST_VINTAGE + timedelta(days=7)
LAST = SECOND_VINTAGE + timedelta(days=6)

MAPPING = """
name: reklame_nord
description: Export of a German ad server, one line per ad, day and state; German numbers and dates.
format: csv
cadence: daily
options:
  encoding: cp1252
  decimal: ","
  null_values: ["k. A."]
where: clean("Werbemittel") IS NOT NULL
tables:
  ad_performance:
    columns:
      date: day("Datum", '%d.%m.%Y')
      platform: lower("Plattform")
      account_id: clean("Kunde")
      campaign_id: clean("Kampagnen-Nr.")
      ad_group_id: clean("Gruppe")
      ad_id: clean("Werbemittel")
      region: clean("Bundesland")
      impressions: whole("Einblendungen")
      clicks: whole("Klicks")
      spend: money("Kosten")
      conversions: number("Abschlüsse")
      revenue: money("Umsatz")
  ads:
    columns:
      headline: clean("Überschrift")
      body: clean("Text")
"""


def german(value: float, digits: int) -> str:
    """Write a number as Germans do: 1.234,50."""
    return f"{value:,.{digits}f}".translate(str.maketrans(",.", ".,"))


def write_export(folder: Path) -> list[Path]:
    """Dump a simulated agency into the shape of the mapping: two files of four weeks, then one per week."""
    agency = simulate(
        SimulationConfig(accounts=4, days=(LAST - START).days + 1, start_date=START, seed=3, max_images=2)
    )
    texts = agency.ads.to_pandas().drop_duplicates("ad_id").set_index("ad_id")
    facts = pa.concat_tables(agency.performance()).to_pandas()
    columns = {
        "Datum": pd.to_datetime(facts["date"]).dt.strftime("%d.%m.%Y"),
        "Plattform": facts["platform"].str.upper(),
        "Kunde": facts["account_id"],
        "Kampagnen-Nr.": facts["campaign_id"],
        "Gruppe": facts["ad_group_id"],
        "Werbemittel": facts["ad_id"],
        "Überschrift": facts["ad_id"].map(texts["headline"]),
        "Text": facts["ad_id"].map(texts["body"]).str.replace("—", "-"),
        "Bundesland": facts["region"],
        "Einblendungen": facts["impressions"].map(lambda n: german(n, 0)),
        "Klicks": facts["clicks"].map(lambda n: german(n, 0)),
        "Kosten": facts["spend"].map(lambda n: german(n, 2) + " €"),
        "Abschlüsse": facts["conversions"].map(lambda n: german(n, 2)),
        "Umsatz": facts["revenue"].map(lambda n: "k. A." if n == 0 else german(n, 2) + " €"),
    }
    table = pd.DataFrame(columns)
    folder.mkdir()
    written = []
    for first in (0, 28, *range(56, (LAST - START).days + 1, 7)):
        week = START + timedelta(days=first)
        days = facts["date"].between(week, week + timedelta(days=27 if first < 56 else 6))
        path = folder / f"bericht_{week}.csv"
        lines = table[days].to_csv(sep=";", index=False, lineterminator="\n")
        total = f"Summe;;;;;;;;;{german(facts['impressions'][days].sum(), 0)};;;;\n"
        path.write_bytes(f"Bericht;{week:%d.%m.%Y}\n{lines}{total}".encode("cp1252"))
        written.append(path)
    return written


def ingest(deployment, mapping: Path, files: list[Path]) -> None:
    """What `within ingest --copy` does, file by file."""
    zone = deployment.zone
    chosen = chosen_mapping(zone, str(mapping))
    found = [file for path in files for file in exports(zone, path, outside=True)]
    adopt_mapping(zone, str(mapping), chosen)
    copies = copy_in(zone, found, chosen)
    deployment.ingest(*((zone.relative(copy), chosen.name) for copy in copies))


def of_day(deployment, day: date) -> list[pa.Table]:
    """Features and scores of a day without the names of runs and versions."""
    told = ["run_id", "source_versions", "model_version"]
    scores = deployment.store.read("ad_scores", {"date": day})
    return [deployment.store.read("ad_features", {"date": day}), scores.drop_columns(told)]


@pytest.fixture
def written(tmp_path):
    mapping = tmp_path / "reklame_nord.yaml"
    mapping.write_text(MAPPING, encoding="utf-8")
    return mapping, write_export(tmp_path / "exports")


def week_of(path: Path) -> date:
    return date.fromisoformat(path.stem.removeprefix("bericht_"))


@pytest.mark.parametrize(
    "relived", [[FIRST_VINTAGE], pytest.param([FIRST_VINTAGE, SECOND_VINTAGE], marks=pytest.mark.slow)]
)
def test_an_as_of_backfill_gives_each_day_what_it_could_have_known(written, make_deployment, relived):
    mapping, files = written
    hindsight, lived = make_deployment("hindsight"), make_deployment("lived")

    # With hindsight: everything has landed before anything is computed, and the weeks are made in one backfill.
    ingest(hindsight, mapping, files)
    hindsight.backfill("features", START, LAST)
    hindsight.backfill("training", FIRST_VINTAGE, SECOND_VINTAGE)
    runs = hindsight.backfill("ad_scores,published_scores", FIRST_VINTAGE, LAST, model="as_of")
    assert runs[0].metadata["ad_scores"]["model_versions"] == "1, 2"
    scores = hindsight.store.read("ad_scores")
    by_version = {v: scores.filter(pc.equal(scores["model_version"], v))["date"] for v in ("1", "2")}
    assert pc.max(by_version["1"]).as_py() == SECOND_VINTAGE - timedelta(days=1)
    assert pc.min(by_version["2"]).as_py() == SECOND_VINTAGE
    assert pc.max(by_version["2"]).as_py() == LAST
    assert hindsight.scores.scores(LAST).num_rows == hindsight.store.read("ad_scores", {"date": LAST}).num_rows > 20
    with pytest.raises(RegistryError, match="the first is as of 2024-03-04"):
        hindsight.backfill("ad_scores", FIRST_VINTAGE - timedelta(days=1), FIRST_VINTAGE, model="as_of")

    # As it was lived: later files do not exist yet.
    for vintage in relived:
        sunday = vintage + timedelta(days=6)
        before = max(lived.store.dates("ad_features"), default=START - timedelta(days=1))
        ingest(lived, mapping, [f for f in files if before < week_of(f) <= vintage])
        lived.backfill("features", before + timedelta(days=1), sunday)
        lived.backfill("training", vintage, vintage)
        lived.backfill("ad_scores", sunday, sunday, model="as_of")
        for name, then, now in zip(
            ("features", "scores"), of_day(lived, sunday), of_day(hindsight, sunday), strict=True
        ):
            differing = [c for c in then.column_names if not then[c].equals(now[c])]
            assert (name, sunday, differing) == (name, sunday, [])
