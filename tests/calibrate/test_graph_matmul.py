from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import parser
from support.brute_shares import as_dict, identity_model, measure, product_scores, scores

from onnxpfp.calibrate.collect import calibrate
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.ops import LinearOp, output_counts

RNG = np.random.default_rng(1)


def matmul(shape: tuple[int, ...], axis: int, ids: Any, outputs: int, seed: int = 0) -> LinearOp:
    weight = np.random.default_rng(seed).standard_normal((shape[axis], outputs)).astype(np.float32)
    rest = [dim for position, dim in enumerate(shape) if position != axis]
    channels = np.asarray(ids, dtype=np.int64)
    return LinearOp("r", "matmul", "y", shape, axis, channels, weight, (*rest, outputs))


def brute(data: Any, op: LinearOp, kernel: str, sample_axis: int = 0) -> dict[int, float]:
    """(S, C, 1, P) from data with samples and the contracted axis anywhere."""
    moved = np.moveaxis(data, (sample_axis, op.axis), (0, 1))
    u = moved.reshape(*moved.shape[:2], 1, -1)
    assert op.weight is not None
    return scores(u, op.weight[:, :, None], op, kernel)


def test_the_fully_connected_oracle() -> None:
    weight = np.array([[1, -2, 0.5, 0], [-0.5, 1, 2, 3]], np.float32).T
    data = np.array([[5, 0.6, 1.6, 1], [1, 2, 0, 1]], np.float32)
    op = LinearOp("r", "matmul", "y", (1, 4), 1, np.arange(1, 5), weight, (1, 2))
    for batch in (1, 2):
        found = measure(identity_model(("N", 4)), op, data, batch_size=batch)
        np.testing.assert_allclose(found.sensitivity, [1, 1, 0.470588, 0.6], atol=1e-6)
        assert found.sensitivity.sum() == pytest.approx(3.070588, abs=1e-6)
        np.testing.assert_allclose(found.patch_mean[:, 0], data.mean(0), rtol=1e-6)
        assert not found.negative
        assert found.patches == 2


@pytest.mark.parametrize("kernel", ["sum", "max"])
@pytest.mark.parametrize(
    ("shape", "axis", "ids"),
    [
        ((1, 6), 1, range(1, 7)),
        ((1, 5, 6), 2, range(1, 7)),
        ((1, 6, 5), 1, range(1, 7)),
        ((1, 2, 3, 6), 3, [1, 0, 3, 3, 1, 7]),
        ((1, 4, 3, 3), 1, [2, 1, 2, 0]),
    ],
)
def test_any_rank_and_axis(shape: tuple[int, ...], axis: int, ids: Any, kernel: str) -> None:
    op = matmul(shape, axis, ids, 4)
    data = RNG.standard_normal((5, *shape[1:])).astype(np.float32)
    found = measure(identity_model(("N", *shape[1:])), op, data, kernel=kernel)
    assert as_dict(found) == pytest.approx(brute(data, op, kernel), abs=2e-6)
    axes = tuple(position for position in range(data.ndim) if position != axis)
    np.testing.assert_allclose(found.patch_sum[:, 0], data.sum(axes), atol=1e-5)
    np.testing.assert_allclose(found.square_sum, np.square(data).sum(axes), rtol=1e-5)
    assert found.patches == data.size // shape[axis]


