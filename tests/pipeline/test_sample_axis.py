"""Samples along any axis: the arrays as the network takes them give what whole feeds of the same samples give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import nets
import numpy as np
import pytest
from onnx import ModelProto
from support.graphs import build

import onnxpfp
from onnxpfp.api.prune import Result
from onnxpfp.errors import CalibrationError

COUNT = 24


@dataclass(frozen=True)
class Net:
    """A network, and the shapes of its inputs with the number of samples as -1; shared ones have none."""

    text: str
    inputs: Mapping[str, tuple[int, ...]]
    shared: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    axes: Mapping[str, int | None] = field(default_factory=dict)


GRU = """g (float[24,batch,6] x) => (y) <float[6,12] w, float[1,24,12] u, float[1,24,8] r, float[1,48] b,
    int64[1] one = {1}, float[8,10] v, float[10,5] z> {
    a = MatMul(x, w)  c = Relu(a)  h, l = GRU <hidden_size = 8> (c, u, r, b)  s = Squeeze(h, one)
    d = MatMul(s, v)  e = Relu(d)  y = MatMul(e, z) }"""
NETS = {
    "steps, batch, features": Net(GRU, {"x": (24, -1, 6)}),
    "sequence, batch, features, all free": Net(GRU.replace("[24,batch,6]", "[seq,batch,6]"), {"x": (24, -1, 6)}),
    "an encoder layer, time first": Net(
        """g (float[seq,batch,8] x) => (y) <float[8,8] q, float[8,8] k, float[8,16] f, float[16,3] z,
        float[1] c = {0.3}> {
        t = Transpose <perm = [1,0,2]> (x)  a = MatMul(t, q)  b = MatMul(t, k)  bt = Transpose <perm = [0,2,1]> (b)
        p = MatMul(a, bt)  m = Mul(p, c)  s = Softmax <axis = -1> (m)  o = MatMul(s, t)
        n = Transpose <perm = [1,0,2]> (o)  h = MatMul(n, f)  r = Relu(h)  y = MatMul(r, z) }""",
        {"x": (12, -1, 8)},
    ),
    "a state in axis 1": Net(
        """g (float[batch,20,6] x, float[1,batch,8] h0) => (y, hn) <float[6,12] w, float[1,24,12] u, float[1,24,8] r,
        float[1,48] b, int64[1] none = {0}, float[8,10] v, float[10,5] z> {
        a = MatMul(x, w)  c = Relu(a)  t = Transpose <perm = [1,0,2]> (c)
        h, hn = GRU <hidden_size = 8> (t, u, r, b, , h0)
        s = Squeeze(hn, none)  d = MatMul(s, v)  e = Relu(d)  y = MatMul(e, z) }""",
        {"x": (-1, 20, 6), "h0": (1, -1, 8)},
    ),
    "two states of two layers": Net(
        """g (float[10,rows,6] x, float[2,rows,8] h0, float[2,rows,8] c0) => (y) <float[6,12] w, float[2,32,12] u,
        float[2,32,8] r, int64[1] one = {1}, float[16,10] v, float[10,5] z, int64[3] flat = {10, -1, 16}> {
        a = MatMul(x, w)  c = Relu(a)  n = Identity(c)
        h, hn, cn = LSTM <hidden_size = 8, direction = "bidirectional"> (n, u, r, , , h0, c0)
        m = Transpose <perm = [0,2,1,3]> (h)  s = Reshape(m, flat)  d = MatMul(s, v)  e = Relu(d)
        y = MatMul(e, z) }""",
        {"x": (10, -1, 6), "h0": (2, -1, 8), "c0": (2, -1, 8)},
    ),
    "images with the batch last": Net(
        """g (float[3,8,8,batch] x) => (y) <float[8,3,3,3] w, float[6,8,3,3] u, float[6,4] v> {
        t = Transpose <perm = [3,0,1,2]> (x)  a = Conv <pads = [1,1,1,1]> (t, w)  b = Relu(a)  c = Conv (b, u)
        d = Relu(c)  p = GlobalAveragePool(d)  f = Flatten(p)  y = MatMul(f, v) }""",
        {"x": (3, 8, 8, -1)},
    ),
    "features, batch": Net(
        """g (float[6,batch] x) => (y) <float[12,6] w, float[5,12] u> {
        a = MatMul(w, x)  b = Relu(a)  y = MatMul(u, b) }""",
        {"x": (6, -1)},
    ),
    "a mask over positions and a scalar": Net(
        """g (float[batch,seq,6] x, float[seq] m, float rate) => (y) <float[6,12] w, float[12,5] u,
        int64[2] ax = {0, 2}> {
        a = MatMul(x, w)  b = Relu(a)  k = Unsqueeze(m, ax)  c = Mul(b, k)  d = Mul(c, rate)  y = MatMul(d, u) }""",
        {"x": (-1, 9, 6)},
        {"m": (9,), "rate": ()},
    ),
    "an adjacency for all": Net(
        """g (float[batch,7,6] x, float[7,7] adj) => (y) <float[6,12] w, float[12,5] u> {
        a = MatMul(x, w)  b = MatMul(adj, a)  c = Relu(b)  d = MatMul(c, u)  y = MatMul(adj, d) }""",
        {"x": (-1, 7, 6)},
        {"adj": (7, 7)},
    ),
    "an axis that the user says": Net(
        """g (float[4,p,q,6] x) => (y) <float[6,12] w, float[12,5] u> {
        a = MatMul(x, w)  b = Relu(a)  c = ReduceMean <axes = [0], keepdims = 0> (b)  y = MatMul(c, u) }""",
        {"x": (4, 3, -1, 6)},
        axes={"x": 2},
    ),
}


def model_of(name: str) -> ModelProto:
    return build(NETS[name].text)


def arrays_of(net: Net) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the samples as the network takes them, and as whole feeds."""
    rng = np.random.default_rng(3)
    shared = {name: np.asarray(rng.uniform(0.5, 1.5, shape), np.float32) for name, shape in net.shared.items()}
    natural, whole = dict(shared), {name: np.stack([array] * COUNT) for name, array in shared.items()}
    for name, shape in net.inputs.items():
        axis = shape.index(-1)
        natural[name] = rng.standard_normal([COUNT if size < 0 else size for size in shape]).astype(np.float32)
        whole[name] = np.expand_dims(np.moveaxis(natural[name], axis, 0), axis + 1)
    return natural, whole


