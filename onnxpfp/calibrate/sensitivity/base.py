"""Statistics of one family of linear ops, as far as the host and a device count them alike."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats
from onnxpfp.calibrate.observer import Observer
from onnxpfp.calibrate.sensitivity.settings import SensitivitySettings
from onnxpfp.calibrate.statistics import OpStatistics
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.im2col import output_sizes, tap_sources
from onnxpfp.linear.ops import LinearOp

__all__ = ["FamilyObserver"]


@dataclass(slots=True, eq=False)
class FamilyObserver(Observer):
    """The running statistics of one family.

    Attributes:
        family: The linear ops.
        plan: How to compute.
        nonnegative: Whether the data provably have no negative entry.
    """

    family: OpFamily
    plan: SensitivitySettings
    nonnegative: bool
    _patches: int = field(default=0, init=False)
    _negative: bool = field(default=False, init=False)
    _samples: int = field(default=0, init=False)

    @property
    def work(self) -> int:
        """Multiplications of one sample."""
        return self.family.work

    @abstractmethod
    def _largest_shares(self, op: LinearOp) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Return channel ids and the largest shares that they took; None where nothing is scored."""

    @abstractmethod
    def _input_sums(self) -> Mapping[tuple[int, ...], Floats]:
        """Return the input summed over samples, by its spatial sizes; () where it is summed over positions, too."""

    @abstractmethod
    def _square_sum(self) -> Floats:
        """Return the summed squares of the input, (C,)."""

    def statistics(self) -> dict[str, OpStatistics]:
        """Return what was measured of every op."""
        return {op.name: self._statistics(op) for op in self.family.ops}

    def _statistics(self, op: LinearOp) -> OpStatistics:
        channels = op.channel_ids
        sensitivity = np.zeros(len(channels))
        largest = self._largest_shares(op)
        if largest is not None:
            scored, shares = largest
            # Rounding of z and of the numerators can put a share a few ulps above one.
            np.maximum.at(sensitivity, np.searchsorted(channels, scored), np.minimum(shares.astype(np.float64), 1.0))
        return OpStatistics(
            channels,
            sensitivity,
            _patch_sum(op, self._input_sums()),
            self._square_sum(),
            patches=self._patches,
            negative=self._negative,
            samples=self._samples,
        )


def _patch_sum(op: LinearOp, sums: Mapping[tuple[int, ...], Floats]) -> Floats:
    """Unfold the summed input and sum it over positions, (C, k)."""
    if () in sums:
        return sums[()]
    patch_sum = np.zeros((len(op.channels), op.kernel_size))
    for sizes, total in sums.items():
        spatial = output_sizes(op, sizes)
        source, inside = tap_sources(op, sizes, spatial, np.arange(math.prod(spatial)))
        flat = total.reshape(len(total), -1)
        for tap in range(op.kernel_size):
            read = source[:, tap] if inside is None else source[inside[:, tap], tap]
            patch_sum[:, tap] += flat[:, read].sum(1)
    return patch_sum
