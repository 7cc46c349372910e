from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxpfp.allocation.op_latency import OpCounts, fit_op, fit_total

WIDTHS = np.array([64, 48, 40, 33, 17, 12, 7, 3], np.float64)


def counts(block: int = 1, others: np.ndarray | None = None) -> OpCounts:
    """What a 3x3 convolution does on a map of 10x10, of `others` to `WIDTHS` channels."""
    read = np.array([8, 60, 20, 33, 5, 50, 64, 40], np.float64) if others is None else others
    read, written = (np.ceil(each / block) * block for each in (read, WIDTHS))
    return OpCounts(100 * (read + written), 900 * read * written)


@given(*[st.floats(0, 1)] * 3)
def test_factors_of_exact_times_come_back(constant: float, per_element: float, per_mac: float) -> None:
    factors = 0.5 + constant, 1e-4 * per_element, 1e-6 * per_mac
    exact = counts()
    op = fit_op(factors[0] + factors[1] * exact.elements + factors[2] * exact.macs, {1: exact, 16: counts(16)})
    fitted = op.constant + op.per_element * exact.elements + op.per_mac * exact.macs
    assert fitted == pytest.approx(factors[0] + factors[1] * exact.elements + factors[2] * exact.macs, rel=1e-6)


def test_blocks_are_found_where_kernels_compute_them() -> None:
    ms = 0.01 + 1e-6 * counts(16).macs
    each = {block: counts(block) for block in (1, 8, 16, 32)}
    op = fit_op(ms, each)
    assert op.block == 16
    assert op.error < 1e-9
    assert fit_op(0.01 + 1e-6 * counts().macs, each).block == 1


def test_factors_are_never_negative() -> None:
    """Times that fall with the width, as those of noise do."""
    op = fit_op(1.0 / WIDTHS, {1: counts()})
    assert min(op.constant, op.per_element, op.per_mac) >= 0
    assert op.error > 0.1


def test_what_an_op_does_and_its_calls_are_scaled_apart() -> None:
    exact = counts()
    op = fit_op(0.5 + 1e-6 * exact.macs, {1: exact}).scaled(2, 3)
    assert (op.constant, op.per_mac) == pytest.approx((1.5, 2e-6))


def test_what_passes_between_ops_is_added() -> None:
    sums = np.array([4.0, 2.0, 1.0])
    assert fit_total(0.9 * sums + 0.3, sums) == pytest.approx((0.9, 0.3))
    assert fit_total(0.9 * sums - 0.1, sums)[1] == 0


def test_a_part_of_a_network_is_fitted_by_errors_of_the_whole() -> None:
    parts, sums, totals = np.array([4.0, 1.0, 0.1]), np.array([2.0, 0.5, 0.2]), np.array([10.0, 10.0, 0.1])
    # What is off by little of a long run says less than what is off by much of a short one.
    factor, constant = fit_total(parts, sums, totals)
    assert abs(factor * sums[2] + constant - parts[2]) < 0.05 * totals[2]
    exact = fit_total(2 * sums + 0.3, sums, totals)
    assert exact == pytest.approx((2.0, 0.3))
