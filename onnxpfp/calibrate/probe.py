"""Probe models: the user's network with its outputs replaced by the statistics of its readers.

Of readers that the graph measures itself, nothing leaves onnxruntime but a few numbers each. All share one probe
unless their constants together are too large; then there are several, each cut off behind its last reader.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, ValueInfoProto

from onnxpfp.arrays import Arrays, runs_within
from onnxpfp.calibrate.graph_builder import GraphBuilder
from onnxpfp.calibrate.nonnegative import nonnegative_tensors
from onnxpfp.calibrate.observer import Batch, Observer, Shape, not_finite
from onnxpfp.calibrate.sensitivity.graph_einsum import emit_einsum
from onnxpfp.calibrate.sensitivity.graph_linear import emit_linear
from onnxpfp.calibrate.sensitivity.graph_product import emit_product
from onnxpfp.calibrate.sensitivity.settings import GraphOutputs, SensitivitySettings
from onnxpfp.calibrate.statistics import OpStatistics, merged
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.ops import FileWeight, LinearOp, output_counts
from onnxpfp.model.edit import forget_axis_names

__all__ = ["CONSTANTS_LIMIT", "GraphObserver", "Probe", "build_probe", "shard_readers"]

CONSTANTS_LIMIT = 512 << 20
"""Bytes of weights that the readers of one probe may add."""

_IN_GRAPH = 4
"""Most readers of one probe whose weights it reads in the graph."""

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
        readers: What it measures.
        outputs: Where each reader's results come out, in the same order.
        squares: Output with the summed squared input of each reader, (C,) float32.
    """

    readers: tuple[LinearOp, ...]
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
            CalibrationError: The network computes NaN or infinity on the way to a reader.
        """
        new = {
            reader.name: _decode(reader, emitted, squares, tensors, batch.samples)
            for reader, emitted, squares in zip(self.readers, self.outputs, self.squares, strict=True)
        }
        self._statistics = merged(self._statistics, new)

    def statistics(self) -> dict[str, OpStatistics]:
        """Return what was measured of every reader."""
        return self._statistics


def shard_readers(readers: Sequence[LinearOp]) -> Iterator[tuple[LinearOp, ...]]:
    """Cut readers into runs whose constants fit one probe, in the given order.

    Weights in files mean that memory is scarce: then the copies of one run take no more than the largest weight. A
    weight that the probe reads in the graph needs none, but many nodes.
    """
    sizes = [math.prod(r.weight.shape) for r in readers if isinstance(r.weight, FileWeight)]
    limit = min(CONSTANTS_LIMIT, 4 * max(sizes, default=CONSTANTS_LIMIT))
    return runs_within(((reader, _bytes_added(reader, limit)) for reader in readers), limit)


def _bytes_added(reader: LinearOp, limit: int) -> int:
    weight = reader.weight
    if isinstance(weight, FileWeight) and weight.tensor:
        return limit // _IN_GRAPH
    return 0 if weight is None else _COPIES * 4 * math.prod(weight.shape)


def build_probe(
    model: ModelProto,
    readers: Sequence[LinearOp],
    plan: SensitivitySettings,
    families: Sequence[OpFamily] = (),
    names: Collection[str] = (),
) -> Probe:
    """Build the model that measures `readers`; the user's model is not changed.

    Args:
        model: The user's model.
        readers: What the graph measures.
        plan: How to compute.
        families: What they read comes out, too.
        names: Other tensors that come out, unless they are inputs.

    Raises:
        ModelError: A reader's tensor is not in the main graph.
    """
    builder = GraphBuilder(model)
    nonnegative = nonnegative_tensors(model)
    outputs: list[GraphOutputs] = []
    squares: list[str] = []
    for reader in readers:
        builder.go_behind(_read(reader))
        clean = reader.data in nonnegative and not reader.zero
        if reader.weight is None:
            emit_pair = emit_product if reader.kind == "product" else emit_einsum
            other = reader.other in nonnegative and not reader.other_zero
            emitted = emit_pair(builder, reader, plan, nonnegative=clean, other_nonnegative=other)
        else:
            emitted = emit_linear(builder, reader, plan, nonnegative=clean)
        outputs.append(emitted)
        squares.append(_square_sum(builder, reader))
    taps: dict[tuple[str, str], str] = {}
    for family in families:
        key = family.lead.data, family.lead.zero
        if key not in taps:
            builder.go_behind(key)
            taps[key] = builder.output(builder.made(builder.numbers(*key)))
    for tensor in map(builder.find, names):
        if tensor.inputs:
            builder.output(tensor)
    observer = GraphObserver(tuple(readers), tuple(outputs), tuple(squares))
    shown = tuple(taps[family.lead.data, family.lead.zero] for family in families)
    probe = builder.export()
    # graphsurgeon cannot export a constant as an output.
    constants = [tensor for tensor in model.graph.initializer if tensor.name in names]
    kept = {tensor.name for tensor in probe.graph.initializer}
    probe.graph.initializer.extend(tensor for tensor in constants if tensor.name not in kept)
    probe.graph.output.extend(ValueInfoProto(name=tensor.name) for tensor in constants)
    return Probe(forget_axis_names(probe), observer, shown)


def _read(reader: LinearOp) -> list[str]:
    """List the tensors of the model that the statistics of a reader are computed from."""
    weight = reader.weight.tensor if isinstance(reader.weight, FileWeight) else ""
    return [reader.data, reader.other or "", reader.zero, reader.other_zero, weight]


def _square_sum(builder: GraphBuilder, reader: LinearOp) -> str:
    """Sum the squares of what a reader reads over all axes but the contracted one."""
    data = builder.numbers(reader.data, reader.zero)
    others = [axis for axis in range(len(reader.data_shape)) if axis != reader.axis]
    squared = builder.op("Mul", [data, data])
    return builder.output(builder.reduce_sum(squared, others) if others else squared)


def _decode(reader: LinearOp, emitted: GraphOutputs, squares: str, values: Arrays, samples: int) -> OpStatistics:
    channels = reader.channel_ids
    shares = np.zeros(0) if emitted.shares is None else values[emitted.shares].astype(np.float64)
    patch_sum = np.zeros((len(reader.channels), reader.kernel_size))
    if emitted.patch_sum is not None:
        patch_sum = values[emitted.patch_sum].astype(np.float64)
    if not (np.isfinite(patch_sum).all() and np.isfinite(shares).all()):
        raise not_finite(reader.data, reader.name)
    sensitivity = np.zeros(len(channels))
    np.maximum.at(sensitivity, np.searchsorted(channels, emitted.channels), shares)
    shape = values[emitted.shape]
    # z is (..., outputs * 2 signs, positions) for a weight; a product has no sums to divide.
    outputs = 1 if reader.weight is None else 2 * output_counts(reader)[0]
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
