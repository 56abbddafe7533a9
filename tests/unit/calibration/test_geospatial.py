"""Regions learn from their neighbours as far as neighbours are alike, and the map is a map."""

import json
import struct
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from within_ml.calibration.geospatial import GeospatialCalibrator
from within_ml.calibration.neighbours import morans_i, neighbour_weights, on_sphere, structured_covariance
from within_ml.calibration.region_map import us_outlines
from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.lake.simulation.tables import regions_table

STATES = regions_table().to_pandas()
EMPTY = ("US-KS", "US-TN", "US-CT")


def smooth_truth(table=STATES):
    """East against west, which is as spatial as it gets."""
    return 0.015 * (table["longitude"].clip(-125, -65) + 95).to_numpy()


def rows_of(offset, *, table=STATES, empty=EMPTY, rows=20, impressions=400, seed=0):
    rng = np.random.default_rng(seed)
    place = np.repeat(np.flatnonzero(~table["region"].isin(empty)), rows)
    p = expit(rng.normal(-3.5, 0.4, place.size))
    w = rng.poisson(impressions, place.size)
    y = rng.binomial(w, expit(logit(p) + offset[place])) / w
    return p, y, table["region"].to_numpy(dtype=object)[place], w


def fit(rows, *, table=STATES, dates=None, **parameters):
    p, y, regions, w = rows
    return GeospatialCalibrator(**parameters).fit(p, y, regions, w, region_table=table, dates=dates)


@pytest.fixture(scope="module")
def fitted():
    return fit(rows_of(smooth_truth()))


class TestOffsets:
    def test_the_true_offsets_are_found(self, fitted):
        factors = fitted.get_region_factors().set_index("region").loc[STATES["region"]]
        error = factors["offset"].to_numpy() - smooth_truth()

        assert np.sqrt(np.mean(error**2)) < 0.1
        assert np.mean(np.abs(error) < 1.96 * factors["standard_error"]) > 0.85

    def test_a_region_without_rows_takes_its_neighbours_value(self, fitted):
        factors = fitted.get_region_factors().set_index("region")
        weights = neighbour_weights(on_sphere(STATES["latitude"].to_numpy(), STATES["longitude"].to_numpy()), 5)
        around = pd.Series(weights @ factors.loc[STATES["region"], "offset"] / weights.sum(axis=1), STATES["region"])

        assert factors.loc[list(EMPTY), "offset"].to_numpy() == pytest.approx(around[list(EMPTY)], abs=0.06)
        assert set(factors.loc[list(EMPTY), "source"]) == {"neighbors"}
        assert set(factors.drop(list(EMPTY))["source"]) == {"own"}

    @pytest.mark.parametrize("strategy", ["parent", "global"])
    def test_it_may_take_something_else(self, strategy):
        calibrator = fit(rows_of(smooth_truth()), fallback_strategy=strategy)
        factors = calibrator.get_region_factors().set_index("region").loc[list(EMPTY)]

        # There is one country, so that a state's parent is the level of all.
        assert factors["offset"].to_numpy() == pytest.approx([calibrator.level_] * 3)
        assert set(factors["source"]) == {strategy}

    def test_a_region_with_few_impressions_is_not_heard(self):
        p, y, regions, w = rows_of(smooth_truth())
        more = np.append(p, 0.03), np.append(y, 1.0), np.append(regions, "US-KS"), np.append(w, 50)
        calibrators = [fit(more, min_samples_per_region=minimum) for minimum in (100, 10)]

        offset = [c.get_region_factors().set_index("region")["offset"]["US-KS"] for c in calibrators]
        assert offset[0] < offset[1] - 0.3

    def test_the_share_tells_neighbours_that_are_alike_from_such_that_are_not(self, fitted):
        shuffled = fit(rows_of(np.random.default_rng(1).permutation(smooth_truth())))

        assert fitted.spatial_share_ > 0.6
        assert shuffled.spatial_share_ < 0.25

    def test_what_neighbours_share_is_gone_from_the_residuals(self, fitted):
        assert fitted.moran_before_ > 0.3
        assert abs(fitted.moran_after_) < 0.2

    def test_a_region_that_no_table_knows(self, fitted):
        p, y, regions, w = rows_of(smooth_truth())
        new = fit((p, np.where(regions == "US-OH", 2 * y, y), np.where(regions == "US-OH", "unknown", regions), w))

        assert new.get_region_factors().set_index("region")["offset"]["unknown"] > new.level_ + 0.5
        asked = fitted.transform([0.03, 0.03], ["nowhere", None])
        assert asked == pytest.approx(expit(logit(0.03) + fitted.level_))

    def test_a_country_stands_above_its_states(self):
        """Offsets differ by country alone; a state without rows gets its country's."""
        table = pd.DataFrame(
            {"region": [f"{c}{i}" for c in "abcd" for i in range(8)], "country": np.repeat(list("abcd"), 8), "city": None,
             "state": [f"s{i % 8}" for i in range(32)], "latitude": np.nan, "longitude": np.nan, "population": np.nan}
        )  # fmt: skip
        truth = np.repeat([-0.8, 0.8, -0.4, 0.4], 8)
        calibrator = fit(rows_of(truth, table=table, empty=["b7"]), table=table, fallback_strategy="parent")

        assert calibrator.variances_["country"] > 10 * calibrator.variances_["spatial"]
        assert calibrator.get_region_factors().set_index("region")["offset"]["b7"] == pytest.approx(0.8, abs=0.1)

    @pytest.mark.parametrize("level", ["country", "state", "city"])
    def test_each_level_may_have_the_neighbours(self, level):
        rng = np.random.default_rng(0)
        cities = STATES.loc[STATES.index.repeat(2)].reset_index(drop=True)
        cities["region"] = [f"{name}-{i % 2}" for i, name in enumerate(cities["region"])]
        cities["city"] = cities["region"]
        cities["country"] = np.where(cities["longitude"] < -95, "W", "E")
        truth = smooth_truth(cities) + 0.1 * rng.normal(size=len(cities))
        calibrator = fit(rows_of(truth, table=cities, empty=()), table=cities, geo_level=level)

        factors = calibrator.get_region_factors().set_index("region").loc[cities["region"], "offset"]
        assert np.corrcoef(factors, truth)[0, 1] > 0.9


