"""Ranks: least loss for the multiply-adds, against every combination; targets of energy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.drawn_readers import QUICK

from onnxpfp.low_rank.ranks import Choice, LayerCurves, RankCurve, least_macs, rank_for_energy, ranks_for_macs


def curve(cut: int, macs: int, *kept: float, step: int = 1) -> RankCurve:
    return RankCurve(cut, macs, 1.0 - np.array([0.0, *kept]), step)


ORACLE = LayerCurves(1000, (curve(2, 100, 16 / 26, 25 / 26, 1.0),))
"""Singular values 4, 3, 1."""


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (0.95, 2), (0.98, 3), (1.0, 3)])
def test_the_rank_of_an_energy(energy: float, rank: int) -> None:
    assert rank_for_energy(ORACLE, energy) == Choice(2, rank)


def test_an_energy_takes_the_cheaper_scheme_and_only_one_that_saves() -> None:
    layer = LayerCurves(250, (curve(1, 40, 0.5, 0.8, 0.99), curve(2, 100, 0.9, 0.97, 1.0)))
    assert rank_for_energy(layer, 0.5) == Choice(1, 1)
    assert rank_for_energy(layer, 0.9) == Choice(2, 1)
    assert rank_for_energy(layer, 0.98) == Choice(1, 3)
    # Rank 3 of the second scheme takes 300 of 250.
    assert rank_for_energy(layer, 0.995) is None


def test_only_multiples_of_the_step_are_taken() -> None:
    layer = LayerCurves(1000, (curve(2, 100, 0.5, 0.7, 0.9, 0.99, step=2),))
    assert rank_for_energy(layer, 0.6) == Choice(2, 2)
    assert rank_for_energy(layer, 0.8) == Choice(2, 4)
    assert least_macs(layer) == 200
    assert ranks_for_macs([layer], 399) == [Choice(2, 2)]


def test_what_the_budget_has_left_is_spent() -> None:
    """The hull leads from rank 4 to rank 1; rank 3 fits."""
    layer = LayerCurves(1000, (curve(2, 100, 0.9, 0.905, 0.91, 1.0),))
    assert ranks_for_macs([layer], 399) == [Choice(2, 3)]
    assert ranks_for_macs([layer], 400) == [Choice(2, 4)]


def test_a_budget_below_all_choices_has_none() -> None:
    assert ranks_for_macs([ORACLE], 99) is None
    assert ranks_for_macs([ORACLE], 100) == [Choice(2, 1)]
    assert ranks_for_macs([ORACLE], 1000) == [None]
    assert least_macs(ORACLE) == 100
    assert least_macs(LayerCurves(70, ())) == 70


def test_the_layer_that_loses_less_goes_first() -> None:
    robust, fragile = (LayerCurves(1000, (curve(2, 100, *kept),)) for kept in ((0.99, 1.0), (0.6, 1.0)))
    assert ranks_for_macs([fragile, robust], 400) == [Choice(2, 2), Choice(2, 2)]
    assert ranks_for_macs([fragile, robust], 300) == [Choice(2, 2), Choice(2, 1)]


LAYERS = st.lists(
    st.tuples(st.integers(20, 60), st.integers(1, 9), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5)),
    min_size=1,
    max_size=3,
)


@QUICK
@given(drawn=LAYERS, share=st.floats(0.1, 1.0))
def test_the_choice_is_near_the_best_of_all(drawn: list[tuple[int, int, list[float]]], share: float) -> None:
    layers = [LayerCurves(macs, (curve(0, unit, *sorted(kept)),)) for macs, unit, kept in drawn]
    budget = int(share * sum(layer.macs for layer in layers))
    options = [_choices(layer) for layer in layers]
    fitting = [
        (sum(loss for _, loss, _ in combination), [choice for *_, choice in combination])
        for combination in itertools.product(*options)
        if sum(macs for macs, *_ in combination) <= budget
    ]
    found = ranks_for_macs(layers, budget)
    assert (found is None) == (not fitting)
    if found is None:
        return
    chosen = [
        next(each for each in of_layer if each[2] == choice) for of_layer, choice in zip(options, found, strict=True)
    ]
    assert sum(macs for macs, *_ in chosen) <= budget
    # Greedy on a hull misses the best by less than the longest step of one layer.
    longest = max(loss for of_layer in options for _, loss, _ in of_layer)
    assert sum(loss for _, loss, _ in chosen) <= min(fitting, key=lambda each: each[0])[0] + longest + 1e-12


def _choices(layer: LayerCurves) -> list[tuple[int, float, Choice | None]]:
    cheaper = [(each, rank) for each in layer.curves for rank in each.ranks if rank * each.macs < layer.macs]
    return [
        (layer.macs, 0.0, None),
        *((rank * each.macs, -math.log(1.0 - each.errors[rank]), Choice(each.cut, rank)) for each, rank in cheaper),
    ]
