"""What bodies may look like, what of them cannot be looked at, and how every option reaches them."""

from __future__ import annotations

from collections.abc import Callable

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper
from support.bodies import IFS, LOOPS, build_bodies, noise, samples
from support.oracle import difference, run

import onnxpfp
from onnxpfp.allocation.levels import share_levels
from onnxpfp.bodies.graphs import places_of
from onnxpfp.errors import OptionError, PlanError, TargetUnreachableError

BOTH, NESTED, AROUND = "weights in both branches", "an If in a branch", "weights around it too"
LAYERS = "<float[4,16] w1, float[16,4] w2> { h = MatMul(x, w1) r = Relu(h) u = MatMul(r, w2) }"


def prune(model: ModelProto | str, **options: object) -> onnxpfp.Result:
    given = build_bodies((IFS | LOOPS)[model][0]) if isinstance(model, str) else model
    data = samples(model) if isinstance(model, str) else {"x": noise(40, 4)}
    return onnxpfp.prune(given, **{"calibration": data, "threads": 1} | options)


def kept(result: onnxpfp.Result) -> dict[str, tuple[int, int]]:
    return {group.name: (group.kept, group.channels) for group in result.report.groups}


def branches(then: str, other: str = "() => (float[N,4] v) { v = Neg(x) }", outputs: str = "float[N,4] y") -> str:
    names = ", ".join(part.split()[-1] for part in outputs.split(", "))
    return (
        f"g (float[N,4] x) => ({outputs}) <float z = {{0.0}}, int64 none = {{0}}, float[4,4] all> {{"
        f"s = ReduceSum<keepdims=0>(x) c = Greater(s, z) k = SequenceConstruct(x, x) m = Less(x, z) f = Cast<to=1>(m)"
        f" l = Log(f) {names} = If (c) <then_branch = a {then}, else_branch = b {other} > }}"
    )


def looping(body: str, states: str = "x", outputs: str = "float[N,4] y") -> str:
    names = ", ".join(part.split()[-1] for part in outputs.split(", "))
    return (
        f"g (float[N,4] x) => ({outputs}) <int64 times = {{3}}, int64[1] three = {{3}}, bool go = {{1}}, "
        f"int64 none = {{0}}, int64 one = {{1}}> {{ {names} = Loop (times, go, {states}) <body = step {body} > }}"
    )


