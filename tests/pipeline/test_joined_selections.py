"""A group that several groups have become once some of it went: its bound is of all that they do to a layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nets
import numpy as np
import pytest

from onnxpfp.allocation.select import Method, Selection, select
from onnxpfp.channels import ChannelGraph
from onnxpfp.channels.lineage import Lineage
from onnxpfp.options import Options
from onnxpfp.pipeline.context import open_run
from onnxpfp.pipeline.selector import Decision
from onnxpfp.pipeline.steps import BOUNDED_ALONE, DRAWN_ALONE, lift_decision

WHOLE = "g (float[N,4] x) => (float[N,3] y) { a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2) }"
PARTED = """g (float[N,4] x) => (float[N,3] y) {
    a = MatMul(x, w1) b = MatMul(x, w3) c = Concat <axis = 1> (a, b) r = Relu(c) y = MatMul(r, w2)
}"""
SCORES = np.array([0.01, 0.02, 0.2, 0.3, 0.4, 0.015, 0.025, 0.25, 0.35, 0.45])


def graph_of(text: str, **shapes: Any) -> ChannelGraph:
    return open_run(nets.build(text, shapes), None, Options(), ()).whole.graph


def joined(
    *how: Method,
    kept: tuple[int, int] = (3, 3),
    unbounded: tuple[str, str] = ("", ""),
    measured: tuple[float | None, float | None] | None = None,
) -> Any:
    """Select in both parts of a group, and tell it as one; where errors were measured, these are their bounds."""
    first = graph_of(WHOLE, w1=(4, 10), w2=(10, 3))
    parted = graph_of(PARTED, w1=(4, 5), w3=(4, 5), w2=(10, 3))
    assert [group.channels.size for group in first.groups] == [10]
    assert [group.channels.size for group in parted.groups] == [5, 5]
    keep, factor = parted.keep_all(), np.ones(11)
    parts: list[Selection] = []
    for number, group in enumerate(parted.groups):
        scores = SCORES[5 * number : 5 * number + 5]
        rng = np.random.default_rng(number)
        chosen = select(
            scores, kept[number], how=how[number], rng=rng, n_outputs=8, delta=1e-3, unbounded=unbounded[number]
        )
        if measured is not None:
            chosen = replace(chosen, choice_error=measured[number])
        keep[group.channels], factor[group.channels] = chosen.keep, chosen.factor
        parts.append(chosen)
    lineage = Lineage(first.keep_all(), np.arange(11))
    decision = lift_decision(first, parted, Decision(keep, factor, tuple(parts)), lineage)
    np.testing.assert_array_equal(decision.keep, keep)
    (whole,) = decision.selections
    assert whole is not None
    return parts, whole


def test_bounds_of_one_layer_add_up() -> None:
    parts, whole = joined("deterministic", "deterministic")
    assert whole.bound == pytest.approx(3 * (0.03 + 0.04))
    assert whole.bound == pytest.approx(sum(part.bound for part in parts))
    assert whole.bound > max(part.bound for part in parts)
    assert whole.total == pytest.approx(SCORES.sum())
    assert whole.keep.sum() == 6


@pytest.mark.parametrize("how", ["sampled", "mixed"])
def test_a_part_that_is_drawn_counts_with_one_that_is_not(how: Method) -> None:
    parts, whole = joined(how, "deterministic")
    assert whole.draws == parts[0].draws > 0
    assert whole.bound == pytest.approx(parts[0].bound + parts[1].bound)


@pytest.mark.parametrize("how", ["sampled", "mixed"])
def test_two_draws_have_no_common_bound(how: Method) -> None:
    """Each fails with the probability that is printed, so both together may fail twice as often."""
    _, whole = joined(how, how)
    assert (whole.bound, whole.unbounded) == (None, DRAWN_ALONE)


@pytest.mark.parametrize("unbounded", [("doubt", ""), ("", "doubt")])
def test_one_part_in_doubt_is_a_doubt_of_the_whole(unbounded: tuple[str, str]) -> None:
    _, whole = joined("deterministic", "deterministic", unbounded=unbounded)
    assert (whole.bound, whole.unbounded) == (None, "doubt")


def test_a_part_that_stays_adds_nothing() -> None:
    parts, whole = joined("deterministic", "deterministic", kept=(5, 3))
    assert whole.bound == parts[1].bound == pytest.approx(3 * 0.04)


def test_two_measured_bounds_have_none_in_common() -> None:
    """As with draws: each has the confidence that is printed."""
    _, whole = joined("deterministic", "deterministic", measured=(0.2, 0.3))
    assert (whole.choice_error, whole.no_choice_error) == (None, BOUNDED_ALONE)
    assert whole.bound is not None


def test_a_measured_bound_beside_a_part_that_stays_is_that_of_the_whole() -> None:
    _, whole = joined("deterministic", "deterministic", kept=(5, 3), measured=(None, 0.3))
    assert (whole.choice_error, whole.no_choice_error) == (0.3, "")
