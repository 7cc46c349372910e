"""The table of baselines."""

from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.score.baselines import BASELINES, chance, mean_scale

NEEDS = {
    "l1": "weights",
    "l2": "weights",
    "fpgm": "weights",
    "lamp": "weights",
    "bn-scale": "weights",
    "random": "nothing",
    "wanda": "squares",
    "hrank": "maps",
    "apoz": "maps",
    "chip": "maps",
    "thinet": "columns",
}


def test_table() -> None:
    assert {name: baseline.needs for name, baseline in BASELINES.items()} == NEEDS
    assert all(name == baseline.name for name, baseline in BASELINES.items())


@pytest.mark.parametrize("name", NEEDS)
def test_what_needs_data_says_so(name: str) -> None:
    assert BASELINES[name].needs_data == (NEEDS[name] in {"squares", "maps", "columns"})


def test_the_scale_is_the_mean_magnitude_over_all_normalizations() -> None:
    one, two = np.array([[1.0], [-2.0]]), np.array([[3.0, -5.0], [0.0, 4.0]])
    np.testing.assert_allclose(mean_scale(2, [one, two]), [3, 2])
    assert np.isnan(mean_scale(2, [])).all()


def test_chance_follows_its_generator() -> None:
    one, again, other = (chance(50, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()
    assert 0 <= one.min() < 0.2 < 0.8 < one.max() < 1
