"""Bad input on the command line: one sentence, exit status 2, nothing published; and the same in a process of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from within_ml.database.server import EmbeddedPostgres
from within_ml.lake.landing import LandingZone, register
from within_ml.lake.store import LakeStore
from within_pipelines import cli, definitions

DAY = date(2024, 3, 1)
HEADER = "Tag;Kampagne;Anzeige;Text;Ansichten;Klicks;Kosten\n"
GOOD = HEADER + "".join(f"01.03.2024;k-{n % 3};a-{n};Text {n};1.000;{10 + n};12,50\n" for n in range(60))
BASE = {
    "name": "eigen",
    "format": "csv",
    "options": {"decimal": ","},
    "constants": {"platform": "display", "account_id": "kunde"},
    "tables": {
        "ad_performance": {
            "columns": {
                "date": "day(\"Tag\", '%d.%m.%Y')",
                "campaign_id": 'clean("Kampagne")',
                "ad_id": 'clean("Anzeige")',
                "impressions": 'whole("Ansichten")',
                "clicks": 'whole("Klicks")',
                "spend": 'money("Kosten")',
            }
        },
        "ads": {"columns": {"headline": 'clean("Text")'}},
    },
}


def with_lines(*lines: str) -> str:
    """Replace the first lines of the good export, whose date is the first day of March."""
    kept = GOOD.splitlines(keepends=True)
    return HEADER + "".join(line + "\n" for line in lines) + "".join(kept[1 + len(lines) :])


@dataclass
class Shell:
    """The command line on a deployment of its own, called in this process."""

    root: Path
    monkeypatch: pytest.MonkeyPatch
    read: Callable[[], tuple[str, str]]

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    @property
    def store(self) -> LakeStore:
        return LakeStore(str(self.root / "lake"))

    def land(self, name: str, content: str | bytes) -> Path:
        path = self.landing / "eigen" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def mapping(self, name: str = "eigen.yaml", **columns: str) -> Path:
        changed = yaml.safe_load(yaml.safe_dump(BASE))
        changed["tables"]["ad_performance"]["columns"] |= columns
        path = self.root / name
        path.write_text(yaml.safe_dump(changed), encoding="utf-8")
        return path

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Return exit status, output and errors."""
        self.read()
        self.monkeypatch.setattr(sys, "argv", ["within", *(str(a) for a in arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *self.read()

    def refuses(self, *arguments: object) -> str:
        """Return the one sentence that a refusal consists of."""
        before = self.contents()
        status, out, err = self(*arguments)
        assert (status, out) == (2, "")
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert self.contents() == before
        return lines[0]

    def contents(self) -> dict[str, list[int]]:
        """Return daily table → rows of each partition: what people read must not change where input is refused."""
        names = [n for n in self.store.catalog.tables() if n not in ("landing_files", "ads", "campaigns", "accounts")]
        return {n: self.store.catalog.partitions(n)["rows"].to_pylist() for n in names}


@pytest.fixture(scope="module")
def folders() -> Iterator[Path]:
    """Folders with one good export ingested; not below pytest's own, which Postgres could not reach under root."""
    with tempfile.TemporaryDirectory(prefix="within-cli-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        server = EmbeddedPostgres(root / "state/postgres", settings={"fsync": "off"}).start()
        yield root
        server.close()


@pytest.fixture
def shell(folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    for name, part in (("STATE_DIR", "state"), ("LAKE_ROOT", "lake"), ("LANDING_ROOT", "landing")):
        monkeypatch.setenv(f"WITHIN_{name}", str(folders / part))
    for name in ("WITHIN_DAGSTER_POSTGRES_URL", "WITHIN_DAGSTER_STORAGE", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")  # so that what the command line sets is taken back
        monkeypatch.delenv(name)
    # The definitions hold the folders that were set when they were imported.
    monkeypatch.setattr(definitions, "defs", definitions.build_defs())
    found = Shell(folders, monkeypatch, lambda: tuple(capsys.readouterr()))
    if not (found.root / "lake").exists():
        found.land("good.csv", GOOD)
        status, out, err = found("ingest", found.landing / "eigen/good.csv", "--source", found.mapping())
        assert (status, err) == (0, "")
        assert "1 new files, 1 days of ad_performance." in out
    return found


def test_the_good_export_is_there(shell):
    rows = shell.store.read("ad_performance", {"date": DAY})
    assert (rows.num_rows, sum(rows["impressions"].to_pylist())) == (60, 60_000)
    assert shell.store.read("ads")["headline"][0].as_py() == "Text 0"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "SourceError: f.csv: a csv file with rows is required; it is empty. Export it again."),
        (HEADER, "a file with rows is required"),
        (GOOD.replace("Klicks", "Kliks"), "needs the column 'Klicks' for ad_performance.clicks"),
        (GOOD.replace("01.03.2024", "irgendwann"), "readable dates are required"),
        ("some,other,export\n1,2,3\n", "none of the first lines names any of them"),
        (b"PAR1 and so on", "the file is a Parquet file"),
    ],
    ids=["empty", "header only", "missing column", "no date", "another export", "parquet"],
)
def test_a_file_that_cannot_be_read(shell, content, sentence):
    path = shell.land("f.csv", content)
    assert sentence in shell.refuses("ingest", path, "--source", "eigen")


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([f"02.03.2024;k;b-{n};T;-5;0;1" for n in range(4)], "impressions_below_minimum 4"),
        ([f"02.03.2024;k;b-{n};T;100;1;inf" for n in range(4)], "spend_not_finite 4"),
        ([f"02.03.2024;k;b-{n};T;NaN;1;1" for n in range(4)], "impressions_missing_or_unreadable 4"),
        ([f"02.03.2024;k;b-{n};T;10;11;1" for n in range(4)], "clicks must be at most impressions"),
        ([f"02.03.2024;k;b-1;T;{n}00;1;1" for n in range(1, 5)], "duplicate_key 4"),
        ([f"02.03.2024;k;../b-{n};T;100;1;1" for n in range(4)], "ad_id_not_an_identifier 4"),
        ([f"02.03.2024;k\x07;b-{n};T;100;1;1" for n in range(4)], "campaign_id_not_an_identifier 4"),
    ],
    ids=["negative", "infinite", "not a number", "clicks above", "duplicates", "../", "control character"],
)
def test_too_many_bad_rows_block_the_day_until_the_file_is_corrected(shell, lines, code):
    path = shell.land("rows.csv", with_lines(*lines).replace("01.03.2024", "02.03.2024"))
    sentence = shell.refuses("ingest", path, "--source", "eigen")
    assert code in sentence
    assert sentence.startswith("ContractError: ad_performance of 2024-03-02: at most 5% of the rows")
    assert date(2024, 3, 2) not in shell.store.dates("ad_performance")


def test_the_corrected_file_is_ingested_after_the_blocked_one(shell):
    path = shell.land("later.csv", with_lines(*["x;k;b;T;1;2;1"] * 4).replace("01.03.2024", "03.03.2024"))
    shell.refuses("ingest", path, "--source", "eigen")
    few = with_lines("03.03.2024;k;b-1;T;10;11;1").replace("01.03.2024", "03.03.2024")
    status, out, err = shell("ingest", shell.land("later.csv", few), "--source", "eigen")
    assert (status, err) == (0, "")
    assert "1 rows went to quarantine" in out
    assert shell.store.read("ad_performance", {"date": date(2024, 3, 3)}).num_rows == 59
    assert shell.store.read("quarantine", {"date": date(2024, 3, 3)})["reasons"].to_pylist() == [
        "clicks_above_impressions"
    ]


def test_a_truncated_parquet_file(shell):
    folder = shell.landing / "simulation"
    folder.mkdir(exist_ok=True)
    path = folder / "ad_performance_1.parquet"
    pq.write_table(pa.table({"date": list(range(10_000))}), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "probably truncated. Copy or export it again." in shell.refuses("ingest", path, "--source", "simulation")
    path.unlink()


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("whole(", "impressions"),
        ("(SELECT max(content) FROM read_text('/etc/passwd'))", "a subquery"),
        ("1; DROP TABLE x", "one SQL expression"),
        ("no_such_function(Klicks)", "no_such_function"),
    ],
)
def test_a_mapping_with_a_bad_expression(shell, sql, sentence):
    path, mapping = shell.land("g.csv", GOOD), shell.mapping("bad.yaml", impressions=sql)
    kept = (shell.landing / "eigen/source.yaml").read_text()
    assert sentence in shell.refuses("ingest", path, "--source", mapping)
    assert (shell.landing / "eigen/source.yaml").read_text() == kept