class TestCovariates:
    def test_population_is_kept_where_it_explains_the_regions(self):
        size = np.log(STATES["population"].to_numpy())
        explained = 0.4 * (size - size.mean())

        assert fit(rows_of(explained)).covariates_["log_population"].kept
        assert not fit(rows_of(smooth_truth())).covariates_["log_population"].kept

    @pytest.mark.parametrize(("strength", "kept"), [(0.4, True), (0.0, False)])
    def test_the_season_is_kept_where_it_comes_back(self, strength, kept):
        rng = np.random.default_rng(0)
        p, y, regions, w = rows_of(smooth_truth(), rows=60)
        dates = pd.Timestamp("2022-01-01") + pd.to_timedelta(rng.integers(0, 1096, p.size), unit="D")
        wave = strength * np.cos(2 * np.pi * dates.day_of_year / 365.25)
        y = rng.binomial(w, expit(logit(np.clip(y, 1e-3, 1)) + wave)) / w
        calibrator = fit((p, y, regions, w), dates=dates)

        winter, summer = calibrator.transform([0.03] * 2, ["US-OH"] * 2, dates=["2026-01-01", "2026-07-01"])
        assert calibrator.covariates_["season"].kept is kept
        assert logit(winter) - logit(summer) == pytest.approx(2 * strength, abs=0.05)

    def test_half_a_year_knows_no_season(self):
        rows = rows_of(smooth_truth())
        dates = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(rows[0].size) % 180, unit="D")

        assert not fit(rows, dates=dates).covariates_["season"].kept


