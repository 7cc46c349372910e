from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support.brute_shares import (
    as_dict,
    identity_model,
    measure,
    model_of,
    scores,
    unfold_conv,
    unfold_transposed,
)

from onnxpfp.linear.ops import LinearOp, Window
from onnxpfp.runtime.session import open_session


@dataclass(frozen=True)
class Case:
    """Shapes of one convolution; `weight` as ONNX lays it out."""

    data: tuple[int, ...]
    weight: tuple[int, ...]
    window: Window = field(default_factory=Window)
    group: int = 1
    transposed: bool = False
    ids: tuple[int, ...] | None = None


CASES = {
    "plain": Case((3, 6, 6), (4, 3, 3, 3)),
    "padded": Case((3, 6, 5), (4, 3, 3, 3), Window(pads=(1, 1, 1, 1))),
    "asymmetric": Case((2, 6, 5), (3, 2, 2, 3), Window(pads=(1, 0, 0, 2))),
    "stride": Case((3, 7, 7), (4, 3, 3, 3), Window(strides=(2, 2), pads=(1, 1, 1, 1))),
    "dilation": Case((2, 8, 8), (3, 2, 3, 3), Window(dilations=(2, 2), pads=(2, 2, 2, 2))),
    "same_upper": Case((2, 6, 6), (3, 2, 3, 2), Window(strides=(2, 2), auto_pad="SAME_UPPER")),
    "same_lower": Case((2, 6, 6), (3, 2, 3, 2), Window(strides=(2, 2), auto_pad="SAME_LOWER")),
    "grouped": Case((6, 5, 5), (4, 3, 3, 3), Window(pads=(1, 1, 1, 1)), group=2),
    "depthwise": Case((4, 5, 5), (8, 1, 3, 3), Window(pads=(1, 1, 1, 1)), group=4),
    "grouped_1x1": Case((6, 3, 3), (4, 3, 1, 1), group=2),
    "pointwise": Case((5, 4, 4), (6, 5, 1, 1)),
    "pointwise_stride": Case((5, 5, 5), (3, 5, 1, 1), Window(strides=(2, 2))),
    "pointwise_padded": Case((5, 3, 3), (3, 5, 1, 1), Window(pads=(1, 1, 1, 1))),
    "one_position": Case((5, 1, 1), (3, 5, 1, 1)),
    "1d": Case((3, 9), (4, 3, 3), Window(strides=(2,), pads=(1, 1))),
    "3d": Case((2, 4, 3, 4), (3, 2, 2, 3, 2), Window(pads=(0, 1, 0, 1, 1, 0))),
    "fixed": Case((4, 5, 5), (3, 4, 3, 3), ids=(0, 7, 0, 2)),
    "fixed_grouped": Case((6, 5, 5), (4, 3, 3, 3), group=2, ids=(1, 0, 2, 3, 4, 0)),
    "shared": Case((4, 5, 5), (3, 4, 3, 3), ids=(5, 2, 5, 2)),
    "shared_unequal": Case((5, 5, 5), (3, 5, 3, 3), ids=(5, 2, 5, 5, 9)),
    "shared_1x1": Case((5, 4, 4), (3, 5, 1, 1), ids=(5, 2, 5, 5, 9)),
    "shared_across_groups": Case((6, 5, 5), (4, 3, 3, 3), group=2, ids=(1, 2, 2, 1, 2, 3)),
    "transposed": Case((3, 4, 4), (3, 4, 3, 3), Window(strides=(2, 2)), transposed=True),
    "transposed_padded": Case(
        (3, 4, 3),
        (3, 4, 3, 3),
        Window(strides=(2, 2), pads=(1, 1, 1, 1), output_padding=(1, 1)),
        transposed=True,
    ),
    "transposed_dilated": Case((2, 4, 4), (2, 3, 2, 2), Window(dilations=(2, 2), pads=(1, 0, 0, 1)), transposed=True),
    "transposed_grouped": Case((4, 3, 3), (4, 2, 2, 2), Window(strides=(2, 2)), group=2, transposed=True),
    "transposed_1x1": Case((4, 3, 3), (4, 2, 1, 1), Window(strides=(2, 2)), transposed=True),
    "transposed_one_position": Case((4, 1, 1), (4, 2, 1, 1), transposed=True),
    "transposed_shared": Case((4, 3, 3), (4, 2, 2, 2), transposed=True, ids=(1, 2, 1, 2)),
    "transposed_1d": Case((3, 5), (3, 2, 4), Window(strides=(2,), pads=(1, 1)), transposed=True),
}


