"""README's table of names is true: each name is where the table says."""

import importlib
import re
from pathlib import Path

import pytest

from within_pipelines.settings import Settings

README = Path(__file__).parents[2] / "README.md"
ROW = re.compile(r"^\| (?P<names>`[^|]+`) \| `(?P<module>within_[a-z_.]+)` \| .+ \|$", re.MULTILINE)


def vocabulary():
    for row in ROW.finditer(README.read_text(encoding="utf-8")):
        for name in re.findall(r"`(\w+)`", row["names"]):
            yield name, row["module"]


@pytest.mark.parametrize(("name", "module"), list(vocabulary()))
def test_each_name_is_where_the_readme_says(name, module):
    assert hasattr(importlib.import_module(module), name)


def test_the_table_holds_the_names_of_the_product():
    assert {"AdScorePredictor", "DataLakeModel", "ModelEvaluator", "MODEL_REGISTRY"} <= dict(vocabulary()).keys()


def test_the_readme_lists_every_setting():
    listed = set(re.findall(r"^\| `(WITHIN_[A-Z_]+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {f"WITHIN_{name.upper()}" for name in Settings.model_fields}
