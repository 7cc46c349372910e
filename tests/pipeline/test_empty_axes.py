"""Axes of length 0, such as a cache at the first call or no detections; and lengths that are made up without data."""

from __future__ import annotations

from collections.abc import Mapping

import nets
import numpy as np
import pytest
from support.graphs import build

import onnxpfp
from onnxpfp.errors import ModelError

COUNT = 24
Shapes = Mapping[str, tuple[int, ...]]
CACHE = """g (float[batch,seq,8] x, float[batch,total] mask, float[batch,2,past,4] pk, float[batch,2,past,4] pv) =>
    (float[batch,seq,5] y, float[batch,2,all,4] k2, float[batch,2,all,4] v2) <float[8,8] wq, float[8,8] wk,
    float[8,8] wv, float[8,16] f, float[16,5] z,
    int64[4] heads = {0, 0, 2, 4}, int64[3] flat = {0, 0, 8}, int64[2] two = {1, 2}> {
    q0 = MatMul(x, wq)  k0 = MatMul(x, wk)  v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)  k1 = Reshape(k0, heads)  v1 = Reshape(v0, heads)
    q = Transpose <perm = [0,2,1,3]> (q1)  k = Transpose <perm = [0,2,1,3]> (k1)  v = Transpose <perm = [0,2,1,3]> (v1)
    k2 = Concat <axis = 2> (pk, k)  v2 = Concat <axis = 2> (pv, v)  kt = Transpose <perm = [0,1,3,2]> (k2)
    a = MatMul(q, kt)  m = Unsqueeze(mask, two)  b = Add(a, m)  s = Softmax <axis = -1> (b)  o = MatMul(s, v2)
    o1 = Transpose <perm = [0,2,1,3]> (o)  o2 = Reshape(o1, flat)  h = MatMul(o2, f)  r = Relu(h)  y = MatMul(r, z) }"""
JOINED = """g (float[batch,seq,8] x, float[batch,past,8] memory) => (float[batch,all,5] y) <float[8,12] w,
    float[8,12] u, float[12,5] z> {{ a = MatMul(x, w)  b = MatMul(memory, {weights})  c = Concat <axis = 1> (b, a)
    d = Relu(c)  y = MatMul(d, z) }}"""
CROSS = """g (float[batch,6,8] x, float[batch,places,8] memory) => (float[batch,6,5] y) <float[8,8] q, float[8,8] k,
    float[8,12] f, float[12,5] z> { a = MatMul(x, q)  b = MatMul(memory, k)  t = Transpose <perm = [0,2,1]> (b)
    p = MatMul(a, t)  s = Softmax <axis = -1> (p)  o = MatMul(s, b)  i = Add(o, x)  h = MatMul(i, f)  r = Relu(h)
    y = MatMul(r, z) }"""
FRAMES = """g (float[batch,3,frames] x, float[batch,3,past] before) => (float[batch,4,left] y) <float[8,3,3] w,
    float[4,8,1] u> { c = Concat <axis = 2> (before, x)  a = Conv(c, w)  r = Relu(a)  y = Conv(r, u) }"""
BOXES = """g (float[batch,8] x, float[batch,boxes,4] found) => (float[batch,5] y, float[batch,boxes,3] kinds)
    <float[8,12] w, float[12,5] z, float[4,10] e, float[10,3] k> {
    a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, z)  c = MatMul(found, e)  d = Relu(c)  kinds = MatMul(d, k) }"""
HISTORY = """g (float[batch,8] x, float[batch,8,history] old) => (float[batch,5] y) <float[16,12] w, float[12,5] z> {
    s = ReduceSum <keepdims = 0> (old, last)  c = Concat <axis = 1> (x, s)  a = MatMul(c, w)  b = Relu(a)
    y = MatMul(b, z) }""".replace("float[12,5] z>", "float[12,5] z, int64[1] last = {2}>")
