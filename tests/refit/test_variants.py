"""Variants that are fed what changes, against models that have it in them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper
from support.graphs import build

from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.gram import collect_grams
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.stages import Runner, Stages
from onnxpfp.refit.trial_fits import TrialFits, TrialWidths
from onnxpfp.refit.variants import StageSessions, Variants
from onnxpfp.rewrite.apply import apply
from onnxpfp.rewrite.mask import masked
from onnxpfp.runtime.session import open_session

PLAIN = """g (float[N,3,6,6] x) => (y) <float[6,3,3,3] w, float[6] b, float[4,6,3,3] u, float[5,4] v> {
    a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu(a)  c = Conv <pads = [1,1,1,1]> (r, u)  s = Relu(c)
    p = GlobalAveragePool(s)  f = Flatten(p)  y = Gemm <transB = 1> (f, v) }"""
STREAM = """g (float[N,3,6,6] x) => (y, early) <float[6,3,1,1] w, float[6,6,3,3] u, float[6,6,1,1] t, float[6,2] e> {
    early = GlobalAveragePool(x)  a = Conv(x, w)  b = Conv <pads = [1,1,1,1]> (a, u)  c = Add(a, b)
    d = Conv(c, t)  m = Add(c, d)  p = GlobalAveragePool(m)  f = Flatten(p)  y = MatMul(f, e) }"""
ADDED_BIAS = """g (float[N,4,8] x) => (y) <float[8,6] w, float[6] b, float[6,3] v, float[3] z> {
    a = MatMul(x, w)  s = Add(a, b)  r = Sigmoid(s)  q = MatMul(r, v)  y = Add(q, z) }"""
TWO_READERS = """g (float[N,3,5,5] x) => (y, z) <float[6,3,1,1] w, float[6] k, float[6] h, float[6] m, float[6] o,
    float[4,6,1,1] u, float[4] n, float[4] j, float[4] l, float[4] i, float[2,6,3,3] v> {
    a = Conv(x, w)  b = BatchNormalization(a, k, h, m, o)  r = Relu(b)
    y0 = Conv(r, u)  y = BatchNormalization(y0, n, j, l, i)  z = Conv(r, v) }"""


def positive(model: ModelProto) -> ModelProto:
    """Give norms variances that can be divided by."""
    for tensor in model.graph.initializer:
        if tensor.name in {"o", "i"}:
            numbers = np.frombuffer(tensor.raw_data, np.float32)
            tensor.raw_data = (np.abs(numbers) + 0.5).astype(np.float32).tobytes()
    return model


def as_nodes(model: ModelProto) -> ModelProto:
    """Store all weights in Constant nodes."""
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    nodes += list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def as_inputs(model: ModelProto) -> ModelProto:
    """List all weights among the inputs, as IR 3 wants it."""
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in model.graph.initializer
    )
    return model


def first_group(problem: RefitProblem, rows: list[list[bool]]) -> TrialWidths:
    group = problem.analysis.graph.groups[0]
    assert group.channels.size == 6
    return TrialWidths(group, np.array(rows))


@pytest.mark.parametrize("form", [positive, as_nodes, as_inputs])
@pytest.mark.parametrize("network", [PLAIN, STREAM, ADDED_BIAS, TWO_READERS])
@pytest.mark.parametrize("refitted", [True, False])
def test_it_gives_what_a_model_with_the_new_weights_and_masks_gives(make_problem, network, form, refitted) -> None:
    model = form(positive(build(network)))
    problem, layers, _ = make_problem(model)
    trial = first_group(problem, [[True, False] * 3, [True] * 4 + [False] * 2])
    grams = collect_grams(problem, layers.values(), SpillCache(1 << 28)) if refitted else {}
    fits, graph = TrialFits.of(problem, trial, grams), problem.analysis.graph
    assert bool(fits.fitted) == refitted
    stages = Stages.of(problem.analysis.model, set(layers), problem.dtype)
    variants = Variants.of(StageSessions.of(stages, problem, threads=1), trial.touches(graph.count), fits.edits())
    feeds = [dict(feed) for feed in problem.tuning.batches(problem.batch_size)]
    runner = Runner.start(stages, feeds, 1 << 28, problem.requests, 1)
    for _ in range(variants.first):
        session, _ = runner.open()
        for batch in range(len(feeds)):
            runner.run(session, batch)
        runner.advance()
    whole = open_session(problem.analysis.model, threads=1)
    for row in range(2):
        keep, edits = trial.keep(row, graph.count), fits.edits(row)
        edited = apply(problem.analysis.model, graph, graph.keep_all(), edits)
        wanted = open_session(masked(edited, graph, keep, problem.analysis.shapes), threads=1)
        for feed, before in zip(feeds, runner.cache.batches, strict=True):
            found, expected, unpruned = variants.run(keep, edits, before), wanted.run(feed), whole.run(feed)
            assert "y" in found
            assert not np.allclose(expected["y"], unpruned["y"], atol=1e-3)
            for name, array in found.items():
                np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5)


def test_stages_that_do_not_read_the_group_are_opened_once(make_problem) -> None:
    problem, layers, _ = make_problem(build(PLAIN))
    stages = Stages.of(problem.analysis.model, set(layers), problem.dtype)
    network = StageSessions.of(stages, problem, threads=1)
    touched = first_group(problem, [[True] * 6]).touches(problem.analysis.graph.count)
    fits = TrialFits.of(problem, first_group(problem, [[True, False] * 3]), {})
    assert set(Variants.of(network, touched, fits.edits()).own) == {stages.depth["c"]}
    assert not network.sessions
    assert network.at(stages.depth["y"]) is network.at(stages.depth["y"])
