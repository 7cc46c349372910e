"""The subgraph that reduces one reader with a constant weight to its sensitivities.

With canonical taps V (C, O/g, *kernel) and the signed stack V2 = [V+, V-] (C, 2 O/g, *kernel), for each part t of the
data (a+, a-):

    z[b, i, p] = sum over c, q of V2[c, i, q] u_t[b, c, q, p]            one convolution, no bias
    R[b, i, p] = 1 / z, and 0 where z <= guard
    s[block]   = max over b, i, p of  R[b, i, p] * sum over c in block, q of V2[c, i, q] u_t[b, c, q, p]

(PFP, algorithms.md 1.1 and 1.2.) Two forms compute the last line:

    rows    Where a block is one entry u (one tap, or kernel="max"), the weight leaves the maximum over positions:
            max_i V2[i] * max_p u[p] R[i, p]. One broadcast Mul and two ReduceMax.
    sums    Otherwise the numerators are one convolution with a group per block.

Blocks are processed in chunks so that no intermediate grows beyond `Plan.chunk_bytes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxpfp.calibrate.emit import Emitter, Tensor
from onnxpfp.calibrate.reader import Block, Reader

__all__ = ["EPSILON", "Emitted", "Guard", "Kernel", "Plan", "emit_linear", "inverse"]

Kernel = Literal["sum", "max"]
Guard = Literal["relative", "absolute"]

EPSILON = float(np.finfo(np.float32).eps)
_FLOAT = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How to compute.

    Attributes:
        kernel: "sum" adds a channel's products over the kernel, which the bound needs; "max" is the authors' code.
        guard: "relative" to the largest z of a sample, or the authors' "absolute" float32 epsilon.
        batch: Samples in one run.
        chunk_bytes: Aimed-at size of one intermediate.
        max_chunks: Most chunks of one reader; it keeps the graph small, `workspace_bytes` goes before it.
        workspace_bytes: Limit of one intermediate, as far as one channel at a time can keep it.
    """

    kernel: Kernel = "sum"
    guard: Guard = "relative"
    batch: int = 1
    chunk_bytes: int = 1 << 20
    max_chunks: int = 64
    workspace_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Emitted:
    """Where a reader's results come out.

    Attributes:
        shares: Output with the largest share of every slot, (slots,) float32; None where nothing is scored.
        channels: Channel id of every slot, (slots,).
        shape: Output with the shape of z, int64.
        patch_sum: Output with the summed unfolded input, (C, k) float32; None for a product.
        negative: Output with the largest magnitude of a negative entry; None if there can be none.
    """

    shares: str | None
    channels: NDArray[np.int64]
    shape: str
    patch_sum: str | None
    negative: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _Linear:
    """A reader as a convolution: `map` (B, C, *spatial), or (1, C, samples) where a sample has one position."""

    reader: Reader
    map: Tensor
    taps: NDArray[np.float32]
    samples_last: bool
    identity: bool
    rank: int

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.taps.shape[2:]

    @property
    def size(self) -> int:
        return math.prod(self.kernel)


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


def emit_linear(emit: Emitter, reader: Reader, plan: Plan, *, nonnegative: bool) -> Emitted:
    """Append the subgraph of one reader of kind conv, conv_transpose or matmul."""
    linear = _as_convolution(emit, reader)
    signed = np.concatenate([np.maximum(linear.taps, 0), np.maximum(-linear.taps, 0)], axis=1)
    blocks = reader.blocks(single=plan.kernel == "max")
    parts = emit.signs(linear.map, nonnegative=nonnegative)
    sums = [_convolve(emit, linear, part, _dense(linear, signed), reader.group) for part in parts]
    shares: list[Tensor] = []
    slots: list[int] = []
    for part, z in zip(parts, sums, strict=True):
        quadrant = _quadrants(emit, linear, part, z, plan)
        for chunk in _chunks(linear, blocks, plan):
            row_form = len(chunk[0].indices) == 1 and _row_form(linear, plan)
            build = _rows if row_form else _sums
            shares.append(build(emit, linear, quadrant, signed, chunk))
            repeat = linear.size if row_form else 1
            slots += [block.channel for block in chunk for _ in range(repeat)]
    return Emitted(
        emit.output(emit.join(shares)) if shares else None,
        np.array(slots, dtype=np.int64),
        emit.output(emit.op("Shape", [sums[0]], dtype=np.int64)),
        emit.output(_patch_sum(emit, linear)),
        None if nonnegative else emit.output(emit.largest(parts[1], linear.rank)),
    )