def pruned(name: str, arrays: Mapping[str, np.ndarray], **options) -> Result:
    axes = NETS[name].axes if "sample_axes" not in options else options.pop("sample_axes")
    # Refits draw by batches, and whole feeds run one by one; joint refits draw some positions only.
    options = {"batch_size": 8, "effort": "low", **options}
    return onnxpfp.prune(model_of(name), calibration=arrays, keep_macs=0.6, threads=1, sample_axes=axes, **options)


@pytest.mark.parametrize("name", NETS)
def test_slices_give_what_whole_feeds_give(name: str) -> None:
    natural, whole = arrays_of(NETS[name])
    one, two = pruned(name, natural).report, pruned(name, whole).report
    assert one.inputs == two.inputs
    assert one.samples == two.samples == COUNT - 2 * (COUNT // 8)
    assert one.drift is not None
    assert two.drift is not None
    assert (one.drift.samples, one.drift.held_out) == (two.drift.samples, two.drift.held_out) == (COUNT // 8, True)
    assert one.drift.relative_error == pytest.approx(two.drift.relative_error, rel=1e-3)
    assert one.after == two.after
    assert [group.kept for group in one.groups] == [group.kept for group in two.groups]
    for mine, theirs in zip(one.groups, two.groups, strict=True):
        assert mine.sensitivity_sum == pytest.approx(theirs.sensitivity_sum, rel=1e-4)
    assert one.before.macs == two.before.macs


@pytest.mark.parametrize("score", ["thinet", "hrank", "apoz", "reconstruction", "energy"])
def test_every_criterion_takes_its_samples_where_they_lie(score: str) -> None:
    natural, whole = arrays_of(NETS["steps, batch, features"])
    one, two = (pruned("steps, batch, features", arrays, score=score) for arrays in (natural, whole))
    assert [g.kept for g in one.report.groups] == [g.kept for g in two.report.groups]
    assert one.report.drift.relative_error == pytest.approx(two.report.drift.relative_error, rel=1e-3)


def test_the_report_says_where_the_samples_lie() -> None:
    natural, _ = arrays_of(NETS["a mask over positions and a scalar"])
    notes = pruned("a mask over positions and a scalar", natural).report.notes
    assert "the same for all samples: 'm', 'rate'" in notes
    natural, _ = arrays_of(NETS["a state in axis 1"])
    assert "samples of 'h0' lie along axis 1" in pruned("a state in axis 1", natural).report.notes
    report = onnxpfp.prunability(model_of("features, batch"), calibration=arrays_of(NETS["features, batch"])[0])
    assert "samples of 'x' lie along axis 1" in report.notes


def test_an_axis_that_nobody_says_is_asked_for() -> None:
    name = "an axis that the user says"
    natural, whole = arrays_of(NETS[name])
    with pytest.raises(CalibrationError, match="which of its free axes counts the samples is not known") as caught:
        pruned(name, natural, sample_axes={})
    assert caught.value.hint.startswith('sample_axes {"x": 1} says that axis 1 does')
    assert pruned(name, whole, sample_axes={}).report.drift.samples == COUNT // 8


def test_rows_that_are_no_samples_have_no_classes() -> None:
    """Ten steps of six features are no ten samples, whatever the shape of the output."""
    text = """g (float[10,batch,6] x) => (y) <float[6,12] w, float[12,5] u> {
        a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, u)  y = ReduceMean <axes = [1], keepdims = 0> (c) }"""
    whole = nets.noise(COUNT, 10, 1, 6)
    report = onnxpfp.prune(build(text), calibration={"x": whole}, keep_macs=0.6, threads=1).report
    assert report.drift.top1_agreement is None
    last = text.replace("axes = [1]", "axes = [0]")
    for arrays in ({"x": whole}, {"x": nets.noise(10, COUNT, 6)}):
        drift = onnxpfp.prune(build(last), calibration=arrays, keep_macs=0.6, threads=1).report.drift
        assert drift.top1_agreement is not None
        assert drift.samples == COUNT // 8
