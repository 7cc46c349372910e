"""Probe models: the user's network with its outputs replaced by the statistics of its readers.

Of readers that the graph measures itself, nothing leaves onnxruntime but a few numbers each; of screened families it
is the tensor that they read. All share one probe unless their constants together are too large; then there are
several, each cut off behind its last reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.arrays import runs_within
from onnxpfp.calibrate.graph_builder import GraphBuilder
from onnxpfp.calibrate.nonnegative import nonnegative_tensors
from onnxpfp.calibrate.sensitivity.base import not_finite
from onnxpfp.calibrate.sensitivity.graph_einsum import emit_einsum
from onnxpfp.calibrate.sensitivity.graph_linear import emit_linear
from onnxpfp.calibrate.sensitivity.graph_product import emit_product
from onnxpfp.calibrate.sensitivity.settings import GraphOutputs, SensitivitySettings
from onnxpfp.calibrate.statistics import OpStatistics, Statistics
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.ops import FileWeight, LinearOp, output_counts
from onnxpfp.model.edit import forget_axis_names

__all__ = ["CONSTANTS_LIMIT", "Probe", "build_probe", "shard_readers"]

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
        readers: What it measures.
        outputs: Where each reader's results come out, in the same order.
        squares: Output with the summed squared input of each reader, (C,) float32.
        taps: Output with what each family reads, float32.
        nonnegative: Whether that provably has no negative entry.
    """

    model: ModelProto
    readers: tuple[LinearOp, ...]
    outputs: tuple[GraphOutputs, ...]
    squares: tuple[str, ...]
    taps: tuple[str, ...]
    nonnegative: tuple[bool, ...]

    def decode(self, values: Mapping[str, NDArray[Any]], samples: int) -> Statistics:
        """Turn the outputs of one run into statistics.

        Args:
            values: Output arrays by name.
            samples: Number of samples that were fed.

        Raises:
            CalibrationError: The network computes NaN or infinity on the way to a reader.
        """
        return Statistics(
            {
                reader.name: _decode(reader, emitted, squares, values, samples)
                for reader, emitted, squares in zip(self.readers, self.outputs, self.squares, strict=True)
            }
        )


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
    model: ModelProto, readers: Sequence[LinearOp], plan: SensitivitySettings, families: Sequence[OpFamily] = ()
) -> Probe:
    """Build the model that measures `readers` and hands out what families read; the user's model is not changed.

    Raises:
        ModelError: A reader's tensor is not in the main graph.
    """
    builder = GraphBuilder(model)
    nonnegative = nonnegative_tensors(builder.nodes)
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
    return Probe(
        forget_axis_names(builder.export()),
        tuple(readers),
        tuple(outputs),
        tuple(squares),
        tuple(taps[family.lead.data, family.lead.zero] for family in families),
        tuple(family.lead.data in nonnegative and not family.lead.zero for family in families),
    )


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


def _decode(
    reader: LinearOp, emitted: GraphOutputs, squares: str, values: Mapping[str, NDArray[Any]], samples: int
) -> OpStatistics:
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
