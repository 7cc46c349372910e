"""Producers refitted together with their consumers: gradients, what they repair, and that nothing gets worse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from nets import noise, run
from onnx import ModelProto
from support.graphs import build

from onnxpfp.refit import sweep as sweeps
from onnxpfp.refit.joint import JointRefit
from onnxpfp.refit.joint_chains import Chain, joint_chains
from onnxpfp.refit.joint_machine import Affine, with_channels_first, with_taps_first
from onnxpfp.refit.joint_problem import JointEffort, JointProblem
from onnxpfp.refit.joint_setup import ChainDraw, draw_chains, joint_problem
from onnxpfp.refit.joint_steps import JointDescent, joint_fit
from onnxpfp.refit.stage_draw import StageDraw
from onnxpfp.refit.stage_pair import StagePair
from onnxpfp.refit.stages import Arrays, Runner
from onnxpfp.refit.sweep import RefitProblem, RefitState, refit
from onnxpfp.rewrite.apply import apply
from onnxpfp.rewrite.edits import Edits
from onnxpfp.runtime.session import Session
from onnxpfp.runtime.workers import ALONE

CONVS = "g (float[N,3,8,8] x) => (y) <float[6,3,3,3] w, float[6] b, float[5,6,3,3] v, float[5] c, "
LINES = "g (float[N,7,4] x) => (y) <float[4,6] w, float[6] b, float[6,5] v, float[5] c, "
KINDS = {
    "relu": CONVS + "float o> { z = Conv <pads = [1,1,1,1]> (x, w, b)  h = Relu(z)  y = Conv (h, v, c) }",
    "nothing between": CONVS + "float o> { z = Conv <pads = [1,1,1,1]> (x, w, b)  y = Conv <pads = [1,1,1,1]> (z, v) }",
    "leaky": CONVS + "float o> { z = Conv <strides = [2,2]> (x, w)  h = LeakyRelu(z)  y = Conv (h, v) }",
    "clip": CONVS + "float[5,6,1,1] u> { l = Constant <value = float {-0.7}> ()  t = Constant <value = float {0.6}> ()"
    "  z = Conv(x, w, b)  h = Clip(z, l, t)  y = Conv(h, u) }",
    "hardswish": CONVS + "float[6,5,2,2] u> { z = Conv(x, w, b)  h = HardSwish(z)"
    "  y = ConvTranspose <strides = [2,2]> (h, u) }",
    "silu": CONVS + "float[6] k> { z = Conv(x, w, b)  g = Sigmoid(z)  h = Mul(z, g)  y = Conv(h, v, c) }",
    "norm between": CONVS + "float[6] s, float[6] o, float[6] m, float[6] var> { z = Conv(x, w, b)"
    "  n = BatchNormalization(z, s, o, m, var)  h = Tanh(n)  y = Conv(h, v, c) }",
    "relu behind": CONVS + "float[6] k> { z = Conv(x, w, b)  h = Elu(z)  q = Conv(h, v, c)  y = Relu(q) }",
    "two readers": CONVS + "float[3,6,1,1] u, float[2,5,1,1] i, float[2,3,4,4] j> { z = Conv(x, w, b)  h = Softplus(z)"
    "  p = Conv(h, v, c)  q = Conv <strides = [2,2]> (h, u)  r = Sigmoid(p)  s = Sigmoid(q)"
    "  e = Conv <strides = [4,4]> (r, i)  f = Conv <strides = [4,4], pads = [1,1,0,0]> (s, j)  y = Add(e, f) }",
    "depthwise between": "g (float[N,3,8,8] x) => (y) <float[6,3,1,1] w, float[6] b, float[6,1,3,3] d, float[6] e, "
    "float[5,6,1,1] v, float[5] c> { z = Conv(x, w, b)  r = Elu(z)  m = Conv <group = 6, pads = [1,1,1,1],"
    " strides = [2,2]> (r, d, e)  h = Sigmoid(m)  y = Conv(h, v, c) }",
    "grouped": "g (float[N,4,8,8] x) => (y) <float[6,2,3,3] w, float[6] b, float[4,3,1,1] v, float[4] c> "
    "{ z = Conv <group = 2> (x, w, b)  h = Tanh(z)  y = Conv <group = 2> (h, v, c) }",
    "gelu": LINES + "float k> { m = MatMul(x, w)  z = Add(m, b)  t = Constant <value = float {1.41421}> ()"
    "  o = Constant <value = float {1.0}> ()  a = Constant <value = float {0.5}> ()  q = Div(z, t)  e = Erf(q)"
    "  f = Add(e, o)  g = Mul(z, f)  h = Mul(g, a)  y = MatMul(h, v) }",
    "line": "g (float[N,3,12] x) => (y) <float[6,3,3] w, float[6] b, float[5,6,4] v> "
    "{ z = Conv(x, w, b)  h = Selu(z)  y = Conv(h, v) }",
    "volume": "g (float[N,2,5,5,5] x) => (y) <float[4,2,2,2,2] w, float[4] b, float[3,4,2,2,2] v> "
    "{ z = Conv(x, w, b)  h = Softsign(z)  y = Conv(h, v) }",
}
DEEP = """g (float[N,4,8,8] x) => (y) <float[8,4,3,3] w, float[8] b, float[4,8,3,3] f, float[8,4,3,3] w2,
    float[4,8,3,3] f2, float[4] c, float[3,4] u, float[3] d> {
    a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu(a)  e = Conv <pads = [1,1,1,1]> (r, f)  n = Add(e, x)  p = Relu(n)
    h = Conv <pads = [1,1,1,1]> (p, w2)  i = Relu(h)  j = Conv <pads = [1,1,1,1]> (i, f2, c)  k = Add(p, j)
    q = Relu(k)  s = GlobalAveragePool(q)  t = Flatten(s)  y = Gemm <transB = 1> (t, u, d) }"""
INVERTED = """g (float[N,4,8,8] x) => (y) <float[12,4,1,1] w, float[12] b, float[12,1,3,3] d, float[12] e,
    float[4,12,1,1] v, float[4] c, float[12,4,1,1] w2, float[12,1,3,3] d2, float[4,12,1,1] v2, float[4] c2> {
    a = Conv(x, w, b)  r = Relu(a)  m = Conv <group = 12, pads = [1,1,1,1]> (r, d, e)  s = Relu(m)  p = Conv(s, v, c)
    k = Add(p, x)  a2 = Conv(k, w2)  r2 = Relu(a2)  m2 = Conv <group = 12, pads = [1,1,1,1]> (r2, d2)  s2 = Relu(m2)
    p2 = Conv(s2, v2, c2)  y = Add(k, p2) }"""


ONCE, TWICE, OFTEN = (JointEffort(sweeps, rounds=3, fewer=1) for sweeps in (1, 2, 4))


def dropped(problem: RefitProblem, share: float = 0.5, seed: int = 0) -> np.ndarray:
    """Drop a share of every group's channels."""
    keep, rng = problem.analysis.graph.keep_all(), np.random.default_rng(seed)
    for group in problem.analysis.graph.groups:
        keep[rng.permutation(group.channels)[: int(share * group.channels.size)]] = False
    return keep


