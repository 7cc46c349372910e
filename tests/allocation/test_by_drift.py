"""Widths from curves: within the budget, no worse than brute force by much, and fast."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from onnxpfp.allocation.by_drift import POWER, ResponseCurve, allocate_by_drift, foreseen_drift
from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.widths import grid, widths_of
from onnxpfp.errors import TargetUnreachableError


def chain(sizes: list[int], seed: int = 0) -> CostModel:
    """Layers one behind another: every term is a product of two widths that follow each other."""
    count = len(sizes)
    per = np.zeros((count + 1, count), np.int64)
    per[np.arange(1, count + 1), np.arange(count)] = 1
    fixed = np.zeros(count + 1, np.int64)
    fixed[0] = 1
    terms = np.array([(axis, (axis + 1) % (count + 1)) for axis in range(count + 1)])
    return CostModel(fixed, per, terms, np.random.default_rng(seed).integers(1, 50, len(terms)))


def curve(size: int, drift: float, step: int = 1, power: float = 2.0) -> ResponseCurve:
    measured = grid(size, step, 1)
    return ResponseCurve.of(size, step, 1, measured, (drift * (1 - measured / size) ** power).tolist())


def drift_of(curves: list[ResponseCurve], kept: np.ndarray) -> float:
    return sum(float(c.drift[np.searchsorted(c.widths, n)]) for c, n in zip(curves, kept, strict=True))


def test_a_curve_goes_through_what_was_measured_and_never_rises() -> None:
    measured = np.array([2, 4, 6])
    found = ResponseCurve.of(8, 1, 2, measured, [3.0, 5.0, 1.0])
    assert found.widths.tolist() == [2, 3, 4, 5, 6, 7, 8]
    # 3 at width 2 was noise: width 4, with more channels, drifts by 5.
    np.testing.assert_allclose(found.drift[[0, 2, 4, 6]], [5, 5, 1, 0], rtol=1e-5, atol=1e-5)
    assert (np.diff(found.drift) <= 0).all()


def test_a_curve_without_any_measurement_has_one_width() -> None:
    found = ResponseCurve.of(1, 1, 1, np.empty(0, np.int64), [])
    assert found.widths.tolist() == [1]
    assert found.drift.tolist() == [0.0]


@pytest.mark.parametrize("target", [0.9, 0.7, 0.5, 0.3])
@pytest.mark.parametrize("step", [1, 4])
def test_the_target_is_met_and_no_further_step_fits(target: float, step: int) -> None:
    sizes = [16, 32, 24, 8]
    cost, curves = chain(sizes), [curve(size, 1.0 + n, step) for n, size in enumerate(sizes)]
    kept = allocate_by_drift(curves, cost, target)
    budget = target * cost.total(np.array(sizes))
    assert cost.total(kept) <= budget
    for group, size in enumerate(sizes):
        allowed = widths_of(size, step, 1)
        assert kept[group] in allowed
        wider = allowed[allowed > kept[group]]
        if wider.size:
            trial = kept.copy()
            trial[group] = wider[0]
            assert cost.total(trial) > budget


@pytest.mark.parametrize("seed", range(6))
def test_the_drift_is_close_to_the_best_there_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 9, 3).tolist()
    cost = chain(sizes, seed)
    curves = [curve(size, float(rng.exponential()), power=float(rng.uniform(1.5, 3))) for size in sizes]
    budget = 0.6 * cost.total(np.array(sizes))
    choices = (np.array(kept) for kept in itertools.product(*(range(1, size + 1) for size in sizes)))
    best = min(drift_of(curves, kept) for kept in choices if cost.total(kept) <= budget)
    assert drift_of(curves, allocate_by_drift(curves, cost, 0.6)) <= 1.35 * best + 1e-9


def test_what_drifts_less_is_narrowed_more() -> None:
    # Two branches that cost the same.
    cost = CostModel(
        np.array([1, 0, 0]), np.array([[0, 0], [1, 0], [0, 1]]), np.array([[1, 0], [2, 0]]), np.array([5, 5])
    )
    kept = allocate_by_drift([curve(32, 10.0), curve(32, 0.1)], cost, 0.6)
    assert kept[1] < kept[0]


def test_a_group_that_costs_nothing_stays_whole() -> None:
    cost = CostModel(np.array([1, 0, 0]), np.array([[0, 0], [1, 0], [0, 1]]), np.array([[1, 0]]), np.array([5]))
    assert allocate_by_drift([curve(16, 1.0), curve(16, 0.0)], cost, 0.5).tolist() == [8, 16]


def test_a_flat_stretch_is_crossed_at_once_where_what_lies_behind_is_cheap() -> None:
    # The first step of group 0 costs a lot, and all further ones nothing: per channel it is the cheaper one.
    steep = ResponseCurve(np.arange(1, 17), np.array([1.0] * 15 + [0.0]), 1.0)
    even = ResponseCurve(np.arange(1, 17), np.linspace(3.0, 0.0, 16), 1.0)
    cost = CostModel(
        np.array([1, 0, 0]), np.array([[0, 0], [1, 0], [0, 1]]), np.array([[1, 0], [2, 0]]), np.array([1, 1])
    )
    assert allocate_by_drift([steep, even], cost, 17 / 32).tolist() == [1, 16]


def test_the_cost_of_a_full_network_may_be_given() -> None:
    cost, curves = chain([16]), [curve(16, 1.0)]
    assert cost.total(allocate_by_drift(curves, cost, 0.5, reference=2 * cost.total(np.array([16])))) == cost.total(
        np.array([16])
    )


def test_a_target_below_the_least_widths_is_refused() -> None:
    cost = chain([8, 8])
    with pytest.raises(TargetUnreachableError, match="least that can be reached"):
        allocate_by_drift([curve(8, 1.0), curve(8, 1.0)], cost, 0.001)


def test_a_target_of_everything_keeps_everything() -> None:
    assert allocate_by_drift([curve(8, 1.0), curve(5, 1.0)], chain([8, 5]), 1.0).tolist() == [8, 5]


@pytest.mark.parametrize("step", [1, 8])
def test_two_hundred_wide_groups_take_no_time(step: int) -> None:
    sizes = np.random.default_rng(0).choice([64, 256, 1024, 2048], 200).tolist()
    cost, rng = chain(sizes), np.random.default_rng(1)
    curves = [curve(size, float(rng.exponential()), step) for size in sizes]
    start = time.process_time()
    kept = allocate_by_drift(curves, cost, 0.4)
    assert time.process_time() - start < 5
    assert 0.399 < cost.total(kept) / cost.total(np.array(sizes)) <= 0.4


@pytest.mark.parametrize(
    ("stream", "others", "kept"),
    [(0.1, 0.19, [8, 4]), (0.1, 0.21, [4, 8]), (3.0, 3.9, [8, 4]), (3.0, 4.1, [4, 8])],
)
def test_a_stream_stays_whole_up_to_twice_the_drift_and_1_more(stream: float, others: float, kept: list[int]) -> None:
    curves = [
        ResponseCurve(np.array([1, 4, 8]), np.array([50.0, stream, 0.0]), stream=True),
        ResponseCurve(np.array([2, 4, 8]), np.array([50.0, others, 0.0])),
    ]
    cost = CostModel(
        fixed=np.array([1, 0, 0]),
        per_channel=np.array([[0, 0], [1, 0], [0, 1]]),
        terms=np.array([[1], [2]]),
        coefficients=np.array([1, 1]),
    )
    assert allocate_by_drift(curves, cost, 0.75).tolist() == kept


def test_a_stream_is_narrowed_where_the_others_cannot_meet_the_target() -> None:
    curves = [
        ResponseCurve(np.array([1, 4, 8]), np.array([50.0, 10.0, 0.0]), stream=True),
        ResponseCurve(np.array([2, 4, 8]), np.array([5.0, 1.0, 0.0])),
    ]
    cost = CostModel(
        fixed=np.array([1, 0, 0]),
        per_channel=np.array([[0, 0], [1, 0], [0, 1]]),
        terms=np.array([[1], [2]]),
        coefficients=np.array([1, 1]),
    )
    assert allocate_by_drift(curves, cost, 0.5).tolist() == [4, 4]


LOSSES = [0.8, 0.2, 0.05]


def with_losses(drift: list[float]) -> np.ndarray:
    return ResponseCurve.of(8, 2, 2, np.array([2, 4, 6]), drift, LOSSES).drift


def test_what_was_not_measured_follows_from_the_losses() -> None:
    (drift,) = {tuple(with_losses([np.nan, 0.3, np.nan]).round(5).tolist())}
    assert drift[1] == pytest.approx(0.3, rel=1e-4)
    assert drift[0] / drift[1] == pytest.approx((0.8 / 0.2) ** POWER, rel=1e-3)
    assert drift[2] / drift[1] == pytest.approx((0.05 / 0.2) ** POWER, rel=1e-3)
    assert drift[3] == 0.0


def test_between_two_that_were_measured_the_multiple_lies_between_theirs() -> None:
    drift = with_losses([1.0, np.nan, 0.2])
    multiples = [d / loss**POWER for d, loss in zip(drift[:3], LOSSES, strict=True)]
    assert multiples[1] == pytest.approx(np.sqrt(multiples[0] * multiples[2]), rel=1e-3)
    np.testing.assert_allclose(drift[[0, 2]], [1.0, 0.2], rtol=1e-4)


def test_losses_change_nothing_where_everything_was_measured() -> None:
    measured = [0.9, 0.4, 0.1]
    np.testing.assert_array_equal(with_losses(measured), ResponseCurve.of(8, 2, 2, np.array([2, 4, 6]), measured).drift)


def test_a_curve_at_coarser_widths_is_the_same_curve() -> None:
    fine = curve(32, 2.0, step=4)
    coarse = fine.at(widths_of(32, 8, 1))
    assert coarse.widths.tolist() == [8, 16, 24, 32]
    np.testing.assert_allclose(coarse.drift, fine.drift[[1, 3, 5, 7]], rtol=1e-9, atol=1e-12)
    assert fine.at(widths_of(32, 4, 1)) is fine
    between = fine.at(np.array([10, 32]))
    assert fine.drift[2] < between.drift[0] < fine.drift[1]


def test_what_a_choice_of_widths_does_is_the_sum_over_its_groups() -> None:
    curves = [curve(16, 2.0, step=4), curve(32, 3.0, step=4)]
    assert foreseen_drift(curves, np.array([16, 32])) == 0.0
    assert foreseen_drift(curves, np.array([4, 24])) == curves[0].drift[0] + curves[1].drift[5]


def test_a_group_goes_where_that_costs_less_than_narrowing_the_others() -> None:
    cost = chain([16, 16, 16])
    shape = (1.0 - np.arange(17) / 16) ** 2
    others = [ResponseCurve(np.arange(1, 17), shape[1:]) for _ in range(2)]
    for worth, goes in ((0.01, True), (50.0, False)):
        middle = ResponseCurve(np.array([0, 16]), np.array([worth, 0.0]))
        found = allocate_by_drift([others[0], middle, others[1]], cost, 0.5)
        assert (found[1] == 0) == goes


def test_what_a_group_does_that_goes_entirely_does_not_bend_its_curve() -> None:
    widths, losses = np.array([0, 4, 8, 12]), [1.0, 0.4, 0.2, 0.05]
    measured = [np.nan, 0.5, np.nan]
    plain = ResponseCurve.of(16, 1, 4, widths[1:], measured, losses[1:])
    for gone in (30.0, 0.7):
        found = ResponseCurve.of(16, 1, 0, widths, [gone, *measured], losses)
        assert found.widths.tolist() == list(range(17))
        assert found.drift[0] == pytest.approx(gone, rel=1e-4)
        # Nor can fewer channels be worse than none.
        wanted = np.minimum(plain.drift[[0, 4, 8]], gone)
        np.testing.assert_allclose(found.drift[[4, 8, 12]], wanted, rtol=1e-4)
