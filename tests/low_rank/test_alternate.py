"""The first op fitted with the second one fixed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxpfp.low_rank.alternate import fitted_first

Array = NDArray[np.float64]


def problem(groups: int, channels: int, taps: int, places: int, outputs: int, rank: int) -> dict[str, Array]:
    rng = np.random.default_rng(channels + places)
    size = channels * taps * places
    samples = rng.standard_normal((groups, 4 * size, size)) @ rng.standard_normal((groups, size, size))
    gram = samples.swapaxes(1, 2) @ samples / samples.shape[1]
    return {
        "first": rng.standard_normal((groups, rank, channels * taps)),
        "second": rng.standard_normal((groups, outputs, rank, places)),
        "gram": gram,
        "cross": rng.standard_normal((groups, outputs, size)) @ gram,
    }


def error(first: Array, second: Array, gram: Array, cross: Array) -> float:
    weights = np.einsum("gorb,grx->goxb", second, first).reshape(*cross.shape)
    return float((((weights @ gram) - 2 * cross) * weights).sum())


@pytest.mark.parametrize("places", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_error_falls(groups: int, places: int) -> None:
    given = problem(groups, 4, 2, places, 6, 3)
    better = fitted_first(**given)
    assert better.shape == given["first"].shape
    assert error(**{**given, "first": better}) < error(**given)


def test_with_one_place_it_is_the_least_error() -> None:
    """Then F = (H^T H)^-1 H^T B G^-1."""
    given = problem(1, 5, 3, 1, 8, 4)
    second = given["second"][..., 0]
    free = np.linalg.solve(given["gram"], given["cross"].swapaxes(1, 2)).swapaxes(1, 2)
    best = np.linalg.pinv(second) @ free
    least, before, found = (error(**{**given, "first": each}) for each in (best, given["first"], fitted_first(**given)))
    assert found - least < 1e-2 * (before - least)


def test_what_is_the_best_stays() -> None:
    given = problem(1, 4, 1, 3, 6, 2)
    for _ in range(50):
        given["first"] = fitted_first(**given)
    again = fitted_first(**given)
    np.testing.assert_allclose(again, given["first"], atol=1e-4 * np.abs(again).max())
