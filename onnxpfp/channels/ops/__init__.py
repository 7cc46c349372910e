"""Rules of all ops; an op that is not in `RULES` fixes what it touches."""

from __future__ import annotations

from collections.abc import Mapping

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

__all__ = ["RULES", "STAYS"]

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
