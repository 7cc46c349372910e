from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from support.brute_shares import as_dict, identity_model, measure

import onnxpfp.calibrate.probe as probe_module
import onnxpfp.calibrate.runner as runner_module
from onnxpfp.calibrate.batch_size import choose_batch
from onnxpfp.calibrate.collect import calibrate, in_graph_limit
from onnxpfp.calibrate.nonnegative import nonnegative_tensors
from onnxpfp.calibrate.sensitivity.settings import SensitivitySettings
from onnxpfp.data.inputs import InputSpec, input_specs
from onnxpfp.data.samples import Samples
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import CalibrationError, ModelError, ProviderError
from onnxpfp.linear.ops import LinearOp, Window
from onnxpfp.runtime.session import open_session

CHAIN = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3, 6, 6] x) => (float[N, 5] y)
    {
        a = Conv<pads = [1, 1, 1, 1]>(x, w1)
        b = Relu(a)
        c = Conv(b, w2)
        d = GlobalAveragePool(c)
        e = Flatten(d)
        y = MatMul(e, w3)
    }
"""


def chain() -> tuple[onnx.ModelProto, list[LinearOp], np.ndarray]:
    rng = np.random.default_rng(3)
    model = parser.parse_model(CHAIN)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("w1", (4, 3, 3, 3)), ("w2", (5, 4, 3, 3)), ("w3", (5, 5)))
    }
    model.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    pads = Window(pads=(1, 1, 1, 1))
    ops = [
        LinearOp("one", "conv", "x", (1, 3, 6, 6), 1, np.array([0, 0, 0]), weights["w1"],
               (1, 4, 6, 6), attributes=pads),
        LinearOp("two", "conv", "b", (1, 4, 6, 6), 1, np.arange(1, 5), weights["w2"], (1, 5, 4, 4)),
        LinearOp("three", "matmul", "e", (1, 5), 1, np.arange(5, 10), weights["w3"], (1, 5)),
    ]  # fmt: skip
    return model, ops, rng.standard_normal((6, 3, 6, 6)).astype(np.float32)


def test_a_network_equals_its_readers_one_by_one() -> None:
    model, ops, data = chain()
    before = model.SerializeToString()
    samples = load_samples(data, input_specs(model))
    seen: list[tuple[int, int]] = []
    whole = calibrate(model, ops, samples, batch_size=4, progress=lambda done, total: seen.append((done, total)))
    assert list(whole) == ["one", "two", "three"]
    assert seen == [(4, 6), (6, 6)]
    assert model.SerializeToString() == before
    for op in ops:
        alone = calibrate(model, [op], samples)[op.name]
        np.testing.assert_allclose(alone.sensitivity, whole[op.name].sensitivity, rtol=1e-5)
    assert not whole["two"].negative
    assert whole["three"].negative


def test_several_probes_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ops, data = chain()
    samples = load_samples(data, input_specs(model))
    whole = calibrate(model, ops, samples)
    monkeypatch.setattr(probe_module, "CONSTANTS_LIMIT", 1)
    monkeypatch.setattr(runner_module, "_IN_MEMORY", 0)
    parts = calibrate(model, ops, samples)
    for name in whole:
        np.testing.assert_allclose(parts[name].sensitivity, whole[name].sensitivity, rtol=1e-5)


def test_a_batch_axis_that_is_only_promised_falls_back_to_single_samples() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 2, 3] x) => (float[M, 6] y) <int64[2] s = {1, 6}> { y = Reshape(x, s) }
    """
    weight = np.eye(6, 3, dtype=np.float32)
    op = LinearOp("r", "matmul", "y", (1, 6), 1, np.arange(1, 7), weight, (1, 3))
    data = np.ones((4, 2, 3), np.float32)
    assert measure(parser.parse_model(text), op, data).samples == 4
    with pytest.raises(ModelError, match="cannot run the model"):
        measure(parser.parse_model(text), op, data, batch_size=2)


