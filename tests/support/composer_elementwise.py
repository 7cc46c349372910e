"""Pieces that act on every number by itself."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from support.composer_graph import BATCH, Composer, Image, Pieces

PIECES = Pieces()

DOMAINS = {
    "Acos": (-0.9, 0.9),
    "Acosh": (1.1, 3.0),
    "Asin": (-0.9, 0.9),
    "Atanh": (-0.9, 0.9),
    "Cosh": (-2.0, 2.0),
    "Exp": (-2.0, 2.0),
    "Log": (0.5, 3.0),
    "Reciprocal": (0.5, 2.0),
    "Sinh": (-2.0, 2.0),
    "Sqrt": (0.1, 4.0),
    "Tan": (-1.0, 1.0),
}
"""Where an op has values, and none that are too large."""


@PIECES.add("Identity", "LeakyRelu", "Neg", "Relu", "Sigmoid", "Tanh", "Abs", "Floor", "Ceil", "Sqrt", since=7)
@PIECES.add("Acos", "Asin", "Atan", "Cos", "Elu", "Exp", "HardSigmoid", "Log", "Reciprocal", "Selu", "Sin", since=7)
@PIECES.add("Softplus", "Softsign", "Tan", since=7)
@PIECES.add("Acosh", "Asinh", "Atanh", "Cosh", "Erf", "Shrink", "Sign", "Sinh", since=9)
@PIECES.add("Celu", "HardSwish", "Mish", "Round", "ThresholdedRelu", since=18)
@PIECES.add("Gelu", since=20)
@PIECES.add("Swish", since=24, until=24)
@PIECES.add("com.microsoft:Gelu", "com.microsoft:QuickGelu", "com.microsoft:ScaledSiLU", "com.microsoft:SampleOp")
def unary(g: Composer, op: str) -> None:
    x = g.pick()
    name = g.bounded(x.name, *DOMAINS[op]) if op in DOMAINS else x.name
    g.add(g.emit(op, name), x.width, x.side)


@PIECES.add("Clip", "Dropout", since=12)
def bounds(g: Composer, op: str) -> None:
    x = g.pick()
    if op == "Clip":
        low, high = g.choose((g.number(-0.5), ""), ("", g.number(0.5)), (g.number(-0.5), g.number(0.75)))
        g.add(g.emit(op, x.name, low, high), x.width, x.side)
        return
    name, mask = g.emits(op, [x.name, g.number(0.5)], 2)
    name = g.emit("Mul", name, g.cast(mask, TensorProto.FLOAT)) if g.flip() else name
    g.add(name, x.width, x.side)


def constant_like(g: Composer, x: Image) -> str:
    shape = g.choose((x.width, 1, 1), (1,), (1, x.width, 1, 1), (x.width, x.side, x.side), (1, x.side))
    return g.weight(*shape, positive=True)


def second(g: Composer, x: Image) -> str:
    """Choose another operand for an image: a live one, or a stored one that broadcasts."""
    other = g.partner(x)
    return constant_like(g, x) if other is None or g.whole(0, 3) == 0 else other


@PIECES.add("Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "PRelu", "Sub", "Sum", since=8)
@PIECES.add("Mod")
def binary(g: Composer, op: str) -> None:
    x = g.pick()
    if op == "PRelu":
        name = g.emit(op, x.name, g.weight(*g.choose((x.width, 1, 1), (1,), (1, 1, x.side))))
    elif op == "Pow":
        name = g.emit(op, g.bounded(x.name, 0.5, 2.0), constant_like(g, x) if g.flip() else g.number(2.0))
    elif op in {"Div", "Mod"}:
        by = g.bounded(second(g, x), 0.5, 2.0)
        name = g.emit(op, x.name, by, **({"fmod": 1} if op == "Mod" else {}))
    elif op in {"Max", "Mean", "Min", "Sum"} and g.flip():
        name = g.emit(op, *([x.name] if g.flip() else [x.name, second(g, x), second(g, x)]))
    else:
        inputs = [x.name, second(g, x)]
        name = g.emit(op, *(reversed(inputs) if g.flip() else inputs))
    g.add(name, x.width, x.side)


@PIECES.add("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", since=16)
def compared(g: Composer, op: str) -> None:
    x = g.pick()
    truth = g.emit(op, x.name, second(g, x))
    name = g.cast(truth, TensorProto.FLOAT)
    g.add(g.emit("Mul", name, x.name) if g.flip() else name, x.width, x.side)


@PIECES.add("And", "Or", "Xor", "Not", since=13)
def logical(g: Composer, op: str) -> None:
    x = g.pick()
    one = g.emit("Greater", x.name, g.number(0.1))
    if op == "Not":
        truth = g.emit(op, one)
    else:
        other = g.partner(x)
        two = g.emit("Less", other or x.name, g.number(0.7))
        stored = g.store(g.rng.random((x.side,)) < 0.5)
        truth = g.emit(op, one, stored if g.flip() else two)
    g.add(g.emit("Mul", g.cast(truth, TensorProto.FLOAT), x.name), x.width, x.side)


@PIECES.add("IsInf", "IsNaN", since=20)
def odd_numbers(g: Composer, op: str) -> None:
    x = g.pick()
    odd = g.emit(op, g.emit("Div", x.name, g.emit("Relu", x.name)))
    name = g.emit("Add", x.name, g.cast(odd, TensorProto.FLOAT))
    g.add(name, x.width, x.side)


def whole_numbers(g: Composer, name: str, kind: int) -> str:
    """Turn floats into integers from 1 to 7."""
    return g.cast(g.bounded(name, 1.0, 7.9), kind)


@PIECES.add("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", since=18)
@PIECES.add("BitShift")
def bits(g: Composer, op: str) -> None:
    x = g.pick()
    kind = TensorProto.UINT8 if op == "BitShift" else g.choose(TensorProto.INT32, TensorProto.UINT8)
    inputs = [whole_numbers(g, x.name, kind)]
    if op != "BitwiseNot":
        stored = g.rng.integers(1, 4, (x.side,)).astype(np.uint8 if kind == TensorProto.UINT8 else np.int32)
        other = g.partner(x)
        inputs.append(whole_numbers(g, other, kind) if other and g.flip() else g.store(stored))
    options = {"direction": g.choose("LEFT", "RIGHT")} if op == "BitShift" else {}
    name = g.cast(g.emit(op, *inputs, **options), TensorProto.FLOAT)
    g.add(g.emit("Mul", name, g.number(0.125)), x.width, x.side)


@PIECES.add("BitCast", since=26)
def seen_otherwise(g: Composer, op: str) -> None:
    x = g.pick()
    g.add(g.emit(op, g.emit(op, x.name, to=TensorProto.INT32), to=TensorProto.FLOAT), x.width, x.side)


@PIECES.add("Cast", since=9)
@PIECES.add("CastLike", since=15)
def typed(g: Composer, op: str) -> None:
    """Go to another type, compute there, and come back."""
    x = g.pick()
    kinds = {TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16, TensorProto.INT32: np.int32}
    kind = g.choose(*kinds)
    like = g.store(np.zeros((1,), kinds[kind]))
    name = g.emit(op, x.name, like) if op == "CastLike" else g.cast(x.name, kind)
    if kind != TensorProto.INT32 and g.flip():
        out = g.choose(4, 6)
        w = g.store((g.rng.standard_normal((out, x.width)) / np.sqrt(x.width)).astype(kinds[kind]))
        name, x = g.emit("MatMul", w, g.reshape(name, BATCH, x.width, x.side**2)), x._replace(width=out)
        name = g.reshape(name, BATCH, out, x.side, x.side)
    name = g.emit(op, name, g.number(0.0)) if op == "CastLike" else g.cast(name, TensorProto.FLOAT)
    g.add(name, x.width, x.side)


@PIECES.add("Where", since=9)
def chosen(g: Composer, op: str) -> None:
    x = g.pick()
    other = g.partner(x) or g.weight(*g.choose((1,), (x.width, 1, 1)))
    if g.flip():
        shape = g.choose((x.width, 1, 1), (1, 1, x.side), (1, x.width, 1, x.side), (x.side, 1))
        condition = g.store(g.rng.random(shape) < 0.5)
    else:
        condition = g.emit("Less", x.name, g.number(0.2))
    a, b = (x.name, other) if g.flip() else (other, x.name)
    g.add(g.emit(op, condition, a, b), x.width, x.side)


@PIECES.add("com.microsoft:BiasGelu", "com.microsoft:FastGelu", "com.microsoft:GatedAdd")
def fused(g: Composer, op: str) -> None:
    """Fused ops whose second operand is a bias of the last axis, a gate, or another image."""
    x = g.pick()
    rows = g.tokens(x)
    if op.endswith("GatedAdd"):
        other = g.emit("Mul", rows, g.weight(x.width))
        name = g.emit(op, rows, other, g.emit("Sigmoid", g.emit("MatMul", rows, g.weight(x.width, 1))))
    else:
        name = g.emit(op, rows, *([g.weight(x.width)] if op.endswith("BiasGelu") or g.flip() else []))
    g.untoken(name, x.width, x.side)
