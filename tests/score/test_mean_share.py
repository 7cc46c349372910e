"""Mean shares: the definition channel by channel, and the errors of dropped channels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxpfp.score.output_moments import OutputMoments, OutputSquares, errors

Floats = NDArray[np.float64]

SIZES = {"plain": (6, 5, (), 1), "window": (6, 5, (3, 3), 1), "groups": (6, 2, (2,), 3), "depthwise": (6, 1, (3,), 6)}
"""Indices C, outputs O/g of a group, kernel, groups g."""


def case(name: str, seed: int = 0, samples: int = 7, positions: int = 4) -> tuple[Floats, Floats, int]:
    """Columns (N, P, C, k) of correlated channels, and weights (C, O/g, *kernel)."""
    channels, outputs, kernel, group = SIZES[name]
    rng = np.random.default_rng(seed)
    size = int(np.prod(kernel, dtype=np.int64))
    mixed = rng.standard_normal((samples, positions, channels, size)) + rng.standard_normal((samples, positions, 1, 1))
    return mixed.astype(np.float32), rng.standard_normal((channels, outputs, *kernel)).astype(np.float32), group


def contributions(columns: Floats, taps: Floats, group: int) -> Floats:
    """y (N, P, g * O/g, C), what every index adds to every output: nothing to those of other convolution groups."""
    channels, outputs = taps.shape[:2]
    flat = taps.reshape(channels, outputs, -1).astype(np.float64)
    each = channels // group
    y = np.zeros((*columns.shape[:2], group * outputs, channels))
    for c in range(channels):
        first = c // each * outputs
        y[..., first : first + outputs, c] = columns[:, :, c].astype(np.float64) @ flat[c].T
    return y


def moments(columns: Floats, taps: Floats, group: int) -> OutputMoments:
    return OutputMoments.of(columns.reshape(-1, *columns.shape[2:]), taps, group)


def mean_squares(columns: Floats, taps: Floats, group: int) -> Floats:
    return OutputSquares.of(columns.reshape(-1, *columns.shape[2:]), taps, group).mean_squares


@pytest.mark.parametrize("chunk", [64, 4 << 20])
@pytest.mark.parametrize("name", SIZES)
def test_against_the_contribution_of_every_channel(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxpfp.arrays.CHUNK_BYTES", chunk)
    columns, taps, group = case(name)
    y = contributions(columns, taps, group)
    units = np.square(y.sum(-1)).mean((0, 1))
    found = moments(columns, taps, group)
    np.testing.assert_allclose(mean_squares(columns, taps, group).ravel(), units, rtol=1e-5)
    np.testing.assert_allclose(found.shares(taps), np.square(y).mean((0, 1)).sum(0) / units.sum(), rtol=1e-5)


@pytest.mark.parametrize("chunk", [64, 4 << 20])
@pytest.mark.parametrize("name", SIZES)
def test_errors_against_the_sum_of_what_goes(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxpfp.arrays.CHUNK_BYTES", chunk)
    columns, taps, group = case(name)
    y = contributions(columns, taps, group)
    units = mean_squares(columns, taps, group)
    for dropped in (np.arange(6) % 2 == 0, np.arange(6) == 4, np.ones(6, np.bool_), np.zeros(6, np.bool_)):
        squares = np.minimum(np.square(y[..., dropped].sum(-1)), units.ravel())
        expected = squares.mean(1).sum(1) / units.sum()
        np.testing.assert_allclose(errors(columns, taps, dropped, units), expected, rtol=1e-4, atol=1e-9)
    assert expected.max() == 0


def test_moments_of_parts_are_those_of_all() -> None:
    columns, taps, group = case("groups")
    whole = moments(columns, taps, group)
    parts = moments(columns[:3], taps, group).merge(moments(columns[3:], taps, group))
    np.testing.assert_allclose(parts.shares(taps), whole.shares(taps), rtol=1e-6)
    assert parts.count == whole.count == 28


@given(st.sampled_from(sorted(SIZES)), st.integers(0, 1000), st.data())
def test_the_error_is_at_most_as_many_times_the_shares_as_channels_go(
    name: str, seed: int, data: st.DataObject
) -> None:
    columns, taps, group = case(name, seed)
    dropped = np.array(data.draw(st.lists(st.booleans(), min_size=6, max_size=6)))
    found = moments(columns, taps, group)
    mean = errors(columns, taps, dropped, mean_squares(columns, taps, group)).mean()
    assert 0 <= mean <= min(1, dropped.sum() * found.shares(taps)[dropped].sum()) * (1 + 1e-5)


def test_uncorrelated_channels_share_the_outputs_among_them() -> None:
    """Then shares add up to 1, and those of what goes to its error where no part of it is more than 1."""
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
    columns, taps = signs[:, None, :, None], np.random.default_rng(0).uniform(0.5, 1.5, (4, 3))
    found = moments(columns, taps, 1)
    shares = found.shares(taps)
    np.testing.assert_allclose(shares.sum(), 1.0, rtol=1e-6)
    gone = np.array([True, False, False, False])
    np.testing.assert_allclose(errors(columns, taps, gone, mean_squares(columns, taps, 1)).mean(), shares[0], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1e25])
def test_the_scale_does_not_count(scale: float) -> None:
    columns, taps, group = case("window")
    large, weights = columns * np.float32(scale), taps * np.float32(1e3)
    one, two = moments(columns, taps, group), moments(large, weights, group)
    np.testing.assert_allclose(two.shares(weights), one.shares(taps), rtol=1e-4)
    dropped = np.arange(6) < 2
    expected = errors(columns, taps, dropped, mean_squares(columns, taps, group))
    found = errors(large, weights, dropped, mean_squares(large, weights, group))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_sums_that_single_precision_does_not_hold_have_squares_too() -> None:
    columns, taps, group = case("window")
    expected = 1e80 * mean_squares(columns, taps, group)
    large = mean_squares(columns.astype(np.float64) * 1e20, taps * np.float32(1e20), group)
    np.testing.assert_allclose(large, expected, rtol=1e-4)


def test_errors_count_up_to_the_mean_square_of_their_own_output() -> None:
    """Two channels cancel in the first output, which is always 0, and the second one is twice each."""
    taps = np.array([[1.0, 1.0], [-1.0, 1.0]])
    columns = np.ones((3, 1, 2, 1))
    found, units = moments(columns, taps, 1), mean_squares(columns, taps, 1)
    np.testing.assert_array_equal(units, [[0, 4]])
    np.testing.assert_allclose(found.shares(taps), [2 / 4, 2 / 4])
    first = np.array([True, False])
    np.testing.assert_allclose(errors(columns, taps, first, units), 1 / 4)
    np.testing.assert_allclose(errors(5 * columns, taps, first, units), 1)


def test_where_nothing_comes_out_nothing_has_a_share_and_nothing_is_promised() -> None:
    columns, taps = np.zeros((3, 2, 4, 1)), np.ones((4, 2))
    found = moments(columns, taps, 1)
    np.testing.assert_array_equal(found.shares(taps), np.zeros(4))
    np.testing.assert_array_equal(
        errors(columns + 1, taps, np.arange(4) < 2, mean_squares(columns, taps, 1)), np.ones(3)
    )
