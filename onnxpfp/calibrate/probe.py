"""Probe models: the user's network with its outputs replaced by the statistics of its linear ops.

Of linear ops that the graph measures itself, nothing leaves onnxruntime but a few numbers each. All share one probe
unless their constants together are too large; then there are several, each cut off behind its last linear op.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, ValueInfoProto

from onnxpfp.arrays import Arrays, runs_within
from onnxpfp.calibrate.graph_builder import GraphBuilder
from onnxpfp.calibrate.observer import Batch, Observer, Shape, not_finite
from onnxpfp.calibrate.sensitivity.graph_einsum import emit_einsum
from onnxpfp.calibrate.sensitivity.graph_linear import emit_linear
from onnxpfp.calibrate.sensitivity.graph_product import emit_product
from onnxpfp.calibrate.sensitivity.settings import GraphOutputs, SensitivitySettings
from onnxpfp.calibrate.statistics import OpStatistics, merged
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.ops import FileWeight, LinearOp, output_counts
from onnxpfp.model.edit import forget_records

__all__ = ["CONSTANTS_LIMIT", "GraphObserver", "Probe", "build_probe", "shard_ops"]

CONSTANTS_LIMIT = 512 << 20
"""Bytes of weights that the linear ops of one probe may add."""

_IN_GRAPH = 4
"""Most linear ops of one probe whose weights it reads in the graph."""

_COPIES = 4
"""Signed weights of the sums and of the numerators, two signs each."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A probe model and how to read its outputs.

    Attributes:
        model: To be run on the user's inputs.
        observer: Decodes what is measured inside.
        taps: Output with what each family reads, float32.
    """

    model: ModelProto
    observer: GraphObserver
    taps: tuple[str, ...]


@dataclass(slots=True, eq=False)
class GraphObserver(Observer):
    """Adds up what a probe measures itself.

    Attributes:
        ops: What it measures.
        outputs: Where each linear op's results come out, in the same order.
        squares: Output with the summed squared input of each linear op, (C,) float32.
    """

    ops: tuple[LinearOp, ...]
    outputs: tuple[GraphOutputs, ...]
    squares: tuple[str, ...]
    _statistics: dict[str, OpStatistics] = field(default_factory=dict[str, OpStatistics], init=False)

    @property
    def needs(self) -> Mapping[str, Shape]:
        """The outputs: a few numbers each."""
        named = [(each.shares, each.shape, each.patch_sum, each.negative) for each in self.outputs]
        return dict.fromkeys((name for names in (*named, self.squares) for name in names if name is not None), ())

    @property
    def work(self) -> int:
        """None that counts: all was done inside."""
        return 0

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Decode and count one batch in.

        Raises:
            CalibrationError: The network computes NaN or infinity on the way to a linear op.
        """
        new = {
            op.name: _decode(op, emitted, squares, tensors, batch.samples)
            for op, emitted, squares in zip(self.ops, self.outputs, self.squares, strict=True)
        }
        self._statistics = merged(self._statistics, new)

    def statistics(self) -> dict[str, OpStatistics]:
        """Return what was measured of every linear op."""
        return self._statistics


def shard_ops(ops: Sequence[LinearOp]) -> Iterator[tuple[LinearOp, ...]]:
    """Cut linear ops into runs whose constants fit one probe, in the given order.

    Weights in files mean that memory is scarce: then the copies of one run take no more than the largest weight. A
    weight that the probe reads in the graph needs none, but many nodes.
    """
    sizes = [math.prod(r.weight.shape) for r in ops if isinstance(r.weight, FileWeight)]
    limit = min(CONSTANTS_LIMIT, 4 * max(sizes, default=CONSTANTS_LIMIT))
    return runs_within(((op, _bytes_added(op, limit)) for op in ops), limit)


def _bytes_added(op: LinearOp, limit: int) -> int:
    weight = op.weight
    if isinstance(weight, FileWeight) and weight.tensor:
        return limit // _IN_GRAPH
    return 0 if weight is None else _COPIES * 4 * math.prod(weight.shape)


