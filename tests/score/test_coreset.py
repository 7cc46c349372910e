"""Coreset scores: how much a channel can contribute at worst."""

from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.score.coreset import coreset_scores, reach_of

ROWS = np.array([[3, 4], [1, 0], [0, 2], [0.6, 0.8]])
OUT = np.array([[1, -2, 0.5, 0], [-0.5, 1, 2, 3]])[:, :, None]
NORMS = np.linalg.norm(ROWS, axis=1)
NONE = np.zeros(4)


def array(node) -> np.ndarray:
    return np.asarray(node, dtype=np.float64)


@pytest.mark.shared
def test_reach_of_the_fully_connected_oracle(oracles):
    a = oracles["A"]
    reach = reach_of([np.linalg.norm(array(a["W1"]), axis=1)], [np.abs(array(a["b1"]))])
    s = (np.abs(array(a["W2"])) * reach).max(axis=0)
    np.testing.assert_allclose(s, a["s"], atol=1e-12)
    assert s.sum() == pytest.approx(a["t"], abs=1e-12)


@pytest.mark.shared
def test_shares_of_the_conv_oracle(oracles):
    a = oracles["A_conv"]
    reach = reach_of([np.linalg.norm(array(a["F"]).reshape(3, -1), axis=1)], [np.zeros(3)])
    slices = array(a["V"]).reshape(2, 3, -1)
    worst = np.abs(slices).sum(2) * reach
    np.testing.assert_allclose(worst.max(0), a["s_l1"], atol=2e-6)
    np.testing.assert_allclose(coreset_scores(reach, [slices]), (worst / worst.sum(1, keepdims=True)).max(0))


def test_bias_extends_the_norm():
    np.testing.assert_allclose(reach_of([NORMS], [np.array([0, 0, 2, 1.0])]), [5, 1, 2 * 2**0.5, 2**0.5])


def test_several_consumers_take_the_maximum():
    reach = reach_of([NORMS], [NONE])
    both = coreset_scores(reach, [OUT[:1], OUT[1:]])
    np.testing.assert_array_equal(both, coreset_scores(reach, [OUT]))


def test_worst_case_is_reached_by_no_input():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 2))
    x *= 1.5 / np.linalg.norm(x, axis=1, keepdims=True)
    worst = np.maximum(x @ ROWS.T, 0).max(axis=0)
    reach = 1.5 * reach_of([NORMS], [NONE])
    assert np.all(worst <= reach + 1e-12)
    assert np.all(worst >= 0.9 * reach)  # and it is tight


def test_residual_stream_adds_the_norms_of_its_producers():
    reach = reach_of([np.array([0.5]), np.array([0.6])], [np.zeros(1), np.array([0.8])])
    np.testing.assert_allclose(reach, [0.5 + 1.0])


def test_is_the_largest_share_of_an_output():
    s = coreset_scores(reach_of([NORMS], [NONE]), [OUT])
    worst = np.abs(OUT[:, :, 0]) * [5, 1, 2, 1]
    np.testing.assert_allclose(s, (worst / worst.sum(axis=1, keepdims=True)).max(axis=0))
    assert 1.0 <= s.sum() <= 4.0


def test_does_not_depend_on_the_scale_of_a_consumer():
    reach = reach_of([NORMS], [NONE])
    plain = coreset_scores(reach, [OUT, 2 * OUT[::-1]])
    scaled = coreset_scores(3 * reach, [1e6 * OUT])
    np.testing.assert_allclose(plain, scaled)


def test_bounds_the_change_of_every_output():
    rng = np.random.default_rng(1)
    s = coreset_scores(reach_of([NORMS], [NONE]), [OUT])
    worst = (np.abs(OUT[:, :, 0]) * [5, 1, 2, 1]).sum(axis=1)
    for _ in range(100):
        x, drop = rng.standard_normal(2), rng.random(4) < 0.5
        a = np.maximum(ROWS @ (x / np.linalg.norm(x)), 0)
        change = np.abs(OUT[:, drop, 0] @ a[drop])
        assert np.all(change <= s[drop].sum() * worst + 1e-12)


def test_dead_layer_gives_zeros():
    np.testing.assert_array_equal(coreset_scores(reach_of([NONE], [NONE]), [OUT]), np.zeros(4))