def gap(one: ModelProto, other: ModelProto, feed: np.ndarray) -> float:
    a, b = (run(model, feed).astype(np.float64) for model in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def drifts(model: ModelProto, problem: RefitProblem, keep: np.ndarray, feed: np.ndarray) -> list[float]:
    """How far the network is off with consumers refitted alone, in one joint sweep, and in up to four."""
    graph = problem.analysis.graph
    found = (refit(problem, keep, Edits(), effort=effort).edits for effort in (None, ONCE, OFTEN))
    return [gap(model, apply(model, graph, keep, edits), feed) for edits in found]


@contextmanager
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Chain, JointProblem]]]:
    """Listen to the chains that a sweep works on, before anything is refitted for them."""
    problems: list[tuple[Chain, JointProblem]] = []

    def before(self: JointRefit, depth: int, pair: StagePair, own: StageDraw | None) -> None:
        for chain in self.chains.get(depth, ()):
            draw = ChainDraw.of(chain, self.refit_state, self.starts, pair, ONCE)
            assert draw is not None
            (rows,) = draw_chains([draw], pair, self.refit_state.problem, None)
            assert rows is not None
            problems.append((chain, joint_problem(draw, rows, self.refit_state, self.starts, ONCE)))
        # Nothing was drawn ahead.
        assert own is None or not own.drawn

    with monkeypatch.context() as patch:
        patch.setattr(sweeps.JointRefit, "before", before)
        yield problems


