"""Fits from several sets of columns by one factorisation, against one least-squares problem each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxpfp.refit.nested_fits import fitted_weights, nested_fits

COLUMNS, OUTPUTS, RIDGE = 9, 4, 1e-2


def case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns that depend on each other, (200, 9), weights, and second moments."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((200, 5)) @ rng.standard_normal((5, COLUMNS)) + 0.3 * rng.standard_normal((200, COLUMNS))
    return u, rng.standard_normal((OUTPUTS, COLUMNS)), u.T @ u / len(u)


def by_hand(u: np.ndarray, weights: np.ndarray, stays: np.ndarray, added: float) -> np.ndarray:
    """Minimise the mean of |W u - V u_S|^2 + added |V - W_S|^2 as one least-squares problem."""
    count, kept = len(u), int(stays.sum())
    left = np.concatenate([u[:, stays], np.sqrt(count * added) * np.eye(kept)])
    right = np.concatenate([u @ weights.T, np.sqrt(count * added) * weights[:, stays].T])
    return np.linalg.lstsq(left, right, rcond=None)[0].T


@given(st.integers(0, 99), st.lists(st.sets(st.integers(0, COLUMNS - 1), min_size=1), min_size=1, max_size=6))
@settings(max_examples=60)
def test_every_fit_is_the_least_squares_one_with_the_ridge_of_its_chain(seed: int, sets: list[set[int]]) -> None:
    u, weights, gram = case(seed)
    stays = np.zeros((len(sets), COLUMNS), np.bool_)
    for row, chosen in zip(stays, sets, strict=True):
        row[list(chosen)] = True
    for row, fit in zip(stays, nested_fits(gram, weights, stays, RIDGE), strict=True):
        assert fit is not None
        scales = [RIDGE * np.diag(gram)[other].mean() for other in stays if (other >= row).all()]
        wanted = [by_hand(u, weights, row, scale) for scale in scales]
        assert min(np.abs(fit.weights - each).max() for each in wanted) < 1e-8
        missing = u @ weights.T - u[:, row] @ fit.weights.T
        assert fit.error == pytest.approx(np.square(missing).sum(1).mean(), rel=1e-6, abs=1e-9)
        assert fit.energy == pytest.approx(np.square(u @ weights.T).sum(1).mean())


@pytest.mark.parametrize("seed", range(3))
def test_columns_are_fitted_like_outputs_that_are_columns(seed: int) -> None:
    _, _, gram = case(seed)
    stays = np.array([[True] * 4 + [False] * 5, [True] * 6 + [False] * 3, [False, True] * 4 + [True]])
    own = nested_fits(gram, None, stays, RIDGE)
    for row, fit, outputs in zip(stays, own, nested_fits(gram, np.eye(COLUMNS), stays, RIDGE), strict=True):
        assert fit is not None
        assert outputs is not None
        assert fit.residual is not None
        np.testing.assert_allclose(fit.weights, outputs.weights[~row], atol=1e-10)
        kept = outputs.weights[row] - np.eye(int(row.sum()))
        np.testing.assert_allclose(kept, 0, atol=1e-10)
        assert np.trace(fit.residual) == pytest.approx(outputs.error)


def test_where_nothing_varies_there_is_no_fit() -> None:
    gram = np.zeros((3, 3))
    gram[2, 2] = 1.0
    dead, alive = nested_fits(gram, np.ones((1, 3)), np.array([[True, True, False], [False, False, True]]), RIDGE)
    assert dead is None
    assert alive is not None
    assert alive.error == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("columns", [False, True])
def test_one_set_alone_is_fitted_as_among_others(seed: int, columns: bool) -> None:
    _, weights, gram = case(seed)
    stays, wanted = np.arange(COLUMNS) % 3 != seed, None if columns else weights
    (fit,) = nested_fits(gram, wanted, stays[None], RIDGE)
    found = fitted_weights(gram, wanted, stays, RIDGE)
    assert fit is not None
    assert found is not None
    np.testing.assert_allclose(found, fit.weights, atol=1e-10)
    assert fitted_weights(np.zeros_like(gram), wanted, stays, RIDGE) is None


@pytest.mark.parametrize("seed", range(3))
def test_in_float32_fits_and_losses_are_the_same_up_to_rounding(seed: int) -> None:
    _, weights, gram = case(seed)
    stays = np.array([[True] * 4 + [False] * 5, [True] * 6 + [False] * 3])
    single = nested_fits(gram.astype(np.float32), weights.astype(np.float32), stays, RIDGE)
    for fit, exact in zip(single, nested_fits(gram, weights, stays, RIDGE), strict=True):
        assert fit is not None
        assert exact is not None
        assert fit.weights.dtype == np.float32
        np.testing.assert_allclose(fit.weights, exact.weights, atol=1e-4)
        assert fit.error / fit.energy == pytest.approx(exact.error / exact.energy, abs=1e-6)
