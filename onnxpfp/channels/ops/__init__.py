"""The rules of all ops in one table. An op that is not in it keeps every channel that it touches."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from onnxpfp.channels.facts import OpFacts
from onnxpfp.channels.ops import (
    attention,
    contrib,
    control,
    convolution,
    drawing,
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
        drawing,
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
"""The rule of every op that has one, by op type; ops of other domains than ONNX's as `domain:op_type`."""
STAYS: Mapping[str, str] = _ALL.stays
"""Ops whose rule is to keep every channel that they touch, with the reason."""
FACTS: Mapping[str, OpFacts] = _ALL.facts
"""Facts beside the rule (MACs, bias, layout of weights, signs) of the ops that declare any."""
_NOTHING = OpFacts()


def op_name(op_type: str, domain: str | None) -> str:
    """Return the name of an op in these tables: without its domain where that is ONNX's own, which has two names."""
    return op_type if domain in {None, "", "ai.onnx"} else f"{domain}:{op_type}"


def facts_of(node: NodeProto) -> OpFacts:
    """Return what is declared of a node's op."""
    return FACTS.get(op_name(node.op_type, node.domain), _NOTHING)
