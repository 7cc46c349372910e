"""Ops of the standard that draw random numbers."""

from __future__ import annotations

from onnx import NodeProto

from onnxpfp.model.opset import STANDARD

__all__ = ["RANDOM_OPS", "TRAINING_INPUT", "may_draw"]

RANDOM_OPS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Those that draw in every run."""
TRAINING_INPUT = 2
"""Input of Dropout that says whether it draws; without it, as before opset 12, it does not."""


def may_draw(node: NodeProto) -> bool:
    """Tell whether a node draws random numbers, or does where an input says so."""
    if node.domain not in STANDARD:
        return False
    return node.op_type in RANDOM_OPS or (node.op_type == "Dropout" and any(node.input[TRAINING_INPUT:]))
