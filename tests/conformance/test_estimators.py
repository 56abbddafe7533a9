"""What every estimator promises, whatever it estimates; the estimators are in `cases`."""

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

_spec = importlib.util.spec_from_file_location("conformance_cases", Path(__file__).with_name("cases.py"))
cases = sys.modules.setdefault(_spec.name, importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(cases)

ALL = list(cases.CASES)
REPOSITORY = Path(__file__).parents[2]


def holds_for(prop):
    """The cases that are not exempt; the exempt ones are told with their reason."""
    marks = [(name, cases.CASES[name].exempt.get(prop)) for name in ALL]
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.skip(reason) if reason else ()) for name, reason in marks]
    )


@pytest.fixture(scope="module")
def fitted():
    """Fit each case once, when it is first asked for, and see that its inputs and the global seeds are left alone."""
    found = {}

    def of(name):
        if name not in found:
            case, given = cases.CASES[name], cases.rows()
            seeds = global_seeds()
            found[name] = case.fit(case.make(), *given)
            assert_untouched(given, seeds)
        return found[name]

    return of


def global_seeds():
    """The state of the generators that every program shares."""
    return np.random.get_state()[1].copy(), torch.get_rng_state().numpy()  # noqa: NPY002 - it is what must not move


def assert_untouched(given, seeds):
    X, y, w = cases.rows()
    pd.testing.assert_frame_equal(given[0], X)
    assert np.array_equal(given[1], y)
    assert np.array_equal(given[2], w)
    for now, before in zip(global_seeds(), seeds, strict=True):
        assert np.array_equal(now, before)


def applied(name, model, X):
    return cases.CASES[name].apply(model, X)


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert pd.Series(found.ravel()).equals(pd.Series(expected.ravel()))


def assert_close(found, expected):
    if expected.dtype == object:
        assert_same(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def usable(found):
    """Whether each value is a text, a number or a NaN that the rows' own gaps explain, and none is infinite."""
    return found.dtype == object or not np.isinf(found).any()


def test_exemptions_are_of_promises_that_there_are():
    for name, case in cases.CASES.items():
        assert set(case.exempt) <= cases.PROPERTIES, name
        assert all(len(reason) > 20 for reason in case.exempt.values()), name


@holds_for(cases.UNTOUCHED)
def test_inputs_and_global_seeds_are_left_as_they_were(name, fitted):
    given = cases.rows()
    seeds = global_seeds()
    applied(name, fitted(name), given[0])

    assert_untouched(given, seeds)


@holds_for(cases.ORDER)
def test_columns_may_come_in_any_order_and_number(name, fitted):
    X, _, _ = cases.rows()
    shuffled = X[sorted(X.columns, reverse=True)].assign(surprise=1.0)

    assert_same(applied(name, fitted(name), shuffled), applied(name, fitted(name), X))


@pytest.mark.parametrize("name", ALL)
def test_two_fits_are_one(name, fitted):
    case, (X, y, w) = cases.CASES[name], cases.rows()

    assert_same(case.apply(case.fit(case.make(), X, y, w), X), applied(name, fitted(name), X))


@pytest.mark.parametrize("name", ALL)
def test_a_second_fit_forgets_the_first(name, fitted):
    case, (X, y, w) = cases.CASES[name], cases.rows()
    model = case.fit(case.make(), *cases.rows(160))

    assert_same(case.apply(case.fit(model, X, y, w), X), applied(name, fitted(name), X))


@pytest.mark.parametrize("name", ALL)
def test_fit_returns_the_estimator_and_asking_does_not_change_it(name, fitted):
    X, _, _ = cases.rows()
    first = applied(name, fitted(name), X)

    assert type(fitted(name)) is type(cases.CASES[name].make())
    assert len(first) == len(X)
    assert_same(applied(name, fitted(name), X), first)


@holds_for(cases.EMPTY)
def test_no_rows_give_no_answers(name, fitted):
    X, _, _ = cases.rows()
    whole = applied(name, fitted(name), X)

    assert applied(name, fitted(name), X[:0]).shape == (0, *whole.shape[1:])


@holds_for(cases.ONE_ROW)
def test_a_row_is_answered_alone_as_among_others(name, fitted):
    X, _, _ = cases.rows()
    whole = applied(name, fitted(name), X)

    for row in (0, 7, len(X) - 1):
        assert_close(applied(name, fitted(name), X[row : row + 1]), whole[row : row + 1])
    assert_close(applied(name, fitted(name), X[::-1]), whole[::-1])


@holds_for(cases.UNSEEN)
def test_ids_that_are_new_are_answered(name, fitted):
    X, _, _ = cases.rows()
    for column in cases.CASES[name].categories:
        found = applied(name, fitted(name), X.assign(**{column: "never seen"}))
        assert len(found) == len(X)
        assert usable(found), column


@holds_for(cases.MISSING)
def test_columns_without_a_value_are_answered(name, fitted):
    X, _, _ = cases.rows()
    for column in cases.CASES[name].gaps:
        nothing = np.nan if X[column].dtype.kind == "f" else None
        found = applied(name, fitted(name), X.assign(**{column: nothing}))
        assert len(found) == len(X)
        assert usable(found), column


@holds_for(cases.MISSING_IN_FIT)
def test_columns_without_a_value_are_fitted(name):
    case, (X, y, w) = cases.CASES[name], cases.rows()
    gaps = {column: np.nan if X[column].dtype.kind == "f" else None for column in case.gaps}
    model = case.fit(case.make(), X.assign(**gaps), y, w)

    assert usable(case.apply(model, X.assign(**gaps)))
    assert usable(case.apply(model, X))


@holds_for(cases.ONE_CLASS)
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_one_class_is_fitted_too(name, rate, caplog):
    case, (X, y, w) = cases.CASES[name], cases.rows()
    with caplog.at_level(logging.CRITICAL):
        found = case.apply(case.fit(case.make(), X, np.full_like(y, rate), w), X)

    assert len(found) == len(X)
    assert usable(found)


def test_another_process_loads_the_same_estimators(fitted, tmp_path):
    """All of them in one process: its imports take longer than its work."""
    X, _, _ = cases.rows()
    for name in ALL:
        folder = tmp_path / name
        folder.mkdir()
        cases.CASES[name].save(fitted(name), folder)
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("apply_saved.py")), str(tmp_path)], check=True, cwd=REPOSITORY
    )

    for name in ALL:
        with np.load(tmp_path / name / "found.npz", allow_pickle=False) as file:
            expected = applied(name, fitted(name), X)
            found = file["found"].astype(object) if expected.dtype == object else file["found"]
        assert_same(found, expected), name


@pytest.mark.parametrize("name", ALL)
def test_what_is_saved_is_native(name, fitted, tmp_path):
    cases.CASES[name].save(fitted(name), tmp_path)
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}

    assert suffixes <= {".json", ".npz", ".ubj", ".safetensors"}
    for file in tmp_path.rglob("*.npz"):
        with np.load(file, allow_pickle=False) as arrays:
            assert all(arrays[key].dtype != object for key in arrays.files), file
