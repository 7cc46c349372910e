"""Coreset scores: how much a channel can contribute at worst."""

from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.score.coreset import coreset_scores

ROWS = np.array([[3, 4], [1, 0], [0, 2], [0.6, 0.8]])
OUT = np.array([[1, -2, 0.5, 0], [-0.5, 1, 2, 3]])[:, :, None]
NORMS = np.linalg.norm(ROWS, axis=1)
NONE = np.zeros(4)


def array(node) -> np.ndarray:
    return np.asarray(node, dtype=np.float64)


@pytest.mark.shared
def test_shares_of_the_conv_oracle(oracles):
    a = oracles["A_conv"]
    reach = np.linalg.norm(array(a["F"]).reshape(3, -1), axis=1)
    slices = array(a["V"]).reshape(2, 3, -1)
    worst = np.abs(slices).sum(2) * reach
    np.testing.assert_allclose(worst.max(0), a["s_l1"], atol=2e-6)
    np.testing.assert_allclose(coreset_scores(reach, [slices]), (worst / worst.sum(1, keepdims=True)).max(0))


def test_several_consumers_take_the_maximum():
    both = coreset_scores(NORMS, [OUT[:1], OUT[1:]])
    np.testing.assert_array_equal(both, coreset_scores(NORMS, [OUT]))


def test_is_the_largest_share_of_an_output():
    s = coreset_scores(NORMS, [OUT])
    worst = np.abs(OUT[:, :, 0]) * [5, 1, 2, 1]
    np.testing.assert_allclose(s, (worst / worst.sum(axis=1, keepdims=True)).max(axis=0))
    assert 1.0 <= s.sum() <= 4.0


def test_does_not_depend_on_the_scale_of_a_consumer():
    plain = coreset_scores(NORMS, [OUT, 2 * OUT[::-1]])
    scaled = coreset_scores(3 * NORMS, [1e6 * OUT])
    np.testing.assert_allclose(plain, scaled)


def test_bounds_the_change_of_every_output():
    rng = np.random.default_rng(1)
    s = coreset_scores(NORMS, [OUT])
    worst = (np.abs(OUT[:, :, 0]) * [5, 1, 2, 1]).sum(axis=1)
    for _ in range(100):
        x, drop = rng.standard_normal(2), rng.random(4) < 0.5
        a = np.maximum(ROWS @ (x / np.linalg.norm(x)), 0)
        change = np.abs(OUT[:, drop, 0] @ a[drop])
        assert np.all(change <= s[drop].sum() * worst + 1e-12)


def test_dead_layer_gives_zeros():
    np.testing.assert_array_equal(coreset_scores(NONE, [OUT]), np.zeros(4))
