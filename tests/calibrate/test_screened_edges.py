"""Windows, scales and weights at which screening could go wrong, one by one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from support.drawn_readers import Drawn
from support.equal_statistics import assert_same

from onnxpfp.calibrate.collect import SensitivityMethod
from onnxpfp.calibrate.sensitivity.settings import Kernel
from onnxpfp.linear.ops import Kind, LinearOp, Window

KERNELS = ["sum", "max"]
METHODS: tuple[SensitivityMethod, ...] = ("screened", "plain")
EPSILON = np.finfo(np.float32).eps


@dataclass(frozen=True)
class Edge:
    """A linear op of noise; `weight` as ONNX lays it out."""

    kind: Kind
    data: tuple[int, ...]
    weight: tuple[int, ...]
    window: Window = field(default_factory=Window)
    group: int = 1
    channels: tuple[int, ...] = ()
    of_data: float = 1
    of_weight: float = 1

    def drawn(self) -> Drawn:
        rng = np.random.default_rng(3)
        data = rng.standard_normal((3, *self.data)).astype(np.float32) * np.float32(self.of_data)
        weight = rng.standard_normal(self.weight).astype(np.float32) * np.float32(self.of_weight)
        ids = np.array(self.channels or range(1, self.data[0] + 1), np.int64)
        op = LinearOp(
            "r", self.kind, "y", (1, *self.data), 1, ids, weight, (1, self.weight[0], 1),
            group=self.group, attributes=self.window,
        )  # fmt: skip
        return Drawn((op,), data)


SPARSE = Window(strides=(2, 2))
PADDED = Window(pads=(1, 1, 1, 1))
EDGES = {
    "strides above the window": Edge("conv", (3, 6, 6), (4, 3, 1, 1), Window(strides=(2, 2), auto_pad="SAME_UPPER")),
    "strides above a long window": Edge("conv", (3, 7), (4, 3, 2), Window(strides=(4,), auto_pad="SAME_LOWER")),
    "up, strides above the window": Edge(
        "conv_transpose", (3, 3), (3, 4, 2), Window(strides=(3,), auto_pad="SAME_UPPER")
    ),
    "only strides": Edge("conv", (3, 5, 6), (4, 3, 1, 1), SPARSE),
    "only strides, grouped": Edge("conv", (4, 5, 6), (4, 2, 1, 1), SPARSE, group=2),
    "pads beyond the window": Edge("conv", (3, 4), (4, 3, 2), Window(pads=(3, 3))),
    "large weights": Edge("conv", (16, 7, 7), (4, 16, 3, 3), PADDED, of_weight=1e20),
    "small weights": Edge("conv", (16, 7, 7), (4, 16, 3, 3), PADDED, of_weight=1e-25),
    "large inputs": Edge("conv", (16, 7, 7), (4, 16, 3, 3), PADDED, of_data=1e20),
    "small inputs": Edge("conv", (16, 7, 7), (4, 16, 3, 3), PADDED, of_data=1e-25),
    "small inputs, several indices": Edge("matmul", (24,), (24, 4), channels=(1, 2, 3) * 8, of_data=1e-25),
    "small inputs, large weights": Edge("conv", (16, 12), (4, 16, 3), of_data=1e-25, of_weight=1e25),
    "large inputs, small weights": Edge("conv", (16, 12), (4, 16, 3), of_data=1e25, of_weight=1e-25),
    "unequal groups": Edge("conv", (6, 5), (4, 3, 3), group=2, channels=(1, 1, 1, 2, 3, 0)),
    "a channel of several groups": Edge("conv", (6, 5), (4, 3, 3), group=2, channels=(1, 2, 2, 1, 2, 3)),
    "unequal, the first of the mean size": Edge("matmul", (6,), (6, 4), channels=(1, 1, 2, 3, 3, 3)),
    "unequal, the first of the mean size, many": Edge("matmul", (24,), (24, 4), channels=(1, 1, 2, 3, 3, 3) * 4),
    "unequal windows, the first of the mean size": Edge("conv", (6, 7), (4, 6, 2), channels=(1, 1, 2, 2, 2, 3)),
    "nothing to score": Edge("conv", (3, 5), (4, 3, 3), channels=(0, 0, 0)),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", EDGES)
def test_screened_is_plain(name: str, kernel: Kernel) -> None:
    case = EDGES[name].drawn()
    assert_same(case.measured("screened", kernel), case.measured("plain", kernel))


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_strides_pass_over_still_counts_as_input(kernel: Kernel) -> None:
    case = EDGES["only strides"].drawn()
    data = np.abs(case.data)
    data[:, :, 1, 1] *= -1
    found = Drawn(case.ops, data).measured("screened", kernel)["r"]
    np.testing.assert_allclose(found.square_sum, np.square(data).sum((0, 2, 3)), rtol=1e-5)
    assert found.negative
    assert found.patches == 3 * 3 * 3


@pytest.mark.parametrize("kernel", KERNELS)
def test_readers_of_one_tensor_do_not_disturb_each_other(kernel: Kernel) -> None:
    rng = np.random.default_rng(4)
    weights = [rng.standard_normal((outputs, 3, 3)).astype(np.float32) for outputs in (2, 5, 1)]
    weights[1][2] = 0
    weights[2][:] = 0
    ids = (np.array([1, 2, 3]), np.array([4, 0, 4]), np.array([5, 6, 7]))
    ops = tuple(
        LinearOp(f"r{n}", "conv", "y", (1, 3, 8), 1, each, weight, (1, len(weight), 6))
        for n, (each, weight) in enumerate(zip(ids, weights, strict=True))
    )
    data = rng.standard_normal((4, 3, 8)).astype(np.float32)
    together = Drawn(ops, data).measured("screened", kernel)
    assert_same(together, Drawn(ops, data).measured("plain", kernel))
    assert not together["r2"].sensitivity.any()
    for op in ops:
        alone = Drawn((op,), data).measured("screened", kernel)[op.name]
        np.testing.assert_array_equal(alone.sensitivity, together[op.name].sensitivity)


@pytest.mark.parametrize("kernel", KERNELS)
def test_readers_with_other_windows_are_measured_apart(kernel: Kernel) -> None:
    rng = np.random.default_rng(6)
    windows = [Window(), Window(strides=(2,)), Window(pads=(1, 1)), Window(dilations=(2,))]
    ops = tuple(
        LinearOp(f"r{n}", "conv", "y", (1, 3, 8), 1, np.arange(1, 4), rng.standard_normal((2, 3, 3)).astype(np.float32),
               (1, 2, 6), attributes=window)
        for n, window in enumerate(windows)
    )  # fmt: skip
    case = Drawn(ops, rng.standard_normal((2, 3, 8)).astype(np.float32))
    assert_same(case.measured("screened", kernel), case.measured("plain", kernel))


@pytest.mark.parametrize("faint", [2, 12])
@pytest.mark.parametrize("spread", [0, 2])
@pytest.mark.parametrize("seed", range(8))
def test_sums_near_the_guard(seed: int, spread: float, faint: int) -> None:
    """Positions so faint that some of their sums count as zero and others do not."""
    rng = np.random.default_rng(seed)
    data = rng.lognormal(0, 1, (2, 16, 5)).astype(np.float32)
    data[:, -faint:] = rng.lognormal(0, 4, (2, faint, 5)) * 10 ** rng.uniform(-8, -6, (2, faint, 1))
    weight = rng.standard_normal((5, 6)) * 10 ** rng.uniform(-spread, spread, 6)
    op = LinearOp("r", "matmul", "y", (1, 16, 5), 2, np.arange(1, 6), weight.astype(np.float32), (1, 16, 6))
    case = Drawn((op,), data)
    assert_same(case.measured("screened", "sum"), case.measured("plain", "sum"))


FAINT = [(3, 2.1, 1 / 3), (3, 4.2, 5 / 7), (2100, 1400, 1 / 3), (2100, 2800, 5 / 7)]


@pytest.mark.parametrize(("largest", "faint", "wanted"), FAINT)
def test_a_faint_position_counts_from_the_guard_on(largest: float, faint: float, wanted: float) -> None:
    """There the first channel has most of the sum, which counts if it is above epsilon times the largest."""
    data = np.ones((1, 10, 5), np.float32)
    data[0, 9] = np.array([1, 0.2, 0.2, 0.2, 0.2]) * faint / 1.4 * EPSILON
    signs = np.array([1, 1, -1, 1, -1])
    # The second output is there for its large sums; the first channel has little part in it.
    rows = [signs, signs * np.array([0.1, 1, 1, 1, 1]) * largest / 2.1 if largest > 3 else signs]
    weight = np.stack(rows, axis=1).astype(np.float32)
    op = LinearOp("r", "matmul", "y", (1, 10, 5), 2, np.arange(1, 6), weight, (1, 10, 2))
    case = Drawn((op,), data)
    for method in METHODS:
        found = case.measured(method, "sum")["r"].sensitivity
        np.testing.assert_allclose(found[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("of_weight", [1e-15, 1e-25, 1e-30])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("channels", [(1, 2, 3), (1, 2, 1)])
def test_a_channel_with_tiny_weights_counts_where_it_is_alone(
    channels: tuple[int, ...], kernel: Kernel, of_weight: float
) -> None:
    case = Edge("conv", (3, 5, 5), (4, 3, 3, 3), PADDED, channels=channels).drawn()
    (op,) = case.ops
    assert isinstance(op.weight, np.ndarray)
    tiny = np.flatnonzero(op.channels == 1)
    op.weight[:, tiny] *= np.float32(of_weight)
    case.data[0, :] = np.abs(case.data[0, :])
    case.data[0, np.flatnonzero(op.channels != 1)] = 0
    found = case.measured("screened", kernel)
    assert_same(found, case.measured("plain", kernel))
    if kernel == "sum":
        assert found["r"].sensitivity[0] == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["small inputs", "small inputs, several indices", "small inputs, large weights"])
@pytest.mark.parametrize("of_sample", [1e-12, 1e-25])
def test_a_faint_sample_counts_as_any_other(of_sample: float, name: str, kernel: Kernel) -> None:
    case = replace(EDGES[name], of_data=1).drawn()
    # All shares of the others are alike; those of the faint one are larger.
    case.data[[0, 2]] = 1
    case.data[1] *= np.float32(of_sample)
    assert_same(case.measured("screened", kernel), case.measured("plain", kernel))
