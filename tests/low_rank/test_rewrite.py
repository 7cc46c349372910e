"""Two nodes in the place of one: at full rank the file computes what it did, whatever slides or is transposed."""

from __future__ import annotations

import math
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper
from support.brute_shares import model_of
from support.drawn_readers import QUICK, Shapes, convolutions, pointwise

from onnxpfp.comparison.drift import check
from onnxpfp.low_rank.factor import decompose
from onnxpfp.low_rank.layers import LowRankLayer, StayingLayer, low_rank_layers
from onnxpfp.low_rank.rewrite import FactoredLayer, with_factors, with_products
from onnxpfp.model.load import load
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze_at

MANY = settings(QUICK, max_examples=120)


def layers_of(model: ModelProto, scheme: Any = "auto") -> tuple[tuple[LowRankLayer, ...], tuple[StayingLayer, ...]]:
    return low_rank_layers(analyze_at(load(model), {}, Options()), scheme, {})


def at_full_rank(model: ModelProto, scheme: Any = "auto", which: int = 0) -> tuple[ModelProto, list[FactoredLayer]]:
    """Factor all layers by one of their schemes, at full rank."""
    analysis = analyze_at(load(model), {}, Options())
    written: list[FactoredLayer] = []
    for layer in low_rank_layers(analysis, scheme, {})[0]:
        cut = layer.cuts[which % len(layer.cuts)]
        found = decompose(layer.weights(analysis), cut)
        dtype = analysis.constants.value(layer.weight).dtype
        written.append(FactoredLayer.of(layer, cut, found.factors(len(found.errors) - 1), dtype, None))
    return with_factors(model, written), written


def assert_same(model: ModelProto, other: ModelProto, feed: dict[str, np.ndarray], allowed: float = 1e-5) -> None:
    check(model, other)
    one, two = nets.run(model, feed), nets.run(other, feed)
    assert one.shape == two.shape
    assert one.dtype == two.dtype
    np.testing.assert_allclose(two, one, rtol=0, atol=allowed * max(float(np.abs(one).max()), 1e-3))


@MANY
@given(shapes=st.one_of(convolutions(), pointwise()), which=st.integers(0, 2), biased=st.booleans())
def test_every_window_is_the_same_at_full_rank(shapes: Shapes, which: int, biased: bool) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shapes.weights[0]).astype(np.float32)
    stored = {"w": weight} | ({"b": rng.standard_normal(len(weight)).astype(np.float32)} if biased else {})
    node = helper.make_node("Conv", ["x", *stored], ["y"], "layer", group=shapes.group, **shapes.window.as_attributes())
    model = model_of([node], {"x": ("N", *shapes.data)}, ["y"], stored)
    factored, written = at_full_rank(model, which=which)
    depthwise = shapes.group > 1 and shapes.weights[0][1] == 1
    assert len(written) == int(not depthwise)
    if depthwise:
        return
    assert [n.name for n in factored.graph.node] == ["layer/low_rank_first", "layer/low_rank_second"]
    assert [len(n.input) for n in factored.graph.node] == [2, 2 + biased]
    feed = {"x": rng.standard_normal((2, *shapes.data)).astype(np.float32)}
    assert_same(model, factored, feed)
    # What a rank takes is counted before it is written.
    (each,) = written
    macs = nets.count_macs(factored, {"x": feed["x"][:1]})
    assert macs == each.factors.rank * each.layer.macs_of_rank(each.cut)
    assert each.layer.macs == nets.count_macs(model, {"x": feed["x"][:1]})


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("y = MatMul(x, w)", {"w": (6, 5)}),
        ("y = Gemm(x, w)", {"w": (6, 5)}),
        ("y = Gemm(x, w, b)", {"w": (6, 5), "b": (5,)}),
        ("y = Gemm(x, w, b)", {"w": (6, 5), "b": (1,)}),
        ("y = Gemm<transB = 1>(x, w, b)", {"w": (5, 6), "b": (5,)}),
        ("y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, b)", {"w": (5, 6), "b": (5,)}),
        ("t = Transpose(x) y = Gemm<transA = 1, transB = 1>(t, w, b)", {"w": (5, 6), "b": (5,)}),
        ("t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)", {"w": (5, 6)}),
    ],
)
def test_every_matrix_product_is_the_same_at_full_rank(text: str, shapes: dict[str, tuple[int, ...]]) -> None:
    model = nets.build(f"g (float[N,6] x) => (float[N,5] y) {{ {text} }}", shapes)
    factored, written = at_full_rank(model)
    assert len(written) == 1
    assert "w" not in nets.weights(factored)
    assert_same(model, factored, {"x": nets.noise(3, 6)})


