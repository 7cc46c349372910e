"""Models that define their own ops: analysed with the bodies in place, written so where something went."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper, parser
from support.oracle import difference, problem, run

import onnxpfp
from onnxpfp.errors import ModelError, VerificationError
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


OVERLOADED = """<opset_import: ["": 18], domain: "local">
block (a, w) => (b) { c = Conv (a, w)
 b = LeakyRelu <alpha = 0.3> (c) }
<opset_import: ["": 18], domain: "local">
other (a, w) => (b) { c = Conv (a, w)
 b = Neg (c) }
<opset_import: ["": 18, "local": 1], domain: "local">
third (a, w, v) => (b) { c = local.block (a, w)
 b = local.other (c, v) }
"""
"""Functions whose first two become overloads of one name."""
OVERLOAD_CASES = {
    "two overloads": "h = local.block (x, w1)\nc = local.other (h, w2)\ny = Conv (c, w3)",
    "called by a function": "c = local.third (x, w1, w2)\ny = Conv (c, w3)",
    "called twice": "h = local.block (x, w1)\nn = Abs (h)\nc = local.other (n, w2)\nk = local.other (h, w2)\n"
    "s = Add (c, k)\ny = Conv (s, w3)",
    "called in a branch": "h = local.block (x, w1)\nc = Conv (h, w2)\ns = ReduceSum <keepdims = 0> (x)\n"
    "t = Cast <to = 9> (s)\nd = If (t) <then_branch = yes () => (u) { u = Neg (c) }, "
    "else_branch = no () => (v) { v = local.other (c, w4) }>\ny = Conv (d, w3)",
    "named like one of another": "h = local.block (x, w1)\nc = local.other (h, w2)\n"
    "d = local.block__two (c)\ny = Conv (d, w3)",
}


def with_overloads(model: ModelProto) -> ModelProto:
    """Let `block` and `other` be overloads of `block`; the third function is one without a name when it calls them."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = 10
    names = {"block": "one", "other": "two"}

    def change(nodes) -> None:
        for node in nodes:
            if node.domain == "local" and node.op_type in {*names, "third"}:
                node.op_type, node.overload = "block", names.get(node.op_type, "")
            for attribute in node.attribute:
                change(attribute.g.node)

    change(copy.graph.node)
    for function in copy.functions:
        change(function.node)
        if function.name in {*names, "third"}:
            function.name, function.overload = "block", names.get(function.name, "")
    return copy


@pytest.fixture(params=OVERLOAD_CASES.values(), ids=OVERLOAD_CASES.keys())
def overloaded(request) -> tuple[ModelProto, ModelProto]:
    """A model with functions of different names, and the same with overloads, which onnxruntime does not load."""
    more = (
        '<opset_import: ["": 18], domain: "local">\nblock__two (a) => (b) { b = Abs (a) }'
        if "__" in request.param
        else ""
    )
    model = model_of(request.param, OVERLOADED + more)
    weight = np.random.default_rng(2).standard_normal((6, 6, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w4"))
    return model, with_overloads(model)


def test_overloads_get_their_own_bodies(overloaded):
    named, model = overloaded
    flat = without_functions(model)
    assert not flat.functions
    assert difference(run(named, {"x": image()}), run(flat, {"x": image()})) < 1e-6


def loads(model: ModelProto) -> bool:
    if any(node.op_type == function.name for function in model.functions for node in function.node):
        # A function that calls an overload of itself: onnxruntime goes on inlining for ever.
        return False
    try:
        return bool(ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]))
    except Exception:
        return False


def test_overloads_are_pruned_and_it_is_said_where_onnxruntime_refuses_them(overloaded):
    named, model = overloaded
    options = {"calibration": {"x": image(16)}, "keep_macs": 0.7}
    wanted, result = onnxpfp.prune(named, **options), onnxpfp.prune(model, **options)
    assert difference(run(wanted.model, {"x": image()}), run(result.model, {"x": image()})) < 1e-6
    assert not any("as it was given" in note for note in wanted.report.notes)
    notes = [note for note in result.report.notes if "as it was given" in note]
    assert len(notes) == (0 if loads(model) else 1)
    assert not any("report" in note for note in notes)


def test_overloads_that_compute_something_else_are_refused(monkeypatch):
    """The check runs against onnxruntime's own inlining."""
    model = with_overloads(model_of(OVERLOAD_CASES["two overloads"], OVERLOADED))
    flat = without_functions(model)
    next(node for node in flat.graph.node if node.op_type == "LeakyRelu").attribute[0].f = 0.9
    monkeypatch.setattr("onnxpfp.model.load.without_functions", lambda model: flat)
    with pytest.raises(VerificationError, match="rewritten for pruning, it computes something else"):
        onnxpfp.prune(model, calibration={"x": image(16)}, keep_macs=0.6)


def test_file_that_is_loaded_in_no_form_is_pruned_without_that_check(monkeypatch):
    model = with_overloads(model_of(OVERLOAD_CASES["called by a function"], OVERLOADED))
    monkeypatch.setattr("onnxpfp.pipeline.verification.with_named_overloads", lambda model: model)
    result = onnxpfp.prune(model, calibration={"x": image(16)}, keep_macs=0.6)
    assert any("as it was given" in note for note in result.report.notes)


def test_recursion_is_an_error():
    text = (
        '<opset_import: ["": 18, "local": 1], domain: "local">\nmine (a) => (b) { c = Relu (a)\n b = local.mine (c) }'
    )
    with pytest.raises(ModelError, match="the model: its local function 'mine' calls itself"):
        load(model_of("a = Conv (x, w1)\nh = local.mine (a)\nc = Conv (h, w2)\ny = Conv (c, w3)", text))
