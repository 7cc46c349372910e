"""The subgraph that reduces one linear op with a constant weight to its sensitivities.

With canonical taps V (C, O/g, *kernel) and the signed stack V2 = [V+, V-] (C, 2 O/g, *kernel), for each part t of the
data (a+, a-):

    z[b, i, p] = sum over c, q of V2[c, i, q] u_t[b, c, q, p]            a convolution without bias
    R[b, i, p] = 1 / z, and 0 where z <= guard
    s[block]   = max over b, i, p of  R[b, i, p] * sum over c in block, q of V2[c, i, q] u_t[b, c, q, p]

(The sensitivity of PFP, `onnxpfp.score.pfp`.) Two forms compute the last line:

    rows    Where a block is one entry u (one tap, or kernel="max"), the weight leaves the maximum over positions:
            max_i V2[i] * max_p u[p] R[i, p]. One broadcast Mul and two ReduceMax.
    sums    Otherwise the numerators are one convolution with a group per block.

Blocks are processed in chunks so that no intermediate grows beyond `SensitivitySettings.chunk_bytes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import FLOAT_BYTES
from onnxpfp.calibrate.graph_builder import GraphBuilder, Tensor
from onnxpfp.calibrate.sensitivity.graph_weights import Taps, taps_of
from onnxpfp.calibrate.sensitivity.settings import GraphOutputs, SensitivitySettings, inverse
from onnxpfp.linear.ops import Block, LinearOp

__all__ = ["emit_linear"]


@dataclass(frozen=True, slots=True, eq=False)
class _Linear:
    """A linear op as a convolution: `map` (B, C, *spatial), or (1, C, samples) where a sample has one position."""

    op: LinearOp
    map: Tensor
    taps: Taps
    samples_last: bool
    identity: bool
    rank: int

    @property
    def kernel(self) -> tuple[int, ...]:
        return (1,) if self.samples_last else self.op.kernel

    @property
    def size(self) -> int:
        return math.prod(self.kernel)

    @property
    def outputs(self) -> int:
        """Outputs of one convolution group."""
        return self.taps.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class _Quadrants:
    """One part of the data with both weight signs.

    Attributes:
        data: u_t before unfolding, (B, C, *spatial).
        ratio: R for the sum form, (B, g, 2 O/g, P).
        lines: R for the row form, (g, 2 O/g, B * P).
        columns: u_t for the row form, (C, 1, B * P); None where it must be unfolded first.
    """

    data: Tensor
    ratio: Tensor
    lines: Tensor
    columns: Tensor | None


def emit_linear(builder: GraphBuilder, op: LinearOp, plan: SensitivitySettings, *, nonnegative: bool) -> GraphOutputs:
    """Append the subgraph of one linear op of kind conv, conv_transpose or matmul."""
    linear = _as_convolution(builder, op)
    blocks = op.blocks(single=plan.kernel == "max")
    parts = builder.signs(linear.map, nonnegative=nonnegative)
    sums = _sums(builder, linear, parts)
    quadrants = [_quadrants(builder, linear, part, z, plan) for part, z in zip(parts, sums, strict=True)]
    shares: list[Tensor] = []
    slots: list[int] = []
    for chunk in _chunks(linear, blocks, plan):
        row_form = len(chunk[0].indices) == 1 and _row_form(linear, plan)
        shares += (_rows if row_form else _numerators)(builder, linear, quadrants, chunk)
        repeat = linear.size if row_form else 1
        slots += [block.channel for block in chunk for _ in range(repeat)] * len(parts)
    return GraphOutputs(
        builder.output(builder.join(shares)) if shares else None,
        np.array(slots, dtype=np.int64),
        builder.output(builder.op("Shape", [sums[0]], dtype=np.int64)),
        builder.output(_patch_sum(builder, linear)),
        None if nonnegative else builder.output(builder.largest(parts[1], linear.rank)),
    )


def _as_convolution(builder: GraphBuilder, op: LinearOp) -> _Linear:
    data = builder.numbers(op.data, op.zero)
    taps = taps_of(builder, op)
    rank = len(op.data_shape)
    identity = op.kind == "matmul" or (op.kernel_size == 1 and op.attributes.is_identity)
    positions = math.prod(op.data_shape) // len(op.channels)
    sample_axis = 1 if op.axis == 0 else 0
    samples = op.data_shape[sample_axis] if rank > 1 else 1
    if identity and op.group == 1 and positions == samples:
        # One position per sample: samples become the positions, else every product would be one entry wide.
        order = [axis for axis in range(rank) if axis != op.axis]
        columns = builder.reshape(builder.transpose(data, [*order, op.axis]), [-1, len(op.channels)])
        columns = builder.reshape(builder.transpose(columns, [1, 0]), [1, len(op.channels), -1])
        return _Linear(op, columns, taps, True, True, 3)
    if op.kind != "matmul":
        order = [0, op.axis, *(axis for axis in range(1, rank) if axis != op.axis)]
        return _Linear(op, builder.transpose(data, order), taps, False, identity, rank)
    rest = [axis for axis in range(rank) if axis not in (sample_axis, op.axis)]
    ordered = builder.transpose(data, [sample_axis, op.axis, *rest])
    ordered = builder.reshape(ordered, [0, len(op.channels), -1])
    return _Linear(op, ordered, taps, False, True, 3)


def _convolve(builder: GraphBuilder, linear: _Linear, data: Tensor, weight: Tensor, group: int) -> Tensor:
    op = linear.op
    attributes: dict[str, object] = {"group": group, "kernel_shape": list(linear.kernel)}
    if op.kind != "matmul" and not linear.samples_last:
        attributes |= op.attributes.as_attributes()
    kind = "ConvTranspose" if op.kind == "conv_transpose" else "Conv"
    if linear.samples_last:
        kind = "Conv"
    return builder.op(kind, [data, weight], attributes)


def _is_transposed(linear: _Linear) -> bool:
    return linear.op.kind == "conv_transpose" and not linear.samples_last


def _sums(builder: GraphBuilder, linear: _Linear, parts: Sequence[Tensor]) -> list[Tensor]:
    """Emit z of every part: one convolution, or several of some outputs each where weights are not to be copied."""
    group, outputs, portion = linear.op.group, linear.outputs, linear.taps.portion
    if group > 1 or portion >= outputs:
        weight = _dense(linear, linear.taps.signed())
        return [_convolve(builder, linear, part, weight, group) for part in parts]
    sums: list[list[Tensor]] = [[] for _ in parts]
    for start in range(0, outputs, portion):
        picked = linear.taps.take(np.arange(start, min(start + portion, outputs)), 1)
        weight = _dense(linear, picked.signed())
        for part, pieces in zip(parts, sums, strict=True):
            z = _convolve(builder, linear, part, weight, 1)
            pieces.append(builder.reshape(z, [0, 2, picked.shape[1], -1]))
    return [builder.op("Concat", pieces, {"axis": 2}) for pieces in sums]


def _dense(linear: _Linear, signed: Taps) -> Tensor:
    """Lay V2 (C, 2 O/g, *kernel) out as the weight of the convolution that gives z, groups outermost."""
    if _is_transposed(linear):
        return signed.emit()
    group = linear.op.group
    inputs, outputs = signed.shape[0] // group, signed.shape[1]
    grouped = signed.reshape((group, inputs, outputs, linear.size)).transpose((0, 2, 1, 3))
    return grouped.reshape((group * outputs, inputs, *linear.kernel)).emit()


def _quadrants(
    builder: GraphBuilder, linear: _Linear, part: Tensor, z: Tensor, plan: SensitivitySettings
) -> _Quadrants:
    """Bring R to the layouts of both forms; what is not used is dropped with the export."""
    group, outputs = linear.op.group, linear.outputs
    split = builder.reshape(z, [0, group, 2, outputs, -1])
    ratio = inverse(builder, split, [1, 3] if linear.samples_last else [1, 3, 4])
    ratio = builder.reshape(ratio, [0, group, 2 * outputs, -1])
    lines = builder.reshape(builder.transpose(ratio, [1, 2, 0, 3]), [group, 2 * outputs, -1])
    columns = _columns(builder, part, len(linear.op.channels)) if linear.identity else None
    return _Quadrants(part, ratio, lines, columns)


def _columns(builder: GraphBuilder, data: Tensor, rows: int) -> Tensor:
    """Lay (B, rows, *positions) out as (rows, 1, B * P): long lines are what Mul and ReduceMax like."""
    flat = builder.transpose(builder.reshape(data, [0, rows, -1]), [1, 0, 2])
    return builder.reshape(flat, [rows, 1, -1])


def _row_form(linear: _Linear, plan: SensitivitySettings) -> bool:
    return linear.size == 1 or plan.kernel == "max"


def _chunks(linear: _Linear, blocks: Sequence[Block], plan: SensitivitySettings) -> Iterator[tuple[Block, ...]]:
    """Cut blocks into runs whose intermediates fit; a run has blocks of one form only."""
    shape = linear.op.output_shape
    outputs = linear.outputs * linear.op.group
    positions = max(1, math.prod(shape) // outputs) * plan.batch
    each = 2 * linear.outputs * positions * FLOAT_BYTES
    if _row_form(linear, plan):
        each *= linear.size
    wanted = max(1, plan.chunk_bytes // each, -(-len(blocks) // plan.max_chunks))
    size = max(1, min(wanted, plan.workspace_bytes // each))
    singles = [block for block in blocks if len(block.indices) == 1]
    others = [block for block in blocks if len(block.indices) > 1]
    for run in (singles, others):
        for start in range(0, len(run), size):
            yield tuple(run[start : start + size])


def _per_group(
    builder: GraphBuilder, linear: _Linear, ratio: Tensor, chunk: Sequence[Block], repeat: int, axis: int
) -> Tensor:
    """Line the group axis of R up with the blocks: one entry per block times `repeat`, or one for all."""
    group = linear.op.group
    if group == 1:
        return ratio
    wanted = [block.group for block in chunk for _ in range(repeat)]
    if len(set(wanted)) == 1:
        wanted = wanted[:1]
    return builder.gather(ratio, np.array(wanted, dtype=np.int64), group, axis=axis)


def _rows(
    builder: GraphBuilder, linear: _Linear, quadrants: Sequence[_Quadrants], chunk: Sequence[Block]
) -> list[Tensor]:
    """Emit the row form: for each quadrant the largest share of every (index, tap), (len(chunk) * k,)."""
    indices = np.array([block.indices[0] for block in chunk], dtype=np.int64)
    rows = len(chunk) * linear.size
    signed = linear.taps.take(indices, 0).signed().reshape((len(chunk), 2 * linear.outputs, linear.size))
    weight = signed.transpose((0, 2, 1)).reshape((rows, 2 * linear.outputs)).emit()
    return [_row_shares(builder, linear, quadrant, indices, weight, chunk) for quadrant in quadrants]


def _row_shares(
    builder: GraphBuilder,
    linear: _Linear,
    quadrant: _Quadrants,
    indices: NDArray[np.int64],
    weight: Tensor,
    chunk: Sequence[Block],
) -> Tensor:
    size = len(linear.op.channels)
    if quadrant.columns is not None:
        columns = builder.gather(quadrant.columns, indices, size, axis=0)
    else:
        picked = builder.gather(quadrant.data, indices, size, axis=1)
        columns = _columns(builder, _unfold(builder, linear, picked, len(chunk)), len(chunk) * linear.size)
    lines = _per_group(builder, linear, quadrant.lines, chunk, linear.size, axis=0)
    largest = builder.reduce_max(builder.op("Mul", [columns, lines]), [2])
    return builder.reduce_max(builder.op("Mul", [largest, weight]), [1])


def _numerators(
    builder: GraphBuilder, linear: _Linear, quadrants: Sequence[_Quadrants], chunk: Sequence[Block]
) -> list[Tensor]:
    """Emit the sum form: for each quadrant the largest share of every block, (len(chunk),)."""
    width = max(len(block.indices) for block in chunk)
    indices = np.zeros((len(chunk), width), dtype=np.int64)
    real = np.zeros((len(chunk), width), dtype=np.float32)
    for row, block in enumerate(chunk):
        # Narrow blocks are padded with index 0 at weight 0.
        indices[row, : len(block.indices)] = block.indices
        real[row, : len(block.indices)] = 1
    signed = linear.taps.take(indices.reshape(-1), 0).signed()
    if not real.all():
        signed = signed.times(real.reshape(-1, *[1] * (len(signed.shape) - 1)))
    outputs = 2 * linear.outputs
    if _is_transposed(linear):
        weight = signed.reshape((len(chunk) * width, outputs, *linear.kernel)).emit()
    else:
        grouped = signed.reshape((len(chunk), width, outputs, linear.size)).transpose((0, 2, 1, 3))
        weight = grouped.reshape((len(chunk) * outputs, width, *linear.kernel)).emit()
    size = len(linear.op.channels)
    shares: list[Tensor] = []
    for quadrant in quadrants:
        picked = builder.gather(quadrant.data, indices.reshape(-1), size, axis=1)
        numerators = _convolve(builder, linear, picked, weight, len(chunk))
        numerators = builder.reshape(numerators, [0, len(chunk), outputs, -1])
        ratio = _per_group(builder, linear, quadrant.ratio, chunk, 1, axis=1)
        # Two reductions: each has its fast loop in onnxruntime, axes 0, 2 and 3 together have none.
        largest = builder.reduce_max(builder.op("Mul", [numerators, ratio]), [2, 3])
        shares.append(builder.reduce_max(largest, [0]))
    return shares


def _unfold(builder: GraphBuilder, linear: _Linear, data: Tensor, channels: int) -> Tensor:
    """Return u (B, channels * k, *positions): one one-hot tap per output channel."""
    if linear.identity:
        return data
    size = linear.size
    taps = np.eye(size, dtype=np.float32).reshape(size, 1, *linear.kernel)
    if _is_transposed(linear):
        taps = np.swapaxes(taps, 0, 1)
    weight = builder.constant(np.tile(taps, (channels,) + (1,) * (taps.ndim - 1)))
    return _convolve(builder, linear, data, weight, channels)


def _patch_sum(builder: GraphBuilder, linear: _Linear) -> Tensor:
    """Sum the unfolded input over samples and positions, (C, k): over samples first, that is one map to unfold."""
    channels = len(linear.op.channels)
    summed = builder.reduce_sum(linear.map, [0], keep=True)
    unfolded = builder.reshape(_unfold(builder, linear, summed, channels), [channels, linear.size, -1])
    return builder.reduce_sum(unfolded, [2])
