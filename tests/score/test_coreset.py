from __future__ import annotations

import math

import numpy as np
import pytest

from onnxpfp.score.coreset import ACTIVATIONS, coreset_scores

ROWS = np.array([[3, 4], [1, 0], [0, 2], [0.6, 0.8]])
OUT = np.array([[1, -2, 0.5, 0], [-0.5, 1, 2, 3]])[:, :, None]


def array(node) -> np.ndarray:
    return np.asarray(node, dtype=np.float64)


@pytest.mark.shared
class TestOracles:
    def test_fully_connected(self, oracles):
        a = oracles["A"]
        s = coreset_scores(array(a["W1"]), array(a["b1"]), [array(a["W2"])[:, :, None]], a["act"], a["beta"])
        np.testing.assert_allclose(s, a["s"], atol=1e-12)
        assert s.sum() == pytest.approx(a["t"], abs=1e-12)

    @pytest.mark.parametrize("norm", ["l1", "l2", "max"])
    def test_conv(self, oracles, norm):
        a = oracles["A_conv"]
        rows = array(a["F"]).reshape(3, -1)
        slices = array(a["V"]).reshape(2, 3, -1)
        s = coreset_scores(rows, None, [slices], "relu", 1.0, norm)
        np.testing.assert_allclose(s, a[f"s_{norm}"], atol=2e-6)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(1.0, [0.148444, 0.226129, 0.286234, 0.339193]), (7.0, [0.125, 0.25, 0.25, 0.375])],
)
def test_tanh(beta, expected):
    s = coreset_scores(ROWS, None, [OUT], "tanh", beta)
    np.testing.assert_allclose(s / s.sum(), expected, atol=2e-6)


def test_relu_ranking_does_not_depend_on_beta():
    one, seven = (coreset_scores(ROWS, None, [OUT], "relu", b) for b in (1.0, 7.0))
    np.testing.assert_allclose(seven, 7 * one)


def test_bias_extends_the_norm():
    s = coreset_scores(ROWS, np.array([0, 0, -2, 1.0]), [OUT], "relu", 1.0)
    np.testing.assert_allclose(s, [5, 2, 5.656854, 4.242641], atol=2e-6)


def test_several_consumers_take_the_maximum():
    both = coreset_scores(ROWS, None, [OUT[:1], OUT[1:]], "relu", 1.0)
    np.testing.assert_array_equal(both, coreset_scores(ROWS, None, [OUT], "relu", 1.0))


@pytest.mark.parametrize("name", [a for a in ACTIVATIONS if a != "identity"])
def test_worst_case_is_reached_by_no_input(name):
    phi = {
        "relu": lambda u: np.maximum(u, 0),
        "leaky_relu": lambda u: np.where(u > 0, u, 0.2 * u),
        "tanh": np.tanh,
        "sigmoid": lambda u: 1 / (1 + np.exp(-u)),
        "silu": lambda u: u / (1 + np.exp(-u)),
        "gelu": np.vectorize(lambda u: 0.5 * u * (1 + math.erf(u / math.sqrt(2)))),
    }[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 2))
    x *= 1.5 / np.linalg.norm(x, axis=1, keepdims=True)
    worst = np.abs(OUT[:, :, 0] * phi(x @ ROWS.T)[:, None]).max(axis=(0, 1))
    s = coreset_scores(ROWS, None, [OUT], name, 1.5)
    assert np.all(worst <= s + 1e-12)
    assert np.all(worst >= 0.9 * s)  # and it is tight


def test_callable_activation():
    s = coreset_scores(ROWS, None, [OUT], np.sqrt, 1.0)
    np.testing.assert_allclose(s[1], 2.0)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_residual_stream_bounds_activations_before_and_after_the_sum(name):
    phi = ACTIVATIONS[name]
    f, g = np.array([[0.3, 0.4]]), np.array([[0.6], [0.0]]).T
    s = coreset_scores([f, g], [None, np.array([0.8])], [np.ones((1, 1, 1))], name, 1.0)
    before = phi(np.array([0.5])) + phi(np.array([1.0]))
    after = phi(np.array([1.5]))
    np.testing.assert_allclose(s, np.maximum(before, after))


class TestRelative:
    def test_is_the_largest_share_of_an_output(self):
        s = coreset_scores(ROWS, None, [OUT], "relu", 1.0, relative=True)
        worst = np.abs(OUT[:, :, 0]) * [5, 1, 2, 1]
        np.testing.assert_allclose(s, (worst / worst.sum(axis=1, keepdims=True)).max(axis=0))
        assert 1.0 <= s.sum() <= 4.0

    def test_does_not_depend_on_the_scale_of_a_consumer(self):
        plain = coreset_scores(ROWS, None, [OUT, 2 * OUT[::-1]], "relu", 1.0, relative=True)
        scaled = coreset_scores(ROWS, None, [1e6 * OUT], "relu", 3.0, relative=True)
        np.testing.assert_allclose(plain, scaled)

    def test_bounds_the_change_of_every_output(self):
        rng = np.random.default_rng(1)
        s = coreset_scores(ROWS, None, [OUT], "relu", 1.0, relative=True)
        worst = (np.abs(OUT[:, :, 0]) * [5, 1, 2, 1]).sum(axis=1)
        for _ in range(100):
            x, drop = rng.standard_normal(2), rng.random(4) < 0.5
            a = np.maximum(ROWS @ (x / np.linalg.norm(x)), 0)
            change = np.abs(OUT[:, drop, 0] @ a[drop])
            assert np.all(change <= s[drop].sum() * worst + 1e-12)

    def test_dead_layer_gives_zeros(self):
        s = coreset_scores(0 * ROWS, None, [OUT], "relu", 1.0, relative=True)
        np.testing.assert_array_equal(s, np.zeros(4))


def test_refuses_nonsense():
    with pytest.raises(ValueError, match="unknown activation 'swoosh'; known: relu"):
        coreset_scores(ROWS, None, [OUT], "swoosh", 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 producers but 1 biases"):
        coreset_scores([ROWS, ROWS], None, [OUT], "relu", 1.0)
