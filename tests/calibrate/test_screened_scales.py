"""Rows with sums of very different sizes: few candidates are left all the same, and shares stay what they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.drawn_readers import Array, Drawn
from support.equal_statistics import assert_same

from onnxpfp.calibrate.sensitivity import screening
from onnxpfp.calibrate.sensitivity.exact import Candidates, Exact
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays
from onnxpfp.calibrate.sensitivity.settings import Kernel
from onnxpfp.calibrate.sensitivity.sums import scaled
from onnxpfp.calibrate.sensitivity.tight_bound import ORDER, TightBound
from onnxpfp.linear.ops import LinearOp

FEW = 0.03
"""Of the pairs; 0.08 without scales, and 0.05 without a lower order."""


def reader(weight: Array, positions: int) -> LinearOp:
    outputs, inputs = weight.shape
    ids = np.arange(1, inputs + 1)
    return LinearOp("r", "conv", "y", (1, inputs, positions), 1, ids, weight[:, :, None], (1, outputs, positions))


def uneven(samples: int = 6, inputs: int = 24, outputs: int = 24, positions: int = 60) -> Drawn:
    """As behind a hard swish: negative entries saturate, some outputs hang on faint weights, others on few inputs."""
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    faint = np.abs(weight[:4])
    faint[:, ::2] *= np.float32(-1e-5)
    weight[:4] = faint
    weight[4] = np.abs(weight[4])
    weight[5:8, 3:] *= np.float32(1e-4)
    data = rng.standard_normal((samples, inputs, positions)).astype(np.float32) * 3
    data = data * np.clip(data + 3, 0, 6) / 6
    return Drawn((reader(weight, positions),), data)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many shares were computed, call by call."""
    counts: list[int] = []
    original = Exact.raise_to

    def counting(self: Exact, best: Any, seen: Any, candidates: Candidates, scratch: ScratchArrays) -> None:
        counts.append(len(candidates))
        original(self, best, seen, candidates, scratch)

    monkeypatch.setattr(Exact, "raise_to", counting)
    return counts


def test_a_few_rows_do_not_spoil_the_bounds(computed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TIGHT_COST", "_TIGHT_COST_PER_BLOCK", "_LOADING_COST"):
        monkeypatch.setattr(screening, name, 0.0)
    case = uneven()
    assert_same(case.measured("screened", "sum"), case.measured("plain", "sum"))
    # Both signs.
    assert sum(computed) < FEW * 2 * case.data.size


def test_the_order_is_lowered_where_powers_lose_too_much() -> None:
    # One row is faint everywhere: least over sums of the others to the power of 16 is no number of float32.
    norms = np.full((1, 6, 8), 0.5, np.float32)
    norms[0, :, 0] = 1e-6
    z = np.ones((1, 5, 1, 8), np.float32)
    z[..., 0] = 1e-3
    least = z.min(3)
    share = 0.5
    coarse = np.full((1, 5, 6), 0.5 / 1e-3 / (2 * share), np.float32)
    bound = TightBound(norms.shape, lambda: norms)
    excess = bound.excess(coarse, z, least, ScratchArrays()).copy()
    assert bound.order < ORDER
    # Half the limit, times the eighth root of seven equal terms.
    np.testing.assert_allclose(excess ** (1 / bound.order), 0.5 * 7 ** (1 / bound.order), rtol=1e-4)
    assert (excess <= 1).all()


def test_the_order_stays_where_nothing_is_lost() -> None:
    bound = TightBound((1, 6, 8), lambda: np.full((1, 6, 8), 0.5, np.float32))
    z = np.ones((1, 5, 1, 8), np.float32)
    bound.excess(np.full((1, 5, 6), 2, np.float32), z, z.min(3), ScratchArrays())
    assert bound.order == ORDER


@pytest.mark.parametrize("factor", [1e-20, 1e-3, 7.0, 1e18])
def test_scaled_weights_have_the_same_digits_whatever_is_expected(factor: float) -> None:
    op = uneven().ops[0]
    rng = np.random.default_rng(1)
    one = scaled(op, np.ones(24))
    two = scaled(op, rng.lognormal(0, 2, 24) * factor)
    assert (one.norm > 0).tolist() == (two.norm > 0).tolist()
    there = one.norm > 0
    exponents = np.log2(two.norm[there].astype(np.float64) / one.norm[there])
    np.testing.assert_array_equal(exponents, np.rint(exponents))
    digits = [np.frexp(each.signed)[0] for each in (one, two)]
    np.testing.assert_array_equal(*digits)


def test_an_empty_row_makes_no_sum_vanish() -> None:
    weights = scaled(uneven().ops[0], np.ones(24))
    filled = weights.without_empty_rows()
    empty = (weights.norm == 0).reshape(-1)
    assert empty.sum() == 1
    assert filled.any((0, 2)).all()
    np.testing.assert_array_equal(filled[:, ~empty], weights.signed[:, ~empty])


@pytest.mark.parametrize("kernel", ["sum", "max"])
@pytest.mark.parametrize("ids", [None, (1, 2, 3) * 8])
def test_uneven_rows_are_measured_as_by_the_plain_path(kernel: Kernel, ids: tuple[int, ...] | None) -> None:
    case = uneven()
    op = case.ops[0] if ids is None else replace(case.ops[0], channels=np.array(ids))
    case = Drawn((op,), case.data)
    assert_same(case.measured("screened", kernel), case.measured("plain", kernel))
