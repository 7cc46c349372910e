"""Wanda: norm of the weights times norm of the data."""

from __future__ import annotations

import numpy as np

from onnxpfp.score.energy import wanda_shares


def test_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    weights, x = rng.standard_normal((6, 4, 3, 3)), rng.standard_normal((50, 6))
    scores = [np.linalg.norm(weights[c]) * np.linalg.norm(x[:, c]) for c in range(6)]
    np.testing.assert_allclose(wanda_shares(weights, np.square(x).sum(0)), np.array(scores) / sum(scores), rtol=1e-12)


def test_by_hand() -> None:
    # Norms 5 and 2 of the weights, 2 and 3 of the data.
    weights = np.array([[3.0, 4.0], [2.0, 0.0]], np.float32)
    np.testing.assert_allclose(wanda_shares(weights, np.array([4.0, 9.0])), [10 / 16, 6 / 16])


def test_nothing_comes_through_a_dead_layer() -> None:
    np.testing.assert_array_equal(wanda_shares(np.ones((3, 2)), np.zeros(3)), np.zeros(3))
