"""Which steps a target takes: those whose widths lose the least by the response curves, at what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import nets
import numpy as np
import pytest

from onnxpfp.allocation.by_drift import ResponseCurve
from onnxpfp.options import Options
from onnxpfp.pipeline.calibration import Measured
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.latency import step_choice
from onnxpfp.pipeline.latency.kernel_steps import StepCandidate
from onnxpfp.pipeline.latency.op_latencies import MeasuredWidths, fit_latencies
from onnxpfp.pipeline.latency.step_choice import ALIKE, choose_steps
from onnxpfp.pipeline.latency.target import LatencyTarget, LatencyTry
from onnxpfp.pipeline.lossless_step import LosslessStep
from onnxpfp.pipeline.network_steps import MeasuredPart, PrunedNetwork, measure_whole
from onnxpfp.pipeline.parts import NetworkPart
from onnxpfp.runtime.blocks import Alignment

SIZES = (48, 64)
FINE, COARSE = Alignment(4, "", "measured", 4), Alignment(16, "", "measured", 16)


def part(slower: float, *, curved: bool = True) -> MeasuredPart:
    """Two groups; in steps of 4 they take longer than the fit says.

    Args:
        slower: Logarithm of how much.
        curved: Whether there are response curves.
    """
    text = """g (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1) r = Relu(a)
        c = Conv <pads = [1,1,1,1]> (r, w2) s = Relu(c)
        p = GlobalAveragePool(s) f = Flatten(p) y = Gemm <transB = 1> (f, w3) }"""
    model = nets.build(text, {"w1": (48, 3, 3, 3), "w2": (64, 48, 3, 3), "w3": (5, 64)})
    options = Options(keep_latency=0.7, threads=1)
    context = open_run(model, None, options, ())
    whole = context.whole
    widths = [np.array(SIZES), *(np.random.default_rng(0).integers(8, SIZES, (6, 2)))]
    points = [MeasuredWidths(kept, 1e-5 * (27 * kept[0] + 9 * kept[0] * kept[1]), {}) for kept in widths]
    latencies = fit_latencies(whole, points)
    candidates = (StepCandidate(FINE, latencies, slower), StepCandidate(COARSE, latencies, 0.0))
    first = Alignment(16, "until something is known", "measured", 16)
    context = replace(context, alignment=first, candidates=candidates, latencies=latencies)
    measured: Measured = replace(measure_whole(NetworkPart(context)).measured, curves=_curves() if curved else ())
    return MeasuredPart(NetworkPart(context), LosslessStep.nothing(whole), measured)


def target(share: float, *, given: bool) -> LatencyTarget:
    return LatencyTarget(share, None, 1.0, "", 1, 1, given, 0.0)


def chosen_steps(each: MeasuredPart, share: float) -> MeasuredPart:
    """Choose by a table that was given: nothing is pruned or measured for it."""

    def never(*_: object, **__: object) -> NoReturn:
        raise AssertionError

    (chosen,), begun = choose_steps(target(share, given=True), each.part.context, [each], never, never)
    assert begun == []
    return chosen


def _curves() -> tuple[ResponseCurve, ...]:
    """Curves at multiples of 4; what goes last hurts most."""
    widths = [np.arange(4, size + 1, 4) for size in SIZES]
    return tuple(ResponseCurve(each, (1 - each / each[-1]) ** 2) for each in widths)


@pytest.mark.parametrize(("slower", "step"), [(0.0, 4), (0.02, 4), (0.5, 16)])
def test_fine_steps_are_taken_unless_they_take_longer_than_they_are_worth(slower: float, step: int) -> None:
    chosen = chosen_steps(part(slower), 0.7)
    alignment = chosen.part.context.alignment
    assert (alignment.step, alignment.finest, alignment.source) == (step, step, "measured")


def test_the_reason_has_what_every_candidate_loses() -> None:
    chosen = chosen_steps(part(0.0), 0.7)
    start, _, rest = chosen.part.context.alignment.reason.partition("; ")
    assert start.startswith(
        "the coarsest of those that are not clearly much slower and lose the least, to 10%, at 0.7 of the latency"
    )
    assert rest.endswith(" in steps of 16 by the table")
    assert float(start.rpartition(" ")[2]) < float(rest.split()[0])


def test_of_equals_the_coarse_steps_are_taken() -> None:
    chosen = chosen_steps(part(0.0), 1.0)
    assert chosen.part.context.alignment.step == 16


@pytest.mark.parametrize(("more", "step"), [(0.9 * (ALIKE - 1), 16), (1.1 * (ALIKE - 1), 4)])
def test_what_loses_nearly_as_little_in_coarse_steps_is_taken(monkeypatch, more: float, step: int) -> None:
    def drift(each: MeasuredPart, share: float) -> float:
        return 0.2 * (1 + more * (each.part.context.alignment.step == 16))

    monkeypatch.setattr(step_choice, "_drift", drift)
    assert chosen_steps(part(0.0), 0.7).part.context.alignment.step == step


def test_a_candidate_that_cannot_meet_the_target_is_none() -> None:
    """The smallest widths in steps of 16 take 0.095 of the latency, those of 4 less."""
    chosen = chosen_steps(part(0.5), 0.08)
    assert chosen.part.context.alignment.step == 4
    assert chosen.part.context.alignment.reason.startswith("the only ones")


def test_where_none_can_meet_it_the_finest_come_closest() -> None:
    chosen = chosen_steps(part(0.0), 1e-4)
    assert chosen.part.context.alignment.step == 4


def test_without_response_curves_nothing_is_chosen() -> None:
    one = part(0.0, curved=False)
    assert chosen_steps(one, 0.7) is one


def test_what_a_part_costs_is_by_the_latencies_of_its_steps() -> None:
    one = part(0.0)
    fine, coarse = one.part.context.candidates
    half = replace(fine.latencies, ops={name: op.scaled(0.5, 0.5) for name, op in fine.latencies.ops.items()})
    candidates = (replace(fine, latencies=half), coarse)
    one = replace(one, part=replace(one.part, context=replace(one.part.context, candidates=candidates)))
    chosen = chosen_steps(one, 0.7)
    assert chosen.part.context.latencies is half
    assert chosen.full == pytest.approx(half.units * 0.5e-5 * (27 * 48 + 9 * 48 * 64), rel=1e-3)


Tries = list[tuple[PrunedNetwork, LatencyTry]]


def by_runs(
    one: MeasuredPart, runs: dict[int, list[tuple[float, float]]], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[MeasuredPart, Tries]:
    """Choose by what was measured.

    Args:
        one: The part.
        runs: For every step, shares that were asked for and what was measured of them.
        monkeypatch: Puts these in the place of runs.
        options: Others than those of the part.
    """

    def tries(_: object, context: RunContext, parts: Sequence[MeasuredPart], *__: object) -> Tries:
        assert (context.options.compensate, context.options.steps) == ("none", 1)
        pruned: Any = None
        return [(pruned, LatencyTry(asked, asked, share)) for asked, share in runs[step_of(parts[0])]]

    def never(*_: object, **__: object) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(step_choice, "measured_tries", tries)
    context = replace(one.part.context, options=replace(one.part.context.options, **options))
    (chosen,), begun = choose_steps(target(0.7, given=False), context, [one], never, never)
    return chosen, begun


def step_of(each: MeasuredPart) -> int:
    return each.part.context.alignment.step


def test_what_was_measured_at_the_target_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the table steps of 4 lose more; here they take what is asked for."""
    runs = {4: [(0.65, 0.62), (0.7, 0.7)], 16: [(0.7, 0.7)]}
    assert step_of(chosen_steps(part(0.2), 0.7)) == 16
    chosen, begun = by_runs(part(0.2), runs, monkeypatch)
    assert step_of(chosen) == 4
    assert [tried.measured for _, tried in begun] == [0.62, 0.7]
    runs[4] = [(0.55, 0.7)]
    assert step_of(by_runs(part(0.0), runs, monkeypatch)[0]) == 16


