"""Matrix products: the contracted axes of both operands are one, the outer axes pass through."""

from __future__ import annotations

import string

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.facts import Bias
from onnxpfp.channels.mac_terms import fused_matrix_terms, gemm_terms, matrix_terms
from onnxpfp.channels.ops.elementwise import broadcast
from onnxpfp.channels.registry import Rules

__all__ = ["RULES", "multiply"]

RULES = Rules()

MATRIX = 2
"""Axes; an operand with more is a stack of matrices."""


@RULES.add("Gemm", "com.microsoft:FusedGemm")
def gemm(n: NodeContext) -> None:
    """Gemm, FusedGemm: A (M, K) or its transpose, B (K, N) or its transpose, C broadcasts to (M, N)."""
    a, b = n.axes(0), n.axes(1)
    a_inner = 0 if n.integer("transA", 0) else 1
    b_inner = 1 if n.integer("transB", 0) else 0
    equation = f"{'km' if a_inner == 0 else 'mk'},{'nk' if b_inner else 'kn'}->mn"
    n.consume(0, a_inner, 1, b_inner, "matrix" if any(n.constant[:2]) else "einsum", equation=equation)
    n.tie(a[a_inner], b[b_inner])
    out = (a[1 - a_inner], b[1 - b_inner])
    if n.has(2):
        broadcast(n, [out, n.axes(2)], n.out_shape())
    n.set(out)


def multiply(n: NodeContext, right: int = 1, zeros: tuple[int, int] | None = None) -> None:
    """Label a product as numpy does it: 1-D operands gain an axis, the axes before the last two broadcast.

    Args:
        n: The node; its input 0 is the left operand.
        right: Position of the right operand.
        zeros: Positions of the operands' zero points.
    """
    a, b = n.axes(0), n.axes(right)
    b_inner = max(len(b) - 2, 0)
    plain = (n.constant[right] and len(b) <= MATRIX) or (n.constant[0] and len(a) <= MATRIX)
    n.consume(0, len(a) - 1, right, b_inner, "matrix" if plain else "product", zeros=zeros)
    n.tie(a[-1], b[b_inner])
    batch_size = max(len(a) - 2, len(b) - 2, 0)
    batch = broadcast(n, [a[:-2], b[:-2]], n.out_shape()[:batch_size])
    n.set((*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ())))


@RULES.add("MatMul")
def matmul(n: NodeContext) -> None:
    """MatMul: rows, columns and batch axes pass, the inner axes are one."""
    multiply(n)


def _order(rank: int, transposed: int, transposed_batch: int) -> list[int]:
    """Return the axes of an operand of FusedMatMul in the order batch axes, rows, columns.

    `transBatch` moves the first axis behind the batch axes, `trans` then swaps the last two.
    """
    order = [*range(1, rank - 1), 0, rank - 1] if transposed_batch else list(range(rank))
    if transposed:
        order[-2:] = order[:-3:-1]
    return order


@RULES.add("com.microsoft:FusedMatMul", "com.microsoft:TransposeMatMul")
def fused_matmul(n: NodeContext) -> None:
    """FusedMatMul, TransposeMatMul: as MatMul of operands whose axes have changed places."""
    a, b = n.axes(0), n.axes(1)
    if min(len(a), len(b)) < MATRIX:
        multiply(n)
        return
    left, right = (
        _order(len(axes), n.integer(f"trans{side}", 0), n.integer(f"transBatch{side}", 0))
        for axes, side in ((a, "A"), (b, "B"))
    )
    batch = max(len(a), len(b)) - 2
    letters = string.ascii_lowercase[:batch]
    terms = [""] * 2
    for number, (axes, order, names) in enumerate(((a, left, "yz"), (b, right, "zw"))):
        named = dict(zip(order, letters[batch + 2 - len(axes) :] + names, strict=True))
        terms[number] = "".join(named[axis] for axis in range(len(axes)))
    plain = (n.constant[1] and len(b) <= MATRIX) or (n.constant[0] and len(a) <= MATRIX)
    equation = f"{','.join(terms)}->{letters}yw"
    n.consume(0, left[-1], 1, right[-2], "matrix" if plain else "einsum", equation=equation)
    n.tie(a[left[-1]], b[right[-2]])
    shape = n.out_shape()[:batch]
    stacks = broadcast(n, [tuple(a[axis] for axis in left[:-2]), tuple(b[axis] for axis in right[:-2])], shape)
    n.set((*stacks, a[left[-2]], b[right[-1]]))


RULES.declare("Gemm", mac_terms=gemm_terms, bias=Bias(2), layout="matrix", linear=True)
RULES.declare("com.microsoft:FusedGemm", mac_terms=gemm_terms, bias=Bias(2), layout="matrix")
RULES.declare("MatMul", mac_terms=matrix_terms, layout="matrix", linear=True)
_FUSED = ("com.microsoft:FusedMatMul", "com.microsoft:TransposeMatMul")
RULES.declare(*_FUSED, mac_terms=fused_matrix_terms, layout="matrix")
RULES.declare("MatMul", *_FUSED, operands=(0, 1))