def chains_of(make_problem, text: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Chain, JointProblem]]:
    problem, _, _ = make_problem(build(text), count=160)
    with heard(monkeypatch) as problems:
        refit(problem, dropped(problem, 0.34), Edits(), effort=ONCE)
    return problems


def half_error(descent: JointDescent, producer: Affine) -> float:
    """Half of the weighted error on the rows to fit, computed op by op."""
    problem, total = descent.problem, 0.0
    for batch in problem.fitted:
        made = producer(batch.rows.columns)
        tape = problem.machine.forward(batch.rows, made.reshape(len(made), -1))
        for number, outputs in enumerate(descent.outputs(batch, tape)):
            error = problem.machine.gap(number, outputs, batch.rows.wanted[number])
            total += problem.machine.loss(number, error)
    return total / 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(make_problem, monkeypatch, kind: str) -> None:
    chain, problem = chains_of(make_problem, KINDS[kind], monkeypatch)[0]
    assert len(chain.depthwise) == (kind == "depthwise between")
    descent = JointDescent.of(problem, ALONE)
    down, _ = descent.gradient()
    rng = np.random.default_rng(0)
    size = 1e-2 * np.abs(problem.start.producer.weights).mean()
    for _ in range(3):
        random = Affine(*(size * rng.standard_normal(part.shape) for part in (down.weights, down.bias)))
        # Half along the gradient, so that the change is far above rounding.
        scale = 0.5 * size / np.sqrt(np.mean(np.square(down.weights)))
        direction = random.moved(down, scale)
        if not problem.biased:
            direction = replace(direction, bias=np.zeros_like(direction.bias))
        expected = -float((down.weights * direction.weights).sum() + (down.bias * direction.bias).sum())
        above, below = (half_error(descent, problem.start.producer.moved(direction, side)) for side in (1, -1))
        assert (above - below) / 2 == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_computes_what_the_network_does(make_problem, monkeypatch, kind: str) -> None:
    """With everything kept and nothing refitted the consumers give what is wanted of them."""
    problem, _, _ = make_problem(build(KINDS[kind]))
    with heard(monkeypatch) as problems:
        refit(problem, problem.analysis.graph.keep_all(), Edits(), effort=ONCE)
    _, first = problems[0]
    assert JointDescent.of(first, ALONE).measure() < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_on_tuning_samples_never_rises(make_problem, monkeypatch, kind: str) -> None:
    _, problem = chains_of(make_problem, KINDS[kind], monkeypatch)[0]
    plain = JointDescent.of(problem, ALONE).measure()
    fit = joint_fit(problem, ALONE)
    assert fit is not None
    assert fit.after < fit.before <= plain
    descent = JointDescent.of(replace(problem, start=fit.weights), ALONE)
    assert descent.measure() == pytest.approx(fit.after, rel=1e-4)


