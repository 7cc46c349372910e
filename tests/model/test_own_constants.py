"""Constants that were made plain get their own form back where nothing of them went, or where they are sparse yet."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, SparseTensorProto, helper, numpy_helper

import onnxpfp
from onnxpfp.model.plain import with_own_constants, with_plain_constants


def thin(name: str, *shape: int) -> SparseTensorProto:
    """A weight of which one number in five is not zero."""
    array = nets.noise(*shape) * (nets.noise(*shape, seed=5) > 0.9)
    places = np.flatnonzero(array)
    values = numpy_helper.from_array(array.ravel()[places], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(places), shape)


def network(sparse: dict[str, tuple[int, ...]], forms: str = "initializer", **short: Any) -> ModelProto:
    """Three layers, and a factor of one of the short forms."""
    shapes = {"w1": (12, 20), "w2": (20, 24), "w3": (24, 5)}
    text = "a = MatMul(x, w1) r = Relu(a) s = Mul(r, k) b = MatMul(s, w2) q = Relu(b) y = MatMul(q, w3)"
    model = nets.build(
        f"g (float[N,12] x) => (float[N,5] y) {{ {text} }}",
        {n: shape for n, shape in shapes.items() if n not in sparse},
    )
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], **(short or {"value_float": 0.5})))
    for name, shape in sparse.items():
        if forms == "initializer":
            model.graph.sparse_initializer.append(thin(name, *shape))
        else:
            model.graph.node.insert(0, helper.make_node("Constant", [], [name], sparse_value=thin("", *shape)))
    return model


WEIGHTS: dict[str, tuple[int, ...]] = {"w2": (20, 24)}


def sparse_of(model: ModelProto) -> dict[str, SparseTensorProto]:
    found = {tensor.values.name: tensor for tensor in model.graph.sparse_initializer}
    return found | {
        node.output[0]: attribute.sparse_tensor
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name == "sparse_value"
    }


@pytest.mark.parametrize("forms", ["initializer", "node"])
def test_a_sparse_weight_that_lost_channels_is_sparse_yet(forms: str) -> None:
    model = network(WEIGHTS, forms)
    result = onnxpfp.prune(model, keep_macs=0.6, round_to=1)
    tensor = sparse_of(result.model)["w2"]
    kept = result.plan.initializers["w2"].keep
    array = np.zeros(20 * 24, np.float32)
    array[numpy_helper.to_array(thin("", 20, 24).indices)] = numpy_helper.to_array(thin("", 20, 24).values)
    wanted = array.reshape(20, 24)[np.ix_(kept.get(0, range(20)), kept.get(1, range(24)))]
    assert tuple(tensor.dims) == wanted.shape
    np.testing.assert_array_equal(numpy_helper.to_array(tensor.values), wanted[wanted != 0])
    assert result.report.after.bytes == len(result.model.SerializeToString()) < len(model.SerializeToString())


@pytest.mark.parametrize("forms", ["initializer", "node"])
def test_a_sparse_weight_that_lost_nothing_is_as_it_was(forms: str) -> None:
    model = network(WEIGHTS, forms)
    model.graph.node.extend([helper.make_node("MatMul", ["y", "w4"], ["u"]), helper.make_node("Relu", ["u"], ["z"])])
    model.graph.initializer.append(numpy_helper.from_array(nets.noise(5, 30), "w4"))
    model.graph.node.append(helper.make_node("MatMul", ["z", "w5"], ["o"]))
    model.graph.initializer.append(numpy_helper.from_array(nets.noise(30, 2), "w5"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("o", 1, ["N", 2]))
    result = onnxpfp.prune(model, keep_macs=0.9, round_to=1, exclude=["w2"])
    assert sparse_of(result.model)["w2"] == sparse_of(model)["w2"]
    assert len(result.plan.initializers["w4"].keep[1]) < 30


def test_a_weight_that_is_no_longer_sparse_is_dense_and_the_growth_is_told() -> None:
    text = "a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w2) q = Relu(b) y = MatMul(q, w3)"
    model = nets.build(f"g (float[N,12] x) => (float[N,5] y) {{ {text} }}", {"w1": (12, 64), "w3": (64, 5)})
    model.graph.sparse_initializer.append(thin("w2", 64, 64))
    result = onnxpfp.prune(model, calibration=nets.noise(200, 12), keep_macs=0.85, round_to=1, compensate="lstsq")
    assert not sparse_of(result.model)
    assert result.report.after.bytes > result.report.before.bytes
    (note,) = [note for note in result.report.notes if "larger" in note]
    assert "sparse weights are stored as dense ones: w2 (" in note


@pytest.mark.parametrize(
    "short", [{"value_float": 0.5}, {"value_floats": [0.5]}, {"value": numpy_helper.from_array(np.float32([0.5]))}]
)
def test_short_forms_stay(short: dict[str, Any]) -> None:
    model = network({}, **short)
    result = onnxpfp.prune(model, keep_macs=0.6, round_to=1)
    constants = [node for node in result.model.graph.node if node.op_type == "Constant"]
    assert constants == [node for node in model.graph.node if node.op_type == "Constant"]
    onnx.checker.check_model(result.model, full_check=True)


def test_a_short_form_that_was_cut_is_plain() -> None:
    model = network({}, value_floats=[*np.linspace(1, 2, 20)])
    result = onnxpfp.prune(model, keep_macs=0.5, round_to=1)
    (constant,) = [node for node in result.model.graph.node if node.op_type == "Constant"]
    assert constant.attribute[0].name == "value"
    assert constant.attribute[0].t.dims[0] == len(result.plan.initializers["w1"].keep[1]) < 20


def test_plain_models_are_not_copied() -> None:
    model = nets.chain()
    assert with_own_constants(model, model) is model
    assert with_own_constants(with_plain_constants(network(WEIGHTS)), network(WEIGHTS)) != with_plain_constants(
        network(WEIGHTS)
    )
