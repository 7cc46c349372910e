"""Sampled selections scale the consumers' weights: unbiased, and in the right columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxpfp.linear.weights import reweight, reweightable, stored_axes_of
from onnxpfp.options import Options
from onnxpfp.pipeline.costs import mac_model
from onnxpfp.pipeline.decide import decide
from onnxpfp.pipeline.selector import Selector
from onnxpfp.rewrite import apply
from onnxpfp.runtime.blocks import ANY_WIDTH

ROWS = "g (float[N,5] x) => (float[N,3] y) {{ h = MatMul(x, w1) r = Relu(h) {} }}"
MAPS = "g (float[N,3,6,6] x) => (float[N,{},{}] y) {{ a = Conv(x, w1) r = Relu(a) {} }}"
ROW, MAP = {"w1": (5, 12)}, {"w1": (12, 3, 3, 3)}

IDIOMS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "Gemm transB=1": (ROWS.format("y = Gemm <transB = 1> (r, w2, b2)"), {**ROW, "w2": (3, 12), "b2": (3,)}),
    "Gemm transB=0": (ROWS.format("y = Gemm <alpha = 0.5> (r, w2, b2)"), {**ROW, "w2": (12, 3), "b2": (3,)}),
    "MatMul": (ROWS.format("y = MatMul(r, w2)"), {**ROW, "w2": (12, 3)}),
    "Transpose": (ROWS.format("t = Transpose <perm = [1,0]> (w2) y = MatMul(r, t)"), {**ROW, "w2": (3, 12)}),
    "Identity": (ROWS.format("t = Identity(w2) y = MatMul(r, t)"), {**ROW, "w2": (12, 3)}),
    "Conv": (MAPS.format("4,2", "2", "y = Conv(r, w2, b2)"), {**MAP, "w2": (4, 12, 3, 3), "b2": (4,)}),
    "grouped Conv": (MAPS.format("6,4", "4", "y = Conv <group = 3> (r, w2)"), {**MAP, "w2": (6, 4, 1, 1)}),
    "ConvTranspose": (MAPS.format("4,6", "6", "y = ConvTranspose(r, w2)"), {**MAP, "w2": (12, 4, 3, 3)}),
    "Flatten": (
        "g (float[N,3,4,4] x) => (float[N,3] y) { a = Conv(x, w1) f = Flatten(a) y = Gemm(f, w2) }",
        {**MAP, "w2": (48, 3)},
    ),
    "siamese": (
        "g (float[N,5] x) => (float[N,3] y) { h = MatMul(x, w1) r = Relu(h) t = Neg(x) i = MatMul(t, w1) "
        "s = Sigmoid(i) j = MatMul(r, w2) k = MatMul(s, w2) y = Add(j, k) }",
        {**ROW, "w2": (12, 3)},
    ),
    "two consumers": (
        ROWS.format("j = MatMul(r, w2) k = Gemm <transB = 1> (r, w3) y = Add(j, k)"),
        {**ROW, "w2": (12, 3), "w3": (3, 12)},
    ),
}


def scaled(model: ModelProto, seen: Any) -> ModelProto:
    """The original with what every consumer reads multiplied by its channels' factors."""
    out = ModelProto()
    out.CopyFrom(model)
    nodes = []
    by_node = {consumer.node: consumer for consumer in seen.analysis.graph.consumers}
    for index, node in enumerate(model.graph.node):
        copy = type(node)()
        copy.CopyFrom(node)
        if index in by_node:
            consumer = by_node[index]
            shape = [1] * len(seen.analysis.shapes.shape[consumer.data])
            shape[consumer.data_axis] = -1
            factor = seen.decision.factor[consumer.channels].reshape(shape).astype(np.float32)
            out.graph.initializer.append(numpy_helper.from_array(factor, f"factor_{index}"))
            nodes.append(helper.make_node("Mul", [consumer.data, f"factor_{index}"], [f"scaled_{index}"]))
            copy.input[consumer.data_input] = f"scaled_{index}"
        nodes.append(copy)
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out


