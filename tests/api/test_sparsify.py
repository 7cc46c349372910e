"""`onnxpfp.sparsify`: the file is the original with masked weights, by every selection, and plans replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxpfp
from onnxpfp.errors import CalibrationError, ModelError, OptionError, PlanError, TargetUnreachableError
from onnxpfp.pipeline.sparse_plan import SparsePlan
from onnxpfp.report.sparsity import DENSE_KERNELS

DATA = nets.noise(64, 3, 8, 8)
SELECTIONS = ("deterministic", "sampled", "hybrid")


def masked(model: ModelProto, plan: SparsePlan) -> ModelProto:
    """The original with its weights times the factors of the plan, in numpy."""
    out = ModelProto()
    out.CopyFrom(model)
    for tensor in out.graph.initializer:
        if tensor.name in plan.factors:
            weight = numpy_helper.to_array(tensor)
            weight = (weight.astype(np.float64) * plan.factors[tensor.name]).astype(weight.dtype)
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return out


@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("keep", [0.7, 0.2])
def test_the_file_is_the_original_masked_in_numpy(select: str, keep: float) -> None:
    model = nets.chain()
    result = onnxpfp.sparsify(model, calibration=DATA, keep_weights=keep, select=select, delta=0.1, threads=1)
    expected = masked(model, result.plan)
    before, after = nets.weights(model), nets.weights(result.model)
    assert before.keys() == after.keys()
    for name, weight in nets.weights(expected).items():
        np.testing.assert_array_equal(after[name], weight)
    x = nets.noise(5, 3, 8, 8, seed=9)
    np.testing.assert_allclose(nets.run(result.model, x), nets.run(expected, x), rtol=1e-6)
    report = result.report
    layers = ["w1", "w2", "w3"]
    assert [layer.weight for layer in report.layers] == layers
    assert [layer.nonzero[1] for layer in report.layers] == [int(np.count_nonzero(after[name])) for name in layers]
    assert report.nonzero[1] <= report.budget == int(keep * sum(before[name].size for name in layers))
    assert report.oracle.error <= 1e-5
    assert report.nonzero[1] == report.budget or select != "deterministic"
    assert report.compressed[1] < report.compressed[0]
    assert [layer.drawn > 0 for layer in report.layers] != [True] * 3 or select != "deterministic"


def test_a_trained_network_keeps_its_classes_at_nine_tenths() -> None:
    result = onnxpfp.sparsify(nets.network("resnet"), calibration=nets.fmnist("calibration", 64), keep_weights=0.9)
    assert result.report.drift.top1_agreement is not None
    assert result.report.drift.top1_agreement > 0.8
    document = result.report.to_dict()
    assert document["format"] == "onnxpfp-sparsity"
    assert sum(layer["nonzero"][1] for layer in document["layers"]) == document["budget"]


def test_everything_may_stay() -> None:
    model = nets.chain()
    result = onnxpfp.sparsify(model, calibration=DATA, keep_weights=1.0)
    assert result.unchanged == model.SerializeToString()
    assert result.report.nonzero[0] == result.report.nonzero[1]
    assert all(layer.bound == 0 for layer in result.report.layers)


@pytest.mark.parametrize("select", SELECTIONS)
def test_a_plan_replays_to_the_same_file(select: str, tmp_path: Path) -> None:
    first = onnxpfp.sparsify(nets.chain(), calibration=DATA, keep_weights=0.4, select=select, delta=0.2)
    file = tmp_path / "plan.json"
    file.write_text(first.plan.to_json())
    again = onnxpfp.sparsify(nets.chain(), from_plan=file)
    assert again.stored == first.stored
    assert again.report.unbounded == "a plan was replayed, and nothing measured"
    assert again.report.budget is None
    for name, factors in first.plan.factors.items():
        np.testing.assert_array_equal(again.plan.factors[name], factors)


DAMAGE: dict[str, Any] = {
    "other format": lambda document: document | {"format": "onnxpfp-plan"},
    "other version": lambda document: document | {"version": 7},
    "no weights": lambda document: {name: value for name, value in document.items() if name != "weights"},
    "short mask": lambda document: with_entry(document, mask="eJwDAAAAAAE="),
    "no base64": lambda document: with_entry(document, mask="?"),
    "other count": lambda document: with_entry(document, kept=3),
    "negative shape": lambda document: with_entry(document, shape=[-1, 4]),
    "half a shape": lambda document: with_entry(document, shape=[1.5]),
}


def with_entry(document: dict[str, Any], **more: Any) -> dict[str, Any]:
    entry = document["weights"]["w1"] | more
    return document | {"weights": {"w1": entry}}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_plan_is_refused(damage: str, tmp_path: Path) -> None:
    import json

    plan = onnxpfp.sparsify(nets.chain(), calibration=DATA, keep_weights=0.4).plan
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(DAMAGE[damage](json.loads(plan.to_json()))))
    with pytest.raises(PlanError):
        onnxpfp.sparsify(nets.chain(), from_plan=file)


def test_a_plan_of_another_network_is_refused() -> None:
    plan = onnxpfp.sparsify(nets.chain(), calibration=DATA).plan
    narrow = nets.build(nets.CHAIN, {**nets.CHAIN_SHAPES, "w2": (10, 8, 1, 1)})
    with pytest.raises(PlanError, match=r"'w2' has shape \[10, 8, 1, 1\], the plan says \[10, 8, 3, 3\]"):
        onnxpfp.sparsify(narrow, from_plan=plan)
    with pytest.raises(PlanError, match="names the weight 'w1'"):
        onnxpfp.sparsify(nets.chain(), from_plan=plan, exclude=["w1"])


def test_pruned_networks_can_be_sparsified_and_again() -> None:
    small = onnxpfp.prune(nets.chain(), calibration=DATA, keep_macs=0.6, round_to=1).model
    once = onnxpfp.sparsify(small, calibration=DATA, keep_weights=0.5)
    twice = onnxpfp.sparsify(once.model, calibration=DATA, keep_weights=0.5)
    assert twice.report.nonzero[0] == once.report.nonzero[1]
    assert twice.report.nonzero[1] == once.report.nonzero[1] // 2


def test_layers_of_every_kind() -> None:
    text = """g (float[N,4,6,6] x) => (float[N,3] y) {
        a = Conv <pads = [1,1,1,1], group = 2> (x, w1)  r = Relu(a)
        u = ConvTranspose <strides = [2,2], group = 2> (r, w2)  s = Relu(u)
        d = Conv <pads = [1,1,1,1], group = 6> (s, w3)  p = GlobalAveragePool(d)  f = Flatten(p)
        m = MatMul(f, w4)  y = Gemm <transB = 1> (m, w5) }"""
    shapes = {"w1": (6, 2, 3, 3), "w2": (6, 3, 2, 2), "w3": (6, 1, 3, 3), "w4": (6, 5), "w5": (3, 5)}
    model, data = nets.build(text, shapes), nets.noise(32, 4, 6, 6)
    for select in SELECTIONS:
        result = onnxpfp.sparsify(model, calibration=data, keep_weights=0.5, select=select, delta=0.3)
        assert [layer.weight for layer in result.report.layers] == [*shapes]
        x = nets.noise(3, 4, 6, 6, seed=4)
        np.testing.assert_allclose(nets.run(result.model, x), nets.run(masked(model, result.plan), x), rtol=1e-5)


def test_shared_weights_go_for_all_that_read_them() -> None:
    text = """g (float[N,6] x) => (float[N,6] y) {
        a = MatMul(x, w)  r = Relu(a)  b = MatMul(r, w)  y = Relu(b) }"""
    result = onnxpfp.sparsify(nets.build(text, {"w": (6, 6)}), calibration=nets.noise(32, 6), keep_weights=0.5)
    (layer,) = result.report.layers
    assert layer.nodes == ("node_a", "node_b")
    assert layer.nonzero == (36, 18)


def test_half_precision_stays_half_precision() -> None:
    text = "g (float16[N,6] x) => (float16[N,4] y) { y = MatMul(x, w) }"
    model = nets.build(text, {"w": (6, 4)}, dtype=np.float16)
    result = onnxpfp.sparsify(model, calibration=nets.noise(32, 6, dtype=np.float16), select="sampled", delta=0.5)
    assert nets.weights(result.model)["w"].dtype == np.float16
    assert np.count_nonzero(nets.weights(result.model)["w"]) <= 12


def test_what_stays_whole_says_why() -> None:
    text = """g (float[N,6] x) => (float[N,4] y) {
        a = MatMul(x, w)  s = ReduceSum(v)  r = Add(a, s)  b = MatMul(r, v)  c = MatMul(b, k)  q = Transpose(c)
        p = MatMul(c, q)  y = MatMul(p, c) }"""
    model = nets.build(text, {"w": (6, 5), "v": (5, 4), "k": (4, 4)})
    report = onnxpfp.sparsify(model, calibration=nets.noise(32, 6), exclude=["k"]).report
    # The sum over v is computed by the file, from what v was.
    assert [layer.weight for layer in report.layers] == ["w", "v"]
    assert {whole.name: whole.reason for whole in report.whole} == {
        "node_c": "--exclude 'k' leaves it as it is",
        "node_p": "its second operand is no constant",
        "node_y": "its second operand is no constant",
    }


def test_a_network_without_such_layers_is_refused() -> None:
    model = nets.build("g (float[N,6] x) => (float[N,6] y) { y = Relu(x) }", {})
    with pytest.raises((TargetUnreachableError, ModelError), match="no layer has weights that may go"):
        onnxpfp.sparsify(model, calibration=nets.noise(32, 6))


def test_outputs_that_never_fire_lose_their_weights_first() -> None:
    model = nets.chain()
    silent = numpy_helper.to_array(model.graph.initializer[0]).copy()
    bias = np.zeros(8, np.float32)
    silent[:4] = -np.abs(silent[:4])
    bias[:4] = -1
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(silent, "w1"))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(bias, "b1"))
    data = np.abs(DATA)
    result = onnxpfp.sparsify(model, calibration=data, keep_weights=0.3)
    assert not nets.weights(result.model)["w2"][:, :4].any()


def test_sparse_initializers(tmp_path: Path) -> None:
    model = nets.chain()
    options: dict[str, Any] = {"calibration": DATA, "keep_weights": 0.1}
    dense = onnxpfp.sparsify(model, **options)
    sparse = onnxpfp.sparsify(model, sparse_initializers=True, **options)
    stored = {tensor.values.name for tensor in sparse.stored.graph.sparse_initializer}
    assert stored
    assert stored == {layer.weight for layer in sparse.report.layers if layer.sparse}
    assert sparse.stored.ByteSize() < dense.stored.ByteSize()
    file = tmp_path / "sparse.onnx"
    onnxpfp.save_result(sparse, file)
    x = nets.noise(3, 3, 8, 8, seed=6)
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], nets.run(dense.model, x), rtol=1e-5, atol=1e-6)
    again = onnxpfp.sparsify(file, **options)
    assert again.report.nonzero[0] == dense.report.nonzero[1]


def test_sparse_tensors_that_would_take_more_stay_dense() -> None:
    result = onnxpfp.sparsify(nets.chain(), calibration=DATA, keep_weights=0.9, sparse_initializers=True)
    assert not result.stored.graph.sparse_initializer
    assert any("0 weights are stored as sparse tensors" in note for note in result.report.notes)


def test_weights_that_the_file_computes_stay() -> None:
    text = """g (float[N,6] x) => (float[N,4] y) { h = Mul(v, s)  y = MatMul(x, h) }"""
    model = nets.build(text, {"v": (6, 4), "s": (1, 4)})
    with pytest.raises(TargetUnreachableError, match="its weights are quantized, computed, or read by something else"):
        onnxpfp.sparsify(model, calibration=nets.noise(32, 6), keep_weights=0.5)


def test_external_weights_stay_external(tmp_path: Path) -> None:
    file, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save_model(nets.chain(), file, save_as_external_data=True, location="in.data", size_threshold=0)
    result = onnxpfp.sparsify(file, calibration=DATA, keep_weights=0.5)
    onnxpfp.save_result(result, out)
    assert (tmp_path / "out.onnx.data").is_file()
    after = nets.weights(onnx.load(out))
    assert sum(int(np.count_nonzero(after[name])) for name in ("w1", "w2", "w3")) == result.report.budget


def test_data_are_asked_for() -> None:
    with pytest.raises(OptionError, match="measures the shares of the weights on data, and none are given"):
        onnxpfp.sparsify(nets.chain())
    with pytest.raises(OptionError, match="positions mean goes with select deterministic"):
        onnxpfp.sparsify(nets.chain(), calibration=DATA, select="sampled", positions="mean")
    with pytest.raises(CalibrationError):
        onnxpfp.sparsify(nets.chain(), calibration=nets.noise(4, 2, 8, 8))


def test_noise_and_means_promise_nothing() -> None:
    mean = onnxpfp.sparsify(nets.chain(), calibration=DATA, positions="mean").report
    noise = onnxpfp.sparsify(nets.chain(), calibration="random").report
    assert "bounds none of them" in mean.unbounded
    assert noise.unbounded == "the samples are noise"
    assert all(layer.bound is None for layer in (*mean.layers, *noise.layers))


def test_the_page_says_what_zeros_bring_and_what_is_promised() -> None:
    for select in SELECTIONS:
        report = onnxpfp.sparsify(nets.chain(), calibration=DATA, select=select).report
        text = "\n".join(map(str, report.page(full=True, wide=True)))
        assert DENSE_KERNELS in text
        assert "1 or more promises nothing" in text
        assert ("over the draws of a layer" in text) == any(layer.drawn for layer in report.layers)


def test_an_input_that_may_be_fed_stays_dense() -> None:
    model = nets.chain()
    model.graph.input.append(helper.make_tensor_value_info("w3", TensorProto.FLOAT, (5, 10)))
    result = onnxpfp.sparsify(model, calibration={"x": DATA}, keep_weights=0.1, sparse_initializers=True)
    assert "w3" not in {tensor.values.name for tensor in result.stored.graph.sparse_initializer}
