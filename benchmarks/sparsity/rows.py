"""The rows of the benchmark of single weights, one JSON object a line; of rows with one key the last one counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.row_kinds import Key, RowKinds

__all__ = ["Accuracy", "Bounds", "append", "compact", "read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """One network whose weights became zeros in one way, never trained after it.

    Attributes:
        network: A key of `benchmarks.accuracy.networks.NETWORKS`.
        way: How the weights were chosen.
        keep: Share of the weights that was asked for.
        seed: Of the calibration images, and of what is drawn.
        kept: Share of the weights that are not zero in the file.
        before: Percentage of test images that the original names rightly.
        after: Percentage that the file names rightly.
        compressed: Bytes of the file once compressed by zlib, as a share of the original's.
        seconds: Processor seconds of the call; of magnitudes None.
    """

    network: str
    way: str
    keep: float
    seed: int
    kept: float
    before: float
    after: float
    compressed: float
    seconds: float | None = None

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return self.network, self.way, self.keep, self.seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How often the errors of layers are above their printed bounds, over inputs that the call has not seen.

    Attributes:
        layers: What they are: "random" or a network.
        select: How weights were chosen.
        keep: Share of the weights that was asked for.
        delta: As it was given.
        triples: Layers times draws times inputs.
        below: Those whose bound is below 1: where it says anything.
        broken: Those in which a sum of the layer is further off than its bound.
        error: Mean over the triples of the largest relative error of a sum.
        bound: Median of the bounds.
    """

    layers: str
    select: str
    keep: float
    delta: float
    triples: int
    below: int
    broken: int
    error: float
    bound: float

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return self.layers, self.select, self.keep, self.delta


def _stored(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


_KINDS: RowKinds[Accuracy | Bounds] = RowKinds((Accuracy, Bounds), _stored)
read, append, compact = _KINDS.read, _KINDS.append, _KINDS.compact