class TestNeighbours:
    def test_distances_are_those_of_the_globe(self):
        # Paris to New York: 5,837 km on a sphere of 6,371 km.
        points = on_sphere(np.array([48.8566, 40.7128]), np.array([2.3522, -74.0060]))

        assert 1 / neighbour_weights(points, 1)[0, 1] == pytest.approx(5837, abs=3)

    def test_two_clusters_hang_together(self):
        points = on_sphere(np.array([0.0, 0, 0, 0, 0, 0]), np.array([0.0, 1, 2, 50, 51, 52]))
        weights = neighbour_weights(points, 1)

        assert weights[2, 3] > 0
        assert np.array_equal(weights, weights.T)

    def test_points_at_one_place_and_points_without_one(self):
        weights = neighbour_weights(on_sphere(np.array([1.0, 1, 1, np.nan]), np.array([1.0, 1, 1, 1])), 2)

        assert np.isfinite(weights).all()
        assert not weights[3].any()
        assert not np.diag(weights).any()

    def test_each_value_is_normal_around_the_mean_of_its_neighbours(self):
        """E[x₂ | x₁, x₃, …] on a ring is the mean of the two beside it."""
        ring = np.roll(np.eye(8), 1, axis=0) + np.roll(np.eye(8), -1, axis=0)
        covariance = structured_covariance(ring)
        others = [0, 2, 3, 4, 5, 6, 7]
        weights = covariance[1, others] @ np.linalg.pinv(covariance[np.ix_(others, others)])
        x = np.array([3.0, 5.0, -4.0, 1.0, -2.0, 2.0, -1.0])  # with x₁ = -4 the sum is 0

        assert np.exp(np.mean(np.log(np.diag(covariance)))) == pytest.approx(1)
        assert covariance.sum(axis=0) == pytest.approx(np.zeros(8), abs=1e-9)
        assert weights @ x == pytest.approx(-x.sum(), abs=1e-6)

    def test_morans_i_of_a_chess_board_is_minus_one(self):
        ring = np.roll(np.eye(8), 1, axis=0) + np.roll(np.eye(8), -1, axis=0)

        assert morans_i(np.array([1.0, -1.0] * 4), ring) == pytest.approx(-1)
        assert np.isnan(morans_i(np.ones(8), ring))


