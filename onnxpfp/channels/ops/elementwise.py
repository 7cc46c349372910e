"""Elementwise ops: index i of every operand's axis belongs to index i of the result's."""

from __future__ import annotations

from onnxpfp.channels.context import Axes, NodeContext
from onnxpfp.channels.registry import Rules
from onnxpfp.channels.types import Ids

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


@RULES.add(
    *[
        "Abs",
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "BitwiseNot",
        "Cast",
        "Ceil",
        "Celu",
        "Cos",
        "Cosh",
        "Dropout",
        "Elu",
        "Erf",
    ],
    *[
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Not",
    ],
    *[
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
    ],
    *["Tan", "Tanh", "ThresholdedRelu", "com.microsoft:Gelu", "com.microsoft:QuickGelu"],
)
def unary(n: NodeContext) -> None:
    """Pass labels through: the op acts on every number by itself (Dropout too: it does not act)."""
    n.set(n.axes(0))
    if len(n.outputs) > 1 and n.out_shapes[1] is not None:
        n.set(n.axes(0), 1)


@RULES.add(
    *[
        "Add",
        "And",
        "BitShift",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
    ],
    *[
        "Less",
        "LessOrEqual",
        "Max",
        "Mean",
        "Min",
        "Mod",
        "Mul",
        "Or",
        "Pow",
        "PRelu",
        "Sub",
        "Sum",
        "Where",
        "Xor",
    ],
)
def variadic(n: NodeContext) -> None:
    """Tie all operands along each axis of the result."""
    operands = [n.axes(i) for i in range(len(n.node.input)) if n.has(i)]
    n.set(broadcast(n, operands, n.out_shape()))


@RULES.add("Clip")
def clip(n: NodeContext) -> None:
    """Pass labels through; the bounds are single numbers."""
    n.set(n.axes(0))


@RULES.add("CastLike")
def cast_like(n: NodeContext) -> None:
    """Pass labels through; the second input gives its type alone."""
    n.set(n.axes(0))