def test_a_file_to_copy_is_copied_only_when_it_can_be_read(shell):
    outside = shell.root / "march.csv"
    outside.write_text(GOOD.replace("Klicks", "Kliks"))
    assert "needs the column 'Klicks'" in shell.refuses("ingest", "--copy", outside, "--source", "eigen")
    assert not (shell.landing / "eigen/march.csv").exists()


@pytest.mark.parametrize("where", ["../secret.csv", "/etc/hostname", "eigen/../../secret.csv"])
def test_a_path_outside_the_landing_zone(shell, where):
    (shell.root / "secret.csv").write_text(GOOD)
    sentence = shell.refuses("ingest", shell.landing / where, "--source", "eigen")
    assert "must lie below" in sentence
    assert "within ingest --copy" in sentence


def test_files_and_names_that_do_not_exist(shell):
    assert "there is no" in shell.refuses("ingest", shell.landing / "none.csv", "--source", "eigen")
    assert "'gogle' is neither" in shell.refuses("ingest", shell.landing / "eigen/good.csv", "--source", "gogle")
    name = shell.land("a\nb.csv", GOOD)
    assert "control characters" in shell.refuses("ingest", name, "--source", "eigen")
    name.unlink()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nightly", "--date", "2024-02-30"], "a day such as 2024-01-31 is required, however: '2024-02-30'"),
        (["nightly", "--date", "../2024-01-01"], "however: '../2024-01-01'"),
        (["nightly", "--date", "2024-01-01\x07"], "a day such as 2024-01-31 is required"),
        (["nightly", "--date", "2031-01-01"], "Days must lie in the history 2013-01-01 … 2024-12-31"),
        (["nightly"], "Missing option '--date'"),
        (["backfill", "--select", "features", "--from", "2024-03-05", "--to", "2024-03-01"], "must not be after --to"),
        (["backfill", "--select", "bogus", "--from", "2024-03-01", "--to", "2024-03-01"], "'bogus' came"),
        (["backfill", "--select", ",", "--from", "2024-03-01", "--to", "2024-03-01"], "nothing came"),
        (
            ["backfill", "--select", "features", "--from", "2024-03-01", "--to", "2024-03-01", "--account", "nobody"],
            "--account must name accounts in the lake ('kunde'), however 'nobody' came",
        ),
        (
            ["backfill", "--select", "ad_scores", "--from", "2024-03-01", "--to", "2024-03-01", "--campaign", "[/]"],
            "'[/]' came",
        ),
        (
            ["backfill", "--select", "lake", "--from", "2024-03-01", "--to", "2024-03-01", "--account", "kunde"],
            "select only the former",
        ),
        (
            ["backfill", "--select", "ad_scores", "--from", "2024-03-01", "--to", "2024-03-01", "--model", "7"],
            "ad_features must have a partition for each expected day",
        ),
        (["promote", "ad_score", "99", "--reason", "x"], "there is no '99'"),
        (["promote", "ad_scor", "1", "--reason", "x"], "RegistryError"),
        (["rollback", "ad_score", "--reason", "x"], "A rollback needs a previous champion"),
        (["models", "ad_scor"], "A model's name is required ('ad_score', "),
        (["lake", "nothing"], "there is none yet"),
        (["lake", "../lake"], "InputError"),
        (["lake", "ad_performance", "--replay", "yesterday"], "a day such as 2024-01-31"),
        (["lake", "--replay", "2024-03-01"], "need a table"),
        (["lake", "landing_files", "--replay", "2024-03-01"], "A table with a contract is required"),
        (["simulate", "--accounts", "0"], "accounts must be a whole number from 1"),
        (["simulate", "--days", "many"], "--days"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_arguments_that_cannot_be_used(shell, arguments, sentence):
    assert sentence in shell.refuses(*arguments)


def test_a_process_ends_with_status_2_and_no_traceback(shell):
    shell.land("p.csv", GOOD.replace("Klicks", "Kliks"))
    command = [sys.executable, "-m", "within_pipelines.cli", "ingest", "landing/eigen/p.csv", "--source", "eigen"]
    root = str(Path(cli.__file__).parents[1])
    done = subprocess.run(
        command, cwd=shell.root, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "needs the column 'Klicks'" in done.stderr


def test_a_refused_file_of_a_source_does_not_keep_the_others_out(tmp_path):
    zone, store = LandingZone(tmp_path / "landing"), LakeStore(str(tmp_path / "lake"))
    (zone.root / "eigen").mkdir(parents=True)
    (zone.root / "eigen/source.yaml").write_text(yaml.safe_dump(BASE))
    (zone.root / "eigen/good.csv").write_text(GOOD)
    (zone.root / "eigen/broken.csv").write_text("")
    found = register(store, zone, run_id="r")
    assert [f.path for f in found.new] == ["eigen/good.csv"]
    assert "it is empty" in found.refused[str(zone.root / "eigen/broken.csv")]
