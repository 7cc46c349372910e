"""Whole sweeps over small networks: what can be repaired is, and nothing gets worse."""

from __future__ import annotations

import numpy as np
import pytest
from nets import noise, run, values
from onnx import ModelProto, TensorProto, numpy_helper
from support.graphs import build

from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.gram import collect_grams
from onnxpfp.refit.sweep import RefitProblem, refit
from onnxpfp.rewrite.apply import apply
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.mask import masked
from onnxpfp.runtime.workers import Workers

PLAIN = "g (float[N,3,8,8] x) => (y) <float[6,3,1,1] w, float[6] b, "
READERS = {
    "conv": "float[5,6,3,3] v, float[5] c> { a = Conv(x, w, b)  y = Conv(a, v, c) }",
    "conv without bias": "float[5,6,3,3] v> { a = Conv(x, w, b)  y = Conv(a, v) }",
    "padded": "float[5,6,3,3] v> { a = Conv(x, w)  y = Conv <pads = [1,1,1,1], strides = [2,2]> (a, v) }",
    "padded with bias": "float[5,6,3,3] v, float[5] c> { a = Conv(x, w)  y = Conv <pads = [1,1,1,1]> (a, v, c) }",
    "transposed": "float[6,5,3,3] v, float[5] c> { a = Conv(x, w)  y = ConvTranspose <strides = [2,2]> (a, v, c) }",
    "norm behind": "float[5,6,3,3] v, float[5] s, float[5] o, float[5] m, float[5] var> "
    "{ a = Conv(x, w)  z = Conv <pads = [1,1,1,1]> (a, v)  y = BatchNormalization(z, s, o, m, var) }",
    "relu behind": "float[5,6,3,3] v, float[5] c> { a = Conv(x, w, b)  z = Conv(a, v, c)  y = Relu(z) }",
    "pooled": "float[5,6] v, float[5] c> { a = Conv(x, w, b)  p = GlobalAveragePool(a)  f = Flatten(p)"
    "  y = Gemm <transB = 1> (f, v, c) }",
    "scaled gemm": "float[6,5] v, float[5] c> { a = Conv(x, w, b)  p = GlobalAveragePool(a)  f = Flatten(p)"
    "  y = Gemm <alpha = 0.5, beta = 2.0> (f, v, c) }",
    "flattened": "float[384,5] v> { a = Conv(x, w, b)  f = Flatten(a)  y = Gemm(f, v) }",
    "product without bias": "float[6,5] v> { a = Conv(x, w)  t = Transpose <perm = [0,2,3,1]> (a)  y = MatMul(t, v) }",
    "product with bias": "float[6,5] v, float[5] c> { a = Conv(x, w, b)  t = Transpose <perm = [0,2,3,1]> (a)"
    "  z = MatMul(t, v)  y = Add(z, c) }",
    "transposed weights": "float[5,6] v> { a = Conv(x, w)  t = Transpose <perm = [0,2,3,1]> (a)"
    "  u = Transpose <perm = [1,0]> (v)  y = MatMul(t, u) }",
    "copied weights": "float[5,6,1,1] v> { a = Conv(x, w)  u = Identity(v)  y = Conv(a, u) }",
}


def model_of(kind: str) -> ModelProto:
    """Channels 4 and 5 of the six are made of the first four."""
    model = build(PLAIN + READERS[kind])
    mix = noise(2, 4)
    for name in ("w", "b"):
        stored = [t for t in model.graph.initializer if t.name == name]
        for tensor in stored:
            array = numpy_helper.to_array(tensor).copy()
            array[4:] = np.tensordot(mix, array[:4], 1)
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    return model


def without(problem: RefitProblem, channels: list[int], group: int = 0) -> np.ndarray:
    keep = problem.analysis.graph.keep_all()
    keep[problem.analysis.graph.groups[group].channels[channels]] = False
    return keep


