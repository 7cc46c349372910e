"""Elementwise ops: index i of every operand's axis belongs to index i of the result's."""

from __future__ import annotations

import numpy as np

from onnxpfp.arrays import Floats, Ids
from onnxpfp.channels.context import Axes, NodeContext
from onnxpfp.channels.facts import Deciding
from onnxpfp.channels.registry import Rules

__all__ = ["RULES", "broadcast"]

RULES = Rules()


def broadcast(n: NodeContext, operands: list[Axes], shape: tuple[int, ...]) -> Axes:
    """Tie operands that broadcast to `shape`, axis by axis from the right.

    An axis of length 1 that is stretched must stay: its one index meets every index of the result.
    """
    result = [n.zeros(size) for size in shape]
    for axis, size in enumerate(shape):
        full: list[Ids] = []
        for operand in operands:
            own = axis - len(shape) + len(operand)
            if own < 0:
                continue
            if operand[own].size == size:
                full.append(operand[own])
            else:
                n.fix(operand[own], "stretches it over an axis")
        if full:
            result[axis] = full[0]
        for other in full[1:]:
            n.tie(full[0], other)
    return tuple(result)


UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitCast", "BitwiseNot", "Cast", "Ceil", "Celu"),
    *("Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN"),
    *("LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign"),
    *("Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
    *("com.microsoft:Gelu", "com.microsoft:QuickGelu"),
)
"""Ops that act on every number of one tensor by itself."""

VARIADIC = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual"),
    *("Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "SwiGLU", "Xor"),
)
"""Ops of several tensors that broadcast."""


@RULES.add(*UNARY)
def unary(n: NodeContext) -> None:
    """All axes pass: it acts on every number of one tensor by itself."""
    n.set(n.axes(0))


@RULES.add(*VARIADIC)
def variadic(n: NodeContext) -> None:
    """All axes pass, and index i of every operand's axis goes with index i of the result's."""
    operands = [n.axes(i) for i in range(len(n.node.input)) if n.has(i)]
    n.set(broadcast(n, operands, n.out_shape()))


@RULES.add("Where")
def where(n: NodeContext) -> None:
    """Where: all axes pass, those of the three operands together; a condition that is stored is cut with them."""
    shape = n.out_shape()
    result = broadcast(n, [n.axes(1), n.axes(2)], shape)
    condition = n.axes(0)
    own = tuple(
        labels if labels.size == size else n.zeros(size)
        for labels, size in zip(result[len(shape) - len(condition) :], n.shape(0), strict=True)
    )
    if not n.cut(0, own, truth=True):
        result = broadcast(n, [condition, n.axes(1), n.axes(2)], shape)
    n.set(result)


@RULES.add("Clip")
def clip(n: NodeContext) -> None:
    """Clip: all axes pass; the bounds are single numbers."""
    n.set(n.axes(0))


@RULES.add("CastLike")
def cast_like(n: NodeContext) -> None:
    """CastLike: all axes pass; the second input gives its type alone."""
    n.set(n.axes(0))


def _sigmoid(numbers: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-numbers))


def _softplus(numbers: Floats) -> Floats:
    return np.logaddexp(0.0, numbers)


RULES.declare("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softplus", sign="never negative")
RULES.declare("Identity", sign="of the first input")
RULES.declare("Add", "Max", "Min", "Mul", "Sum", sign="of all inputs")
RULES.declare("Clip", "HardSigmoid", "Identity", "Relu", "Sigmoid", "Tanh", saturates=True)
RULES.declare("Erf", "HardSigmoid", "Sigmoid", "Tanh", within_one=True)
RULES.declare("Sigmoid", largest=_sigmoid)
RULES.declare("Tanh", largest=np.tanh)
RULES.declare("Softplus", largest=_softplus)
RULES.declare(
    *("BitCast", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Mod"),
    *("Round", "Shrink", "Sign", "ThresholdedRelu"),
    decides=Deciding(),
)
RULES.declare("Cast", decides=Deciding(unless_float=True))
RULES.declare("CastLike", decides=Deciding(reads=(0,)))
RULES.declare("Identity", moves=True)
RULES.declare(
    *("Abs", "Asinh", "Atan", "Cast", "CastLike", "Celu", "Clip", "Elu", "Gelu", "HardSwish", "Identity"),
    *("LeakyRelu", "Mish", "Neg", "Relu", "Sin", "Softsign", "Swish", "ThresholdedRelu"),
    *("com.microsoft:Gelu", "com.microsoft:QuickGelu"),
    magnitude="of the first input",
)
RULES.declare("Add", "Max", "Mean", "Min", "Sub", "Sum", "Where", magnitude="of all inputs")
