"""Plans of networks whose weights the graph computes name what the file stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper
from support.graphs import build

import onnxpfp

BASE = "float[6,8] base"
LOW_RANK = "float[6,2] b, float[2,8] a"
# The weight v of a layer with 6 inputs and 8 outputs, what it is computed from, and the axes of these that follow the
# inputs (i) and the outputs (o) of the layer.
FOLLOWED: dict[str, tuple[str, str, dict[str, str]]] = {
    "low rank beside a base": (
        "p = MatMul(b, a)\n v = Add(base, p)",
        f"{BASE}, {LOW_RANK}",
        {"base": "io", "b": "i-", "a": "-o"},
    ),
    "scaled low rank": (
        "p = MatMul(b, a)\n q = Mul(p, scale)\n v = Add(base, q)",
        f"{BASE}, {LOW_RANK}, float scale",
        {"base": "io", "b": "i-", "a": "-o"},
    ),
    "transposed base": (
        "p = MatMul(b, a)\n back = Transpose(turned)\n v = Add(back, p)",
        f"float[8,6] turned, {LOW_RANK}",
        {"turned": "oi", "b": "i-", "a": "-o"},
    ),
    "transposed sum": (
        "p = MatMul(b, a)\n s = Add(base, p)\n v = Transpose(s)",
        "float[8,6] base, float[8,2] b, float[2,6] a",
        {"base": "oi", "b": "o-", "a": "-i"},
    ),
    "product alone": ("v = MatMul(b, a)", LOW_RANK, {"b": "i-", "a": "-o"}),
    "product by Gemm": (
        "v = Gemm<transA=1>(b, a, base)",
        f"{BASE}, float[2,6] b, float[2,8] a",
        {"base": "io", "b": "-i", "a": "-o"},
    ),
    "product by Einsum": ('v = Einsum<equation="ir,ro->io">(b, a)', LOW_RANK, {"b": "i-", "a": "-o"}),
    "weight norm": (
        "n = ReduceL2<axes=[0]>(base)\n u = Div(base, n)\n v = Mul(u, gain)",
        f"{BASE}, float[1,8] gain",
        {"base": "io", "gain": "-o"},
    ),
    "softmax": ("v = Softmax<axis=0>(base)", BASE, {"base": "io"}),
    "centred": ("m = ReduceMean<axes=[0],keepdims=1>(base)\n v = Sub(base, m)", BASE, {"base": "io"}),
}
RESHAPED = "p = MatMul(c, d)\n s = Constant<value = int64[2] {6,8}>()\n v = Reshape(p, s)"
OTHERS: dict[str, tuple[str, str]] = {
    "indices that are mixed by a Reshape": (RESHAPED, "float[3,2] c, float[2,16] d"),
    "rows that are looked up": (
        "m = ReduceMean<axes=[1],keepdims=1>(rows)\n s = Sub(rows, m)\n"
        "i = Constant<value = int64[6] {0,0,1,1,2,2}>()\n v = Gather(s, i)",
        "float[3,8] rows",
    ),
    "numbers that are repeated": (
        "m = ReduceMean<axes=[0],keepdims=1>(row)\n s = Sub(row, m)\n"
        "z = Constant<value = int64[2] {3,1}>()\n v = Tile(s, z)",
        "float[2,8] row",
    ),
}


def network(body: str, weights: str, opset: int = 13) -> ModelProto:
    return build(
        f"""g (float[N,5] x) => (float[N,3] y) <float[5,6] w1, {weights}, float[8,3] w2> {{
            e = MatMul(x, w1)
            r = Relu(e)
            {body}
            h = MatMul(r, v)
            t = Relu(h)
            y = MatMul(t, w2)
        }}""",
        opset=opset,
    )


def prune(model: ModelProto, **options: Any) -> onnxpfp.Result:
    return onnxpfp.prune(model, **{"keep_macs": 0.6, "round_to": 1} | options)


def replayed(model: ModelProto, first: onnxpfp.Result, folder: Path) -> None:
    path = folder / "plan.json"
    path.write_text(first.plan.to_json())
    again = onnxpfp.prune(model, from_plan=path)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert again.plan.entries == first.plan.entries


@pytest.mark.parametrize("case", FOLLOWED)
def test_what_is_stored_is_named(case: str, tmp_path: Path) -> None:
    body, weights, axes = FOLLOWED[case]
    model = network(body, weights)
    result = prune(model)
    plan = result.plan
    kept = {"i": plan.initializers["w1"].keep[1], "o": plan.initializers["w2"].keep[0]}
    assert min(map(len, kept.values())) < 6
    assert not plan.computed
    assert set(plan.initializers) == {"w1", "w2"} | axes.keys()
    assert json.loads(plan.to_json())["version"] == 1
    for name, followed in axes.items():
        assert plan.initializers[name].keep == {axis: kept[end] for axis, end in enumerate(followed) if end in kept}
    replayed(model, result, tmp_path)


@pytest.mark.parametrize("case", OTHERS)
def test_what_cannot_be_followed_has_a_section_of_its_own(case: str, tmp_path: Path) -> None:
    model = network(*OTHERS[case])
    result = prune(model)
    assert set(result.plan.initializers) == {"w1", "w2"}
    assert set(result.plan.computed) == {"v"}
    document = json.loads(result.plan.to_json())
    assert document["version"] == 2
    assert document["computed"]["v"]["shape"] == [6, 8]
    replayed(model, result, tmp_path)


def test_one_base_of_two_weights_is_not_named_for_either(tmp_path: Path) -> None:
    body = "m = ReduceMean<axes=[0],keepdims=1>(base)\n v0 = Sub(base, m)\n g = MatMul(r, v0)\n q = Relu(g)\n"
    body += "k = MatMul(q, w3)\n p = MatMul(b, a)\n v = Add(base, p)"
    model = network(body, f"{BASE}, {LOW_RANK}, float[8,4] w3")
    model.graph.node.append(helper.make_node("ReduceSum", ["k"], ["sum"], keepdims=1))
    model.graph.output.append(helper.make_tensor_value_info("sum", 1, [1, 1]))
    result = prune(model)
    assert "base" not in result.plan.initializers
    assert {"v0", "v"} == set(result.plan.computed)
    replayed(model, result, tmp_path)


def test_factors_are_told_of_the_computed_weight(tmp_path: Path) -> None:
    body, weights, _ = FOLLOWED["low rank beside a base"]
    model = network(body, weights)
    result = prune(model, select="sampled")
    assert set(result.plan.computed) == {"v"}
    assert result.plan.computed["v"].scale
    assert not result.plan.initializers["base"].scale
    replayed(model, result, tmp_path)


@pytest.mark.parametrize("case", [*FOLLOWED, *OTHERS])
def test_a_plan_of_before_is_read(case: str, tmp_path: Path) -> None:
    """It names the computed weight among the initializers, and does not say what it was made by."""
    body, weights = (FOLLOWED.get(case) or OTHERS[case])[:2]
    model = network(body, weights)
    result = prune(model, no_metadata=True)
    kept = [result.plan.initializers["w1"].keep.get(1), result.plan.initializers["w2"].keep.get(0)]
    entries = {
        "w1": {"shape": [5, 6], "keep": {"1": kept[0]}},
        "v": {"shape": [6, 8], "keep": {str(axis): one for axis, one in enumerate(kept)}},
        "w2": {"shape": [8, 3], "keep": {"0": kept[1]}},
    }
    path = tmp_path / "old.json"
    head = {"format": "onnxpfp-plan", "version": 1, "source_sha256": "", "attention": "heads", "groups": []}
    path.write_text(json.dumps(head | {"initializers": entries}))
    again = onnxpfp.prune(model, from_plan=path, no_metadata=True)
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_the_plan_of_a_merged_network_fits_the_one_with_adapters(tmp_path: Path) -> None:
    body, weights, _ = FOLLOWED["low rank beside a base"]
    merged, adapted = network("v = Identity(base)", BASE), network(body, weights)
    path = tmp_path / "plan.json"
    path.write_text(prune(merged).plan.to_json())
    result = onnxpfp.prune(adapted, from_plan=path)
    assert result.plan.initializers["base"] == onnxpfp.prune(merged, from_plan=path).plan.initializers["base"]


def function_model() -> ModelProto:
    """A layer whose weight is a constant of a local function."""
    weight = onnx.numpy_helper.from_array(nets.noise(6, 8), "inside")
    nodes = [helper.make_node("Constant", [], ["c"], value=weight), helper.make_node("MatMul", ["i", "c"], ["o"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = nets.build(
        "g (float[N,5] x) => (float[N,3] y) { e = MatMul(x, w1) r = Relu(e) h = Neg(r) t = Relu(h) y = MatMul(t, w2) }",
        {"w1": (5, 6), "w2": (8, 3)},
    )
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.append(helper.make_function("own", "Layer", ["i"], ["o"], nodes, opsets[:1]))
    model.graph.node[2].CopyFrom(helper.make_node("Layer", ["r"], ["h"], domain="own"))
    return model


def branch_model() -> ModelProto:
    """A layer whose weight is an initializer of a branch that is always taken."""
    branches = []
    for name in ("then_branch", "else_branch"):
        weight = onnx.numpy_helper.from_array(nets.noise(6, 8), "inside")
        nodes = [helper.make_node("MatMul", ["r", "inside"], [f"{name}_o"])]
        out = helper.make_tensor_value_info(f"{name}_o", 1, ["N", 8])
        branches.append(helper.make_graph(nodes, name, [], [out], [weight]))
    model = nets.build(
        "g (float[N,5] x) => (float[N,3] y) { e = MatMul(x, w1) r = Relu(e) h = Neg(r) t = Relu(h) y = MatMul(t, w2) }",
        {"w1": (5, 6), "w2": (8, 3)},
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    kinds = {"then_branch": branches[0], "else_branch": branches[1]}
    model.graph.node[2].CopyFrom(helper.make_node("If", ["always"], ["h"], **kinds))
    return model


@pytest.mark.parametrize("model", [function_model, branch_model], ids=["function", "branch"])
def test_constants_of_functions_and_branches_are_no_initializers(model: Any, tmp_path: Path) -> None:
    result = prune(model())
    assert set(result.plan.initializers) == {"w1", "w2"}
    (entry,) = result.plan.computed.values()
    assert entry.shape == (6, 8)
    replayed(model(), result, tmp_path)
