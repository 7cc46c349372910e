"""What is screened where the network runs is what the plain path and the definition say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from support.brute_shares import as_dict, identity_model, model_of, scores
from support.device_runs import PROVIDERS, WORKSPACE, measure_there, programs_on
from support.drawn_readers import (
    QUICK,
    Drawn,
    convolutions,
    drawn,
    pointwise,
    products,
    taps_of,
    transposed_convolutions,
)
from support.equal_statistics import assert_same
from test_graph_convolution import CASES, build

from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.sensitivity.settings import Kernel
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import CalibrationError
from onnxpfp.linear.ops import LinearOp, Window

RTOL = 1e-5
KERNELS = st.sampled_from(["sum", "max"])
KINDS = {"conv": convolutions(), "pointwise": pointwise(), "up": transposed_convolutions(), "matmul": products()}
SHARED = Path(__file__).resolve().parents[3] / "shared"


def plain(case: Drawn, kernel: Kernel) -> Statistics:
    with np.errstate(over="ignore"):
        return calibrate(case.model, case.ops, case.samples, kernel=kernel, method="plain", threads=1)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_plain_path(kind: str, provider: str) -> None:
    programs = programs_on(provider)
    ways = st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 4096, WORKSPACE]), st.sampled_from([1, 3, 1000]))

    @QUICK
    @given(drawn(KINDS[kind]), KERNELS, ways)
    def check(case: Drawn, kernel: Kernel, way: tuple[int, int, int]) -> None:
        batch, workspace, first = way
        found = measure_there(
            case.model,
            case.ops,
            case.samples,
            programs,
            kernel=kernel,
            batch=batch,
            workspace=workspace,
            first=first,
        )
        assert_same(found, plain(case, kernel), RTOL)

    check()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_it_is_what_the_definition_says(provider: str) -> None:
    programs = programs_on(provider)

    @QUICK
    @given(drawn(), KERNELS)
    def check(case: Drawn, kernel: Kernel) -> None:
        found = measure_there(case.model, case.ops, case.samples, programs, kernel=kernel)
        u = case.unfolded()
        for op in case.ops:
            wanted = scores(u, taps_of(op), op, kernel)
            assert as_dict(found[op.name]) == pytest.approx(wanted, rel=1e-5, abs=0)

    check()


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kernel", ["sum", "max"])
@pytest.mark.parametrize("name", CASES)
def test_every_window(name: str, kernel: Kernel, provider: str) -> None:
    op, data, u, taps = build(CASES[name])
    model = identity_model(("N", *CASES[name].data))
    samples = load_samples(data, input_specs(model))
    found = measure_there(model, [op], samples, programs_on(provider), kernel=kernel)["r"]
    assert as_dict(found) == pytest.approx(scores(u, taps, op, kernel), abs=2e-6)
    np.testing.assert_allclose(found.patch_sum, u.sum((0, 3)), atol=2e-5)


def scaled_apart(group: int) -> LinearOp:
    """The last channel has tiny weights below zero, or the last group has tiny ones."""
    weight = np.abs(np.random.default_rng(0).standard_normal((4, 4 // group, 1, 1))).astype(np.float32)
    if group == 1:
        weight[:, 3] *= -1e-9
    else:
        weight[2:] *= 1e-9
    return LinearOp("r", "conv", "y", (1, 4, 3, 3), 1, np.arange(1, 5), weight, (1, 4, 3, 3), group=group)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("group", "largest"), [(1, 1.0), (2, 0.0)])
def test_sums_are_small_beside_those_of_their_sample_and_sign(group: int, largest: float, provider: str) -> None:
    op = scaled_apart(group)
    data = np.abs(np.random.default_rng(1).standard_normal((3, 4, 3, 3))).astype(np.float32)
    model = identity_model(("N", 4, 3, 3))
    found = measure_there(model, [op], load_samples(data, input_specs(model)), programs_on(provider))["r"]
    wanted = scores(data.reshape(3, 4, 1, 9), taps_of(op), op)
    assert as_dict(found) == pytest.approx(wanted, rel=1e-5)
    assert wanted[4] == pytest.approx(largest)


def one(shape: tuple[int, ...], axis: int, outputs: int = 4) -> LinearOp:
    weight = np.random.default_rng(0).standard_normal((shape[axis], outputs)).astype(np.float32)
    return LinearOp("r", "matmul", "y", shape, axis, np.arange(1, shape[axis] + 1), weight, (*shape[:-1], outputs))


def last_axis() -> LinearOp:
    """A convolution over channels that lie last."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    pads = Window(pads=(1, 1, 1, 1))
    return LinearOp("r", "conv", "y", (1, 5, 6, 3), 3, np.arange(1, 4), weight, (1, 5, 6, 4), attributes=pads)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("op", "shape"),
    [(one((6,), 0), (6,)), (one((1, 6), 1), ("N", 6)), (one((1, 1, 6), 2), ("N", 1, 6)), (last_axis(), ("N", 5, 6, 3))],
    ids=["vector", "rows", "rows with an axis of one", "channels last"],
)
def test_every_layout(op: LinearOp, shape: tuple[Any, ...], provider: str) -> None:
    fed = [1 if dim == "N" else dim for dim in shape]
    fed = [5, *fed[1:]] if len(fed) > 1 else [1, *fed]
    data = np.random.default_rng(1).standard_normal(fed).astype(np.float32)
    model = identity_model(shape)
    samples = load_samples(data, input_specs(model))
    wanted = calibrate(model, [op], samples, method="plain", threads=1)
    for workspace in (1, WORKSPACE):
        assert_same(measure_there(model, [op], samples, programs_on(provider), workspace=workspace), wanted, RTOL)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_input_that_has_no_negative_entry_by_chance_takes_one_sign(provider: str) -> None:
    op, data, *_ = build(CASES["padded"])
    model = identity_model(("N", *CASES["padded"].data))
    samples = load_samples(np.abs(data), input_specs(model))
    programs = programs_on(provider)
    found = measure_there(model, [op], samples, programs, batch=5)
    assert len(programs.of("Bounds")) == 1
    assert_same(found, calibrate(model, [op], samples, method="plain", threads=1), RTOL)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_numbers_that_are_none_are_refused(provider: str) -> None:
    op, data, *_ = build(CASES["padded"])
    node = helper.make_node("Mul", ["x", "two"], ["y"])
    model = model_of([node], {"x": ("N", *CASES["padded"].data)}, ["y"], {"two": np.array(2, np.float32)})
    data[1] = np.finfo(np.float32).max
    with pytest.raises(CalibrationError, match=r"computes NaN or infinity at 'y'$"):
        measure_there(model, [op], load_samples(data, input_specs(model)), programs_on(provider))


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared folder")
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kernel", ["sum", "max"])
def test_a_trained_network(kernel: Kernel, provider: str) -> None:
    model = onnx.load(SHARED / "models" / "cifar10_resnet20_folded.onnx")
    images = np.load(SHARED / "data" / "cifar10_calib1k.npz")["images"][:12]
    data = (images.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) * 4
    ops = convolutions_of(model)
    samples = load_samples(np.ascontiguousarray(data), input_specs(model))
    found = measure_there(model, ops, samples, programs_on(provider), kernel=kernel, batch=4, first=8)
    assert_same(found, calibrate(model, ops, samples, kernel=kernel, threads=1), RTOL)


def convolutions_of(model: onnx.ModelProto) -> list[LinearOp]:
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    ops: list[LinearOp] = []
    for number, node in enumerate(model.graph.node):
        if node.op_type == "Conv" and node.input[0] in shapes:
            weight = weights[node.input[1]]
            inside, outside = ((1, *shapes[name][1:]) for name in (node.input[0], node.output[0]))
            window = Window.of({a.name: helper.get_attribute_value(a) for a in node.attribute})
            channels = np.arange(1, inside[1] + 1)
            ops.append(
                LinearOp(str(number), "conv", node.input[0], inside, 1, channels, weight, outside, attributes=window)
            )
    assert len(ops) > 15
    return ops