def gap(one: ModelProto, other: ModelProto, feed: np.ndarray) -> float:
    a, b = (run(model, feed).astype(np.float64) for model in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.mark.parametrize("kind", READERS)
def test_channels_that_are_made_of_others_go_without_a_trace(make_problem, kind: str) -> None:
    model = model_of(kind)
    # A flattened map has one position a sample, and 256 columns.
    problem, _, left = make_problem(model, count=600 if kind == "flattened" else 64)
    assert not left
    keep = without(problem, [4, 5])
    refitted = refit(problem, keep, Edits())
    plain, better = (apply(model, problem.analysis.graph, keep, edits) for edits in (Edits(), refitted.edits))
    feed = noise(4, 3, 8, 8, seed=9)
    assert gap(model, plain, feed) > 0.05
    assert gap(model, better, feed) < 2e-4
    assert all(record.after <= record.before for record in refitted.records)


@pytest.mark.parametrize("kind", ["conv", "padded", "padded with bias", "transposed", "relu behind", "norm behind"])
def test_channels_in_place_of_columns_do_so_too(make_problem, kind: str) -> None:
    """Oracle F2: the channel Gram is exact, also with padding, as long as there is no constant in the mix."""
    model = model_of(kind)
    problem, layers, _ = make_problem(model, workspace=8 * 8 * 30 * 30)
    wide = layers["z"] if "behind" in kind else layers["y"]
    assert problem.fits(6)
    assert not problem.fits(4 * wide.op.kernel_size)
    keep = without(problem, [4, 5])
    better = apply(model, problem.analysis.graph, keep, refit(problem, keep, Edits()).edits)
    assert gap(model, better, noise(4, 3, 8, 8, seed=9)) < 2e-4


@pytest.mark.parametrize("kind", READERS)
def test_with_everything_kept_the_network_stays_the_same(make_problem, kind: str) -> None:
    model = model_of(kind)
    problem, _, _ = make_problem(model)
    graph, everything = problem.analysis.graph, problem.analysis.graph.keep_all()
    same = apply(model, graph, everything, refit(problem, everything, Edits()).edits)
    np.testing.assert_allclose(run(same, feed := noise(4, 3, 8, 8, seed=9)), run(model, feed), atol=2e-5)


DEEP = """g (float[N,4,8,8] x) => (y) <float[8,4,3,3] w, float[8] b, float[4,8,3,3] f, float[8,4,3,3] w2,
    float[4,8,3,3] f2,    float[4] c, float[3,4] u, float[3] d> {
    a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu(a)  e = Conv <pads = [1,1,1,1]> (r, f)  n = Add(e, x)  p = Relu(n)
    h = Conv <pads = [1,1,1,1]> (p, w2)  i = Relu(h)  j = Conv <pads = [1,1,1,1]> (i, f2, c)  k = Add(p, j)
    q = Relu(k)  s = GlobalAveragePool(q)  t = Flatten(s)  y = Gemm <transB = 1> (t, u, d) }"""


def dropped(problem: RefitProblem, share: float = 0.5, seed: int = 0) -> np.ndarray:
    """Drop a share of every group's channels."""
    keep, rng = problem.analysis.graph.keep_all(), np.random.default_rng(seed)
    for group in problem.analysis.graph.groups:
        keep[rng.permutation(group.channels)[: int(share * group.channels.size)]] = False
    return keep


@pytest.mark.parametrize("seed", range(3))
def test_no_op_is_worse_on_tuning_samples_and_the_network_is_better(make_problem, seed: int) -> None:
    model = build(DEEP, seed=seed)
    problem, layers, _ = make_problem(model, count=128)
    keep = dropped(problem, seed=seed)
    found = refit(problem, keep, Edits())
    assert {record.name for record in found.records} == {layer.consumer.name for layer in layers.values()}
    assert all(0 <= record.after <= record.before for record in found.records)
    plain, better = (apply(model, problem.analysis.graph, keep, edits) for edits in (Edits(), found.edits))
    feed = noise(32, 4, 8, 8, seed=9)
    assert gap(model, better, feed) < 0.6 * gap(model, plain, feed)


STREAM = """g (float[N,3,8,8] x) => (y) <float[6,3,1,1] w, float[4,6,1,1] e, float[3,3,1,1] p, float[3,3,1,1] q,
    float[4,3,1,1] g, float[4] b> {
    a = Conv(x, w)  d = Conv(a, e)  t = Conv(x, p)  u = Conv(t, q)  f = Conv(u, g, b)  k = Add(SUM)  y = Relu(k) }"""


@pytest.mark.parametrize("both", ["d, f", "f, d"])
def test_the_drift_of_a_residual_stream_is_repaired_by_what_is_added_to_it(make_problem, both: str) -> None:
    model = build(STREAM.replace("SUM", both))
    problem, layers, _ = make_problem(model)
    assert layers["f"].target.shortcut == "d"
    group = next(n for n, each in enumerate(problem.analysis.graph.groups) if each.name == "w")
    keep = without(problem, [0, 1, 2, 3, 4], group)
    graph, found = problem.analysis.graph, refit(problem, keep, Edits())
    feed = noise(32, 3, 8, 8, seed=9)
    whole, better = (
        values(model, {"x": feed}),
        values(apply(model, graph, keep, found.edits), {"x": feed}),
    )
    stream, rectified = (float(np.square(whole[name] - better[name]).mean()) for name in ("d", "y"))
    # The other branch lost nothing, and the stream's error is linear in what it reads.
    assert stream > 0.05
    assert rectified < 1e-6


@pytest.mark.parametrize("workspace", [1 << 28, 200_000])
def test_the_same_samples_give_the_same_bytes_wherever_they_are_held(make_problem, workspace: int) -> None:
    model = build(DEEP)
    reference, _, _ = make_problem(model)
    problem, _, _ = make_problem(model, workspace=workspace)
    keep = dropped(reference)
    # 36 of the columns fit into either workspace.
    assert problem.fits(36)
    one, other = (refit(each, keep, Edits()).edits for each in (reference, problem))
    assert one.tensors.keys() == other.tensors.keys()
    for name in one.tensors:
        np.testing.assert_array_equal(one.tensors[name], other.tensors[name])


GROUPED = {
    "grouped": "g (float[N,4,8,8] x) => (y) <float[8,4,3,3] w, float[4,4,3,3] v, float[4] c> "
    "{ a = Conv(x, w)  y = Conv <group = 2, pads = [1,1,1,1]> (a, v, c) }",
    "depthwise": "g (float[N,4,8,8] x) => (y) <float[8,4,1,1] w, float[8,1,3,3] v, float[3,8,1,1] u, float[3] c> "
    "{ a = Conv(x, w)  r = Relu(a)  d = Conv <group = 8, pads = [1,1,1,1]> (r, v)  s = Relu(d)  y = Conv(s, u, c) }",
    "multiplier": "g (float[N,4,8,8] x) => (y) <float[6,4,1,1] w, float[12,1,3,3] v, float[3,12,1,1] u> "
    "{ a = Conv(x, w)  d = Conv <group = 6> (a, v)  y = Conv(d, u) }",
    "up grouped": "g (float[N,4,8,8] x) => (y) <float[8,4,1,1] w, float[8,2,2,2] v> "
    "{ a = Conv(x, w)  y = ConvTranspose <group = 2, strides = [2,2]> (a, v) }",
}


@pytest.mark.parametrize("kind", GROUPED)
def test_grouped_and_depthwise_convolutions_are_refitted_group_by_group(make_problem, kind: str) -> None:
    model = build(GROUPED[kind])
    problem, layers, left = make_problem(model)
    assert not left
    assert len(layers) == sum("Conv" in node.op_type for node in model.graph.node)
    keep = dropped(problem)
    found = refit(problem, keep, Edits())
    assert all(record.after <= record.before for record in found.records)
    plain, better = (apply(model, problem.analysis.graph, keep, edits) for edits in (Edits(), found.edits))
    feed = noise(16, 4, 8, 8, seed=9)
    assert gap(model, better, feed) < gap(model, plain, feed)


def test_a_half_precision_weight_that_would_overflow_is_not_taken(make_problem) -> None:
    # Channel 1 is 30 times channel 0: without it the weight of channel 0 would have to be 90 * 3000.
    w = np.zeros((3, 2, 1, 1), np.float16)
    w[0, 0], w[1, 0], w[2, 1] = 0.01, 0.3, 0.01
    v = np.array([[[[3000.0]], [[3000.0]], [[3000.0]]]], np.float16)
    model = build(
        "g (float16[N,2,4,4] x) => (y) <float16[3,2,1,1] w, float16[1,3,1,1] v> { a = Conv(x, w)  y = Conv(a, v) }"
    )
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array({"w": w, "v": v}[tensor.name], tensor.name))
    problem, _, _ = make_problem(model)
    keep = without(problem, [1])
    found = refit(problem, keep, Edits())
    better = apply(model, problem.analysis.graph, keep, found.edits)
    for tensor in better.graph.initializer:
        assert tensor.data_type == TensorProto.FLOAT16
        assert np.isfinite(numpy_helper.to_array(tensor)).all()
    assert all(record.after <= record.before for record in found.records)