class TestMap:
    def test_outlines_are_states_where_they_are(self):
        outlines = {outline.code: outline for outline in us_outlines()}
        capitals = STATES.set_index("region")[["longitude", "latitude"]]

        assert set(STATES["region"]) <= set(outlines)
        for code, capital in capitals.iterrows():
            points = np.concatenate(outlines[code].rings)
            assert (points.min(axis=0) - 0.05 <= capital.to_numpy()).all(), code
            assert (capital.to_numpy() <= points.max(axis=0) + 0.05).all(), code

    def test_the_figure_fills_each_state_by_its_offset(self, fitted):
        figure = fitted.plot_region_map()
        states = {trace.name: trace for trace in figure.data}

        assert len(states) == 54
        assert "own" in states["Texas"].text
        red, blue = (int(states[name].fillcolor[a : a + 2], 16) for name, a in (("Maine", 1), ("Oregon", 5)))
        assert min(red, blue) > 0x90
        assert len(figure.to_json()) < 100_000

    def test_the_picture_is_a_png_and_always_the_same(self, fitted):
        picture = fitted.region_map_png()

        assert picture[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", picture[16:24]) == (900, 560)
        assert picture == fitted.region_map_png()

    def test_regions_without_outline_are_points(self):
        table = STATES.assign(country="ZZ", region=[f"z{i}" for i in range(50)], state=[f"z{i}" for i in range(50)])
        figure = fit(rows_of(smooth_truth(), table=table), table=table).plot_region_map()

        assert len(figure.data) == 1
        assert len(figure.data[0].x) == 51


class TestConduct:
    def test_it_survives_saving_bit_by_bit_in_another_process(self, fitted):
        p, _, regions, _ = rows_of(smooth_truth(), rows=2, seed=1)
        code = (
            "import json, sys\n"
            "from within_ml.calibration.geospatial import GeospatialCalibrator as C\n"
            "state, p, regions = json.loads(sys.stdin.read())\n"
            "print(json.dumps(C.from_dict(state).transform(p, regions).tolist()))"
        )
        told = json.dumps([fitted.to_dict(), p.tolist(), regions.tolist()], allow_nan=False)
        done = subprocess.run([sys.executable, "-c", code], input=told, capture_output=True, text=True, check=True)

        assert json.loads(done.stdout) == fitted.transform(p, regions).tolist()
        again = GeospatialCalibrator.from_dict(fitted.to_dict())
        pd.testing.assert_frame_equal(again.get_region_factors(), fitted.get_region_factors())
        assert again.region_map_png() == fitted.region_map_png()

    def test_order_within_a_region_is_kept(self, fitted):
        grid = np.geomspace(1e-6, 0.9, 500)

        assert (np.diff(fitted.transform(grid, ["US-TX"] * 500)) > 0).all()

    def test_inputs_are_untouched_and_the_same_rows_give_the_same(self, fitted):
        rows, table = rows_of(smooth_truth()), STATES.copy()
        again = fit(rows, table=table.sample(frac=1, random_state=0))

        assert np.array_equal(again.offset_, fitted.offset_)
        assert all(np.array_equal(a, b) for a, b in zip(rows, rows_of(smooth_truth()), strict=True))
        pd.testing.assert_frame_equal(table, STATES)

    def test_no_rows_and_one_row(self, fitted):
        assert fitted.transform([], []).shape == (0,)
        one = GeospatialCalibrator().fit([0.1], [0.2], ["US-TX"], [500], region_table=STATES)
        assert one.transform([0.1], ["US-OK"])[0] == pytest.approx(0.2, rel=0.1)
        few = GeospatialCalibrator().fit([0.1], [0.2], ["US-TX"], region_table=STATES)
        assert few.transform([0.1], ["US-TX"]) == pytest.approx([0.1])

    @pytest.mark.parametrize("y", [0.0, 1.0])
    def test_one_outcome_alone_leaves_finite_probabilities(self, y):
        calibrator = GeospatialCalibrator().fit(
            [0.3] * 4, [y] * 4, ["US-TX", "US-OK"] * 2, [90] * 4, region_table=STATES
        )

        assert np.isfinite(calibrator.transform([0.3], ["US-TX"])).all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"y": [0.1, 2.0]}, r"\[0, 1\]"),
            ({"X": [0.1]}, "shape"),
            ({"regions": ["US-TX"]}, "regions"),
            ({"sample_weight": [0, 0]}, "impressions"),
            ({"sample_weight": [1, -1]}, "sample_weight"),
            ({"dates": ["2024-01-01"]}, "dates"),
            ({"dates": ["2024-01-01", None]}, "dates"),
            ({"dates": ["2024-01-01", "yesterday"]}, "dates"),
            ({"region_table": STATES.drop(columns="latitude")}, "latitude"),
            ({"region_table": pd.concat([STATES, STATES])}, "once"),
            ({"region_table": STATES.assign(latitude=91.0)}, "latitude"),
        ],
    )
    def test_bad_input_is_refused(self, arguments, message):
        given = {"X": [0.1, 0.2], "y": [0.1, 0.2], "regions": ["US-TX", "US-OK"], "region_table": STATES, **arguments}

        with pytest.raises(InputError, match=message):
            GeospatialCalibrator().fit(**given)

    @pytest.mark.parametrize(
        "parameters",
        [
            {"geo_level": "planet"},
            {"smoothing_neighbors": 0},
            {"min_samples_per_region": -1},
            {"fallback_strategy": "no"},
        ],
    )
    def test_impossible_parameters_are_refused(self, parameters):
        with pytest.raises(InputError, match=next(iter(parameters))):
            GeospatialCalibrator(**parameters).fit([0.1], [0.1], ["US-TX"], region_table=STATES)

    def test_misuse_is_refused(self, fitted):
        with pytest.raises(NotFittedError):
            clone(fitted).transform([0.1], ["US-TX"])
        with pytest.raises(InputError, match="probabilities"):
            fitted.transform([1.5], ["US-TX"])
        with pytest.raises(ModelFormatError):
            GeospatialCalibrator.from_dict({"offset": []})


# One-dimensional like IsotonicRegression: scikit-learn then runs its check of cloning alone.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([GeospatialCalibrator()])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
