"""Steps of kernels, from points that are made up: what is clearly slower goes, what noise hides stays in question."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import nets
import numpy as np
import pytest

from onnxpfp.channels import Analysis
from onnxpfp.options import Options
from onnxpfp.pipeline.context import open_run
from onnxpfp.pipeline.latency.kernel_steps import (
    Slower,
    aligned,
    in_question,
    measured_alignment,
    slower_in_multiples,
    step_candidates,
)
from onnxpfp.pipeline.latency.op_latencies import MeasuredWidths, units_of
from onnxpfp.pipeline.latency.points import MULTIPLES, TRIALS, draw_shares, rounded

SIZES = np.array([128, 24, 64])


@pytest.fixture(scope="module")
def whole() -> Analysis:
    """Groups of 128, 24 and 64 channels."""
    text = """g (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1) r = Relu(a)
        c = Conv <pads = [1,1,1,1]> (r, w2) s = Relu(c)
        d = Conv (s, w3) t = Relu(d)
        p = GlobalAveragePool(t) f = Flatten(p) y = Gemm <transB = 1> (f, w4) }"""
    shapes = {"w1": (128, 3, 3, 3), "w2": (24, 128, 3, 3), "w3": (64, 24, 1, 1), "w4": (5, 64)}
    context = open_run(nets.build(text, shapes), None, Options(threads=1), ())
    assert [group.channels.size for group in context.whole.graph.groups] == SIZES.tolist()
    return context.whole


def points(times: Callable[[int, int], float]) -> tuple[list[MeasuredWidths], list[int]]:
    """Make points as a table has them; `times` says what a trial in a multiple takes over its multiply-adds."""
    shares = draw_shares(np.random.default_rng(0), SIZES, TRIALS)
    widths = [SIZES, *(rounded(row * SIZES, SIZES, np.full_like(SIZES, m)) for row in shares for m in MULTIPLES)]
    factors = [1.0, *(times(trial, m) for trial in range(TRIALS) for m in MULTIPLES)]
    made = [MeasuredWidths(kept, factor * _ms(kept), {}) for kept, factor in zip(widths, factors, strict=True)]
    return made, [0, *itertools.chain.from_iterable(itertools.repeat(MULTIPLES, TRIALS))]


def _ms(kept: Any) -> float:
    """Milliseconds by the multiply-adds of the network alone."""
    one, two, three = kept.tolist()
    return 1e-5 * (27 * 64 * one + 9 * 64 * one * two + 64 * two * three + 5 * three)


def test_without_blocks_no_multiple_is_slower(whole: Analysis) -> None:
    slower = slower_in_multiples(whole, *points(lambda trial, multiple: 1.0))
    assert list(slower) == list(MULTIPLES)
    assert all(each.log < 1e-3 and each.noise < 1e-3 for each in slower.values())
    assert measured_alignment(slower).step == 1


def test_what_is_slower_in_every_trial_is_no_noise(whole: Analysis) -> None:
    slower = slower_in_multiples(whole, *points(lambda trial, multiple: 1.3 if multiple < 16 else 1.0))
    assert slower[8].log == pytest.approx(np.log(1.3), abs=0.05)
    assert slower[8].noise < 0.05
    assert in_question(slower) == (16, 32)
    assert (measured_alignment(slower).step, measured_alignment(slower).finest) == (16, 16)


def test_what_one_trial_adds_is_noise(whole: Analysis) -> None:
    """On the average it is as much slower as what is so in every trial, and then that is clear."""
    always = slower_in_multiples(whole, *points(lambda trial, multiple: 1.13 if multiple == 8 else 1.0))
    once = slower_in_multiples(whole, *points(lambda trial, multiple: 1.44 if (trial, multiple) == (1, 8) else 1.0))
    assert always[8].log == pytest.approx(once[8].log, abs=0.03)
    assert once[8].noise > 3 * always[8].noise
    assert 8 in in_question(once)
    assert 8 not in in_question(always)


def test_the_fastest_has_no_noise_of_its_own(whole: Analysis) -> None:
    rng = np.random.default_rng(3)
    slower = slower_in_multiples(whole, *points(lambda trial, multiple: float(rng.uniform(0.97, 1.03))))
    assert min(slower.values()) == (0.0, 0.0)
    assert len({each.noise for each in slower.values()}) == 2


def test_a_step_finer_than_is_known_must_not_be_slower_at_all() -> None:
    slower = {
        1: Slower(0.5, 0.01),
        4: Slower(0.015, 0.01),
        8: Slower(0.03, 0.01),
        16: Slower(0.005, 0.01),
        32: Slower(0, 0),
    }
    assert measured_alignment(slower, 1).step == 4
    assert (measured_alignment(slower, 16).step, measured_alignment(slower, 16).finest) == (16, 8)


def test_nothing_narrowed_has_no_candidates(whole: Analysis) -> None:
    point = MeasuredWidths(SIZES, 2.0, {})
    assert slower_in_multiples(whole, [point], [0]) == {}
    assert in_question({}) == ()
    assert step_candidates(whole, [point], [0], (), 1.0) == ()


def test_candidates_give_groups_different_steps(whole: Analysis) -> None:
    made, multiples = points(lambda trial, multiple: 1.0)
    candidates = step_candidates(whole, made, multiples, (4, 8, 16, 32), units_of(made))
    steps = [[each.alignment.of_group(size) for size in SIZES.tolist()] for each in candidates]
    assert steps == [[4, 4, 4], [8, 8, 8], [16, 16, 16], [16, 8, 8], [32, 24, 32]]
    # Curves are known at the widths of the first, so these have all others among them.
    for each in steps:
        assert all(step % first == 0 for step, first in zip(each, steps[0], strict=True))


def test_a_candidate_says_how_much_slower_its_own_widths_are_than_its_fit(whole: Analysis) -> None:
    made, multiples = points(lambda trial, multiple: 1.06 if multiple == 4 else 1.0)
    fine, coarse = step_candidates(whole, made, multiples, (4, 16), units_of(made))[:2]
    assert (fine.alignment.step, coarse.alignment.step) == (4, 16)
    assert coarse.slower == pytest.approx(0, abs=0.01)
    # The fit has points of all coarser multiples, and takes up a part of it.
    assert 0.02 < fine.slower < 0.06


def test_points_in_multiples_of_a_step(whole: Analysis) -> None:
    made, multiples = points(lambda trial, multiple: 1.0)
    assert len(aligned(made, multiples, 8)) == 1 + 3 * TRIALS
    assert len(aligned(made, multiples, 64)) == len(made)
