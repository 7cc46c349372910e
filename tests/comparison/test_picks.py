"""Outputs whose rows are picked: what is decided on is measured, and rows meet the rows of the original."""

from __future__ import annotations

import contextlib
import re

import nets
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper
from support.oracle import problem

import onnxpfp
from onnxpfp.cli.main import main
from onnxpfp.comparison.drift import DriftSums
from onnxpfp.comparison.picks import Picks
from onnxpfp.errors import OptionError

DATA = nets.noise(64, 10)
HEAD = """h = MatMul(x, w1) r = Relu(h) h2 = MatMul(r, w2) r2 = Relu(h2) s = MatMul(r2, w3) b = MatMul(r2, w4)
    q = Reshape(s, rows) o = Reshape(b, boxes) far = Add(o, corners)"""
"""q: 12 scores of 2 classes; far: 12 boxes that overlap seldom."""
KINDS = {
    "NonMaxSuppression": (
        """t = Transpose <perm = [0, 2, 1]> (q)
        i = NonMaxSuppression <center_point_box = 1> (far, t, k, overlap, threshold) at = Gather <axis = 1> (i, ends)
        y = GatherND(far, at)""",
        "float[M,4] y",
        ("far", "s"),
    ),
    "NonMaxSuppression, indices alone": (
        """t = Transpose <perm = [0, 2, 1]> (q)
        y = NonMaxSuppression <center_point_box = 1> (far, t, k, overlap, threshold)""",
        "int64[M,3] y",
        ("far", "s"),
    ),
    "NonZero": ("a = Greater(q, threshold) i = NonZero(a) t = Transpose(i) y = GatherND(q, t)", "float[M] y", ("s",)),
    "Compress": (
        """f = Reshape(q, flat) a = Greater(f, threshold) d = Reshape(far, flat4) a2 = Gather(a, every)
        y = Compress <axis = 0> (d, a2)""",
        "float[M,4] y",
        ("s",),
    ),
    "Unique": ("f = Mul(s, few) u = Round(f) y, i, j, n = Unique(u)", "float[M] y, int64[M] n", ("u",)),
    "TopK": (
        "f = Reshape(s, flat) v, i = TopK <axis = 0> (f, k) p = Reshape(far, flat) y = Gather(p, i)",
        "float[M] y, int64[M] i",
        ("s",),
    ),
    "Loop": (
        """z = ReduceMean <keepdims = 0> (s) a = Abs(z) last, y = Loop (turns, yes, a)
        <body = turn (int64 n, bool go, float v) => (bool more, float w, float out) {
            w = Add(v, step) more = Less(w, limit) out = Mul(w, w) }>""",
        "float[M] y",
        ("a",),
    ),
    "two in a row": (
        """v, i = TopK <axis = 1> (s, k) g = GatherElements <axis = 1> (b, i) m = MatMul(g, w5)
        c = Greater(m, threshold) e = NonZero(c) t = Transpose(e) y = GatherND(m, t)""",
        "float[M] y",
        ("m", "s"),
    ),
}
INTS = {
    "rows": [0, 12, 2],
    "boxes": [0, 12, 4],
    "k": [10],
    "ends": [0, 2],
    "flat": [-1],
    "flat4": [-1, 4],
    "turns": 99,
}
FLOATS = {"overlap": [0.5], "threshold": [0.4], "few": 2.0, "step": 0.02, "limit": 3.0}


def build(name: str) -> ModelProto:
    tail, outputs, _ = KINDS[name]
    corners = np.zeros((12, 4))
    corners[:, 0] = np.arange(12) // 2 * 20
    corners[:, 2:] = 8
    weights = {"w1": (10, 24), "w2": (24, 32), "w3": (32, 24), "w4": (32, 48)}
    rng = np.random.default_rng(3)
    arrays = {key: rng.standard_normal(shape) / np.sqrt(shape[0]) for key, shape in weights.items()}
    floats = {key: np.asarray(value) for key, value in FLOATS.items() if key in tail}
    more = {"w5": rng.standard_normal((10, 6))} if "w5" in tail else {}
    model = nets.build(
        f"g (float[N,10] x) => ({outputs}) {{ {HEAD} {tail} }}", {**arrays, **more, **floats, "corners": corners}
    )
    ints = {key: np.asarray(value, np.int64) for key, value in INTS.items() if key in f"{HEAD} {tail}"}
    if "every" in tail:
        # One box in two is asked about; the axis has 24 truth values a sample, the boxes are half as many.
        ints["every"] = np.arange(0, 24, 2)
    if "yes" in tail:
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in ints.items())
    return model


