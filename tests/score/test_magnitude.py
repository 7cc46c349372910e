"""Baselines of weights alone: values worked out for five small filters, and plain loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxpfp import arrays
from onnxpfp.score.group_data import ConsumerData, GroupData, long_rows, places
from onnxpfp.score.magnitude import L1, L2, fpgm, l1_norms, l2_norms, lamp

ROWS = np.array([[1, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, -3], [1, 1, 0]], np.float64)
EXPECTED = [
    (l1_norms, [1, 2, 1, 3, 2]),
    (l2_norms, [1, 2, 1, 3, 1.414214]),
    (fpgm, [6.576491, 8.255833, 7.812559, 13.246731, 6.730838]),
    (lamp, [0.058824, 0.307692, 0.0625, 1, 0.133333]),
]
SCORES = pytest.mark.parametrize(("score", "expected"), EXPECTED, ids=[score.__name__ for score, _ in EXPECTED])


@SCORES
def test_oracle(score: Callable[..., np.ndarray], expected: list[float]) -> None:
    np.testing.assert_allclose(score([ROWS]), expected, atol=2e-6)


@SCORES
def test_rows_may_come_in_pieces(score: Callable[..., np.ndarray], expected: list[float]) -> None:
    np.testing.assert_allclose(score(iter([ROWS[:, :1], ROWS[:, 1:]])), expected, atol=2e-6)


def test_equal_filters_are_no_distance_apart() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((6, 40)) * 1e3
    rows[3] = rows[1]
    expected = [sum(np.linalg.norm(one - two) for two in rows) for one in rows]
    np.testing.assert_allclose(fpgm([rows]), expected, rtol=1e-9)
    np.testing.assert_allclose(fpgm([np.ones((3, 5)) * np.pi]), 0, atol=1e-6)


def test_of_equal_channels_the_first_is_the_smaller_one() -> None:
    np.testing.assert_allclose(lamp([np.ones((3, 1))]), [1 / 3, 1 / 2, 1])
    np.testing.assert_array_equal(lamp([np.zeros((3, 2))]), 0)


def test_places() -> None:
    axis = np.array([0, 7, 3, 9, 7, 3, 0, 8])
    np.testing.assert_array_equal(places(axis, np.array([3, 7])), [[2, 5], [1, 4]])
    assert places(axis, np.array([4, 5])).shape == (2, 0)


@pytest.mark.parametrize("size", [1, 64, 1 << 20])
def test_long_rows_have_all_weights_of_a_channel_in_any_number_of_pieces(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", size)
    rng = np.random.default_rng(0)
    weights, scale = rng.standard_normal((6, 5, 2, 2)).astype(np.float32), rng.random(6)
    picked = np.array([[4, 0], [1, 5]])
    pieces = list(long_rows(weights, picked, scale))
    assert (len(pieces) > 1) == (size < 1 << 20)
    expected = np.square(weights * scale[:, None, None, None].astype(np.float64)).sum((1, 2, 3))[picked].sum(1)
    np.testing.assert_allclose(l2_norms(pieces) ** 2, expected)
    assert sum(piece.shape[1] for piece in pieces) == 2 * 5 * 4


def test_a_vector_has_rows_of_one_number() -> None:
    (piece,) = long_rows(np.array([2.0, -3.0]), np.array([[1], [0]]))
    np.testing.assert_array_equal(piece, [[-3], [2]])


def test_without_filters_the_columns_of_consumers_count_where_the_criterion_reads_them() -> None:
    weight = np.array([[3.0, 4.0], [0.0, 2.0]])
    group = GroupData("g", np.array([1, 2]), consumers=(ConsumerData(np.array([[0], [1]]), 2, lambda: weight),))
    np.testing.assert_allclose(L2().score(group), [5, 2])
    np.testing.assert_array_equal(L1().score(group), [1, 1])
