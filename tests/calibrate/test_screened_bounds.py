"""What everything rests on: no share is above its bound, and what is computed of a share is the share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drawn_readers import QUICK, Array, Drawn, blocks_of, drawn, every_share

from onnxpfp.calibrate.observer import Batch
from onnxpfp.calibrate.sensitivity import exact as exact_module
from onnxpfp.calibrate.sensitivity.exact import Candidates
from onnxpfp.calibrate.sensitivity.observer import SensitivityObserver
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays
from onnxpfp.calibrate.sensitivity.screening import Screening
from onnxpfp.calibrate.sensitivity.settings import Kernel, SensitivitySettings
from onnxpfp.calibrate.sensitivity.sums import SumField
from onnxpfp.calibrate.sensitivity.tight_bound import TightBound
from onnxpfp.linear.families import op_families
from onnxpfp.linear.ops import LinearOp

KERNELS = st.sampled_from(["sum", "max"])
MANY = settings(QUICK, max_examples=100)
SLACK = 1e-5
"""What rounding may take from a bound: as much as the screening allows for."""
SUBNORMAL = 1e-41


@dataclass(frozen=True)
class Seen:
    """One linear op, one sign of its input: what the screening has, and every share by the definition, (S, P, b).

    `groups` are the convolution groups of the blocks, (b,).
    """

    screen: Screening
    field: SumField
    shares: Array
    groups: list[int]


def seen(case: Drawn, kernel: Kernel) -> Iterator[Seen]:
    """Let an observer see a batch, and listen."""
    (family,) = op_families(case.ops)
    observer = SensitivityObserver(family, SensitivitySettings(kernel), nonnegative=False)
    heard: list[tuple[Screening, SumField]] = []
    original = Screening.see

    def listen(screen: Screening, field: SumField, *args: Any, **options: Any) -> None:
        original(screen, field, *args, **options)
        # The next part of the data lies in the same memory.
        arrays = {name: getattr(field, name).copy() for name in ("x", "magnitudes", "z", "least")}
        heard.append((screen, replace(field, **arrays)))

    unfolded = case.unfolded()
    # Several samples would be cut into pieces, unless they are the positions.
    parts = [slice(None)] if family.samples_last else [slice(n, n + 1) for n in range(len(case.data))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Screening, "see", listen)
        for part in parts:
            data = case.data[part]
            observer.see({family.lead.data: data.T if case.first else data}, Batch(0, len(data)))
            for op in (op for op in case.ops if op.channels.any()):
                fields = [(screen, field) for screen, field in heard if screen.exact.op is op]
                for sign, (screen, field) in zip(_signs(unfolded[part], len(fields)), fields, strict=True):
                    shares = every_share(np.maximum(sign * unfolded[part], 0), op, kernel)
                    groups = [block.group for block in blocks_of(op, kernel)]
                    yield Seen(screen, field, np.swapaxes(shares, 0, 1) if family.samples_last else shares, groups)
            heard.clear()


def _signs(unfolded: Array, parts: int) -> list[int]:
    """Tell which sign every part of the data has that was screened; one without entries may be left out."""
    if parts == 2:
        return [1, -1]
    there = [sign for sign in (1, -1) if (sign * unfolded > 0).any()]
    return there or [1] * parts


def coarse(one: Seen) -> Array:
    """The first bound without the weights, (S, P, b)."""
    with np.errstate(over="ignore", invalid="ignore"):
        inverse = 1 / one.field.least
        return one.screen._of_blocks(one.field.magnitudes) * inverse[:, :, one.screen.exact.blocks.groups]


def assert_coarse(one: Seen) -> None:
    there = one.shares > 0
    bound = coarse(one).astype(np.float64) * one.screen.magnitude
    assert (bound[there] >= one.shares[there] * (1 - SLACK)).all()


@MANY
@given(drawn(most_samples=2), KERNELS)
def test_no_share_is_above_the_coarse_bound(case: Drawn, kernel: Kernel) -> None:
    for one in seen(case, kernel):
        assert_coarse(one)


@MANY
@given(drawn(most_samples=2), KERNELS)
def test_no_share_is_above_the_tight_bound(case: Drawn, kernel: Kernel) -> None:
    for one in seen(case, kernel):
        assert_tight(one)


def assert_tight(one: Seen) -> None:
    """Take every position's own share for the best so far: it must stay a candidate."""
    if one.screen.tight is None:
        return
    there = one.shares > 0
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        limit = np.where(there, one.shares / one.screen.magnitude, np.inf).astype(np.float32)
        relative = np.ascontiguousarray(coarse(one) / limit)
        excess = one.screen.tight.excess(relative, one.field.z, one.field.least, ScratchArrays())
    assert not np.isnan(excess[there]).any()
    assert (excess[there] >= (1 - SLACK) ** one.screen.tight.order).all()