@pytest.mark.parametrize("name", KINDS)
def test_what_is_decided_on_is_measured(name: str) -> None:
    model = build(name)
    result = onnxpfp.prune(model, calibration=DATA, keep_macs=0.6)
    drift = result.report.drift
    assert drift.in_place.tensors == KINDS[name][2]
    assert drift.in_place.outputs == tuple(output.name for output in model.graph.output)
    assert drift.differing is None
    assert (drift.top1_agreement is not None) == (name in {"Unique", "two in a row"})
    assert 0 < drift.relative_error < 0.9


@pytest.mark.parametrize("name", KINDS)
def test_curves_are_not_flat(name: str) -> None:
    """Widths of changing length counted as 1 at every width, so nothing told one group from another."""
    report = onnxpfp.prunability(build(name), calibration=DATA)
    for group in report.groups:
        losses = [point.loss for point in group.curve if point.share < 1]
        assert 0 < losses[0] < 0.5
        assert len(set(losses)) == len(losses)
        assert losses[-1] > 1.5 * losses[0]
    assert 0 < report.curve[1].loss < 1
    assert any("the loss is measured at" in note for note in report.notes)


def test_rows_meet_the_rows_of_the_original() -> None:
    """The boxes that the pruned model computes, where the original picks."""
    model = build("NonMaxSuppression")
    split = onnxpfp.prune(model, calibration=DATA[:3], keep_macs=0.6)
    one, two = (nets.values(each, {"x": DATA[:3]}) for each in (model, split.model))
    place = tuple(one["at"].T)
    errors = [
        np.linalg.norm(a - b) / np.linalg.norm(a)
        for a, b in ((one["s"], two["s"]), (one["far"], two["far"]), (one["far"][place], two["far"][place]))
    ]
    assert split.report.drift.relative_error == pytest.approx(max(errors), rel=1e-3)


def test_a_bound_of_the_drift_and_one_line_of_the_report(tmp_path) -> None:
    model = build("NonMaxSuppression")
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=DATA)
    command = ["prune", "model.onnx", "out.onnx", "--calib-data", "data.npz", "--max-drift", "0.3"]
    with contextlib.chdir(tmp_path):
        done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "measured at 'far' and 's', which NonMaxSuppression decides on; 'y' row by row" in text
    assert "integer outputs" not in text
    assert 0.05 < float(re.search(r"relative output error ([\d.]+)", text)[1]) <= 0.3
    assert onnx.load(tmp_path / "out.onnx").graph.output == model.graph.output


def test_agreement_needs_class_scores_of_samples() -> None:
    """The best classes of each sample are picked of scores that tell them; the boxes of a detector are no classes."""
    text = """g (float[N,10] x) => (float[N,2] v, int64[N,2] i) {
        h = MatMul(x, w1) r = Relu(h) c = MatMul(r, w2) s = Softmax(c) v, i = TopK(s, k) }"""
    model = nets.build(text, {"w1": (10, 24), "w2": (24, 8)})
    model.graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), "k"))
    result = onnxpfp.prune(model, calibration=DATA[:3], keep_macs=0.4)
    one, two = (nets.values(each, {"x": DATA[:3]})["s"] for each in (model, result.model))
    assert result.report.drift.top1_agreement == np.mean(one.argmax(1) == two.argmax(1)) < 1
    assert onnxpfp.prune(model, calibration=DATA, min_agreement=0.5).report.drift.top1_agreement >= 0.5
    with pytest.raises(OptionError, match="no output looks like class scores"):
        onnxpfp.prune(build("NonMaxSuppression"), calibration=DATA, min_agreement=0.5)