def test_a_half_precision_network_is_refitted_in_its_own_type(make_problem) -> None:
    model = build(
        "g (float16[N,3,8,8] x) => (y) <float16[6,3,1,1] w, float16[5,6,3,3] v, float16[5] c> "
        "{ a = Conv(x, w)  r = Relu(a)  y = Conv(r, v, c) }"
    )
    problem, _, _ = make_problem(model)
    keep = without(problem, [4, 5])
    found = refit(problem, keep, Edits())
    assert all(array.dtype == np.float16 for array in found.edits.tensors.values())
    plain, better = (apply(model, problem.analysis.graph, keep, edits) for edits in (Edits(), found.edits))
    feed = noise(8, 3, 8, 8, seed=9, dtype=np.float16)
    assert gap(model, better, feed) < 0.9 * gap(model, plain, feed)


NOT_FINITE = """g (float[N,4] x) => (y) <float[4,6] w, float[6,3] v> {
    a = MatMul(x, w)  z = Sub(x, x)  l = Log(z)  m = ReduceSum <keepdims = 1> (l)  b = Add(a, m)  y = MatMul(b, v) }"""


def test_an_op_whose_inputs_are_infinite_is_left_alone(make_problem) -> None:
    model = build(NOT_FINITE)
    problem, _, _ = make_problem(model)
    keep = dropped(problem)
    found = refit(problem, keep, Edits())
    # The product of x with w has no bias, and what it reads is as it was: nothing of it is missing.
    assert not [record for record in found.records if not np.isfinite(record.before)]
    for array in found.edits.tensors.values():
        assert np.isfinite(array).all()
    assert not collect_grams(problem, [layer for layer in problem.layers if layer.output == "y"], SpillCache(1 << 20))


