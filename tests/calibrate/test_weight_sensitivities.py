"""Sensitivities of single weights (SiPP): the definition, the oracle, and PFP's channels from them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.brute_shares import EPSILON
from support.drawn_readers import QUICK, Drawn, drawn, taps_of
from support.equal_statistics import assert_same

from onnxpfp.calibrate.runner import run_observers
from onnxpfp.calibrate.sensitivity import observer, weight_screening
from onnxpfp.calibrate.sensitivity.settings import Positions, SensitivitySettings
from onnxpfp.calibrate.sensitivity.weight_observer import WeightSensitivityObserver
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.families import op_families
from onnxpfp.linear.ops import LinearOp

Array = NDArray[Any]
FEW = settings(QUICK, max_examples=40)


def measured(case: Drawn, positions: Positions = "max", batch: int | None = None) -> WeightSensitivityObserver:
    (family,) = op_families(case.ops)
    watching = WeightSensitivityObserver(family, SensitivitySettings("max"), nonnegative=False, positions=positions)
    with np.errstate(over="ignore"):
        run_observers(case.model, [watching], case.samples, batch_size=batch, threads=1)
    return watching


def weight_scores(u: Array, op: LinearOp, *, mean: bool = False) -> Array:
    """The definition in float64: the largest share of every weight, V (C, O/g, k)."""
    taps = taps_of(op).astype(np.float64)
    inputs = u.shape[1] // op.group
    best = np.zeros(taps.shape)
    for sample, part, sign in itertools.product(range(len(u)), (1, -1), (1, -1)):
        a, w = np.maximum(part * u[sample], 0), np.maximum(sign * taps, 0)
        blocks = [slice(g * inputs, (g + 1) * inputs) for g in range(op.group)]
        z = [np.einsum("ciq,cqp->ip", w[b], a[b]) for b in blocks]
        limit = EPSILON * max(m.max() for m in z)
        for g, b in enumerate(blocks):
            inverse = np.where(z[g] > limit, 1 / np.where(z[g] > limit, z[g], 1), 0)
            shares = np.einsum("ciq,cqp,ip->ciqp", w[b], a[b], inverse)
            best[b] = np.maximum(best[b], shares.mean(3) if mean else shares.max(3))
    return best


@FEW
@given(drawn(), st.sampled_from([1, 3, None]))
def test_the_sensitivity_of_a_weight_is_what_the_definition_says(case: Drawn, batch: int | None) -> None:
    found, u = measured(case, batch=batch).weight_shares(), case.unfolded()
    for op in case.ops:
        shares = found[op.name]
        wanted = weight_scores(u, op)
        if shares is None:
            assert not op.channels.any() or not wanted.any()
        else:
            np.testing.assert_allclose(shares, wanted, rtol=3e-6, atol=1e-12)


@FEW
@given(drawn(), st.sampled_from([1, 3, None]))
def test_the_mean_over_positions_is_what_the_authors_take(case: Drawn, batch: int | None) -> None:
    found, u = measured(case, "mean", batch).weight_shares(), case.unfolded()
    if case.ops[0].kind == "matmul":
        # Rows of a matrix product are data points of their own.
        u = np.moveaxis(u, 3, 1).reshape(-1, *u.shape[1:3], 1)
    for op in case.ops:
        if (shares := found[op.name]) is not None and case.ops[0].kind != "matmul":
            np.testing.assert_allclose(shares, weight_scores(u, op, mean=True), rtol=1e-5, atol=1e-7)
        elif shares is not None:
            assert (shares >= weight_scores(u, op, mean=True) * (1 - 1e-5)).all()


@pytest.mark.parametrize(
    "constants",
    [{observer: {"_AT_ONCE": 1, "_PER_BLOCK": 1, "_AT_MOST": 1}, weight_screening: {"_PIECE": 1}},
     {weight_screening: {"_HELD": 1.0}}, {weight_screening: {"_BYTES": 1 << 40}}],
    ids=["a sample and a weight at a time", "no bound", "an entry at a time"],
)  # fmt: skip
def test_what_is_only_a_matter_of_speed_changes_no_weight(constants: dict[Any, dict[str, float]]) -> None:
    @FEW
    @given(drawn(most_samples=6))
    def check(case: Drawn) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for module, values in constants.items():
                for name, value in values.items():
                    patch.setattr(module, name, value)
            slow = measured(case).weight_shares()
        fast = measured(case).weight_shares()
        for op in case.ops:
            one, two = slow[op.name], fast[op.name]
            assert (one is None) == (two is None)
            if one is not None and two is not None:
                np.testing.assert_allclose(one, two, rtol=1e-6)

    check()


@FEW
@given(drawn())
def test_the_largest_weight_of_a_channel_is_pfp_over_single_entries(case: Drawn) -> None:
    found: Statistics = measured(case).statistics()
    assert_same(found, case.measured("screened", "max"), rtol=3e-6)


def test_the_oracle() -> None:
    weight = np.array([[1, -2, 0.5, 0], [-0.5, 1, 2, 3]], np.float32).T
    data = np.array([[5, 0.6, 1.6, 1], [1, 2, 0, 1]], np.float32)
    ops = (LinearOp("r0", "matmul", "y", (1, 4), 1, np.arange(1, 5), weight, (1, 2)),)
    case = Drawn(ops, data)
    shares = measured(case).weight_shares()["r0"]
    assert shares is not None
    np.testing.assert_allclose(shares[:, :, 0].T, [[1, 1, 0.137931, 0], [1, 0.4, 0.470588, 0.6]], atol=2e-6)
    samples = load_samples(data, input_specs(case.model))
    assert len(samples) == 2
