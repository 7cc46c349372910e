"""Joint refits of ops whose weights keep to a rank: directions, fits of consumers, and that nothing gets worse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from nets import noise
from numpy.typing import NDArray
from support.graphs import build
from test_joint import DEEP, INVERTED, KINDS, OFTEN, ONCE, TWICE, gap, heard

from onnxpfp.low_rank.limit import RankLimit
from onnxpfp.low_rank.ranks import Choice
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.joint_machine import with_channels_first, with_taps_first
from onnxpfp.refit.joint_ranks import RankedConsumer, RankedProducer
from onnxpfp.refit.joint_steps import JointDescent, joint_fit
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.ridge import GramFactors
from onnxpfp.refit.sweep import refit
from onnxpfp.rewrite.apply import apply
from onnxpfp.rewrite.edits import Edits
from onnxpfp.runtime.workers import ALONE

Array = NDArray[np.float64]
OUTPUTS, CHANNELS, TAPS, RANK = 5, 4, 9, 2
SCHEMES = {"spatial": RankLimit((3, 3), Choice(1, RANK)), "channel": RankLimit((3, 3), Choice(2, RANK))}


def random(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def rank_of(weights: Array, kernel: tuple[int, ...], cut: int) -> int:
    """Count the directions of a bank (o, c, *k), seen as the matrix that the scheme factors."""
    before = int(np.prod(kernel[:cut]))
    matrix = weights.reshape(*weights.shape[:2], before, -1).transpose(1, 2, 0, 3)
    singular = np.linalg.svd(matrix.reshape(weights.shape[1] * before, -1), compute_uv=False)
    return int((singular > 1e-4 * singular[0]).sum())


def limited(limit: RankLimit, seed: int) -> Array:
    """Return random weights of a rank, taps first."""
    return with_taps_first(limit.limited(random(1, OUTPUTS, CHANNELS * TAPS, seed=seed), None), TAPS)


def gram_of(seed: int) -> Array:
    columns = random(400, CHANNELS * TAPS, seed=seed) @ random(CHANNELS * TAPS, CHANNELS * TAPS, seed=seed + 1)
    return (columns.T @ columns / len(columns))[None]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_directions_keep_to_the_rank_and_lead_down(scheme: str) -> None:
    limit, gram = SCHEMES[scheme], gram_of(0)
    weights, target, producer = limited(limit, 1), random(1, OUTPUTS, CHANNELS * TAPS, seed=2), RankedProducer(limit, 9)
    for along in (producer.along_first, producer.along_second):
        gradient = (target - weights) @ gram
        direction = along(weights, gram)(gradient)
        assert float((direction * gradient).sum()) > 0
        moved = with_channels_first(weights + 0.7 * direction, TAPS)
        assert rank_of(moved.reshape(OUTPUTS, CHANNELS, 3, 3), limit.kernel, limit.choice.cut) == RANK


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_whole_step_of_the_second_op_is_its_least_squares(scheme: str) -> None:
    """Where the error is quadratic, of all that the first op lets the second give nothing is better."""
    limit, gram = SCHEMES[scheme], gram_of(3)
    weights, target = limited(limit, 4), random(1, OUTPUTS, CHANNELS * TAPS, seed=5)
    along = RankedProducer(limit, TAPS).along_second(weights, gram)
    moved = weights + along((target - weights) @ gram)
    left = (target - moved) @ gram @ along.features.swapaxes(1, 2)
    np.testing.assert_allclose(left, 0, atol=1e-7 * np.abs(target @ gram).max())


def test_a_whole_step_of_the_first_op_of_the_channel_scheme_is_its_least_squares() -> None:
    limit, gram = SCHEMES["channel"], gram_of(6)
    weights, target = limited(limit, 7), random(1, OUTPUTS, CHANNELS * TAPS, seed=8)
    along = RankedProducer(limit, TAPS).along_first(weights, gram)
    moved = weights + along((target - weights) @ gram)
    left = along.second[0, :, :, 0].T @ ((target - moved) @ gram)[0]
    # The ridge of H H^T is 1e-4.
    np.testing.assert_allclose(left, 0, atol=1e-3 * np.abs(target @ gram).max())


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_consumer_finds_the_weights_of_its_rank(scheme: str, biased: bool) -> None:
    limit = SCHEMES[scheme]
    weights, bias = limited(limit, 9), random(1, OUTPUTS, seed=10) if biased else np.zeros((1, OUTPUTS))
    columns = random(800, 1, CHANNELS * TAPS, seed=11)
    moments = Moments.empty(1, CHANNELS * TAPS, OUTPUTS)
    moments.add(columns, np.einsum("tgn,gon->tgo", columns, weights) + bias)
    start = InitialWeights(
        random(1, OUTPUTS, CHANNELS * TAPS, seed=12),
        np.zeros((1, OUTPUTS)),
        np.ones((1, OUTPUTS)),
        biased,
        1.0,
        np.dtype(np.float32),
    )
    fit = RankedConsumer(limit, start, TAPS).fit(moments, GramFactors(moments, biased, tried=False), 1e-9)
    np.testing.assert_allclose(fit.weights, weights, atol=1e-3)
    np.testing.assert_allclose(fit.bias, bias, atol=1e-3)


def limits_of(problem: RefitProblem, rank: int = 2, cut: int = 1) -> dict[str, RankLimit]:
    """Limit every op that is not depthwise."""
    limits: dict[str, RankLimit] = {}
    for layer in problem.layers:
        kernel = tuple(layer.taps().shape[2:])
        if layer.op.group == 1 and layer.output != "y":
            limits[layer.output] = RankLimit(kernel, Choice(min(cut, len(kernel)), rank))
    return limits


Made = Callable[..., tuple[RefitProblem, dict[str, object], dict[str, str]]]


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("kind", ["relu", "silu", "norm between", "relu behind", "two readers", "depthwise between"])
def test_the_error_on_tuning_samples_never_rises(make_problem: Made, monkeypatch, kind: str, cut: int) -> None:
    problem, _, _ = make_problem(build(KINDS[kind]), count=160)
    limits, keep = limits_of(problem, 2, cut), problem.analysis.graph.keep_all()
    with heard(monkeypatch) as problems:
        refit(problem, keep, Edits(), None, limits, effort=ONCE)
    chain, joint = problems[0]
    assert chain.producer.output in limits
    assert joint.ranked_producer is not None
    fit = joint_fit(joint, ALONE)
    assert fit is not None
    assert fit.after < fit.before
    descent = JointDescent.of(replace(joint, start=fit.weights), ALONE)
    assert descent.measure() == pytest.approx(fit.after, rel=1e-4)


@pytest.mark.parametrize("text", [DEEP, INVERTED])
def test_a_network_of_low_rank_is_better_and_keeps_to_its_ranks(make_problem: Made, text: str) -> None:
    model = build(text)
    problem, _, _ = make_problem(model, count=256)
    limits, keep, feed = limits_of(problem), problem.analysis.graph.keep_all(), noise(32, 4, 8, 8, seed=9)
    found = [refit(problem, keep, Edits(), None, limits, effort=effort) for effort in (None, ONCE, OFTEN)]
    alone, once, often = (gap(model, apply(model, problem.analysis.graph, keep, each.edits), feed) for each in found)
    assert once < 0.97 * alone
    assert often < 1.02 * once
    for layer in problem.layers:
        limit = limits.get(layer.output)
        for each in found if limit is not None else ():
            assert limit is not None
            weights = each.edits.tensors[layer.stored].astype(np.float64)
            kernel = weights.shape[2:]
            assert rank_of(weights, kernel, limit.choice.cut) <= limit.choice.rank
    joint = [record for record in found[1].records if record.joint]
    assert joint
    # Ops that were refitted with others are not compared with what they were without their rank.
    assert all(0 <= record.after <= record.before for record in found[1].records)


def test_the_number_of_threads_changes_no_bit(make_problem: Made) -> None:
    model, found = build(INVERTED), list[Edits]()
    for threads in (1, 3):
        problem, _, _ = make_problem(model, count=100, threads=threads)
        keep = problem.analysis.graph.keep_all()
        found.append(refit(problem, keep, Edits(), None, limits_of(problem), effort=TWICE).edits)
    for name, array in found[0].tensors.items():
        np.testing.assert_array_equal(array, found[1].tensors[name])
