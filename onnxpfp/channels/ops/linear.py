"""Matrix products: the contracted axes of both operands are one, the outer axes pass through."""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.ops.elementwise import broadcast
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()

MATRIX = 2
"""Axes; an operand with more is a stack of matrices."""


@RULES.add("Gemm")
def gemm(n: NodeContext) -> None:
    """Gemm: A (M, K) or its transpose, B (K, N) or its transpose, C broadcasts to (M, N)."""
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


@RULES.add("MatMul")
def matmul(n: NodeContext) -> None:
    """MatMul as numpy does it: 1-D operands gain an axis, the axes before the last two broadcast."""
    a, b = n.axes(0), n.axes(1)
    b_inner = max(len(b) - 2, 0)
    plain = (n.constant[1] and len(b) <= MATRIX) or (n.constant[0] and len(a) <= MATRIX)
    n.consume(0, len(a) - 1, 1, b_inner, "matrix" if plain else "product")
    n.tie(a[-1], b[b_inner])
    batch_size = max(len(a) - 2, len(b) - 2, 0)
    batch = broadcast(n, [a[:-2], b[:-2]], n.out_shape()[:batch_size])
    n.set((*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ())))