@pytest.mark.parametrize("kind", ["relu", "depthwise between", "two readers", "gelu"])
def test_rows_of_several_batches_are_those_of_one(make_problem, monkeypatch, kind: str) -> None:
    found: list[list[tuple[int, float, np.ndarray]]] = []
    for least in (1, 1 << 40):
        for name in ("PIECE_BYTES", "LEAST_BYTES"):
            monkeypatch.setattr(f"onnxpfp.refit.joint_setup.{name}", least)
        descents = [JointDescent.of(each, ALONE) for _, each in chains_of(make_problem, KINDS[kind], monkeypatch)]
        pieces = [len(each.problem.fitted) for each in descents]
        errors = [each.measure() for each in descents]
        gradients = [each.gradient()[0].weights for each in descents]
        found.append([*zip(pieces, errors, gradients, strict=True)])
    apart, together = found
    assert apart
    for (many, error, gradient), (one, same, again) in zip(apart, together, strict=True):
        assert many % 2 == 0
        assert many > one == 1
        assert error == pytest.approx(same, rel=1e-5)
        np.testing.assert_allclose(gradient, again, rtol=1e-3, atol=1e-5 * np.abs(gradient).max())


def test_taps_and_channels_change_places_and_back() -> None:
    weights = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 20)
    first = with_taps_first(weights, 5)
    np.testing.assert_array_equal(first.reshape(2, 3, 5, 4), weights.reshape(2, 3, 4, 5).swapaxes(2, 3))
    np.testing.assert_array_equal(with_channels_first(first, 5), weights)


LOST = """g (float[N,6,6,6] x) => (y) <float[8,6,1,1] w, float[8] b, float[3,8,1,1] v, float[3] c> {{
    z = Conv(x, w, b)  h = {act}  y = Conv(h, v, c) }}"""


@pytest.mark.parametrize("act", ["Identity(z)", "Selu(z)"])
def test_what_a_lost_filter_did_is_taken_over_by_those_that_stay(make_problem, act: str) -> None:
    """Three outputs need three filters, but not those that are left: consumers alone cannot make up for the others."""
    model = build(LOST.format(act=act))
    problem, _, _ = make_problem(model, count=256)
    keep = problem.analysis.graph.keep_all()
    keep[problem.analysis.graph.groups[0].channels[[3, 4, 5, 6, 7]]] = False
    alone, once, often = drifts(model, problem, keep, noise(16, 6, 6, 6, seed=9))
    assert alone > 0.1
    assert once < 0.35 * alone
    assert often <= once
    if act == "Identity(z)":
        assert often < 0.02 * alone


@pytest.mark.parametrize("text", [DEEP, INVERTED])
@pytest.mark.parametrize("seed", range(2))
def test_a_network_is_better_with_producers_refitted_too(make_problem, text: str, seed: int) -> None:
    model = build(text, seed=seed)
    problem, _, _ = make_problem(model, count=256)
    keep = dropped(problem, seed=seed)
    alone, once, often = drifts(model, problem, keep, noise(32, 4, 8, 8, seed=9))
    assert once < 0.97 * alone
    assert often < 1.02 * once
    records = refit(problem, keep, Edits(), effort=ONCE).records
    assert len({record.name for record in records}) == len(records)
    assert all(0 <= record.after <= record.before for record in records if record.joint)
    assert any(record.joint for record in records)


def test_chains_reach_over_a_depthwise_convolution_and_start_at_it(make_problem) -> None:
    problem, layers, _ = make_problem(build(INVERTED))
    keep = dropped(problem)
    found = joint_chains(problem.analysis, problem.layers, keep)
    assert [(chain.producer.output, [layer.output for layer in chain.consumers]) for chain in found] == [
        ("a", ["p"]),
        ("m", ["p"]),
        ("a2", ["p2"]),
        ("m2", ["p2"]),
    ]
    assert [layer.output for layer in found[0].depthwise] == ["m"]
    assert layers["m"].op.group == 12
    # What reads the output of an op that is left alone has no consumers to be fitted with.
    rest = joint_chains(problem.analysis, problem.layers, keep, ("m", "p2"))
    assert [(chain.producer.output, [layer.output for layer in chain.consumers]) for chain in rest] == [("a2", ["m2"])]