def test_ops_of_the_same_data_share_their_draws_and_are_fitted_as_if_alone(make_problem) -> None:
    text = """g (float[N,5,8] x) => (y) <float[8,6] w, float[6,8] q, float[6,8] k, float[8] bq, float[8] bk> {{
        a = MatMul(x, w)  r = Relu(a)  b = MatMul(r, q)  c = Add(b, bq)  d = Sigmoid(c)  {more} y = {last} }}"""
    both = build(text.format(more="e = MatMul(r, k)  f = Add(e, bk)  h = Tanh(f)", last="Add(d, h)"))
    problem, layers, _ = make_problem(both)
    assert {"b", "e"} <= layers.keys()
    keep = without(problem, [0, 1])
    edits = refit(problem, keep, Edits()).edits
    first = build(text.format(more="", last="Identity(d)"))
    alone, _, _ = make_problem(first)
    np.testing.assert_allclose(
        edits.tensors["q"], refit(alone, keep[: alone.analysis.graph.count + 1], Edits()).edits.tensors["q"], atol=1e-6
    )


def test_a_shortcut_that_is_broadcast_over_the_samples_is_seen_at_its_size(make_problem) -> None:
    text = """g (float[N,4,8] x) => (y) <float[8,8] w, float[8,8] v, float[4,8] e> {
        n = Shape <start = 1, end = 2> (x)  z = Constant <value = int64[1] {0}> ()
        p = Slice(e, z, n)  q = Unsqueeze(p, z)  a = MatMul(x, w)  r = Relu(a)  b = MatMul(r, v)  s = Add(b, q)
        y = Sigmoid(s) }"""
    model = build(text)
    problem, layers, _ = make_problem(model)
    keep = without(problem, [0, 1, 2])
    found = refit(problem, keep, Edits())
    assert all(record.after <= record.before for record in found.records)
    plain, better = (apply(model, problem.analysis.graph, keep, edits) for edits in (Edits(), found.edits))
    feed = noise(8, 4, 8, seed=9)
    assert gap(model, better, feed) < gap(model, plain, feed)
    assert layers["b"].target.shortcut in {"q", ""}


def test_a_shortcut_of_which_one_channel_is_left_is_not_taken_for_a_broadcast_one(make_problem) -> None:
    model = build(
        "g (float[N,3,8,8] x) => (y) <float[4,3,1,1] w, float[4,3,1,1] f, float[4,4,1,1] g, float[2,4,1,1] u> "
        "{ a = Conv(x, w)  r = Sigmoid(a)  c = Conv(x, f)  t = Tanh(c)  e = Conv(t, g)  k = Add(e, r)  y = Conv(k, u) }"
    )
    problem, layers, _ = make_problem(model)
    assert layers["e"].target.shortcut == "r"
    stream = next(
        n for n, group in enumerate(problem.analysis.graph.groups) if set(group.channels) & set(layers["e"].rows)
    )
    keep = without(problem, [0, 1, 2], stream)
    assert keep[layers["e"].rows].sum() == 1
    found = refit(problem, keep, Edits())
    assert layers["e"].consumer.name in {record.name for record in found.records}


