"""Networks that draw random numbers are pruned, and compared with the same draws."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto, NodeProto

import onnxpfp
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import VerificationError
from onnxpfp.model.random_ops import may_draw
from onnxpfp.runtime.providers import ProviderRequest

HEAD = "p = GlobalAveragePool(z)  f = Flatten(p)  y = Gemm<transB = 1>(f, w4, b4)"
FIRST = "a = Conv<pads = [1,1,1,1]>(x, w1, b1)  c = Relu(a)"
LAST = f"e = Conv<pads = [1,1,1,1]>(d, w2)  z = Relu(e)  {HEAD}"
ON = {"ratio": np.float32(0.3), "on": np.array(True)}
BODIES: dict[str, str] = {
    "in front": f"n = RandomNormalLike(x)  s = Add(x, n)  a = Conv<pads = [1,1,1,1]>(s, w1, b1)  d = Relu(a)  {LAST}",
    "between layers": f"{FIRST}  n = RandomNormalLike<scale = 0.5>(c)  d = Add(c, n)  {LAST}",
    "multiplied": f"{FIRST}  n = RandomUniformLike<low = 0.5, high = 1.5>(c)  d = Mul(n, c)  {LAST}",
    "of a shape in the file": f"{FIRST}  n = RandomNormal<shape = [1,12,6,6]>()  d = Add(c, n)  {LAST}",
    "of a shape that is computed": f"""{FIRST}  t = Shape(c)  o = ConstantOfShape(t)  n = RandomUniformLike(o)
        d = Add(c, n)  {LAST}""",
    "one for all channels": f"{FIRST}  n = RandomUniform<shape = [6,6]>()  d = Mul(c, n)  {LAST}",
    "gates": f"{FIRST}  g = Conv(c, w3)  q = Sigmoid(g)  n = Bernoulli(q)  d = Mul(c, n)  {LAST}",
    "dropout": f"{FIRST}  d = Dropout(c, ratio, on)  {LAST}",
    "mask of a dropout": f"{FIRST}  u, m = Dropout(c, ratio, on)  v = Tanh(c)  d = Where(m, v, u)  {LAST}",
    "seeded": f"{FIRST}  n = RandomNormalLike<seed = 3.0>(c)  d = Add(c, n)  {LAST}",
    "behind": f"""{FIRST}  d = Identity(c)  {LAST.replace("y = Gemm", "r = Gemm")}
        n = RandomNormalLike(r)  y = Add(r, n)""",
    "batch statistics": f"""{FIRST}  k, km, kv = BatchNormalization<training_mode = 1>(c, gain, shift, shift, gain)
        n = RandomNormalLike(k)  d = Add(k, n)  {LAST}""",
    "in a branch": f"""{FIRST}  d = Identity(c)  {LAST.replace("y = Gemm", "r = Gemm")}
        i = ReduceMax<keepdims = 0>(r)  j = ReduceMean<keepdims = 0>(r)  h = Greater(i, j)
        y = If(h) <then_branch = t1 () => (float[N,5] t2) {{ t3 = RandomNormalLike(r)  t2 = Add(r, t3) }},
                   else_branch = e1 () => (float[N,5] e2) {{ e2 = Identity(r) }}>""",
    "a latent": f"""{FIRST}  d = Identity(c)  {LAST.replace("y = Gemm", "r = Gemm")}
        mu, lv = Split<axis = 1>(r, halves)  l = Exp(lv)  n = RandomNormalLike(mu)  k = Mul(l, n)  q = Add(mu, k)
        h = MatMul(q, u1)  g = Relu(h)  y = MatMul(g, u2)""",
}
SHAPES = {
    "w1": (12, 3, 3, 3),
    "b1": (12,),
    "w2": (16, 12, 3, 3),
    "w3": (12, 12, 1, 1),
    "w4": (5, 16),
    "b4": (5,),
    "u1": (2, 16),
    "u2": (16, 4),
    "gain": (12,),
    "shift": (12,),
}
IMAGES = nets.noise(48, 3, 6, 6)


def network(name: str) -> ModelProto:
    weights: dict[str, Any] = {key: 0.3 * nets.noise(*shape, seed=5) for key, shape in SHAPES.items()}
    if name == "a latent":
        weights |= {"w4": nets.noise(4, 16), "b4": nets.noise(4), "halves": np.array([2, 2])}
    text = f"g (float[N,3,6,6] x) => (float[N,K] y) {{ {BODIES[name]} }}"
    model = nets.build(text, {}, opset=17)
    weights |= ON | {"gain": np.full(12, 0.7, np.float32)}
    read = {read for node in model.graph.node for read in node.input}
    for key, array in weights.items():
        if key in read:
            model.graph.initializer.append(nets.numpy_helper.from_array(np.asarray(array), key))
    return model


@cache
def pruned(name: str, seed: int = 0) -> onnxpfp.Result:
    return onnxpfp.prune(network(name), calibration=IMAGES, keep_macs=0.6, seed=seed, threads=1)


def drawing_nodes(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if may_draw(node)]


@pytest.mark.parametrize("name", BODIES)
def test_a_network_that_draws_is_pruned(name: str) -> None:
    result = pruned(name)
    assert result.report.after.macs <= 0.6 * result.report.before.macs
    assert result.report.oracle.error <= 1e-5
    assert not result.report.oracle.blank
    assert result.report.drift is not None
    assert result.report.drift.relative_error is not None
    assert result.report.drift.relative_error < 0.8
    assert sum("draws random numbers" in note and "on the same draws" in note for note in result.report.notes) == 1
    # What is written draws as before.
    assert not [entry.key for entry in result.model.metadata_props if "draws" in entry.key]
    assert [info.name for info in result.model.graph.input] == ["x"]
    for before, after in zip(drawing_nodes(network(name)), drawing_nodes(result.model), strict=True):
        if name != "of a shape in the file":
            assert after.SerializeToString() == before.SerializeToString()
    assert np.isfinite(nets.run(result.model, IMAGES[:4])).all()


def test_a_shape_in_the_file_counts_what_is_left() -> None:
    node = drawing_nodes(pruned("of a shape in the file").model)[0]
    kept = {group.name: group.kept for group in pruned("of a shape in the file").report.groups}
    assert list(node.attribute[0].ints) == [1, kept["w1"], 6, 6]
    assert kept["w1"] < 12


def evaluator(model: ModelProto) -> Evaluator:
    samples = load_samples({"x": IMAGES}, input_specs(model))
    return Evaluator(model, samples, True, 16, (ProviderRequest("CPUExecutionProvider", "cpu"),), 1, 1 << 20)


@pytest.mark.parametrize("name", ["in front", "gates", "dropout", "in a branch", "behind"])
def test_a_network_has_no_drift_from_itself(name: str) -> None:
    model = network(name)
    assert evaluator(model).drift(model).relative_error == 0.0
    assert evaluator(model).loss(model) == 0.0


@pytest.mark.parametrize("name", ["in front", "between layers", "dropout", "of a shape in the file"])
@pytest.mark.parametrize(
    "options", [{"steps": 2, "keep_macs": 0.5}, {"max_drift": 0.4}, {"keep_macs": 0.6, "compensate": "bias"}], ids=str
)
def test_in_steps_and_to_a_target_of_quality(name: str, options: Mapping[str, Any]) -> None:
    given: dict[str, Any] = dict(options)
    images = nets.noise(400, 3, 6, 6) if "max_drift" in given else IMAGES
    result = onnxpfp.prune(network(name), calibration=images, threads=1, **given)
    assert result.report.after.macs < result.report.before.macs
    assert not [entry.key for entry in result.model.metadata_props if "draws" in entry.key]
    assert result.report.drift is not None
    assert result.report.drift.relative_error is not None
    assert result.report.drift.relative_error <= 0.8
    assert (result.report.certified is not None) == ("max_drift" in given)


@pytest.mark.parametrize("name", ["between layers", "dropout", "a latent"])
def test_a_plan_is_replayed_with_the_same_draws(name: str) -> None:
    first = pruned(name)
    again = onnxpfp.prune(network(name), calibration=IMAGES, from_plan=first.plan, threads=1)
    assert again.report.drift == first.report.drift
    assert again.stored.SerializeToString() == first.stored.SerializeToString()
    blind = onnxpfp.prune(network(name), from_plan=first.plan, threads=1)
    assert blind.report.oracle.error <= 1e-5


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["between layers", "a latent"])
def test_with_any_seed(name: str, seed: int) -> None:
    assert pruned(name, seed).report.oracle.error <= 1e-5


@pytest.mark.parametrize("calibration", [None, "random"])
@pytest.mark.parametrize("name", ["between layers", "dropout"])
def test_without_data(name: str, calibration: str | None) -> None:
    report = onnxpfp.prune(network(name), calibration=calibration, keep_macs=0.6, threads=1).report
    assert report.oracle.error <= 1e-5
    assert report.after.macs <= 0.6 * report.before.macs


def test_channels_that_are_dead_take_their_draws_with_them() -> None:
    """The lossless step cuts first, so that what is cut after it has other indices than in the original."""
    model = network("dropout")
    for tensor in model.graph.initializer:
        if tensor.name in {"w1", "b1"}:
            array = nets.numpy_helper.to_array(tensor).copy()
            array[[1, 4, 7]] = 0
            tensor.CopyFrom(nets.numpy_helper.from_array(array, tensor.name))
    free = onnxpfp.prune(model, calibration=IMAGES, keep_macs=0.9, threads=1)
    assert [(removal.kind, len(removal.channels)) for removal in free.report.removed] == [("dead", 3)]
    assert free.report.drift is not None
    assert free.report.drift.relative_error == pytest.approx(0, abs=1e-5)
    result = onnxpfp.prune(model, calibration=IMAGES, keep_macs=0.3, threads=1)
    assert next(group.kept for group in result.report.groups if group.name == "w1") < 9
    assert result.report.oracle.error <= 1e-5


@pytest.mark.parametrize(
    "name", ["between layers", "dropout", "gates", "mask of a dropout", "of a shape that is computed"]
)
def test_channels_of_draws_go(name: str) -> None:
    report = onnxpfp.prune(network(name), keep_macs=0.4, threads=1).report
    assert next(group.kept for group in report.groups if group.name == "w1") < 12
    assert report.oracle.error <= 1e-5


@pytest.mark.parametrize("name", ["between layers", "dropout", "gates"])
def test_other_draws_would_be_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the record of what is left of a draw, the channels that stay draw other numbers."""
    monkeypatch.setattr(sys.modules["onnxpfp.rewrite.apply"], "record_kept_draws", lambda *_: None)
    with pytest.raises(VerificationError, match="is not the masked original"):
        onnxpfp.prune(network(name), keep_macs=0.4, threads=1)


def test_prunability_is_not_that_of_noise() -> None:
    """A network whose noise is as large as what it says loses next to nothing where next to nothing goes."""
    loud = onnxpfp.prunability(network("behind"), calibration=IMAGES, threads=1)
    assert any("draws random numbers (RandomNormalLike)" in note for note in loud.notes)
    assert loud.curve[0].loss == 0.0
    assert loud.curve[1].loss < 0.01
    assert all(group.curve[0].loss < 0.01 for group in loud.groups)
