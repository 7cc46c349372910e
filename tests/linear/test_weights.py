"""Where a consumer's weights are stored, and whether they may be scaled there."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import pytest
from support.oracle import problem

from onnxpfp.linear.weights import StoredAxis, reweight, reweightable, scale_columns, stored_axes_of

ROWS = "g (float[N,5] x) => (float[N,3] y) {{ h = MatMul(x, w1) r = Relu(h) {} }}"
MAPS = "g (float[N,2,6,6] x) => (float[N,4,H,W] y) {{ h = Conv(x, w1) r = Relu(h) {} }}"
DENSE, MAP = {"w1": (5, 8)}, {"w1": (8, 2, 3, 3)}


PLACES: dict[str, tuple[str, dict[str, Any], list[StoredAxis | None]]] = {
    "MatMul": (ROWS.format("y = MatMul(r, w2)"), {**DENSE, "w2": (8, 3)}, [StoredAxis("w2", 0)]),
    "Gemm": (ROWS.format("y = Gemm(r, w2)"), {**DENSE, "w2": (8, 3)}, [StoredAxis("w2", 0)]),
    "Gemm transB": (ROWS.format("y = Gemm <transB = 1> (r, w2)"), {**DENSE, "w2": (3, 8)}, [StoredAxis("w2", 1)]),
    "Conv": (MAPS.format("y = Conv(r, w2)"), {**MAP, "w2": (4, 8, 1, 1)}, [StoredAxis("w2", 1)]),
    "ConvTranspose": (MAPS.format("y = ConvTranspose(r, w2)"), {**MAP, "w2": (8, 4, 1, 1)}, [StoredAxis("w2", 0)]),
    "Transpose": (
        ROWS.format("t = Transpose <perm = [1,0]> (w2) y = MatMul(r, t)"),
        {**DENSE, "w2": (3, 8)},
        [StoredAxis("w2", 1)],
    ),
    "Transpose without perm": (
        ROWS.format("t = Transpose(w2) y = MatMul(r, t)"),
        {**DENSE, "w2": (3, 8)},
        [StoredAxis("w2", 1)],
    ),
    "two steps": (
        ROWS.format("t = Transpose <perm = [1,0]> (w2) i = Identity(t) c = Cast <to = 1> (i) y = MatMul(r, c)"),
        {**DENSE, "w2": (3, 8)},
        [StoredAxis("w2", 1)],
    ),
    "shared by two": (
        ROWS.format("a = MatMul(r, w2) b = Tanh(r) c = MatMul(b, w2) y = Add(a, c)"),
        {**DENSE, "w2": (8, 3)},
        [StoredAxis("w2", 0), StoredAxis("w2", 0)],
    ),
    "computed": (ROWS.format("t = Neg(w2) y = MatMul(r, t)"), {**DENSE, "w2": (8, 3)}, [None]),
}


@pytest.mark.parametrize("case", PLACES)
def test_the_stored_axis(case: str) -> None:
    text, shapes, expected = PLACES[case]
    analysis = problem(nets.build(text, shapes)).analysis
    graph, constants, places = analysis.graph, analysis.constants, stored_axes_of(analysis)
    assert list(places) == expected
    assert reweightable(graph, places).tolist() == [None not in expected]
    factor = np.linspace(0.5, 2, graph.count + 1)
    edits = reweight(analysis, places, factor)
    if None in expected:
        assert not edits
        return
    (place,) = set(places)
    ids = graph.axes["w2"][place.axis]  # type: ignore[union-attr]
    assert (ids != 0).all()
    shape = np.where(np.arange(constants.value("w2").ndim) == place.axis, -1, 1)  # type: ignore[union-attr]
    expected_array = constants.value("w2") * factor[ids].reshape(shape)
    np.testing.assert_allclose(edits.tensors["w2"], expected_array, rtol=1e-6)
    assert edits.tensors["w2"].dtype == np.float32
    assert not edits.inputs


def test_factors_of_one_change_nothing() -> None:
    text, shapes, _ = PLACES["MatMul"]
    analysis = problem(nets.build(text, shapes)).analysis
    assert not reweight(analysis, stored_axes_of(analysis), np.ones(analysis.graph.count + 1))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_columns_are_scaled_in_double_precision(dtype: Any) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    factor = np.array([1, 0.5, 1 / 3])
    found = scale_columns(array, np.array([1, 0, 2, 1]), 1, factor)
    np.testing.assert_array_equal(found, (array.astype(np.float64) * factor[[1, 0, 2, 1]]).astype(dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(array, np.arange(12).reshape(3, 4))
