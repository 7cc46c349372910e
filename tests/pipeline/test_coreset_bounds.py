"""Coreset bounds (Mussay et al., ICLR 2020) against the errors that really occur, and what they are said to be of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nets
import numpy as np
import pytest

from onnxpfp.errors import OptionError
from onnxpfp.linear.reach import InputLimits, reaches_of
from onnxpfp.options import Options
from onnxpfp.pipeline.context import open_run
from onnxpfp.pipeline.input_limits import PatchNormObserver, patch_norms

HEAD = "g (float[N,3,6,6] x) => (float[N,4] y) {{ h = Conv <pads = [1,1,1,1]> (x, w1, b1) {} c = Conv(s, w2) r = "
NET = HEAD + "Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm <transB = 1> (f, w3, b3) }}"
SHAPES: dict[str, Any] = {"w1": (12, 3, 3, 3), "b1": (12,), "w2": (9, 12, 3, 3), "w3": (4, 9), "b3": (4,)}
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "ReLU": ("s = Relu(h)", {}),
    "ReLU6": ("s = Clip(h, zero, six)", {"zero": np.array(0.0), "six": np.array(6.0)}),
    "LeakyReLU": ("s = LeakyRelu <alpha = 0.2> (h)", {}),
    "PReLU": ("s = PRelu(h, slope)", {"slope": np.full((12, 1, 1), 0.3)}),
    "ELU": ("s = Elu(h)", {}),
    "Softplus": ("s = Softplus(h)", {}),
    "tanh": ("s = Tanh(h)", {}),
    "sigmoid": ("s = Sigmoid(h)", {}),
    "h-swish": ("s = HardSwish(h)", {}),
    "SiLU": ("q = Sigmoid(h) s = Mul(h, q)", {}),
    "GELU": (
        "d = Div(h, root) e = Erf(d) o = Add(e, one) m = Mul(h, o) s = Mul(m, half)",
        {"root": np.array(2.0**0.5), "one": np.array(1.0), "half": np.array(0.5)},
    ),
    "identity": ("s = Identity(h)", {}),
    "a product of two layers": ("k = Conv <pads = [1,1,1,1]> (x, w4) s = Mul(h, k)", {"w4": (12, 3, 3, 3)}),
}
"""What lies between the producer and the consumer."""


def network(name: str) -> Any:
    step, more = ACTIVATIONS[name]
    return nets.build(NET.format(step), {**SHAPES, **more})


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_channel_goes_beyond_its_reach(name: str) -> None:
    model = network(name)
    images = nets.noise(40, 3, 6, 6, seed=4)
    analysis = open_run(model, None, Options(), ()).whole
    peak = float(np.abs(images).max())
    reaches = reaches_of(analysis, InputLimits({"x": peak}))
    (group,) = (g for g in analysis.graph.groups if g.name == "w1")
    assert reaches.doubts[analysis.graph.groups.index(group)] == ""
    seen = np.abs(nets.values(model, {"x": images})["s"]).max(axis=(0, 2, 3))
    assert (seen <= reaches.values[group.channels] * (1 + 1e-6)).all()


@pytest.mark.parametrize("select", ["deterministic", "sampled", "mixed"])
@pytest.mark.parametrize("name", ["ReLU", "tanh", "SiLU", "a product of two layers"])
def test_the_bound_holds_on_the_samples(watch: Callable[..., Any], name: str, select: str) -> None:
    model, images = network(name), nets.noise(64, 3, 6, 6, seed=5)
    given = {"calibration": {"x": images}, "score": "coreset", "select": select, "compensate": "none"}
    result, seen = watch(model, **given, keep_macs=0.6, round_to=1, allocate="uniform", delta=1e-3)
    report = next(g for g in result.report.groups if g.name == "w1")
    (group,) = (g for g in seen.analysis.graph.groups if g.name == "w1")
    assert report.kept < report.channels
    assert report.additive_bound is not None
    assert report.epsilon is None
    w = nets.weights(model)
    factor = seen.decision.factor[group.channels][:, None, None]
    before = nets.values(model, {"x": images})["s"]
    change = nets.values(nets.build(CONSUMER, {"w2": w["w2"]}), {"s": before * (factor - 1).astype(np.float32)})["c"]
    assert np.abs(change).max() <= report.additive_bound
    # And it is no bound of anything: what is dropped, or drawn at random, does move outputs.
    assert np.abs(change).max() > 0


CONSUMER = "g (float[N,12,6,6] s) => (float[N,9,4,4] c) { c = Conv(s, w2) }"


def test_without_data_a_range_of_the_inputs_makes_a_bound(watch: Callable[..., Any]) -> None:
    model = network("ReLU")
    plain, _ = watch(model, score="coreset", keep_macs=0.6, round_to=1)
    group = next(g for g in plain.report.groups if g.name == "w1")
    assert group.additive_bound is None
    assert "--input-range" in group.no_epsilon
    ranged, seen = watch(model, score="coreset", keep_macs=0.6, round_to=1, input_ranges={"x": (-3.0, 2.0)})
    group = next(g for g in ranged.report.groups if g.name == "w1")
    w = {name: value.astype(np.float64) for name, value in nets.weights(model).items()}
    norms = np.sqrt(np.square(w["w1"]).sum(axis=(1, 2, 3)) + np.square(w["b1"]))
    s = np.abs(w["w2"]).sum(axis=(2, 3)).max(axis=0) * norms * np.sqrt(1 + 27 * 9.0)
    (found,) = (g for g in seen.analysis.graph.groups if g.name == "w1")
    stays = seen.decision.keep[found.channels]
    assert group.additive_bound == pytest.approx(s[~stays].sum(), rel=1e-6)
    assert group.sensitivity_sum == pytest.approx(s.sum(), rel=1e-6)


def test_ranges_of_other_scores_and_of_unknown_inputs_are_refused(watch: Callable[..., Any]) -> None:
    with pytest.raises(OptionError, match="--score coreset"):
        Options(input_ranges={"x": (0.0, 1.0)})
    with pytest.raises(OptionError, match="no range of finite numbers"):
        Options(score="coreset", input_ranges={"x": (1.0, 0.0)})
    with pytest.raises(OptionError, match="'z' is no input"):
        watch(network("ReLU"), score="coreset", input_ranges={"z": (0.0, 1.0)})


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,4,7,9] x) => (float[N,6,A,B] y) { y = Conv <pads = [1,0,2,1], strides = [2,1], group = 2> (x, w) }",
        "g (float[N,4,7,9] x) => (float[N,6,A,B] y) { y = Conv <dilations = [2,2]> (x, w) }",
        "g (float[N,4,7,9] x) => (float[N,6,A,B] y) { y = ConvTranspose <strides = [2,2]> (x, w) }",
        "g (float[N,5,4] x) => (float[N,5,6] y) { y = MatMul(x, w) }",
    ],
)
def test_norms_are_those_of_what_every_output_reads(text: str) -> None:
    """A convolution of squares with ones adds up the squares of every patch."""
    grouped = "group = 2" in text
    shape = (4, 6) if "MatMul" in text else (4, 6, 3, 3) if "Transpose" in text else (6, 2 if grouped else 4, 3, 3)
    model = nets.build(text, {"w": shape})
    from onnxpfp.linear.describe import constant_consumer, linear_op

    analysis = open_run(model, None, Options(input_shapes={}), ()).whole
    consumer = constant_consumer(0, analysis)
    assert consumer is not None
    op = linear_op("y", consumer, analysis)
    array = nets.noise(3, *op.data_shape[1:], seed=6)
    ones = nets.build(text, {"w": np.ones(shape)})
    sums = nets.values(ones, {"x": np.square(array)})["y"]
    assert patch_norms(op, array).max() == pytest.approx(np.sqrt(sums.max()), rel=1e-5)
    observer = PatchNormObserver(op)
    from onnxpfp.calibrate.observer import Batch

    observer.see({"x": array[:1]}, Batch(0, 1))
    observer.see({"x": array[1:]}, Batch(1, 2))
    assert observer.sum().value == pytest.approx(np.sqrt(sums.max()), rel=1e-5)
    assert observer.sum().samples == 3
