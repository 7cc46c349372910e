"""What calibration knows about each reader: a monoid, so that shards can be merged in any order.

Maxima merge exactly; sums merge to float64 rounding. The empty `Statistics()` is the identity.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from onnxpfp.errors import CalibrationError

__all__ = ["OpStatistics", "Statistics"]

_FORMAT = "onnxpfp-statistics-2"
_ARRAYS = ("channels", "sensitivity", "patch_sum", "square_sum")


@dataclass(frozen=True, slots=True, eq=False)
class OpStatistics:
    """Statistics of one reader.

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
        """Return the identity of `merge` for a reader of `indices` x `kernel_size` entries."""
        return cls(
            channels,
            np.zeros(len(channels)),
            np.zeros((indices, kernel_size)),
            np.zeros(indices),
            patches=0,
            negative=False,
            samples=0,
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays."""
        numbers = {name: np.array(getattr(self, name)) for name in ("patches", "negative", "samples")}
        return {**{name: getattr(self, name) for name in _ARRAYS}, **numbers}

    def restored(self, state: Mapping[str, NDArray[Any]]) -> Self:
        """Return the statistics of a state."""
        arrays = (state[name] for name in _ARRAYS)
        return type(self)(
            *arrays,
            patches=int(state["patches"]),
            negative=bool(state["negative"]),
            samples=int(state["samples"]),
        )

    @property
    def patch_mean(self) -> NDArray[np.float64]:
        """Mean of every unfolded input entry, (C, k) float64; zeros before the first sample."""
        return self.patch_sum / max(1, self.patches)

    def merge(self, other: Self) -> Self:
        """Combine with the statistics of other samples of the same reader.

        Raises:
            CalibrationError: The two describe different readers.
        """
        same_shape = self.patch_sum.shape == other.patch_sum.shape
        if not same_shape or not np.array_equal(self.channels, other.channels):
            raise CalibrationError(
                "statistics of two different networks cannot be merged",
                hint="merge only statistics that were collected on the same model",
            )
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
class Statistics:
    """Statistics of all readers of a network, by reader name."""

    readers: Mapping[str, OpStatistics] = field(default_factory=lambda: cast("dict[str, OpStatistics]", {}))

    def __getitem__(self, name: str) -> OpStatistics:
        return self.readers[name]

    def __contains__(self, name: object) -> bool:
        return name in self.readers

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)

    def merge(self, other: Self) -> Self:
        """Combine two shards; a reader that only one of them knows is taken over."""
        merged = dict(self.readers)
        for name, theirs in other.readers.items():
            merged[name] = merged[name].merge(theirs) if name in merged else theirs
        return type(self)(merged)

    def save(self, path: str | Path) -> None:
        """Write everything to one `.npz` file, at exactly this path."""
        arrays: dict[str, Any] = {}
        header: list[dict[str, object]] = []
        for position, (name, entry) in enumerate(self.readers.items()):
            header.append(
                {
                    "name": name,
                    "patches": entry.patches,
                    "negative": entry.negative,
                    "samples": entry.samples,
                }
            )
            for key in _ARRAYS:
                arrays[f"{position}.{key}"] = getattr(entry, key)
        document = json.dumps({"format": _FORMAT, "readers": header})
        # An open file keeps numpy from appending a second suffix to the user's path.
        with Path(path).open("wb") as stream:
            np.savez_compressed(stream, header=np.array(document), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CalibrationError: The file is missing or is no statistics file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(_decode(cast("Mapping[str, NDArray[Any]]", file)))
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise CalibrationError(f"{path} is not a statistics file of onnxpfp", hint="collect it again") from error


def _decode(file: Mapping[str, NDArray[Any]]) -> dict[str, OpStatistics]:
    document = json.loads(str(file["header"]))
    if document["format"] != _FORMAT:
        raise ValueError(document["format"])
    return {
        entry["name"]: OpStatistics(
            *(file[f"{position}.{key}"] for key in _ARRAYS),
            patches=int(entry["patches"]),
            negative=bool(entry["negative"]),
            samples=int(entry["samples"]),
        )
        for position, entry in enumerate(document["readers"])
    }
