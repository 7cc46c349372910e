"""Statistics of samples: monoids, so that shards can be merged in any order, and arrays that a file can keep.

Each is a dataclass of arrays and numbers. Maxima merge exactly; sums merge to float64 rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxpfp.errors import CalibrationError

__all__ = [
    "OpStatistics",
    "SampleSum",
    "Statistic",
    "Statistics",
    "merged",
    "statistic_arrays",
    "statistics_of",
]


class Statistic(Protocol):
    """A dataclass of arrays and numbers: what is known of some samples."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def merge(self, other: Self) -> Self:
        """Return the statistic of both sets of samples."""
        ...


S = TypeVar("S", bound=Statistic)


@dataclass(frozen=True, slots=True, eq=False)
class OpStatistics:
    """Statistics of one linear op.

    Attributes:
        channels: Channel ids that have a score, ascending, (n,) int64.
        sensitivity: Largest share that each channel ever took, (n,) float64 in [0, 1].
        patch_sum: Sum over samples and output positions of every unfolded input entry, padding zeros included,
            (C, k) float64, for ALL indices of the contracted axis. Zeros for a product.
        square_sum: Sum over samples and positions of the squared input, (C,) float64, for ALL indices.
        patches: Number of (sample, position) pairs in that sum.
        negative: Whether the data had a negative entry: four sign quadrants instead of two.
        samples: Number of samples seen.
    """

    channels: NDArray[np.int64]
    sensitivity: NDArray[np.float64]
    patch_sum: NDArray[np.float64]
    square_sum: NDArray[np.float64]
    patches: int
    negative: bool
    samples: int

    @classmethod
    def empty(cls, channels: NDArray[np.int64], indices: int, kernel_size: int) -> Self:
        """Return the identity of `merge` for a linear op of `indices` x `kernel_size` entries."""
        return cls(
            channels,
            np.zeros(len(channels)),
            np.zeros((indices, kernel_size)),
            np.zeros(indices),
            patches=0,
            negative=False,
            samples=0,
        )

    @property
    def patch_mean(self) -> NDArray[np.float64]:
        """Mean of every unfolded input entry, (C, k) float64; zeros before the first sample."""
        return self.patch_sum / max(1, self.patches)

    def merge(self, other: Self) -> Self:
        """Combine with the statistics of other samples of the same linear op.

        Raises:
            CalibrationError: The two describe different linear ops.
        """
        same_shape = self.patch_sum.shape == other.patch_sum.shape
        if not same_shape or not np.array_equal(self.channels, other.channels):
            raise _not_alike()
        return type(self)(
            self.channels,
            np.maximum(self.sensitivity, other.sensitivity),
            self.patch_sum + other.patch_sum,
            self.square_sum + other.square_sum,
            self.patches + other.patches,
            self.negative or other.negative,
            self.samples + other.samples,
        )


@dataclass(frozen=True, slots=True, eq=False)
class SampleSum:
    """A sum over samples.

    Attributes:
        total: The sum, float64.
        samples: How many.
    """

    total: NDArray[np.float64]
    samples: int

    def merge(self, other: Self) -> Self:
        """Combine with the sum over other samples."""
        return type(self)(self.total + other.total, self.samples + other.samples)

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean; zeros before the first sample."""
        return self.total / max(1, self.samples)


Statistics = Mapping[str, OpStatistics]
"""Statistics of all linear ops of a network, by linear op name."""


def merged(one: Mapping[str, S], two: Mapping[str, S]) -> dict[str, S]:
    """Combine the statistics of two shards by name; what only one of them has is taken over.

    Raises:
        CalibrationError: They are of different networks.
    """
    for name in one.keys() & two.keys():
        if _shapes(one[name]) != _shapes(two[name]):
            raise _not_alike()
    return {**one, **{name: one[name].merge(theirs) if name in one else theirs for name, theirs in two.items()}}


def _shapes(statistic: Statistic) -> list[tuple[int, ...]]:
    return [np.shape(getattr(statistic, part.name)) for part in fields(statistic)]


def _not_alike() -> CalibrationError:
    return CalibrationError(
        "statistics of two different networks cannot be merged",
        hint="merge only statistics that were collected on the same model",
    )


def statistic_arrays(statistics: Mapping[str, Statistic], prefix: str = "") -> dict[str, NDArray[Any]]:
    """Return the arrays of statistics, numbered in their order, for `statistics_of` to make them again."""
    return {
        f"{prefix}{number}.{part.name}": np.asarray(getattr(each, part.name))
        for number, each in enumerate(statistics.values())
        for part in fields(each)
    }


def statistics_of(
    arrays: Mapping[str, NDArray[Any]], names: Sequence[str], kind: type[S], prefix: str = ""
) -> dict[str, S]:
    """Make statistics of the arrays that `statistic_arrays` made of them.

    Args:
        arrays: The arrays.
        names: The names of the statistics, in their order.
        kind: What the statistics are.
        prefix: What stands before the names of the arrays.

    Raises:
        KeyError: An array is missing.
    """
    parts = [part.name for part in fields(kind)]
    return {
        name: kind(**{part: _plain(arrays[f"{prefix}{number}.{part}"]) for part in parts})
        for number, name in enumerate(names)
    }


def _plain(array: NDArray[Any]) -> Any:
    """Return a number as such."""
    return array if array.ndim else array.item()
