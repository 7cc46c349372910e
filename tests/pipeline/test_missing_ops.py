"""Ops that onnxruntime lacks: what lies before them is pruned, they and what depends on them stay whole."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import ModelProto, helper, numpy_helper
from support.bodies import fill_all
from support.graphs import build
from support.oracle import difference, run

import onnxpfp
from onnxpfp.cli.main import main
from onnxpfp.errors import ModelError, OptionError
from onnxpfp.model.constants import all_graphs

WEIGHTS = (
    "float[12,3,3,3] w1, float[12] b1, float[12] bz, float[10,12,1,1] w2, float[10,10,1,1] w3, float[6,10,1,1] w4, "
    "float[6,6,1,1] w5, float[6] b5, float[12,10,1,1] w6, float[6,12,1,1] w7, "
    "float[10,12,1,1] w8, float[12,3,3,3] w9"
)
CONDITION = "t = ReduceSum<keepdims = 0>(x)\nu = Cast<to = 9>(t)\n"
HEAD = "a = Conv(x, w1, b1)\nr = Relu(a)\nc = Conv(r, w2)\n"
CASES = {
    "at the end": HEAD + "y = TRT.Last(c)",
    "at the end, of two tensors": HEAD + "d = Conv(r, w2)\ne = Sigmoid(d)\ny = TRT.Two(c, e)",
    "weights behind": HEAD + "m = TRT.Middle(c)\nk = Relu(m)\ny = Conv(k, w4)",
    "a residual around it": HEAD + "m = TRT.Middle(c)\nk = Add(m, c)\ny = Conv(k, w4)",
    "a shape of the head": HEAD + "s = Shape(c)\nm = TRT.Middle(c)\nf = Flatten(m)\ny = Reshape(f, s)",
    "two of them": HEAD + "m = TRT.Middle(c)\nn = my.Other(c)\nk = Add(m, n)\ny = Conv(k, w4)",
    "one behind the other": HEAD + "m = TRT.Middle(c)\nk = Conv(m, w3)\nn = my.Other(k)\ny = Conv(n, w4)",
    "of the standard's own domain": HEAD + "m = Unheard(c)\ny = Conv(m, w4)",
    "an output of the head beside it": HEAD + "z = Conv(c, w4)\nm = TRT.Middle(c)\ny = Neg(m)",
    "a bias of both": "a = Conv(x, w1, bz)\nr = Relu(a)\nc = Conv(r, w2)\nm = TRT.Middle(c)\n"
    "k = Conv(m, w6, bz)\ny = Conv(k, w7)",
    "a name that pruning would give": "a = Conv(x, w1, bz)\nr = Relu(a)\nc = Conv(r, w2)\ne = Conv(x, w9, bz)\n"
    "f = Relu(e)\nd = Conv(f, w8)\ng = Add(c, d)\nbz_1 = TRT.Middle(g)\ny = Neg(bz_1)",
    "a weight of both": HEAD + "d = Conv(c, w3)\nm = TRT.Middle(d)\nk = Conv(m, w3)\ny = Conv(k, w4)",
    "constants of its own": HEAD + "f = Constant<value = float[1] {0.5}>()\ng = Neg(f)\n"
    "m = TRT.Middle(c)\ny = Mul(m, g)",
    "in a branch": HEAD + CONDITION + "m = If(u) <then_branch = yes () => (o) { o = TRT.Middle(c) }, "
    "else_branch = no () => (p) { p = Neg(c) }>\ny = Conv(m, w4)",
    "weights that a branch reads": HEAD + "d = Conv(c, w3)\n" + CONDITION + "m = If(u) <then_branch = yes () => (o) "
    "{ q = TRT.Middle(d)\n o = Conv(q, w3) }, else_branch = no () => (p) { p = Neg(d) }>\n"
    "y = Conv(m, w4)",
    "numbers of a reshape of both": HEAD + "l = Constant<value_ints = [0, -1]>()\nf = Reshape(r, l)\nh = Relu(f)\n"
    "m = TRT.Middle(c)\nk = Reshape(m, l)\ny = Neg(k)",
}


def network(nodes: str) -> ModelProto:
    read = set(re.findall(r"\b[wb][0-9z]\b", nodes))
    declared = ", ".join(part for part in WEIGHTS.split(", ") if part.split()[1] in read)
    outputs = "float y" + (", float z" if "z = " in nodes else "")
    model = build(f"g (float[N,3,8,8] x) => ({outputs}) <{declared}> {{\n{nodes}\n}}")
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    domains = {node.domain for graph in all_graphs(model) for node in graph.node}
    for domain in sorted(domains - {entry.domain for entry in model.opset_import}):
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def known(model: ModelProto) -> ModelProto:
    """Put ops that onnxruntime has in the place of those that it lacks: any, as long as shapes stay."""
    copy = ModelProto()
    copy.CopyFrom(model)
    stand_ins = {"Last": "Tanh", "Two": "Mul", "Middle": "Abs", "Other": "Softplus", "Unheard": "Elu"}
    for node in (node for graph in all_graphs(copy) for node in graph.node):
        if node.op_type in stand_ins:
            node.op_type, node.domain = stand_ins[node.op_type], ""
    return copy


def images(samples: int = 24) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((samples, 3, 8, 8)).astype(np.float32)


def missing_notes(notes: tuple[str, ...]) -> list[str]:
    return [note for note in notes if note.startswith("onnxruntime lacks")]


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def model(request) -> ModelProto:
    return network(request.param)


def test_all_of_it_is_written_and_computes_what_pruning_makes_of_it(model, tmp_path):
    """The plan, replayed on the network with ops that onnxruntime has, leads to the same network."""
    result = onnxpfp.prune(model, keep_macs=0.6)
    assert result.unchanged is None
    assert len(missing_notes(result.report.notes)) == 1
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert sorted(node.op_type for node in written.graph.node) == sorted(node.op_type for node in model.graph.node)
    assert written.graph.output == model.graph.output
    whole = onnxpfp.prune(known(model), from_plan=result.plan)
    outputs = [run(each, {"x": images(4)}) for each in (whole.model, known(written))]
    assert difference(*outputs) < 1e-5
    assert outputs[0].keys() == outputs[1].keys()


def test_what_depends_on_it_stays_to_the_byte(model):
    result = onnxpfp.prune(model, calibration={"x": images()}, keep_macs=0.6)
    groups = {group.name for group in result.report.groups if group.kept < group.channels}
    assert groups
    assert groups <= {"w1", "w2", "w8", "w9"}
    old, new = ({t.name: t for t in m.graph.initializer} for m in (model, result.model))
    behind = {"w3", "w4", "w5", "w6", "w7"} & old.keys() - (
        {"w4"} if "z" in {o.name for o in model.graph.output} else set()
    )
    for name in behind:
        assert old[name] == new[name]
    reasons = {fixed.tensor: fixed.reason for fixed in result.report.skipped}
    assert all("an op that onnxruntime lacks" in reasons[name] for name in behind)


def test_sizes_count_the_whole_file(model, tmp_path):
    onnx.save(model, tmp_path / "in.onnx")
    result = onnxpfp.prune(tmp_path / "in.onnx", keep_params=0.8)
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    for size, name in ((result.report.before, "in.onnx"), (result.report.after, "out.onnx")):
        graph = onnx.load(tmp_path / name).graph
        constants = [
            a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"
        ]
        arrays = map(numpy_helper.to_array, [*graph.initializer, *constants])
        assert size.params == sum(array.size for array in arrays if array.dtype == np.float32)
        assert size.bytes == (tmp_path / name).stat().st_size
    assert result.report.after.params <= 0.8 * result.report.before.params


def test_drift_is_that_of_the_tensors_that_it_reads(model):
    result = onnxpfp.prune(model, calibration={"x": images()}, keep_macs=0.6)
    assert result.report.drift is not None
    assert 0 < result.report.drift.relative_error < 2
    assert result.report.oracle.runs > 1


def test_file_from_which_nothing_goes_keeps_its_bytes(model, tmp_path):
    onnx.save(model, tmp_path / "in.onnx")
    result = onnxpfp.prune(tmp_path / "in.onnx", calibration={"x": images()}, keep_macs=1)
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()
    assert result.model == model


def test_inspection_shows_what_could_be_pruned_before_it(model):
    inspection = onnxpfp.inspect(model, input_shapes={"x": (1, 3, 8, 8)})
    pruned = onnxpfp.prune(model, input_shapes={"x": (1, 3, 8, 8)}, keep_macs=0.6)
    assert {group.name for group in inspection.groups} == {group.name for group in pruned.report.groups}
    assert inspection.total.params == pruned.report.before.params
    assert inspection.nodes == len(model.graph.node)
    assert len(missing_notes(inspection.notes)) == 1
    assert any("that onnxruntime lacks" in axis.reason for stay in inspection.stays for axis in stay.axes)


def test_op_without_an_opset_import(tmp_path):
    model = network(CASES["weights behind"])
    del model.opset_import[1]
    result = onnxpfp.prune(model, keep_macs=0.6)
    assert len(missing_notes(result.report.notes)) == 1
    assert result.model.opset_import == model.opset_import


def test_known_op_without_a_kernel_for_its_type():
    model = network(HEAD + "h = Cast<to = 16>(c)\nm = Neg(h)\nf = Cast<to = 1>(m)\ny = Conv(f, w4)")
    result = onnxpfp.prune(model, calibration={"x": images()}, keep_macs=0.6)
    assert missing_notes(result.report.notes)[0].startswith("onnxruntime lacks Neg, so 4 nodes were not run")
    assert {group.name for group in result.report.groups} == {"w1"}


def test_op_in_a_local_function():
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1, "TRT": 1]>
g (float[N,3,8,8] x) => (float[N,6,6,6] y) { c = local.head(x, w1, b1, w2)\n k = local.rest(c)\n y = Conv(k, w4) }
<opset_import: ["": 17], domain: "local"> head (x, v, b, w) => (c) { a = Conv(x, v, b)\n r = Relu(a)\n c = Conv(r, w) }
<opset_import: ["": 17, "TRT": 1], domain: "local"> rest (c) => (k) { m = TRT.Middle(c)\n k = Relu(m) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(network(CASES["weights behind"]).graph.initializer)
    result = onnxpfp.prune(model, calibration={"x": images()}, keep_macs=0.6)
    assert {group.name for group in result.report.groups} == {"w1"}
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Relu", "Conv", "Middle", "Relu", "Conv"]


def test_prunability_is_that_of_what_lies_before():
    report = onnxpfp.prunability(network(CASES["weights behind"]), calibration={"x": images(64)})
    assert {group.name for group in report.groups} == {"w1"}
    assert len(missing_notes(report.notes)) == 1


def test_plan_is_replayed_on_the_same_file():
    model = network(CASES["a bias of both"])
    result = onnxpfp.prune(model, keep_macs=0.6)
    assert onnxpfp.prune(model, from_plan=result.plan).model == result.model


@pytest.mark.parametrize(
    "nodes",
    [
        "m = TRT.Middle(x)\na = Conv(m, w1, b1)\nr = Relu(a)\nc = Conv(r, w2)\ny = Conv(c, w4)",
        "r = Relu(x)\nm = TRT.Middle(r)\ny = Conv(m, w1)",
    ],
    ids=["the first", "behind a Relu"],
)
@pytest.mark.parametrize("verb", [onnxpfp.prune, onnxpfp.inspect])
def test_op_before_all_weights_is_an_error_that_names_it(nodes, verb):
    with pytest.raises(ModelError, match=r"TRT:Middle.*no weights lie before TRT:Middle") as caught:
        verb(network(nodes))
    assert caught.value.hint == "custom_ops LIBRARY registers the ops of a library with onnxruntime"


def test_nothing_that_could_be_pruned_before_it():
    with pytest.raises(ModelError, match=r"nothing before TRT:Middle can be pruned: .*Middle 'm' reads it") as caught:
        onnxpfp.prune(network("a = Conv(x, w1, b1)\nm = TRT.Middle(a)\nr = Conv(m, w2)\ny = Conv(r, w4)"))
    assert str(caught.value).startswith("the model: onnxruntime cannot load the model: Fatal error: TRT:Middle")
    assert "custom_ops" in caught.value.hint


BODIES = {
    "behind branches": """g (float[N,3] x) => (float[N,5] y) <float z = {0.0}> {
        s = ReduceSum<keepdims = 0>(x)  c = Greater(s, z)
        e = If (c) <then_branch = yes () => (float[N,5] u) <float[3,16] a1, float[16,5] a2> {
                h = MatMul(x, a1)  k = Relu(h)  u = MatMul(k, a2) },
            else_branch = no () => (float[N,5] v) <float[3,24] b1, float[24,5] b2> {
                h2 = MatMul(x, b1)  k2 = Tanh(h2)  v = MatMul(k2, b2) }>
        y = TRT.Middle(e) }""",
    "behind a branch and before a weight": """g (float[N,3] x) => (float[N,5] y) <float z = {0.0}, float[5,5] w> {
        s = ReduceSum<keepdims = 0>(x)  c = Greater(s, z)
        e = If (c) <then_branch = yes () => (float[N,5] u) <float[3,16] a1, float[16,5] a2> {
                h = MatMul(x, a1)  k = Relu(h)  u = MatMul(k, a2) },
            else_branch = no () => (float[N,5] v) { v = Concat<axis = 1>(x, x2) }>
        m = TRT.Middle(e)  y = MatMul(m, w) }""".replace("s = Red", "x2 = Slice(x, i0, i2, i1)  s = Red").replace(
        "float z", "int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, float z"
    ),
    "behind a loop": """g (float[N,3] x) => (float[N,3] y) <int64 n = {3}, bool go = {1}> {
        e = Loop (n, go, x) <body = b (int64 i, bool on, float[N,3] old) => (bool more, float[N,3] new)
            <float[3,16] a1, float[16,3] a2> {
                h = MatMul(old, a1)  k = Relu(h)  new = MatMul(k, a2)  more = Identity(on) }>
        y = TRT.Middle(e) }""",
    "behind a scan": """g (float[6,N,3] x, float[N,3] first) => (float[6,N,3] y) {
        last, e = Scan (first, x) <num_scan_inputs = 1, body = b (float[N,3] old, float[N,3] row)
            => (float[N,3] new, float[N,3] out) <float[3,16] a1, float[16,3] a2> {
                j = Add(old, row)  h = MatMul(j, a1)  k = Relu(h)  new = MatMul(k, a2)  out = Identity(new) }>
        y = TRT.Middle(e) }""",
    "in a branch behind a loop": """g (float[N,3] x) => (float[N,3] y) <int64 n = {3}, bool go = {1}, float z = {0.0}> {
        e = Loop (n, go, x) <body = b (int64 i, bool on, float[N,3] old) => (bool more, float[N,3] new)
            <float[3,16] a1, float[16,3] a2> {
                h = MatMul(old, a1)  k = Relu(h)  new = MatMul(k, a2)  more = Identity(on) }>
        s = ReduceSum<keepdims = 0>(x)  c = Greater(s, z)
        y = If (c) <then_branch = yes () => (float[N,3] u) { u = TRT.Middle(e) },
            else_branch = no () => (float[N,3] v) { v = Neg(e) }> }""",
}


@pytest.mark.parametrize("name", BODIES)
def test_weights_in_bodies_before_it_can_go(name):
    model = with_bodies(BODIES[name])
    rng = np.random.default_rng(2)
    shapes = {info.name: [d.dim_value or 1 for d in info.type.tensor_type.shape.dim] for info in model.graph.input}
    data = [{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} for _ in range(40)]
    inspection = onnxpfp.inspect(model)
    result = onnxpfp.prune(model, calibration=data, keep_macs=0.7)
    cut = {group.name for group in result.report.groups if group.kept < group.channels}
    assert cut == {group.name for group in inspection.groups}
    assert all("/" in group for group in cut)
    assert len(missing_notes(inspection.notes)) == len(missing_notes(result.report.notes)) == 1
    blind = onnxpfp.prune(model, keep_macs=0.7)
    whole = onnxpfp.prune(known(model), from_plan=blind.plan)
    assert difference(run(whole.model, data[0]), run(known(blind.model), data[0])) < 1e-5
    assert {g.name for g in onnxpfp.prunability(model, calibration=data).groups} == cut


def with_bodies(text):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17, "TRT": 1]>\n{text}')
    fill_all(model.graph, 0)
    return model


def test_refusals_for_other_reasons_stay_what_they_are():
    model = network(HEAD + "y = Conv(c, w4)")
    model.graph.node[2].input[1] = "nowhere"
    with pytest.raises(ModelError, match="nowhere"):
        onnxpfp.prune(model)


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> str:
    """A library that has TRT:Middle: the absolute values."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    path = tmp_path_factory.mktemp("ops") / "middle.so"
    source = Path(__file__).with_name("custom_op.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", path, source, "-lm"], check=True, timeout=60)
    return str(path)


