"""Screened sensitivities are the plain ones, whatever is read and however the work is cut."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.brute_shares import as_dict, scores
from support.drawn_readers import (
    QUICK,
    Drawn,
    convolutions,
    drawn,
    pointwise,
    products,
    taps_of,
    transposed_convolutions,
)
from support.equal_statistics import assert_same

from onnxpfp.calibrate.sensitivity import exact, guard, observer, screening, tight_bound
from onnxpfp.calibrate.sensitivity.settings import Kernel

KERNELS = st.sampled_from(["sum", "max"])
FEW = settings(QUICK, max_examples=25)
"""Every example opens several sessions."""
FREE = {"_TIGHT_COST": 0.0, "_TIGHT_COST_PER_BLOCK": 0.0, "_LOADING_COST": 0.0}
WAYS: dict[str, dict[Any, dict[str, float]]] = {
    "one sample and one candidate at a time": {
        observer: {"_AT_ONCE": 1, "_PER_BLOCK": 1, "_AT_MOST": 1},
        exact: {"_PIECE": 1},
    },
    "always the tight bound": {screening: {**FREE}},
    "the tight bound in two steps": {screening: {**FREE, "_FEW": 0, "_RISING": float("inf")}},
    "never the tight bound, in two steps": {
        screening: {"_TIGHT_COST": float("inf"), "_FEW": 0, "_RISING": float("inf")}
    },
    "the tight bound of lower order": {screening: {**FREE}, tight_bound: {"_SPOILED": float("inf")}},
    "small sums looked at one by one": {guard: {"_FAINT": 0, "_MANY": 0}},
    "all sums looked at where one is small": {guard: {"_FAINT": float("inf")}},
}
"""Constants that only say what is fastest."""


@contextmanager
def tuned(way: str) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, constants in WAYS[way].items():
            for name, value in constants.items():
                patch.setattr(module, name, value)
        yield


KINDS = {"conv": convolutions(), "pointwise": pointwise(), "up": transposed_convolutions(), "matmul": products()}


@pytest.mark.parametrize("kind", KINDS)
def test_screened_is_plain(kind: str) -> None:
    @FEW
    @given(drawn(KINDS[kind]), KERNELS, st.sampled_from([1, 3, None]))
    def check(case: Drawn, kernel: Kernel, batch: int | None) -> None:
        found = case.measured("screened", kernel, batch_size=batch)
        assert_same(found, case.measured("plain", kernel))

    check()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_only_a_matter_of_speed_changes_nothing(way: str) -> None:
    @FEW
    @given(drawn(most_samples=6), KERNELS)
    def check(case: Drawn, kernel: Kernel) -> None:
        with tuned(way):
            found = case.measured("screened", kernel)
        assert_same(found, case.measured("plain", kernel))

    check()


@QUICK
@given(drawn(), KERNELS)
def test_screened_is_what_the_definition_says(case: Drawn, kernel: Kernel) -> None:
    found = case.measured("screened", kernel)
    u = case.unfolded()
    for op in case.ops:
        wanted = scores(u, taps_of(op), op, kernel)
        assert as_dict(found[op.name]) == pytest.approx(wanted, rel=3e-6, abs=0)
        assert found[op.name].negative == bool((case.data < 0).any())
        assert found[op.name].patches == u.shape[0] * u.shape[3]
        scale = np.abs(u).max()
        np.testing.assert_allclose(found[op.name].patch_sum, u.sum((0, 3)), rtol=1e-5, atol=1e-5 * scale)
