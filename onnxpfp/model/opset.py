"""The version of the standard operator set that a model imports; its domain has two names."""

from __future__ import annotations

from onnx import ModelProto

__all__ = ["STANDARD", "standard_opset"]

STANDARD = frozenset({"", "ai.onnx"})
"""Names of the domain of ONNX itself."""


def standard_opset(model: ModelProto) -> int:
    """Return the version of the standard operator set; 0 where the model does not import it."""
    return max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)