MIDDLE = [
    name for name, nodes in CASES.items() if {*re.findall(r"(?:TRT|my)\.(\w+)|(Unheard)", nodes)} == {("Middle", "")}
]


class TestLibraries:
    @pytest.mark.parametrize("name", MIDDLE)
    def test_all_of_the_network_is_run_with_a_library(self, name, library):
        model = network(CASES[name])
        options = {"calibration": {"x": images()}, "custom_ops": [library]}
        result = onnxpfp.prune(model, keep_macs=0.7, **options)
        assert not missing_notes(result.report.notes)
        assert (
            result.report.before.macs
            == onnxpfp.prune(known(model), calibration={"x": images()}, keep_macs=1).report.before.macs
        )
        session_options = ort.SessionOptions()
        session_options.register_custom_ops_library(library)
        session = ort.InferenceSession(result.model.SerializeToString(), session_options)
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, {"x": images(4)}), strict=True))
        assert difference(outputs, run(known(result.model), {"x": images(4)})) < 1e-5

    def test_library_is_registered_for_that_call_alone(self, library):
        model = network(CASES["weights behind"])
        assert not onnxpfp.inspect(model, custom_ops=[library]).notes
        assert missing_notes(onnxpfp.inspect(model).notes)

    def test_inspection_shows_groups_behind_it(self, library):
        model = network(CASES["weights behind"].replace("y = Conv(k, w4)", "l = Conv(k, w4)\ny = Conv(l, w5)"))
        assert {group.name for group in onnxpfp.inspect(model, custom_ops=[library]).groups} == {"w1", "w4"}
        assert {group.name for group in onnxpfp.inspect(model).groups} == {"w1"}

    def test_prunability_of_the_whole(self, library):
        model = network(CASES["weights behind"].replace("y = Conv(k, w4)", "l = Conv(k, w4)\ny = Conv(l, w5)"))
        report = onnxpfp.prunability(model, calibration={"x": images(64)}, custom_ops=[library])
        assert {group.name for group in report.groups} == {"w1", "w4"}

    def test_command_line_takes_it(self, library, tmp_path):
        onnx.save(network(CASES["weights behind"]), tmp_path / "in.onnx")
        arguments = ["prune", str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")]
        shown = CliRunner().invoke(main, [*arguments, "--custom-ops", library])
        assert (shown.exit_code, "onnxruntime lacks" in shown.output) == (0, False)
        shown = CliRunner().invoke(main, [*arguments, "--force"])
        assert (shown.exit_code, "onnxruntime lacks TRT:Middle" in shown.output) == (0, True)

    def test_there_is_no_such_file(self):
        with pytest.raises(OptionError, match=r"custom_ops no\.so: there is no such file"):
            onnxpfp.prune(network(CASES["weights behind"]), custom_ops=["no.so"])

    @pytest.mark.parametrize("verb", [onnxpfp.prune, onnxpfp.inspect])
    def test_what_is_no_library(self, tmp_path, verb):
        (tmp_path / "lib.so").write_bytes(b"text")
        with pytest.raises(OptionError, match=r"lib\.so: onnxruntime cannot register it: Failed to load library"):
            verb(network(CASES["weights behind"]), custom_ops=[str(tmp_path / "lib.so")])