def largest(one: Seen, found: Candidates) -> np.ndarray:
    best = np.zeros_like(one.screen.best)
    one.screen.exact.raise_to(best, one.field, found, ScratchArrays())
    return best


@MANY
@given(drawn(most_samples=2), KERNELS)
def test_a_candidate_gets_its_share(case: Drawn, kernel: Kernel) -> None:
    for one in seen(case, kernel):
        blocks = one.shares.shape[2]
        places = one.shares.reshape(-1, blocks)
        for place, wanted in enumerate(places):
            found = Candidates(np.full(blocks, place), np.arange(blocks), np.ones(blocks, np.float32), 1)
            np.testing.assert_allclose(largest(one, found), wanted, rtol=3e-6, atol=1e-37)


@MANY
@given(drawn(most_samples=2), KERNELS, st.integers(0, 2**32 - 1))
def test_of_several_candidates_the_largest_counts(case: Drawn, kernel: Kernel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for one in seen(case, kernel):
        places = one.shares.reshape(-1, one.shares.shape[2])
        chosen = rng.random(places.shape) < 0.5
        place, block = np.nonzero(chosen)
        found = Candidates(place, block, np.ones(len(place), np.float32), 1).sorted()
        wanted = np.where(chosen, places, 0).max(0)
        np.testing.assert_allclose(largest(one, found), wanted, rtol=3e-6, atol=1e-37)


@MANY
@given(drawn(most_samples=2), KERNELS)
def test_shares_are_the_same_to_the_bit_where_both_signs_are_made_when_looked_up(case: Drawn, kernel: Kernel) -> None:
    found: list[list[Array]] = []
    for most in (exact_module._LARGE, -1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exact_module, "_LARGE", most)
            screens = [(one.screen.exact, one.screen.best.copy()) for one in seen(case, kernel)]
        assert all(exact.signed == (most > 0 and exact.entries > 1) for exact, _ in screens)
        found.append([best for _, best in screens])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_that_underflow_in_a_power_lose_no_bound() -> None:
    norms = np.array([[[1, 1e-3, 0], [SUBNORMAL, 1e-38, 1], [1e-20, 0, 1e-42]]], np.float32)
    z = np.array([[[[1, 1e-3, 1e-6]]], [[[1e-6, 1, 1e-3]]], [[[np.inf, 2, 1e-30]]]], np.float32)
    least = z.min(3)
    share = (norms[0] / z[:, :, 0, None, :]).max(3)
    size = np.float32(1) / least
    limit = share / norms[0].max(1)
    with np.errstate(over="ignore", under="ignore"):
        bound = TightBound(norms.shape, lambda: norms)
        excess = bound.excess((size / limit).astype(np.float32), z, least, ScratchArrays())
    assert (excess >= (1 - SLACK) ** bound.order).all()


def test_a_position_without_sums_has_no_candidates() -> None:
    z = np.full((1, 1, 1, 4), np.inf, np.float32)
    with np.errstate(invalid="ignore"):
        excess = TightBound((1, 2, 4), lambda: np.ones((1, 2, 4), np.float32)).excess(
            np.zeros((1, 1, 2), np.float32), z, z.min(3), ScratchArrays()
        )
    assert not (excess > 1).any()


@pytest.mark.parametrize("kernel", ["sum", "max"])
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("ids", [(1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 1, 2)])
def test_subnormal_and_tiny_weights_and_zeros(ids: tuple[int, ...], taps: int, kernel: Kernel) -> None:
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((4, 6, taps)).astype(np.float32)
    weight[:, 0] *= np.float32(SUBNORMAL)
    weight[:, 1] = 0
    weight[:2, 2] *= np.float32(1e-30)
    weight[:, 3] *= np.float32(1e-25)
    data = rng.standard_normal((4, 6, 5)).astype(np.float32)
    data[rng.random(data.shape) < 0.3] = 0
    data[0, 1:] = 0
    data[1, :3], data[1, 4:] = 0, 0
    op = LinearOp("r", "conv", "y", (1, 6, 5), 1, np.array(ids), weight, (1, 4, 6 - taps))
    found = list(seen(Drawn((op,), data), kernel))
    # The first two samples have only what such weights make.
    assert sum((one.shares == 1).any() for one in found) >= 2
    for one in found:
        assert_coarse(one)
        assert_tight(one)
