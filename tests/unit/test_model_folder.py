"""A model folder is written whole or not at all, and nothing doubtful is read."""

import json
from pathlib import Path

import numpy as np
import pytest

from within_ml.errors import ModelFormatError
from within_ml.model_folder import (
    FORMAT_VERSION,
    METADATA_FILE,
    ModelMetadata,
    _digest,
    read_metadata,
    read_model_folder,
    write_model_folder,
)


def metadata(**changes):
    values = {"name": "level", "type": "level", "feature_columns": ["x"], "details": {"trained_at": "2024-01-08"}}
    return ModelMetadata.create(**{**values, **changes})


def write_state(folder: Path) -> None:
    np.savez(folder / "state.npz", coefficient=np.arange(3.0))
    (folder / "part").mkdir()
    (folder / "part" / "words.json").write_text("{}")


@pytest.fixture
def saved(tmp_path):
    write_model_folder(tmp_path / "model", metadata(), write_state)
    return tmp_path / "model"


def edit_metadata(folder, *, sign=True, **changes):
    """Change metadata.json; with ``sign`` its own digest is right again, as an attacker would do."""
    content = json.loads((folder / METADATA_FILE).read_text())
    content.pop("metadata_sha256")
    content |= changes
    digest = _digest(content) if sign else "0" * 64
    (folder / METADATA_FILE).write_text(json.dumps({**content, "metadata_sha256": digest}))


def test_metadata_come_back_with_the_hash_of_every_file(saved):
    read = read_model_folder(saved, expected_type="level")

    assert (read.name, read.trained_at, read.feature_columns) == ("level", "2024-01-08", ("x",))
    assert set(read.files) == {"state.npz", "part/words.json"}
    # sha256 of the two bytes "{}", by sha256sum
    assert read.files["part/words.json"] == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert read.packages["numpy"] == np.__version__


def test_nothing_is_left_where_writing_fails(tmp_path):
    def fails(folder):
        (folder / "state.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_model_folder(tmp_path / "model", metadata(), fails)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_leaves_the_old_model(saved):
    def fails(folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_model_folder(saved, metadata(name="new"), fails)
    assert read_model_folder(saved, expected_type="level").name == "level"


def test_a_model_is_replaced_whole(saved):
    write_model_folder(saved, metadata(name="new"), lambda folder: (folder / "only.json").write_text("1"))

    assert set(read_model_folder(saved, expected_type="level").files) == {"only.json"}
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_a_folder_that_is_no_model_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(ModelFormatError, match="neither"):
        write_model_folder(tmp_path, metadata(), write_state)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["state.pkl", "state.joblib", "model.pt", "code.py", "README"])
def test_only_native_files_are_written(tmp_path, name):
    with pytest.raises(ModelFormatError, match="only"):
        write_model_folder(tmp_path / "model", metadata(), lambda folder: (folder / name).write_bytes(b"x"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "part" / "words.json").write_text("[]"), "altered"),
        (lambda folder: (folder / "state.npz").unlink(), "missing"),
        (lambda folder: (folder / "more.json").write_text("{}"), "unknown"),
        (lambda folder: (folder / "evil.pkl").write_bytes(b"x"), "only"),
        (lambda folder: (folder / METADATA_FILE).unlink(), "there is none"),
        (lambda folder: (folder / METADATA_FILE).write_text("{"), "must be JSON"),
        (lambda folder: (folder / METADATA_FILE).write_text("[]"), "format_version"),
        (lambda folder: edit_metadata(folder, sign=False), "altered"),
        (lambda folder: edit_metadata(folder, format_version=FORMAT_VERSION + 1), "newer"),
        (lambda folder: edit_metadata(folder, files={"../state.npz": "0"}), "inside"),
        (lambda folder: edit_metadata(folder, files={"/etc/passwd": "0"}), "inside"),
        (lambda folder: edit_metadata(folder, surprise=1), "unknown"),
        (lambda folder: edit_metadata(folder, type="other"), "type 'level' was required"),
    ],
)
def test_a_doubtful_folder_is_refused(saved, damage, message):
    damage(saved)

    with pytest.raises(ModelFormatError, match=message):
        read_model_folder(saved, expected_type="level")


def test_a_link_is_refused_even_to_the_right_bytes(saved, tmp_path):
    outside = tmp_path / "outside.json"
    (saved / "part" / "words.json").rename(outside)
    (saved / "part" / "words.json").symlink_to(outside)

    with pytest.raises(ModelFormatError, match="link"):
        read_model_folder(saved, expected_type="level")


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_metadata_must_be_json(tmp_path, value):
    with pytest.raises(ModelFormatError, match="JSON"):
        write_model_folder(tmp_path / "model", metadata(hyperparameters={"x": value}), write_state)


def test_details_without_a_field_of_their_own_are_kept(tmp_path):
    details = {"metrics": {"auc": 0.6}, "as_of": "2024-01-08", "training_duration": 1.5}
    write_model_folder(tmp_path / "model", metadata(details=details), write_state)

    assert read_metadata(tmp_path / "model").details == details
