"""Errors of layers are what numpy says of both networks, sample by sample; bounds hold as often as is promised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from scipy import stats

import onnxpfp
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.comparison.layers import GONE, MIXED, SHARES, WHOLE_NUMBERS, joint_limits, layer_errors, too_few
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.data.splits import held_out_count, split_samples
from onnxpfp.runtime.providers import ProviderRequest

REQUESTS = (ProviderRequest("CPUExecutionProvider", "cpu"),)
WIDE = 1 << 30
Array = nets.Array


def relative(wanted: Array, given: Array) -> Array:
    """||wanted - given|| / ||wanted|| of every row, in float64."""
    a, b = (x.astype(np.float64).reshape(len(x), -1) for x in (wanted, given))
    return np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)


def evaluator(
    original: ModelProto, data: Array | Mapping[str, Array], batch: int = 4, workspace: int = WIDE
) -> Evaluator:
    samples = load_samples(data, input_specs(original))
    return Evaluator(original, samples, True, batch, REQUESTS, 1, workspace)


def with_weights(model: ModelProto, new: Mapping[str, Array]) -> ModelProto:
    other = ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.name in new:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new[tensor.name]), tensor.name))
    return other


def shapes_of(model: ModelProto, feed: Mapping[str, Array], names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in nets.values(model, feed).items() if name in names}


def cut_chain() -> tuple[ModelProto, ModelProto, Callable[[str, Array], Array]]:
    """The chain without some channels of both convolutions, and other weights in the last layer."""
    original = nets.chain()
    weights = nets.weights(original)
    first, second = np.array([0, 2, 3, 7]), np.array([1, 2, 4, 5, 6, 8])
    pruned = with_weights(
        original,
        {
            "w1": weights["w1"][first],
            "b1": weights["b1"][first],
            "w2": weights["w2"][second][:, first],
            "w3": 1.1 * weights["w3"][:, second],
        },
    )
    kept = {"a": first, "c": second}
    return original, pruned, lambda name, array: array[:, kept[name]] if name in kept else array


DATA = nets.noise(10, 3, 8, 8)


def test_errors_are_those_of_the_channels_that_both_have() -> None:
    original, pruned, kept = cut_chain()
    shapes = shapes_of(original, {"x": DATA[:1]}, ("a", "c", "y"))
    errors = layer_errors(evaluator(original, DATA), pruned, shapes, kept)
    one, two = nets.values(original, {"x": DATA}), nets.values(pruned, {"x": DATA})
    assert errors.keys() == {"a", "c", "y"}
    for name in errors:
        wanted = relative(kept(name, one[name]), two[name])
        # What reads nothing that lost channels differs by rounding at most.
        np.testing.assert_allclose(errors[name], wanted, rtol=1e-4, atol=1e-6)
    assert errors["a"].max() < 1e-5
    assert errors["c"].min() > 0.1
    assert errors["y"].shape == (10,)


@pytest.mark.parametrize(("workspace", "runs"), [(WIDE, 3), (80_000, 5), (40_000, 10), (5_200, 20), (1, 30)])
def test_a_small_workspace_takes_more_runs_and_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, workspace: int, runs: int
) -> None:
    original, pruned, kept = cut_chain()
    shapes = shapes_of(original, {"x": DATA[:1]}, ("a", "c", "y"))
    wanted = layer_errors(evaluator(original, DATA), pruned, shapes, kept)
    fed: list[int] = []
    real = Evaluator.pairs

    def counted(self: Evaluator, model: ModelProto) -> Any:
        for each in real(self, model):
            fed.append(each[1])
            size = sum(array.nbytes for name, array in (*each[2].items(), *each[3].items()) if name in shapes)
            room = workspace // 4 if each[1] > 1 else workspace
            assert size <= room or (each[1] == 1 and len(self.inner) == 1)
            yield each

    monkeypatch.setattr(Evaluator, "pairs", counted)
    told: list[tuple[int, int]] = []
    errors = layer_errors(
        evaluator(original, DATA, workspace=workspace), pruned, shapes, kept, lambda *count: told.append(count)
    )
    for name in shapes:
        np.testing.assert_allclose(errors[name], wanted[name], rtol=1e-4, atol=1e-6)
    assert (len(fed), len(told)) == (runs, runs)
    assert told[-1][0] == told[-1][1] == sum(fed)


def test_the_network_that_was_given_has_no_errors() -> None:
    original = nets.chain()
    shapes = shapes_of(original, {"x": DATA[:1]}, ("a", "c", "y"))
    errors = layer_errors(evaluator(original, DATA), original, shapes, lambda _, array: array)
    assert all((each == np.zeros(10)).all() for each in errors.values())


FOLDED = {
    "first": ("y = MatMul(x, w)", True),
    "second": ("t = Transpose <perm = [1, 0, 2]> (x) y = MatMul(t, w)", True),
    "last": ("t = Transpose <perm = [1, 2, 0]> (x) y = MatMul(v, t)", True),
    "folded in front": ("t = Reshape(x, s) y = MatMul(t, w)", True),
    "folded behind": ("p = Transpose <perm = [1, 0, 2]> (x) t = Reshape(p, s) y = MatMul(t, w)", False),
    "summed over": ("m = ReduceSum <keepdims = 0> (x, z) y = MatMul(m, w)", False),
}


@pytest.mark.parametrize("length", [3, 4, 8])
@pytest.mark.parametrize("case", FOLDED)
def test_samples_are_told_apart_wherever_they_lie(case: str, length: int) -> None:
    """Also where the axis of the samples is as long as another one: 4 samples are run together."""
    body, apart = FOLDED[case]
    model = nets.build(f"g (float[N,{length},6] x) => (float y) {{ {body} }}", {"w": (6, 5), "v": (5, 6)})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 6]), "s"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "z"))
    scale = np.linspace(0.5, 1.5, 30)
    other = with_weights(
        model,
        {name: (a * scale.reshape(a.shape)).astype("f4") for name, a in nets.weights(model).items() if name in "wv"},
    )
    data = nets.noise(8, length, 6)
    shapes = shapes_of(model, {"x": data[:1]}, ("y",))
    (errors,) = layer_errors(evaluator(model, data), other, shapes, lambda _, array: array).values()
    if not apart:
        assert errors == MIXED
        # One by one, each has a run of its own.
        (errors,) = layer_errors(evaluator(model, data, batch=1), other, shapes, lambda _, array: array).values()
    alone = [relative(nets.run(model, data[i : i + 1])[None], nets.run(other, data[i : i + 1])[None]) for i in range(8)]
    np.testing.assert_allclose(errors, np.concatenate(alone), rtol=1e-4)


def test_samples_of_a_fixed_batch_are_told_apart() -> None:
    model = nets.build("g (float[4,6] x) => (float[4,5] y) { y = MatMul(x, w) }", {"w": (6, 5)})
    other = with_weights(model, {"w": nets.noise(6, 5, seed=3)})
    data = nets.noise(8, 6)
    (errors,) = layer_errors(evaluator(model, data), other, {"y": (4, 5)}, lambda _, array: array).values()
    weights = (nets.weights(each)["w"] for each in (model, other))
    np.testing.assert_allclose(errors, relative(*(data @ weight for weight in weights)), rtol=1e-4)


def test_what_has_no_error_says_why() -> None:
    text = """g (uint8[N,4] x) => (int32[N,3] y, float[N,3] f) {
        y = MatMulInteger(x, w) f = Cast <to = 1> (y) g = Identity(f) }"""
    model = nets.build(text, {"w": np.ones((4, 3))}, dtype=np.uint8)
    other = ModelProto()
    other.CopyFrom(model)
    del other.graph.node[-1]
    shapes = {"y": (1, 3), "f": (1, 3), "g": (1, 3)}
    data = np.random.default_rng(0).integers(1, 9, (6, 4)).astype(np.uint8)
    errors = layer_errors(evaluator(model, data), other, shapes, lambda _, array: array)
    assert errors["y"] == WHOLE_NUMBERS
    assert errors["g"] == GONE
    np.testing.assert_array_equal(errors["f"], np.zeros(6))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_zeros_and_what_is_not_finite_have_errors() -> None:
    model = nets.build("g (float[N,2] x) => (float[N,2] y) { y = MatMul(x, w) }", {"w": np.eye(2)})
    other = with_weights(model, {"w": np.array([[1, 1], [0, np.inf]], np.float32)})
    data = np.array([[3, 1], [0, 0], [1, 1], [2, -1]], np.float32)
    (errors,) = layer_errors(evaluator(model, data, batch=1), other, {"y": (1, 2)}, lambda _, array: array).values()
    # One of two numbers is lost in every sample: 0 * inf is none either.
    np.testing.assert_allclose(errors, np.full(4, np.sqrt(0.5)))
    zero = with_weights(model, {"w": np.zeros((2, 2), np.float32)})
    (errors,) = layer_errors(evaluator(zero, data), model, {"y": (1, 2)}, lambda _, array: array).values()
    assert errors.tolist() == [np.inf, 0.0, np.inf, np.inf]


def by_hand(model: ModelProto, data: Array, result: onnxpfp.Result) -> dict[str, Array]:
    """Return the errors of what nodes put out on the held-out samples, by name of the node.

    The channels of an output that are left are those that the plan keeps of the weight.
    """
    given = load_samples(data, input_specs(model))
    _, _, held_out = split_samples(given, 0, held_out_count(len(given), certifying=False))
    assert held_out is not None
    feed = next(held_out.batches(len(held_out)))
    one, two = nets.values(model, feed), nets.values(result.model, feed)
    errors: dict[str, Array] = {}
    for node in model.graph.node:
        name = node.output[0]
        entry = result.plan.initializers.get(node.input[1]) if len(node.input) > 1 else None
        kept = entry.keep.get(1 if node.op_type == "MatMul" else 0) if entry else None
        wanted = one[name] if kept is None else np.take(one[name], kept, 1)
        if wanted.shape == two[name].shape and len(wanted) == len(held_out):
            errors[node.name] = relative(wanted, two[name])
    return errors


MODELS = {
    "convolutions and a Gemm": nets.chain,
    "two consumers": lambda: nets.build(
        """g (float[N,12] x) => (float[N,5] y, float[N,4] z) {
            h = MatMul(x, u) r = Relu(h) k = MatMul(r, v) q = Sigmoid(k) y = MatMul(q, w) z = MatMul(r, o) }""",
        {"u": (12, 24), "v": (24, 16), "w": (16, 5), "o": (24, 4)},
    ),
    "two activations": lambda: nets.build(
        """g (float[N,12] x) => (float[N,1,1] z) {
            h = MatMul(x, u) r = Relu(h) k = MatMul(x, v) q = Sigmoid(k)
            a = Unsqueeze(r, one) b = Unsqueeze(q, two) z = MatMul(a, b) }""",
        {"u": (12, 24), "v": (12, 24)},
    ),
}
ROWS = {"convolutions and a Gemm": (3, 8, 8), "two consumers": (12,), "two activations": (12,)}


@pytest.mark.parametrize("compensate", ["none", "bias", "lstsq"])
@pytest.mark.parametrize("case", MODELS)
def test_the_report_has_the_errors_of_the_written_network(case: str, compensate: Any) -> None:
    model, data = MODELS[case](), nets.noise(160, *ROWS[case])
    for name, place in (("one", 1), ("two", 2)):
        if case == "two activations":
            model.graph.initializer.append(numpy_helper.from_array(np.array([place]), name))
    result = onnxpfp.prune(model, calibration=data, keep_macs=0.6, compensate=compensate)
    layers = result.report.layers
    assert layers is not None
    assert (layers.samples, layers.confidence) == (20, 0.95)
    wanted = by_hand(model, data, result)
    refits = {record.name: record for record in result.report.refits}
    assert refits.keys() <= {layer.name for layer in layers.layers}
    assert {"node_y", "node_z"} & wanted.keys() <= {layer.name for layer in layers.layers}
    for layer in layers.layers:
        errors = wanted[layer.name]
        assert layer.mean == pytest.approx(errors.mean(), rel=1e-3, abs=1e-6)
        rank = stats.binom.ppf(1 - 0.05 / len(layers.layers), 20, layer.share)
        assert layer.bound == pytest.approx(np.sort(errors)[int(rank)], rel=1e-3, abs=1e-6)
        assert (layer.share, layer.reason) == (0.75, "")
        record = refits.get(layer.name)
        # Where it was refitted for its readers, the errors are those of their outputs.
        record = None if record is None or record.joint else record
        assert (layer.refit_before, layer.refit_after) == ((record.before, record.after) if record else (None, None))
    assert bool(refits) == (compensate == "lstsq")
    document = result.report.to_dict()["layers"]
    assert [each["mean"] for each in document["layers"]] == [layer.mean for layer in layers.layers]


def test_a_trained_network() -> None:
    path, images = nets.network("resnet"), nets.fmnist("calibration")
    result = onnxpfp.prune(path, calibration=images, keep_macs=0.7, allocate="uniform", score="l2")
    report, wanted = result.report, by_hand(onnx.load(path), images, result)
    assert report.layers is not None
    layers = {layer.name: layer for layer in report.layers.layers}
    assert layers.keys() == {node.name for node in onnx.load(path).graph.node if node.op_type in {"Conv", "Gemm"}}
    for name, layer in layers.items():
        assert layer.mean == pytest.approx(wanted[name].mean(), rel=1e-3, abs=1e-6)
    head = layers["/head/fc/Gemm"]
    assert 0 < head.mean <= head.bound < 1
    alone = {record.name for record in report.refits if not record.joint}
    assert {name for name, layer in layers.items() if layer.refit_after} == alone


def test_layers_are_measured_where_samples_are_held_out_alone() -> None:
    model, data = nets.chain(), nets.noise(80, 3, 8, 8)
    result = onnxpfp.prune(model, calibration=data, keep_macs=0.6)
    again = onnxpfp.prune(model, calibration=data, from_plan=result.plan)
    assert again.report.layers is not None
    assert [layer.mean for layer in again.report.layers.layers] == [layer.mean for layer in result.report.layers.layers]
    assert onnxpfp.prune(model, keep_macs=0.6).report.layers is None
    assert onnxpfp.prune(model, calibration=data[:3], keep_macs=0.6).report.layers is None
    assert onnxpfp.prune(model, calibration=data, keep_macs=1.0).report.layers is None


def test_a_target_of_quality_counts_in_that_the_samples_have_chosen() -> None:
    model, data = nets.chain(), nets.noise(400, 3, 8, 8)
    report = onnxpfp.prune(model, calibration=data, max_drift=0.9).report
    assert report.layers is not None
    assert report.promises is not None
    assert report.promises.candidates > 1
    assert {layer.share for layer in report.layers.layers} == {0.9}
    # 100 samples are enough for 95 % of the inputs at three layers, where they choose nothing.
    assert joint_limits(np.ones((3, 100)), 0.05) is not None
    assert 0.95**100 < 0.05 / 3 < report.promises.candidates * 0.95**100


def test_too_few_samples_give_means_and_say_how_many_it_takes() -> None:
    result = onnxpfp.prune(nets.chain(), calibration=nets.noise(24, 3, 8, 8), keep_macs=0.6)
    assert result.report.layers is not None
    assert result.report.layers.samples == 3
    for layer in result.report.layers.layers:
        assert layer.mean is not None
        assert (layer.bound, layer.share) == (None, None)
        assert layer.reason == too_few(3, 3, 0.05)
    assert too_few(3, 3, 0.05) == (
        "3 samples are too few: bounds that hold at 3 layers together take 6 for 50 % of the inputs, 80 for 95 %"
    )


def test_joint_limits_are_order_statistics_at_a_share_of_alpha() -> None:
    errors = np.random.default_rng(0).exponential(size=(7, 400))
    share, limits = joint_limits(errors, 0.05)
    place = next(r for r in range(1, 401) if stats.binom.cdf(r - 1, 400, 0.95) >= 1 - 0.05 / 7)
    assert share == 0.95
    np.testing.assert_array_equal(limits, np.sort(errors, axis=1)[:, place - 1])
    np.testing.assert_array_equal(joint_limits(errors, 0.05, candidates=13)[1], joint_limits(errors, 0.05 / 13)[1])
    assert (joint_limits(errors, 0.05, candidates=13)[1] > limits).all()


@pytest.mark.parametrize("layers", [1, 20])
@pytest.mark.parametrize("candidates", [1, 5])
def test_the_share_is_the_largest_that_the_samples_are_enough_for(layers: int, candidates: int) -> None:
    level = 0.05 / layers / candidates
    for share, less in zip(SHARES, (*SHARES[1:], None), strict=True):
        enough = int(np.ceil(np.log(level) / np.log(share)))
        found = joint_limits(np.ones((layers, enough)), 0.05, candidates)
        assert found is not None
        assert found[0] == share
        fewer = joint_limits(np.ones((layers, enough - 1)), 0.05, candidates)
        assert (fewer[0] if fewer else None) == less
    assert int(np.ceil(np.log(0.05 / 20) / np.log(0.95))) == 117


@pytest.mark.parametrize(("layers", "samples"), [(1, 59), (6, 128), (20, 300)])
def test_the_limits_of_all_layers_hold_as_often_as_promised(layers: int, samples: int) -> None:
    """Errors are uniform, so the share of inputs within a limit is the limit."""
    rng, trials = np.random.default_rng(5), 2000
    failed = 0
    for _ in range(trials):
        share, limits = joint_limits(rng.random((layers, samples)), 0.05)
        failed += bool((limits < share).any())
    # Independent layers: each fails with its own probability at its place, which is known.
    place = int(stats.binom.ppf(1 - 0.05 / layers, samples, share))
    each = 1 - stats.binom.cdf(place, samples, share)
    expected = 1 - (1 - each) ** layers
    assert expected <= 0.05
    assert failed / trials == pytest.approx(expected, abs=4 * np.sqrt(0.05 / trials))


def test_layers_in_bodies_are_left_out_and_those_behind_them_are_not() -> None:
    text = """g (float[N,12] x) => (float[N,5] y) {
        h = MatMul(x, u) r = Relu(h) k = MatMul(r, v)
        t = ReduceSum <keepdims = 0> (x) c = Less(t, big)
        m = If (c) <
            then_branch = p () => (float[N,16] o) { d = MatMul(k, b1) e = Relu(d) o = MatMul(e, b2) },
            else_branch = q () => (float[N,16] o2) { o2 = Identity(k) } >
        y = MatMul(m, w) }"""
    shapes = {"u": (12, 24), "v": (24, 16), "w": (16, 5), "b1": (16, 32), "b2": (32, 16)}
    model = nets.build(text, {**shapes, "big": np.array(1e9)})
    result = onnxpfp.prune(model, calibration=nets.noise(80, 12), keep_macs=0.6)
    assert result.report.layers is not None
    assert {layer.name for layer in result.report.layers.layers} == {"node_h", "node_k", "node_y"}
    assert all(layer.mean is not None for layer in result.report.layers.layers)
    assert any(body.runs and body.macs_after < body.macs_before for body in result.report.bodies)
