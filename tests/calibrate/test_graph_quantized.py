"""The probe reads quantized numbers minus their zero points, and weights as the op unpacks them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from support.brute_shares import as_dict, measure, product_scores, scores, unfold_conv
from support.graphs import build
from support.oracle import problem

from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.ops import LinearOp, Window
from onnxpfp.model.constants import Constants
from onnxpfp.runtime import open_session

RNG = np.random.default_rng(3)
SCALES = "float sx = {0.03}, float sy = {0.04}, uint8 zx = {120}, uint8 zy = {110}"


def model_and_reader(text: str, op: str) -> tuple[ModelProto, LinearOp]:
    """Build a model, and describe its one consumer of type `op`."""
    model = build(text)
    case = problem(model)
    ops = linear_ops(case.analysis)
    (position,) = (p for p, c in enumerate(case.graph.consumers) if c.op == op)
    return model, ops[position]


def exposed(model: ModelProto, name: str, feed: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Run a model, and return one of its tensors."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.add(name=name)
    return open_session(copy, optimize=False).run(feed)[name].astype(np.float64)


def stored(model: ModelProto, name: str) -> NDArray[np.float64]:
    return Constants.of(model).value(name).astype(np.float64)


def images() -> NDArray[np.float32]:
    return RNG.standard_normal((4, 3, 6, 6)).astype(np.float32)


def rows() -> NDArray[np.float32]:
    return RNG.standard_normal((4, 5, 3)).astype(np.float32)


@pytest.mark.parametrize("kernel", ["sum", "max"])
@pytest.mark.parametrize(("axis", "domain", "channels"), [(1, "", ""), (3, "com.microsoft.", "channels_last=1, ")])
def test_quantized_convolution(kernel: str, axis: int, domain: str, channels: str) -> None:
    there, back = ("t = Transpose<perm=[0,2,3,1]>(q)", "r = Transpose<perm=[0,3,1,2]>(p)")
    if axis == 1:
        there, back = "t = Identity(q)", "r = Identity(p)"
    model, op = model_and_reader(
        f"""g (float[N,3,6,6] x) => (float[N,5,6,6] y) <float[8,3,1,1] u, float[6,8,3,3] v, {SCALES},
        uint8[6,8,3,3] w, float[6] s, uint8[6] z = {{3,7,1,0,5,4}}, float[5,6,1,1] w_out> {{
            c = Conv(x, u)
            q = QuantizeLinear(c, sx, zx)
            {there}
            p = {domain}QLinearConv<{channels}pads=[1,1,1,1]>(t, sx, zx, w, s, z, sy, zy)
            {back}
            d = DequantizeLinear(r, sy, zy)
            y = Conv(d, w_out)
        }}""",
        "QLinearConv",
    )
    data = images()
    taps = np.swapaxes(stored(model, "w") - stored(model, "z")[:, None, None, None], 0, 1).reshape(8, 6, 9)
    quantized = exposed(model, "q", {"x": data}) - 120
    u = np.stack([unfold_conv(sample, (3, 3), Window(pads=(1, 1, 1, 1))) for sample in quantized])
    found = measure(model, op, data, kernel=kernel)
    assert as_dict(found) == pytest.approx(scores(u, taps, op, kernel), abs=2e-6)
    np.testing.assert_allclose(found.square_sum, np.square(quantized).sum((0, 2, 3)), rtol=1e-5)


PRODUCTS = {
    "MatMulInteger": "q, k, g = DynamicQuantizeLinear(c)\nr = MatMulInteger(q, w, g, z)\nd = Cast<to=1>(r)",
    "QLinearMatMul": "q = QuantizeLinear(c, sx, zx)\nr = QLinearMatMul(q, sx, zx, w, s, z, sy, zy)\n"
    "d = DequantizeLinear(r, sy, zy)",
    "QGemm": "q = QuantizeLinear(c, sx, zx)\nm = Flatten<axis=2>(q)\nt = Transpose(w)\n"
    "r = com.microsoft.QGemm<transB=1>(m, sx, zx, t, s, z, b, sy, zy)\nd = DequantizeLinear(r, sy, zy)",
}


@pytest.mark.parametrize("op", PRODUCTS)
def test_quantized_product_with_a_weight(op: str) -> None:
    model, linear_op = model_and_reader(
        f"""g (float[N,5,3] x) => (y) <float[3,8] u, {SCALES}, uint8[8,6] w, float[6] s,
        uint8[6] z = {{3,7,1,0,5,4}}, int32[6] b, float[6,4] w_out> {{
            c = MatMul(x, u)
            {PRODUCTS[op]}
            y = MatMul(d, w_out)
        }}""",
        op,
    )
    data = rows()
    zero = exposed(model, "g", {"x": data}) if op == "MatMulInteger" else 120
    u = np.moveaxis(exposed(model, "q", {"x": data}) - zero, 2, 1)[:, :, None]
    taps = (stored(model, "w") - stored(model, "z"))[:, :, None]
    found = measure(model, linear_op, data, batch_size=4)
    assert as_dict(found) == pytest.approx(scores(u, taps, linear_op), abs=2e-6)


def test_quantized_product_of_two_activations() -> None:
    model, op = model_and_reader(
        f"""g (float[N,5,3] x) => (y) <float[3,8] u, float[3,8] v, {SCALES}> {{
            c = MatMul(x, u)
            e = MatMul(x, v)
            q = QuantizeLinear(c, sx, zx)
            p = QuantizeLinear(e, sy, zy)
            t = Transpose<perm=[0,2,1]>(p)
            r = QLinearMatMul(q, sx, zx, t, sy, zy, sy, zy)
            y = DequantizeLinear(r, sy, zy)
        }}""",
        "QLinearMatMul",
    )
    data = rows()
    left, right = exposed(model, "q", {"x": data}) - 120, exposed(model, "t", {"x": data}) - 110
    found = measure(model, op, data)
    assert as_dict(found) == pytest.approx(product_scores(left, right, op.channels), abs=2e-6)


@pytest.mark.parametrize(("bits", "zeros"), [(4, "float"), (8, "uint8")])
def test_weight_of_few_bits(bits: int, zeros: str) -> None:
    """The weight is what the op makes of it: bias left out, scales and zero points counted in."""
    model, op = model_and_reader(
        f"""g (float[N,5,3] x) => (y) <float[3,40] u, uint8[6,3,{2 * bits}] w, float[6,3] s, {zeros}[6,3] z,
        float[6] b, float[6,4] w_out> {{
            c = MatMul(x, u)
            d = com.microsoft.MatMulNBits<N=6, K=40, bits={bits}, block_size=16>(c, w, s, z, , b)
            y = MatMul(d, w_out)
        }}""",
        "MatMulNBits",
    )
    packed = stored(model, "w").astype(np.uint8)
    numbers = np.stack([packed & 15, packed >> 4], -1).reshape(6, 3, 16) if bits == 4 else packed
    unpacked = (numbers - stored(model, "z")[:, :, None]) * stored(model, "s")[:, :, None]
    taps = unpacked.reshape(6, 48)[:, :40].T[:, :, None]
    data = rows()
    u = np.moveaxis(exposed(model, "c", {"x": data}), 2, 1)[:, :, None]
    np.testing.assert_allclose(op.taps().reshape(40, 6), taps[:, :, 0], atol=1e-5)
    found = measure(model, op, data)
    assert as_dict(found) == pytest.approx(scores(u, taps, op), abs=2e-5)