def inverse(emit: Emitter, z: Tensor, axes: Sequence[int], guard: Guard) -> Tensor:
    """Return 1 / z, and 0 where z is not above the guard.

    Args:
        emit: Where to append.
        z: Non-negative sums.
        axes: What the largest z of one sample and quadrant is taken over, for the relative guard. Per sample, so that
            the result does not depend on how the samples are batched.
        guard: Relative to that maximum, or absolute.
    """
    limit = emit.constant(np.array(EPSILON, dtype=np.float32))
    if guard == "relative":
        limit = emit.op("Mul", [emit.reduce_max(z, axes, keep=True), limit])
    fires = emit.op("Greater", [z, limit], dtype=np.bool_)
    mask = emit.op("Cast", [fires], {"to": 1})
    one = emit.constant(np.array(1, dtype=np.float32))
    # mask / (z + 1 - mask) is exact where the mask is 1 and never divides by zero; Where needs opset 9.
    return emit.op("Div", [mask, emit.op("Add", [z, emit.op("Sub", [one, mask])])])


def _as_convolution(emit: Emitter, reader: Reader) -> _Linear:
    data = emit.numbers(reader.data, reader.zero)
    taps = reader.taps()
    rank = len(reader.data_shape)
    identity = reader.kind == "matmul" or (reader.kernel_size == 1 and reader.attributes.is_identity)
    positions = math.prod(reader.data_shape) // len(reader.channels)
    sample_axis = 1 if reader.axis == 0 else 0
    samples = reader.data_shape[sample_axis] if rank > 1 else 1
    if identity and reader.group == 1 and positions == samples:
        # One position per sample: samples become the positions, else every product would be one entry wide.
        order = [axis for axis in range(rank) if axis != reader.axis]
        columns = emit.reshape(emit.transpose(data, [*order, reader.axis]), [-1, len(reader.channels)])
        columns = emit.reshape(emit.transpose(columns, [1, 0]), [1, len(reader.channels), -1])
        return _Linear(reader, columns, taps.reshape(*taps.shape[:2], 1), True, True, 3)
    if reader.kind != "matmul":
        return _Linear(reader, data, taps, False, identity, rank)
    rest = [axis for axis in range(rank) if axis not in (sample_axis, reader.axis)]
    ordered = emit.transpose(data, [sample_axis, reader.axis, *rest])
    ordered = emit.reshape(ordered, [0, len(reader.channels), -1])
    return _Linear(reader, ordered, taps, False, True, 3)


def _convolve(emit: Emitter, linear: _Linear, data: Tensor, weight: NDArray[np.float32], group: int) -> Tensor:
    reader = linear.reader
    attributes: dict[str, object] = {"group": group, "kernel_shape": list(linear.kernel)}
    if reader.kind != "matmul" and not linear.samples_last:
        attributes |= reader.attributes.as_attributes()
    kind = "ConvTranspose" if reader.kind == "conv_transpose" else "Conv"
    if linear.samples_last:
        kind = "Conv"
    return emit.op(kind, [data, emit.constant(weight)], attributes)


def _is_transposed(linear: _Linear) -> bool:
    return linear.reader.kind == "conv_transpose" and not linear.samples_last


