"""The steps of quantized activations, at which near ties fall one way or the other."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, NodeProto, helper

from onnxpfp.model.edit import drop_unread

__all__ = ["quantizes", "without_steps"]


def quantizes(node: NodeProto) -> bool:
    """Whether a node rounds activations to integers."""
    op = node.op_type
    return ("Quantize" in op and op != "DequantizeLinear") or op.startswith(("QLinear", "QGemm", "QAttention"))


def without_steps(model: ModelProto) -> ModelProto:
    """Let activations pass by QuantizeLinear and DequantizeLinear: what is left has no steps that could flip."""
    smooth = ModelProto()
    smooth.CopyFrom(model)
    before = {node.output[0]: node.input[0] for node in smooth.graph.node if node.op_type == "QuantizeLinear"}
    pairs = (node for node in smooth.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in before)
    passed = {node.output[0]: before[node.input[0]] for node in pairs}
    for node in smooth.graph.node:
        node.input[:] = [_first(passed, name) for name in node.input]
    results = {output.name for output in smooth.graph.output} & passed.keys()
    for node in smooth.graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] in results:
            node.CopyFrom(helper.make_node("Identity", [_first(passed, node.output[0])], list(node.output)))
    unread = [name for node in smooth.graph.node if node.output and node.output[0] in passed for name in node.output]
    drop_unread(smooth.graph, unread)
    return smooth


def _first(passed: Mapping[str, str], name: str) -> str:
    while name in passed:
        name = passed[name]
    return name
