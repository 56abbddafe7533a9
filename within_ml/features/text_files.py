"""The two files of a saved text score, checked when they are read; the model that writes them is in `text_score`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from within_ml.errors import ModelFormatError, shown
from within_ml.features.text_input import Texts, style

FORMAT_VERSION = 1
FILES = ("text_score.json", "text_score.npz")


def read_text_score(
    folder: Path, *, kinds: Sequence[str], fitted: Sequence[str]
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read and check the two files.

    Parameters
    ----------
    folder : Path
    kinds : sequence of str
        Kinds of n-grams that have columns.
    fitted : sequence of str
        Names that the fitted state has.

    Raises
    ------
    ModelFormatError
        If a file is missing, damaged, or of another version.
    """
    try:
        state = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
        with np.load(folder / FILES[1], allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelFormatError(
            f"A text score is the two files {' and '.join(FILES)} as written by save; in {folder} they are missing or "
            f"damaged ({error}). Fit it again or restore the folder."
        ) from error
    _check_state(folder, state, arrays, kinds, fitted)
    return state, arrays


def _check_state(
    folder: Path,
    state: dict[str, Any],
    arrays: dict[str, npt.NDArray[Any]],
    kinds: Sequence[str],
    fitted: Sequence[str],
) -> None:
    version = state.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelFormatError(f"The text score in {folder} has format {version}; this version reads {FORMAT_VERSION}.")
    names = {"coefficients", "mean", "scale"} | {f"{kind}_{part}" for kind in kinds for part in ("columns", "idf")}
    n_style = style(Texts(pa.array(["x"]), pa.array([""]), np.zeros(1, dtype=np.int64))).shape[1]
    expected = {"mean": n_style, "scale": n_style}
    missing = names - set(arrays) or set(fitted) - set(state.get("fitted", {}))
    if missing:
        raise ModelFormatError(f"The text score in {folder} lacks {shown(sorted(missing))}. Fit it again.")
    expected |= {f"{kind}_idf": arrays[f"{kind}_columns"].size for kind in kinds}
    expected["coefficients"] = n_style + sum(arrays[f"{kind}_columns"].size for kind in kinds)
    wrong = [name for name, size in expected.items() if arrays[name].shape != (size,)]
    if wrong:
        raise ModelFormatError(
            f"The text score in {folder} has arrays of another length: {shown(wrong)}. Fit it again."
        )
