"""Factors of filter banks: the oracles, exactness at full rank, and what is least of all products of a rank."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.linalg import LinAlgError
from support.drawn_readers import QUICK

from onnxpfp.arrays import Floats
from onnxpfp.low_rank.factor import Decomposition, Factors, decompose, relative_error
from onnxpfp.low_rank.moments import InputMoments

CONV = np.random.default_rng(3).standard_normal((5, 4, 3, 3))
"""The (5, 4, 3, 3) convolution of the oracle "C (low rank)"."""
BANKS = [((), 0), ((3,), 1), ((3, 2), 1), ((3, 2), 2), ((2, 3, 2), 1), ((2, 3, 2), 2), ((2, 3, 2), 3)]
"""Kernels, and how many of their axes the first bank has."""


def columns(groups: int, size: int, count: int = 400, seed: int = 7) -> Floats:
    """Correlated columns, (g, n, T)."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((groups, size, size)) * np.geomspace(1.0, 0.05, size)[:, None]
    return mixing @ rng.standard_normal((groups, size, count))


def moments_of(data: Floats) -> InputMoments:
    return InputMoments(data @ np.swapaxes(data, 1, 2) / data.shape[2], 1)


def full(found: Decomposition) -> int:
    return len(found.errors) - 1


def outputs(weights: Floats, data: Floats) -> Floats:
    """W u of every column, (g, o, T)."""
    return weights.reshape(*weights.shape[:2], -1) @ data


def test_energies_of_the_singular_values_4_3_1() -> None:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((size, 3)))[0] for size in (6, 5))
    weights = (left * [4.0, 3.0, 1.0]) @ right.T
    errors = decompose(weights[None], 0).errors
    np.testing.assert_allclose(1 - errors[:4], [0, 16 / 26, 25 / 26, 1], atol=1e-12)
    np.testing.assert_allclose(1 - errors[1:3], [0.615385, 0.961538], atol=5e-7)


def test_the_weight_error_of_the_channel_scheme_is_that_of_the_singular_values_beyond() -> None:
    singular = np.linalg.svd(CONV.reshape(5, -1), compute_uv=False)
    lost = CONV[None] - decompose(CONV[None], 2).factors(3).product()
    assert np.linalg.norm(lost) == pytest.approx(math.sqrt(np.square(singular[3:]).sum()), rel=1e-12)


def test_the_output_error_of_the_channel_scheme_is_the_sum_of_the_eigenvalues_beyond() -> None:
    data = columns(1, 36)
    moments = moments_of(data)
    flat = CONV.reshape(5, -1)
    eigenvalues = np.linalg.eigvalsh(flat @ moments.matrix[0] @ flat.T)[::-1]
    responses, plain = decompose(CONV[None], 2, moments), decompose(CONV[None], 2)
    for rank in range(1, 5):
        lost = outputs(CONV[None] - responses.factors(rank).product(), data)
        error = np.square(lost).sum() / data.shape[2]
        assert error == pytest.approx(eigenvalues[rank:].sum(), rel=1e-3)
        by_weights = np.square(outputs(CONV[None] - plain.factors(rank).product(), data)).sum() / data.shape[2]
        assert error < by_weights


@QUICK
@given(bank=st.sampled_from(BANKS), groups=st.integers(1, 3), outs=st.integers(1, 6), ins=st.integers(1, 5))
def test_full_rank_is_exact(bank: tuple[tuple[int, ...], int], groups: int, outs: int, ins: int) -> None:
    kernel, cut = bank
    weights = np.random.default_rng(groups + 7 * outs + 31 * ins).standard_normal((groups, outs, ins, *kernel))
    taps = math.prod(kernel)
    data = columns(groups, ins * taps)
    whole = moments_of(data)
    by_channel = InputMoments(whole.matrix[:, ::taps, ::taps].copy(), taps)
    for moments in (None, whole, by_channel):
        found = decompose(weights, cut, moments)
        factors = found.factors(full(found))
        assert factors.rank == min(ins * math.prod(kernel[:cut]), outs * math.prod(kernel[cut:]))
        assert factors.first.shape == (groups, factors.rank, ins, *kernel[:cut], *[1] * (len(kernel) - cut))
        assert factors.second.shape == (groups, outs, factors.rank, *[1] * cut, *kernel[cut:])
        np.testing.assert_allclose(factors.product(), weights, atol=1e-12 * np.abs(weights).max(), rtol=1e-12)