@pytest.mark.parametrize("kernel", ["sum", "max"])
def test_a_transposed_operand_has_its_samples_on_axis_1(kernel: str) -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 6] x) => (float[6, N] y) { y = Transpose<perm = [1, 0]>(x) }
    """
    op = matmul((6, 1), 0, range(1, 7), 3)
    data = RNG.standard_normal((5, 6)).astype(np.float32)
    found = measure(parser.parse_model(text), op, data, kernel=kernel)
    assert as_dict(found) == pytest.approx(brute(data.T, op, kernel, 1), abs=2e-6)
    np.testing.assert_allclose(found.patch_sum[:, 0], data.sum(0), atol=1e-5)


def test_a_weight_on_the_left_contracts_the_last_but_one_axis() -> None:
    op = matmul((1, 6, 4), 1, [1, 2, 3, 1, 2, 3], 5)
    data = RNG.standard_normal((3, 6, 4)).astype(np.float32)
    found = measure(identity_model(("N", 6, 4)), op, data)
    assert as_dict(found) == pytest.approx(brute(data, op, "sum"), abs=2e-6)


def test_a_vector_is_one_sample() -> None:
    op = matmul((6,), 0, range(1, 7), 3)
    data = RNG.standard_normal((1, 6)).astype(np.float32)
    found = measure(identity_model((6,)), op, data)
    assert as_dict(found) == pytest.approx(brute(data, reader_of_rows(op), "sum"), abs=2e-6)


def reader_of_rows(op: LinearOp) -> LinearOp:
    return LinearOp("r", "matmul", "y", (1, 6), 1, op.channels, op.weight, (1, 3))


@pytest.mark.parametrize("order", ["nchw", "nhwc"])
def test_flatten_adds_the_columns_of_a_channel_first(order: str) -> None:
    data = RNG.standard_normal((4, 3, 2, 2)).astype(np.float32)
    ids = np.arange(1, 4).repeat(4) if order == "nchw" else np.tile(np.arange(1, 4), 4)
    flat = data.reshape(4, 12) if order == "nchw" else data.transpose(0, 2, 3, 1).reshape(4, 12)
    op = matmul((1, 12), 1, ids, 5)
    found = measure(identity_model(("N", 12)), op, np.ascontiguousarray(flat))
    assert as_dict(found) == pytest.approx(brute(flat, op, "sum"), abs=2e-6)
    single = measure(identity_model(("N", 12)), op, np.ascontiguousarray(flat), kernel="max")
    assert np.all(single.sensitivity <= found.sensitivity)


PRODUCT = """
    <ir_version: 8, opset_import: ["": {opset}]>
    g (float[N, 2, 3, 4] q, float[N, 2, 4, 5] k) => (float[N, 2, 3, 5] y) {{
        a = Identity(q)
        b = {right}(k)
        y = MatMul(a, b)
    }}
"""


@pytest.mark.parametrize("opset", [9, 13, 18, 21])
@pytest.mark.parametrize("on_right", [False, True])
@pytest.mark.parametrize("right", ["Identity", "Relu"])
@pytest.mark.parametrize("ids", [[1, 2, 3, 4], [1, 0, 2, 1]])
def test_product_of_two_activations(opset: int, on_right: bool, right: str, ids: list[int]) -> None:
    q = RNG.standard_normal((3, 2, 3, 4)).astype(np.float32)
    k = RNG.standard_normal((3, 2, 4, 5)).astype(np.float32)
    sides = [("a", (1, 2, 3, 4), 3), ("b", (1, 2, 4, 5), 2)]
    (data, shape, axis), (other, other_shape, _) = sides[::-1] if on_right else sides
    op = LinearOp(
        name="r",
        kind="product",
        data=data,
        data_shape=shape,
        axis=axis,
        channels=np.array(ids),
        weight=None,
        output_shape=(1, 2, 3, 5),
        other=other,
        other_shape=other_shape,
        data_on_right=on_right,
    )
    model = parser.parse_model(PRODUCT.format(opset=opset, right=right))
    wanted = product_scores(q, np.maximum(k, 0) if right == "Relu" else k, op.channels)
    for options in ({}, {"workspace_bytes": 1}, {"batch_size": 1}):
        found = measure(model, op, {"q": q, "k": k}, **options)
        assert as_dict(found) == pytest.approx(wanted, abs=2e-6)
        assert found.patch_sum.shape == (4, 1)
        assert not found.patch_sum.any()
        assert found.square_sum.all()


def test_product_with_fewer_batch_axes_on_one_side() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 2, 3, 4] q, float[4, 5] k) => (float[N, 2, 3, 5] y) { y = MatMul(q, k) }
    """
    q = RNG.standard_normal((3, 2, 3, 4)).astype(np.float32)
    k = RNG.standard_normal((4, 5)).astype(np.float32)
    model = parser.parse_model(text)
    op = LinearOp(
        "r", "product", "q", (1, 2, 3, 4), 3, np.arange(1, 5), None, (1, 2, 3, 5),
        other="k", other_shape=(4, 5),
    )  # fmt: skip
    samples = load_samples([{"q": q, "k": k}], input_specs(model))
    found = calibrate(model, [op], samples)["r"]
    assert as_dict(found) == pytest.approx(product_scores(q, k, op.channels), abs=2e-6)


def test_outputs_of_one_sample() -> None:
    weight = np.zeros((8, 3, 3, 3), np.float32)
    conv = LinearOp("r", "conv", "x", (1, 3, 9, 9), 1, np.arange(3), weight, (1, 8, 7, 7))
    assert output_counts(conv) == (8, 49)
    assert output_counts(matmul((1, 5, 6), 2, range(6), 4)) == (4, 5)
