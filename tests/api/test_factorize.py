"""`onnxpfp.factorize`: targets, data against weights alone, what is verified, and networks of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper, parser
from support import bodies
from support.stacks import conv_stack, stack_shapes, stack_text

import onnxpfp
from onnxpfp import errors
from onnxpfp.api import written
from onnxpfp.low_rank import rewrite

DATA = {"x": nets.noise(64, 3, 8, 8)}
PLAIN = {"threads": 1, "no_latency": True}


def stack(**options: object) -> ModelProto:
    return conv_stack(16, **options)


def correlated(count: int = 64) -> np.ndarray:
    """Images whose channels are mixtures of three."""
    rng = np.random.default_rng(4)
    mixing = rng.standard_normal((16, 3)) + 0.1
    noise = 0.05 * rng.standard_normal((count, 16, 8, 8))
    return (np.einsum("cm,nmhw->nchw", mixing, rng.standard_normal((count, 3, 8, 8))) + noise).astype(np.float32)


def factored(model: ModelProto | Path, **options: object) -> onnxpfp.FactorizeResult:
    return onnxpfp.factorize(model, **{**PLAIN, **options})  # type: ignore[arg-type]


def drift(result: onnxpfp.FactorizeResult) -> float:
    error = result.report.drift.relative_error
    assert error is not None
    return error


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
@pytest.mark.parametrize("step", [1, "auto"])
def test_the_multiply_adds_meet_the_target_and_are_those_of_the_file(share: float, step: object) -> None:
    model, data = stack(), correlated()
    result = factored(model, calibration=data, keep_macs=share, round_to=step)
    report = result.report
    before, after = (nets.count_macs(each, {"x": data[:1]}) for each in (model, result.model))
    assert (report.before.macs, report.after.macs) == (before, after)
    assert 0.9 * share * before < after <= share * before
    assert report.before.macs - report.after.macs == sum(
        one - two for one, two in (each.macs for each in report.layers)
    )
    assert all(two < one for one, two in (each.macs for each in report.layers))
    assert report.after.params == nets.count_params(result.model)
    assert report.after.bytes == len(result.model.SerializeToString())
    assert report.oracle.error <= report.oracle.tolerance == 1e-4
    onnx.checker.check_model(result.model, full_check=True)


def test_data_lose_less_than_weights_alone() -> None:
    model, data = stack(), correlated()
    test = correlated(200)[100:]
    by_data, plain = (factored(model, calibration=given, keep_macs=0.5).model for given in (data, None))
    wanted = nets.run(model, test)
    errors_of = [np.linalg.norm(nets.run(each, test) - wanted) / np.linalg.norm(wanted) for each in (by_data, plain)]
    assert errors_of[0] < 0.5 * errors_of[1]


@pytest.mark.parametrize("given", [True, False])
def test_every_layer_keeps_the_energy_that_is_asked_for(given: bool) -> None:
    data = correlated()
    result = factored(stack(), calibration=data if given else None, energy=0.8, round_to=1, scheme="channel")
    assert result.report.factored_by == ("data" if given else "weights")
    assert len(result.report.layers) > 0
    assert all(0.8 - 1e-3 <= layer.kept < 1 for layer in result.report.layers)
    more = factored(stack(), calibration=data if given else None, energy=0.9, round_to=1, scheme="channel")
    ranks = {layer.nodes: layer.rank for layer in result.report.layers}
    assert more.report.layers
    assert all(ranks[layer.nodes] <= layer.rank for layer in more.report.layers)


def test_the_bias_takes_the_mean_that_is_lost() -> None:
    """Outputs keep their mean over the samples."""
    model, data = stack(), correlated() + 1
    asked = {"keep_macs": 0.6, "exclude": ["node_c", "node_h", "node_y"], "scheme": "channel", "compensate": "none"}
    result = factored(model, calibration=data, **asked)
    assert result.report.refits == ()
    assert [layer.nodes for layer in result.report.layers] == [("node_a",)]
    one, two = (nets.values(each, {"x": data})["a"].mean(axis=(0, 2, 3)) for each in (model, result.model))
    # Some samples are held out, and some are for other decisions.
    np.testing.assert_allclose(two, one, atol=0.05 * np.abs(one).max())
    assert "w1/low_rank_bias" in nets.weights(result.model)


def test_the_add_behind_a_product_takes_up_the_mean() -> None:
    text = "g (float[N,32] x) => (float[N,24] y) { a = MatMul(x, w)  y = Add(b, a) }"
    rng = np.random.default_rng(0)
    model = nets.build(text, {"w": (32, 24), "b": (24,)})
    data = {"x": (rng.standard_normal((400, 4)) @ rng.standard_normal((4, 32)) + 3).astype(np.float32)}
    result = factored(model, calibration=data, keep_macs=0.6, round_to=1, compensate="none")
    (layer,) = result.report.layers
    assert [node.op_type for node in result.model.graph.node] == ["MatMul", "MatMul", "Add"]
    assert sorted(nets.weights(result.model)) == ["w/low_rank_bias", "w/low_rank_first", "w/low_rank_second"]
    assert layer.kept == pytest.approx(1.0, abs=1e-4)
    assert drift(result) < 1e-2


def test_what_is_the_same_in_all_outputs_says_nothing() -> None:
    """A product without bias keeps its mean by one rank, and that is not what it is for."""
    text = "g (float[N,32] x) => (float[N,24] y) { y = MatMul(x, w) }"
    rng = np.random.default_rng(0)
    model = nets.build(text, {"w": (32, 24)})
    data = {"x": (rng.standard_normal((400, 32)) + 10).astype(np.float32)}
    report = factored(model, calibration=data, keep_macs=0.6, round_to=1, compensate="none").report
    (layer,) = report.layers
    assert 0 < layer.kept < 0.9
    assert report.drift.relative_error is not None
    assert report.drift.relative_error**2 < 0.1 * (1 - layer.kept)


def test_refits_make_up_for_inputs_that_drift() -> None:
    model, data, test = stack(), correlated(), correlated(200)[100:]
    wanted = nets.run(model, test)
    with_refit, without = (factored(model, calibration=data, keep_macs=0.4, compensate=how) for how in ("auto", "none"))
    errors_of = [np.linalg.norm(nets.run(each.model, test) - wanted) for each in (with_refit, without)]
    assert errors_of[0] < 0.9 * errors_of[1]
    records = with_refit.report.refits
    assert {record.name for record in records} >= {"node_a", "node_c"}
    assert all(record.after <= record.before for record in records)
    assert without.report.refits == ()
    shapes = [{name: array.shape for name, array in nets.weights(each.model).items()} for each in (with_refit, without)]
    assert shapes[0].items() >= {name: shape for name, shape in shapes[1].items() if "bias" not in name}.items()


def test_a_refit_asks_for_samples() -> None:
    with pytest.raises(errors.CalibrationError, match="compensate lstsq measures the data, and none are given"):
        factored(stack(), compensate="lstsq")
    with pytest.raises(errors.CalibrationError, match="compensate lstsq holds samples out"):
        factored(stack(), compensate="lstsq", calibration=correlated(4))


def test_a_scheme_and_patterns_leave_layers_out() -> None:
    spatial = factored(stack(), keep_macs=0.8, scheme="spatial").report
    assert {layer.scheme for layer in spatial.layers} == {"spatial"}
    channel = factored(stack(), keep_macs=0.8, scheme="channel").report
    assert {layer.scheme for layer in channel.layers} == {"channel"}
    report = factored(stack(), energy=0.3, exclude=["node_a"]).report
    assert [each.reason for each in report.staying if each.name == "node_a"] == [
        "--exclude 'node_a' leaves it as it is"
    ]
    report = factored(stack(), energy=0.3, include=["w1"]).report
    assert [layer.nodes for layer in report.layers] == [("node_a",)]
    assert {each.reason for each in report.staying} == {"--include does not name it"}


def test_all_multiply_adds_are_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    onnx.save(stack(), path)
    result = factored(path, keep_macs=1.0)
    assert result.report.layers == ()
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_the_same_run_gives_the_same_bytes() -> None:
    one, two = (factored(stack(), calibration=correlated(), keep_macs=0.5).model for _ in range(2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def test_threads_change_no_byte() -> None:
    one, two = (factored(stack(), calibration=correlated(), keep_macs=0.5, threads=n).model for n in (1, 2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def test_half_precision() -> None:
    result = factored(
        nets.build(stack_text(16).replace("float[", "float16["), stack_shapes(16), dtype=np.float16), keep_macs=0.8
    )
    assert {array.dtype for array in nets.weights(result.model).values()} == {np.dtype(np.float16)}
    assert result.report.oracle.tolerance == 2e-2


def test_columns_that_do_not_fit_the_workspace_are_told_apart_by_channel() -> None:
    data = correlated()
    few = factored(stack(), calibration=data, keep_macs=0.5, workspace=1_000_000)
    plain = factored(stack(), keep_macs=0.5)
    wanted = nets.run(stack(), data)
    one, two = (np.linalg.norm(nets.run(each.model, data) - wanted) for each in (few, plain))
    assert one < two


def test_ops_that_share_weights_stay_one() -> None:
    text = """g (float[N,16,8,8] x) => (float[N,24,8,8] y) {
        a = Conv <pads = [1,1,1,1]> (x, w)  n = Neg(x)  c = Conv <pads = [1,1,1,1]> (n, w, b)  y = Add(a, c)
    }"""
    model = nets.build(text, {"w": (24, 16, 3, 3), "b": (24,)})
    result = factored(model, calibration=correlated(), keep_macs=0.5)
    (layer,) = result.report.layers
    assert layer.nodes == ("node_a", "node_c")
    assert sorted(nets.weights(result.model)) == ["b", "w/low_rank_first", "w/low_rank_second"]


def test_weights_that_are_computed_are_factored_as_what_they_are() -> None:
    """A weight that the graph computes is gone with its nodes."""
    text = """g (float[N,32] x) => (float[N,20] y) { d = MatMul(u, v) w = Add(d, e) y = MatMul(x, w) }"""
    rng = np.random.default_rng(0)
    low = rng.standard_normal((32, 3)) @ rng.standard_normal((3, 20))
    model = nets.build(text, {"u": (32, 2), "v": (2, 20), "e": low})
    result = factored(model, energy=0.999999, round_to=1)
    assert [layer.rank for layer in result.report.layers] == [5]
    assert [node.op_type for node in result.model.graph.node] == ["MatMul", "MatMul"]
    assert drift(result) < 1e-2


def test_low_rank_that_is_there_costs_nothing() -> None:
    """As in weights that were trained to be of low rank."""
    rng = np.random.default_rng(0)
    bank = np.einsum("or,rck->ock", rng.standard_normal((24, 5)), rng.standard_normal((5, 16, 9)))
    model = nets.build(stack_text(16), {**stack_shapes(16), "w1": bank.reshape(24, 16, 3, 3)})
    report = factored(model, energy=1.0, round_to=1, scheme="channel").report
    assert [(layer.nodes, layer.rank) for layer in report.layers] == [(("node_a",), 5)]
    assert report.drift.relative_error is not None
    assert report.drift.relative_error < 1e-5


def test_local_functions_are_inlined() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N,32] x, float[32,20] w) => (float[N,20] y) { y = own.layer(x, w) }
        <domain: "own", opset_import: ["" : 17]> layer (a, b) => (c) { m = MatMul(a, b) c = Relu(m) }""")
    del model.graph.input[1]
    model.graph.initializer.append(numpy_helper.from_array(nets.noise(32, 20), "w"))
    result = factored(model, keep_macs=0.6)
    assert [node.op_type for node in result.model.graph.node] == ["MatMul", "MatMul", "Relu"]
    assert not result.model.functions