STEP = "<float[4,16] w1, float[16,4] w2> { h = MatMul(old, w1) r = Relu(h) q = MatMul(r, w2) new = Add(q, old)"
FORMS = {
    "a state and the condition passed on": looping(
        "(int64 i, bool on, float[N,4] old, float[N,4] same) => (bool on, float[N,4] new, float[N,4] same) "
        "<float[4,16] w1, float[16,4] w2> { h = MatMul(old, w1) r = Relu(h) q = MatMul(r, w2) new = Add(q, same) }",
        "x, x",
        "float[N,4] y, float[N,4] y2",
    ),
    "states of several types": looping(
        "(int64 i, bool on, float[N,4] old, int64 k) => (bool still, float[N,4] new, int64 more) "
        f"{STEP} still = Identity(on) more = Add(k, one) }}",
        "x, none",
        "float[N,4] y, int64 y2",
    ),
    "a step with an axis": looping(
        f"(int64[1] i, bool[1] on, float[N,4] old) => (bool[1] still, float[N,4] new) {STEP} still = Identity(on) }}"
    )
    .replace("bool go", "bool[1] go")
    .replace("int64 times", "int64[1] times"),
    "an initializer as output": branches(
        "() => (float[N,4] u, float[4,4] w3) <float[4,16] w1, float[16,4] w2, float[4,4] w3> "
        "{ h = MatMul(x, w1) r = Relu(h) q = MatMul(r, w2) u = MatMul(q, w3) }",
        "() => (float[N,4] v, float[4,4] v3) <float[4,4] v3> { v = Neg(x) }",
        "float[N,4] y, float[4,4] y2",
    ),
    "one output twice": branches(
        f"() => (float[N,4] u, float[N,4] u) {LAYERS}",
        "() => (float[N,4] v, float[N,4] w) { v = Neg(x) w = Abs(x) }",
        "float[N,4] y, float[N,4] y2",
    ),
    "a mask that is infinite": branches(
        "() => (float[N,4] u) <float[4,16] w1, float[16,4] w2> "
        "{ h = MatMul(x, w1) r = Relu(h) q = MatMul(r, w2) d = Add(q, l) u = Softmax(d) }"
    ),
    "an input that is left out": branches(
        "() => (float[N,4] u) <float[4,16] w1, float[16,4] w2, float top = {2.0}> "
        "{ h = MatMul(x, w1) r = Clip(h, , top) q = Relu(r) u = MatMul(q, w2) }"
    ),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("calibration", [{"x": noise(40, 4)}, None], ids=["data", "no data"])
@pytest.mark.parametrize("form", FORMS)
def test_bodies_of_any_form_are_pruned(form: str, calibration: object) -> None:
    model = build_bodies(FORMS[form])
    result = onnxpfp.prune(model, calibration=calibration, keep_macs=0.6, threads=1)
    (body,) = result.report.bodies
    assert (body.reason, kept(result).keys()) == ("", {f"{body.place}: w1"})
    assert result.report.after.macs <= 0.6 * result.report.before.macs
    assert list(dict(places_of(model.graph))[body.place].output) == list(
        dict(places_of(result.model.graph))[body.place].output
    )
    for seed in range(4):
        assert run(result.model, {"x": noise(1, 4, seed=seed)}).keys() == {o.name for o in model.graph.output}


def test_a_body_that_reads_no_tensor_stays_with_the_reason() -> None:
    inner = LAYERS.replace("{ h = MatMul(x", "{ e = SequenceAt(k, none) h = MatMul(e")
    with pytest.raises(TargetUnreachableError, match="the body y/then_branch stays: it reads 'k', which is no tensor"):
        prune(build_bodies(branches(f"() => (float[N,4] u) {inner}")))


def test_weights_of_bodies_that_stay_stay_where_they_are() -> None:
    text = branches("() => (float[N,4] u) { e = SequenceAt(k, none) h = MatMul(e, w1) r = Relu(h) u = MatMul(r, w2) }")
    text = text.replace("float[4,4] all", "float[4,16] w1, float[16,4] w2, float[4,16] w3, float[16,4] w4")
    text = text.replace(
        "s = ReduceSum<keepdims=0>(x)", "p = MatMul(x, w3) t = Relu(p) q = MatMul(t, w4) s = ReduceSum<keepdims=0>(q)"
    )
    model = build_bodies(text)
    result = prune(model, keep_macs=0.6)
    assert [body.reason for body in result.report.bodies] == ["it reads 'k', which is no tensor"]
    old, new = ({tensor.name: tensor for tensor in each.graph.initializer} for each in (model, result.model))
    assert list(old) == [name for name in new if name in old]
    assert (old["w1"], old["w2"]) == (new["w1"], new["w2"])
    assert new["w3"].dims[1] < 16
    assert dict(places_of(model.graph)) == dict(places_of(result.model.graph))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_body_that_cannot_be_measured_stays_and_counts() -> None:
    """Square roots of negative numbers in one branch; the other is pruned all the same."""
    inner = LAYERS.replace("{ h = MatMul(x", "{ e = Sqrt(x) h = MatMul(e")
    other = LAYERS.replace("u =", "v =").replace("h =", "h2 =").replace("(h)", "(h2)")
    model = build_bodies(branches(f"() => (float[N,4] u) {inner}", f"() => (float[N,4] v) {other}"))
    result = prune(model, keep_macs=0.8)
    bodies = {body.place: body for body in result.report.bodies}
    assert "NaN" in bodies["y/then_branch"].reason
    assert bodies["y/then_branch"].macs_before == bodies["y/then_branch"].macs_after
    assert bodies["y/else_branch"].reason == ""
    assert result.plan.bodies.keys() == {"y/else_branch"}
    assert result.report.after.macs <= 0.8 * result.report.before.macs


def test_a_branch_of_which_every_weight_is_excluded_costs_what_it_did() -> None:
    result = prune(BOTH, exclude=["y/then_branch"], keep_macs=0.75)
    assert kept(result).keys() == {"y/else_branch: b1"}
    assert 0.7 < result.report.after.macs / result.report.before.macs <= 0.75
    then = next(body for body in result.report.bodies if body.place == "y/then_branch")
    assert then.macs_before == then.macs_after == 128
    assert "--exclude 'y/then_branch' leaves it as it is" in {fixed.reason for fixed in result.report.skipped}


PATTERNS = {
    "a weight": ({"exclude": ["a1"]}, {"y/else_branch: b1"}),
    "a branch in a branch": ({"exclude": ["y/then_branch/u/*"]}, {"y/then_branch: a1", "y/else_branch: b1"}),
    "a branch and all inside": ({"exclude": ["y/then_branch"]}, {"y/else_branch: b1"}),
    "a weight at its place": ({"exclude": ["y/then_branch/u/else_branch: e1"]}, {"y/then_branch: a1"}),
    "only a weight at its place": ({"include": ["y/then_branch: a1"]}, {"y/then_branch: a1"}),
    "only a weight": ({"include": ["e1"]}, {"y/then_branch/u/else_branch: e1"}),
    "only a branch": ({"include": ["y/else_branch"]}, {"y/else_branch: b1"}),
}


@pytest.mark.parametrize("case", PATTERNS)
def test_patterns_name_what_is_in_bodies(case: str) -> None:
    options, groups = PATTERNS[case]
    found = onnxpfp.inspect(build_bodies(IFS[NESTED][0]), **options)
    assert {group.name for group in found.groups} >= groups
    if case == "a weight at its place":
        assert not {group.name for group in found.groups} & set(options["exclude"])
    elif case != "a weight":
        assert {group.name for group in found.groups} == groups


NAMES = ["net[0]/If", "b[1] (c)*/If", "*", "a: b/If", "re:x["]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("branch", ["then_branch", "else_branch"])
def test_a_group_is_excluded_by_the_name_that_reports_give_it(name: str, branch: str) -> None:
    """Both branches call their weights alike, and the place has what patterns are made of."""
    model = build_bodies(IFS["tensors called alike in both branches, two outputs"][0])
    next(node for node in model.graph.node if node.op_type == "If").name = name
    places = {each: f"{name}/{each}: w1" for each in ("then_branch", "else_branch")}
    assert {group.name for group in onnxpfp.inspect(model).groups} == {*places.values()}
    excluded = onnxpfp.inspect(model, exclude=[places[branch]]).groups
    included = onnxpfp.inspect(model, include=[places[branch]]).groups
    assert [group.name for group in included] == [places[branch]]
    assert {group.name for group in excluded} == {*places.values()} - {places[branch]}


def test_a_pattern_that_is_nowhere_is_refused() -> None:
    with pytest.raises(OptionError, match="exclude 'a9' matches no"):
        prune(BOTH, exclude=["a9"])


OPTIONS = {
    "parameters": {"keep_params": 0.6},
    "two steps": {"keep_macs": 0.6, "steps": 2},
    "bias": {"keep_macs": 0.6, "compensate": "bias"},
    "reconstruction": {"keep_macs": 0.6, "score": "reconstruction"},
    "a baseline of maps": {"keep_macs": 0.6, "score": "thinet"},
    "uniform": {"keep_macs": 0.6, "allocate": "uniform"},
    "drawn": {"keep_macs": 0.6, "select": "sampled"},
    "noise": {"keep_macs": 0.6, "calibration": "random"},
    "few samples": {"keep_macs": 0.6, "calibration": samples(BOTH)[:6]},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_reach_bodies(case: str) -> None:
    result = prune(BOTH, **OPTIONS[case])
    before, after = result.report.before, result.report.after
    share = after.params / before.params if case == "parameters" else after.macs / before.macs
    assert share <= 0.6
    assert all(some < every for some, every in kept(result).values())
    assert len(kept(result)) == 2


@pytest.mark.parametrize("name", [BOTH, AROUND, "a convolution in a Loop"])
def test_a_target_of_quality_is_one_of_the_whole_network(name: str) -> None:
    result = prune(name, max_drift=0.8, calibration=samples(name, 320))
    assert result.report.certified is not None
    assert result.report.certified.bound <= 0.8
    assert result.report.after.macs < result.report.before.macs
    assert result.report.trials


def test_what_one_body_cannot_lose_the_others_make_up_for() -> None:
    assert share_levels(np.array([10.0, 30.0]), np.array([1.0, 3.0]), 0.5) == [0.5, 0.5]
    assert share_levels(np.array([10.0, 30.0]), np.array([10.0, 3.0]), 0.5) == pytest.approx([1.0, 1 / 3])
    assert share_levels(np.array([10.0, 30.0]), np.array([10.0, 15.0]), 0.5) is None
    assert share_levels(np.array([0.0, 30.0]), np.array([0.0, 3.0]), 0.5) == pytest.approx([1.0, 0.5])
    with pytest.raises(TargetUnreachableError, match=r"49\.1% is the least"):
        prune(BOTH, exclude=["y/then_branch"], keep_macs=0.3)


def test_keeping_everything_gives_the_bytes_back() -> None:
    model = build_bodies(IFS["weights in the main graph that one branch reads"][0])
    result = onnxpfp.prune(model, calibration=samples(BOTH), keep_macs=1.0, threads=1)
    assert result.unchanged == model.SerializeToString(deterministic=True)


def dead_channel() -> ModelProto:
    model = build_bodies(branches(f"() => (float[N,4] u) {LAYERS}"))
    (graph,) = [g for place, g in places_of(model.graph) if place == "y/then_branch"]
    tensor = next(tensor for tensor in graph.initializer if tensor.name == "w1")
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[:, 3] = 0
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w1"))
    return model


def test_what_costs_nothing_goes_from_bodies_too() -> None:
    result = prune(dead_channel(), keep_macs=0.6)
    (removal,) = result.report.removed
    assert (removal.group, removal.kind, len(removal.channels)) == ("y/then_branch: w1", "dead", 1)
    assert 3 not in result.plan.bodies["y/then_branch"]["w1"].keep[1]


def test_a_plan_for_a_body_that_is_not_there_is_refused() -> None:
    plan = prune(BOTH, keep_macs=0.6).plan
    with pytest.raises(PlanError, match="the plan names the body y/"):
        onnxpfp.prune(nets.chain(), from_plan=plan)
    positive = {"x": np.abs(noise(40, 3))}
    with pytest.raises(PlanError, match="the plan cuts the body y/else_branch, which stays: no sample takes"):
        prune(BOTH, from_plan=plan, calibration=positive)


def test_the_inspection_finds_what_a_pruning_does() -> None:
    found = onnxpfp.inspect(build_bodies(LOOPS["a branch in a Loop"][0]))
    assert {group.name for group in found.groups} == {"y/body: w1", "y/body/new/then_branch: a1"}
    assert [(body.place, body.runs, body.macs) for body in found.bodies] == [
        ("y/body", 4.0, 128),
        ("y/body/new/then_branch", 2.0, 96),
    ]
    assert found.total.macs == 4 * 128 + 2 * 96
    assert found.reachable.params == 128 + 96
    result = prune("a branch in a Loop", keep_macs=0.6)
    assert (result.report.before.macs, result.report.before.params) == (found.total.macs, found.total.params)


def test_prunability_measures_groups_in_bodies() -> None:
    found = onnxpfp.prunability(build_bodies(IFS[AROUND][0]), calibration=samples(AROUND), threads=1)
    assert {group.name for group in found.groups} == {"w1", "w3", "e/then_branch: a1", "e/else_branch: b1"}
    assert all(0 < point.macs <= 1 for group in found.groups for point in group.curve)
    assert found.curve[-1].macs < 0.3


def in_a_function(text: str) -> ModelProto:
    """Let a local function stand for all nodes of the main graph."""
    model = build_bodies(text)
    graph = model.graph
    inputs = [*(info.name for info in graph.input), *(tensor.name for tensor in graph.initializer)]
    outputs = [info.name for info in graph.output]
    function = helper.make_function("own", "Net", inputs, outputs, list(graph.node), list(model.opset_import))
    del graph.node[:]
    graph.node.append(helper.make_node("Net", inputs, outputs, domain="own"))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def as_nodes(text: str) -> ModelProto:
    """Store the weights of bodies in Constant nodes."""
    model = build_bodies(text)
    for _, graph in places_of(model.graph):
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.initializer]
        nodes += graph.node
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
    return model


def as_old_nodes(text: str) -> ModelProto:
    """The same in a file of IR 3, whose initializers would have to be inputs."""
    model = as_nodes(text)
    model.ir_version = 3
    infos = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer]
    model.graph.input.extend(infos)
    return model


FILES: dict[str, Callable[[str], ModelProto]] = {
    "a local function": in_a_function,
    "Constant nodes": as_nodes,
    "IR 3": as_old_nodes,
}


@pytest.mark.parametrize("name", [BOTH, NESTED, "a convolution in a Loop"])
@pytest.mark.parametrize("form", FILES)
def test_weights_of_bodies_are_found_however_they_are_stored(form: str, name: str) -> None:
    model = FILES[form]((IFS | LOOPS)[name][0])
    result = onnxpfp.prune(model, calibration=samples(name), keep_macs=0.6, compensate="none", threads=1)
    biased = onnxpfp.prune(model, calibration=samples(name), keep_macs=0.6, compensate="bias", threads=1)
    assert list(kept(biased).values()) == list(kept(result).values())
    plain = prune(name, keep_macs=0.6, compensate="none")
    assert list(kept(result).values()) == list(kept(plain).values())
    for feed in samples(name, 6):
        assert difference(run(plain.model, feed), run(result.model, feed)) < 1e-5
