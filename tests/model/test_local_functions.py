"""Models that define their own ops: analysed with the bodies in place, written so where something went."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper, parser
from support.oracle import difference, problem, run

import onnxpfp
from onnxpfp.errors import VerificationError
from onnxpfp.model.functions import without_functions
from onnxpfp.model.load import load

HEAD = '<ir_version: 9, opset_import: ["": 18, "local": 1]>\n'
SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (6, 8, 3, 3), "w3": (4, 6, 1, 1), "b2": (6,)}
DECLARED = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in SHAPES.items())


def model_of(nodes: str, functions: str, head: str = HEAD) -> ModelProto:
    """A network of an image `x` and an output `y`, with random weights for the declared names."""
    model = parser.parse_model(f"{head}g (float[N,3,8,8] x) => (float[N,4,u,v] y) {{\n{nodes}\n}}\n{functions}")
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        array = rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


BLOCK = """<opset_import: ["": 18, "local": 1], domain: "local">
block <alpha: float = 0.1> (a, w, b) => (out) {
  c = Conv (a, w, b)
  out = local.act <alpha: float = @alpha> (c)
}
<opset_import: ["": 18], domain: "local">
act <alpha> (c) => (h) {
  s = LeakyRelu <alpha: float = @alpha> (c)
  h = Add (s, c)
}
"""
CASES = {
    "nested, attributes and their defaults": (
        "h = local.block <alpha = 0.3> (x, w1, b1)\nc = local.block (h, w2, b2)\ny = Conv (c, w3)",
        BLOCK,
        HEAD,
    ),
    "names that clash": (
        "s = local.block (x, w1, b1)\nc__1 = local.block (s, w2, b2)\nh = Relu (c__1)\ny = Conv (h, w3)",
        BLOCK,
        HEAD,
    ),
    "ops of a third domain": (
        "a = Conv (x, w1, b1)\nh = local.mine (a)\nc = Conv (h, w2)\ny = Conv (c, w3)",
        '<opset_import: ["com.microsoft": 1], domain: "local">\nmine (a) => (b) { b = com.microsoft.QuickGelu (a) }',
        HEAD,
    ),
    "another opset": (
        "a = Conv (x, w1, b1)\nh = local.mine (a)\nc = Conv (h, w2)\ny = Conv (c, w3)",
        '<opset_import: ["": 13], domain: "local">\nmine (a) => (b) { c = Relu (a)\n b = Neg (c) }',
        HEAD,
    ),
    "weights inside": (
        "h = local.mine (x)\na = Conv (h, w1)\nc = Conv (a, w2)\ny = Conv (c, w3)",
        '<opset_import: ["": 18], domain: "local">\nmine (a) => (b) {\n'
        "k = Constant <value = float[3,1,1] {0.5, 1.5, 2.0}> ()\n b = Mul (a, k) }",
        HEAD,
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def model(request) -> ModelProto:
    return model_of(*request.param)


def image(samples: int = 4) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((samples, 3, 8, 8)).astype(np.float32)


def test_bodies_in_place_compute_the_same(model):
    flat = without_functions(model)
    assert not flat.functions
    assert difference(run(model, {"x": image()}), run(flat, {"x": image()})) < 1e-6


def test_the_given_model_is_not_changed(model):
    before = model.SerializeToString(deterministic=True)
    without_functions(model)
    assert model.SerializeToString(deterministic=True) == before


def test_imports_are_those_of_the_ops_that_are_left(model):
    flat = without_functions(model)
    used = {node.domain for node in flat.graph.node}
    assert {entry.domain for entry in flat.opset_import} == used | {""}


def test_layers_behind_a_call_are_pruned(model, tmp_path):
    onnx.save(model, tmp_path / "in.onnx")
    result = onnxpfp.prune(tmp_path / "in.onnx", calibration={"x": image(32)}, keep_macs=0.6)
    assert {group.name for group in result.report.groups} == {"w1", "w2"}
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    pruned = onnx.load(tmp_path / "out.onnx")
    assert not pruned.functions
    assert np.isfinite(run(pruned, {"x": image()})["y"]).all()


def test_a_file_that_nothing_went_from_keeps_its_functions_to_the_byte(model, tmp_path):
    onnx.save(model, tmp_path / "in.onnx")
    result = onnxpfp.prune(tmp_path / "in.onnx", calibration={"x": image(8)}, keep_macs=1)
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()


def test_a_call_in_a_branch():
    nodes = """a = Conv (x, w1, b1)
h = Relu (a)
c = Conv (h, w2)
s = ReduceSum <keepdims = 0> (x)
t = Cast <to = 9> (s)
d = If (t) <then_branch = yes () => (u) { u = local.mine (c) }, else_branch = no () => (v) { v = Neg (c) }>
y = Conv (d, w3)"""
    text = '<opset_import: ["": 18], domain: "local">\nmine (a) => (b) { c = Relu (a)\n b = Neg (c) }'
    model = model_of(nodes, text)
    flat = without_functions(model)
    assert difference(run(model, {"x": image()}), run(flat, {"x": image()})) < 1e-6
    assert {group.name for group in problem(flat).graph.groups} == {"w1"}


def test_a_function_that_leaves_its_attribute_to_the_next_one():
    """`outer` is called without alpha, hands nothing on, and `inner` has a default."""
    text = """<opset_import: ["": 18, "local": 1], domain: "local">
outer <alpha> (a) => (b) { b = local.inner <alpha: float = @alpha> (a) }
<opset_import: ["": 18], domain: "local">
inner <alpha: float = 0.7> (a) => (b) { b = LeakyRelu <alpha: float = @alpha> (a) }"""
    model = model_of("a = Conv (x, w1, b1)\nh = local.outer (a)\nc = Conv (h, w2)\ny = Conv (c, w3)", text)
    assert [n.attribute[0].f for n in without_functions(model).graph.node if n.op_type == "LeakyRelu"] == [
        pytest.approx(0.7)
    ]


def test_metadata_and_weights_stay():
    model = model_of(*CASES["names that clash"])
    model.metadata_props.add(key="author", value="me")
    model.producer_name = "someone"
    model.graph.doc_string = "text"
    flat = without_functions(model)
    assert (flat.producer_name, flat.graph.doc_string, flat.metadata_props[0].value) == ("someone", "text", "me")
    assert list(flat.graph.initializer) == list(model.graph.initializer)


def test_bodies_that_compute_something_else_are_refused(monkeypatch):
    """As onnx.inliner alone would do it, which forgets the defaults of attributes."""
    monkeypatch.setattr("onnxpfp.model.functions._give_defaults", lambda model: None)
    with pytest.raises(VerificationError, match="rewritten for pruning, it computes something else"):
        onnxpfp.prune(model_of(*CASES["names that clash"]), calibration={"x": image(16)}, keep_macs=0.6)


def test_a_model_without_functions_is_the_same_object():
    model = model_of("a = Conv (x, w1)\nb = Conv (a, w2)\ny = Conv (b, w3)", "")
    assert without_functions(model) is model


def test_load_puts_the_bodies_in_place(model):
    assert not load(model).model.functions
    assert ort.InferenceSession(load(model).model.SerializeToString(), providers=["CPUExecutionProvider"])
