"""What is typed about inputs: shapes, those of scalars and empty ones too, and sample axes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from support.graphs import build

RATE = """g (float[batch,6] x, {kind} {name}) => (y) <float[6,12] w, float[12,5] z> {{
    f = Cast <to = 1> ({name})  a = MatMul(x, w)  b = Relu(a)  c = Mul(b, f)  y = MatMul(c, z) }}"""
TIME_FIRST = """g (float[4,batch,6] x, float[4] m) => (y) <float[6,12] w, float[12,5] z, int64[2] ax = {1, 2}> {
    a = MatMul(x, w)  b = Relu(a)  k = Unsqueeze(m, ax)  c = Mul(b, k)  y = MatMul(c, z) }"""
ALONE = """g (float[4,p,q] x) => (y) <float[5,12] w, float[12,5] z> {
    t = Transpose <perm = [2, 0, 1]> (x)  a = MatMul(t, w)  b = Relu(a)  y = MatMul(b, z) }"""
CACHE = """g (float[batch,seq,6] x, float[batch,past,6] old) => (y) <float[6,12] w, float[12,5] z> {
    j = Concat <axis = 1> (old, x)  a = MatMul(j, w)  b = Relu(a)  y = MatMul(b, z) }"""


@pytest.mark.parametrize(
    ("kind", "name"),
    [("float", "sr"), ("int64", "sr"), ("int32", "rate:0"), ("bool", "is_on"), ("float16", "a.b"), ("double", "x2")],
)
def test_a_scalar_has_an_empty_shape(folder, prune, inspect, kind, name):
    model = build(RATE.format(kind=kind, name="scalar"))
    model.graph.input[1].name = name
    model.graph.node[0].input[0] = name
    onnx.save(model, folder / "scalar.onnx")
    typed = ("--input-shape", "x:3,6", "--input-shape", f"{name}:", "--json", "-")
    result = prune("scalar.onnx", "out.onnx", "--force", "--keep-macs", "0.7", *typed)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["inputs"] == {"x": [3, 6], name: []}
    assert json.loads(inspect("scalar.onnx", *typed).stdout)["inputs"] == {"x": [3, 6], name: []}


def test_a_shape_of_a_scalar_that_has_axes_is_refused(folder, refuse):
    onnx.save(build(RATE.format(kind="float", name="sr")), folder / "scalar.onnx")
    found = refuse("scalar.onnx", "out.onnx", "--input-shape", "sr:1", code=2)
    assert found.error == "--input-shape sr:1 contradicts the model's shape of a scalar"
    assert refuse("scalar.onnx", "out.onnx", "--input-shape", "x:", code=2).error.endswith(
        "contradicts the model's ?,6"
    )


def test_an_axis_of_a_cache_may_be_empty(folder, prune):
    onnx.save(build(CACHE), folder / "cache.onnx")
    result = prune("cache.onnx", "out.onnx", "--keep-macs", "0.7", "--input-shape", "old:1,0,6", "--json", "-")
    assert json.loads(result.stdout)["inputs"] == {"x": [1, 16, 6], "old": [1, 0, 6]}


def _numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_sample_axis_of_the_only_input_needs_no_name(folder, prune, refuse):
    onnx.save(build(ALONE), folder / "alone.onnx")
    np.savez(folder / "alone.npz", x=_numbers(4, 5, 24))
    found = refuse("alone.onnx", "out.onnx", "--calib-data", "alone.npz")
    assert found.error == (
        "alone.npz: input 'x' is float32 (4, ?, ?): which of its free axes counts the samples is not known"
    )
    assert found.hint.startswith("--sample-axis x:1 says that axis 1 does")
    for axis in ("2", "-1", "x:2"):
        result = prune("alone.onnx", "out.onnx", "--calib-data", "alone.npz", "--sample-axis", axis, "--json", "-")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["drift"]["samples"] == 3
    assert "Note: samples of 'x' lie along axis 2" in result.stderr


def test_what_is_the_same_for_all_samples_can_be_said(folder, prune):
    onnx.save(build(TIME_FIRST), folder / "in.onnx")
    np.savez(folder / "data.npz", x=_numbers(4, 24, 6), m=_numbers(4))
    np.savez(folder / "few.npz", x=_numbers(4, 4, 6), m=_numbers(4))
    result = prune("in.onnx", "out.onnx", "--calib-data", "data.npz")
    assert result.exit_code == 0, result.output
    assert "Note: the same for all samples: 'm'" in result.stderr
    # As many numbers as samples may be meant either way.
    result = prune("in.onnx", "out.onnx", "--calib-data", "few.npz", "--keep-macs", "0.7")
    assert "Note: 'm' (4,) is read as 4 samples along axis 0, all in one run" in result.stderr
    said = ("--sample-axis", "m:none", "--keep-macs", "0.7")
    result = prune("in.onnx", "out.onnx", "--calib-data", "few.npz", *said)
    assert "Note: the same for all samples: 'm'" in result.stderr


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        (["x"], "--sample-axis 'x' is no axis"),
        (["x:a"], "--sample-axis 'x:a' is no axis"),
        (["x:1,2"], "--sample-axis 'x:1,2' is no axis"),
        (["x:1", "0"], "--sample-axis gives 'x' two axes"),
        (["y:1"], "--sample-axis names 'y', which is not an input of the model"),
        (["x:4"], "--sample-axis x:4 is no axis of it"),
    ],
)
def test_a_bad_sample_axis(refuse, axes, says):
    typed = [part for axis in axes for part in ("--sample-axis", axis)]
    found = refuse("in.onnx", "out.onnx", "--calib-data", "data.npz", *typed, code=2)
    assert found.error == says
    assert found.hint