def build_probe(
    model: ModelProto,
    ops: Sequence[LinearOp],
    plan: SensitivitySettings,
    families: Sequence[OpFamily] = (),
    names: Collection[str] = (),
    nonnegative: Collection[str] = (),
) -> Probe:
    """Build the model that measures `ops`; the user's model is not changed.

    Args:
        model: The user's model.
        ops: What the graph measures.
        plan: How to compute.
        families: What they read comes out, too.
        names: Other tensors that come out, unless they are inputs.
        nonnegative: Tensors that provably have no negative entry: ops that read them take half of the work.

    Raises:
        ModelError: A linear op's tensor is not in the main graph.
    """
    builder = GraphBuilder(model)
    outputs: list[GraphOutputs] = []
    squares: list[str] = []
    for op in ops:
        builder.go_behind(_read(op))
        clean = op.data in nonnegative and not op.zero
        if op.weight is None:
            emit_pair = emit_product if op.kind == "product" else emit_einsum
            other = op.other in nonnegative and not op.other_zero
            emitted = emit_pair(builder, op, plan, nonnegative=clean, other_nonnegative=other)
        else:
            emitted = emit_linear(builder, op, plan, nonnegative=clean)
        outputs.append(emitted)
        squares.append(_square_sum(builder, op))
    taps: dict[tuple[str, str], str] = {}
    for family in families:
        key = family.lead.data, family.lead.zero
        if key not in taps:
            builder.go_behind(key)
            taps[key] = builder.output(builder.made(builder.numbers(*key)))
    for tensor in map(builder.find, names):
        if tensor.inputs:
            builder.output(tensor)
    observer = GraphObserver(tuple(ops), tuple(outputs), tuple(squares))
    shown = tuple(taps[family.lead.data, family.lead.zero] for family in families)
    probe = builder.export()
    # graphsurgeon forgets metadata, and cannot export a constant as an output.
    probe.metadata_props.extend(model.metadata_props)
    constants = [tensor for tensor in model.graph.initializer if tensor.name in names]
    kept = {tensor.name for tensor in probe.graph.initializer}
    probe.graph.initializer.extend(tensor for tensor in constants if tensor.name not in kept)
    probe.graph.output.extend(ValueInfoProto(name=tensor.name) for tensor in constants)
    return Probe(forget_records(probe), observer, shown)


def _read(op: LinearOp) -> list[str]:
    """List the tensors of the model that the statistics of a linear op are computed from."""
    weight = op.weight.tensor if isinstance(op.weight, FileWeight) else ""
    return [op.data, op.other or "", op.zero, op.other_zero, weight]


def _square_sum(builder: GraphBuilder, op: LinearOp) -> str:
    """Sum the squares of what a linear op reads over all axes but the contracted one."""
    data = builder.numbers(op.data, op.zero)
    others = [axis for axis in range(len(op.data_shape)) if axis != op.axis]
    squared = builder.op("Mul", [data, data])
    return builder.output(builder.reduce_sum(squared, others) if others else squared)


def _decode(op: LinearOp, emitted: GraphOutputs, squares: str, values: Arrays, samples: int) -> OpStatistics:
    channels = op.channel_ids
    shares = np.zeros(0) if emitted.shares is None else values[emitted.shares].astype(np.float64)
    patch_sum = np.zeros((len(op.channels), op.kernel_size))
    if emitted.patch_sum is not None:
        patch_sum = values[emitted.patch_sum].astype(np.float64)
    if not (np.isfinite(patch_sum).all() and np.isfinite(shares).all()):
        raise not_finite(op.data)
    sensitivity = np.zeros(len(channels))
    np.maximum.at(sensitivity, np.searchsorted(channels, emitted.channels), shares)
    shape = values[emitted.shape]
    # z is (..., outputs * 2 signs, positions) for a weight; a product has no sums to divide.
    outputs = 1 if op.weight is None else 2 * output_counts(op)[0]
    return OpStatistics(
        channels,
        # Rounding of z and of the numerators can put a share a few ulps above one.
        np.minimum(sensitivity, 1.0),
        patch_sum,
        values[squares].astype(np.float64),
        patches=int(np.prod(shape)) // outputs,
        negative=emitted.negative is not None and bool(values[emitted.negative].max() > 0),
        samples=samples,
    )