@pytest.mark.parametrize("onnx_type", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_float_types_are_measured_in_float32(onnx_type: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(onnx_type)
    op = LinearOp("r", "matmul", "x", (1, 3), 1, np.arange(1, 4), np.eye(3, dtype=np.float32), (1, 3))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx_type, ["N", 3])],
        [helper.make_tensor_value_info("y", onnx_type, ["N", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = measure(model, op, np.array([[1, 2, 0]], dtype))
    np.testing.assert_array_equal(found.sensitivity, [1, 1, 0])


def test_nan_inside_the_network_is_named() -> None:
    op = LinearOp("r", "matmul", "y", (1, 2), 1, np.arange(1, 3), np.eye(2, dtype=np.float32), (1, 2))
    model = identity_model(("N", 2), op="Log")
    with pytest.raises(CalibrationError, match=r"NaN or infinity at 'y'$"):
        measure(model, op, -np.ones((2, 2), np.float32))


def test_a_tensor_that_is_not_there_is_named() -> None:
    op = LinearOp("r", "matmul", "nope", (1, 2), 1, np.arange(1, 3), np.eye(2, dtype=np.float32), (1, 2))
    with pytest.raises(ModelError, match="no tensor 'nope'"):
        measure(identity_model(("N", 2)), op, np.ones((2, 2), np.float32))


def test_the_batch_fits_memory_and_cache() -> None:
    _, ops, data = chain()
    free = load_samples(np.repeat(data, 10, axis=0), (InputSpec("x", data.dtype, (None, 3, 6, 6)),))
    plan = SensitivitySettings(chunk_bytes=4 << 20)

    def in_graph(samples: Samples, asked: int | None, plan: SensitivitySettings) -> int:
        return choose_batch({}, samples, asked, plan.workspace_bytes, in_graph_limit(ops, plan))

    assert in_graph(free, None, plan) == 15, "four batches of about one size"
    assert in_graph(free, 5, plan) == 5
    assert in_graph(free.take(3), None, plan) == 3
    largest = 2 * 4 * 4 * 36
    assert in_graph(free, None, replace(plan, workspace_bytes=2 * 4 * largest)) == 4
    assert in_graph(free, None, replace(plan, chunk_bytes=1)) == 1
    needs = {name: shape for op in ops for name, shape in op.reads.items()}
    held = 4 * (3 * 36 + 4 * 36 + 5)
    assert choose_batch(needs, free, None, plan.workspace_bytes) == min(64, len(free))
    large = dict.fromkeys(needs, (1, 64, 224, 224))
    assert choose_batch(large, free, None, 1 << 32) == 4
    assert choose_batch(needs, free, 2, 2 * held * 3) == 2
    assert choose_batch(needs, free, None, 2 * held * 3 + 4) == 3
    fixed = load_samples(data, (InputSpec("x", data.dtype, (2, 3, 6, 6)),))
    assert in_graph(fixed, 16, plan) == 2
    with pytest.raises(CalibrationError, match="a batch of 0 samples"):
        in_graph(free, 0, plan)


def test_what_is_provably_not_negative() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y)
        <float zero = {0.0}, float six = {6.0}, float low = {-1.0}, float[4] scales = {1.0, 1.0, 2.0, 2.0}> {
            relu = Relu(x)
            clip6 = Clip(x, zero, six)
            clip_low = Clip(x, low, six)
            pool = MaxPool<kernel_shape = [2, 2]>(relu)
            mean = GlobalAveragePool(clip6)
            flat = Flatten(mean)
            soft = Softmax(x)
            both = Concat<axis = 1>(relu, soft)
            mixed = Concat<axis = 1>(relu, x)
            sum = Add(relu, soft)
            difference = Sub(relu, soft)
            half = Cast<to = 10>(relu)
            bytes = Cast<to = 3>(relu)
            near = Resize<mode = "linear">(relu, , scales)
            cubic = Resize<mode = "cubic">(relu, , scales)
            constant = Constant<value = float {0.0}>()
            clip_constant = Clip(x, constant)
            y = Identity(relu)
        }
    """
    found = nonnegative_tensors(parser.parse_model(text))
    assert found == {
        "relu", "clip6", "pool", "mean", "flat", "soft", "both", "sum", "clip_constant", "half", "near",
        "y",
    }  # fmt: skip


def test_branches_and_the_long_name_of_the_default_domain() -> None:
    text = """
        <ir_version: 8, opset_import: ["ai.onnx": 17]>
        g (float[N, 2] x, bool c) => (float[N, 2] y) {
            h = Relu(x)
            k = Neg(h)
            z = If(c) <
                then_branch = a () => (float[N, 2] r) { r = Identity(k) },
                else_branch = b () => (float[N, 2] s) { s = Identity(h) }
            >
            y = Identity(z)
        }
    """
    model = parser.parse_model(text)
    op = LinearOp("r", "matmul", "y", (1, 2), 1, np.arange(1, 3), np.eye(2, dtype=np.float32), (1, 2))
    feeds = [{"x": np.ones((2, 2), np.float32), "c": np.array(c)} for c in (True, False)]
    found = calibrate(model, [op], load_samples(feeds, input_specs(model)))["r"]
    assert found.negative
    assert (found.samples, found.patches) == (4, 4)
    np.testing.assert_array_equal(found.patch_sum, [[0], [0]])


def test_nothing_is_written_to_stdout_or_stderr(tmp_path: Path) -> None:
    model, _, data = chain()
    onnx.save(model, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", data)
    code = f"""
import numpy as np, onnx
from onnxpfp.calibrate.collect import calibrate
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.ops import LinearOp
model = onnx.load({str(tmp_path / "m.onnx")!r})
op = LinearOp("r", "matmul", "e", (1, 5), 1, np.arange(5, 10), np.eye(5, dtype=np.float32), (1, 5))
samples = load_samples({str(tmp_path / "x.npy")!r}, input_specs(model))
calibrate(model, [op], samples)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    model, ops, data = chain()
    try:
        open_session(model, "cuda")
    except ProviderError as error:
        pytest.skip(str(error))
    samples = load_samples(data, input_specs(model))
    there = calibrate(model, ops, samples, providers="cuda")
    here = calibrate(model, ops, samples)
    for name in here:
        np.testing.assert_allclose(there[name].sensitivity, here[name].sensitivity, rtol=1e-5)
        np.testing.assert_allclose(there[name].patch_sum, here[name].patch_sum, atol=1e-3)


SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared folder")
def test_a_trained_network_has_all_its_shares_in_range() -> None:
    model = onnx.load(SHARED / "models" / "cifar10_resnet20_folded.onnx")
    images = np.load(SHARED / "data" / "cifar10_calib1k.npz")["images"][:8]
    data = (images.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) * 4
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    node = [n for n in model.graph.node if n.op_type == "Conv" and n.input[1] in weights][3]
    weight = weights[node.input[1]]
    pads = Window(pads=(1, 1, 1, 1))
    op = LinearOp("r", "conv", node.input[0], (1, 16, 32, 32), 1, np.arange(1, 17), weight,
                    (1, 16, 32, 32), attributes=pads)  # fmt: skip
    found: Any = measure(model, op, np.ascontiguousarray(data))
    assert json.dumps(as_dict(found))
    assert np.all((found.sensitivity >= 0) & (found.sensitivity <= 1))
    assert found.sensitivity.sum() >= 1
