"""Quantized products: as their counterparts in float, with scales and zero points that follow the axes."""

from __future__ import annotations

from onnxpfp.arrays import Ids
from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.facts import Bias
from onnxpfp.channels.mac_terms import convolution_terms, gemm_terms, matrix_terms
from onnxpfp.channels.ops.convolution import convolve
from onnxpfp.channels.ops.elementwise import broadcast
from onnxpfp.channels.ops.linear import multiply
from onnxpfp.channels.ops.quantization import follow, serve_all
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()


@RULES.add("QLinearConv", "com.microsoft:QLinearConv")
def qlinear_conv(n: NodeContext) -> None:
    """QLinearConv: as Conv; scales and zero points of the filters follow the output channels."""
    axis = len(n.axes(0)) - 1 if n.integer("channels_last", 0) else 1
    follow(n, (4, 5), convolve(n, axis=axis, weight=3, bias=8, zeros=(2, 5)))
    serve_all(n, 1, 2, 6, 7)


@RULES.add("ConvInteger")
def conv_integer(n: NodeContext) -> None:
    """ConvInteger: as Conv; zero points of the filters follow the output channels."""
    follow(n, (3,), convolve(n, bias=len(n.node.input), zeros=(2, 3)))
    serve_all(n, 2)


def _multiply(n: NodeContext, right: int, zeros: tuple[int, int] | None) -> tuple[Ids, Ids]:
    """Label a product of input 0 and input `right`; return the labels of its rows and columns."""
    multiply(n, right, zeros)
    left_rows, right_columns = n.axes(0)[:-1], n.axes(right)
    columns = right_columns[-1] if len(right_columns) > 1 else n.zeros(1)
    return (left_rows[-1] if left_rows else n.zeros(1)), columns


def _rows(n: NodeContext, zero: int, rows: Ids) -> None:
    """Let the zero point (or scale) of the left operand follow its rows.

    With one number per row, no single number stands for zero in the contracted axis, so that stays.
    """
    if n.has(zero) and n.shape(zero) and n.axes(zero)[0].size > 1:
        n.fix(n.axes(0)[-1], "quantizes every row of it by itself")
    follow(n, (zero,), rows)


@RULES.add("MatMulInteger")
def matmul_integer(n: NodeContext) -> None:
    """MatMulInteger: as MatMul; zero points follow rows and columns."""
    rows, columns = _multiply(n, 1, (2, 3))
    _rows(n, 2, rows)
    follow(n, (3,), columns)


@RULES.add("QLinearMatMul")
def qlinear_matmul(n: NodeContext) -> None:
    """QLinearMatMul: as MatMul; scales and zero points follow rows and columns."""
    rows, columns = _multiply(n, 3, (2, 5))
    for position in (1, 2):
        _rows(n, position, rows)
    follow(n, (4, 5), columns)
    serve_all(n, 6, 7)


@RULES.add("com.microsoft:MatMulIntegerToFloat")
def matmul_integer_to_float(n: NodeContext) -> None:
    """MatMulIntegerToFloat: as MatMulInteger; scales and bias follow the columns, too."""
    rows, columns = _multiply(n, 1, (4, 5))
    for position in (2, 4):
        _rows(n, position, rows)
    follow(n, (3, 5, 6), columns)


@RULES.add("com.microsoft:DynamicQuantizeMatMul")
def dynamic_quantize_matmul(n: NodeContext) -> None:
    """DynamicQuantizeMatMul: as MatMul. The range includes 0 always, so zeros before it equal removal."""
    _, columns = _multiply(n, 1, (len(n.node.input), 3))
    for axis, labels in enumerate(n.axes(0)[:-1]):
        n.mask(0, axis, labels)
    follow(n, (2, 3, 4), columns)


@RULES.add("com.microsoft:QGemm")
def qgemm(n: NodeContext) -> None:
    """QGemm: as Gemm; scales and zero points of B and the bias follow the columns."""
    a, b = n.axes(0), n.axes(3)
    a_inner = 0 if n.integer("transA", 0) else 1
    b_inner = 1 if n.integer("transB", 0) else 0
    if n.constant[3]:
        n.consume(0, a_inner, 3, b_inner, "matrix", zeros=(2, 5))
    else:
        n.fix(a[a_inner], "multiplies it by a matrix that is computed")
    n.tie(a[a_inner], b[b_inner])
    columns = b[1 - b_inner]
    serve_all(n, 1, 2, 7, 8)
    follow(n, (4, 5), columns)
    out = (a[1 - a_inner], columns)
    if n.has(6):
        broadcast(n, [out, n.axes(6)], n.out_shape())
    n.set(out)


@RULES.add("com.microsoft:MatMulNBits")
def matmul_nbits(n: NodeContext) -> None:
    """MatMulNBits: a MatMul by a matrix of few bits. Outputs are free; inputs go in whole blocks.

    B is (N, blocks, bytes), scales are (N, blocks) or flat, zero points (N, packed blocks) or flat, or of the scales'
    type and shape. Flat ones cannot lose a block of all rows, so there the inputs stay.
    """
    if n.integer("weight_prepacked", 0):
        n.keep_all("packs its weight for one kind of processor")
        return
    x, b = n.axes(0), n.axes(1)
    size = n.integer("block_size", 32)
    inputs = x[-1]
    n.consume(0, len(x) - 1, 1, 1, "packed")
    n.fix(b[2], "packs the inputs of a block in it")
    n.tie(inputs, b[1].repeat(size)[: inputs.size])
    n.size_ref("N", None, b[0])
    n.size_ref("K", None, inputs)
    if n.has(4):
        n.fix(inputs, "orders it in blocks of its own")
    for position in (2, 3):
        if n.has(position):
            _blocks(n, position, b[0], b[1])
    follow(n, (5,), b[0])
    n.set((*x[:-1], b[0]))


def _blocks(n: NodeContext, position: int, outputs: Ids, blocks: Ids) -> None:
    """Let scales or zero points of blocks follow outputs and blocks.

    Several zero points that share a byte go together, so that those behind them stay in their bits.
    """
    own = n.axes(position)
    if len(own) == 1:
        if own[0].size > outputs.size:
            n.fix(blocks, "keeps numbers of its blocks in one flat tensor")
        n.tie(own[0].reshape(outputs.size, -1), outputs[:, None])
        return
    n.tie(own[0], outputs)
    shared = 1 if own[1].size == blocks.size else 8 // n.integer("bits", 4)
    n.tie(own[1].repeat(shared)[: blocks.size], blocks)


RULES.declare("QLinearConv", "com.microsoft:QLinearConv", mac_terms=convolution_terms(3), bias=Bias(8, "steps"))
RULES.declare("ConvInteger", mac_terms=convolution_terms(1))
RULES.declare("MatMulInteger", mac_terms=matrix_terms, operands=(0, 1))
RULES.declare("QLinearMatMul", mac_terms=matrix_terms, operands=(0, 3))
RULES.declare("com.microsoft:DynamicQuantizeMatMul", "com.microsoft:MatMulIntegerToFloat", mac_terms=matrix_terms)
RULES.declare("com.microsoft:QGemm", mac_terms=gemm_terms, bias=Bias(6, "steps"))
RULES.declare("com.microsoft:MatMulNBits", mac_terms=matrix_terms, bias=Bias(5, "packed"))