def test_a_branch_that_is_always_taken_stays() -> None:
    model = bodies.build_bodies("""g (float[N,32] x) => (float[N,24] y) <float[32,24] w, float[24,24] u> {
        b = Constant<value = bool {1}>()  a = MatMul(x, w)
        y = If(b) <
            then_branch = one () => (float[N,24] p) { p = MatMul(a, u) },
            else_branch = two () => (float[N,24] q) { q = Identity(a) }
        >
    }""")
    report = factored(model, keep_macs=0.9).report
    assert [layer.op for layer in report.layers] == ["MatMul"]
    assert [each.reason for each in report.staying] == ["the file has it inside of a branch that is always taken"]


SHUFFLE = """g (float[N,16,8,8] x) => (float[N,24,8,8] y) {
    a = Conv<pads = [1,1,1,1]>(x, w1)  r = Reshape(a, split)  t = Transpose<perm = [0,2,1,3,4]>(r)
    s = Reshape(t, merge)  y = Conv<pads = [1,1,1,1]>(s, w2)
}"""


def test_layers_around_a_channel_shuffle() -> None:
    model = nets.build(SHUFFLE, {"w1": (24, 16, 3, 3), "w2": (24, 24, 3, 3)})
    for name, shape in (("split", [0, 2, 12, 8, 8]), ("merge", [0, 24, 8, 8])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
    result = factored(model, calibration=correlated(), keep_macs=0.5)
    assert len(result.report.layers) == 2
    kinds = ["Conv", "Conv", "Reshape", "Transpose", "Reshape", "Conv", "Conv"]
    assert [node.op_type for node in result.model.graph.node] == kinds


def test_bodies_stay_and_are_counted() -> None:
    model = bodies.build_bodies("""g (float[N,32] x) => (float[N,24] y) <float[32,24] w, float c> {
        s = ReduceSum<keepdims = 0>(x)  b = Greater(s, c)  a = MatMul(x, w)
        y = If(b) <
            then_branch = one () => (float[N,24] p) <float[24,24] u> { p = MatMul(a, u) },
            else_branch = two () => (float[N,24] q) <float[24,24] v> { q = MatMul(a, v) }
        >
    }""")
    report = factored(model, keep_macs=0.9).report
    assert [layer.op for layer in report.layers] == ["MatMul"]
    assert report.before.macs == 32 * 24 + 24 * 24
    assert report.after.macs is not None
    assert report.after.macs <= 0.9 * report.before.macs
    assert any("low rank changes the main graph only: the body " in note for note in report.notes)


def test_a_network_whose_layers_all_lie_in_bodies_says_so() -> None:
    model = bodies.build_bodies("""g (float[N,24] x) => (float[N,24] y) <float c> {
        s = ReduceSum<keepdims = 0>(x)  b = Greater(s, c)
        y = If(b) <
            then_branch = one () => (float[N,24] p) <float[24,24] u> { p = MatMul(x, u) },
            else_branch = two () => (float[N,24] q) <float[24,24] v> { q = MatMul(x, v) }
        >
    }""")
    with pytest.raises(errors.TargetUnreachableError, match="no layer can be factored: none lies in the main graph"):
        factored(model)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            {"keep_macs": 0.01},
            r"the target is 1.0% of the multiply-adds, but [\d.]+% is the least",
            "ask for keep_macs 0.",
        ),
        ({"energy": 1.0}, "no layer takes fewer multiply-adds where it keeps 100 %", "ask for a lower energy"),
        ({"keep_macs": 0.7, "exclude": ["*"]}, "no layer can be factored: exclude", ""),
    ],
)
def test_targets_that_cannot_be_met(options: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(errors.TargetUnreachableError, match=message) as caught:
        factored(stack(), **options)
    assert caught.value.hint.startswith(hint)


def test_the_least_target_that_is_named_can_be_met() -> None:
    with pytest.raises(errors.TargetUnreachableError) as caught:
        factored(stack(), keep_macs=0.001)
    least = float(caught.value.hint.split()[3])
    assert factored(stack(), keep_macs=least).report.after.macs is not None


def test_a_model_without_layers_says_why() -> None:
    model = nets.build("g (float[N,3,8,8] x) => (float[N,3,6,6] y) { y = Conv<group = 3>(x, w) }", {"w": (3, 1, 3, 3)})
    with pytest.raises(errors.TargetUnreachableError, match="no layer can be factored: it is depthwise"):
        factored(model)


@pytest.mark.parametrize(
    "options", [{"keep_macs": 0.0}, {"energy": 1.5}, {"energy": 0.5, "keep_macs": 0.5}, {"scheme": "x"}]
)
def test_impossible_options_are_refused_before_anything_is_read(options: dict[str, object]) -> None:
    with pytest.raises(errors.OptionError):
        onnxpfp.factorize("there is no such file.onnx", **options)  # type: ignore[arg-type]


def test_a_file_that_computes_something_else_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle can fail: one pad in the wrong op."""
    divide = rewrite._divide

    def wrong(node: onnx.NodeProto, first: onnx.NodeProto, second: onnx.NodeProto, *rest: object) -> None:
        divide(node, first, second, *rest)  # type: ignore[arg-type]
        (pads,) = (attribute for attribute in first.attribute if attribute.name == "pads")
        pads.ints[:] = [pads.ints[2] + pads.ints[0], *pads.ints[1:2], 0, *pads.ints[3:]]

    monkeypatch.setattr(rewrite, "_divide", wrong)
    expected = "the factored model is not the one with the products of the factors: the output 'y' differs"
    with pytest.raises(errors.VerificationError, match=expected):
        factored(stack(), keep_macs=0.7)


def test_samples_that_measure_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    report = factored(stack(), calibration=correlated()).report
    assert (report.samples, report.drift.samples, report.drift.held_out, report.data) == (48, 8, True, "file")
    report = factored(stack(), calibration=correlated(6)).report
    assert (report.samples, report.drift.samples, report.drift.held_out) == (6, 6, False)
    report = factored(stack()).report
    assert (report.samples, report.drift.samples, report.drift.held_out, report.data) == (0, 64, False, "random")
    assert any(note.startswith("RANDOM data") for note in report.notes)
    monkeypatch.setattr(written, "ORACLE_RUNS", 1)
    assert factored(stack()).report.oracle.runs == 1


def test_inputs_that_never_vary_leave_their_layer() -> None:
    text = """g (float[N,16,8,8] x) => (float[N,24,8,8] y) {
        z = Mul(x, zero) a = Conv <pads = [1,1,1,1]> (z, w1) y = Conv <pads = [1,1,1,1]> (a, w2, b)
        }"""
    shapes = {"w1": (24, 16, 3, 3), "w2": (24, 24, 3, 3), "b": (24,), "zero": np.zeros(1)}
    with pytest.raises(errors.TargetUnreachableError, match="its outputs do not vary over the samples"):
        factored(nets.build(text, shapes), calibration=correlated())


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_trained_networks_keep_their_accuracy(name: str) -> None:
    """At 0.7 of the multiply-adds, against weights alone."""
    samples = {"images": nets.fmnist("calibration")}
    by_data, plain = (factored(nets.network(name), calibration=given, keep_macs=0.7) for given in (samples, None))
    assert nets.top1(by_data.model) >= max(ACCURACY[name], nets.top1(plain.model))
    assert by_data.report.after.macs is not None
    assert by_data.report.after.macs <= 0.7 * (by_data.report.before.macs or 0)


ACCURACY = {"resnet": 0.938, "densenet": 0.934, "mobilenet": 0.915}
"""Measured at 0.7 of the multiply-adds on the first 1,000 test images, less one point; whole they have 0.948, 0.946 and
0.928, and by their weights alone 0.937, 0.909 and 0.917."""


def test_the_latency_is_measured_beside_the_original() -> None:
    report = onnxpfp.factorize(nets.network("resnet"), keep_macs=0.7, threads=1).report
    assert report.latency is not None
    assert report.latency.ratio is not None
    assert report.latency.ratio.median > 0
    assert "latency" in report.seconds


def test_a_file_on_the_disk_is_read_and_written_with_its_weights_apart(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(stack(), source, save_as_external_data=True, location="in.data", size_threshold=0)
    result = factored(source, keep_macs=0.7)
    onnxpfp.save_result(result, tmp_path / "out.onnx", source=source)
    assert (tmp_path / "out.onnx.data").exists() or (tmp_path / "out.data").exists()
    written = onnx.load(tmp_path / "out.onnx")
    feed = {"x": correlated(2)}
    np.testing.assert_allclose(nets.run(written, feed), nets.run(result.model, feed), rtol=1e-5, atol=1e-5)


def test_the_report_as_json() -> None:
    document = json.loads(json.dumps(factored(stack(), calibration=correlated()).report.to_dict()))
    assert (document["format"], document["version"]) == ("onnxpfp-factorization", 1)
    assert document["layers"][0]["nodes"] == ["node_a"]
    assert document["layers"][0]["second"] == [24, document["layers"][0]["rank"], 1, 3]
    assert document["alignment"]["step"] == 8


def test_a_fixed_batch_is_counted_for_one_sample() -> None:
    fixed = stack()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    fixed.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    one, two = (factored(model, calibration=correlated(), keep_macs=0.6).report for model in (fixed, stack()))
    assert one.before.macs == two.before.macs
    assert one.after.macs is not None
    assert one.after.macs <= 0.6 * (one.before.macs or 0)


def test_a_missing_op_leaves_what_is_behind_it() -> None:
    model = stack()
    node = helper.make_node("Unknown", ["y"], ["z"], "unknown", domain="somebody")
    model.graph.node.append(node)
    model.graph.output[0].name = "z"
    model.opset_import.append(helper.make_opsetid("somebody", 1))
    result = factored(model, keep_macs=0.7)
    assert result.model.graph.node[-1] == node
    assert any("onnxruntime lacks" in note for note in result.report.notes)
    assert len(result.report.layers) > 0