EMPTY: dict[str, tuple[str, Shapes]] = {
    "a cache of keys and values": (CACHE, {"x": (7, 8), "mask": (7,), "pk": (2, 0, 4), "pv": (2, 0, 4)}),
    "a linear op on an empty memory": (JOINED.format(weights="w"), {"x": (7, 8), "memory": (0, 8)}),
    "weights that only an empty memory reads": (JOINED.format(weights="u"), {"x": (7, 8), "memory": (0, 8)}),
    "attention to an empty memory": (CROSS, {"x": (6, 8), "memory": (0, 8)}),
    "frames before the first one": (FRAMES, {"x": (3, 9), "before": (3, 0)}),
    "no boxes": (BOXES, {"x": (8,), "found": (0, 4)}),
    "a sum over nothing": (HISTORY, {"x": (8,), "old": (8, 0)}),
}


def arrays_of(shapes: Shapes) -> dict[str, np.ndarray]:
    return {name: nets.noise(COUNT, *shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", EMPTY)
def test_data_with_empty_axes(name: str) -> None:
    text, shapes = EMPTY[name]
    report = onnxpfp.prune(build(text), calibration=arrays_of(shapes), keep_macs=0.7, threads=1).report
    assert report.drift is not None
    assert report.drift.relative_error is not None
    assert np.isfinite(report.drift.relative_error)
    assert {key: shape[1:] for key, shape in report.inputs.items()} == shapes
    assert report.after.macs < report.before.macs
    assert not [note for note in report.notes if "one by one" in note]


@pytest.mark.parametrize("name", EMPTY)
def test_every_way_of_measuring_takes_them(name: str) -> None:
    text, shapes = EMPTY[name]
    data = arrays_of(shapes)
    for options in ({"score": "thinet"}, {"score": "reconstruction"}, {"score": "apoz"}, {"allocate": "bound"}):
        onnxpfp.prune(build(text), calibration=data, keep_macs=0.8, threads=1, compensate="bias", **options)
    given = {key: (1, *shape) for key, shape in shapes.items()}
    report = onnxpfp.prune(build(text), input_shapes=given, keep_macs=0.8, threads=1).report
    assert report.inputs == given


def test_some_samples_may_be_empty() -> None:
    text, _ = EMPTY["a cache of keys and values"]
    feeds = [
        {
            "x": nets.noise(1, 5, 8),
            "mask": nets.noise(1, 5 + past),
            "pk": nets.noise(1, 2, past, 4),
            "pv": nets.noise(1, 2, past, 4),
        }
        for past in [0, 3, 1] * 8
    ]
    report = onnxpfp.prune(build(text), calibration=feeds, keep_macs=0.7, threads=1).report
    assert report.drift is not None
    assert report.drift.samples == len(feeds) // 8


NAMED = {
    "x": (1, 16, 8),
    "mask": (1, 32),
    "pk": (1, 2, 16, 4),
    "pv": (1, 2, 16, 4),
}


GRU = """g (float[{x}] x, float[{h}] h0) => (y) <float[6,12] w, float[1,24,12] u, float[1,24,8] r, 
    int64[1] none = {{0}}, float[8,5] v> {{ a = MatMul(x, w)  c = Relu(a)  t = Transpose <perm = [1,0,2]> (c)
    h, hn = GRU <hidden_size = 8> (t, u, r, , , h0)  s = Squeeze(hn, none)  y = MatMul(s, v) }}"""
MADE_UP: dict[str, tuple[str, Shapes]] = {
    "past and new are total": (CACHE, NAMED),
    "the sum is written": (CACHE.replace("batch,total", "batch,past_plus_seq"), NAMED),
    "one more is written": (
        CACHE.replace("batch,total", "batch,past_plus_1").replace("batch,seq,8", "batch,1,8"),
        {**NAMED, "x": (1, 1, 8), "mask": (1, 17)},
    ),
    "a state is called like the input": (GRU.format(x="batch,20,6", h="1,batch,8"), {"x": (1, 20, 6), "h0": (1, 1, 8)}),
    "a state without names": (GRU.format(x="?,20,6", h="1,?,8"), {"x": (1, 20, 6), "h0": (1, 1, 8)}),
    "lengths of one name": (
        """g (float[batch,places,6] x, float[batch,places] m, float[places] w0) => (y) <float[6,12] w, float[12,5] u,
        int64[1] last = {2}> { a = MatMul(x, w)  b = Relu(a)  k = Unsqueeze(m, last)  c = Mul(b, k)
        d = Unsqueeze(w0, one)  e = Mul(c, d)  y = MatMul(e, u) }""".replace(
            "int64[1] last", "int64[1] one = {1}, int64[1] last"
        ),
        {"x": (1, 16, 6), "m": (1, 16), "w0": (16,)},
    ),
    "a window of sound": (
        """g (float[batch,1,samples] x, float[2,batch,8] state) => (y, state2) <float[8,1,100] w, float[6,8,1] u,
        float[2,1,8] k> { a = Conv <strides = [50]> (x, w)  b = Relu(a)  y = Conv(b, u)  state2 = Mul(state, k) }""",
        {"x": (1, 1, 512), "state": (2, 1, 8)},
    ),
    "indices of the nodes of a graph": (
        """g (float[nodes,6] x, int64[2,edges] ends, float[edges,3] kinds) => (y) <float[6,12] w, float[12,5] z,
        float[3,5] k, int64 from = {0}> {
        a = MatMul(x, w)  b = Relu(a)  s = MatMul(b, z)  i = Gather <axis = 0> (ends, from)
        e = Gather <axis = 0> (s, i)  f = MatMul(kinds, k)  y = Add(e, f) }""",
        {"x": (2, 6), "ends": (2, 1), "kinds": (1, 3)},
    ),
    "images of the side that a Resize needs": (
        """g (float[N,3,H,W] x, float[N,4,8,8] k) => (y) <float[4,3,3,3] w, float[8,4,3,3] u, float[2,8,1,1] v> {
        a = Conv <strides = [8,8], pads = [1,1,1,1]> (x, w)  b = Relu(a)  c = Add(b, k)
        d = Conv <pads = [1,1,1,1]> (c, u)  e = Relu(d)  y = Conv(e, v) }""",
        {"x": (1, 3, 64, 64), "k": (1, 4, 8, 8)},
    ),
}


@pytest.mark.parametrize("name", MADE_UP)
def test_made_up_shapes_go_together(name: str) -> None:
    text, shapes = MADE_UP[name]
    model = build(text)
    for info in model.graph.input:
        # The parser knows names only.
        for dim in info.type.tensor_type.shape.dim:
            if "_plus_" in dim.dim_param:
                dim.dim_param = dim.dim_param.replace("_plus_", " + ")
    report = onnxpfp.prune(model, keep_macs=0.85, threads=1).report
    assert report.inputs == shapes
    assert report.oracle.runs >= 2
    assert onnxpfp.inspect(model).inputs == shapes
    noise = onnxpfp.prune(model, calibration="random", keep_macs=0.85, threads=1, samples=24).report
    assert (noise.inputs, noise.drift.samples) == (shapes, 3)


def test_given_lengths_hold_for_all_axes_of_that_name() -> None:
    given = {"x": (2, 5, 8), "pk": (2, 2, 3, 4)}
    report = onnxpfp.prune(build(CACHE), keep_macs=0.9, threads=1, input_shapes=given).report
    assert report.inputs == {**given, "mask": (2, 8), "pv": (2, 2, 3, 4)}


def test_where_no_shapes_are_found_an_example_has_the_inputs_names() -> None:
    text = """g (float[batch,seq,6] x, float[batch,other] m) => (y) <float[6,12] w, float[12,5] u,
        int64[2] odd = {5, 7}> { r = Reshape(m, odd)  q = ReduceMean <keepdims = 0> (r)  a = MatMul(x, w)  b = Relu(a)
        c = Mul(b, q)  y = MatMul(c, u) }"""
    with pytest.raises(ModelError, match=r"\(tried x \(1, 16, 6\), m \(1, 16\)\)") as caught:
        onnxpfp.prune(build(text), keep_macs=0.7)
    assert caught.value.hint.endswith('of this form: input_shapes {"x": (1,16,6)} input_shapes {"m": (1,16)}')
    report = onnxpfp.prune(build(text), keep_macs=0.7, input_shapes={"m": (1, 35)}).report
    assert report.inputs == {"x": (1, 16, 6), "m": (1, 35)}