GATE = """g (float[N,10] x) => (float[N,6] y) {
    h = MatMul(x, w1) r = Relu(h) l = MatMul(x, gate) v, i = TopK(l, k) p = Softmax(v) none = Mul(l, zero)
    share = ScatterElements <axis = 1> (none, i, p) u = Unsqueeze(share, last) e = Reshape(r, experts)
    t = Mul(e, u) f = Reshape(t, flat) y = MatMul(f, w2) }"""


def test_what_is_written_back_to_its_place_is_compared_as_it_is() -> None:
    """A router picks experts; its choice swaps no rows of the output."""
    model = nets.build(GATE, {"w1": (10, 24), "gate": (10, 4), "w2": (24, 6), "zero": np.zeros(1)})
    ints = {"k": [2], "last": [2], "experts": [0, 4, 6], "flat": [0, 24]}
    for name, array in ints.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.int64), name))
    result = onnxpfp.prune(model, calibration=DATA[:3], keep_macs=0.7)
    one, two = (nets.run(each, DATA[:3]) for each in (model, result.model))
    assert result.report.drift.in_place is None
    assert result.report.drift.relative_error == pytest.approx(
        np.linalg.norm(one - two) / np.linalg.norm(one), rel=1e-4
    )


def test_the_largest_numbers_in_their_order_pick_no_rows() -> None:
    text = "g (float[N,10] x) => (float[N,3] y) { h = MatMul(x, w1) r = Relu(h) c = MatMul(r, w2) y, i = TopK(c, k) }"
    model = nets.build(text, {"w1": (10, 24), "w2": (24, 8)})
    model.graph.initializer.append(numpy_helper.from_array(np.array([3], np.int64), "k"))
    assert onnxpfp.prune(model, calibration=DATA, keep_macs=0.7).report.drift.in_place is None


def test_float_outputs_of_another_length_are_as_far_as_missing() -> None:
    """Rows that nothing accounts for: they are not counted among the integer outputs."""
    sums = DriftSums()
    sums.add({"x": np.zeros((2, 3), np.float32)}, {"y": np.ones((4, 3))}, {"y": np.ones((5, 3))})
    drift = sums.drift(2, held_out=True)
    assert (drift.relative_error, drift.differing) == (1.0, None)


def test_a_loop_that_counts_its_turns_picks_no_rows() -> None:
    """As exporters write recurrences: the number of turns is a whole number, whatever is computed in them."""
    text = """g (float[N,10] x) => (float[M] y, float[N,24] last) { h = MatMul(x, w1) r = Relu(h) s = MatMul(r, w3)
        end, last, y = Loop (turns, yes, start, s) <body = turn (int64 n, bool go, int64 c, float v)
        => (bool more, int64 d, float w, float out) {
            d = Add(c, start) more = Less(d, limit) w = Tanh(v) out = ReduceMean <keepdims = 0> (w) }> }"""
    model = nets.build(text, {"w1": (10, 24), "w3": (24, 24)})
    ints = {"turns": np.array(9), "start": np.array(1), "limit": np.array(4)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in ints.items())
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    assert nets.session(model).run(None, {"x": DATA})[0].shape == (3,)
    assert onnxpfp.prune(model, calibration=DATA, keep_macs=0.8).report.drift.in_place is None


def test_scores_that_are_an_output_too_stay_compared() -> None:
    text = """g (float[N,10] x) => (float[M] flat, int64[M] i) {
        h = MatMul(x, w1) r = Relu(h) s = MatMul(r, w2) flat = Reshape(s, all) v, i = TopK(flat, k) }"""
    model = nets.build(text, {"w1": (10, 24), "w2": (24, 8)})
    for name, number in (("all", -1), ("k", 5)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), name))
    picks = Picks.of(problem(model).analysis)
    assert (picks.outputs, picks.tensors) == (("i",), ("s",))
    shown = {"flat": np.ones(4, np.float32), "i": np.ones(5, np.int64), "s": np.ones((2, 2), np.float32)}
    assert [*picks.compared(shown)] == ["flat", "s"]
