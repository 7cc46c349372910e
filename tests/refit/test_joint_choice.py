"""Which producers are refitted with their consumers within some forward passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.graphs import build

from onnxpfp.refit.joint_chains import Chain, joint_chains
from onnxpfp.refit.joint_choice import chosen_chains
from onnxpfp.refit.joint_problem import JointEffort
from onnxpfp.refit.sweep import RefitProblem, refit
from onnxpfp.rewrite.edits import Edits

TWO = """g (float[N,4,8,8] x) => (y) <float[8,4,3,3] w, float[8] b, float[4,8,3,3] f, float[8,4,3,3] w2,
    float[4,8,3,3] f2, float[4] c, float[3,4] u, float[3] d> {
    a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu(a)  e = Conv <pads = [1,1,1,1]> (r, f)  n = Add(e, x)  p = Relu(n)
    h = Conv <pads = [1,1,1,1]> (p, w2)  i = Relu(h)  j = Conv <pads = [1,1,1,1]> (i, f2, c)  k = Add(p, j)
    q = Relu(k)  s = GlobalAveragePool(q)  t = Flatten(s)  y = Gemm <transB = 1> (t, u, d) }"""
"""Two blocks; the producers are a and h."""


def without(problem: RefitProblem, **counts: int) -> np.ndarray:
    """Let so many of the outputs of some ops go."""
    keep = problem.analysis.graph.keep_all()
    for layer in problem.layers:
        keep[layer.rows[: counts.get(layer.output, 0)]] = False
    return keep


def chosen(problem: RefitProblem, keep: np.ndarray, passes: float, fewer: int = 1) -> list[str]:
    chains = joint_chains(problem.analysis, problem.layers, keep)
    found: tuple[Chain, ...] = chosen_chains(
        chains, problem, keep, JointEffort(1, rounds=1, fewer=fewer, passes=passes)
    )
    return [chain.producer.output for chain in found]


@pytest.mark.parametrize(("counts", "first"), [({"a": 6, "h": 2}, "a"), ({"a": 2, "h": 6}, "h")])
def test_the_producer_that_loses_most_is_first(make_problem, counts: dict[str, int], first: str) -> None:
    problem, *_ = make_problem(build(TWO), count=160)
    keep = without(problem, **counts)
    found = [chosen(problem, keep, passes) for passes in np.geomspace(1e-3, 1e6, 400)]
    assert found[0] == []
    assert next(each for each in found if each) == [first]
    assert found[-1] == ["a", "h"]
    assert [len(each) for each in found] == sorted(len(each) for each in found)


def test_chains_of_small_networks_may_take_more_than_their_passes(make_problem, monkeypatch) -> None:
    problem, *_ = make_problem(build(TWO), count=160)
    keep = without(problem, a=6, h=2)
    assert chosen(problem, keep, 2.0) == ["a", "h"]
    monkeypatch.setattr("onnxpfp.refit.joint_choice.LEAST_MACS", 0)
    assert chosen(problem, keep, 2.0) == []


def test_a_producer_that_loses_nothing_is_left_unless_all_are_asked_for(make_problem) -> None:
    problem, *_ = make_problem(build(TWO), count=160)
    keep = without(problem, a=4)
    assert chosen(problem, keep, 1e6) == ["a"]
    assert chosen(problem, keep, np.inf) == ["a", "h"]


def test_fewer_rows_than_unknowns_leave_a_producer(make_problem) -> None:
    problem, *_ = make_problem(build(TWO), count=64)
    keep = without(problem, a=4, h=1)
    few = replace(problem, positions=1)
    unknowns = 7 * 9
    assert len(few.fit) < unknowns
    # The first block has four channels between, so fewer unknowns.
    assert chosen(few, keep, 1e6) == ["a"]
    assert chosen(problem, keep, 1e6) == ["a", "h"]


def test_with_no_passes_the_refit_is_that_of_each_op_by_itself(make_problem) -> None:
    problem, *_ = make_problem(build(TWO), count=160)
    keep = without(problem, a=4, h=4)
    alone, none = (
        refit(problem, keep, Edits(), effort=effort) for effort in (None, JointEffort(1, rounds=1, fewer=2, passes=0.0))
    )
    assert alone.records == none.records
    assert all(np.array_equal(weights, none.edits.tensors[name]) for name, weights in alone.edits.tensors.items())


def test_chains_that_are_not_chosen_are_not_touched(make_problem) -> None:
    problem, *_ = make_problem(build(TWO), count=160)
    keep = without(problem, a=4)
    records = refit(problem, keep, Edits(), effort=JointEffort(1, rounds=3, fewer=1, passes=1e6)).records
    joint = {record.name for record in records if record.joint}
    assert joint <= {layer.consumer.name for layer in problem.layers if layer.output == "a"}
    assert len({record.name for record in records}) == len(records)