def taps_of(case: Case, weight: np.ndarray) -> np.ndarray:
    """V (C, O/g, k), written independently of the package."""
    channels = case.data[0]
    if case.transposed:
        return weight.reshape(channels, weight.shape[1], -1)
    outputs, inputs = weight.shape[0] // case.group, channels // case.group
    taps = np.zeros((channels, outputs, int(np.prod(weight.shape[2:]))), np.float32)
    for c in range(channels):
        for i in range(outputs):
            taps[c, i] = weight[c // inputs * outputs + i, c % inputs].reshape(-1)
    return taps


def build(case: Case, seed: int = 0) -> tuple[LinearOp, np.ndarray, np.ndarray, np.ndarray]:
    """Return the linear op, data (5, ...), u (5, C, k, P) and V (C, O/g, k)."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(case.weight).astype(np.float32)
    data = rng.standard_normal((5, *case.data)).astype(np.float32)
    unfold = unfold_transposed if case.transposed else unfold_conv
    u = np.stack([unfold(sample, case.weight[2:], case.window) for sample in data])
    outputs = case.weight[1] * case.group if case.transposed else case.weight[0]
    op = LinearOp(
        name="r",
        kind="conv_transpose" if case.transposed else "conv",
        data="y",
        data_shape=(1, *case.data),
        axis=1,
        channels=np.array(case.ids or range(1, case.data[0] + 1), dtype=np.int64),
        weight=weight,
        output_shape=(1, outputs, u.shape[-1]),
        group=case.group,
        attributes=case.window,
    )
    return op, data, u, taps_of(case, weight)


def check(op: LinearOp, data: Any, u: Any, taps: Any, shape: Any, **options: Any) -> None:
    model = identity_model(("N", *shape))
    found = measure(model, op, data, **options)
    wanted = scores(u, taps, op, options.get("kernel", "sum"))
    assert as_dict(found) == pytest.approx(wanted, abs=2e-6)
    np.testing.assert_allclose(found.patch_sum, u.sum((0, 3)), atol=2e-5)
    assert found.patches == u.shape[0] * u.shape[3]
    assert found.samples == len(data)
    assert found.negative


@pytest.mark.parametrize("kernel", ["sum", "max"])
@pytest.mark.parametrize("name", CASES)
def test_matches_brute_force(name: str, kernel: str) -> None:
    case = CASES[name]
    check(*build(case), case.data, kernel=kernel)


@pytest.mark.parametrize("name", CASES)
def test_the_brute_force_unfolds_as_onnxruntime_does(name: str) -> None:
    case = CASES[name]
    op, data, u, taps = build(case)
    kind = "ConvTranspose" if case.transposed else "Conv"
    attributes = {"group": case.group, **case.window.as_attributes()}
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    assert op.weight is not None
    model = model_of([node], {"x": ("N", *case.data)}, ["y"], {"w": op.weight})
    actual = open_session(model, threads=1).run({"x": data})["y"]
    grouped_u = u.reshape(len(u), case.group, -1, *u.shape[2:])
    grouped_v = taps.reshape(case.group, -1, *taps.shape[1:])
    z = np.einsum("gciq,bgcqp->bgip", grouped_v, grouped_u)
    np.testing.assert_allclose(z.reshape(-1), actual.reshape(-1), atol=1e-4)


@pytest.mark.parametrize("name", ["padded", "grouped", "shared_unequal", "pointwise", "transposed"])
@pytest.mark.parametrize("options", [{"workspace_bytes": 1}, {"batch_size": 1}, {"batch_size": 3}])
def test_neither_chunks_nor_batches_change_the_result(name: str, options: dict[str, int]) -> None:
    case = CASES[name]
    op, data, *_ = build(case)
    model = identity_model(("N", *case.data))
    whole = measure(model, op, data, batch_size=8)
    parts = measure(model, op, data, **options)
    np.testing.assert_allclose(parts.sensitivity, whole.sensitivity, rtol=1e-6)
    np.testing.assert_allclose(parts.patch_sum, whole.patch_sum, rtol=1e-5, atol=1e-5)
    assert parts.patches == whole.patches


@pytest.mark.parametrize("kernel", ["sum", "max"])
def test_two_halves_merge_to_the_whole(kernel: Any) -> None:
    case = CASES["padded"]
    op, data, *_ = build(case)
    model = identity_model(("N", *case.data))
    whole = measure(model, op, data, kernel=kernel, batch_size=1)
    halves = [measure(model, op, data[s], kernel=kernel, batch_size=1) for s in (slice(2), slice(2, None))]
    merged = halves[0].merge(halves[1])
    np.testing.assert_array_equal(merged.sensitivity, whole.sensitivity)
    np.testing.assert_allclose(merged.patch_sum, whole.patch_sum, rtol=1e-12)
    np.testing.assert_allclose(merged.square_sum, whole.square_sum, rtol=1e-12)
    assert (merged.patches, merged.samples) == (whole.patches, whole.samples)


@pytest.mark.parametrize("name", ["padded", "stride", "grouped", "transposed"])
def test_the_two_kernel_forms_bracket_each_other(name: str) -> None:
    case = CASES[name]
    op, data, *_ = build(case)
    model = identity_model(("N", *case.data))
    total = measure(model, op, data, kernel="sum").sensitivity
    single = measure(model, op, data, kernel="max").sensitivity
    assert np.all(single <= total + 1e-6)
    assert np.all(total <= op.kernel_size * single + 1e-6)
    assert np.all((total >= 0) & (total <= 1))


@pytest.mark.parametrize("kernel", ["sum", "max"])
def test_scale_of_input_and_of_output_rows_does_not_matter(kernel: Any) -> None:
    case = CASES["padded"]
    op, data, *_ = build(case)
    model = identity_model(("N", *case.data))
    plain = measure(model, op, data, kernel=kernel).sensitivity
    assert op.weight is not None
    rows = np.array([1, 8, 0.25, 2], np.float32)[:, None, None, None]
    scaled = replace(op, weight=op.weight * rows)
    np.testing.assert_allclose(measure(model, scaled, data, kernel=kernel).sensitivity, plain, rtol=1e-5)
    tiny = measure(model, op, data * np.float32(1e-9), kernel=kernel)
    np.testing.assert_allclose(tiny.sensitivity, plain, rtol=1e-5)


def test_inputs_of_usual_size_score_as_in_the_authors_code() -> None:
    """There the guard is an absolute 1.19e-7, so that tiny inputs have no sensitivity at all."""
    case = CASES["padded"]
    op, data, u, taps = build(case)
    authors = scores(u, taps, op, guard="absolute")
    assert as_dict(measure(identity_model(("N", *case.data)), op, data)) == pytest.approx(authors, abs=2e-6)
    assert not any(scores(u * 1e-9, taps, op, guard="absolute").values())


@pytest.mark.parametrize("kernel", ["sum", "max"])
def test_all_zero_data_and_all_zero_weights_score_zero(kernel: Any) -> None:
    case = CASES["padded"]
    op, data, *_ = build(case)
    model = identity_model(("N", *case.data))
    dead = measure(model, op, np.zeros_like(data), kernel=kernel)
    assert not dead.sensitivity.any()
    assert not dead.negative
    assert op.weight is not None
    silent = replace(op, weight=np.zeros_like(op.weight))
    assert not measure(model, silent, data, kernel=kernel).sensitivity.any()


def test_a_corner_with_one_product_saturates() -> None:
    data = np.zeros((1, 2, 4, 4), np.float32)
    data[0, 0, 0, 0] = 1
    case = replace(CASES["padded"], data=(2, 4, 4), weight=(3, 2, 3, 3))
    op, *_ = build(case)
    found = measure(identity_model(("N", 2, 4, 4)), op, data)
    np.testing.assert_allclose(found.sensitivity, [1, 0])


def test_a_relu_saves_the_negative_quadrants() -> None:
    case = CASES["padded"]
    op, data, *_ = build(case)
    model = identity_model(("N", *case.data), op="Relu")
    found = measure(model, op, data)
    positive = np.maximum(data, 0)
    u = np.stack([unfold_conv(sample, (3, 3), case.window) for sample in positive])
    assert op.weight is not None
    assert as_dict(found) == pytest.approx(scores(u, taps_of(case, op.weight), op), abs=2e-6)
    assert not found.negative


def test_only_fixed_channels_still_give_the_input_means() -> None:
    case = replace(CASES["padded"], ids=(0, 0, 0))
    op, data, u, _ = build(case)
    found = measure(identity_model(("N", *case.data)), op, data)
    assert found.sensitivity.shape == (0,)
    np.testing.assert_allclose(found.patch_mean, u.mean((0, 3)), atol=1e-6)


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 12, 13, 17, 18, 21, 23])
@pytest.mark.parametrize("kernel", ["sum", "max"])
def test_every_opset(opset: int, kernel: Any) -> None:
    case = CASES["stride"]
    op, data, u, taps = build(case)
    found = measure(identity_model(("N", *case.data), opset=opset), op, data, kernel=kernel)
    assert as_dict(found) == pytest.approx(scores(u, taps, op, kernel), abs=2e-6)