def test_products_of_stacks_of_rows() -> None:
    model = nets.build("g (float[N,4,3,6] x) => (float[N,4,3,5] y) { y = MatMul(x, w) }", {"w": (6, 5)})
    factored, (each,) = at_full_rank(model)
    assert each.layer.macs == 4 * 3 * 6 * 5
    assert each.layer.macs_of_rank(0) == 4 * 3 * (6 + 5)
    assert_same(model, factored, {"x": nets.noise(2, 4, 3, 6)})


def test_half_precision_is_factored_in_double_and_stored_in_half() -> None:
    text = "g (float16[N,4,6,6] x) => (float16[N,5,6,6] y) { y = Conv<pads = [1,1,1,1]>(x, w, b) }"
    model = nets.build(text, {"w": (5, 4, 3, 3), "b": (5,)}, dtype=np.float16)
    for which in (0, 1):
        factored, _ = at_full_rank(model, which=which)
        assert {array.dtype for array in nets.weights(factored).values()} == {np.dtype(np.float16)}
        assert_same(model, factored, {"x": nets.noise(2, 4, 6, 6, dtype=np.float16)}, 5e-3)


def test_double_precision_is_exact_to_its_rounding() -> None:
    text = "g (double[N,6] x) => (double[N,5] y) { y = Gemm(x, w, b) }"
    model = nets.build(text, {"w": (6, 5), "b": (5,)}, dtype=np.float64)
    factored, _ = at_full_rank(model)
    assert {array.dtype for array in nets.weights(factored).values()} == {np.dtype(np.float64)}
    assert_same(model, factored, {"x": nets.noise(3, 6, dtype=np.float64)}, 1e-13)


def test_the_products_in_the_place_of_the_weights_compute_the_same_at_any_rank() -> None:
    model = nets.chain()
    analysis = analyze_at(load(model), {}, Options())
    written = [
        FactoredLayer.of(layer, cut, decompose(layer.weights(analysis), cut).factors(2), np.dtype(np.float32), None)
        for layer in low_rank_layers(analysis, "auto", {})[0]
        for cut in layer.cuts[:1]
    ]
    assert len(written) == 3
    factored = with_factors(model, written)
    products = with_products(factored, model, written)
    feed = {"x": nets.noise(4, 3, 8, 8)}
    assert_same(products, factored, feed)
    assert np.abs(nets.run(model, feed) - nets.run(products, feed)).max() > 1e-2
    assert [node.name for node in products.graph.node] == [node.name for node in model.graph.node]


def test_everything_else_keeps_its_names_and_the_shape_between_is_recorded() -> None:
    model = nets.chain()
    model.metadata_props.add(key="author", value="somebody")
    factored, _ = at_full_rank(model)
    assert factored.metadata_props == model.metadata_props
    assert (factored.graph.input, factored.graph.output) == (model.graph.input, model.graph.output)
    before = [name for node in model.graph.node for name in node.output]
    after = [name for node in factored.graph.node for name in node.output if not name.endswith("/low_rank")]
    assert before == after
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim][1:] for info in factored.graph.value_info
    }
    ranks = {
        node.output[0]: nets.weights(factored)[node.input[1]]
        for node in factored.graph.node
        if node.output[0] in shapes
    }
    assert shapes["a/low_rank"] == [len(ranks["a/low_rank"]), 8, 8]
    assert sorted(shapes) == ["a/low_rank", "c/low_rank", "y/low_rank"]


SHARED = """g (float[N,3,9,9] x) => (float[N,4,5,5] y, float[N,4,9,9] z) {
    y = Conv<strides = [2,2], pads = [1,1,1,1]>(x, w)
    z = Conv<pads = [1,1,1,1]>(x, w, b)
}"""


def test_ops_that_share_weights_share_factors() -> None:
    model = nets.build(SHARED, {"w": (4, 3, 3, 3), "b": (4,)})
    for which in (0, 1):
        factored, (each,) = at_full_rank(model, which=which)
        assert len(each.layer.uses) == 2
        assert len(nets.weights(factored)) == 3
        feed = {"x": nets.noise(2, 3, 9, 9)}
        for name, value in nets.values(model, feed).items():
            np.testing.assert_allclose(nets.values(factored, feed)[name], value, atol=1e-5)


