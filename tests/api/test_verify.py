"""`onnxpfp.verify`: two models side by side, whatever made the second of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support import bodies

import onnxpfp
from onnxpfp import errors
from onnxpfp.api import model_comparison as module
from onnxpfp.comparison.latency import LatencyFindings, LatencyTrial, measure_latency
from onnxpfp.model import load as load_module
from onnxpfp.report.not_finite import not_finite_fact
from onnxpfp.report.page import Facts

DATA = {"x": nets.noise(32, 3, 8, 8)}
PLAIN = {"threads": 1, "no_latency": True}


def _pruned(**options: object) -> onnxpfp.Result:
    return onnxpfp.prune(nets.chain(), keep_macs=0.5, round_to=1, threads=1, no_latency=True, **options)


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def test_a_pruned_model_beside_its_original() -> None:
    result = _pruned(calibration=DATA)
    report = onnxpfp.verify(nets.chain(), result.model, calibration=DATA, threads=1)
    assert report.passed
    assert (report.problems, report.interface, report.uncompared, report.data) == ((), (), "", "file")
    sizes = [[(each.params, each.macs) for each in (of.before, of.after)] for of in (report, result.report)]
    assert sizes[0] == sizes[1]
    assert report.after.bytes == len(result.model.SerializeToString())
    assert report.drift is not None
    assert report.drift.relative_error is not None
    assert 0 < report.drift.relative_error < 1
    assert (report.drift.samples, report.drift.held_out) == (32, False)
    assert report.latency is not None
    assert report.latency.ratio is not None
    assert 0 < report.latency.ratio.low <= report.latency.ratio.median <= report.latency.ratio.high < math.inf
    assert [*report.seconds][-1] == "latency"


def test_the_original_itself_does_not_drift() -> None:
    report = onnxpfp.verify(nets.chain(), nets.chain(), **PLAIN)
    assert report.drift is not None
    assert (report.drift.relative_error, report.drift.samples, report.data) == (0.0, 64, "random")
    assert report.before == report.after
    assert report.latency is None
    assert [note for note in report.notes if note.startswith("RANDOM data")]


def test_a_file_that_gives_no_numbers_where_the_original_does_is_broken() -> None:
    other = _copy(nets.chain())
    (weight,) = (tensor for tensor in other.graph.initializer if tensor.name == "w3")
    broken = numpy_helper.to_array(weight).copy()
    broken[0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(broken, "w3"))
    report = onnxpfp.verify(nets.chain(), other, calibration=DATA, **PLAIN)
    assert report.problems == (
        f"{len(DATA['x'])} numbers of the outputs are infinite or NaN where the original's are not",
    )


def test_numbers_that_are_not_finite_in_either_are_counted() -> None:
    logarithm = nets.build("g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) y = Log(a) }", {"w": (4, 4)})
    report = onnxpfp.verify(logarithm, logarithm, **PLAIN)
    assert report.drift is not None
    assert report.drift.not_finite > 0
    same = f"{report.drift.not_finite} infinities or NaNs in both at the same places, which counts as equal"
    (facts,) = (element for element in report.page(full=False, wide=True) if isinstance(element, Facts))
    assert facts.rows["not finite"] == same
    assert not_finite_fact(replace(report.drift, not_finite=3, lost=1, gained=1)) == (
        "2 infinities or NaNs in both at the same places, which counts as equal, 1 in the pruned model alone, "
        "1 in the original, with something else in their place; each that is unlike counts in the drift like a number "
        "that is missing"
    )
    assert not_finite_fact(replace(report.drift, not_finite=0)) == ""


def test_outputs_that_are_too_far_do_not_pass() -> None:
    other = _copy(nets.chain())
    (weight,) = (tensor for tensor in other.graph.initializer if tensor.name == "w3")
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), "w3"))
    # What is not asked for is not judged.
    assert onnxpfp.verify(nets.chain(), other, calibration=DATA, **PLAIN).passed
    allowed = {"max_drift": 10.0, "min_agreement": 1e-9}
    assert onnxpfp.verify(nets.chain(), nets.chain(), calibration=DATA, **allowed, **PLAIN).passed
    report = onnxpfp.verify(nets.chain(), other, calibration=DATA, max_drift=0.25, min_agreement=1.0, **PLAIN)
    far, disagreeing = report.problems
    assert far.endswith("and --max-drift allows 0.25")
    assert disagreeing.endswith("and --min-agreement asks for 100 %")
    assert not report.passed


def test_limits_of_what_outputs_do_not_have_are_refused() -> None:
    model = nets.build("g (float[N,4] x) => (int64[N,1] y) { a = Gemm(x, w) y = ArgMax <axis = 1> (a) }", {"w": (4, 4)})
    with pytest.raises(errors.OptionError, match="max_drift limits the error of float outputs, and there are none"):
        onnxpfp.verify(model, model, max_drift=0.1, **PLAIN)
    with pytest.raises(errors.OptionError, match="min_agreement asks for class scores"):
        onnxpfp.verify(model, model, min_agreement=0.9, **PLAIN)


def test_another_interface_does_not_pass_and_is_not_run() -> None:
    other = nets.build(nets.CHAIN.replace(" y)", " z)").replace("y = Gemm", "z = Gemm"), nets.CHAIN_SHAPES)
    report = onnxpfp.verify(nets.chain(), other, max_drift=0.5, threads=1)
    assert report.problems == (
        "the output 'y' is missing",
        "the output 'z' is new",
        "--max-drift cannot be judged",
    )
    assert (report.drift, report.latency, report.uncompared) == (None, None, "the interfaces differ")
    assert (report.after.params, report.after.macs) == (report.before.params, None)


def test_a_model_that_takes_other_sizes_is_told_apart_and_not_run() -> None:
    other = nets.build(nets.CHAIN.replace("[N,3,8,8]", "[N,3,9,9]"), nets.CHAIN_SHAPES)
    report = onnxpfp.verify(nets.chain(), other, **PLAIN)
    assert report.uncompared.startswith("the pruned model does not run on the original's inputs: ")
    assert report.problems == (
        "the input 'x' has shape (?, 3, 9, 9), not (?, 3, 8, 8)",
        f"the outputs cannot be compared: {report.uncompared}",
    )


def test_a_model_with_fewer_classes_is_told_apart_and_agrees_on_none() -> None:
    other = nets.build(nets.CHAIN.replace("[N,5] y", "[N,4] y"), nets.CHAIN_SHAPES | {"w3": (4, 10), "b3": (4,)})
    report = onnxpfp.verify(nets.chain(), other, calibration=DATA, min_agreement=0.5, **PLAIN)
    assert report.problems == (
        "the output 'y' has shape (?, 4), not (?, 5)",
        "the top-1 agreement is 0 %, and --min-agreement asks for 50 %",
    )
    assert report.drift is not None
    assert (report.drift.relative_error, report.drift.top1_agreement) == (1.0, 0.0)


def test_a_batch_that_is_fixed_in_one_model_alone_is_named_and_the_rest_is_compared() -> None:
    other = _copy(nets.chain())
    other.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    report = onnxpfp.verify(nets.chain(), other, **PLAIN)
    assert report.problems == ("the input 'x' has shape (1, 3, 8, 8), not (?, 3, 8, 8)",)
    assert report.drift is not None
    assert report.drift.relative_error == 0.0


def test_a_file_that_was_only_cut_equals_the_masked_original() -> None:
    result = _pruned()
    fit = onnxpfp.verify(nets.chain(), result.model, plan=result.plan, **PLAIN).plan
    assert fit is not None
    assert (fit.weights.changed, fit.weights.misfits) == (0, ())
    assert fit.equivalence is not None
    assert fit.equivalence.error <= fit.equivalence.tolerance
    assert fit.equivalence.runs == 2


def test_a_refitted_file_fits_its_plan_and_equality_is_not_asked_for() -> None:
    result = _pruned(calibration=DATA, compensate="bias")
    report = onnxpfp.verify(nets.chain(), result.model, plan=result.plan, **PLAIN)
    assert report.passed
    assert report.plan is not None
    assert report.plan.weights.changed > 0
    assert report.plan.equivalence is None
    assert "hold other numbers than the original's" in report.plan.compared


def test_a_file_with_the_planned_weights_that_computes_something_else_does_not_pass() -> None:
    result = _pruned()
    other = _copy(result.model)
    (relu,) = (node for node in other.graph.node if node.name == "node_r")
    relu.op_type = "Neg"
    report = onnxpfp.verify(nets.chain(), other, plan=result.plan, **PLAIN)
    (problem,) = report.problems
    assert problem.startswith("the pruned model is not the original masked by the plan: ")
    assert report.plan is not None
    assert report.plan.weights.changed == 0


def test_a_file_of_other_widths_does_not_fit() -> None:
    plan = _pruned(seed=1, score="random").plan
    other = onnxpfp.prune(nets.chain(), keep_macs=0.8, round_to=1, threads=1, no_latency=True).model
    report = onnxpfp.verify(nets.chain(), other, plan=plan, **PLAIN)
    assert report.problems
    assert all("by the plan [" in problem for problem in report.problems)


def test_a_plan_of_another_network_is_refused(tmp_path: Path) -> None:
    plan = onnxpfp.prune(nets.build(nets.CHAIN.replace("w2", "w9"), {**nets.CHAIN_SHAPES, "w9": (10, 8, 3, 3)})).plan
    (tmp_path / "plan.json").write_text(plan.to_json())
    with pytest.raises(errors.PlanError, match="the plan names the weight 'w9'"):
        onnxpfp.verify(nets.chain(), nets.chain(), plan=tmp_path / "plan.json", **PLAIN)


@pytest.mark.parametrize("name", [next(iter(bodies.IFS)), next(iter(bodies.LOOPS))])
def test_bodies_count_as_often_as_they_run_and_fit_their_plan(name: str) -> None:
    model, samples = bodies.build_bodies((bodies.IFS | bodies.LOOPS)[name][0]), bodies.samples(name)
    result = onnxpfp.prune(model, calibration=samples, keep_macs=0.7, compensate="none", threads=1, no_latency=True)
    report = onnxpfp.verify(model, result.model, calibration=samples, plan=result.plan, **PLAIN)
    assert report.problems == ()
    # Held-out samples count in one and not in the other.
    assert (report.before.macs, report.after.macs) == pytest.approx(
        (result.report.before.macs, result.report.after.macs), rel=0.05
    )


def test_files_with_weights_beside_them_are_measured_as_they_lie(tmp_path: Path) -> None:
    for name, model in (("a", nets.chain()), ("b", _pruned().model)):
        onnx.save(
            _copy(model),
            tmp_path / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.data",
            size_threshold=0,
        )
    report = onnxpfp.verify(tmp_path / "a.onnx", str(tmp_path / "b.onnx"), threads=1)
    assert report.passed
    assert report.latency is not None
    assert report.latency.ratio is not None
    assert report.after.bytes == sum((tmp_path / name).stat().st_size for name in ("b.onnx", "b.data"))


def test_rows_that_are_picked_are_compared_as_they_stand_where_the_other_model_lacks_what_decides() -> None:
    text = """g (float[N,4] x) => (float[N,2] y) {
        s = Gemm(x, w) v, i = TopK <axis = 1> (s, k) y = GatherElements <axis = 1> (s, i) }"""
    model = nets.build(text, {"w": (4, 6)})
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "k"))
    other = _copy(model)
    for node in other.graph.node:
        node.input[:] = ["t" if name == "s" else name for name in node.input]
        node.output[:] = ["t" if name == "s" else name for name in node.output]
    for pruned in (model, other):
        drift = onnxpfp.verify(model, pruned, **PLAIN).drift
        assert drift is not None
        assert drift.relative_error == 0.0
        assert (drift.in_place is None) == (pruned is other)


def test_what_it_tells_is_json_and_complete() -> None:
    result = _pruned()
    document = onnxpfp.verify(nets.chain(), result.model, plan=result.plan, threads=1).to_dict()
    read = json.loads(json.dumps(document, allow_nan=False))
    assert (read["format"], read["version"], read["passed"]) == ("onnxpfp-verification", 1, True)
    assert read["latency"]["original"].keys() == {"median_ms", "low_ms", "high_ms", "runs"}
    assert read["latency"]["ratio"].keys() == {"median", "low", "high"}
    text = (nets.ROOT / "docs" / "verify.md").read_text(encoding="utf-8")
    assert [name for name in document if f"`{name}`" not in text] == []


def test_a_broken_model_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(errors.ModelError, match=r"broken\.onnx: is not an ONNX model"):
        onnxpfp.verify(nets.chain(), tmp_path / "broken.onnx")
    graph = helper.make_graph(
        [helper.make_node("NoSuchOp", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
    )
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "odd.onnx")
    with pytest.raises(errors.ModelError, match=r"odd\.onnx: "):
        onnxpfp.verify(nets.chain(), tmp_path / "odd.onnx")


def test_what_onnxruntime_lacks_is_left_out_of_both() -> None:
    model = nets.build(nets.CHAIN, nets.CHAIN_SHAPES)
    (pool,) = (node for node in model.graph.node if node.name == "node_p")
    pool.op_type = "Unheard"
    result = onnxpfp.prune(model, keep_macs=0.6, round_to=1, threads=1, no_latency=True)
    report = onnxpfp.verify(model, result.model, plan=result.plan, **PLAIN)
    assert report.problems == ()
    assert report.drift is not None
    assert report.drift.relative_error is not None
    assert (report.before.macs, report.after.macs) == (result.report.before.macs, result.report.after.macs)
    assert any("Unheard" in note for note in report.notes)


@pytest.mark.parametrize("of", ["the original", "the pruned model"])
def test_a_file_that_runs_no_further_than_the_other_does_not_pass(of: str) -> None:
    odd = nets.build(nets.CHAIN, nets.CHAIN_SHAPES)
    (pool,) = (node for node in odd.graph.node if node.name == "node_p")
    pool.op_type = "Unheard"
    pair = (odd, nets.chain()) if of == "the original" else (nets.chain(), odd)
    report = onnxpfp.verify(*pair, **PLAIN)
    reason = f"the parts that onnxruntime can run are not the same, for it lacks Unheard of {of}"
    assert (report.uncompared, report.problems) == (reason, (f"the outputs cannot be compared: {reason}",))


def test_draws_are_those_of_the_samples() -> None:
    text = nets.CHAIN.replace("s = Relu(c)", "n = RandomNormalLike(c) s = Mul(c, n)")
    model = nets.build(text, nets.CHAIN_SHAPES)
    report = onnxpfp.verify(model, _copy(model), **PLAIN)
    assert report.drift is not None
    assert report.drift.relative_error == 0.0
    assert "the models draw random numbers; they were compared on draws that the samples decide" in report.notes


def test_large_files_are_timed_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "IN_MEMORY", 0)
    monkeypatch.setattr(load_module, "PART_FROM", 1)
    for name in ("a", "b"):
        path = tmp_path / f"{name}.onnx"
        onnx.save(nets.chain(), path, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    timed: list[object] = []

    def measure(trial: LatencyTrial, seconds: float) -> LatencyFindings:
        timed.extend(trial.sources)
        return measure_latency(trial, seconds)

    monkeypatch.setattr(module, "measure_latency", measure)
    report = onnxpfp.verify(tmp_path / "a.onnx", tmp_path / "b.onnx", threads=1)
    assert timed == [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    assert report.latency is not None
    assert report.latency.ratio is not None
    assert report.passed
