"""The version of the standard operator set: what a model imports, and what graphs made here are written in."""

from __future__ import annotations

from onnx import GraphProto, ModelProto, helper

__all__ = ["STANDARD", "model_of_graph", "standard_opset"]

STANDARD = frozenset({"", "ai.onnx"})
"""Names of the domain of ONNX itself."""
_OPSET, _IR = 17, 8


def standard_opset(model: ModelProto) -> int:
    """Return the version of the standard operator set; 0 where the model does not import it."""
    return max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)


def model_of_graph(graph: GraphProto) -> ModelProto:
    """Return a model of a graph that is made here, not the user's."""
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
