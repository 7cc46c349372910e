"""Groups are tried on as few samples as tell what they do: on a part where samples agree, else on all."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from nets import noise
from support.graphs import build

from onnxpfp.refit import trial_samples
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.response_curves import GroupDrifts, Trials, TrialWidths
from onnxpfp.refit.trial_samples import PILOTS, can_be_fewer, enough_pieces, piece_size

LAYERS = 5
CHAIN = (
    "g (float[N,4,6,6] h0) => (y) <"
    + ", ".join(f"float[4,4,1,1] w{n}" for n in range(LAYERS))
    + ", float[4,4,1,1] v> {"
    + "".join(f" c{n} = Conv(h{n}, w{n})  h{n + 1} = Relu(c{n})" for n in range(LAYERS))
    + f" y = Conv(h{LAYERS}, v) }}"
)


def measured(problem: RefitProblem) -> dict[int, GroupDrifts]:
    """Prune every group to half of its channels."""
    half = np.array([[True, True, False, False]])
    trials = Trials.of(problem, [TrialWidths(each, half) for each in problem.analysis.graph.groups], None, 1.0)
    first = trials.measure({number: [0] for number in range(LAYERS)}, lambda _, __: None)
    again = trials.measure({number: [0] for number in range(LAYERS)}, lambda _, __: None)
    for number in range(LAYERS):
        np.testing.assert_array_equal(first[number].drifts, again[number].drifts)
    return first


@pytest.mark.parametrize(
    ("spreads", "pieces"), [([0.1, 0.3], 1), ([0.3], 3), ([1.0], 4), ([0.1, math.inf], 4), ([], 4)]
)
def test_as_many_pieces_as_their_drifts_differ(spreads: list[float], pieces: int) -> None:
    assert enough_pieces(spreads, 4) == pieces


@pytest.mark.parametrize("threads", [1, 2])
def test_samples_that_agree_are_tried_on_one_piece(make_problem, threads: int) -> None:
    same = noise(1, 4, 6, 6) + 1e-2 * noise(64, 4, 6, 6, seed=3)
    problem, _, _ = make_problem(build(CHAIN), {"h0": same}, batch_size=4, threads=threads)
    piece = replace(problem, tuning=problem.tuning.take(4))
    assert LAYERS > PILOTS
    for number, drifts in measured(problem).items():
        np.testing.assert_array_equal(drifts.drifts, measured(piece)[number].drifts)


def test_samples_that_differ_are_tried_on_all(make_problem) -> None:
    sizes = np.where(np.arange(64) % 16 < 8, 1e-3, 1.0).reshape(-1, 1, 1, 1)
    sizes = np.random.default_rng(1).permutation(sizes) * np.abs(noise(64, 1, 1, 1, seed=4)) ** 4
    samples = {"h0": (noise(64, 4, 6, 6) + sizes * 50 * noise(64, 4, 1, 1, seed=2)).astype(np.float32)}
    problem, _, _ = make_problem(build(CHAIN), samples, batch_size=1)
    alone = replace(problem, batch_size=16)
    for number, drifts in measured(problem).items():
        np.testing.assert_allclose(drifts.drifts, measured(alone)[number].drifts, rtol=1e-5)


def test_small_networks_run_all_samples_at_once(make_problem, monkeypatch) -> None:
    problem, layers, _ = make_problem(build(CHAIN))
    work = 4 * 4 * 36
    assert piece_size(problem, 16, 32) == 32
    monkeypatch.setattr(trial_samples, "PIECE_WORK", 4 * work)
    assert len(layers) == LAYERS + 1
    assert piece_size(problem, 16, 32) == 4
    assert piece_size(problem, 16, 2) == 2


def test_samples_of_different_shapes_do_not_stand_for_each_other() -> None:
    feeds = [{"x": np.zeros((2, 3, 4))} for _ in range(4)]
    assert can_be_fewer([*feeds, {"x": np.zeros((1, 3, 4))}])
    assert not can_be_fewer([*feeds, {"x": np.zeros((2, 3, 5))}])
    assert not can_be_fewer(feeds[:3])
