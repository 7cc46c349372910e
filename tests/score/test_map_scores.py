"""Baselines of maps: values worked out for small maps, and the definitions by one SVD per channel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxpfp.score.maps import map_ranks, nuclear_losses, positive_shares


def by_svd(rows: np.ndarray) -> list[float]:
    """CHIP as it is defined."""
    return [float(np.linalg.norm(rows, "nuc") - np.linalg.norm(np.delete(rows, j, 0), "nuc")) for j in range(len(rows))]


def test_hrank_oracle() -> None:
    maps = np.array([[[[1, 2], [2, 4]], [[1, 0], [0, 1]]]])
    np.testing.assert_array_equal(map_ranks(maps), [[1, 2]])


def test_apoz_oracle() -> None:
    maps = np.array([[[1, -1, 0, 2], [3, 1, 1, 2]]])
    np.testing.assert_array_equal(1 - positive_shares(maps), [[0.5, 0]])


def test_chip_oracle() -> None:
    maps = np.array([[[1, 0, 0, 1], [2, 0, 0, 2], [0, 1, 0, 0]]])
    np.testing.assert_allclose(nuclear_losses(maps), [[0.333851, 1.748064, 1]], atol=2e-6)


def test_the_rank_of_a_map_without_rows_or_columns_tells_whether_it_is_zero() -> None:
    np.testing.assert_array_equal(map_ranks(np.array([[[1.0, 5.0], [0.0, 0.0]]])), [[1, 0]])
    np.testing.assert_array_equal(map_ranks(np.array([[1.0, 0.0]])), [[1, 0]])


def test_the_rank_of_a_volume_is_that_of_its_last_axis_against_the_others() -> None:
    volume = np.random.default_rng(0).standard_normal((2, 3, 2, 4, 5))
    np.testing.assert_array_equal(map_ranks(volume), np.full((2, 3), 5))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rounding_is_no_rank(dtype: type) -> None:
    rng = np.random.default_rng(0)
    one = np.outer(rng.integers(1, 9, 8), rng.integers(1, 9, 8)).astype(dtype)
    noise = rng.standard_normal((8, 8)).astype(dtype)
    maps = np.stack([one, noise])[None]
    np.testing.assert_array_equal(map_ranks(maps), [[1, 8]])


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10_000), st.sampled_from([1e-4, 1.0, 1e4]))
def test_chip_needs_no_svd_per_channel(channels: int, size: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    rows = np.maximum(rng.standard_normal((channels, size)), 0) * scale
    rows[rng.integers(channels)] = rows[0]
    rows[rng.integers(channels)] = 0
    np.testing.assert_allclose(nuclear_losses(rows[None])[0], by_svd(rows), atol=3e-7 * scale)


def test_chip_of_samples_is_that_of_each() -> None:
    maps = np.random.default_rng(0).standard_normal((3, 4, 2, 5)).astype(np.float32)
    expected = [by_svd(sample.reshape(4, -1).astype(np.float64)) for sample in maps]
    np.testing.assert_allclose(nuclear_losses(maps), expected, atol=1e-6)


def test_dark_maps_lose_nothing() -> None:
    np.testing.assert_array_equal(nuclear_losses(np.zeros((2, 3, 4))), np.zeros((2, 3)))