@pytest.mark.parametrize("kind", [*GROUPED, "deep", "by channel"])
def test_the_number_of_threads_changes_no_bit(make_problem, kind: str) -> None:
    model = build(DEEP if kind in {"deep", "by channel"} else GROUPED[kind])
    workspace = 8 * 8 * 20 * 20 if kind == "by channel" else 1 << 28
    found: list[Edits] = []
    for threads in (1, 2, 5):
        problem, _, _ = make_problem(model, count=100, threads=threads, workspace=workspace)
        found.append(refit(problem, dropped(problem), Edits()).edits)
    for other in found[1:]:
        assert found[0].tensors.keys() == other.tensors.keys()
        for name, array in found[0].tensors.items():
            np.testing.assert_array_equal(array, other.tensors[name])


def test_a_small_workspace_lets_no_batch_wait_and_changes_nothing(make_problem, monkeypatch) -> None:
    model, asked = build(DEEP), list[int]()
    plain, _, _ = make_problem(model, count=100, threads=3)
    expected = refit(plain, dropped(plain), Edits()).edits
    in_order = Workers.in_order

    def listen(self: Workers, work, pieces, most: int | None = None):
        asked.extend([] if most is None else [most])
        return in_order(self, work, pieces, most)

    monkeypatch.setattr(Workers, "in_order", listen)
    # Gram matrices are as before, and a batch of the first stage takes 8 * 4 * (256 + 512) bytes and more.
    small, _, _ = make_problem(model, count=100, threads=3, workspace=8 * 8 * 72 * 72)
    found = refit(small, dropped(small), Edits()).edits
    assert min(asked) <= 2
    assert small.fits(72)
    for name, array in expected.tensors.items():
        np.testing.assert_array_equal(array, found.tensors[name])


def test_few_columns_draw_fewer_positions_and_the_fit_stays_as_good(make_problem) -> None:
    model = build(DEEP)
    few, _, _ = make_problem(model, count=400, rows_per_column=100)
    many, _, _ = make_problem(model, count=400)
    assert len(few.fit) == 384
    assert [few.positions_for(columns) for columns in (1, 100, 5000)] == [16, 27, 64]
    assert many.positions_for(1) == 64
    feed = noise(32, 4, 8, 8, seed=9)
    gaps = []
    for problem in (few, many):
        keep = dropped(problem)
        gaps.append(gap(model, apply(model, problem.analysis.graph, keep, refit(problem, keep, Edits()).edits), feed))
    assert gaps[0] < 1.2 * gaps[1]


RESIDUAL = (
    "g (float[N,3,8,8] x) => (y) <float[6,3,1,1] w, float[6] b, float[3,6,3,3] v, float[3] c, float[4,3,1,1] u>"
    " { a = Conv(x, w, b)  r = Relu(a)  z = Conv <pads = [1,1,1,1]> (r, v, c)  s = Add(x, z)  t = LAST"
    "  y = Conv(t, u) }"
)


@pytest.mark.parametrize("last", ["Identity(s)", "Relu(s)"])
def test_an_op_that_reads_nothing_any_more_gives_the_mean_of_its_outputs(make_problem, last: str) -> None:
    model = build(RESIDUAL.replace("LAST", last))
    problem, _, left = make_problem(model, count=64)
    assert not left
    graph = problem.analysis.graph
    keep = without(problem, list(range(6)), [group.name for group in graph.groups].index("w"))
    refitted = refit(problem, keep, Edits())
    pruned = apply(model, graph, keep, refitted.edits)
    constant = next(numpy_helper.to_array(t) for t in pruned.graph.initializer if t.name == "z")
    assert constant.shape == (1, 3, 1, 1)
    fed = noise(512, 3, 8, 8, seed=7)
    if last == "Identity(s)":
        mean = values(model, {"x": fed})["z"].mean((0, 2, 3))
        np.testing.assert_allclose(constant.ravel(), mean, atol=0.1 * np.abs(mean).max())
    plain = apply(model, graph, keep, Edits())
    assert gap(model, pruned, fed) < 0.8 * gap(model, plain, fed)
    record = next(record for record in refitted.records if record.after < 0.9 * record.before)
    assert record.ridge == np.inf
    masked_model = masked(apply(model, graph, graph.keep_all(), refitted.edits), graph, keep, problem.analysis.shapes)
    assert gap(masked_model, pruned, fed) < 1e-5
