"""The subgraph that reduces any contraction of two operands to its sensitivities.

With letters in place of axes, c the contracted one, for each quadrant (s, t) of signs:

    z[out]      = sum over c and all other contracted letters of A_s[..c..] B_t[..c..]
    share[out,c] = the same sum without the one over c, divided by z[out]
    s_c         = max over out of share[out, c]

The shares of several indices of one channel are added before the maximum, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxpfp.calibrate.graph_builder import GraphBuilder, Tensor
from onnxpfp.calibrate.sensitivity.graph_product import chunks_of_indices
from onnxpfp.calibrate.sensitivity.settings import GraphOutputs, SensitivitySettings, inverse, of_products
from onnxpfp.linear.ops import Block, LinearOp

__all__ = ["emit_einsum"]

EINSUM_SINCE = 12
"""First opset with Einsum."""


def emit_einsum(
    builder: GraphBuilder, op: LinearOp, plan: SensitivitySettings, *, nonnegative: bool, other_nonnegative: bool
) -> GraphOutputs:
    """Append the subgraph of one linear op of kind einsum."""
    assert op.other is not None
    ours = builder.signs(builder.numbers(op.data, op.zero), nonnegative=nonnegative)
    theirs = builder.signs(builder.numbers(op.other, op.other_zero), nonnegative=other_nonnegative)
    blocks = op.blocks(single=plan.kernel == "max")
    # Per sample, so that the result does not depend on how the samples are batched.
    axes = list(range(1, len(op.output_shape))) or [0]
    shares: list[Tensor] = []
    slots: list[int] = []
    first: Tensor | None = None
    for pair in ((our, their) for our in ours for their in theirs):
        z = _einsum(builder, pair, op.equation)
        z = z if op.output_shape else builder.reshape(z, [1])
        first = z if first is None else first
        ratio = inverse(builder, z, axes)
        for chunk in chunks_of_indices(op, blocks, plan):
            shares.append(_shares(builder, op, pair, ratio, chunk))
            slots += [block.channel for block in chunk]
    negative = None if nonnegative else builder.largest(ours[1], len(op.data_shape))
    return of_products(builder, shares, slots, first, negative)


def _einsum(builder: GraphBuilder, pair: tuple[Tensor, Tensor], equation: str) -> Tensor:
    if builder.opset >= EINSUM_SINCE:
        return builder.op("Einsum", list(pair), {"equation": equation})
    terms, out = equation.split("->")
    left, right = terms.split(",")
    return _as_matmul(builder, pair, left, right, out)


def _as_matmul(builder: GraphBuilder, pair: tuple[Tensor, Tensor], left: str, right: str, out: str) -> Tensor:
    """Write an Einsum of an old model as MatMul; there it comes from a recurrence or a Gemm.

    Both operands have a letter of their own, and one letter at most is summed.
    """
    inner = "".join(letter for letter in left if letter in right and letter not in out)
    batch = "".join(letter for letter in left if letter in right and letter in out)
    rows = "".join(letter for letter in left if letter not in right)
    columns = "".join(letter for letter in right if letter not in left)
    assert (bool(rows), len(columns), len(inner) <= 1) == (True, 1, True), (left, right, out)
    orders = rows[:-1] + batch + rows[-1] + inner, batch + inner + columns
    one = builder.transpose(pair[0], [left.index(letter) for letter in orders[0]])
    two = builder.transpose(pair[1], [right.index(letter) for letter in orders[1]])
    if not inner:
        one, two = builder.unsqueeze(one, len(orders[0])), builder.unsqueeze(two, len(batch))
    letters = rows[:-1] + batch + rows[-1] + columns
    return builder.transpose(builder.op("MatMul", [one, two]), [letters.index(letter) for letter in out])


def _shares(
    builder: GraphBuilder, op: LinearOp, pair: tuple[Tensor, Tensor], ratio: Tensor, chunk: Sequence[Block]
) -> Tensor:
    """Emit the largest share of every single index, (len(chunk),), or of one block of several, (1,)."""
    terms, out = op.equation.split("->")
    left, right = terms.split(",")
    letter = left[op.axis]
    indices = np.array([index for block in chunk for index in block.indices], dtype=np.int64)
    size = len(op.channels)
    picked = (
        builder.gather(pair[0], indices, size, axis=op.axis),
        builder.gather(pair[1], indices, size, axis=right.index(letter)),
    )
    rank = len(out)
    if len(chunk[0].indices) > 1:
        shares = builder.op("Mul", [_einsum(builder, picked, op.equation), ratio])
        return builder.reshape(builder.largest(shares, max(rank, 1)), [1])
    numerators = _einsum(builder, picked, f"{terms}->{letter}{out}")
    shares = builder.op("Mul", [numerators, ratio])
    return builder.reduce_max(shares, list(range(1, rank + 1))) if rank else shares
