"""Everything in the file that pruning does not concern stays as it was."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxpfp

DATA = nets.noise(8, 3, 8, 8)
UNKNOWN = bytes([0xC2, 0x3E, 3]) + b"odd"
"""Field 1000 with three bytes, which no version of ONNX knows."""


def decorated() -> ModelProto:
    """A model with something in every corner."""
    text = nets.CHAIN.replace("a = Conv", "i = Identity(x) a = Conv").replace("(x, w1, b1)", "(i, w1, b1)")
    model = nets.build(text, nets.CHAIN_SHAPES)
    model.producer_name, model.producer_version, model.domain = "maker", "7.1", "org.example"
    model.model_version, model.doc_string = 12, "a model"
    helper.set_model_props(model, {"author": "somebody", "classes": "5"})
    model.opset_import.append(helper.make_opsetid("org.example.ops", 3))
    graph = model.graph
    graph.doc_string = "a graph"
    graph.metadata_props.append(onnx.StringStringEntryProto(key="scope", value="main"))
    for node in graph.node:
        node.doc_string = f"makes {node.output[0]}"
        node.metadata_props.append(onnx.StringStringEntryProto(key="line", value=node.name))
    for tensor in graph.initializer:
        tensor.doc_string = f"weight {tensor.name}"
    graph.input[0].doc_string = "an image"
    graph.input[0].type.denotation = "IMAGE"
    annotation = graph.quantization_annotation.add(tensor_name="r")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b3")
    for name, channels in (("i", 3), ("a", 8), ("r", 8), ("c", 10)):
        graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, 8, 8]))
    graph.value_info.append(helper.make_tensor_value_info("nothing", TensorProto.FLOAT, ["N", 8]))
    graph.node[1].MergeFromString(UNKNOWN)
    graph.MergeFromString(UNKNOWN)
    model.MergeFromString(UNKNOWN)
    return model


@pytest.fixture(scope="module")
def pruned() -> onnxpfp.Result:
    return onnxpfp.prune(decorated(), calibration=DATA, keep_macs=0.5)


def stripped(model: ModelProto) -> ModelProto:
    """The model without weights, recorded shapes, biases that were added, and notes of what made it."""
    out = ModelProto()
    out.CopyFrom(model)
    del out.graph.initializer[:], out.graph.value_info[:]
    for entry in [entry for entry in out.metadata_props if entry.key.startswith("onnxpfp.")]:
        out.metadata_props.remove(entry)
    for node in out.graph.node:
        if node.op_type == "Conv":
            del node.input[2:]
    return out


def test_all_but_the_weights_is_as_it_was(pruned: onnxpfp.Result) -> None:
    assert pruned.report.after.macs < pruned.report.before.macs
    assert stripped(pruned.model).SerializeToString() == stripped(decorated()).SerializeToString()
    assert pruned.model.SerializeToString().count(UNKNOWN) == 3
    assert [node.name for node in pruned.model.graph.node] == [node.name for node in decorated().graph.node]


def test_inputs_and_outputs_are_as_they_were(pruned: onnxpfp.Result) -> None:
    before, after = decorated().graph, pruned.model.graph
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)
    assert after.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert nets.run(pruned.model, DATA[:5]).shape == (5, 5)


def test_weights_keep_their_order_names_and_docs(pruned: onnxpfp.Result) -> None:
    before, after = decorated().graph.initializer, pruned.model.graph.initializer
    assert [t.name for t in after][: len(before)] == [t.name for t in before]
    assert [t.doc_string for t in after][: len(before)] == [t.doc_string for t in before]
    assert [t.name for t in after][len(before) :] == ["w2_bias"]


def test_recorded_shapes_go_where_they_went_stale(pruned: onnxpfp.Result) -> None:
    cut = {group.name for group in pruned.report.groups if group.kept < group.channels}
    stale = ({"a", "r"} if "w1" in cut else set()) | ({"c"} if "w2" in cut else set())
    assert stale
    assert {info.name for info in pruned.model.graph.value_info} == {"i", "a", "r", "c", "nothing"} - stale
    onnx.checker.check_model(pruned.model, full_check=True)


def test_the_file_of_the_command_is_the_model(pruned: onnxpfp.Result, tmp_path: Any) -> None:
    onnxpfp.save_result(pruned, tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").SerializeToString() == pruned.model.SerializeToString()


@pytest.mark.parametrize("ir", [3, 4, 8])
def test_weights_that_are_inputs_too(ir: int) -> None:
    model = nets.build(nets.CHAIN, nets.CHAIN_SHAPES, opset=9, ir=ir)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    result = onnxpfp.prune(model, calibration=DATA, keep_macs=0.5)
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    sizes = {name: array.shape for name, array in nets.weights(result.model).items()}
    assert [i.name for i in result.model.graph.input] == [i.name for i in model.graph.input]
    for info in result.model.graph.input[1:]:
        assert tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim) == sizes[info.name]
    assert result.model.ir_version == ir
    assert result.model.opset_import[0].version == 9
    # Before IR 4 an initializer had to be an input: the new bias is a node.
    added = [node.output[0] for node in result.model.graph.node if node.op_type == "Constant"]
    assert added == (["w2_bias"] if ir == 3 else [])
    assert np.isfinite(nets.run(result.model, DATA)).all()


def test_weights_in_typed_fields() -> None:
    model = nets.chain()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, array.shape, array.ravel().tolist()))
    assert model.graph.initializer[0].float_data
    one = onnxpfp.prune(model, calibration=DATA, keep_macs=0.5).model
    two = onnxpfp.prune(nets.chain(), calibration=DATA, keep_macs=0.5).model
    np.testing.assert_array_equal(nets.run(one, DATA), nets.run(two, DATA))
