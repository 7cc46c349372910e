"""What the two ops take that can stand in the place of a layer, as fits of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxpfp.allocation.op_latency import OpLatency

__all__ = ["PairLatencies"]


@dataclass(frozen=True, slots=True)
class PairLatencies:
    """The latencies of pairs of ops of low rank.

    Attributes:
        ops: Those of both ops, by the output of the layer and the cut of its kernel
            (`onnxpfp.pipeline.pair_ops.Factoring.key`). Empty where nothing was measured.
    """

    ops: Mapping[tuple[str, int], tuple[OpLatency, OpLatency]] = field(
        default_factory=dict[tuple[str, int], tuple[OpLatency, OpLatency]]
    )
