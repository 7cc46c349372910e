"""Numbers that are infinite or NaN: equal ones are no difference, what is unlike counts like a missing number."""

from __future__ import annotations

import nets
import numpy as np
import pytest

from onnxpfp.comparison.drift import Drift, DriftSums
from onnxpfp.comparison.equivalence import _difference  # pyright: ignore[reportPrivateUsage]
from onnxpfp.comparison.finite import BLOCK, Gap, same_largest, squared_size
from onnxpfp.comparison.metrics import divergence

INF, NAN = np.inf, np.nan


def array(*numbers: float) -> nets.Array:
    return np.array([numbers], np.float32)


def drift(original: nets.Array, pruned: nets.Array) -> Drift:
    sums = DriftSums()
    for a, b in zip(np.split(original, len(original)), np.split(pruned, len(pruned)), strict=True):
        sums.add(len(a), {"y": a}, {"y": b})
    return sums.drift(len(original), held_out=True)


@pytest.mark.parametrize("same", [INF, -INF, NAN])
def test_equal_ones_are_no_difference(same: float) -> None:
    a, b = array(3, same, 4), array(3, same, 4.5)
    assert Gap.between(a, b) == Gap(0.25, 25, 2, 1, 0, 0)
    found = drift(a, b)
    assert found.relative_error == pytest.approx(0.1)
    assert (found.not_finite, found.lost, found.gained) == (1, 0, 0)
    assert drift(a, a).relative_error == 0.0
    assert divergence([{"y": a}], [{"y": a}]) == 0
    assert _difference("y", a, b) == pytest.approx(0.125)
    assert _difference("y", a, a) == 0


@pytest.mark.parametrize("lost", [INF, -INF, NAN])
def test_a_number_that_the_pruned_model_has_not_counts_like_one_that_is_missing(lost: float) -> None:
    a, b = array(3, 3, 3, -3), array(3, 3, lost, -3)
    found = drift(a, b)
    # One in four of the same size is missing: sqrt(9 / 36).
    assert found.relative_error == pytest.approx(0.5)
    assert (found.not_finite, found.lost, found.gained) == (0, 1, 0)
    # It does so where the number is zero, too.
    assert drift(array(3, 3, 0, -3), b).relative_error == pytest.approx(0.5)
    assert _difference("y", a, b) == np.inf
    a3, b3 = (np.repeat(x[None], 2, 0) for x in (a, b))
    assert divergence([{"y": a3}], [{"y": b3}]) == pytest.approx(0.25)


@pytest.mark.parametrize(("was", "now"), [(INF, 1.0), (-INF, 1.0), (NAN, 1.0), (INF, -INF), (INF, NAN), (NAN, -INF)])
def test_so_does_something_else_in_the_place_of_an_infinity(was: float, now: float) -> None:
    found = drift(array(1, 1, 1, was), array(1, 1, 1, now))
    assert found.relative_error == pytest.approx(0.5)
    assert (found.not_finite, found.lost, found.gained) == (1, 0, 1)


def test_outputs_without_any_finite_number() -> None:
    nothing = array(NAN, INF)
    assert drift(nothing, nothing).relative_error == 0.0
    assert drift(nothing, nothing).not_finite == 2
    assert drift(nothing, array(NAN, 1)).relative_error == 1.0
    assert drift(nothing, array(0, 1)).relative_error == 1.0


def test_gaps_add_up_and_another_shape_is_as_far_off_as_if_all_were_missing() -> None:
    a, b = nets.noise(6, 4), nets.noise(6, 4, seed=2)
    b[0, 0], a[3, 3] = NAN, INF
    whole, parts = Gap.between(a, b), Gap.between(a[:2], b[:2]) + Gap.between(a[2:], b[2:])
    assert parts.relative_square == pytest.approx(whole.relative_square)
    assert (parts.lost, parts.gained, parts.not_finite) == (whole.lost, whole.gained, whole.not_finite) == (1, 1, 1)
    assert Gap.between(a, b[:2]).relative_square == pytest.approx(1.0)


