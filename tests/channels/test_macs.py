"""Parameters and MACs: against counts by hand, and the cost model against really pruned files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.graphs import build
from support.idioms import CONVOLUTIONAL, SEQUENTIAL
from support.oracle import problem, random_keep
from support.rows import ROWS, Row, model_of

from onnxpfp.channels.macs import count_macs, count_params
from onnxpfp.model.shapes import concrete_shapes
from onnxpfp.pipeline.costs import mac_model, param_model
from onnxpfp.rewrite import Edits, apply

MODELS = sorted((Path(__file__).parents[2] / "models").glob("*.onnx"))
FIRST = 8 * 3 * 36
"""MACs of the row's first layer, (1, 3, 6, 6) -> (1, 8, 6, 6)."""

COUNTS = [
    (Row("conv", "d = Conv(c, w, b)", 0, weights="float[6,8,3,3] w, float[6] b"), 6 * 8 * 9 * 16, 5 * 6 * 16, 438),
    (Row("grouped", "d = Conv<group=2>(c, w)", 0, weights="float[6,4,3,3] w"), 6 * 4 * 9 * 16, 5 * 6 * 16, 216),
    (Row("depthwise", "d = Conv<group=8>(c, w)", 0, weights="float[8,1,3,3] w"), 8 * 9 * 16, 5 * 8 * 16, 72),
    (Row("stride", "d = Conv<strides=[2,2]>(c, w)", 0, weights="float[6,8,2,2] w"), 6 * 8 * 4 * 9, 5 * 6 * 9, 192),
    (
        Row("transposed", "d = ConvTranspose<strides=[2,2]>(c, w)", 0, weights="float[8,6,2,2] w"),
        36 * 8 * 6 * 4,
        5 * 6 * 144,
        192,
    ),
    (
        Row("transposed, grouped", "d = ConvTranspose<group=2>(c, w)", 0, weights="float[8,3,1,1] w"),
        36 * 8 * 3,
        5 * 6 * 36,
        24,
    ),
]


@pytest.mark.parametrize(("row", "macs", "last", "params"), COUNTS, ids=[str(c[0]) for c in COUNTS])
def test_convolutions_by_hand(row, macs, last, params):
    model = model_of(row)
    tails = int(np.prod(next(t for t in model.graph.initializer if t.name == "w_out").dims))
    assert count_macs(model, concrete_shapes(model, {})) == FIRST + macs + last
    assert count_params(model) == 24 + params + tails


@pytest.mark.parametrize(
    "body",
    ["d = Gemm(c, w)", "t = Transpose(c)\nd = Gemm<transA=1>(t, w)", "d = MatMul(c, w)"],
)
def test_matrix_products_by_hand(body):
    model = model_of(Row("", body, 0, weights="float[8,6] w", x=ROWS))
    assert count_macs(model, concrete_shapes(model, {})) == 4 * (3 * 8 + 8 * 6 + 6 * 5)
    assert count_params(model) == 3 * 8 + 8 * 6 + 6 * 5


def test_shape_arithmetic_is_no_parameter_and_elementwise_no_mac():
    weights = "int64[4] k = {1, 8, 6, 6}, float[8,1,1] s"
    model = model_of(Row("", "r = Reshape(c, k)\nd = Mul(r, s)", 0, weights=weights))
    assert count_params(model) == 24 + 8 + 40
    assert count_macs(model, concrete_shapes(model, {})) == FIRST + 5 * 8 * 36


def check_costs(model, seeds=3):
    """The model's cost at random widths is the cost of the file with these widths."""
    case = problem(model)
    macs, params = mac_model(case.analysis), param_model(case.graph)
    full = np.array([group.channels.size for group in case.graph.groups], np.int64)
    assert macs.total(full) == count_macs(model, case.shapes)
    for seed in range(seeds):
        keep = random_keep(case.graph, np.random.default_rng(seed), 0.6)
        kept = np.array([keep[group.channels].sum() for group in case.graph.groups], np.int64)
        pruned = apply(model, case.graph, keep, Edits())
        assert macs.total(kept) == count_macs(pruned, concrete_shapes(pruned, {}))
        assert params.total(kept) == count_params(pruned)


@pytest.mark.parametrize("idiom", [*CONVOLUTIONAL, *SEQUENTIAL], ids=str)
def test_cost_model_is_exact_on_idioms(idiom):
    check_costs(idiom.model())


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_cost_model_is_exact_on_trained_models(path):
    check_costs(onnx.load(path), seeds=2)


def test_cost_model_counts_copies_of_a_shared_vector():
    model = build("""g (float[1,3,6,6] x) => (y) <float[8,3,1,1] w, float[8,8,1,1] u, float[5,8,1,1] v2, float[8] b> {
        c = Conv(x, w, b)
        d = Conv(c, u, b)
        y = Conv(d, v2)
    }""")
    case = problem(model)
    keep = case.graph.keep_all()
    keep[[1, 2, 9]] = False
    pruned = apply(model, case.graph, keep, Edits())
    assert param_model(case.graph).total(np.array([6, 7])) == count_params(pruned)


def test_macs_of_contractions_and_recurrences() -> None:
    model = build(
        """g (float[7,2,5] x) => (float[2,9] y) <float[1,12,5] w, float[1,12,3] r, float[3,9] v> {
            s, h = LSTM<hidden_size=3>(x, w, r)
            y = Einsum<equation="dbh,ho->bo">(h, v)
        }"""
    )
    assert count_macs(model, concrete_shapes(model, {})) == 7 * 2 * 12 * (5 + 3) + 2 * 3 * 9
