"""What the graphs are made of, how often they run, and what leaves the device."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.brute_shares import as_dict, identity_model, model_of, scores
from support.device_runs import PROVIDERS, Recorded, measure_there, programs_on
from test_graph_convolution import CASES, Case, build

from onnxpfp.calibrate.observer import Batch
from onnxpfp.calibrate.sensitivity.device import DeviceSensitivityObserver
from onnxpfp.calibrate.sensitivity.device.arrangement import Arrangement
from onnxpfp.calibrate.sensitivity.device.bounds import Bounds
from onnxpfp.calibrate.sensitivity.device.programs import Program
from onnxpfp.calibrate.sensitivity.device.shares import Shares
from onnxpfp.calibrate.sensitivity.device.totals import Totals
from onnxpfp.calibrate.sensitivity.settings import SensitivitySettings
from onnxpfp.calibrate.statistics import merged
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Samples
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.ops import LinearOp, Window
from onnxpfp.runtime.device_memory import DeviceMemory, device_memory_of
from onnxpfp.runtime.providers import resolve_providers

FLOATS, DOUBLES, INTS, BOOLS = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL
KERNELS = {
    FLOATS: "Abs Cast Concat Div Gather Greater Identity Less MatMul Max Min Mul Neg Pad Pow ReduceMax ReduceMin "
    "ReduceSum Relu Reshape Slice Sqrt TopK Transpose Unsqueeze",
    DOUBLES: "Add ReduceSum",
    INTS: "Add Div Gather Mul Sub Unsqueeze",
    BOOLS: "Cast Where",
}
"""What CUDA has at operator set 17, by the type of the first input: docs/OperatorKernels.md of onnxruntime.

