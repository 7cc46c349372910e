"""Predicting channels in place of columns: oracle F2, and the path of the survey and the curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from nets import noise
from onnx import ModelProto, numpy_helper
from support.graphs import build

from onnxpfp.linear.columns import columns, draw_positions, outputs_at
from onnxpfp.refit.by_channel import folded, prediction, zero_padded
from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.gram import Gram, collect_grams
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.response_curves import Trials, TrialWidths
from onnxpfp.refit.ridge import solve
from onnxpfp.score.group_data import ConsumerGram
from onnxpfp.score.reconstruction import removal_costs

TINY = 1e-12
CHOSEN = np.eye(3)[None][:, :, :2]


def case(offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Three maps of which the third is made of the others, and the weights of a 3x3 convolution."""
    x = noise(8, 3, 6, 6).astype(np.float64)
    x[:, 2] = 0.5 * x[:, 0] - 2 * x[:, 1] + offset
    return x, noise(4, 3, 3, 3, seed=2).astype(np.float64)


def convolved(x: np.ndarray, w: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w) + np.reshape(bias, (1, -1, 1, 1))


def mixed(x: np.ndarray, *, padded: bool) -> np.ndarray:
    pixels = x.transpose(0, 2, 3, 1).reshape(-1, 1, 3)
    moments = Moments.empty(1, 2, 3)
    moments.add(pixels[:, :, :2], pixels)
    return prediction(moments, CHOSEN, padded=padded).at(TINY)[0]


def refolded(w: np.ndarray, m: np.ndarray) -> np.ndarray:
    return folded(w.reshape(1, 4, 27), m, 9).reshape(4, 2, 3, 3)


@pytest.mark.parametrize("padded", [True, False])
def test_f2_a_channel_that_is_made_of_others_is_found_and_folded_in(padded: bool) -> None:
    x, w = case(0.0)
    m = mixed(x, padded=padded)
    np.testing.assert_allclose(m[0], [[1, 0], [0, 1], [0.5, -2]], atol=1e-9)
    np.testing.assert_allclose(convolved(x[:, :2], refolded(w, m)), convolved(x, w), atol=1e-9)


def test_f2_the_gram_matrix_of_the_columns_finds_the_same(make_problem) -> None:
    x, w = case(0.0)
    model = build("g (float[N,3,6,6] x) => (y) <float[4,3,3,3] w> { y = Conv <pads = [1,1,1,1]> (x, w) }")
    _, layers, _ = make_problem(model)
    positions = draw_positions((8, 4, 6, 6), 1, 36, np.random.default_rng(0))
    u = columns(layers["y"].op, x, (6, 6), positions)[:, :18]
    moments = Moments.empty(1, 18, 4)
    moments.add(u[:, None], outputs_at(convolved(x, w), 1, positions)[:, None])
    found, bias = solve(moments, w.reshape(1, 4, 27)[:, :, :18], 1e-10)
    np.testing.assert_allclose(convolved(x[:, :2], found.reshape(4, 2, 3, 3), bias[0]), convolved(x, w), atol=1e-4)


def test_f2_a_constant_is_right_inside_and_wrong_on_a_padded_border() -> None:
    x, w = case(1.0)
    m = mixed(x, padded=False)
    np.testing.assert_allclose(m[0, 2], [0.5, -2], atol=1e-9)
    constant = w[:, 2].sum((1, 2))
    gap = np.abs(convolved(x[:, :2], refolded(w, m), constant) - convolved(x, w))
    assert gap[:, :, 1:-1, 1:-1].max() < 1e-9
    assert gap.max() > 0.1


PADDED = [
    ("Conv <pads = [0,1,0,1]>", True),
    ("Conv <pads = [0,0,0,0]>", False),
    ('Conv <auto_pad = "SAME_UPPER">', True),
    ('Conv <auto_pad = "VALID">', False),
    ("Conv", False),
]


@pytest.mark.parametrize(("op", "yes"), PADDED)
def test_what_pads_with_zeros(make_problem, op: str, yes: bool) -> None:
    _, layers, _ = make_problem(build(f"g (float[N,3,6,6] x) => (y) <float[4,3,3,3] w> {{ y = {op} (x, w) }}"))
    assert zero_padded(layers["y"].op) == yes


NETWORK = """g (float[N,3,8,8] x) => (y) <float[6,3,1,1] w, float[6] b, float[8,6,3,3] f, float[4,8,1,1] u> {
    a = Conv(x, w, b)  c = Conv <ATTR> (a, f)  r = Relu(c)  d = Conv(r, u)
    p = GlobalAveragePool(d)  y = Flatten(p) }"""
