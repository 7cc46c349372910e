"""Ops that do not get faster: which ops the kernels of a profile are, and the causes that they show."""

from __future__ import annotations

from collections.abc import Sequence

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxpfp.comparison.slow_ops import OpTimes, SlowOp, block_of, slow_ops
from onnxpfp.runtime.profile import KernelTime, open_profiled, profile_kernels
from onnxpfp.runtime.providers import CPU, resolve_providers

WIDE = nets.build(nets.CHAIN, {**nets.CHAIN_SHAPES, "w1": (32, 3, 3, 3), "b1": (32,), "w2": (10, 32, 3, 3)})
NARROW = nets.build(nets.CHAIN, {**nets.CHAIN_SHAPES, "w1": (18, 3, 3, 3), "b1": (18,), "w2": (10, 18, 3, 3)})
Shapes = Sequence[tuple[int, ...]]


def _kernel(name: str, op: str, ms: float, shapes: Shapes = (), provider: str = CPU) -> KernelTime:
    return KernelTime(name, op, provider, tuple(shapes), ms)


def _slow(before: Sequence[KernelTime], after: Sequence[KernelTime], model: ModelProto = NARROW) -> tuple[SlowOp, ...]:
    def unasked(*models: ModelProto) -> tuple[OpTimes, OpTimes]:
        raise AssertionError("nothing is subnormal")

    return slow_ops(OpTimes.of(WIDE, before), OpTimes.of(model, after), 0.75, unasked)


def test_a_kernel_is_the_op_that_it_computes_whatever_fusion_it_comes_from() -> None:
    names = ["r_nchwc", "ReorderOutput_token_7", "ReorderOutput", "node_c", "odd"]
    ops = ["Conv", "ReorderOutput", "ReorderOutput", "FusedConv", "Cast"]
    kernels = [_kernel(name, op, ms) for name, op, ms in zip(names, ops, (1, 2, 3, 4, 5), strict=True)]
    times = OpTimes.of(WIDE, kernels)
    assert times.ms == {"node_a": 1, "ReorderOutput": 5, "node_c": 4, "odd": 5}
    assert {name: node.op_type for name, node in times.nodes.items()} == {"node_a": "Conv", "node_c": "Conv"}


def test_bodies_count_once() -> None:
    assert OpTimes.of(WIDE, [_kernel("outer", "Loop", 9), _kernel("inner", "Gemm", 4)]).ms == {"inner": 4}


def test_an_op_that_got_faster_is_not_listed() -> None:
    assert _slow([_kernel("node_a", "Conv", 4)], [_kernel("node_a", "Conv", 2)]) == ()
    assert [op.name for op in _slow([_kernel("node_a", "Conv", 4)], [_kernel("node_a", "Conv", 3.5)])] == ["node_a"]


def test_what_is_a_small_part_of_a_run_is_not_listed() -> None:
    before, after = ([_kernel("node_a", "Conv", ms), _kernel("node_s", "Relu", 1)] for ms in (100, 50))
    assert _slow(before, after) == ()


def test_a_kernel_that_computes_whole_blocks() -> None:
    before = [_kernel("r_nchwc", "Conv", 2, [(1, 3, 8, 8), (32, 3, 3, 3)])]
    (slow,) = _slow(before, [_kernel("r_nchwc", "Conv", 2, [(1, 3, 8, 8), (32, 3, 3, 3)])])
    assert (slow.name, slow.op, slow.before_ms, slow.after_ms) == ("node_a", "Conv", 2, 2)
    assert slow.cause == "the kernel computes 32 channels for its 18"


def test_an_op_that_leaves_the_layout_in_blocks_and_what_changes_it() -> None:
    before = [_kernel("r_nchwc", "Conv", 2), _kernel("s_nchwc", "Conv", 2)]
    after = [_kernel("r_nchwc", "Conv", 1), _kernel("ReorderOutput", "ReorderOutput", 1), _kernel("node_c", "Conv", 3)]
    conv, reorder = _slow(before, after)
    assert conv.cause.startswith("with 18 channels in and 10 out it leaves the layout in blocks")
    assert (reorder.name, reorder.before_ms) == ("ReorderOutput", 0)
    assert reorder.cause.startswith("a change of layout")


def test_weights_in_constant_nodes_and_groups_of_channels_are_seen() -> None:
    text = """g (float[N,18,8,8] x) => (float[N,18,6,6] y) { y = Conv <group = 18> (x, w) }"""
    model = nets.build(text, {"w": (18, 1, 3, 3)})
    constant = helper.make_node("Constant", [], ["w"], value=model.graph.initializer.pop())
    model.graph.node.insert(0, constant)
    before = OpTimes.of(model, [_kernel("y_nchwc", "Conv", 1)])
    (slow,) = slow_ops(before, OpTimes.of(model, [_kernel("node_y", "Conv", 8)]), 0.75, lambda *models: None)
    assert slow.cause.startswith("with 18 channels in and 18 out it leaves the layout in blocks")


