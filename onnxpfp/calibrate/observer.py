"""Observers: statistics of a network's tensors, collected while it runs over samples (`onnxpfp.calibrate.runner`).

Every statistic is a monoid: those of shards of the samples merge to that of all samples, a file keeps them, and what
is drawn at random is decided by the number of a sample among all samples, never by how samples are batched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from onnxpfp.arrays import Arrays
from onnxpfp.calibrate.statistics import Statistic
from onnxpfp.errors import CalibrationError

__all__ = ["Batch", "Observer", "Shape", "not_finite"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """The samples of one run of the network.

    Attributes:
        first: Number of the first one among all samples, those of other shards counted too.
        samples: How many there are.
    """

    first: int
    samples: int

    def first_row(self, rows: int) -> int:
        """Return the number of the first of a tensor's rows, where each sample has as many, such as windows."""
        return self.first * rows // self.samples


class Observer(ABC):
    """Collects statistics of some tensors, batch by batch; one thread at a time works on it."""

    @property
    @abstractmethod
    def needs(self) -> Mapping[str, Shape]:
        """The tensors that it looks at: shapes for one sample, by name."""

    @property
    @abstractmethod
    def work(self) -> int:
        """Multiplications of one sample, roughly."""

    @abstractmethod
    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in.

        Args:
            tensors: What it needs, and others; their memory has other numbers after the call.
            batch: The samples that they belong to.

        Raises:
            CalibrationError: There is NaN or infinity where that cannot be.
        """

    @abstractmethod
    def statistics(self) -> Mapping[str, Statistic]:
        """Return what was collected, by the name of what it is of."""


def not_finite(tensor: str) -> CalibrationError:
    """Return the error of a network that computes NaN or infinity at a tensor."""
    return CalibrationError(
        f"the network computes NaN or infinity at {tensor!r}",
        hint="give samples that are prepared as in training; noise is not what every network takes",
    )
