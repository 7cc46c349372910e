"""Refits of ops whose weights keep to a rank, against what is known to be the best."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxpfp.low_rank.limit import RankLimit
from onnxpfp.low_rank.ranks import Choice
from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.low_rank_fit import limited_fit, low_rank_fit
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.ridge import by_columns
from onnxpfp.refit.rows import RowBatch, SampledRows

Array = NDArray[np.float64]
OUTPUTS, CHANNELS, KERNEL = 8, 4, (3, 3)
COLUMNS = CHANNELS * 9


def rows(weights: Array, count: int, seed: int, *, rectified: bool) -> SampledRows:
    """Draw columns that are mixtures of some, and what weights make of them."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).standard_normal((COLUMNS, COLUMNS)) / np.sqrt(COLUMNS)
    columns = (rng.standard_normal((count, 1, COLUMNS)) @ mixing).astype(np.float32)
    targets = np.einsum("tgn,gon->tgo", columns, weights).astype(np.float32) + 0.1
    threshold = np.zeros_like(targets) if rectified else None
    sampled = SampledRows(Moments.empty(1, COLUMNS, OUTPUTS), SpillCache(1 << 28))
    sampled.add(RowBatch(columns, targets, threshold))
    return sampled


def start_of(weights: Array, *, biased: bool = True) -> InitialWeights:
    zeros = np.zeros((1, OUTPUTS))
    return InitialWeights(weights, zeros, np.ones_like(zeros), biased, 1.0, np.dtype(np.float32))


def weights_of(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((1, OUTPUTS, COLUMNS))


def rank_of(weights: Array, cut: int) -> int:
    """Count the directions of a bank, seen as the matrix that the scheme factors."""
    before = 3**cut
    matrix = weights.reshape(OUTPUTS, CHANNELS, before, -1).transpose(1, 2, 0, 3).reshape(CHANNELS * before, -1)
    singular = np.linalg.svd(matrix, compute_uv=False)
    return int((singular > 1e-4 * singular[0]).sum())


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_weights_keep_to_the_rank(cut: int, rank: int, rectified: bool) -> None:
    limit, weights = RankLimit(KERNEL, Choice(cut, rank)), weights_of(0)
    fitted, tuning = (rows(weights, count, seed, rectified=rectified) for count, seed in ((400, 1), (200, 2)))
    start = start_of(weights)
    fit = low_rank_fit(limit, by_columns(fitted.moments, start), fitted, tuning, start)
    assert rank_of(fit.weights, cut) == rank
    assert fit.error <= fit.plain


def test_a_channel_scheme_loses_what_no_product_can_keep() -> None:
    """The sum of the eigenvalues of the outputs' covariance beyond the rank (Zhang et al., TPAMI 2016, 3.1)."""
    weights, rank = weights_of(1), 3
    fitted, tuning = rows(weights, 4000, 1, rectified=False), rows(weights, 4000, 1, rectified=False)
    start = start_of(weights)
    fit = low_rank_fit(RankLimit(KERNEL, Choice(2, rank)), by_columns(fitted.moments, start), fitted, tuning, start)
    covariance = weights[0] @ fitted.moments.gram(centred=True)[0] @ weights[0].T
    assert fit.error == pytest.approx(np.linalg.eigvalsh(covariance)[: OUTPUTS - rank].sum(), rel=1e-3)


@pytest.mark.parametrize("cut", [1, 2])
def test_full_rank_loses_nothing(cut: int) -> None:
    weights = weights_of(2)
    fitted, tuning = rows(weights, 900, 1, rectified=False), rows(weights, 300, 2, rectified=False)
    start = start_of(weights_of(3))
    full = min(CHANNELS * 3**cut, OUTPUTS * 3 ** (2 - cut))
    limit = RankLimit(KERNEL, Choice(cut, full))
    fit = low_rank_fit(limit, by_columns(fitted.moments, start), fitted, tuning, start)
    spread = float(np.square(weights).sum())
    assert fit.error < 1e-4 * spread


def test_both_ops_are_fitted() -> None:
    """Fitting the first op with the second one fixed is better than fitting the second alone."""
    from onnxpfp.refit import low_rank_fit as module

    weights, limit = weights_of(4), RankLimit(KERNEL, Choice(1, 4))
    start = start_of(weights)
    errors: list[float] = []
    times, before = (0, 1), module.ALTERNATIONS
    for count in times:
        fitted, tuning = rows(weights, 2000, 1, rectified=False), rows(weights, 1000, 2, rectified=False)
        module.ALTERNATIONS = count
        errors.append(low_rank_fit(limit, by_columns(fitted.moments, start), fitted, tuning, start).error)
    module.ALTERNATIONS = before
    assert errors[1] < 0.99 * errors[0]


def test_what_cannot_be_fitted_is_brought_to_the_rank_all_the_same() -> None:
    weights, limit = weights_of(5), RankLimit(KERNEL, Choice(1, 2))
    empty = SampledRows(Moments.empty(1, COLUMNS, OUTPUTS), SpillCache(1 << 28))
    start = start_of(weights)
    fit = low_rank_fit(limit, by_columns(empty.moments, start), empty, empty, start)
    assert rank_of(fit.weights, 1) == 2


def test_columns_that_never_vary_leave_the_weights_to_decide() -> None:
    weights, limit = weights_of(6), RankLimit(KERNEL, Choice(1, 2))
    silent = SampledRows(Moments.empty(1, COLUMNS, OUTPUTS), SpillCache(1 << 28))
    silent.add(RowBatch(np.zeros((50, 1, COLUMNS), np.float32), np.ones((50, 1, OUTPUTS), np.float32), None))
    start = start_of(weights)
    fit = low_rank_fit(limit, by_columns(silent.moments, start), silent, silent, start)
    assert rank_of(fit.weights, 1) == 2
    np.testing.assert_allclose(fit.bias, 1.0, atol=1e-5)


def test_a_solver_of_its_own_is_brought_to_the_rank() -> None:
    weights, limit = weights_of(7), RankLimit(KERNEL, Choice(1, 3))
    fitted, tuning = rows(weights, 900, 1, rectified=False), rows(weights, 300, 2, rectified=False)
    start = start_of(weights)
    fit = limited_fit(limit, by_columns(fitted.moments, start).at, None, fitted, tuning, start)
    assert rank_of(fit.weights, 1) == 3


def test_a_matrix_product_has_one_scheme() -> None:
    weights, limit = weights_of(8), RankLimit((), Choice(0, 3))
    fitted, tuning = rows(weights, 900, 1, rectified=False), rows(weights, 300, 2, rectified=False)
    start = start_of(weights, biased=False)
    fit = low_rank_fit(limit, by_columns(fitted.moments, start), fitted, tuning, start)
    assert np.linalg.matrix_rank(fit.weights[0], tol=1e-4 * np.linalg.norm(fit.weights[0])) == 3
    np.testing.assert_array_equal(fit.bias, 0.0)