@pytest.mark.parametrize("select", ["sampled", "mixed"])
@pytest.mark.parametrize("idiom", IDIOMS)
def test_factors_land_in_their_columns(watch: Callable[..., Any], idiom: str, select: str) -> None:
    text, shapes = IDIOMS[idiom]
    model = nets.build(text, shapes)
    row = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    data = nets.noise(8, *row)
    result, seen = watch(
        model,
        calibration=data,
        keep_macs=0.6,
        select=select,
        allocate="bound",
        compensate="none",
        delta=0.5,
        round_to=1,
        seed=1,
    )
    factor = seen.decision.factor
    assert ((factor != 0) & (factor != 1)).any(), "nothing was drawn: the case tests nothing"
    assert {group.selection for group in result.report.groups} == {select}
    found, expected = nets.run(result.model, data), nets.run(scaled(model, seen), data)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    dropped = [c for group in seen.analysis.graph.groups for c in group.channels if factor[c] == 0]
    assert not seen.decision.keep[dropped].any()


@pytest.mark.parametrize("select", ["sampled", "mixed"])
def test_the_mean_over_draws_is_the_original(watch: Callable[..., Any], select: str) -> None:
    text, shapes = IDIOMS["Conv"]
    model, data = nets.build(text, shapes), nets.noise(6, 3, 6, 6)
    _, seen = watch(model, calibration=data, keep_macs=0.6, allocate="bound", compensate="none")
    analysis = seen.analysis
    graph, places, cost = analysis.graph, stored_axes_of(analysis), mac_model(analysis)
    activation = nets.values(model, {"x": data[:1]})["r"][0, :, :3, :3].astype(np.float64)
    exact = np.tensordot(nets.weights(model)["w2"].astype(np.float64), activation, 3)
    draws = []
    for seed in range(400):
        options = Options(keep_macs=0.5, select=select, seed=seed, round_to=1)  # type: ignore[arg-type]
        selector = Selector(graph.groups, seen.scores, reweightable(graph, places), options, ANY_WIDTH)
        decision = decide(selector, cost, "bound")
        edits = reweight(analysis, places, np.where(decision.keep, decision.factor, 1.0))
        pruned = nets.weights(apply(model, graph, decision.keep, edits))["w2"].astype(np.float64)
        draws.append(np.tensordot(pruned, activation[decision.keep[graph.axes["w1"][0]]], 3))
    spread = np.std(draws, axis=0) / np.sqrt(len(draws))
    assert (spread > 0).all()
    assert (np.abs(np.mean(draws, axis=0) - exact) < 4.5 * spread).all()
    # Dropping without scaling would be far off: the test can tell.
    assert len({tuple(np.round(draw, 6)) for draw in draws}) > 20


def test_a_shared_weight_is_scaled_once(watch: Callable[..., Any]) -> None:
    text, shapes = IDIOMS["siamese"]
    model = nets.build(text, shapes)
    result, seen = watch(model, calibration=nets.noise(8, 5), keep_macs=0.6, select="sampled", compensate="none")
    stays = seen.decision.keep[seen.analysis.graph.axes["w2"][0]]
    factor = seen.decision.factor[seen.analysis.graph.axes["w2"][0]]
    expected = (nets.weights(model)["w2"] * factor[:, None])[stays]
    np.testing.assert_allclose(nets.weights(result.model)["w2"], expected, rtol=1e-6)


def test_a_tied_embedding_is_selected_deterministically() -> None:
    import onnxpfp

    text = """g (int64[N,4] x) => (float[N,4,12] y) {
        e = Gather(table, x) h = MatMul(e, w1) r = Relu(h) k = MatMul(r, w2) s = Add(e, k)
        t = Transpose <perm = [1,0]> (table) y = MatMul(s, t)
    }"""
    model = nets.build(text, {"table": (12, 8), "w1": (8, 10), "w2": (10, 8)})
    data = np.random.default_rng(0).integers(0, 12, (8, 4))
    result = onnxpfp.prune(
        model, calibration=data, keep_params=0.6, select="sampled", allocate="bound", compensate="none"
    )
    chosen = {group.name: group.selection for group in result.report.groups}
    assert chosen["w1"] == "sampled"
    (table,) = (selection for name, selection in chosen.items() if name != "w1")
    assert table == "deterministic"
    note = "1 group was selected deterministically, for their consumers' weights cannot be scaled"
    assert any(note in found for found in result.report.notes)
    kept = result.plan.initializers["table"].keep[1]
    np.testing.assert_array_equal(nets.weights(result.model)["table"], nets.weights(model)["table"][:, list(kept)])
    assert "table" not in {name for name, entry in result.plan.initializers.items() if entry.scale}