def test_finite_numbers_are_measured_as_ever() -> None:
    a, b = nets.noise(6, 4), nets.noise(6, 4, seed=2)
    expected = np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(a.astype(np.float64))
    assert drift(a, b).relative_error == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_known_size_gives_the_same_but_for_rounding(kind: type[np.floating]) -> None:
    a, b = (nets.noise(3, BLOCK, seed=seed).astype(kind) for seed in (1, 2))
    whole, known = Gap.between(a, b), Gap.between(a, b, squared_size(a))
    assert (known.size, known.finite) == (whole.size, whole.finite)
    assert known.square == pytest.approx(whole.square, rel=1e-9)


def test_a_known_size_hides_no_number_that_is_not_finite() -> None:
    a, b = nets.noise(6, 4), nets.noise(6, 4, seed=2)
    b[0, 0], a[3, 3] = NAN, INF
    assert Gap.between(a, b, squared_size(a)) == Gap.between(a, b)
    large = np.full(4, np.finfo(np.float32).max)
    assert Gap.between(large, -large, squared_size(large)) == Gap.between(large, -large)


def test_the_largest_class_is_sought_among_the_numbers() -> None:
    original = np.array([[1, 2, -INF], [NAN, 2, 1], [NAN, NAN, NAN], [3, 2, 1], [1, INF, 2]])
    other = np.array([[1, 3, -INF], [NAN, 2, 1], [NAN, NAN, NAN], [NAN, NAN, NAN], [1, INF, 3]])
    agree, votes = same_largest(original, other)
    assert agree[votes].tolist() == [True, True, False, True]
    assert votes.tolist() == [True, True, False, True, True]
    found = drift(original, other)
    assert found.top1_agreement == 0.75
    assert drift(original[2:3], other[2:3]).top1_agreement is None


def test_classes_that_are_ruled_out_say_nothing() -> None:
    a, b = nets.noise(20, 5), nets.noise(20, 5, seed=2)
    plain = divergence([{"y": a}], [{"y": b}])
    for value in (-INF, INF, NAN):
        column = np.full((20, 1), value)
        wide = [np.hstack([scores, column]) for scores in (a, b)]
        assert divergence([{"y": wide[0]}], [{"y": wide[1]}]) == pytest.approx(plain, rel=1e-6)
        for temperature in (1.0, 4.0):
            assert np.isfinite(divergence([{"y": wide[0]}], [{"y": np.hstack([b, a[:, :1]])}], temperature))


def test_a_class_that_the_other_rules_out_is_far_but_no_infinity() -> None:
    a = np.zeros((1, 2), np.float32)
    b = array(0, -INF)
    # Half of the probability at one in 1e12.
    assert divergence([{"y": a}], [{"y": b}]) == pytest.approx(0.5 * np.log(1e12) - np.log(2), rel=1e-3)
    assert divergence([{"y": b}], [{"y": a}]) == pytest.approx(np.log(2), rel=1e-6)


def test_samples_that_turn_into_nan_are_as_far_off_as_a_guess() -> None:
    a = nets.noise(4, 5)
    b = a.copy()
    b[1] = NAN
    assert divergence([{"y": a}], [{"y": b}]) == pytest.approx(np.log(5) / 4)
    assert divergence([{"y": b}], [{"y": a}]) == pytest.approx(np.log(5) / 4)
    assert divergence([{"y": b}], [{"y": b}]) == 0


def test_whole_numbers_of_which_there_are_none_are_alike() -> None:
    sums = DriftSums()
    some, none = np.zeros((4, 3), np.int64), np.zeros((4, 0), np.int64)
    for wanted, given in ((none, none), (some, some), (none, none), (some, none)):
        sums.add(1, {"n": wanted}, {"n": given})
    assert sums.drift(4, held_out=True).differing == pytest.approx(0.25)


def test_sums_of_blocks_are_those_of_the_whole() -> None:
    one, other = nets.noise(3, BLOCK + 7), nets.noise(3, BLOCK + 7, seed=1)
    gap = Gap.between(one, other)
    exact, its = one.astype(np.float64), other.astype(np.float64)
    assert (gap.square, gap.size) == pytest.approx((np.square(exact - its).sum(), np.square(exact).sum()))
    other[-1, -1] = np.nan
    assert Gap.between(one, other).lost == 1
