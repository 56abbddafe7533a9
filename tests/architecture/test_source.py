"""What the source must hold to everywhere: no clock, no environment, no Dagster in the library, and the like."""

import ast
import re
from pathlib import Path

import pytest

import within_ml
import within_pipelines

LIBRARY, PIPELINES = Path(within_ml.__file__).parent, Path(within_pipelines.__file__).parent
LIBRARY_FILES = sorted(p for p in LIBRARY.rglob("*.py") if "migrations" not in p.parts)
PIPELINE_FILES = sorted(PIPELINES.rglob("*.py"))

CLOCKS = {"date.today", "datetime.now", "datetime.utcnow", "datetime.today", "time.time", "Timestamp.now"}
"""Calls that ask what time it is; `time.perf_counter` measures durations and is fine."""

RECORDS_WHEN = {"within_ml/registry/store.py", "within_ml/base.py"}


def name(path: Path) -> str:
    return path.relative_to(LIBRARY.parent).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """Top packages that a module imports anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def attributes(tree: ast.Module) -> set[str]:
    """Dotted names that a module uses, by their last two parts: `dt.date.today` is ``date.today``."""
    dotted = (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {".".join(text.split(".")[-2:]) for text in dotted if re.fullmatch(r"[\w.]+", text)}


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=name)
def test_the_library_is_pure(path):
    tree = parsed(path)
    used, packages = attributes(tree), imported(tree)
    assert not packages & {"dagster", "within_pipelines", "pickle", "joblib", "cloudpickle"}
    assert "mlflow" not in packages or path.is_relative_to(LIBRARY / "registry")
    assert not used & CLOCKS
    assert not used & {"os.environ", "os.getenv", "os.putenv"}


@pytest.mark.parametrize("path", [*LIBRARY_FILES, *PIPELINE_FILES], ids=name)
def test_every_module_says_what_it_is_and_prints_nothing(path):
    tree = parsed(path)
    assert len(ast.get_docstring(tree) or "") > 20
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"print", "eval", "exec", "breakpoint"}
    handlers = [node.type for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    assert not [h for h in handlers if h is None or ast.unparse(h) == "Exception"]


@pytest.mark.parametrize("path", PIPELINE_FILES, ids=name)
def test_modules_that_dagster_inspects_have_their_annotations_at_hand(path):
    """Dagster reads annotations when it is imported; as strings they fail only then."""
    tree = parsed(path)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    decorators = {ast.unparse(d).split("(")[0] for f in functions for d in f.decorator_list}
    bases = {ast.unparse(b) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for b in node.bases}
    inspected = any(d.startswith("dg.") for d in decorators) or bases & {"dg.Config", "dg.ConfigurableResource"}
    futures = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    assert not (inspected and any(alias.name == "annotations" for n in futures for alias in n.names))


@pytest.mark.parametrize("path", PIPELINE_FILES, ids=name)
def test_the_pipelines_take_their_time_from_partitions_and_their_settings_from_one_module(path):
    used = attributes(parsed(path))
    assert not used & CLOCKS
    reads = {"os.environ", "os.getenv"} & used
    # Processes that are started, and variables of libraries, are told through the environment.
    allowed = {"settings.py", "postgres.py", "instance.py", "ui.py", "cli.py"}
    assert not reads or path.name in allowed


def test_definitions_are_a_table_of_contents():
    lines = (PIPELINES / "definitions.py").read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line.strip()]
    assert len(code) <= 30