def _dense(linear: _Linear, signed: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lay V2 (C, 2 O/g, *kernel) out as the weight of the convolution that gives z, groups outermost."""
    if _is_transposed(linear):
        return signed
    grouped = signed.reshape(linear.reader.group, -1, *signed.shape[1:])
    return np.swapaxes(grouped, 1, 2).reshape(-1, grouped.shape[1], *signed.shape[2:])


def _quadrants(emit: Emitter, linear: _Linear, part: Tensor, z: Tensor, plan: Plan) -> _Quadrants:
    """Bring R to the layouts of both forms; what is not used is dropped with the export."""
    group, outputs = linear.reader.group, linear.taps.shape[1]
    split = emit.reshape(z, [0, group, 2, outputs, -1])
    ratio = inverse(emit, split, [1, 3] if linear.samples_last else [1, 3, 4], plan.guard)
    ratio = emit.reshape(ratio, [0, group, 2 * outputs, -1])
    lines = emit.reshape(emit.transpose(ratio, [1, 2, 0, 3]), [group, 2 * outputs, -1])
    columns = _columns(emit, part, len(linear.reader.channels)) if linear.identity else None
    return _Quadrants(part, ratio, lines, columns)


def _columns(emit: Emitter, data: Tensor, rows: int) -> Tensor:
    """Lay (B, rows, *positions) out as (rows, 1, B * P): long lines are what Mul and ReduceMax like."""
    flat = emit.transpose(emit.reshape(data, [0, rows, -1]), [1, 0, 2])
    return emit.reshape(flat, [rows, 1, -1])


def _row_form(linear: _Linear, plan: Plan) -> bool:
    return linear.size == 1 or plan.kernel == "max"


def _chunks(linear: _Linear, blocks: Sequence[Block], plan: Plan) -> Iterator[tuple[Block, ...]]:
    """Cut blocks into runs whose intermediates fit; a run has blocks of one form only."""
    shape = linear.reader.output_shape
    outputs = linear.taps.shape[1] * linear.reader.group
    positions = max(1, math.prod(shape) // outputs) * plan.batch
    each = 2 * linear.taps.shape[1] * positions * _FLOAT
    if _row_form(linear, plan):
        each *= linear.size
    wanted = max(1, plan.chunk_bytes // each, -(-len(blocks) // plan.max_chunks))
    size = max(1, min(wanted, plan.workspace_bytes // each))
    singles = [block for block in blocks if len(block.indices) == 1]
    others = [block for block in blocks if len(block.indices) > 1]
    for run in (singles, others):
        for start in range(0, len(run), size):
            yield tuple(run[start : start + size])


def _per_group(emit: Emitter, linear: _Linear, ratio: Tensor, chunk: Sequence[Block], repeat: int, axis: int) -> Tensor:
    """Line the group axis of R up with the blocks: one entry per block times `repeat`, or one for all."""
    group = linear.reader.group
    if group == 1:
        return ratio
    wanted = [block.group for block in chunk for _ in range(repeat)]
    if len(set(wanted)) == 1:
        wanted = wanted[:1]
    return emit.gather(ratio, np.array(wanted, dtype=np.int64), group, axis=axis)


def _rows(
    emit: Emitter,
    linear: _Linear,
    quadrants: _Quadrants,
    signed: NDArray[np.float32],
    chunk: Sequence[Block],
) -> Tensor:
    """Emit the row form: the largest share of every (index, tap), (len(chunk) * k,)."""
    indices = np.array([block.indices[0] for block in chunk], dtype=np.int64)
    size = len(linear.reader.channels)
    rows = len(chunk) * linear.size
    if quadrants.columns is not None:
        columns = emit.gather(quadrants.columns, indices, size, axis=0)
    else:
        picked = emit.gather(quadrants.data, indices, size, axis=1)
        columns = _columns(emit, _unfold(emit, linear, picked, len(chunk)), rows)
    lines = _per_group(emit, linear, quadrants.lines, chunk, linear.size, axis=0)
    largest = emit.reduce_max(emit.op("Mul", [columns, lines]), [2])
    weight = signed[indices].reshape(len(chunk), signed.shape[1], -1)
    weight = np.swapaxes(weight, 1, 2).reshape(rows, -1)
    return emit.reduce_max(emit.op("Mul", [largest, emit.constant(weight)]), [1])


def _sums(
    emit: Emitter,
    linear: _Linear,
    quadrants: _Quadrants,
    signed: NDArray[np.float32],
    chunk: Sequence[Block],
) -> Tensor:
    """Emit the sum form: the largest share of every block, (len(chunk),)."""
    width = max(len(block.indices) for block in chunk)
    indices = np.zeros((len(chunk), width), dtype=np.int64)
    weight = np.zeros((len(chunk), width, *signed.shape[1:]), dtype=np.float32)
    for row, block in enumerate(chunk):
        # Narrow blocks are padded with index 0 at weight 0.
        indices[row, : len(block.indices)] = block.indices
        weight[row, : len(block.indices)] = signed[list(block.indices)]
    if _is_transposed(linear):
        weight = weight.reshape(-1, *signed.shape[1:])
    else:
        weight = np.swapaxes(weight, 1, 2).reshape(-1, width, *signed.shape[2:])
    size = len(linear.reader.channels)
    picked = emit.gather(quadrants.data, indices.reshape(-1), size, axis=1)
    numerators = _convolve(emit, linear, picked, weight, len(chunk))
    numerators = emit.reshape(numerators, [0, len(chunk), signed.shape[1], -1])
    ratio = _per_group(emit, linear, quadrants.ratio, chunk, 1, axis=1)
    # Two reductions: each has its fast loop in onnxruntime, axes 0, 2 and 3 together have none.
    shares = emit.reduce_max(emit.op("Mul", [numerators, ratio]), [2, 3])
    return emit.reduce_max(shares, [0])


def _unfold(emit: Emitter, linear: _Linear, data: Tensor, channels: int) -> Tensor:
    """Return u (B, channels * k, *positions): one one-hot tap per output channel."""
    if linear.identity:
        return data
    size = linear.size
    taps = np.eye(size, dtype=np.float32).reshape(size, 1, *linear.kernel)
    if _is_transposed(linear):
        taps = np.swapaxes(taps, 0, 1)
    return _convolve(emit, linear, data, np.tile(taps, (channels,) + (1,) * (taps.ndim - 1)), channels)


def _patch_sum(emit: Emitter, linear: _Linear) -> Tensor:
    """Sum the unfolded input over samples and positions, (C, k): over samples first, that is one map to unfold."""
    channels = len(linear.reader.channels)
    summed = emit.reduce_sum(linear.map, [0], keep=True)
    unfolded = emit.reshape(_unfold(emit, linear, summed, channels), [channels, linear.size, -1])
    return emit.reduce_sum(unfolded, [2])