FEW, MANY = 8 * 8 * 40 * 40, 1 << 28


@pytest.mark.parametrize("window", ["pads = [1,1,1,1]", "strides = [2,2]"])
def test_the_survey_holds_channels_where_columns_are_too_many(make_problem, window: str) -> None:
    model = build(NETWORK.replace("ATTR", window))
    grams = {}
    for workspace in (FEW, MANY):
        problem, layers, _ = make_problem(model, workspace=workspace, positions=10**6)
        grams[workspace] = collect_grams(problem, layers.values(), SpillCache(1 << 28))
    wide, narrow = grams[FEW]["c"], grams[MANY]["c"]
    assert (wide.taps, narrow.taps) == (9, 1)
    assert wide.uu.shape == (1, 6, 6)
    assert narrow.uu.shape == (1, 54, 54)
    assert wide.centred == ("strides" in window)
    np.testing.assert_allclose(wide.mean, narrow.mean)
    # The tap in the middle of an unstrided, padded window sees every input once.
    if "pads" in window:
        np.testing.assert_allclose(wide.covariance(0), narrow.uu[0][4::9, 4::9] / narrow.count, rtol=1e-4, atol=1e-5)


def made_of_others(window: str) -> ModelProto:
    model = build(NETWORK.replace("ATTR", window))
    for tensor in model.graph.initializer:
        if tensor.name in {"w", "b"}:
            array = numpy_helper.to_array(tensor).copy()
            array[4:] = np.tensordot(noise(2, 4), array[:4], 1) * (tensor.name == "w" or "pads" not in window)
            array = array * (tensor.name == "w" or "pads" not in window)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def drifts_of(problem: RefitProblem, trial: TrialWidths, grams: Mapping[str, Gram] | None) -> np.ndarray:
    trials = Trials.of(problem, [trial], grams, temperature=1.0)
    return trials.measure({0: range(len(trial.keeps))}, lambda _, __: None)[0].drifts


@pytest.mark.parametrize("window", ["pads = [1,1,1,1]", "strides = [2,2]"])
@pytest.mark.parametrize("workspace", [FEW, MANY])
def test_a_group_that_can_be_rebuilt_has_no_response(make_problem, window: str, workspace: int) -> None:
    problem, layers, _ = make_problem(made_of_others(window), workspace=workspace)
    group = next(group for group in problem.analysis.graph.groups if group.name == "w")
    keeps = np.array([[True] * 4 + [False] * 2, [False, True, True, False, True, False], [True] * 6])
    grams = collect_grams(problem, layers.values(), SpillCache(1 << 28))
    plain, refitted = (drifts_of(problem, TrialWidths(group, keeps), each) for each in (None, grams))
    assert refitted[0] < 0.02 * plain[0]
    np.testing.assert_allclose([plain[2], refitted[2]], 0, atol=1e-6)
    assert refitted[1] < plain[1]


@pytest.mark.parametrize("window", ["pads = [1,1,1,1]", "strides = [2,2]"])
@pytest.mark.parametrize("workspace", [FEW, MANY])
def test_what_can_be_rebuilt_goes_first(make_problem, window: str, workspace: int) -> None:
    problem, layers, _ = make_problem(made_of_others(window), workspace=workspace)
    gram = collect_grams(problem, [layers["c"]], SpillCache(1 << 28))["c"]
    weights = layers["c"].op.taps().reshape(6, 8, 9).transpose(1, 0, 2).reshape(8, 54).astype(np.float64)
    costs = removal_costs([ConsumerGram(gram.covariance(0), weights, np.repeat(np.arange(6), 9))], 6, 1e-5)
    # The six are made of the three of the input: any three others will do.
    assert (np.sort(costs)[:3] < 1e-3).all()
    assert np.sort(costs)[3] > 5e-3


def test_outputs_that_lie_before_the_group_do_not_respond(make_problem) -> None:
    model = build(
        """g (float[N,4,8] x) => (early, y) <float[8,5] e, float[8,6] w, float[6,3] v> {
        early = MatMul(x, e)  a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }"""
    )
    problem, layers, _ = make_problem(model)
    group = problem.analysis.graph.groups[0]
    keeps = np.array([[False] * 3 + [True] * 3])
    grams = collect_grams(problem, layers.values(), SpillCache(1 << 20))
    (drift,) = drifts_of(problem, TrialWidths(group, keeps), grams)
    assert 0 < drift < 1