None of these leaves its output on the CPU, so onnxruntime has no reason to put those behind it there.
"""


def every_program() -> list[Program]:
    layouts = [
        Arrangement((0, 1, 2, 3), 0, samples_last=False, plain=True),
        Arrangement((0, 1, 2, 3), 0, samples_last=False, plain=False),
        Arrangement((1, 0), 0, samples_last=True, plain=True),
        Arrangement((0,), None, samples_last=True, plain=True),
    ]
    flags = [False, True]
    bounds = itertools.product(layouts, flags, ("sum", "max"), flags)
    shares = itertools.starmap(Shares, itertools.product(flags, flags))
    return [*(Totals(layout) for layout in layouts), *(Bounds(*each) for each in bounds), *shares]


def test_every_node_has_a_kernel_for_cuda() -> None:
    for program in every_program():
        model = onnx.shape_inference.infer_shapes(program.model())
        graph = model.graph
        types = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info]}
        types |= {value.name: value.type.tensor_type.elem_type for value in graph.output}
        for node in graph.node:
            assert node.op_type in KERNELS[types[node.input[0]]].split(), (program, node.op_type)


HOST = {"Pad": {1}, "ReduceSum": {1}, "Reshape": {1}, "Slice": {1, 2, 3}, "TopK": {1}, "Unsqueeze": {1}}
"""Inputs that the kernels for CUDA read on the host."""


def test_no_input_is_read_on_the_host_and_on_the_device() -> None:
    """onnxruntime refuses to feed such a one."""
    for program in every_program():
        graph = program.model().graph
        fed = {value.name for value in graph.input}
        ops = [
            (name, place in HOST.get(node.op_type, ()))
            for node in graph.node
            for place, name in enumerate(node.input)
            if name in fed
        ]
        assert len({name for name, _ in ops}) == len(set(ops)) == len(fed), program


def task(name: str, seed: int = 0) -> tuple[onnx.ModelProto, LinearOp, Samples]:
    op, data, *_ = build(CASES[name], seed)
    model = identity_model(("N", *CASES[name].data))
    return model, op, load_samples(data, input_specs(model))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", ["padded", "pointwise", "grouped", "shared_unequal"])
def test_only_scores_and_counters_come_home(name: str, provider: str) -> None:
    model, op, samples = task(name)
    programs = programs_on(provider)
    measure_there(model, [op], samples, programs)
    blocks = op.group * max(np.bincount([block.group for block in op.blocks(single=False)]))
    for each in programs.ran:
        assert set(each.home) <= {"above", "found", "left", "lowest", "highest", "check"}
        assert all(array.size <= blocks for array in each.home.values())


WIDE = {
    "window": Case((8, 7, 7), (24, 8, 3, 3), Window(pads=(1, 1, 1, 1))),
    "groups": Case((8, 7, 7), (24, 2, 3, 3), group=4),
    "several channels": Case((12, 5, 5), (24, 12, 1, 1), ids=(1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 3)),
    "up": Case((8, 5, 5), (8, 12, 3, 3), Window(pads=(1, 1, 1, 1)), transposed=True),
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", WIDE)
def test_pairs_are_added_until_no_bound_is_above_the_largest_share(name: str, provider: str) -> None:
    op, data, u, taps = build(WIDE[name])
    model = identity_model(("N", *WIDE[name].data))
    samples = load_samples(data, input_specs(model))
    programs = programs_on(provider)
    found = measure_there(model, [op], samples, programs, first=1)["r"]
    assert as_dict(found) == pytest.approx(scores(u, taps, op), rel=1e-5)
    runs = programs.of("Shares")
    assert max(int(each.feeds["size"][0]) for each in runs) >= 8
    # Not all blocks need it.
    assert {each.feeds["which"].size for each in runs if each.feeds["size"][0] > 1} != {len(as_dict(found))}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_cannot_rise_is_not_computed_again(provider: str) -> None:
    """One channel alone makes all of an output: its share is one in the first batch."""
    weight = np.zeros((2, 2, 1, 1), np.float32)
    weight[[0, 1], [0, 1]] = 1
    op = LinearOp("r", "conv", "y", (1, 2, 3, 3), 1, np.array([1, 2]), weight, (1, 2, 3, 3))
    model = identity_model(("N", 2, 3, 3), op="Relu")
    data = np.random.default_rng(0).random((6, 2, 3, 3)).astype(np.float32)
    programs = programs_on(provider)
    found = measure_there(model, [op], load_samples(data, input_specs(model)), programs, batch=1)
    assert as_dict(found["r"]) == pytest.approx({1: 1.0, 2: 1.0})
    assert len(programs.of("Bounds")) == 6
    assert len(programs.of("Shares")) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", ["padded", "one_position"])
def test_little_memory_means_single_samples_and_blocks(name: str, provider: str) -> None:
    model, op, samples = task(name)
    programs = programs_on(provider)
    measure_there(model, [op], samples, programs, workspace=1, batch=5)
    spans = [(int(each.feeds["first"][0]), int(each.feeds["last"][0])) for each in programs.of("Bounds")]
    assert spans == [(sample, sample + 1) for sample in range(5) for _ in range(2)]
    assert {each.feeds["which"].size for each in programs.of("Shares")} == {1}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_layers_of_one_form_share_their_graphs(provider: str) -> None:
    """Three convolutions of other widths and sizes, the second with a stride."""
    rng = np.random.default_rng(0)
    shapes = {"a": (4, 3, 3, 3), "b": (6, 4, 3, 3), "c": (5, 6, 5, 5)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    windows = {"a": Window(pads=(1, 1, 1, 1)), "b": Window(strides=(2, 2)), "c": Window(pads=(2, 2, 2, 2))}
    nodes = [helper.make_node("Identity", ["x"], ["in_a"])]
    ops: list[LinearOp] = []
    sizes = {"a": (8, 8), "b": (3, 3), "c": (3, 3)}
    inside = {"a": (3, 8, 8), "b": (4, 8, 8), "c": (6, 3, 3)}
    for name, following in zip("abc", ["in_b", "in_c", "y"], strict=True):
        attributes = windows[name].as_attributes()
        nodes.append(helper.make_node("Conv", [f"in_{name}", name], [following], **attributes))
        outside = (1, shapes[name][0], *sizes[name])
        channels = np.arange(1, shapes[name][1] + 1)
        ops.append(
            LinearOp(name, "conv", f"in_{name}", (1, *inside[name]), 1, channels, weights[name], outside,
                   attributes=windows[name])
        )  # fmt: skip
    model = model_of(nodes, {"x": ("N", 3, 8, 8)}, ["y"], weights)
    samples = load_samples(rng.standard_normal((4, 3, 8, 8)).astype(np.float32), input_specs(model))
    programs = programs_on(provider)
    found = measure_there(model, ops, samples, programs)
    assert list(found) == ["a", "b", "c"]
    assert len({each.program for each in programs.ran}) == 3


@pytest.mark.parametrize("provider", PROVIDERS)
def test_batches_do_not_matter(provider: str) -> None:
    model, op, samples = task("padded")
    whole, parts = (measure_there(model, [op], samples, programs_on(provider), batch=b)["r"] for b in (5, 2))
    np.testing.assert_allclose(parts.sensitivity, whole.sensitivity, rtol=1e-6)
    np.testing.assert_allclose(parts.patch_sum, whole.patch_sum, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(parts.square_sum, whole.square_sum, rtol=1e-5)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", ["padded", "pointwise"])
def test_samples_may_differ_in_size(name: str, provider: str) -> None:
    op, data, *_ = build(CASES[name])
    programs = programs_on(provider)
    family, plan = OpFamily((op,)), SensitivitySettings()
    parts = [data[:2], data[2:, :, :4, :4]]
    together = DeviceSensitivityObserver(family, plan, False, "x", programs)
    apart = [DeviceSensitivityObserver(family, plan, False, "x", programs) for _ in parts]
    for one, part in zip(apart, parts, strict=True):
        together.see({"x": programs.place.put(part)}, Batch(0, len(part)))
        one.see({"x": programs.place.put(part)}, Batch(0, len(part)))
    found = together.statistics()[op.name]
    wanted = merged(apart[0].statistics(), apart[1].statistics())[op.name]
    np.testing.assert_allclose(found.sensitivity, wanted.sensitivity, rtol=1e-6)
    np.testing.assert_allclose(found.patch_sum, wanted.patch_sum, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.square_sum, wanted.square_sum, rtol=1e-6)
    assert (found.patches, found.samples) == (wanted.patches, wanted.samples)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_fixed_channels_are_counted_and_not_screened(provider: str) -> None:
    model, op, samples = task("padded")
    programs = programs_on(provider)
    fixed = replace(op, channels=np.zeros(3, np.int64))
    found = measure_there(model, [fixed], samples, programs)["r"]
    assert found.sensitivity.shape == (0,)
    assert found.patches == 5 * 30
    assert {type(each.program).__name__ for each in programs.ran} == {"Totals"}


def test_where_tensors_stay() -> None:
    assert device_memory_of(resolve_providers("cpu")) == DeviceMemory("cpu", 0)
    assert device_memory_of(resolve_providers("cuda:3")) == DeviceMemory("cuda", 3)
    assert device_memory_of(resolve_providers("cuda,cpu")) == DeviceMemory("cuda", 0)
    assert device_memory_of(resolve_providers("trt,cuda")) is None


def test_what_is_put_somewhere_comes_back() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(DeviceMemory().put(array.T).numpy(), array.T)


def test_a_graph_takes_only_what_it_reads() -> None:
    programs = Recorded(DeviceMemory(), resolve_providers("cpu"), 1)
    data = np.ones((2, 3, 1, 1), np.float32)
    feeds = {
        "data": data,
        "arranged": np.array([0, 3, -1]),
        "total": np.zeros((3, 1)),
        "squares": np.zeros(3),
        "unheard of": data,
    }
    program = Totals(Arrangement((0, 1, 2, 3), 0, samples_last=False, plain=True))
    found = programs.run(program, feeds, home=("lowest",))
    np.testing.assert_array_equal(found["new_total"].numpy(), [[2.0], [2], [2]])
