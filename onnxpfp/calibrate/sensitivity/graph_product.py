"""The subgraph that reduces a product of two activations (Q K^T, attention times V) to its sensitivities.

Both operands are split by sign. With A (..., M, C) on the left and B (..., C, N) on the right, for each
quadrant (s, t):

    z[m, n] = sum over c of A_s[m, c] B_t[c, n]
    s_c     = max over batch, m of A_s[m, c] * (max over n of B_t[c, n] / z[m, n])

Either operand may be the data; the shares are symmetric. The shares of several indices of one channel are added before
the maximum, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import FLOAT_BYTES
from onnxpfp.calibrate.graph_builder import GraphBuilder, Tensor
from onnxpfp.calibrate.sensitivity.settings import GraphOutputs, SensitivitySettings, inverse, of_products
from onnxpfp.linear.ops import Block, LinearOp

__all__ = ["chunks_of_indices", "emit_product"]


@dataclass(frozen=True, slots=True, eq=False)
class _Sides:
    """One quadrant: left (..., M, C) and right (..., C, N), their ranks, and C."""

    left: Tensor
    right: Tensor
    left_rank: int
    right_rank: int
    size: int

    @property
    def rank(self) -> int:
        return max(self.left_rank, self.right_rank)


def emit_product(
    builder: GraphBuilder, op: LinearOp, plan: SensitivitySettings, *, nonnegative: bool, other_nonnegative: bool
) -> GraphOutputs:
    """Append the subgraph of one linear op of kind product."""
    assert op.other is not None
    assert op.other_shape is not None
    ours = builder.signs(builder.numbers(op.data, op.zero), nonnegative=nonnegative)
    theirs = builder.signs(builder.numbers(op.other, op.other_zero), nonnegative=other_nonnegative)
    shapes = (op.data_shape, op.other_shape)
    left_shape, right_shape = shapes[::-1] if op.data_on_right else shapes
    blocks = op.blocks(single=plan.kernel == "max")
    shares: list[Tensor] = []
    slots: list[int] = []
    first: Tensor | None = None
    for our in ours:
        for their in theirs:
            pair = (their, our) if op.data_on_right else (our, their)
            left, right = _matrices(builder, pair, (left_shape, right_shape))
            z = builder.op("MatMul", [left, right])
            first = z if first is None else first
            sides = _Sides(left, right, max(2, len(left_shape)), max(2, len(right_shape)), len(op.channels))
            ratio = inverse(builder, z, list(range(1, sides.rank)))
            for chunk in chunks_of_indices(op, blocks, plan):
                build = _rows if len(chunk[0].indices) == 1 else _sum
                shares.append(build(builder, sides, ratio, chunk))
                slots += [block.channel for block in chunk]
    negative = None if nonnegative else builder.largest(ours[1], len(op.data_shape))
    return of_products(builder, shares, slots, first, negative)


def _matrices(
    builder: GraphBuilder, pair: tuple[Tensor, Tensor], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> tuple[Tensor, Tensor]:
    """Give vectors the second axis that MatMul only imagines."""
    left = pair[0] if len(shapes[0]) > 1 else builder.unsqueeze(pair[0], 0)
    right = pair[1] if len(shapes[1]) > 1 else builder.unsqueeze(pair[1], 1)
    return left, right


def chunks_of_indices(op: LinearOp, blocks: Sequence[Block], plan: SensitivitySettings) -> Iterator[tuple[Block, ...]]:
    """Cut single indices into runs whose intermediates fit; a block of several indices is a run of its own."""
    each = max(1, math.prod(op.output_shape)) * plan.batch * FLOAT_BYTES
    wanted = max(1, plan.chunk_bytes // each, -(-len(blocks) // plan.max_chunks))
    size = max(1, min(wanted, plan.workspace_bytes // each))
    singles = [block for block in blocks if len(block.indices) == 1]
    for start in range(0, len(singles), size):
        yield tuple(singles[start : start + size])
    for block in blocks[len(singles) :]:
        yield (block,)


def _pick(builder: GraphBuilder, sides: _Sides, chunk: Sequence[Block]) -> tuple[Tensor, Tensor]:
    indices = np.array([index for block in chunk for index in block.indices], dtype=np.int64)
    return (
        builder.gather(sides.left, indices, sides.size, axis=sides.left_rank - 1),
        builder.gather(sides.right, indices, sides.size, axis=sides.right_rank - 2),
    )


def _rows(builder: GraphBuilder, sides: _Sides, ratio: Tensor, chunk: Sequence[Block]) -> Tensor:
    """Emit the largest share of every index, (len(chunk),)."""
    left, right = _pick(builder, sides, chunk)
    order = [*range(sides.left_rank - 2), sides.left_rank - 1, sides.left_rank - 2]
    shares = builder.op(
        "Mul",
        [
            builder.unsqueeze(right, sides.right_rank - 1),
            builder.unsqueeze(ratio, sides.rank - 2),
        ],
    )
    largest = builder.reduce_max(shares, [sides.rank])
    largest = builder.op("Mul", [largest, builder.transpose(left, order)])
    return builder.reduce_max(largest, [axis for axis in range(sides.rank) if axis != sides.rank - 2])


def _sum(builder: GraphBuilder, sides: _Sides, ratio: Tensor, chunk: Sequence[Block]) -> Tensor:
    """Emit the largest share of one block of several indices, (1,)."""
    left, right = _pick(builder, sides, chunk)
    shares = builder.op("Mul", [builder.op("MatMul", [left, right]), ratio])
    return builder.reshape(builder.reduce_max(shares, list(range(sides.rank)), keep=True), [1])