REASONS = [
    ("y = Conv<group = 3>(x, w)", {"w": (6, 1, 3, 3)}, "it is depthwise: a filter reads one channel"),
    ("y = ConvTranspose(x, w)", {"w": (3, 4, 3, 3)}, "ConvTranspose is no Conv, Gemm or MatMul"),
    ("t = Transpose<perm = [0, 1, 3, 2]>(x) y = MatMul(x, t)", {}, "its second operand is no constant"),
    ("y = MatMul(w, x)", {"w": (6, 6)}, "its second operand is no constant"),
    ("y = MatMul(x, w)", {"w": (3, 6, 5)}, "its weights are no plain matrix on the right"),
    (
        "y = MatMul(x, w) z = Gather(w, i)",
        {"w": (6, 5)},
        "its weights are quantized, computed, or read by another op too",
    ),
    (
        "y = MatMul(x, w) f = Flatten(x) t = Transpose<perm = [1, 0]>(f) z = Gemm<transB = 1>(f, w)",
        {"w": (6, 6)},
        "its weights are those of an op that stays: ops read its weights in different ways",
    ),
]


@pytest.mark.parametrize(("text", "shapes", "reason"), REASONS)
def test_what_stays_says_why(text: str, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    size = "N,3,6,6" if "Flatten" not in text else "N,1,1,6"
    outputs = "float[?] y, float[?] z" if " z =" in text else "float[?] y"
    model = nets.build(f"g (float[{size}] x) => ({outputs.replace('[?]', '')}) {{ {text} }}", shapes)
    if "i)" in text:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "i"))
    layers, staying = layers_of(model)
    assert layers == ()
    assert {each.reason for each in staying} == {reason}
    assert all(each.macs > 0 for each in staying)


def test_a_scheme_leaves_what_it_cannot_divide() -> None:
    text = """g (float[N,3,8,8] x) => (float[N,5,6,8] y) {
        a = Conv<pads = [1,1,1,1]>(x, w1) b = Conv(a, w2) y = Conv(b, w3)
    }"""
    model = nets.build(text, {"w1": (4, 3, 3, 3), "w2": (6, 4, 1, 1), "w3": (5, 6, 3, 1)})
    layers, staying = layers_of(model, "spatial")
    assert [layer.name for layer in layers] == ["node_a"]
    assert {each.reason for each in staying} == {"its kernel has taps along one axis at most: no spatial scheme"}
    assert [layer.cuts for layer in layers_of(model, "channel")[0]] == [(2,), (2,), (2,)]
    assert [layer.cuts for layer in layers_of(model)[0]] == [(1, 2), (2,), (2,)]


def test_weights_that_must_be_inputs_go_as_such() -> None:
    model = nets.build(
        "g (float[N,6] x, float[6,5] w) => (float[N,5] y) { y = MatMul(x, w) }", {"w": (6, 5)}, ir=3, opset=8
    )
    factored, _ = at_full_rank(model)
    assert [info.name for info in factored.graph.input] == ["x"]
    assert_same(model, factored, {"x": nets.noise(3, 6)})


def test_names_that_are_taken_are_left_alone() -> None:
    model = nets.build("g (float[N,6] x) => (float[N,5] y) { a = MatMul(x, w) y = Relu(a) }", {"w": (6, 5)})
    factored, _ = at_full_rank(model)
    again, written = at_full_rank(factored)
    assert len(written) == 2
    names = [node.name for node in again.graph.node]
    assert len(set(names)) == len(names) == 5
    assert_same(model, again, {"x": nets.noise(3, 6)})


def test_three_axes_are_divided_in_two_ways() -> None:
    text = "g (float[N,3,5,6,7] x) => (float[N,4,5,6,7] y) { y = Conv<pads = [0,1,0,0,1,2]>(x, w) }"
    model = nets.build(text, {"w": (4, 3, 1, 3, 3)})
    (layer,), _ = layers_of(model)
    assert layer.cuts == (2, 3)
    model = nets.build(text.replace("[0,1,0,0,1,2]", "[1,1,0,0,1,2]"), {"w": (4, 3, 2, 3, 3)})
    (layer,), _ = layers_of(model)
    assert layer.cuts == (1, 2, 3)
    for which in range(3):
        factored, (each,) = at_full_rank(model, which=which)
        assert [math.prod(array.shape[2:]) for array in (each.first, each.second)] == [[2, 9], [6, 3], [18, 1]][which]
        assert_same(model, factored, {"x": nets.noise(2, 3, 5, 6, 7)})