def test_an_op_without_multiply_adds_and_one_of_which_nothing_is_seen() -> None:
    kernels = [_kernel("node_p", "GlobalAveragePool", 3), _kernel("node_y", "Gemm", 2)]
    pool, gemm = _slow(kernels, kernels)
    assert (pool.cause, gemm.cause) == ("it has no multiply-adds", "")


def test_an_op_that_falls_back_to_the_cpu_and_no_times_of_calls_that_only_queue_work() -> None:
    before = [_kernel(name, "Conv", 1, provider="CUDAExecutionProvider") for name in ("node_a", "node_c")]
    after = [_kernel("node_a", "Conv", 9), _kernel("node_c", "Conv", 9, provider="CUDAExecutionProvider")]
    (moved,) = _slow(before, after)
    assert (moved.name, moved.cause) == ("node_a", "it runs on the CPU, the original's on CUDAExecutionProvider")


def _with_subnormals() -> ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(NARROW)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "w1")
    array = numpy_helper.to_array(weight).copy()
    array[0] = 1e-40
    weight.CopyFrom(numpy_helper.from_array(array, "w1"))
    return model


@pytest.mark.parametrize(("without", "blamed"), [(1.0, True), (9.5, False)])
def test_subnormal_weights_are_blamed_if_the_op_is_faster_without_them(without: float, blamed: bool) -> None:
    measured: list[ModelProto] = []

    def again(*models: ModelProto) -> tuple[OpTimes, OpTimes]:
        measured.extend(models)
        one, two = (OpTimes.of(NARROW, [_kernel("node_a", "Conv", ms)]) for ms in (10, without))
        return one, two

    model = _with_subnormals()
    times = [OpTimes.of(each, [_kernel("node_a", "Conv", ms)]) for each, ms in ((WIDE, 2), (model, 10))]
    (slow,) = slow_ops(*times, 0.75, again)
    assert slow.cause == ("27 of its weights are subnormal numbers; with zeros in their places it takes 1 ms" * blamed)
    before, after = map(nets.weights, measured)
    assert before["w1"][0].any()
    assert not after["w1"][0].any()
    np.testing.assert_array_equal(after["w1"][1:], before["w1"][1:])
    np.testing.assert_array_equal(after["w2"], before["w2"])


def test_without_time_for_it_subnormal_weights_are_named_and_not_blamed() -> None:
    model = _with_subnormals()
    times = [OpTimes.of(each, [_kernel("node_a", "Conv", ms)]) for each, ms in ((WIDE, 2), (model, 10))]
    (slow,) = slow_ops(*times, 0.75, lambda *models: None)
    assert slow.cause == "27 of its weights are subnormal numbers; there was no time to measure what they cost"


def test_blocks_are_what_the_weights_of_blocked_kernels_have() -> None:
    def times(*widths: int) -> OpTimes:
        return OpTimes.of(WIDE, [_kernel(f"{n}_nchwc", "Conv", 1, [(1,), (n, 3, 3, 3)]) for n in widths])

    assert block_of(times(16, 48), times(32)) == 16
    assert block_of(times(8, 24)) == 8
    assert block_of(times(64)) == 16
    assert block_of(OpTimes.of(WIDE, [_kernel("node_y", "Gemm", 1, [(1, 2), (7, 2)])])) == 1


def test_a_real_profile_has_every_op_that_takes_time() -> None:
    kernels, others = profile_kernels([WIDE, NARROW], {"x": nets.noise(1, 3, 8, 8)}, resolve_providers(), 1)
    times = OpTimes.of(WIDE, kernels)
    assert OpTimes.of(NARROW, others).nodes.keys() == times.nodes.keys()
    assert {"node_a", "node_c", "node_y"} <= times.nodes.keys()
    assert all(kernel.ms >= 0 and kernel.provider == CPU for kernel in kernels)
    assert sum(times.ms.values()) > 0


def test_a_session_goes_on_when_its_profile_has_ended() -> None:
    feed = {"x": nets.noise(1, 3, 8, 8)}
    session, kernels = open_profiled(WIDE, feed, resolve_providers(), None, 1)
    assert {"node_a", "node_c", "node_y"} <= OpTimes.of(WIDE, kernels).nodes.keys()
    np.testing.assert_allclose(session.run(feed)["y"], nets.run(WIDE, feed), rtol=1e-5)