@pytest.mark.parametrize(("kernel", "cut"), BANKS)
def test_the_errors_are_those_of_the_factors_and_fall(kernel: tuple[int, ...], cut: int) -> None:
    weights = np.random.default_rng(2).standard_normal((2, 6, 4, *kernel))
    data = columns(2, 4 * math.prod(kernel))
    for moments in (None, moments_of(data)):
        found = decompose(weights, cut, moments)
        measured = [relative_error(weights, found.factors(rank).product(), moments) for rank in range(1, full(found))]
        np.testing.assert_allclose(found.errors[1:-1], measured, rtol=2e-3, atol=1e-6)
        assert found.errors[0] == 1.0
        assert (np.diff(found.errors) <= 0).all()


def test_a_largest_rank_changes_nothing_below_it() -> None:
    moments = moments_of(columns(1, 36))
    every, few = decompose(CONV[None], 1, moments), decompose(CONV[None], 1, moments, 4)
    np.testing.assert_allclose(few.errors, every.errors[:5], rtol=1e-4)
    np.testing.assert_allclose(few.factors(3).product(), every.factors(3).product(), rtol=1e-6, atol=1e-9)


def test_the_second_bank_of_a_spatial_scheme_is_the_best_for_the_first() -> None:
    data = columns(1, 36, 4000)
    moments = moments_of(data)
    factors = decompose(CONV[None], 1, moments).factors(4)
    best = relative_error(CONV[None], factors.product(), moments)
    rng = np.random.default_rng(5)
    for _ in range(20):
        moved = factors.second + 1e-2 * rng.standard_normal(factors.second.shape)
        assert relative_error(CONV[None], Factors(factors.first, moved).product(), moments) > best


def test_both_banks_have_one_scale() -> None:
    """Half precision holds neither very large nor very small numbers."""
    factors = decompose(1e-3 * CONV[None], 2, moments_of(columns(1, 36))).factors(3)
    norms = [np.linalg.norm(factors.first[0, number]) for number in range(3)]
    np.testing.assert_allclose(norms, [np.linalg.norm(factors.second[0, :, number]) for number in range(3)], rtol=1e-9)


def test_by_channels_the_taps_of_a_channel_count_alike() -> None:
    """Moments of channels are those of columns whose taps are uncorrelated and alike."""
    channels = moments_of(columns(1, 4)).matrix
    whole = InputMoments(np.kron(channels[0], np.eye(9))[None], 1)
    by_channel = InputMoments(channels, 9)
    np.testing.assert_allclose(by_channel.energy(CONV[None]), whole.energy(CONV[None]), rtol=1e-12)
    one, other = (decompose(CONV[None], 2, each).factors(2).product() for each in (by_channel, whole))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_inputs_that_are_all_zero_have_no_factors() -> None:
    with pytest.raises(LinAlgError):
        decompose(CONV[None], 2, InputMoments(np.zeros((1, 36, 36)), 1))


def test_directions_that_the_samples_do_not_show_stay_finite() -> None:
    """Fewer samples than columns."""
    data = columns(1, 36, 5)
    moments = moments_of(data)
    for cut in (1, 2):
        product = decompose(CONV[None], cut, moments).factors(4).product()
        assert np.abs(product).max() < 10 * np.abs(CONV).max()
        assert relative_error(CONV[None], product, moments) < 0.2
