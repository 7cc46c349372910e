"""A batch is used only if it gives what single runs give; else samples run one by one, and the report says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.graphs import build

import onnxpfp
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.pipeline.batching import Batching, choose_batching, with_scores
from onnxpfp.runtime.session import Session, open_session

MIXED = "samples run one by one: in a batch they change each other's outputs"
FAILING = "samples run one by one: the model fails on several at once"
COLUMNS = "samples run one by one: an output has one column per sample"
COUNT = 24
TOKENS = """g (float[batch,6,8] x) => (float[1,3] y) <float[8,8] q, float[8,12] f, float[12,8] e, float[8,3] z,
    int64[3] one = {{1, -1, 8}}> {{ t = Reshape(x, one)  {body}  m = ReduceMean <axes = [1], keepdims = 0> (u)
    y = MatMul(m, z) }}"""
ATTENTION = """a = MatMul(t, q)  k = Transpose <perm = [0,2,1]> (t)  p = MatMul(a, k)  s = Softmax <axis = -1> (p)
    o = MatMul(s, t)  h = MatMul(o, f)  r = Relu(h)  u = MatMul(r, e)"""
MLP = "h = MatMul(t, f)  r = Relu(h)  u = MatMul(r, e)"
CONV = """g (float[batch,3,8,8] x) => (float[batch,5] y) <float[12,3,3,3] w, float[12] s1, float[12] b1, float[12] m1,
    float[12] v1, float[5,12] z, float[1] tenth = {{0.1}}> {{
    a = Conv <pads = [1,1,1,1]> (x, w)  {body}  c = Relu(b)  p = GlobalAveragePool(c)  f = Flatten(p)
    y = Gemm <transB = 1> (f, z) }}"""
MIXING: dict[str, tuple[str, tuple[int, ...]]] = {
    "one sequence of all, attention": (TOKENS.format(body=ATTENTION), (6, 8)),
    "one sequence of all, a mean": (TOKENS.format(body=MLP), (6, 8)),
    "statistics of the batch": (
        CONV.format(body="b, rm, rv = BatchNormalization <training_mode = 1> (a, s1, b1, m1, v1)"),
        (3, 8, 8),
    ),
    "scaled by the largest of the batch": (
        CONV.format(body="k = ReduceMax <axes = [0, 2, 3], keepdims = 1> (a)  b = Div(a, k)"),
        (3, 8, 8),
    ),
    "quantized by the range of the batch": (
        CONV.format(body="k, ks, kz = DynamicQuantizeLinear(a)  b = DequantizeLinear(k, ks, kz)"),
        (3, 8, 8),
    ),
    "softmax over the batch": (
        CONV.format(body="k = Softmax <axis = 0> (a)  d = Mul(a, k)  b = Add(a, d)"),
        (3, 8, 8),
    ),
    "the sum before it": (
        CONV.format(body="k = CumSum (a, zero)  b = Mul(k, tenth)").replace(
            "float[1] tenth", "int64 zero = {0}, float[1] tenth"
        ),
        (3, 8, 8),
    ),
}


def prune(model: ModelProto, data: Any, **options: Any) -> onnxpfp.Report:
    return onnxpfp.prune(model, calibration=data, keep_macs=0.7, threads=1, **options).report


def choose(model: ModelProto, data: Any, wanted: int = 16) -> Batching:
    shown = with_scores(model)
    scores = None if shown is None else open_session(shown)
    return choose_batching(open_session(model), load_samples(data, input_specs(model)), wanted, lambda: scores)


def test_a_sample_runs_again_only_where_something_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    run = Session.run

    def counted(self: Session, feeds: Mapping[str, Any], *rest: Any) -> dict[str, Any]:
        sizes.append(len(feeds["x"]))
        return run(self, feeds, *rest)

    monkeypatch.setattr(Session, "run", counted)
    data = {"x": nets.noise(COUNT, 3, 8, 8)}
    assert choose(build(CONV.format(body="b = Neg(a)")), data).size == 16
    assert sizes == [16, 1, 1, 1]
    sizes.clear()
    assert choose(build(MIXING["softmax over the batch"][0]), data).size == 1
    assert sizes[:5] == [16, 1, 1, 1, 1]


@pytest.mark.parametrize("name", MIXING)
def test_samples_that_mix_run_one_by_one(name: str) -> None:
    text, shape = MIXING[name]
    model, data = build(text), nets.noise(COUNT, *shape)
    report = prune(model, {"x": data})
    assert MIXED in report.notes
    # As whole feeds they cannot run together.
    whole = prune(model, {"x": data[:, None]})
    assert MIXED not in whole.notes
    assert report.drift is not None
    assert whole.drift is not None
    assert report.drift.relative_error == pytest.approx(whole.drift.relative_error, rel=1e-6)
    assert report.after == whole.after
    assert MIXED in onnxpfp.prunability(model, calibration={"x": data}).notes


@pytest.mark.parametrize("name", MIXING)
def test_feeds_of_several_samples_are_cut(name: str) -> None:
    text, shape = MIXING[name]
    model, data = build(text), nets.noise(COUNT, *shape)
    feeds = [{"x": data[first : first + 4]} for first in range(0, COUNT, 4)]
    report = prune(model, feeds)
    assert MIXED in report.notes
    assert report.drift is not None
    assert report.drift.samples == COUNT // 8
    alone = prune(model, [{"x": data[number : number + 1]} for number in range(COUNT)])
    assert report.drift.relative_error == pytest.approx(alone.drift.relative_error, rel=1e-6)


HIDING: dict[str, tuple[str, tuple[int, ...]]] = {
    "only the class": (
        TOKENS.format(body=ATTENTION)
        .replace("float[1,3] y", "int64[1] best")
        .replace("y = MatMul(m, z)", "y = MatMul(m, z)  c = Add(y, far)  best = ArgMax <axis = 1, keepdims = 0> (c)")
        .replace("float[8,3] z,", "float[8,3] z, float[3] far = {0.0, 90.0, 0.0},"),
        (6, 8),
    ),
    "saturated scores": (
        TOKENS.format(body=ATTENTION)
        .replace("y = MatMul(m, z)", "o1 = MatMul(m, z)  c = Add(o1, far)  y = Sigmoid(c)")
        .replace("float[8,3] z,", "float[8,3] z, float[3] far = {90.0, 90.0, 90.0},"),
        (6, 8),
    ),
    "what is kept of a mask": (
        TOKENS.format(body=MLP)
        .replace("float[1,3] y", "bool[1,3] y")
        .replace("y = MatMul(m, z)", "o1 = MatMul(m, z)  y = Less(o1, far)")
        .replace("float[8,3] z,", "float[8,3] z, float[1] far = {90.0},"),
        (6, 8),
    ),
}


@pytest.mark.parametrize("name", HIDING)
def test_outputs_that_hide_it(name: str) -> None:
    text, shape = HIDING[name]
    batching = choose(build(text), nets.noise(COUNT, *shape))
    assert MIXED.endswith(batching.single)
    assert batching.single
    # What it hides is not mixed where every sample is a row.
    apart = text.replace("one = {1, -1, 8}", "one = {-1, 6, 8}")
    apart = apart.replace("[1,3] y", "[batch,3] y").replace("int64[1] best", "int64[batch] best")
    assert choose(build(apart), nets.noise(COUNT, *shape)).size == 16


LENGTHS = "samples run one by one: outputs change their length, so what belongs to which sample of a batch is not known"


@pytest.mark.parametrize(
    "last",
    [
        "p = NonZero(t)  y = Transpose <perm = [1, 0]> (p)",
        "k = Greater(t, half)  f = Reshape(k, flat)  y = Compress(t, f)",
        "k = Greater(t, half)  c = Cast <to = 7> (k)  n = ReduceSum <keepdims = 0> (c)  y = Range(zero, n, one)",
    ],
)
def test_outputs_that_change_their_length(last: str) -> None:
    text = f"""g (float[batch,8] x) => (y) <float[8,12] w, float[12,4] z, float[1] half = {{0.5}},
        int64[1] flat = {{-1}}, int64 zero = {{0}}, int64 one = {{1}}> {{
        a = MatMul(x, w)  b = Relu(a)  s = MatMul(b, z)  t = Relu(s)  {last} }}"""
    assert LENGTHS in prune(build(text), nets.noise(COUNT, 8)).notes


def test_outputs_that_are_no_tensors_say_nothing() -> None:
    text = """g (float[batch,8] x) => (float[batch,4] y) <float[8,12] w, float[12,4] z> {
        a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, z) }"""
    model = build(text)
    model.graph.node.append(helper.make_node("SequenceConstruct", ["y", "y"], ["all"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("all", TensorProto.FLOAT, None))
    assert choose(model, nets.noise(COUNT, 8)).size == 16


INDEPENDENT: dict[str, tuple[str, Mapping[str, tuple[int, ...]]]] = {
    "a plain one": (CONV.format(body="b = Identity(a)"), {"x": (COUNT, 3, 8, 8)}),
    "normalised by what is stored": (
        CONV.format(body="b = BatchNormalization (a, s1, b1, m1, v1)"),
        {"x": (COUNT, 3, 8, 8)},
    ),
    "rows behind each other": (
        """g (float[batch,5,8] x) => (float[rows,4] y) <float[8,12] w, float[12,4] z, int64[2] rows = {-1, 8}> {
        r = Reshape(x, rows)  a = MatMul(r, w)  b = Relu(a)  y = MatMul(b, z) }""",
        {"x": (COUNT, 5, 8)},
    ),
    "an output that is the same for all": (
        """g (float[batch,8] x, float[3] k) => (float[batch,4] y, float[3] s) <float[8,12] w, float[12,4] z> {
        a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, z)  s = Mul(k, k) }""",
        {"x": (COUNT, 8), "k": (3,)},
    ),
    "time first": (
        """g (float[5,batch,8] x) => (float[5,batch,4] y) <float[8,12] w, float[12,4] z> {
        a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, z) }""",
        {"x": (5, COUNT, 8)},
    ),
    "time first and merged": (
        """g (float[5,batch,8] x) => (float[rows,4] y) <float[8,12] w, float[12,4] z, int64[2] rows = {-1, 8}> {
        r = Reshape(x, rows)  a = MatMul(r, w)  b = Relu(a)  y = MatMul(b, z) }""",
        {"x": (5, COUNT, 8)},
    ),
    "integers and floats": (
        """g (float[batch,8] x) => (float[batch,4] y, int64[batch] best) <float[8,12] w, float[12,4] z> {
        a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, z)  best = ArgMax <axis = 1, keepdims = 0> (y) }""",
        {"x": (COUNT, 8)},
    ),
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_samples_that_do_not_mix_run_together(name: str) -> None:
    text, shapes = INDEPENDENT[name]
    arrays = {key: nets.noise(*shape) for key, shape in shapes.items()}
    batching = choose(build(text), arrays)
    assert (batching.size, batching.single, batching.samples.fixed_batch) == (16, "", None)
    assert not [note for note in prune(build(text), arrays).notes if "one by one" in note]


def test_a_model_that_fails_on_a_batch() -> None:
    text = """g (float[batch,5,8] x) => (float[batch,4] y) <float[40,12] w, float[12,4] z, int64[2] one = {1, 40}> {
        r = Reshape(x, one)  a = MatMul(r, w)  b = Relu(a)  y = MatMul(b, z) }"""
    assert FAILING in prune(build(text), {"x": nets.noise(COUNT, 5, 8)}).notes


def test_samples_in_columns_are_no_classes() -> None:
    text = """g (float[8,batch] x) => (float[4,batch] y) <float[12,8] w, float[4,12] z> {
        a = MatMul(w, x)  b = Relu(a)  y = MatMul(z, b) }"""
    report = prune(build(text), {"x": nets.noise(8, COUNT)})
    assert COLUMNS in report.notes
    assert report.drift is not None
    assert report.drift.top1_agreement is None


def test_runs_that_are_never_alike_say_nothing() -> None:
    text = CONV.format(body="k = RandomNormalLike(a)  n = Mul(k, tenth)  b = Add(a, n)")
    batching = choose(build(text), nets.noise(COUNT, 3, 8, 8))
    assert (batching.size, batching.single) == (16, "")


def test_a_fixed_batch_is_not_tried_in_parts() -> None:
    text = TOKENS.format(body=MLP).replace("batch,6,8", "4,6,8")
    batching = choose(build(text), nets.noise(COUNT, 6, 8))
    assert (batching.size, batching.single) == (4, "")


def test_one_sample_more_than_the_batch_is_compared_with_the_last() -> None:
    """Only the last sample of a batch differs: what comes before it is the same."""
    text = """g (float[batch,8] x) => (float[batch,4] y) <float[8,12] w, float[12,4] z, int64 zero = {0}> {
        c = CumSum <exclusive = 1> (x, zero)  k = Greater(c, far)  f = Cast <to = 1> (k)  s = Add(x, f)
        a = MatMul(s, w)  b = Relu(a)  y = MatMul(b, z) }"""
    model = build(text.replace("int64 zero", "float[1] far, int64 zero"))
    far = next(tensor for tensor in model.graph.initializer if tensor.name == "far")
    far.CopyFrom(numpy_helper.from_array(np.array([14.5], np.float32), "far"))
    assert choose(model, np.ones((COUNT, 8), np.float32)).size == 1
    far.CopyFrom(numpy_helper.from_array(np.array([15.5], np.float32), "far"))
    assert choose(model, np.ones((COUNT, 8), np.float32)).size == 16
