"""Groups get what their rows say and no more, order is kept, and new groups fall back to their nearest ancestor."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from within_ml.calibration.group_tree import GroupTree
from within_ml.calibration.hierarchical import HierarchicalCalibrator
from within_ml.calibration.random_intercepts import estimate_intercepts
from within_ml.calibration.spline import SplineCalibrator
from within_ml.errors import InputError, ModelFormatError, NotFittedError

LEVELS = ("account_id", "campaign_id")


def agency(seed=0, *, accounts=20, campaigns=6, rows=4000, impressions=500, sd=(0.5, 0.3)):
    """Rows of nested groups with known offsets; raw predictions are right but for these."""
    rng = np.random.default_rng(seed)
    account, campaign = rng.integers(0, accounts, rows), rng.integers(0, campaigns, rows)
    offset = (
        sd[0] * rng.normal(size=accounts)[account] + sd[1] * rng.normal(size=(accounts, campaigns))[account, campaign]
    )
    p = expit(rng.normal(-4, 0.6, rows))
    truth = expit(logit(p) + offset)
    w = np.full(rows, impressions)
    groups = pd.DataFrame({"account_id": account, "campaign_id": campaign})
    return p, rng.binomial(w, truth) / w, w, truth, groups


def divergence(truth, p):
    return float(np.mean(truth * np.log(truth / p) + (1 - truth) * np.log((1 - truth) / (1 - p))))


@pytest.fixture(scope="module")
def fitted():
    p, y, w, _, groups = agency()
    return HierarchicalCalibrator(hierarchy_levels=LEVELS).fit(p, y, groups, w)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_nearer_to_the_truth_than_one_map_for_all(seed):
    p, y, w, truth, groups = agency(seed)
    own = HierarchicalCalibrator(hierarchy_levels=LEVELS).fit_transform(p, y, groups, w)
    one = SplineCalibrator().fit(p, y, w).transform(p)

    assert divergence(truth, own) < 0.2 * divergence(truth, one)


def test_what_will_not_last_is_left_to_the_global_map():
    p, y, w, _, groups = agency()
    model = HierarchicalCalibrator(hierarchy_levels=LEVELS)
    whole = model.fit(p, y, groups, w).offsets(groups)
    none = model.fit(p, y, groups, w, persistence=[0, 0])
    assert not none.offsets(groups).any()
    assert none.transform(p, groups) == pytest.approx(SplineCalibrator().fit(p, y, w).transform(p), rel=1e-9)

    half = model.fit(p, y, groups, w, persistence=[0.5, 0.5]).offsets(groups)
    assert np.corrcoef(half, whole)[0, 1] > 0.999
    assert half.std() == pytest.approx(whole.std() / 2, rel=0.05)
    with pytest.raises(InputError, match="persistence"):
        model.fit(p, y, groups, w, persistence=[0.5])


@pytest.mark.parametrize("seed", range(3))
def test_without_group_effects_it_is_the_global_map(seed):
    p, y, w, truth, groups = agency(seed, sd=(0, 0))
    calibrator = HierarchicalCalibrator(hierarchy_levels=LEVELS).fit(p, y, groups, w)

    one = SplineCalibrator().fit(p, y, w).transform(p)
    assert divergence(truth, calibrator.transform(p, groups)) <= 1.05 * divergence(truth, one)


def test_the_variances_are_those_of_the_groups():
    p, y, w, _, groups = agency(1, accounts=200, campaigns=10, rows=20_000)
    calibrator = HierarchicalCalibrator(hierarchy_levels=LEVELS).fit(p, y, groups, w)

    assert calibrator.variances_["account_id"] == pytest.approx(0.25, rel=0.25)
    assert calibrator.variances_["campaign_id"] == pytest.approx(0.09, rel=0.15)
    assert calibrator.dispersion_ == pytest.approx(1.0, abs=0.03)


def test_one_level_is_as_the_textbook_has_it():
    """Balanced normal case: σ² = (between mean square - within) / n, intercept = n σ² / (n σ² + 1/precision) · mean.

    With margins of 0 and rates near one half the likelihood is nearly normal, information w / 4 per row.
    """
    rng = np.random.default_rng(0)
    groups, rows, w = 400, 10, 400
    effect = 0.1 * rng.normal(size=groups)
    node_of = np.repeat(np.arange(groups), rows)
    y = rng.binomial(w, expit(effect[node_of])) / w
    tree, node = GroupTree.grow(node_of, ("group",))
    found = estimate_intercepts(np.zeros(y.size), y, np.full(y.size, float(w)), node, tree)

    means = logit(y.reshape(groups, rows).mean(axis=1))
    within = found.dispersion * 4 / (w * rows)
    between = means.var(ddof=1) - within
    shrunk = means.mean() + between / (between + within) * (means - means.mean())
    assert found.variances[0] == pytest.approx(between, rel=0.02)
    assert found.offset[tree.find(np.arange(groups))] == pytest.approx(shrunk, abs=2e-3)


def test_a_new_group_gets_its_nearest_known_ancestor(fitted):
    known = fitted.get_calibration_mapping().query("level == 'account_id'").set_index("account_id")["offset"]
    asked = pd.DataFrame({"account_id": [3, 3, None, 99], "campaign_id": ["new", None, 2, 2]})

    level = fitted.get_calibration_mapping().attrs["level"]
    assert fitted.offsets(asked) == pytest.approx([known["3"], known["3"], level, level])


def test_an_id_counts_under_its_parent_only(fitted):
    both = fitted.offsets(pd.DataFrame({"account_id": [0, 1], "campaign_id": [2, 2]}))

    assert both[0] != both[1]


def test_a_group_hangs_on_the_nearest_one_above_it():
    frame = pd.DataFrame({"account": ["a", "a", "b"], "campaign": ["c", None, None], "ad": ["x", "x", None]})
    tree, node = GroupTree.grow(frame, ("account", "campaign", "ad"))

    paths = tree.paths().to_numpy().tolist()
    assert ["ad", "a", "c", "x"] in paths
    assert ["ad", "a", None, "x"] in paths
    assert tree.find(frame).tolist() == node.tolist()
    unseen = tree.find(pd.DataFrame({"account": ["a"], "campaign": ["z"], "ad": ["x"]}))
    assert tree.paths().iloc[unseen[0] - 1].tolist() == ["account", "a", None, None]


@given(seed=st.integers(0, 1000), rows=st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_a_tree_finds_its_own_rows_again(seed, rows):
    rng = np.random.default_rng(seed)
    ids = np.array(["a", "b", "1", None], dtype=object)
    frame = pd.DataFrame({name: ids[rng.integers(0, 4, rows)] for name in ("x", "y", "z")})
    tree, node = GroupTree.grow(frame, ("x", "y", "z"))
    again = GroupTree.from_arrays(tree.levels, tree.to_arrays())

    assert np.array_equal(tree.find(frame), node)
    assert np.array_equal(again.find(frame), node)
    same_path = pd.factorize(frame.astype(object).fillna("-").agg("/".join, axis=1))[0]
    assert len(set(zip(node, same_path, strict=True))) == len(set(node)) == len(set(same_path))


@given(seed=st.integers(0, 30))
@settings(max_examples=8, deadline=None)
def test_order_within_a_group_is_kept(seed):
    p, y, w, _, groups = agency(seed, rows=600)
    calibrator = HierarchicalCalibrator(hierarchy_levels=LEVELS).fit(p, y, groups, w)

    grid = np.geomspace(1e-6, 0.9, 500)
    for path in ([0, 0], [5, 3], ["new", "new"]):
        assert (np.diff(calibrator.transform(grid, [path] * 500)) > 0).all()


def test_more_smoothing_pulls_small_groups_further_in(fitted):
    p, y, w, _, groups = agency()
    smooth = clone(fitted).set_params(smoothing=100.0).fit(p, y, groups, w)

    assert smooth.get_calibration_mapping()["intercept"].std() < fitted.get_calibration_mapping()["intercept"].std()
    assert smooth.variances_ == pytest.approx(fitted.variances_, rel=0.05)


def test_the_mapping_counts_every_row_at_every_level(fitted):
    _, y, w, _, _ = agency()
    mapping = fitted.get_calibration_mapping()
    by_level = mapping.groupby("level")[["impressions", "clicks"]].sum()

    assert by_level["impressions"].to_numpy() == pytest.approx([w.sum()] * 2)
    assert by_level["clicks"].to_numpy() == pytest.approx([w @ y] * 2)
    assert (mapping["standard_error"] > 0).all()
    assert list(mapping.columns[:3]) == ["level", *LEVELS]


def test_rows_that_differ_more_than_chance_count_less():
    """Ads of a campaign differ; few of them with many impressions each are no proof that the campaigns do."""
    rng = np.random.default_rng(0)
    groups, w = pd.DataFrame({"campaign": np.repeat(np.arange(30), 8)}), np.full(240, 20_000)
    p = np.full(240, 0.02)
    y = rng.binomial(w, expit(logit(p) + 0.4 * rng.normal(size=240))) / w
    calibrator = HierarchicalCalibrator(hierarchy_levels=("campaign",), calibration_method="level").fit(p, y, groups, w)

    assert calibrator.dispersion_ > 20
    assert calibrator.variances_["campaign"] < 0.02


def test_a_weeks_shock_is_not_an_accounts_effect():
    """Account b ran in the bad week only; everyone else in both."""
    rng = np.random.default_rng(0)
    week = np.repeat([0, 1], 1000)
    account = np.where(week == 0, rng.integers(1, 10, 2000), rng.integers(0, 10, 2000))
    p, w = expit(rng.normal(-4, 0.3, 2000)), np.full(2000, 2000)
    y = rng.binomial(w, expit(logit(p) + np.where(week == 1, -0.5, 0.5) + 0.2 * (account % 2))) / w
    groups = pd.DataFrame({"account_id": account})
    plain = HierarchicalCalibrator(hierarchy_levels=("account_id",)).fit(p, y, groups, w)
    aware = HierarchicalCalibrator(hierarchy_levels=("account_id",)).fit(p, y, groups, w, periods=week)

    gap = [c.offsets([[0]])[0] - c.offsets([[2], [4], [6], [8]]).mean() for c in (plain, aware)]
    assert gap[0] < -0.3
    assert abs(gap[1]) < 0.05


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_one_outcome_alone_leaves_finite_probabilities(y):
    groups = pd.DataFrame({"account_id": [1, 2] * 20, "campaign_id": 0})
    result = HierarchicalCalibrator(hierarchy_levels=LEVELS).fit_transform(np.full(40, 0.3), np.full(40, y), groups)

    assert np.isfinite(result).all()
    assert ((result > 0) & (result < 1)).all()


def test_a_column_without_ids_is_no_level():
    p, y, w, _, groups = agency(2)
    groups["campaign_id"] = None
    calibrator = HierarchicalCalibrator(hierarchy_levels=LEVELS).fit(p, y, groups, w)

    assert calibrator.variances_["campaign_id"] == 0
    assert calibrator.variances_["account_id"] > 0
    without = HierarchicalCalibrator(hierarchy_levels=("campaign_id",)).fit(p, y, groups, w)
    assert not without.offsets(groups).any()


def test_it_survives_saving_bit_by_bit_in_another_process(fitted, tmp_path):
    p, _, _, _, groups = agency(3, rows=200)
    fitted.save(tmp_path)
    code = (
        "import json, sys; from pathlib import Path\n"
        "from within_ml.calibration.hierarchical import HierarchicalCalibrator as C\n"
        "p, groups = json.loads(sys.stdin.read())\n"
        "print(json.dumps(C.load(Path(sys.argv[1])).transform(p, groups).tolist()))"
    )
    told = json.dumps([p.tolist(), groups.to_numpy().tolist()])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], input=told, capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == fitted.transform(p, groups).tolist()
    again = HierarchicalCalibrator.load(tmp_path)
    pd.testing.assert_frame_equal(again.get_calibration_mapping(), fitted.get_calibration_mapping())
    assert again.get_params() == fitted.get_params()


@pytest.mark.parametrize("damage", ["hierarchical.json", "hierarchical.npz"])
def test_a_damaged_file_is_refused(fitted, tmp_path, damage):
    fitted.save(tmp_path)
    (tmp_path / damage).write_bytes(b"{")

    with pytest.raises(ModelFormatError):
        HierarchicalCalibrator.load(tmp_path)


def test_inputs_are_untouched_and_columns_may_come_in_any_order(fitted):
    p, y, w, _, groups = agency()
    before = p.copy(), y.copy(), w.copy(), groups.copy()
    again = HierarchicalCalibrator(hierarchy_levels=LEVELS).fit(
        p, y, groups[["campaign_id", "account_id"]].assign(z=1), w
    )

    assert np.array_equal(again.transform(p, groups), fitted.transform(p, groups))
    assert all(np.array_equal(a, b) for a, b in zip(before, (p, y, w, groups), strict=True))


def test_no_rows_and_one_row(fitted):
    nothing = pd.DataFrame({"account_id": [], "campaign_id": []})

    assert fitted.transform([], nothing).shape == (0,)
    assert fitted.transform([0.1], [[1, 2]]).shape == (1,)
    assert HierarchicalCalibrator(hierarchy_levels=LEVELS).fit([0.1], [0.2], [[1, 2]]).transform(
        [0.1], [[1, 2]]
    ).shape == (1,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": [0.1, 2.0]}, r"\[0, 1\]"),
        ({"X": [0.1]}, "shape"),
        ({"groups": [[1, 2]]}, "groups"),
        ({"groups": [[1], [2]]}, "groups"),
        ({"groups": pd.DataFrame({"account_id": [1, 2]})}, "campaign_id"),
        ({"sample_weight": [0, 0]}, "impressions"),
        ({"sample_weight": [1, -1]}, "sample_weight"),
        ({"sample_weight": [1, np.nan]}, "sample_weight"),
        ({"periods": [1]}, "periods"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    given = {"X": [0.1, 0.2], "y": [0.1, 0.2], "groups": [[1, 2], [1, 3]], **arguments}

    with pytest.raises(InputError, match=message):
        HierarchicalCalibrator(hierarchy_levels=LEVELS).fit(**given)


@pytest.mark.parametrize(
    "parameters",
    [{"hierarchy_levels": ()}, {"hierarchy_levels": "account_id"}, {"hierarchy_levels": ("a", "a")},
     {"calibration_method": "magic"}, {"smoothing": 0}, {"max_iter": 0}],
)  # fmt: skip
def test_impossible_parameters_are_refused(parameters):
    with pytest.raises(InputError, match=next(iter(parameters))):
        HierarchicalCalibrator(**parameters).fit([0.1], [0.1], [[1, 2, 3, 4]])


def test_misuse_is_refused(fitted):
    with pytest.raises(NotFittedError):
        HierarchicalCalibrator().transform([0.1], [[1, 2, 3, 4]])
    with pytest.raises(InputError, match="groups"):
        fitted.transform([0.1, 0.2], [[1, 2]])


# One-dimensional like IsotonicRegression: scikit-learn then runs its check of cloning alone.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([HierarchicalCalibrator()])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
