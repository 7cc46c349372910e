"""The edits that go with a removal, on weights of their own."""

from __future__ import annotations

import nets
import numpy as np
import pytest
from finding import constant, filters, find, multiple
from support.oracle import problem

from onnxpfp.errors import VerificationError
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.weights import stored_axes_of
from onnxpfp.lossless import Lossless, edits_of
from onnxpfp.rewrite import Edits

MAPS = "g (float[N,2,6,6] x) => (float[N,4,4,4] y) { a = Conv(x, w1, b1) y = Conv <pads = [1,1,1,1]> (a, w2) }"
GROUPED = MAPS.replace("<pads", "<group = 2, pads")


def edited(text: str, lossless: Lossless, weights: dict[str, nets.Array], before: Edits) -> Edits:
    model = nets.build(text, weights, dtype=weights["w2"].dtype)
    analysis = problem(model).analysis
    return edits_of(analysis, linear_ops(analysis), lossless, stored_axes_of(analysis), before)


def merging(*merges: tuple[int, int, float]) -> Lossless:
    return Lossless(np.ones(7, np.bool_), {0: merges}, {}, ())


def first(dtype: type = np.float32) -> dict[str, nets.Array]:
    w1, b1 = filters(6, 2, 3, 3)
    return {"w1": w1.astype(dtype), "b1": b1.astype(dtype)}


def test_columns_are_added_up() -> None:
    w2 = nets.noise(4, 6, 3, 3)
    edits = edited(MAPS, merging((1, 4, 0.5), (2, 4, -2.0), (0, 3, 1.0)), {**first(), "w2": w2}, Edits())
    expected = w2.astype(np.float64)
    expected[:, 4] += 0.5 * expected[:, 1] - 2 * expected[:, 2]
    expected[:, 3] += expected[:, 0]
    np.testing.assert_allclose(edits.tensors["w2"], expected, rtol=1e-6, atol=1e-7)
    assert edits.tensors["w2"].dtype == np.float32
    assert list(edits.tensors) == ["w2"]
    assert len(edits.tensors) == 1


def test_a_group_of_a_convolution_has_its_own_outputs() -> None:
    w2 = nets.noise(4, 3, 3, 3)
    edits = edited(GROUPED, merging((0, 1, 2.0), (3, 4, 3.0)), {**first(), "w2": w2}, Edits())
    expected = w2.copy()
    expected[:2, 1] += 2 * w2[:2, 0]
    expected[2:, 1] += 3 * w2[2:, 0]
    np.testing.assert_allclose(edits.tensors["w2"], expected, rtol=1e-5)


def test_earlier_edits_stay() -> None:
    w2, other = nets.noise(4, 6, 3, 3), nets.noise(2, 3)
    before = Edits({"w2": 3 * w2, "other": other})
    edits = edited(MAPS, merging((1, 4, 0.5)), {**first(), "w2": w2}, before)
    expected = 3 * w2
    expected[:, 4] += 0.5 * 3 * w2[:, 1]
    np.testing.assert_allclose(edits.tensors["w2"], expected, rtol=1e-5)
    np.testing.assert_array_equal(edits.tensors["other"], other)
    assert set(edits.tensors) == {"w2", "other"}


def test_sums_that_do_not_fit_the_type_are_refused() -> None:
    w2 = np.full((4, 6, 3, 3), 60000, np.float16)
    edits = edited(MAPS.replace("float", "float16"), merging((1, 4, 0.5)), {**first(np.float16), "w2": w2}, Edits())
    with pytest.raises(VerificationError, match="the weight 'w2' overflows float16"):
        edits.tensors["w2"]


def test_a_bias_of_integers_takes_no_constant() -> None:
    text = (
        "g (float[N,2,6,6] x) => (float[N,3,2,2] y) { a = Conv(x, w1, b1) r = Relu(a) b = DequantizeLinear(i, s) "
        "y = Conv(r, w2, b) }"
    )
    w1, b1 = filters(6, 2, 3, 3)
    constant(w1, b1, {1: 0.7, 4: 1.9})
    multiple((w1, b1), 2, 3, 0.5)
    model = nets.build(text, {"w1": w1, "b1": b1, "w2": (3, 6, 3, 3), "s": np.array(0.01)})
    model.graph.initializer.append(nets.numpy_helper.from_array(np.array([1, 2, 3], np.int32), "i"))
    found = find(model)
    # Rounding the bias to steps would cost something, so one constant stays for the other.
    assert found.kinds == {"w1 constant": (1,), "w1 duplicate": (2,)}
    assert not found.lossless.shifts
    assert found.error < 1e-6