def test_what_came_out_slower_than_the_target_is_no_better_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both take what they are asked for, and one was asked for a little more."""
    runs = {4: [(0.68, 0.68)], 16: [(0.73, 0.73)]}
    assert step_of(by_runs(part(0.0), runs, monkeypatch)[0]) == 4


def test_what_leaps_over_the_target_counts_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """In proportion steps of 4 would be asked for all of it, and lose nothing."""
    runs = {4: [(0.6, 0.4)], 16: [(0.7, 0.7)]}
    assert step_of(by_runs(part(0.0), runs, monkeypatch)[0]) == 16


def test_what_takes_longer_than_the_target_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, _ = by_runs(part(0.0), {4: [(0.7, 0.8)], 16: [(0.7, 0.7)]}, monkeypatch)
    assert step_of(chosen) == 16
    assert chosen.part.context.alignment.reason.startswith("the only ones")


def test_what_loses_far_more_by_the_table_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is said, and that it was not measured."""
    chosen, _ = by_runs(part(2.0), {16: [(0.7, 0.7)]}, monkeypatch)
    assert step_of(chosen) == 16
    assert chosen.part.context.alignment.reason.endswith(" in steps of 4 by the table")


def test_several_steps_of_refits_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {4: [(0.7, 0.7)], 16: [(0.7, 0.7)]}
    chosen, begun = by_runs(part(0.0), runs, monkeypatch, steps=2)
    assert (step_of(chosen), begun) == (4, [])


def test_parts_that_run_together_are_not_measured() -> None:
    """It is not known which of them takes how much of what is measured."""

    def never(*_: object, **__: object) -> NoReturn:
        raise AssertionError

    parts = [part(0.0), part(0.5)]
    chosen, _ = choose_steps(target(0.7, given=False), parts[0].part.context, parts, never, never)
    assert [each.part.context.alignment.step for each in chosen] == [4, 16]
