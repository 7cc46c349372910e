"""Weights that a DequantizeLinear makes of 8-bit integers, and how new numbers are brought to that form.

A weight is W = scale * q with q from -127 to 127, one scale in all or one for every output. New numbers get new scales,
the smallest with which none is cut off: scale = max |W| / 127, over the outputs that share it. A bias of integers has
the scale of the inputs times that of the weight (https://onnxruntime.ai/docs/performance/model-optimizations/
quantization.html), for the product of both is what integer kernels add up, so it follows the weight's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxpfp.arrays import Floats
from onnxpfp.channels import Analysis, Consumer
from onnxpfp.channels.ops import facts_of
from onnxpfp.model.attributes import Attributes

__all__ = ["QuantizedWeight", "Requantized", "quantized_weight"]

MOST = 127
"""The largest of the integers, in size: -128 has no counterpart, and kernels may overflow with it."""


class Requantized(NamedTuple):
    """New numbers of a weight as they are stored.

    Attributes:
        steps: The integers, in the shape of the weight, int8.
        scale: The scales, in the shape and type of those that are stored.
        ratio: By how much they grow, (O,) for O outputs, or of one number where there is one scale.
    """

    steps: NDArray[np.int8]
    scale: NDArray[np.generic]
    ratio: Floats


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """A weight of integers that one op alone reads, with scales of its own.

    Attributes:
        steps: The stored tensor of the integers.
        scale: That of the scales.
        axis: The weight's axis of outputs, if each has a scale; None where there is one scale.
        scales: The scales as they are.
        bias: The stored tensors of the integers and of the scales of the op's bias; None where it has none.
    """

    steps: str
    scale: str
    axis: int | None
    scales: NDArray[np.generic]
    bias: tuple[str, str] | None

    @property
    def tensors(self) -> tuple[str, ...]:
        """All stored tensors that change with the weight's numbers."""
        return (self.steps, self.scale, *(self.bias or ()))

    def of(self, weight: Floats) -> Requantized:
        """Bring new numbers to integers and scales; what is all zero keeps its scale.

        Args:
            weight: The numbers, with zeros where something is to go.
        """
        others = tuple(axis for axis in range(weight.ndim) if axis != self.axis)
        largest = np.abs(weight).max(axis=others, initial=0.0) if self.axis is not None else np.abs(weight).max()
        old = self.scales.astype(np.float64)
        scale = np.where(largest > 0, largest / MOST, old).reshape(old.shape).astype(self.scales.dtype)
        new = scale.astype(np.float64)
        # A scale that is too small for its type would make infinite integers.
        scale = np.where(new > 0, scale, self.scales)
        new = np.where(new > 0, new, old)
        shape = [1] * weight.ndim
        if self.axis is not None:
            shape[self.axis] = new.size
        steps = np.clip(np.rint(weight / new.reshape(shape)), -MOST, MOST).astype(np.int8)
        return Requantized(steps, scale, new / old)


def quantized_weight(analysis: Analysis, consumer: Consumer) -> QuantizedWeight | None:
    """Return how the weight of an op is quantized; None where it is not, or new scales would not do.

    Cases:
        1. A convolution or a matrix, its weight from a DequantizeLinear of int8 around 0, with one scale or one for
           every output, none of which anything else reads.
        2. Its bias, if it has one, is of int32 likewise, with a scale for every scale of the weight.
    """
    index, constants, graph = analysis.index, analysis.constants, analysis.model.graph
    node = graph.node[consumer.node]
    if consumer.form not in {"conv", "matrix"} or index.only_use(consumer.weight) is None:
        return None
    found = _integers(analysis, consumer.weight, TensorProto.INT8)
    if found is None:
        return None
    steps, scale, axis = found
    scales = constants.value(scale)
    of_outputs = 0 if consumer.form == "conv" else 1 - consumer.weight_axis
    if scales.size > 1 and axis % constants.value(consumer.weight).ndim != of_outputs:
        return None
    bias, facts = None, facts_of(node).bias
    if facts is not None and len(node.input) > facts.position and node.input[facts.position]:
        name = node.input[facts.position]
        own = None if index.only_use(name) is None else _integers(analysis, name, TensorProto.INT32)
        if own is None or constants.value(own[1]).size != scales.size:
            return None
        bias = own[0], own[1]
    return QuantizedWeight(steps, scale, of_outputs if scales.size > 1 else None, scales, bias)


def _integers(analysis: Analysis, name: str, kind: int) -> tuple[str, str, int] | None:
    """Return the stored integers and scales that a tensor is dequantized from, and the axis of the scales."""
    index, constants = analysis.index, analysis.constants
    node = index.producer(name)
    if node is None or node.op_type != "DequantizeLinear" or Attributes(node).integer("block_size", 0):
        return None
    steps, scale = node.input[:2]
    stored = [constants.stored.get(each) for each in (steps, scale)]
    if any(each is None or index.only_use(name) is None for each, name in zip(stored, (steps, scale), strict=True)):
        return None
    zero = node.input[2] if len(node.input) > 2 else ""
    around_zero = not zero or (zero in constants.names and not constants.value(zero).any())
    plain = stored[0] is not None and stored[0].data_type == kind and constants.value(scale).ndim <= 1
    return (steps, scale, Attributes(node).integer("axis", 1)) if plain and around_zero else None