OPEN = {
    "its outputs are the network's": "g (float[N,3,8,8] x) => (y, h) <float[6,3,1,1] w, float[5,6,1,1] v> "
    "{ z = Conv(x, w)  h = Relu(z)  y = Conv(h, v) }",
    "a pooling reads them": "g (float[N,3,8,8] x) => (y) <float[6,3,1,1] w, float[5,6,1,1] v> "
    "{ z = Conv(x, w)  h = MaxPool <kernel_shape = [2,2]> (z)  y = Conv(h, v) }",
    "a stream has them": "g (float[N,3,8,8] x) => (y) <float[3,3,1,1] w, float[5,3,1,1] v> "
    "{ z = Conv(x, w)  h = Add(z, x)  y = Conv(h, v) }",
    "a constant has other places": "g (float[N,3,8,8] x) => (y) <float[6,3,1,1] w, float[6,8,8] k, float[5,6,1,1] v> "
    "{ z = Conv(x, w)  h = Add(z, k)  y = Conv(h, v) }",
    "another axis is read": "g (float[N,3,8,8] x) => (y) <float[6,3,1,1] w, float[8,5] v> "
    "{ z = Conv(x, w)  h = Relu(z)  y = MatMul(h, v) }",
    "half precision": "g (float16[N,3,8,8] x) => (y) <float16[6,3,1,1] w, float16[5,6,1,1] v> "
    "{ z = Conv(x, w)  h = Relu(z)  y = Conv(h, v) }",
}


@pytest.mark.parametrize("kind", OPEN)
def test_no_chain_is_found_where(make_problem, kind: str) -> None:
    problem, _, _ = make_problem(build(OPEN[kind]))
    assert not joint_chains(problem.analysis, problem.layers, problem.analysis.graph.keep_all())


@pytest.mark.parametrize("text", [DEEP, INVERTED, KINDS["silu"], KINDS["gelu"]])
def test_the_number_of_threads_changes_no_bit(make_problem, text: str) -> None:
    model = build(text)
    found: list[Edits] = []
    for threads in (1, 2, 5):
        problem, _, _ = make_problem(model, count=100, threads=threads)
        found.append(refit(problem, dropped(problem), Edits(), effort=TWICE).edits)
    for other in found[1:]:
        assert found[0].tensors.keys() == other.tensors.keys()
        for name, array in found[0].tensors.items():
            np.testing.assert_array_equal(array, other.tensors[name])


@pytest.mark.parametrize("text", [DEEP, INVERTED])
def test_the_original_runs_once_for_chains_and_for_their_consumers_own_refits(make_problem, monkeypatch, text) -> None:
    problem, _, _ = make_problem(build(text))
    keep, batches = dropped(problem), list[int]()
    compute = Runner.compute

    def counted(self: Runner, session: Session | None, batch: int) -> Arrays:
        if session is not None:
            batches.append(batch)
        return compute(self, session, batch)

    monkeypatch.setattr(Runner, "compute", counted)
    once = refit(problem, keep, Edits(), effort=ONCE)
    runs = len(batches)
    monkeypatch.setattr(sweeps, "_draws_ahead", lambda *_: None)
    again = refit(problem, keep, Edits(), effort=ONCE)
    assert runs < len(batches) - runs
    assert once.records == again.records
    assert any(record.joint for record in once.records)


def test_a_sweep_that_is_no_better_is_taken_back(make_problem, monkeypatch) -> None:
    model = build(DEEP)
    problem, _, _ = make_problem(model)
    keep = dropped(problem)
    once = refit(problem, keep, Edits(), effort=ONCE)
    monkeypatch.setattr("onnxpfp.refit.joint.LEAST_GAIN", 2.0)
    again = refit(problem, keep, Edits(), effort=OFTEN)
    assert again.records == once.records
    for name, array in once.edits.tensors.items():
        np.testing.assert_array_equal(array, again.edits.tensors[name])


def test_a_state_starts_at_what_stays_of_the_weights(make_problem) -> None:
    problem, layers, _ = make_problem(build(DEEP))
    keep = dropped(problem)
    start = RefitState(problem, keep, Edits()).start(layers["a"])
    assert start is not None
    assert start.weights.shape == (1, 4, 36)
