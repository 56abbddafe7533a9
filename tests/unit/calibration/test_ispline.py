"""The basis of the monotone spline."""

import numpy as np
import pytest

from within_ml.calibration.ispline import integrated_basis, quantile_knots

KNOTS = np.array([-6.0, -4.0, -3.5, -1.0])


@pytest.mark.parametrize("order", [2, 3, 4])
def test_equal_coefficients_are_a_line(order):
    x = np.linspace(-9, 2, 101)
    basis = integrated_basis(x, KNOTS, order)

    assert basis.shape == (101, KNOTS.size + order - 3)
    assert basis.sum(axis=1) == pytest.approx(x - KNOTS[0])


@pytest.mark.parametrize("order", [2, 3, 4])
def test_each_function_rises(order):
    basis = integrated_basis(np.linspace(-6, -1, 500), KNOTS, order)

    assert (np.diff(basis, axis=0) >= -1e-12).all()
    assert basis[0] == pytest.approx(0)


def test_order_two_is_piecewise_linear_by_hand():
    basis = integrated_basis(np.array([-7.0, -5.0, -3.75, 0.0]), KNOTS, 2)

    assert basis == pytest.approx(np.array([[-1, 0, 0], [1, 0, 0], [2, 0.25, 0], [2, 0.5, 3.5]]))


def test_knots_stand_where_rows_are_and_where_they_tell():
    x = np.sort(np.random.default_rng(0).normal(-10, 1, 5000))
    x = np.append(x, np.linspace(-2, 2, 100))
    knots = quantile_knots(x, np.ones(x.size), 13, level=0.0)

    assert (knots < -8).sum() >= 4
    assert (knots > -2.5).sum() >= 4
    assert (knots[0], knots[-1]) == (x[0], x[-1])


def test_knots_of_a_single_lump_stay_apart():
    x = np.array([-5.0, -5.0 + 1e-9, -5.0 + 2e-9, -1.0])
    knots = quantile_knots(x, np.array([1e6, 1e6, 1e6, 1.0]), 8, level=0.0)

    assert np.diff(knots).min() > 1e-6
    assert (knots[0], knots[-1]) == (-5.0, -1.0)
