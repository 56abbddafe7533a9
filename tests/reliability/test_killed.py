"""Writers that are killed at any moment: readers see the old or the new, and the next run completes what is missing."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import within_ml
from within_ml.database.repository import ScoreRepository
from within_ml.lake.landing import LandingZone, ingest_days, register, unfinished_files
from within_ml.lake.store import LakeStore

sys.path.insert(0, str(Path(__file__).parent))
import writer

KILLS = 10
LONGEST_SECONDS = 1.0
"""A generation takes a fraction of a second, so that most kills meet the middle of one."""


def kill_one(what: str, root: Path, url: str, first: int, moment: float) -> int:
    """Start a writer, kill it some time after its first generation, and return the last one that it completed."""
    command = [sys.executable, writer.__file__, what, str(root), url, str(first)]
    environment = os.environ | {"PYTHONPATH": str(Path(within_ml.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    complete = [int(line) for line in lines if line.endswith("\n")]
    return complete[-1]


def only(values: pa.ChunkedArray) -> object:
    """The one value that all rows have."""
    (value,) = pc.unique(values).to_pylist()
    return value


@pytest.fixture
def moments() -> list[float]:
    generator = random.Random(7)
    return [generator.uniform(0, LONGEST_SECONDS) for _ in range(KILLS)]


def test_scores_are_of_one_generation_in_the_lake_and_in_postgres(tmp_path, postgres_url, moments):
    store, repository = LakeStore(str(tmp_path / "lake")), ScoreRepository(postgres_url)
    generation, halves = 0, 0
    for moment in moments:
        complete = kill_one("publish", tmp_path, postgres_url, generation + 1, moment)
        in_lake, published = store.read("ad_scores", {"date": writer.DAY}), repository.scores(writer.DAY)
        assert in_lake.num_rows == published.num_rows == writer.ADS
        generations = int(only(in_lake["model_version"])), int(only(published["model_version"]))
        assert complete <= generations[1] <= generations[0] <= complete + 1
        halves += generations[0] != generations[1]
        generation = generations[0]

        # The next run publishes what the lake holds.
        version = store.version("ad_scores")
        repository.publish(in_lake, writer.DAY, lake_version=version, run_id="again")
        assert only(repository.scores(writer.DAY)["model_version"]) == str(generation)
    assert len(list((tmp_path / "lake/ad_scores").glob("date=*/*.parquet"))) >= generation
    assert halves or generation > KILLS


def test_an_ingestion_is_whole_or_not_there_and_the_next_completes_it(tmp_path, moments):
    store, zone = LakeStore(str(tmp_path / "lake")), LandingZone(tmp_path / "landing")
    generation = 0
    for moment in moments:
        complete = kill_one("ingest", tmp_path, "none", generation + 1, moment)
        rows = store.read("ad_performance")
        assert rows.num_rows == len(writer.DAYS) * (writer.ADS // 4)
        # Three days are one commit, so that all of them are of one generation.
        assert complete <= int(only(rows["clicks"])) <= complete + 1

        register(store, zone, run_id="again")
        if unfinished_files(store):
            ingest_days(store, zone, writer.DAYS, run_id="again")
        generation = int(only(store.read("ad_performance")["clicks"]))
        assert generation in (complete, complete + 1)
        assert unfinished_files(store) == []
        landed = pq.read_table(zone.root / "simulation/ad_performance_1.parquet")
        assert only(landed["clicks"]) == generation
