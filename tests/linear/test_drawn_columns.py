"""Positions are those with the least random words, and sums of columns are what the columns add up to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxpfp.arrays import random_words
from onnxpfp.linear import columns as module
from onnxpfp.linear.columns import column_sums, columns, sample_positions
from onnxpfp.linear.im2col import output_sizes, tap_sources
from onnxpfp.linear.ops import LinearOp, Window

DEPTHWISE = Window((2, 2), (1, 1, 1, 1), (1, 1))


def reader(channels: int, kernel: tuple[int, int], window: Window, sizes: tuple[int, int], group: int) -> LinearOp:
    """Return a convolution with as many outputs as inputs."""
    weight = np.ones((channels, channels // group, *kernel), np.float32)
    return LinearOp(
        "r", "conv", "x", (1, channels, *sizes), 1, np.arange(1, channels + 1), weight, (1, 1),
        group=group, attributes=window,
    )  # fmt: skip


@pytest.mark.parametrize(("positions", "drawn"), [(5000, 16), (900, 3), (400, 90), (60, 59), (17, 16)])
def test_positions_have_the_least_words_of_a_sample(positions, drawn) -> None:
    words = random_words((3, 8), 7, 40, positions)
    found = sample_positions((40, 2, positions), 1, drawn, (3, 8), 7)
    np.testing.assert_array_equal(found, np.sort(np.argsort(words, axis=1)[:, :drawn], axis=1))


def test_rows_with_few_small_words_are_drawn_all_the_same(monkeypatch) -> None:
    # Without spare ones half of all rows have too few words below the limit.
    monkeypatch.setattr(module, "_SPARE", 0)
    words = random_words((3, 8), 0, 40, 900)
    found = sample_positions((40, 2, 900), 1, 16, (3, 8), 0)
    np.testing.assert_array_equal(found, np.sort(np.argsort(words, axis=1)[:, :16], axis=1))


def test_random_words_are_those_of_each_row() -> None:
    # Many rows are made some at a time.
    words = random_words((1, 2), 0, 70, 3000)
    for row in (0, 33, 69):
        np.testing.assert_array_equal(words[row], random_words((1, 2), row, 1, 3000)[0])


@pytest.mark.parametrize("size", [7, 40])
def test_sums_of_columns(size) -> None:
    op = reader(6, (3, 3), DEPTHWISE, (size, size), 6)
    data = np.random.default_rng(0).normal(size=(5, 6, size, size)).astype(np.float32)
    spatial = output_sizes(op, (size, size))
    positions = sample_positions((5, 1, *spatial), 1, 9, (0, 1), 0)
    wanted = columns(op, data, spatial, positions).sum(0, dtype=np.float64)
    np.testing.assert_allclose(column_sums(op, data, spatial, positions), wanted, rtol=1e-5, atol=1e-5)


def test_what_is_not_read_does_not_count() -> None:
    op = reader(4, (1, 2), Window((8, 8), (0, 0, 0, 0), (1, 1)), (9, 9), 4)
    data = np.random.default_rng(0).normal(size=(2, 4, 9, 9)).astype(np.float32)
    data[:, :, 4] = np.inf
    positions = np.arange(2, dtype=np.int64)[None].repeat(2, 0)
    spatial = output_sizes(op, (9, 9))
    sums = column_sums(op, data, spatial, positions)
    assert np.isfinite(sums).all()
    np.testing.assert_allclose(sums, columns(op, data, spatial, positions).sum(0), rtol=1e-5)


@pytest.mark.parametrize("window", [Window((1, 1), (0, 0, 0, 0), (1, 1)), Window((2, 1), (0, 0, 0, 0), (1, 1))])
def test_columns_of_one_tap(window) -> None:
    op = reader(5, (1, 1), window, (6, 4), 1)
    data = np.random.default_rng(0).normal(size=(3, 5, 6, 4)).astype(np.float32)
    spatial = output_sizes(op, (6, 4))
    positions = sample_positions((3, 1, *spatial), 1, 7, (0, 1), 0)
    read, _ = tap_sources(op, (6, 4), spatial, positions)
    flat = data.reshape(3, 5, math.prod((6, 4)))
    wanted = np.concatenate([flat[number][:, read[number, :, 0]].T for number in range(3)])
    np.testing.assert_array_equal(columns(op, data, spatial, positions), wanted)
