"""Coreset scores: how much a channel can contribute at worst."""

from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.allocation.select import reweighting
from onnxpfp.score.coreset import additive_bound, coreset_sensitivities, coreset_shares

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
    np.testing.assert_allclose(coreset_sensitivities(reach, [slices]), a["s_l1"], atol=2e-6)
    np.testing.assert_allclose(coreset_shares(reach, [slices]), (worst / worst.sum(1, keepdims=True)).max(0))


def test_several_consumers_take_the_maximum():
    both = coreset_shares(NORMS, [OUT[:1], OUT[1:]])
    np.testing.assert_array_equal(both, coreset_shares(NORMS, [OUT]))


def test_is_the_largest_share_of_an_output():
    s = coreset_shares(NORMS, [OUT])
    worst = np.abs(OUT[:, :, 0]) * [5, 1, 2, 1]
    np.testing.assert_allclose(s, (worst / worst.sum(axis=1, keepdims=True)).max(axis=0))
    assert 1.0 <= s.sum() <= 4.0


def test_does_not_depend_on_the_scale_of_a_consumer():
    plain = coreset_shares(NORMS, [OUT, 2 * OUT[::-1]])
    scaled = coreset_shares(3 * NORMS, [1e6 * OUT])
    np.testing.assert_allclose(plain, scaled)


def test_bounds_the_change_of_every_output():
    rng = np.random.default_rng(1)
    s = coreset_shares(NORMS, [OUT])
    worst = (np.abs(OUT[:, :, 0]) * [5, 1, 2, 1]).sum(axis=1)
    for _ in range(100):
        x, drop = rng.standard_normal(2), rng.random(4) < 0.5
        a = np.maximum(ROWS @ (x / np.linalg.norm(x)), 0)
        change = np.abs(OUT[:, drop, 0] @ a[drop])
        assert np.all(change <= s[drop].sum() * worst + 1e-12)


def test_dead_layer_gives_zeros():
    np.testing.assert_array_equal(coreset_shares(NONE, [OUT]), np.zeros(4))


@pytest.mark.shared
def test_the_fully_connected_oracle(oracles):
    a = {name: array(value) for name, value in oracles["A"].items() if name not in {"act"}}
    reach = np.linalg.norm(np.column_stack([a["W1"], a["b1"]]), axis=1)
    s = coreset_sensitivities(reach, [a["W2"][:, :, None]])
    np.testing.assert_allclose(s, a["s"], atol=1e-12)
    assert s.sum() == pytest.approx(float(a["t"]), abs=1e-12)
    factor = reweighting(np.bincount(a["draws"].astype(int), minlength=4), s / s.sum())
    keep = a["keep"].astype(int)
    np.testing.assert_array_equal(np.flatnonzero(factor), keep)
    np.testing.assert_allclose((a["W2"] * factor)[:, keep], a["W2_keep"], atol=1e-12)
    hidden = np.maximum(a["W1"] @ a["x"] + a["b1"], 0)
    np.testing.assert_allclose(a["W2"] @ hidden, a["z"], atol=1e-12)
    np.testing.assert_allclose((a["W2"] * factor) @ hidden, a["zhat"], atol=1e-12)


@pytest.mark.shared
def test_draws_are_unbiased_with_the_variance_of_the_oracle(oracles):
    a = oracles["A"]
    w, z = array(a["W2"]), array(a["z"])
    p, hidden = array(a["s"]) / a["t"], np.maximum(array(a["W1"]) @ array(a["x"]) + array(a["b1"]), 0)
    counts = np.random.default_rng(0).multinomial(4, p, 200_000)
    drawn = np.array([reweighting(row, p) for row in counts]) * hidden @ w.T
    # The standard error of a mean of 200,000 is 0.01, of a variance below 1 %.
    np.testing.assert_allclose(drawn.mean(0), z, atol=0.05)
    np.testing.assert_allclose(drawn.var(0), a["var_m4"], rtol=0.03)


def test_bounds_add_up_what_is_dropped_and_what_draws_may_miss():
    s, none = np.array([4.0, 3.0, 2.0, 1.0]), np.zeros(4, np.bool_)
    sure, drawn = np.array([True, False, False, False]), np.array([False, True, True, False])
    assert additive_bound(s, sure, none, 0, 5, 0.1) == 6.0
    expected = 1.0 + 5.0 * np.sqrt(2 * np.log(2 * 5 / 0.1) / 7)
    assert additive_bound(s, sure, drawn, 7, 5, 0.1) == pytest.approx(expected)
    assert additive_bound(s, ~none, none, 0, 5, 0.1) == 0.0
