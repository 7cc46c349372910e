"""Rules of all ops; an op that is not in `RULES` fixes what it touches."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from onnxpfp.channels.facts import OpFacts
from onnxpfp.channels.ops import (
    attention,
    contrib,
    control,
    convolution,
    einsum,
    elementwise,
    indexing,
    joining,
    linear,
    normalization,
    pooling,
    quantization,
    quantized_linear,
    recurrent,
    reduction,
    reshaping,
    resizing,
    sampling,
    signal,
    staying,
)
from onnxpfp.channels.registry import Rule, merge

__all__ = ["FACTS", "RULES", "STAYS", "facts_of", "op_name"]

_ALL = merge(
    module.RULES
    for module in (
        attention,
        contrib,
        control,
        convolution,
        einsum,
        elementwise,
        indexing,
        joining,
        linear,
        normalization,
        pooling,
        quantization,
        quantized_linear,
        recurrent,
        reduction,
        reshaping,
        resizing,
        sampling,
        signal,
        staying,
    )
)

RULES: Mapping[str, Rule] = _ALL.table
"""The rule of every op that has one, by op type (domain and colon before those not of ONNX)."""
STAYS: Mapping[str, str] = _ALL.stays
"""Those of them that keep all they touch, with the reason."""
FACTS: Mapping[str, OpFacts] = _ALL.facts
"""What else holds of an op; of most nothing is declared."""
_NOTHING = OpFacts()


def op_name(op_type: str, domain: str | None) -> str:
    """Return the name of an op in these tables; the domain of ONNX itself has two names, and is left out."""
    return op_type if domain in {None, "", "ai.onnx"} else f"{domain}:{op_type}"


def facts_of(node: NodeProto) -> OpFacts:
    """Return what is declared of a node's op."""
    return FACTS.get(op_name(node.op_type, node.domain), _NOTHING)
