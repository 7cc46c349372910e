"""Energy: the mean share of a consumer's output energy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxpfp.score.energy import energy_shares


def test_against_the_outputs_of_each_channel_alone() -> None:
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((6, 4)), rng.standard_normal((50, 6))
    alone = np.array([np.square(np.outer(x[:, c], weight[c])).sum() for c in range(6)])
    np.testing.assert_allclose(energy_shares(weight, np.square(x).sum(0)), alone / alone.sum(), rtol=1e-12)


def test_kernel_taps_count_together() -> None:
    weight = np.array([[[1.0, 2.0]], [[3.0, 0.0]]])
    np.testing.assert_allclose(energy_shares(weight, np.array([2.0, 1.0])), [10 / 19, 9 / 19])


def test_nothing_comes_through_a_dead_layer() -> None:
    np.testing.assert_array_equal(energy_shares(np.zeros((3, 2)), np.ones(3)), np.zeros(3))


@given(st.integers(1, 8), st.floats(0.1, 10.0), st.integers(0, 1000))
def test_shares_sum_to_one_and_ignore_the_scale(channels: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, squares = rng.standard_normal((channels, 3)), rng.random(channels) + 0.01
    shares = energy_shares(weight, squares)
    np.testing.assert_allclose(shares.sum(), 1.0)
    np.testing.assert_allclose(energy_shares(scale * weight, squares / scale), shares)
