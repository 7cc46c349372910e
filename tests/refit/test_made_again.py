"""Wide activations between stages are made again where they do not fit, and the refits stay the same to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.graphs import build

from onnxpfp.arrays import FLOAT_BYTES
from onnxpfp.refit.joint_chains import joint_chains
from onnxpfp.refit.made_again import made_again
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.stages import Stages
from onnxpfp.refit.sweep import refit
from onnxpfp.rewrite.edits import Edits

COUNT = 64
WIDE = COUNT * 16 * 8 * 8 * FLOAT_BYTES
"""Bytes of 16 channels of all samples."""
WEIGHTS = "float[4,3,1,1] a, float[16,4,1,1] b, float[16] bb, float[16,1,3,3] d, float[16,16,1,1] h, float[5,16,1,1] e"
STEM = "s = Conv(x, a)  u = Conv(s, b, bb)  w = Relu(u)"
BOTTLENECK = f"g (float[N,3,8,8] x) => (y) <{WEIGHTS}> {{ {STEM}  c = Conv <group = 16, pads = [1,1,1,1]> (w, d)"
CHAIN = f"{BOTTLENECK}  r = Relu(c)  y = Conv(r, e) }}"
READ_LATER = f"{BOTTLENECK}  r = Relu(c)  f = Conv(r, h)  t = Add(f, w)  y = Conv(t, e) }}"


def chosen(problem: RefitProblem, limit: int) -> frozenset[str]:
    stages = Stages.of(problem.analysis.model, {layer.output for layer in problem.layers}, problem.dtype)
    return made_again(stages, problem, problem.layers, limit)


def test_what_fits_is_carried(make_problem) -> None:
    problem, *_ = make_problem(build(CHAIN), count=COUNT)
    assert chosen(problem, 2 * WIDE) == frozenset()
    assert chosen(problem, WIDE // 2) == {"u", "w"}


def test_what_a_joint_refit_asks_for_is_carried(make_problem) -> None:
    problem, *_ = make_problem(build(CHAIN), count=COUNT)
    stages = Stages.of(problem.analysis.model, {layer.output for layer in problem.layers}, problem.dtype)
    keep = problem.analysis.graph.keep_all()
    (chain, *_) = (each for each in joint_chains(problem.analysis, problem.layers, keep) if "u" in each.tensors)
    assert made_again(stages, problem, problem.layers, WIDE // 2, chain.tensors).isdisjoint(chain.tensors)


def test_what_later_stages_read_is_carried(make_problem) -> None:
    problem, *_ = make_problem(build(READ_LATER), count=COUNT)
    assert "w" not in chosen(problem, WIDE // 2)


def test_what_takes_many_products_is_carried(make_problem, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, *_ = make_problem(build(CHAIN), count=COUNT)
    monkeypatch.setattr("onnxpfp.refit.made_again.MOST_COLUMNS", 3)
    assert chosen(problem, WIDE // 2) == frozenset()


def test_refits_are_the_same(make_problem) -> None:
    problem, *_ = make_problem(build(CHAIN), count=COUNT)
    scarce = replace(problem, workspace=WIDE)
    assert chosen(scarce, scarce.workspace // 3)
    assert not chosen(problem, problem.workspace // 3)
    keep = problem.analysis.graph.keep_all()
    keep[problem.analysis.graph.groups[-1].channels[:5]] = False
    one, other = (refit(each, keep, Edits()) for each in (problem, scarce))
    assert any(record.after < record.before for record in one.records)
    assert one.records == other.records
    assert one.edits.tensors.keys() == other.edits.tensors.keys()
    assert all(np.array_equal(one.edits.tensors[name], other.edits.tensors[name]) for name in one.edits.tensors)
