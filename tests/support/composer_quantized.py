"""Pieces of quantized numbers: as pairs around floats, as integers, in few bits, and as ops of quantized tensors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from support.composer_graph import WIDTHS, Composer, Image, Pieces

PIECES = Pieces()

MICROSOFT = "com.microsoft:"


class Quantized(NamedTuple):
    """A quantized tensor with its scale and zero point."""

    name: str
    scale: str
    zero: str


def quantize(g: Composer, name: str, scale: float = 0.05, zero: int = 120) -> Quantized:
    made = g.number(scale), g.number(zero, np.uint8)
    return Quantized(g.emit("QuantizeLinear", name, *made), *made)


def result(g: Composer) -> tuple[str, str]:
    """Scale and zero point of a result."""
    return g.number(0.06), g.number(130, np.uint8)


def floats(g: Composer, name: str, made: tuple[str, str]) -> str:
    return g.emit("DequantizeLinear", name, *made)


def matrix(g: Composer, *shape: int, signed: bool = True) -> str:
    kind, low = (np.int8, -9) if signed else (np.uint8, 0)
    return g.store(g.rng.integers(low, 9, shape).astype(kind))


def scaling(g: Composer, count: int, *, signed: bool = True) -> tuple[str, str]:
    """Scales and zero points of a weight: for each output, or one of all."""
    shape = (count,) if g.flip() else ()
    zeros = g.rng.integers(0, 4, shape).astype(np.int8 if signed else np.uint8)
    return g.store(g.rng.uniform(0.02, 0.04, shape).astype(np.float32)), g.store(zeros)


@PIECES.add("QuantizeLinear", "DequantizeLinear", MICROSOFT + "QuantizeLinear", MICROSOFT + "DequantizeLinear")
def pairs(g: Composer, op: str) -> None:
    """A pair around an activation (whole, by channel or by block), or a stored weight that is dequantized."""
    x = g.pick()
    prefix = MICROSOFT if ":" in op else ""
    to, back = f"{prefix}QuantizeLinear", f"{prefix}DequantizeLinear"
    kinds = ["whole", "channel"] + (["block"] if g.opset >= 21 and not prefix and x.width % 2 == 0 else [])
    if op.endswith("DequantizeLinear") and g.flip():
        _stored(g, x, back)
        return
    kind = g.choose(*kinds)
    if kind == "whole":
        made, options = (g.number(0.05), g.number(120, np.uint8)), {}
    elif kind == "channel":
        zeros = g.store(g.rng.integers(90, 160, x.width).astype(np.uint8))
        made, options = (
            (g.store(g.rng.uniform(0.03, 0.06, x.width).astype(np.float32)), zeros),
            {"axis": g.choose(1, -3)},
        )
    else:
        if g.batch is None:
            _stored(g, x, back)
            return
        shape = (g.batch, x.width // 2, x.side, x.side)
        made = (g.store(g.rng.uniform(0.03, 0.06, shape).astype(np.float32)),)
        options = {"axis": 1, "block_size": 2}
    q = g.emit(to, x.name, *made, **options)
    g.add(g.emit(back, q, *made, **options), x.width, x.side)


def _stored(g: Composer, x: Image, op: str) -> None:
    """A Conv whose filters are stored in 8 bits, or in blocks of 4."""
    out = g.choose(*WIDTHS)
    if g.opset >= 21 and ":" not in op and x.width % 2 == 0 and g.flip():
        kind = np.dtype("int8")
        stored = g.rng.integers(-7, 7, (x.width, out)).astype(kind)
        tensor = g.store(stored)
        scales = g.store(g.rng.uniform(0.05, 0.1, (x.width // 2, out)).astype(np.float32))
        w = g.emit(op, tensor, scales, axis=0, block_size=2)
        g.untoken(g.emit("MatMul", g.tokens(x), w), out, x.side)
        return
    scales, zeros = scaling(g, out)
    w = g.emit(op, matrix(g, out, x.width, 3, 3), scales, zeros, axis=0)
    g.add(g.emit("Conv", x.name, w, pads=[1] * 4), out, x.side)


def dynamic(g: Composer, name: str) -> Quantized:
    return Quantized(*g.emits("DynamicQuantizeLinear", [name], 3))


@PIECES.add("DynamicQuantizeLinear")
def dynamic_pair(g: Composer, op: str) -> None:
    x = g.pick()
    g.add(floats(g, *_parted(dynamic(g, x.name))), x.width, x.side)


def _parted(q: Quantized) -> tuple[str, tuple[str, str]]:
    return q.name, (q.scale, q.zero)


def rescaled(g: Composer, sums: str, scale: str) -> str:
    """Turn sums of integers into floats."""
    return g.emit("Mul", g.emit("Mul", g.cast(sums, TensorProto.FLOAT), scale), g.number(0.1))


@PIECES.add("ConvInteger", "MatMulInteger")
def integers(g: Composer, op: str) -> None:
    x, out = g.pick(), g.choose(*WIDTHS)
    zeros = [g.number(2, np.uint8)] if g.flip() else []
    if op == "ConvInteger":
        q = dynamic(g, x.name)
        group = g.choose(1, 2) if x.width % 2 == 0 else 1
        w = matrix(g, out, x.width // group, 3, 3, signed=False)
        sums = g.emit(op, q.name, w, q.zero, *zeros, group=group, pads=[1] * 4)
        g.add(rescaled(g, sums, q.scale), out, x.side)
        return
    q = dynamic(g, g.tokens(x))
    sums = g.emit(op, q.name, matrix(g, x.width, out, signed=False), q.zero, *zeros)
    g.untoken(rescaled(g, sums, q.scale), out, x.side)


@PIECES.add("QLinearConv", MICROSOFT + "QLinearConv")
def qlinear_conv(g: Composer, op: str) -> None:
    x, out = g.pick(), g.choose(*WIDTHS)
    kind = g.choose("plain", "depthwise", "grouped")
    group = {"plain": 1, "depthwise": x.width, "grouped": 2 if x.width % 2 == 0 else 1}[kind]
    out = x.width if kind == "depthwise" else out
    q, made = quantize(g, x.name), result(g)
    scales, zeros = scaling(g, out)
    inputs = [matrix(g, out, x.width // group, 3, 3), scales, zeros, *made]
    if g.flip():
        inputs.append(g.store(g.rng.integers(-50, 50, out).astype(np.int32)))
    options: dict[str, object] = {"group": group, "pads": [1] * 4}
    if ":" in op and g.flip():
        name = g.emit(op, g.transpose(q.name, 0, 2, 3, 1), *q[1:], *inputs, channels_last=1, **options)
        name = g.transpose(name, 0, 3, 1, 2)
    else:
        name = g.emit(op, *q, *inputs, **options)
    g.add(floats(g, name, made), out, x.side)


@PIECES.add("QLinearMatMul", MICROSOFT + "QGemm")
def qlinear_matmul(g: Composer, op: str) -> None:
    x, out = g.pick(), g.choose(*WIDTHS)
    made, (scales, zeros) = result(g), scaling(g, out)
    if op == "QLinearMatMul":
        if g.flip():
            q = quantize(g, g.tokens(x))
            name = g.emit(op, *q, matrix(g, x.width, out), scales, zeros, *made)
            g.untoken(floats(g, name, made), out, x.side)
            return
        # Two activations: scores of pixels.
        q = quantize(g, g.tokens(x))
        turned = Quantized(g.transpose(q.name, 0, 2, 1), q.scale, q.zero)
        scores = g.emit("Softmax", floats(g, g.emit(op, *q, *turned, *made), made), axis=-1)
        g.untoken(g.emit("MatMul", scores, g.tokens(x)), x.width, x.side)
        return
    q, turned = quantize(g, g.rows(x)), int(g.flip())
    w = matrix(g, *((out, x.width) if turned else (x.width, out)))
    bias = g.store(g.rng.integers(-50, 50, out).astype(np.int32)) if g.flip() else ""
    if g.flip():
        name = floats(g, g.emit(op, *q, w, scales, zeros, bias, *made, transB=turned), made)
    else:
        name = g.emit(op, *q, w, scales, zeros, *([bias] if bias else []), transB=turned)
    g.gate(name, out, x)


@PIECES.add(MICROSOFT + "MatMulIntegerToFloat", MICROSOFT + "DynamicQuantizeMatMul")
def scaled_products(g: Composer, op: str) -> None:
    x, out = g.pick(), g.choose(*WIDTHS)
    scales, zeros = scaling(g, out)
    tokens, w = g.tokens(x), matrix(g, x.width, out)
    bias = [g.weight(out)] if g.flip() else []
    if op.endswith("ToFloat"):
        q = dynamic(g, tokens)
        name = g.emit(op, q.name, w, q.scale, scales, q.zero, zeros, *bias)
    else:
        name = g.emit(op, tokens, w, scales, zeros, *bias)
    g.untoken(name, out, x.side)


@PIECES.add(MICROSOFT + "QLinearAdd", MICROSOFT + "QLinearMul", MICROSOFT + "QLinearWhere")
def qlinear_binary(g: Composer, op: str) -> None:
    x = g.pick()
    q, made = quantize(g, x.name), result(g)
    other = g.partner(x)
    if (other is not None and g.flip()) or op.endswith("Where"):
        p = quantize(g, other or g.emit("Tanh", x.name), 0.04, 110)
    else:
        p = Quantized(matrix(g, x.width, 1, 1, signed=False), g.number(0.1), g.number(3, np.uint8))
    if op.endswith("Where"):
        condition = g.emit("Less", x.name, g.number(0.1)) if g.flip() else g.store(g.rng.random((x.width, 1, 1)) < 0.5)
        name = g.emit(op, condition, *q, *p, *made)
    else:
        name = g.emit(op, *q, *p, *made)
    g.add(floats(g, name, made), x.width, x.side)


@PIECES.add(MICROSOFT + "QLinearSigmoid", MICROSOFT + "QLinearLeakyRelu", MICROSOFT + "QLinearSoftmax")
def qlinear_unary(g: Composer, op: str) -> None:
    x = g.pick()
    q, made = quantize(g, x.name), result(g)
    options: dict[str, object] = {}
    if op.endswith("Softmax"):
        made, options = (
            (g.number(0.004), g.number(0, np.uint8)),
            {"axis": g.choose(1, 2, -1), "opset": g.choose(11, 13)},
        )
    elif op.endswith("Sigmoid"):
        made = g.number(0.004), g.number(0, np.uint8)
    g.add(floats(g, g.emit(op, *q, *made, **options), made), x.width, x.side)


@PIECES.add(MICROSOFT + "QLinearConcat")
def qlinear_concat(g: Composer, op: str) -> None:
    x = g.pick(most=8)
    q, p, made = quantize(g, x.name), quantize(g, g.emit("Tanh", x.name), 0.01), result(g)
    name = g.emit(op, *made, *q, *p, axis=1)
    g.add(floats(g, name, made), 2 * x.width, x.side)


@PIECES.add(MICROSOFT + "QLinearAveragePool", MICROSOFT + "QLinearGlobalAveragePool", MICROSOFT + "NhwcMaxPool")
def qlinear_pool(g: Composer, op: str) -> None:
    x = g.pick()
    q, made = quantize(g, x.name), result(g)
    last = op.endswith("NhwcMaxPool") or g.flip()
    data = g.transpose(q.name, 0, 2, 3, 1) if last else q.name
    options: dict[str, object] = {} if "Global" in op else {"kernel_shape": [3, 3], "pads": [1] * 4}
    if op.endswith("NhwcMaxPool"):
        made, name = (q.scale, q.zero), g.emit(op, data, **options)
    else:
        name = g.emit(op, data, q.scale, q.zero, *made, channels_last=int(last), **options)
    name = floats(g, g.transpose(name, 0, 3, 1, 2) if last else name, made)
    g.add(g.emit("Mul", x.name, name) if "Global" in op else name, x.width, x.side)


@PIECES.add(MICROSOFT + "MatMulNBits")
def few_bits(g: Composer, op: str) -> None:
    """A matrix of 4 or 8 bits in blocks of 16 inputs, the last one full or not."""
    x, inner, out, packed = g.pick(), g.choose(32, 40), g.choose(4, 6), g.choose(4, 8)
    blocks = -(-inner // 16)
    wide = g.emit("MatMul", g.tokens(x), g.weight(x.width, inner))
    stored = g.rng.integers(0, 255, (out, blocks, 16 * packed // 8)).astype(np.uint8)
    inputs = [g.store(stored), g.store(g.rng.uniform(0.001, 0.01, (out, blocks)).astype(np.float32))]
    kind = g.choose("plain", "zeros", "bias", "flat")
    if kind == "zeros":
        columns = blocks if packed == 8 else (blocks + 1) // 2
        inputs.append(g.store(g.rng.integers(0, 255, (out, columns)).astype(np.uint8)))
    elif kind == "bias":
        inputs += ["", "", g.weight(out)]
    elif kind == "flat":
        inputs[1] = g.store(g.rng.uniform(0.001, 0.01, out * blocks).astype(np.float32))
    g.untoken(g.emit(op, wide, *inputs, K=inner, N=out, bits=packed, block_size=16), out, x.side)
