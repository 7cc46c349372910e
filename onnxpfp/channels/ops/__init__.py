"""Rules of all ops; an op that is not in `RULES` fixes what it touches."""

from __future__ import annotations

from collections.abc import Mapping

from onnxpfp.channels.ops import (
    convolution,
    elementwise,
    joining,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    reshaping,
)
from onnxpfp.channels.registry import Rule, merge

__all__ = ["RULES"]

RULES: Mapping[str, Rule] = merge(
    module.RULES
    for module in (
        convolution,
        elementwise,
        joining,
        linear,
        normalization,
        pooling,
        quantization,
        reduction,
        reshaping,
    )
)
